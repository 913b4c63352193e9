//! From built samples to tokens, as training, evaluation and `medtune show` read them.

use anyhow::{Context, Result};
use datasets::recipe::{DataSection, TemplateKind};
use datasets::{Samples, Template, Tokenized, Tokenizer};
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::recipe::Recipe;

/// Samples as tokens, and what became of those that did not fit.
#[derive(Default)]
pub struct Tokens {
    /// In the order of the built file.
    pub samples: Vec<Tokenized>,
    /// Left out or cut: id, length in tokens, and which of the two.
    pub too_long: Vec<Value>,
    /// How many were left out.
    pub dropped: usize,
    /// How many have a shorter prompt than written.
    pub truncated: usize,
}

impl Tokens {
    /// Tokens that teach.
    pub fn target_tokens(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| sample.target_tokens() as u64)
            .sum()
    }

    /// Tokens in all.
    pub fn tokens(&self) -> u64 {
        self.samples.iter().map(|sample| sample.len() as u64).sum()
    }
}

/// Writes built samples as tokens.
pub fn tokens(
    samples: &Samples,
    section: &DataSection,
    tokenizer: &Tokenizer,
    template: &Template,
) -> Result<Tokens> {
    let set = match samples {
        Samples::Documents(documents) => {
            let samples = datasets::tokenize_documents(documents, tokenizer, section.max_seq_len)?;
            return Ok(Tokens {
                samples,
                ..Tokens::default()
            });
        }
        Samples::Conversations(conversations) => datasets::tokenize(
            conversations,
            tokenizer,
            template,
            section.max_seq_len,
            section.on_too_long,
        )?,
    };
    let listed = |what: &str, samples: &[datasets::TooLong]| -> Vec<Value> {
        samples
            .iter()
            .map(|sample| json!({"id": sample.id, "tokens": sample.tokens, "what": what}))
            .collect()
    };
    let mut too_long = listed("dropped", &set.dropped);
    too_long.extend(listed("truncated", &set.truncated));
    let (dropped, truncated) = (set.dropped.len(), set.truncated.len());
    Ok(Tokens {
        samples: set.samples,
        too_long,
        dropped,
        truncated,
    })
}

/// The template of the recipe's `[data]`, or the model's own. Where no conversation is written, a model without a
/// template is as good as any.
pub fn template_of(plan: &Plan, tokenizer: &Tokenizer, needed: bool) -> Result<Template> {
    let data = plan.recipe().data.as_ref();
    template_as(
        data.map(|data| data.template).unwrap_or_default(),
        tokenizer,
        needed,
    )
}

/// As [`template_of`], of this kind.
pub fn template_as(kind: TemplateKind, tokenizer: &Tokenizer, needed: bool) -> Result<Template> {
    match Template::new(kind, tokenizer) {
        Err(_) if !needed => Ok(Template::MeLlama { eos: String::new() }),
        made => made.context("cannot write conversations for this model"),
    }
}

/// The template by which models are asked tasks: that of `[eval]`, or else of `[data]`.
pub fn asked_by(recipe: &Recipe) -> TemplateKind {
    let eval = recipe.eval.as_ref().and_then(|eval| eval.template);
    let data = recipe.data.as_ref().map(|data| data.template);
    eval.or(data).unwrap_or_default()
}
