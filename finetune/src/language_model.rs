//! [`eval::LanguageModel`] over a [`Model`]: strings to token ids, packs, and numbers back.

use datasets::{Batch, Pack, Template, Tokenized, Tokenizer};
use eval::{
    GenerateRequest, LanguageModel, ModelError, OptionScore, Perplexity, Prompt, ScoreRequest,
};

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

impl Model {
    /// Token ids of what comes before the answer.
    pub fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        prompt_ids(&self.tokenizer, &self.template, prompt)
    }

    /// Scores whole requests in one pack: a prompt is read once, its options share it as their prefix.
    fn score_pack(&self, requests: &[Encoded]) -> Result<Vec<Vec<OptionScore>>> {
        let mut pack = Pack::default();
        for (i, request) in requests.iter().enumerate() {
            let prompt = pack.push_segment(
                &request.prompt,
                &vec![false; request.prompt.len()],
                i as u64,
                None,
            );
            for option in &request.options {
                pack.push_segment(option, &vec![true; option.len()], i as u64, Some(prompt));
            }
        }
        // Scores come in the order of their target tokens, so they are dealt out option by option.
        let mut scores = self
            .decoder
            .token_scores(&Batch::from_packs([&pack]))?
            .into_iter();
        Ok(requests
            .iter()
            .map(|request| {
                let options = request.options.iter().zip(&request.bytes);
                options
                    .map(|(ids, bytes)| {
                        let mut score = OptionScore {
                            log_prob: 0.0,
                            tokens: ids.len(),
                            bytes: *bytes,
                            greedy: true,
                        };
                        for token in scores.by_ref().take(ids.len()) {
                            score.log_prob += token.log_prob;
                            score.greedy &= token.greedy;
                        }
                        score
                    })
                    .collect()
            })
            .collect())
    }

    fn encode(&self, request: &ScoreRequest) -> Result<Encoded> {
        let prompt = self.prompt_ids(&request.prompt)?;
        let options = request
            .options
            .iter()
            .map(|o| Ok(self.tokenizer.encode_after(prompt.last().copied(), o)?))
            .collect::<Result<Vec<Vec<u32>>>>()?;
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
