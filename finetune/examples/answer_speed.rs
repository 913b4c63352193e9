//! How fast a model generates and scores.
//!
//! ```text
//! answer_speed MODEL f32|bf16 generate ITEMS.jsonl BATCH MAX_NEW_TOKENS
//! answer_speed MODEL f32|bf16 score ITEMS.jsonl
//! ```
//!
//! An item has a `prompt`, and for scoring `options`. Prints one line of JSON: items, seconds (without loading), the peak
//! of the resident memory, and the token ids generated, or the log-likelihood of each option. `RAYON_NUM_THREADS` sets
//! the threads.

use std::time::Instant;

use candle_core::DType;
use datasets::Template;
use datasets::recipe::TemplateKind;
use eval::{LanguageModel, Prompt, ScoreRequest};
use finetune::{Base, Checkpoint, Ending, Model};
use serde_json::{Value, json};

const USAGE: &str = "usage: answer_speed MODEL f32|bf16 generate ITEMS.jsonl BATCH MAX_NEW_TOKENS\n   or: answer_speed MODEL f32|bf16 score ITEMS.jsonl";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    finetune::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [model, dtype, what, items, rest @ ..] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let dtype = match *dtype {
        "f32" => DType::F32,
        "bf16" => DType::BF16,
        _ => return Err(USAGE.into()),
    };
    let checkpoint = Checkpoint::open(&Base::Path(model.into()))?;
    let template = Template::new(TemplateKind::Chat, &checkpoint.tokenizer)?;
    let mut model = checkpoint.into_model(dtype, None, template, "model".into())?;
    let items = std::fs::read_to_string(items)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let started = Instant::now();
    let (name, results) = match (*what, rest) {
        ("generate", [batch, most]) => {
            let answers = generate(&model, &items, batch.parse()?, most.parse()?)?;
            ("generated", json!(answers))
        }
        ("score", []) => ("scores", json!(score(&mut model, &items)?)),
        _ => return Err(USAGE.into()),
    };
    let secs = started.elapsed().as_secs_f64();
    let peak_mib = finetune::peak_memory_bytes().map(|bytes| bytes as f64 / f64::from(1 << 20));
    println!(
        "{}",
        json!({"items": items.len(), "secs": secs, "peak_mib": peak_mib, name: results})
    );
    Ok(())
}

fn prompt(item: &Value) -> Outcome<Prompt> {
    let text = item["prompt"].as_str().ok_or("an item has no prompt")?;
    Ok(Prompt::Text(text.to_owned()))
}

fn generate(model: &Model, items: &[Value], batch: usize, most: usize) -> Outcome<Vec<Vec<u32>>> {
    let mut generated = Vec::with_capacity(items.len());
    for items in items.chunks(batch.max(1)) {
        let prompts = items
            .iter()
            .map(|item| Ok(model.prompt_ids(&prompt(item)?)?))
            .collect::<Outcome<Vec<_>>>()?;
        let endings: Vec<Ending> = prompts
            .iter()
            .map(|_| Ending {
                max_new_tokens: most,
                stop: &[],
            })
            .collect();
        let answers = model.continue_greedily(prompts, &endings)?;
        generated.extend(answers.into_iter().map(|answer| answer.tokens));
    }
    Ok(generated)
}

fn score(model: &mut Model, items: &[Value]) -> Outcome<Vec<Vec<f64>>> {
    let request = |(number, item): (usize, &Value)| {
        let options = item["options"].as_array().ok_or("an item has no options")?;
        let option = |o: &Value| o.as_str().map(str::to_owned).ok_or("an option is no text");
        Ok(ScoreRequest {
            id: number.to_string(),
            prompt: prompt(item)?,
            options: options.iter().map(option).collect::<Result<_, _>>()?,
        })
    };
    let requests = items.iter().enumerate().map(request);
    let scores = model.score(&requests.collect::<Outcome<Vec<_>>>()?)?;
    Ok(scores
        .iter()
        .map(|options| options.iter().map(|o| o.log_prob).collect())
        .collect())
}
