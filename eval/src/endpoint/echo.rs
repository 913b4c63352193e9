//! Log-probabilities of options by the completions API with `echo` and `logprobs`: the server reads
//! prompt and option and says how likely each token was. Token ids are sent, so that what belongs to
//! the option is known and not guessed from pieces of text.

use datasets::{Template, Tokenizer};
use serde_json::{Map, Value, json};

use super::error::{EndpointError, Fault};
use super::exchange::Failure;
use super::section::EndpointSection;
use crate::model::{OptionScore, Prompt, ScoreRequest};

/// The model's tokenizer and chat template.
pub(super) struct Writer {
    pub tokenizer: Tokenizer,
    /// `None` where the tokenizer has none, which only matters once a chat is asked.
    pub template: datasets::Result<Template>,
}

/// One prompt with its options, as token ids.
pub(super) struct Encoded {
    prompt: usize,
    /// Prompt and option of each option.
    sequences: Vec<Vec<u32>>,
    bytes: Vec<usize>,
}

impl Writer {
    pub fn encode(&self, request: &ScoreRequest, endpoint: &str) -> Result<Encoded, EndpointError> {
        let failed = |source| EndpointError::Tokenizer {
            endpoint: endpoint.to_owned(),
            source: Box::new(source),
        };
        let prompt = match &request.prompt {
            Prompt::Text(text) => self.tokenizer.encode(text, true),
            Prompt::Chat(messages) => match &self.template {
                Ok(template) => template
                    .render(messages, true)
                    .and_then(|pieces| Ok(self.tokenizer.encode_pieces(&pieces)?.0)),
                Err(_) => {
                    return Err(EndpointError::NoTemplate {
                        endpoint: endpoint.to_owned(),
                    });
                }
            },
        }
        .map_err(failed)?;
        let sequence = |option: &String| {
            let ids = self.tokenizer.encode_after(prompt.last().copied(), option);
            Ok([prompt.as_slice(), &ids.map_err(failed)?].concat())
        };
        Ok(Encoded {
            prompt: prompt.len(),
            sequences: request
                .options
                .iter()
                .map(sequence)
                .collect::<Result<_, _>>()?,
            bytes: request.options.iter().map(String::len).collect(),
        })
    }
}

/// The body that asks for all options of a request at once.
pub(super) fn body(section: &EndpointSection, encoded: &Encoded) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(section.model));
    body.insert("prompt".into(), json!(encoded.sequences));
    // Some servers refuse to write nothing; the one token more is left out of the sums.
    body.insert("max_tokens".into(), json!(1));
    body.insert("temperature".into(), json!(0.0));
    body.insert("echo".into(), json!(true));
    body.insert("logprobs".into(), json!(1));
    body.extend(section.extra.clone());
    Value::Object(body)
}

/// The options' scores, in their order.
pub(super) fn scores(
    endpoint: &str,
    encoded: &Encoded,
    answer: &Value,
) -> Result<Vec<OptionScore>, Failure> {
    let choices = answer.get("choices").and_then(Value::as_array);
    let choices = choices.ok_or(Fault::NoChoice)?;
    let mut found = vec![None; encoded.sequences.len()];
    for (position, choice) in choices.iter().enumerate() {
        let index = choice.get("index").and_then(Value::as_u64);
        let index = index.map_or(position, |index| index as usize);
        if let Some(slot) = found.get_mut(index) {
            *slot = Some(choice);
        }
    }
    let options = found.into_iter().enumerate();
    let score = |(option, choice): (usize, Option<&Value>)| {
        option_score(endpoint, encoded, option, choice.ok_or(Fault::NoChoice)?)
    };
    options.map(score).collect()
}

fn option_score(
    endpoint: &str,
    encoded: &Encoded,
    option: usize,
    choice: &Value,
) -> Result<OptionScore, Failure> {
    let no_echo = || {
        Failure::Never(EndpointError::NoEcho {
            endpoint: endpoint.to_owned(),
        })
    };
    let given = choice.get("logprobs").ok_or_else(no_echo)?;
    let list = |key: &str| given.get(key).and_then(Value::as_array);
    let log_probs = list("token_logprobs").ok_or_else(no_echo)?;
    let sent = encoded.sequences[option].len();
    // A model may end at once and write no token more.
    if log_probs.len() != sent && log_probs.len() != sent + 1 {
        return Err(Failure::Never(EndpointError::EchoLength {
            endpoint: endpoint.to_owned(),
            sent,
            given: log_probs.len(),
        }));
    }
    let first = list("top_logprobs");
    let mut score = OptionScore {
        log_prob: 0.0,
        tokens: sent - encoded.prompt,
        bytes: encoded.bytes[option],
        greedy: first.is_some(),
    };
    for position in encoded.prompt..sent {
        let log_prob = log_probs[position].as_f64().ok_or_else(no_echo)?;
        score.log_prob += log_prob;
        let best = first.and_then(|first| first.get(position)?.as_object());
        let better = |value: &Value| value.as_f64().is_some_and(|other| other > log_prob);
        score.greedy &= best.is_some_and(|best| !best.values().any(better));
    }
    Ok(score)
}
