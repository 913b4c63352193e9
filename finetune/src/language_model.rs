//! [`eval::LanguageModel`] over a [`Model`]: strings to token ids, packs, and numbers back.

use datasets::{Batch, Pack, Template, Tokenized, Tokenizer};
use eval::{
    GenerateRequest, LanguageModel, ModelError, OptionScore, Perplexity, Prompt, ScoreRequest,
};
use kernels::TokenScore;

use crate::Result;
use crate::generate::Ending;
use crate::load::Model;

/// Tokens of one forward pass when scoring: enough rows to keep the matrix products busy.
pub(crate) const TOKENS_AT_ONCE: usize = 2048;

/// Token ids of what comes before the answer.
pub(crate) fn prompt_ids(
    tokenizer: &Tokenizer,
    template: &Template,
    prompt: &Prompt,
) -> Result<Vec<u32>> {
    Ok(match prompt {
        Prompt::Chat(messages) => {
            let pieces = template.render(messages, true)?;
            tokenizer.encode_pieces(&pieces)?.0
        }
        Prompt::Text(text) => tokenizer.encode(text, true)?,
    })
}

/// Requests, in their order, by the packs that they are scored in.
pub(crate) fn packed_together<T>(requests: &[T], tokens: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut packs, mut start) = (Vec::new(), 0);
    while start < requests.len() {
        let (mut end, mut sum) = (start, 0);
        while end < requests.len()
            && (end == start || sum + tokens(&requests[end]) <= TOKENS_AT_ONCE)
        {
            sum += tokens(&requests[end]);
            end += 1;
        }
        packs.push(&requests[start..end]);
        start = end;
    }
    packs
}
/// Tokens that prompts must have in common at their start to share them.
const SHARED_TOKENS: usize = 16;

impl Model {
    /// Token ids of what comes before the answer.
    pub fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        prompt_ids(&self.tokenizer, &self.template, prompt)
    }

    /// Scores whole requests in one pack.
    fn score_pack(&self, requests: &[Encoded]) -> Result<Vec<Vec<OptionScore>>> {
        let Layout {
            pack,
            rows,
            targets,
        } = Layout::of(requests);
        let batch = Batch::from_packs([&pack]);
        let mut scores = self
            .decoder
            .scores_after(&batch, &rows, &targets)?
            .into_iter();
        // Scores come in the order of their targets, so they are dealt out option by option.
        Ok(requests
            .iter()
            .map(|request| {
                let options = request.options.iter().zip(&request.bytes);
                options
                    .map(|(ids, bytes)| option_score(ids.len(), *bytes, &mut scores))
                    .collect()
            })
            .collect())
    }

    /// White space at the end of a text prompt is encoded with the options, as the text of prompt and option together would
    /// be: after "Answer: " comes the token " yes" and not "yes". lm-evaluation-harness does the same.
    fn encode(&self, request: &ScoreRequest) -> Result<Encoded> {
        let (prompt, space) = match &request.prompt {
            Prompt::Text(text) if !text.trim_end().is_empty() => {
                let (text, space) = text.split_at(text.trim_end().len());
                (self.tokenizer.encode(text, true)?, space)
            }
            prompt => (self.prompt_ids(prompt)?, ""),
        };
        let after = |option: &String| {
            let before = prompt.last().copied();
            Ok(self
                .tokenizer
                .encode_after(before, &format!("{space}{option}"))?)
        };
        let options = request.options.iter().map(after);
        let options = options.collect::<Result<Vec<Vec<u32>>>>()?;
        let longest = options.iter().map(Vec::len).max().unwrap_or(0);
        self.hold_to_context(&request.id, prompt.len() + longest)?;
        Ok(Encoded {
            prompt,
            options,
            bytes: request.options.iter().map(String::len).collect(),
        })
    }
}

/// A score request as token ids.
struct Encoded {
    prompt: Vec<u32>,
    options: Vec<Vec<u32>>,
    bytes: Vec<usize>,
}

impl Encoded {
    fn tokens(&self) -> usize {
        self.prompt.len() + self.options.iter().map(Vec::len).sum::<usize>()
    }
}

/// The score of an option from those of its tokens, which come next.
fn option_score(
    tokens: usize,
    bytes: usize,
    scores: &mut impl Iterator<Item = TokenScore>,
) -> OptionScore {
    let mut whole = OptionScore {
        log_prob: 0.0,
        tokens,
        bytes,
        greedy: true,
    };
    for token in scores.take(tokens) {
        whole.log_prob += token.log_prob;
        whole.greedy &= token.greedy;
    }
    whole
}

/// Requests as a pack, and where in it their options' tokens are predicted.
///
/// What is the same is read once: the beginning that all prompts have in common, and a prompt by all of its options. An
/// option's last token is only ever predicted, so an option of one token adds nothing to the pack.
struct Layout {
    pack: Pack,
    /// The row that predicts each target, counted in the pack.
    rows: Vec<usize>,
    /// Every option's tokens, one request after another.
    targets: Vec<u32>,
}

impl Layout {
    fn of(requests: &[Encoded]) -> Self {
        let mut pack = Pack::default();
        let mut push = |ids: &[u32], request: usize, after| {
            let segment = pack.push_segment(ids, &vec![false; ids.len()], request as u64, after);
            (segment, pack.len())
        };
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        let shared = shared_tokens(requests);
        let beginning = requests.first().filter(|_| shared > 0);
        let beginning = beginning.map(|first| push(&first.prompt[..shared], 0, None).0);
        for (number, request) in requests.iter().enumerate() {
            let (prompt, end) = push(&request.prompt[shared..], number, beginning);
            for option in &request.options {
                let Some((_, read)) = option.split_last() else {
                    continue;
                };
                rows.push(end - 1);
                if !read.is_empty() {
                    let (_, end) = push(read, number, Some(prompt));
                    rows.extend(end - read.len()..end);
                }
                targets.extend(option);
            }
        }
        Self {
            pack,
            rows,
            targets,
        }
    }
}

/// How many tokens all prompts begin with, where reading them once pays. None where an option has several tokens: its
/// segment goes on from its prompt's, and a segment that is gone on from begins by itself.
fn shared_tokens(requests: &[Encoded]) -> usize {
    let [first, others @ ..] = requests else {
        return 0;
    };
    let options = || requests.iter().flat_map(|request| &request.options);
    if others.is_empty() || options().any(|option| option.len() > 1) {
        return 0;
    }
    let common = |other: &Encoded| {
        let pairs = first.prompt.iter().zip(&other.prompt);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let shared = others.iter().map(common).min().unwrap_or(0);
    // Each prompt keeps a token of its own, which predicts its options.
    let shortest = requests.iter().map(|request| request.prompt.len()).min();
    let shared = shared.min(shortest.unwrap_or(0).saturating_sub(1));
    if shared < SHARED_TOKENS { 0 } else { shared }
}

impl LanguageModel for Model {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(
        &mut self,
        requests: &[ScoreRequest],
    ) -> std::result::Result<Vec<Vec<OptionScore>>, ModelError> {
        let mut encoded = Vec::with_capacity(requests.len());
        for request in requests {
            encoded.push(
                self.encode(request)
                    .map_err(|e| ModelError::at(&request.id, e))?,
            );
        }
        let mut scores = Vec::with_capacity(requests.len());
        for pack in packed_together(&encoded, Encoded::tokens) {
            scores.extend(self.score_pack(pack).map_err(ModelError::new)?);
        }
        Ok(scores)
    }

    fn generate(
        &mut self,
        requests: &[GenerateRequest],
    ) -> std::result::Result<Vec<String>, ModelError> {
        let mut prompts = Vec::with_capacity(requests.len());
        for request in requests {
            let prompt = self
                .prompt_ids(&request.prompt)
                .and_then(|ids| {
                    self.hold_to_context(&request.id, ids.len() + request.max_new_tokens)?;
                    Ok(ids)
                })
                .map_err(|e| ModelError::at(&request.id, e))?;
            prompts.push(prompt);
        }
        let endings: Vec<Ending> = requests
            .iter()
            .map(|r| Ending {
                max_new_tokens: r.max_new_tokens,
                stop: &r.stop,
            })
            .collect();
        let answers = self
            .continue_greedily(prompts, &endings)
            .map_err(ModelError::new)?;
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }

    fn perplexity(&mut self, samples: &[Tokenized]) -> std::result::Result<Perplexity, ModelError> {
        let mut total = Perplexity {
            loss_sum: 0.0,
            tokens: 0,
        };
        for sample in samples {
            let batch = Batch::from_packs([&Pack::single(sample)]);
            for score in self
                .decoder
                .token_scores(&batch)
                .map_err(|e| ModelError::at(&sample.id, e))?
            {
                total.loss_sum -= score.log_prob;
                total.tokens += 1;
            }
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prompt: Vec<u32>, options: &[&[u32]]) -> Encoded {
        Encoded {
            prompt,
            bytes: vec![1; options.len()],
            options: options.iter().map(|ids| ids.to_vec()).collect(),
        }
    }

    #[test]
    fn prompts_that_begin_alike_have_their_beginning_once() {
        let beginning: Vec<u32> = (0..20).collect();
        let prompt = |own: &[u32]| [&beginning[..], own].concat();
        let requests = [
            request(prompt(&[30, 31]), &[&[7], &[8]]),
            request(prompt(&[40]), &[&[9], &[7], &[8]]),
        ];
        let layout = Layout::of(&requests);
        assert_eq!(layout.pack.input_ids[20..], [30, 31, 40]);
        assert_eq!(layout.pack.positions[20..], [20, 21, 20]);
        assert_eq!(layout.rows, [21, 21, 22, 22, 22]);
        assert_eq!(layout.targets, [7, 8, 9, 7, 8]);
    }

    #[test]
    fn a_prompt_that_another_begins_with_keeps_its_last_token() {
        let prompt: Vec<u32> = (0..20).collect();
        let longer: Vec<u32> = (0..25).collect();
        let layout = Layout::of(&[request(prompt, &[&[7]]), request(longer, &[&[8]])]);
        assert_eq!(layout.pack.input_ids[19..], [19, 19, 20, 21, 22, 23, 24]);
        assert_eq!(layout.rows, [19, 25]);
    }

    #[test]
    fn options_of_several_tokens_come_after_a_whole_prompt() {
        let prompt: Vec<u32> = (0..20).collect();
        let requests = [
            request(prompt.clone(), &[&[7, 8, 9], &[5]]),
            request(prompt, &[&[6, 4]]),
        ];
        let layout = Layout::of(&requests);
        // The prompt, the first option without its last token; the same of the second request.
        assert_eq!(layout.pack.len(), 20 + 2 + 20 + 1);
        assert_eq!(layout.pack.input_ids[20..22], [7, 8]);
        assert_eq!(layout.rows, [19, 20, 21, 19, 41, 42]);
        assert_eq!(layout.targets, [7, 8, 9, 5, 6, 4]);
    }
}
