//! The chat-completions API, and the completions API for texts without a chat template.

use datasets::Role;
use serde_json::{Map, Value, json};

use super::error::Fault;
use super::exchange::Failure;
use super::section::EndpointSection;
use crate::model::{GenerateRequest, Prompt, Reply, Unanswered};

/// OpenAI takes no more; the answer is cut at all of them here.
const MOST_STOPS: usize = 4;

/// The method that is asked and the body that is sent. A text goes to the completions API as it
/// stands where there is one (`as_text`), and as a user's message otherwise.
pub(super) fn body(
    section: &EndpointSection,
    request: &GenerateRequest,
    as_text: bool,
) -> (&'static str, Value) {
    let mut body = Map::new();
    body.insert("model".into(), json!(section.model));
    let method = match &request.prompt {
        Prompt::Text(text) if as_text => {
            body.insert("prompt".into(), json!(text));
            "completions"
        }
        Prompt::Text(text) => {
            body.insert(
                "messages".into(),
                json!([{"role": "user", "content": text}]),
            );
            "chat/completions"
        }
        Prompt::Chat(messages) => {
            let messages = messages.iter().map(|message| {
                let role = match message.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                json!({"role": role, "content": message.content})
            });
            body.insert("messages".into(), messages.collect());
            "chat/completions"
        }
    };
    let tokens = section.max_new_tokens.unwrap_or(request.max_new_tokens);
    body.insert("max_tokens".into(), json!(tokens));
    body.insert("temperature".into(), json!(section.temperature));
    if !request.stop.is_empty() {
        let stop = &request.stop[..request.stop.len().min(MOST_STOPS)];
        body.insert("stop".into(), json!(stop));
    }
    if section.extra.contains_key("max_completion_tokens") {
        // Servers that know the new name refuse both together.
        body.remove("max_tokens");
    }
    body.extend(section.extra.clone());
    (method, Value::Object(body))
}

/// What the model wrote, cut before the first stop string, or why it wrote nothing.
pub(super) fn reply(answer: &Value, stop: &[String]) -> Result<Reply, Failure> {
    let choice = answer.get("choices").and_then(|choices| choices.get(0));
    let choice = choice.ok_or(Fault::NoChoice)?;
    let message = choice.get("message");
    if message.is_some_and(|message| message.get("refusal").is_some_and(Value::is_string)) {
        return Ok(Reply::Unanswered(Unanswered::Refusal));
    }
    let finish = choice.get("finish_reason").and_then(Value::as_str);
    if finish == Some("content_filter") {
        // What was written before the filter struck is no answer either.
        return Ok(Reply::Unanswered(Unanswered::ContentFilter));
    }
    let text = match message {
        Some(message) => message.get("content"),
        None => choice.get("text"),
    };
    let text = text.and_then(Value::as_str);
    match text {
        None | Some("") if finish == Some("length") => Ok(Reply::Unanswered(Unanswered::Length)),
        None => Err(Fault::NoChoice.into()),
        Some(text) => Ok(Reply::Text(before_stop(text, stop).to_owned())),
    }
}

fn before_stop<'t>(text: &'t str, stop: &[String]) -> &'t str {
    let stop = stop.iter().filter(|stop| !stop.is_empty());
    let end = stop.filter_map(|stop| text.find(stop.as_str())).min();
    &text[..end.unwrap_or(text.len())]
}
