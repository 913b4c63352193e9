//! Greedy and sampled generation with a KV cache.

use candle_core::DType;

use crate::decoder::SequenceCache;
use crate::load::Model;
use crate::{Error, Result};

/// Sequences decoded side by side: each step reads every weight once for all of them.
pub(crate) const SEQUENCES_AT_ONCE: usize = 16;

/// One sequence being continued.
struct Sequence {
    /// Its place among the prompts.
    index: usize,
    prompt: Vec<u32>,
    cache: SequenceCache,
    generated: Vec<u32>,
}

/// When an answer is over, besides the model's own end-of-sequence tokens.
pub struct Ending<'a> {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// The answer ends before the first of these strings.
    pub stop: &'a [String],
}

/// How a prompt goes on.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// What was generated, without stop strings and special tokens.
    pub text: String,
    /// Every token that was generated, those of a stop string too, but not the end of the sequence.
    pub tokens: Vec<u32>,
}

impl Model {
    /// Continues each prompt greedily until its ending.
    ///
    /// `endings` has one entry a prompt.
    pub fn continue_greedily(
        &self,
        prompts: Vec<Vec<u32>>,
        endings: &[Ending],
    ) -> Result<Vec<Answer>> {
        let mut answers = vec![Answer::default(); prompts.len()];
        let mut waiting: Vec<Sequence> = prompts
            .into_iter()
            .enumerate()
            .map(|(index, prompt)| Sequence {
                index,
                prompt,
                cache: self.decoder.new_cache(),
                generated: Vec::new(),
            })
            .rev()
            .collect();
        let mut active: Vec<Sequence> = Vec::new();
        while !(waiting.is_empty() && active.is_empty()) {
            while active.len() < SEQUENCES_AT_ONCE
                && let Some(next) = waiting.pop()
            {
                active.push(next);
            }
            let next = self.next_tokens(&mut active)?;
            let mut still = Vec::with_capacity(active.len());
            for (mut sequence, token) in active.into_iter().zip(next) {
                let ending = &endings[sequence.index];
                let mut ended =
                    self.tokenizer.ends().contains(&token) || ending.max_new_tokens == 0;
                if !ended {
                    sequence.generated.push(token);
                }
                ended |= sequence.generated.len() >= ending.max_new_tokens;
                // Until then the text only matters where a stop string may be in it.
                if !ended && ending.stop.is_empty() {
                    still.push(sequence);
                    continue;
                }
                let mut text = self.tokenizer.decode(&sequence.generated, true)?;
                let found = ending.stop.iter().filter_map(|s| text.find(s.as_str()));
                if let Some(at) = found.min() {
                    text.truncate(at);
                    ended = true;
                }
                if ended {
                    answers[sequence.index] = Answer {
                        text,
                        tokens: sequence.generated,
                    };
                } else {
                    still.push(sequence);
                }
            }
            active = still;
        }
        Ok(answers)
    }

    /// Continues one prompt, handing each newly complete piece of text to `on_text`; `pick` chooses a token
    /// from the logits (V).
    pub fn stream(
        &self,
        prompt: &[u32],
        max_new_tokens: usize,
        pick: &mut dyn FnMut(&[f32]) -> u32,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let mut cache = self.decoder.new_cache();
        let mut generated: Vec<u32> = Vec::new();
        let mut shown = 0;
        let mut feed = prompt.to_vec();
        while generated.len() < max_new_tokens {
            let logits = self.decoder.extend(&[&feed], &mut [&mut cache])?;
            let logits = logits
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let token = pick(&logits);
            if self.tokenizer.ends().contains(&token) {
                break;
            }
            generated.push(token);
            feed = vec![token];
            let text = self.tokenizer.decode(&generated, true)?;
            // A character whose bytes are still incomplete decodes to U+FFFD: wait for the rest of it.
            if !text.ends_with('\u{fffd}') && text.is_char_boundary(shown) {
                on_text(&text[shown..]);
                shown = text.len();
            }
        }
        Ok(self.tokenizer.decode(&generated, true)?)
    }

    /// One greedy token a sequence: new sequences read their prompt, the others their last token.
    fn next_tokens(&self, active: &mut [Sequence]) -> Result<Vec<u32>> {
        let feeds: Vec<Vec<u32>> = active
            .iter()
            .map(|s| match s.generated.last() {
                Some(last) => vec![*last],
                None => s.prompt.clone(),
            })
            .collect();
        let feeds: Vec<&[u32]> = feeds.iter().map(Vec::as_slice).collect();
        let mut caches: Vec<&mut SequenceCache> = active.iter_mut().map(|s| &mut s.cache).collect();
        let logits = self.decoder.extend(&feeds, &mut caches)?;
        Ok(logits
            .to_dtype(DType::F32)?
            .to_vec2::<f32>()?
            .iter()
            .map(|row| argmax(row))
            .collect())
    }

    /// Refuses a prompt and answer longer than the positions the model knows.
    pub(crate) fn hold_to_context(&self, id: &str, tokens: usize) -> Result<()> {
        let limit = self.decoder.config().max_position_embeddings;
        if tokens > limit {
            return Err(Error::TooLong {
                id: id.to_owned(),
                tokens,
                limit,
            });
        }
        Ok(())
    }
}

/// The first of the largest values, so that ties are decided the same way everywhere.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Draws from softmax(logits / temperature) cut to the smallest set of tokens whose share reaches `top_p`.
///
/// `uniform` is a number in 0..1. Temperature 0 is greedy.
pub fn sample(logits: &[f32], temperature: f64, top_p: f64, uniform: f64) -> u32 {
    if temperature <= 0.0 {
        return argmax(logits);
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let top = logits[order[0]] as f64;
    let weights: Vec<f64> = order
        .iter()
        .map(|i| ((logits[*i] as f64 - top) / temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0;
    let mut mass = 0.0;
    while kept < weights.len() && (kept == 0 || mass < top_p * total) {
        mass += weights[kept];
        kept += 1;
    }
    let mut left = uniform * mass;
    for (i, w) in order.iter().zip(&weights).take(kept) {
        left -= w;
        if left < 0.0 {
            return *i as u32;
        }
    }
    order[kept - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn sampling_stays_within_top_p() {
        let logits = [2.0f32.ln(), 1.0f32.ln(), 1.0f32.ln()];
        let mut counts = [0; 3];
        for i in 0..1000 {
            counts[sample(&logits, 1.0, 1.0, (i as f64 + 0.5) / 1000.0) as usize] += 1;
        }
        assert_eq!(counts, [500, 250, 250]);
        assert!((0..100).all(|i| sample(&logits, 1.0, 0.4, i as f64 / 100.0) == 0));
        assert_eq!(sample(&[0.0, 5.0], 0.0, 1.0, 0.99), 1);
    }
}
