//! BERTScore by a tiny encoder, from the recipe to every form of the report; and what is wrong with an encoder, before
//! anything else runs.

use std::fs;
use std::path::Path;

use super::Place;

const TASK: &str = r#"name = "summary"
version = 1
answering = ["generate"]
metrics = ["rouge_l", "bert_score", "bert_score_precision", "bert_score_recall"]

[generate]
max_new_tokens = 9
filter = "strip"

[source]
name = "summary"
format = "alpaca"
path = "summaries.jsonl"

[source.task]
prompt = "{{ instruction }}"
answer = "{{ output }}"
"#;

const RECIPE: &str = r#"name = "summaries"

[model]
init = "random"
config = "shape/config.json"
tokenizer = "shape"

[eval]
tasks = ["tasks/summary.toml"]
resamples = 50
"#;

const SECTION: &str = r#"
[eval.bert_score]
model = "encoder"
layer = 2
idf = true
baseline = "encoder/baseline.tsv"
"#;

/// A place with five reports to summarise, one of which is longer than the encoder reads, and an encoder.
fn place() -> Place {
    let place = Place::new();
    place.write("tasks/summary.toml", TASK.as_bytes());
    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert/bert");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "baseline.tsv",
    ] {
        place.write(
            &format!("encoder/{name}"),
            &fs::read(encoder.join(name)).unwrap(),
        );
    }
    let rows = (0..5).map(|i| {
        let gold = ["No effusion.", "The heart is normal. "][i % 2].repeat(1 + 4 * (i / 4));
        format!("{{\"id\": \"s{i}\", \"instruction\": \"Summarise report {i}.\", \"output\": \"{gold}{gold}\"}}\n")
    });
    place.write("summaries.jsonl", rows.collect::<String>().as_bytes());
    place.write("recipe.toml", format!("{RECIPE}{SECTION}").as_bytes());
    place
}

fn eval(place: &Place, more: &[&str]) -> super::Said {
    let args = ["eval", "recipe.toml", "--out", "out"];
    place.medtune(&[&args, more].concat())
}

#[test]
fn precision_recall_and_f1_are_in_every_form_of_the_report() {
    let place = place();
    let table = eval(&place, &[]).ok().stdout;
    let says = [
        "  bert_score  ",
        "  bert_score_precision  ",
        "  bert_score_recall  ",
        "BERTScore by encoder_L2_idf_rescaled",
        "base: 0 answers and 1 gold texts of 5 cut to 24 tokens",
    ];
    for part in says {
        assert!(table.contains(part), "no {part:?} in\n{table}");
    }
    let read = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&read("out/eval/report.json")).unwrap();
    let task = &report["models"][0]["tasks"][0];
    let metrics = task["scores"].as_array().unwrap().iter();
    let values: Vec<(&str, f64)> = metrics
        .map(|score| {
            (
                score["metric"].as_str().unwrap(),
                score["value"].as_f64().unwrap(),
            )
        })
        .collect();
    for (metric, value) in &values[1..] {
        assert!(
            (-1.5..1.0).contains(value) && *value != 0.0,
            "{metric} {value}"
        );
    }
    assert_eq!(task["bert_score"]["signature"], "encoder_L2_idf_rescaled");
    assert_eq!(task["bert_score"]["cut_gold"], 1);
    let sha256 = task["bert_score"]["encoder_sha256"].as_str().unwrap();
    assert_eq!(sha256.len(), 64);
    let manifest = read("out/eval/manifest.json");
    for part in [
        sha256,
        "bert_score/weights",
        "bert_score/tokenizer.json",
        "bert_score/baseline",
    ] {
        assert!(manifest.contains(part), "no {part} in the manifest");
    }
    let page = read("out/report.html");
    let markdown = place.medtune(&["report", "out", "--markdown"]).ok().stdout;
    for part in [
        "bert_score_precision",
        "bert_score_recall",
        "BERTScore by encoder_L2_idf_rescaled",
    ] {
        assert!(page.contains(part), "no {part} on the page");
        assert!(markdown.contains(part), "no {part} in\n{markdown}");
    }

    // Kept where nothing has changed, whatever the folder is; asked again by another layer.
    assert!(eval(&place, &[]).ok().stderr.contains("kept"));
    let other = eval(&place, &["--set", "eval.bert_score.layer=1"]).ok();
    assert!(!other.stderr.contains("kept") && other.stdout.contains("encoder_L1_idf_rescaled"));
}

#[test]
fn without_an_encoder_the_other_metrics_are_reported_and_the_report_says_why() {
    let place = place();
    place.write("recipe.toml", RECIPE.as_bytes());
    let table = eval(&place, &[]).ok().stdout;
    assert!(table.contains("rouge_l"), "{table}");
    assert!(
        table.contains("not computed: no [eval.bert_score] model"),
        "{table}"
    );
    let expect = "[[expect]]\nmetric = \"base.summary.bert_score\"\nat_least = 0.1\n";
    place.write("recipe.toml", format!("{RECIPE}{expect}").as_bytes());
    insta::assert_snapshot!(eval(&place, &[]).failure(), @"");
    place.edit("tasks/summary.toml", "\"rouge_l\", ", "");
    place.write("recipe.toml", RECIPE.as_bytes());
    insta::assert_snapshot!(eval(&place, &[]).failure(), @"");
}

#[test]
fn an_encoder_that_cannot_be_used_is_refused_before_anything_runs() {
    let place = place();
    let with = |section: &str| {
        place.write(
            "recipe.toml",
            format!("{RECIPE}\n[eval.bert_score]\n{section}\n").as_bytes(),
        );
        let said = eval(&place, &[]).failure();
        assert!(!place.path("out/eval").exists());
        said
    };
    insta::assert_snapshot!(with("model = \"encoder\"\nlayer = 4"), @"");
    insta::assert_snapshot!(with("model = \"encoders\""), @"");
    insta::assert_snapshot!(with("model = \"bert/base\""), @"");
    insta::assert_snapshot!(with("model = \"\""), @"");
    insta::assert_snapshot!(with("model = \"encoder\"\nlayers = 2"), @"");
    insta::assert_snapshot!(with("model = \"encoder\"\nlayer = -1"), @"");
    insta::assert_snapshot!(with("model = \"encoder\"\nbaseline = \"recipe.toml\""), @"");
    insta::assert_snapshot!(with("model = \"encoder\"\nbaseline = \"none.tsv\""), @"");
    place.write("short.tsv", b"LAYER,P,R,F\n0,0.1,0.1,0.1\n");
    insta::assert_snapshot!(with("model = \"encoder\"\nbaseline = \"short.tsv\""), @"");
    place.edit("encoder/config.json", "\"bert\"", "\"llama\"");
    insta::assert_snapshot!(with("model = \"encoder\""), @"");
}
