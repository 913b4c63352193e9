//! What the cards of several models say.

use std::collections::BTreeMap;

use adapters::hub::Stated;
use adapters::recipe::Quantization;
use adapters::{LoraConfig, TargetModules};
use ledger::{AccessClass, FileHash, Manifest};
use serde_json::{Value, json};

use super::{CardBase, ModelCard, fed, is_of};

fn manifest(stage: &str, access: AccessClass, details: Value) -> Manifest {
    Manifest {
        stage: stage.into(),
        program_version: "0.1.0".into(),
        inputs: vec![],
        settings: json!({}),
        outputs: vec![],
        counts: BTreeMap::new(),
        access,
        details,
    }
}

fn file(path: &str, sha256: &str) -> FileHash {
    FileHash {
        path: path.into(),
        sha256: sha256.into(),
        bytes: 7,
    }
}

fn source(name: &str, licence: &str, access: AccessClass) -> Value {
    json!({
        "name": name, "kind": "qa", "licence": licence, "access": access, "train": 1234, "validation": 6,
        "tokens": 98765, "phi": "not searched"
    })
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 8,
        alpha: 20.0,
        dropout: 0.05,
        target_modules: TargetModules::AllLinear,
        use_rslora: false,
        use_dora: false,
        modules_to_save: vec![],
    }
}

fn proof() -> Value {
    json!({
        "targeted": 14, "tensors": 23, "bytes": 269_060_552u64,
        "proof": {
            "targeted": 14, "untouched": 9, "max_steps": 0.4987, "worst": "a", "relative_change": 0.0123,
            "surviving": 0.99912, "lost_in_rounding": 0.01, "problems": []
        },
        "logits": {"positions": 96, "max_difference": 0.0021, "largest_logit": 17.3, "top1_agreement": 1.0, "tolerance": 0.1}
    })
}

/// A run with everything: two sources, trained, merged, evaluated.
fn whole() -> ModelCard {
    let mut data = manifest("data", AccessClass::Credentialed, Value::Null);
    let mut missing = source("away", "CC0-1.0", AccessClass::Open);
    missing["missing"] = json!(true);
    let mut cited = source(
        "notes | *x*",
        "PhysioNet Credentialed Health Data License 1.5.0",
        AccessClass::Credentialed,
    );
    cited["citation"] = json!("Doe et al. 2020");
    cited["phi"] = json!("redacted");
    data.details = json!({
        "sources": [source("questions", "MIT", AccessClass::Open), cited, missing],
        "total": {"train": 2468, "validation": 12, "tokens": 197530, "target_tokens": 5000}
    });
    let mut train = manifest(
        "train",
        AccessClass::Credentialed,
        json!({"steps": 300, "loss": 1.23456, "eval_loss": 1.5, "best_step": null, "trained_parameters": 2442240}),
    );
    train.counts = BTreeMap::from([
        ("train.samples".into(), 2468),
        ("train.tokens".into(), 190000),
        ("train.target_tokens".into(), 4900),
        ("train.truncated".into(), 3),
        ("skipped_steps".into(), 0),
    ]);
    train.inputs = vec![file("data/train.jsonl", "aa11"), file("tokenizer", "bb22")];
    train.outputs = vec![file("adapter_model.safetensors", "cc33")];
    let metrics = json!({
        "base.pubmedqa.accuracy": 0.3375, "tuned.pubmedqa.accuracy": 0.5525, "change.pubmedqa.accuracy": 0.215,
        "tuned.pubmedqa.items": 400.0, "base.pubmedqa.items": 400.0, "tuned.validation.perplexity": 4.25
    });
    ModelCard {
        name: "notes-qa".into(),
        base: CardBase {
            name: Some("meta-llama/Llama-2-13b-hf".into()),
            published: true,
            fingerprint: Some("dd44".into()),
            stated: Stated {
                licence: Some("llama2".into()),
                languages: vec!["en".into()],
            },
            quantization: Some(Quantization::Nf4),
        },
        adapter: Some(lora()),
        data: Some(data),
        train: Some(train),
        merge: Some(proof()),
        eval: Some(manifest(
            "eval",
            AccessClass::Open,
            json!({"metrics": metrics}),
        )),
        recipe: Some("name = \"notes-qa\"\n\n[train]\nepochs = 3.0\n".into()),
        forced: vec![],
        access: Some(AccessClass::Credentialed),
    }
}

#[test]
fn a_run_with_everything() {
    insta::assert_snapshot!(whole().text(), @r#"
    ---
    base_model: meta-llama/Llama-2-13b-hf
    base_model_relation: finetune
    library_name: transformers
    pipeline_tag: text-generation
    license: other
    license_name: credentialed-training-data
    language:
    - en
    tags:
    - medtune
    - medical
    - qlora
    ---

    # notes-qa

    `meta-llama/Llama-2-13b-hf` with a LoRA of rank 8, alpha 20, on all linear layers merged into its weights. Access class: **credentialed**.

    ## Base

    | | |
    |---|---|
    | model | `meta-llama/Llama-2-13b-hf` |
    | fingerprint (SHA-256 of configuration and weights) | `dd44` |
    | licence | llama2 |
    | in training | its linear layers quantized to 4-bit NormalFloat (QLoRA) |

    ## Data

    | source | samples | tokens | access | licence | searched for identifiers |
    |---|---:|---:|---|---|---|
    | questions | 1 240 | 98 765 | open | MIT | not searched |
    | notes \| \*x\* | 1 240 | 98 765 | credentialed | PhysioNet Credentialed Health Data License 1.5.0 | redacted |

    2 468 samples to train on and 12 held out. Samples are not part of this folder.

    ## Terms

    Access class **credentialed**: something that went in is given only to people with credentials under a data use agreement (PhysioNet, n2c2). A model can give back what it was trained on: treat these weights as the data themselves. Do not put them on a public hub, do not serve them to people without the same credentials, and publish them, if at all, where the data are published.

    - MIT: questions
    - PhysioNet Credentialed Health Data License 1.5.0: notes \| \*x\*
    - llama2: the base

    To cite:

    - notes \| \*x\*: Doe et al. 2020

    ## Training

    | | |
    |---|---|
    | method | LoRA of rank 8, alpha 20, on all linear layers |
    | steps | 300 |
    | trained parameters | 2 442 240 |
    | training samples | 2 468 |
    | tokens of an epoch | 190 000 |
    | of which target tokens | 4 900 |
    | loss at the end | 1.2346 |
    | held-out loss | 1.5000 |
    | samples with a shortened prompt | 3 |

    ## Evaluation

    | metric | base | tuned | change |
    |---|---:|---:|---:|
    | pubmedqa.accuracy | 0.3375 | 0.5525 | 0.2150 |
    | pubmedqa.items | 400 | 400 |  |
    | validation.perplexity |  | 4.2500 |  |

    ## Proof of the merge

    Each tensor was computed again from base and adapter and compared with what was written, and the merged model was asked what base and adapter were asked.

    | | |
    |---|---|
    | tensors that the adapter changes | 14 |
    | tensors that are the base's, byte for byte | 9 |
    | largest deviation from base + adapter, in rounding steps | 0.499 |
    | change relative to the weights | 1.23e-2 |
    | share of the change that survives rounding | 0.9991 |
    | largest difference of a logit | 2.1e-3 of 17.3 |
    | same first choice | 100.0 % of 96 positions |

    ## Provenance

    | | |
    |---|---|
    | trained by medtune | 0.1.0 |
    | card written by medtune | 0.1.0 |
    | training samples (SHA-256) | `aa11` |
    | held-out samples (SHA-256) | unknown |
    | adapter (SHA-256) | `cc33` |
    | tokenizer (SHA-256) | `bb22` |

    The weights take 269.1 MB.

    ## Recipe

    With every default:

    ```toml
    name = "notes-qa"

    [train]
    epochs = 3.0
    ```

    ## Use

    These weights are for research. They are not a medical device, they have not been evaluated for clinical use, and their answers must not be used to diagnose or treat anyone. Language models state falsehoods with confidence; have a clinician check what you rely on.
    "#);
}

#[test]
fn an_adapter_of_another_program() {
    let card = ModelCard {
        name: "merged".into(),
        base: CardBase {
            name: Some("models/base".into()),
            ..CardBase::default()
        },
        adapter: Some(LoraConfig {
            use_dora: true,
            use_rslora: true,
            target_modules: TargetModules::Named(vec![
                "model.layers.0.self_attn.q_proj".into(),
                "v_proj".into(),
            ]),
            modules_to_save: vec!["lm_head".into()],
            ..lora()
        }),
        merge: Some(json!({"targeted": 2, "proof": null})),
        forced: vec!["hidden_size is 7 here and 5 in the adapter's base".into()],
        ..ModelCard::default()
    };
    insta::assert_snapshot!(card.text(), @"
    ---
    library_name: transformers
    pipeline_tag: text-generation
    license: unknown
    tags:
    - medtune
    - medical
    - lora
    - dora
    - rslora
    ---

    # merged

    `models/base` with a rank-stabilised DoRA of rank 8, alpha 20, on q_proj, v_proj, with lm_head trained whole merged into its weights. Access class: **unknown**.

    ## Base

    | | |
    |---|---|
    | model | `models/base` |
    | fingerprint (SHA-256 of configuration and weights) | unknown |
    | licence | unknown |

    The adapter was trained on another base, and merged all the same:

    - hidden_size is 7 here and 5 in the adapter's base

    ## Data

    Unknown: what it was trained on is not recorded with it.

    ## Terms

    Access class **unknown**: whose terms the training data are under is not recorded. Ask whoever trained the adapter before you share these weights.

    - unknown: the base, the training data

    ## Training

    Unknown: no record of the training lies beside the adapter.
    The adapter is a rank-stabilised DoRA of rank 8, alpha 20, on q_proj, v_proj, with lm_head trained whole.

    ## Evaluation

    Not evaluated.

    ## Proof of the merge

    Not proven: the merge was told not to verify itself.

    ## Provenance

    | | |
    |---|---|
    | trained by medtune | unknown |
    | card written by medtune | 0.1.0 |
    | training samples (SHA-256) | unknown |
    | held-out samples (SHA-256) | unknown |
    | adapter (SHA-256) | unknown |
    | tokenizer (SHA-256) | unknown |

    ## Recipe

    Unknown: the merge was not a recipe's.

    ## Use

    These weights are for research. They are not a medical device, they have not been evaluated for clinical use, and their answers must not be used to diagnose or treat anyone. Language models state falsehoods with confidence; have a clinician check what you rely on.
    ");
}

#[test]
fn terms_decide_the_licence_of_the_front_matter() {
    let head = |access: Option<AccessClass>, licence: Option<&str>| {
        let mut card = whole();
        card.access = access;
        card.base.stated.licence = licence.map(str::to_owned);
        let text = card.text();
        let lines = text.lines().filter(|line| line.starts_with("license"));
        lines.collect::<Vec<_>>().join(", ")
    };
    let open = Some(AccessClass::Open);
    assert_eq!(head(open, Some("apache-2.0")), "license: apache-2.0");
    assert_eq!(
        head(open, Some("my-own")),
        "license: other, license_name: my-own"
    );
    assert_eq!(head(open, None), "license: unknown");
    assert_eq!(head(None, Some("apache-2.0")), "license: unknown");
    let strict = Some(AccessClass::Credentialed);
    assert_eq!(
        head(strict, Some("apache-2.0")),
        "license: other, license_name: credentialed-training-data"
    );
}

#[test]
fn a_model_of_which_every_weight_was_trained() {
    let mut card = whole();
    (card.adapter, card.merge, card.eval) = (None, None, None);
    let text = card.text();
    assert!(text.contains("- full-fine-tuning\n"), "{text}");
    assert!(
        text.contains("`meta-llama/Llama-2-13b-hf` with every weight trained."),
        "{text}"
    );
    assert!(
        text.contains("Nothing was merged: every weight was trained."),
        "{text}"
    );
    assert!(text.contains("## Evaluation\n\nNot evaluated.\n"), "{text}");
}

#[test]
fn only_what_is_of_this_model_is_said_of_it() {
    let mut made = manifest("merge", AccessClass::Open, Value::Null);
    made.outputs = vec![file("model.safetensors", "aa"), file("config.json", "bb")];
    let mut eval = manifest("eval", AccessClass::Open, Value::Null);
    eval.inputs = vec![
        file("merge/model.safetensors", "aa"),
        file("merge/config.json", "bb"),
    ];
    assert!(is_of(&eval, &made));
    eval.inputs[0].sha256 = "cc".into();
    assert!(!is_of(&eval, &made));
    let mut train = manifest("train", AccessClass::Open, Value::Null);
    train.inputs = vec![file("data/train.jsonl", "aa"), file("base", "bb")];
    let mut data = manifest("data", AccessClass::Open, Value::Null);
    assert!(!fed(&data, &train));
    data.outputs = vec![file("train.jsonl", "aa")];
    assert!(fed(&data, &train));
    data.outputs[0].sha256 = "ab".into();
    assert!(!fed(&data, &train));
}

#[test]
fn names_and_recipes_cannot_break_out_of_their_place() {
    let mut card = whole();
    card.name = "a\n# b <script> | `x`".into();
    card.base.name = Some("x`y|z\n".into());
    card.recipe = Some("prompt = \"```\"".into());
    let text = card.text();
    assert!(
        text.contains("# a \\# b &lt;script> \\| \\`x\\`\n"),
        "{text}"
    );
    assert!(text.contains("`x?y?z?`"), "{text}");
    assert!(
        text.contains("````toml\nprompt = \"```\"\n````\n"),
        "{text}"
    );
    assert!(!text.contains("base_model:"), "{text}");
}

#[test]
fn what_chose_the_checkpoint_and_a_look_after_the_merge_are_said() {
    let mut card = whole();
    let train = card.train.as_mut().unwrap();
    train.details["best_step"] = json!(120);
    train.details["chosen_by"] = json!({"metric": "pubmedqa[dev].accuracy"});
    card.eval.as_mut().unwrap().details["chose_checkpoint"] = json!(["pubmedqa[dev]"]);
    let mut merge = proof();
    merge["validation"] = json!({
        "items": {"pubmedqa[dev]": 20},
        "metrics": {
            "base.pubmedqa[dev].accuracy": 0.35, "merged.pubmedqa[dev].accuracy": 0.55,
            "change.pubmedqa[dev].accuracy": 0.2, "base.validation.perplexity": 30.1,
            "merged.validation.perplexity": 2.5
        },
        "samples": [{"id": "q1", "base": "no text of a sample", "merged": "is on a card"}],
        "samples_left_out": 1
    });
    card.merge = Some(merge);
    let text = card.text();
    assert!(!text.contains("no text of a sample") && !text.contains("is on a card"));
    let part = |from: &str, to: &str| {
        let text = &text[text.find(from).unwrap()..];
        text[..text.find(to).unwrap()].to_owned()
    };
    insta::assert_snapshot!(part("| weights of step", "| trained parameters"), @r#"| weights of step | 120, the best by pubmedqa\[dev\].accuracy |"#);
    insta::assert_snapshot!(part("The checkpoint was", "| metric |"), @r#"The checkpoint was chosen by items that pubmedqa\[dev\] asks: expect less on new ones."#);
    insta::assert_snapshot!(part("## Quick validation", "## Provenance"), @r#"
    ## Quick validation

    A look after the merge, at 20 items of pubmedqa\[dev\]: too few to report, enough to see a model that came out wrong.

    | metric | base | merged | change |
    |---|---:|---:|---:|
    | pubmedqa\[dev\].accuracy | 0.3500 | 0.5500 | 0.2000 |
    | validation.perplexity | 30.1000 | 2.5000 |  |
    "#);
}
