//! Hugging Face chat templates: Jinja, with what transformers adds to it.

use std::sync::Arc;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};

use super::Piece;
use crate::record::{Message, Role};
use crate::{Error, Result, Tokenizer, jinja};

const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    /// `bos_token` and the like.
    tokens: Vec<(&'static str, String)>,
    /// The texts that can end a turn: all special tokens.
    special: Vec<String>,
}

impl ChatTemplate {
    /// Compiles the tokenizer's chat template.
    ///
    /// # Errors
    /// There is none, or its syntax is wrong.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let Some(source) = tokenizer.chat_template() else {
            return Err(Error::NoChatTemplate {
                tokenizer: tokenizer.origin().to_string(),
            });
        };
        let env = jinja::compile(environment(), NAME, &without_generation_tags(source))?;
        Ok(Self {
            env,
            tokens: tokenizer.named_tokens(),
            special: tokenizer.special_texts(),
        })
    }

    pub(super) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<Piece>> {
        let values: Vec<Value> = messages.iter().map(message_value).collect();
        let full = self.text(&values, add_generation_prompt)?;
        let mut pieces = Vec::new();
        // What of `full` has been put into pieces, in bytes.
        let mut written = 0;
        for (i, _) in messages
            .iter()
            .enumerate()
            .filter(|(_, m)| m.role == Role::Assistant)
        {
            let prompt = self.text(&values[..i], true)?;
            let answered = match i + 1 == values.len() && !add_generation_prompt {
                true => full.clone(),
                false => self.text(&values[..=i], false)?,
            };
            let answer = continues(&prompt, &answered, i, "once the answer is added")?;
            continues(&answered, &full, i + 1, "once later messages are added")?;
            let end = prompt.len() + self.end_of_turn(answer, i + 1)?;
            pieces.push(Piece::new(&full[written..prompt.len()], false));
            pieces.push(Piece::new(&full[prompt.len()..end], true));
            written = end;
        }
        pieces.push(Piece::new(&full[written..], false));
        pieces.retain(|piece| !piece.text.is_empty());
        Ok(pieces)
    }

    fn text(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String> {
        let mut context = vec![
            ("messages", Value::from(messages.to_vec())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        context.extend(
            self.tokens
                .iter()
                .map(|(name, token)| (*name, Value::from(token.as_str()))),
        );
        jinja::render(&self.env, NAME, jinja::map(context))
    }

    /// Where in an answer's text its turn ends: behind the special token that
    /// only white space follows.
    fn end_of_turn(&self, answer: &str, message: usize) -> Result<usize> {
        let turn = answer.trim_end();
        match self
            .special
            .iter()
            .any(|token| turn.ends_with(token.as_str()))
        {
            true => Ok(turn.len()),
            false => Err(Error::NoEndOfTurn { message }),
        }
    }
}

/// What `longer` adds to `shorter`, which it must begin with.
fn continues<'t>(
    shorter: &str,
    longer: &'t str,
    before: usize,
    when: &'static str,
) -> Result<&'t str> {
    longer
        .strip_prefix(shorter)
        .ok_or_else(|| Error::NotPrefix {
            before,
            when,
            agree: shorter
                .chars()
                .zip(longer.chars())
                .take_while(|(a, b)| a == b)
                .count(),
            length: shorter.chars().count(),
        })
}

fn message_value(message: &Message) -> Value {
    jinja::map([
        ("role", Value::from(message.role.name())),
        ("content", Value::from(message.content.as_str())),
    ])
}

/// Jinja as transformers sets it up (`_compile_jinja_template`).
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    // Which name is undefined is said only in debug mode, which is off in release builds.
    env.set_debug(true);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    // Templates call Python's methods, such as `content.strip()`.
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", to_json);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(jinja::refuse(format!("the template refuses: {message}")))
}

/// The date that templates write into their system message. It is always
/// 26 July 2024, which Llama 3.2's template falls back to: today's date would
/// make the same recipe give other bytes tomorrow.
fn strftime_now(format: String) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        text.push_str(match chars.next() {
            Some('d') => "26",
            Some('b') => "Jul",
            Some('B') => "July",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('j') => "208",
            Some('F') => "2024-07-26",
            Some('H' | 'M' | 'S') => "00",
            Some('%') => "%",
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                return Err(jinja::refuse(format!(
                    "strftime_now does not know %{directive}"
                )));
            }
        });
    }
    Ok(text)
}

/// Python's `json.dumps(x, ensure_ascii=False)`, which is transformers'
/// `tojson`: no HTML escapes, a space after `,` and `:`.
fn to_json(value: Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Of json.dumps' other options none changes what templates print.
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text)?;
    Ok(Value::from_safe_string(text))
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> std::result::Result<(), minijinja::Error> {
    use minijinja::value::ValueKind as Kind;
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
    };
    let (open, close) = match value.kind() {
        Kind::Map => ('{', '}'),
        Kind::Seq | Kind::Iterable => ('[', ']'),
        kind => {
            match kind {
                Kind::None | Kind::Undefined => out.push_str("null"),
                Kind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
                Kind::String => {
                    out.push_str(&serde_json::Value::from(value.to_string()).to_string())
                }
                _ => out.push_str(&value.to_string()),
            }
            return Ok(());
        }
    };
    out.push(open);
    let mut empty = true;
    for item in value.try_iter()? {
        if !empty {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        empty = false;
        line(depth + 1, out);
        if open == '{' {
            write_json(&Value::from(item.to_string()), indent, depth + 1, out)?;
            out.push_str(": ");
            write_json(&value.get_item(&item)?, indent, depth + 1, out)?;
        } else {
            write_json(&item, indent, depth + 1, out)?;
        }
    }
    if !empty {
        line(depth, out);
    }
    out.push(close);
    Ok(())
}

/// Replaces `{% generation %}` and `{% endgeneration %}` by tags that do
/// nothing and treat white space the same.
fn without_generation_tags(source: &str) -> Arc<str> {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (before, tag) = rest[..start + length].split_at(start + 2);
        text.push_str(before);
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => text.push_str(&tag.replace(word, "if true")),
            "endgeneration" => text.push_str(&tag.replace(word, "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    text.push_str(rest);
    text.into()
}
