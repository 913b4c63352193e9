//! Log-likelihoods of options against lm-evaluation-harness' on the same tiny model: how prompt and option are encoded, what
//! is shared between options and between prompts, and the sums.

use std::path::{Path, PathBuf};

use candle_core::DType;
use datasets::Template;
use eval::{LanguageModel, OptionScore, Prompt, ScoreRequest};
use finetune::{Base, Checkpoint, Model};
use serde_json::Value;
use tempfile::TempDir;

/// Of a sum over an option's tokens, in f32 on both sides; the sums reach -150.
const TOLERANCE: f64 = 1e-4;

/// What puts nothing before a text, and what puts a token and a space there.
const TOKENIZERS: [&str; 2] = ["smollm2", "llama2_json"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// The model with one of the tokenizers, as a folder.
fn model(tokenizer: &str) -> (TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, name: &str| {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    };
    for name in ["config.json", "model.safetensors"] {
        copy(golden().join("lm_eval"), name);
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        copy(golden().join("tokenizers").join(tokenizer), name);
    }
    let checkpoint = Checkpoint::open(&Base::Path(folder.path().to_owned())).unwrap();
    let template = Template::MeLlama { eos: String::new() };
    let model = checkpoint
        .into_model(DType::F32, None, template, tokenizer.to_owned())
        .unwrap();
    (folder, model)
}

/// The items as requests, and lm-eval's log-likelihoods and greedy marks with this tokenizer.
fn items(tokenizer: &str) -> Vec<(ScoreRequest, Vec<(f64, bool)>)> {
    let bytes = std::fs::read(golden().join("lm_eval/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&bytes).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let items = list(&golden["items"]).into_iter().enumerate();
    items
        .map(|(number, item)| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let request = ScoreRequest {
                id: number.to_string(),
                prompt: Prompt::Text(text(&item["prompt"])),
                options: list(&item["options"]).iter().map(text).collect(),
            };
            let scores = list(&item[tokenizer]["log_likelihoods"]).into_iter();
            let scores = scores.map(|score| score.as_f64().unwrap());
            let greedy = list(&item[tokenizer]["greedy"]).into_iter();
            let greedy = greedy.map(|mark| mark.as_bool().unwrap());
            (request, scores.zip(greedy).collect())
        })
        .collect()
}

fn compare(tokenizer: &str, request: &ScoreRequest, ours: &[OptionScore], theirs: &[(f64, bool)]) {
    assert_eq!(ours.len(), theirs.len());
    for ((option, ours), (log_likelihood, greedy)) in request.options.iter().zip(ours).zip(theirs) {
        let difference = (ours.log_prob - log_likelihood).abs();
        assert!(
            difference < TOLERANCE,
            "{tokenizer}, {:?} with {option:?}: {} and lm-eval's {log_likelihood}, {difference:.1e} apart",
            request.prompt,
            ours.log_prob
        );
        assert_eq!(ours.greedy, *greedy, "{tokenizer}, {option:?}");
    }
}

#[test]
fn options_are_as_likely_as_lm_eval_finds_them() {
    for tokenizer in TOKENIZERS {
        let (_folder, mut model) = model(tokenizer);
        let (requests, expected): (Vec<_>, Vec<_>) = items(tokenizer).into_iter().unzip();
        assert!(requests.len() >= 20, "{}", requests.len());
        let scores = model.score(&requests).unwrap();
        for ((request, ours), theirs) in requests.iter().zip(&scores).zip(&expected) {
            compare(tokenizer, request, ours, theirs);
        }
    }
}

/// Options of one token alone, so that the prompts' common beginning is read once.
#[test]
fn prompts_that_share_their_beginning_score_as_lm_eval_scores_them_alone() {
    let (_folder, mut model) = model("smollm2");
    let shared = |(request, _): &(ScoreRequest, _)| matches!(&request.prompt, Prompt::Text(text) if text.starts_with("Choose the word"));
    let items: Vec<_> = items("smollm2").into_iter().filter(shared).collect();
    let (requests, expected): (Vec<_>, Vec<_>) = items.into_iter().unzip();
    assert!(requests.len() > 3);
    let scores = model.score(&requests).unwrap();
    for ((request, ours), theirs) in requests.iter().zip(&scores).zip(&expected) {
        assert!(ours.iter().all(|option| option.tokens == 1));
        compare("smollm2", request, ours, theirs);
    }
}
