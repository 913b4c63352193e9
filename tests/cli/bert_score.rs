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
    insta::assert_snapshot!(eval(&place, &[]).failure(), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:12:1: this recipe does not measure `base.summary.bert_score`
      hint: name an encoder's folder as `model` in [eval.bert_score]
    ");
    place.edit("tasks/summary.toml", "\"rouge_l\", ", "");
    place.write("recipe.toml", RECIPE.as_bytes());
    insta::assert_snapshot!(eval(&place, &[]).failure(), @r#"
    exit 2
    eval   runs again: setting `tasks` changed
    error: task `summary`: its first metric `bert_score` needs an encoder, and none is given
    hint: name its folder in [eval.bert_score], as in `model = "models/roberta-large"`, or put another metric before `bert_score`
    "#);
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
    insta::assert_snapshot!(with("model = \"encoder\"\nlayer = 4"), @"
    exit 2
    error: eval.bert_score.layer is 4, and encoder has 3 layers
    hint: write 1 to 3, 0 for the embeddings before the first layer, or leave it out
    ");
    insta::assert_snapshot!(with("model = \"encoders\""), @"
    exit 2
    error: encoders does not exist
    hint: give a Hugging Face folder or a .gguf file that is on this machine
    ");
    insta::assert_snapshot!(with("model = \"bert/base\""), @"
    exit 2
    error: there is no folder `bert/base`, and no such model in the Hugging Face cache huggingface/hub
    hint: download it with `medtune fetch bert/base`, or give a Hugging Face folder or a .gguf file that is on this machine
    ");
    insta::assert_snapshot!(with("model = \"\""), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:13:1: `eval.bert_score.model` is empty: name the folder of a BERT or RoBERTa
    ");
    insta::assert_snapshot!(with("model = \"encoder\"\nlayers = 2"), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:14:1: unknown key `layers` in [eval.bert_score]
      hint: did you mean `layer`?
    ");
    insta::assert_snapshot!(with("model = \"encoder\"\nlayer = -1"), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:14:9: `eval.bert_score.layer` is the integer `-1`, and must be at least 0
    ");
    insta::assert_snapshot!(with("model = \"encoder\"\nbaseline = \"recipe.toml\""), @"
    exit 2
    error: `recipe.toml` is no baseline for BERTScore: its first line is not `LAYER,P,R,F`
    hint: the files are in `rescale_baseline` of the bert_score package; they begin with `LAYER,P,R,F`
    ");
    insta::assert_snapshot!(with("model = \"encoder\"\nbaseline = \"none.tsv\""), @"
    exit 2
    error: cannot read `none.tsv`
      No such file or directory (os error 2)
    hint: check the path; a relative one starts from the current folder
    ");
    place.write("short.tsv", b"LAYER,P,R,F\n0,0.1,0.1,0.1\n");
    insta::assert_snapshot!(with("model = \"encoder\"\nbaseline = \"short.tsv\""), @"
    exit 2
    error: `short.tsv` is no baseline for BERTScore: it has no line for layer 3
    hint: take the file of this encoder, or a layer that the file has with `layer`
    ");
    place.edit("encoder/config.json", "\"bert\"", "\"llama\"");
    insta::assert_snapshot!(with("model = \"encoder\""), @r#"
    exit 2
    error: encoder holds a model of type "llama", and BERTScore needs an encoder
    hint: name a folder whose config.json says one of the types bert, roberta, such as bert-base-multilingual-cased or roberta-large
    "#);
}
