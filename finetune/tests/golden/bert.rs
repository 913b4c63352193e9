//! The encoders of BERTScore against transformers and the bert_score package, which `scripts/golden/bert.py` asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use eval::{Baseline, BertScorer, Embedder, TokenEmbeddings};
use finetune::bert::BertEncoder;
use serde_json::{Value, json};

const ENCODERS: [&str; 2] = ["bert", "roberta"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/bert")
        .join(name)
}

fn facts(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name).join("golden.json")).unwrap()).unwrap()
}

fn texts(facts: &Value) -> Vec<&str> {
    let texts = facts["texts"].as_array().unwrap();
    texts.iter().map(|text| text.as_str().unwrap()).collect()
}

fn open(path: &Path, layer: Option<usize>) -> BertEncoder {
    BertEncoder::open(path, "tiny", layer).unwrap()
}

/// A golden folder's copy that may be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Changes the tensors of a folder by name.
fn rewrite(folder: &Path, change: impl Fn(HashMap<String, Tensor>) -> HashMap<String, Tensor>) {
    let file = folder.join("model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    candle_core::safetensors::save(&change(tensors), file).unwrap();
}

fn renamed(folder: &Path, rename: impl Fn(&str) -> String) {
    rewrite(folder, |tensors| {
        tensors
            .into_iter()
            .map(|(name, t)| (rename(&name), t))
            .collect()
    });
}

fn edit_json(path: &Path, edit: impl Fn(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn hidden_states_of_every_layer_are_those_of_transformers() {
    for name in ENCODERS {
        let facts = facts(name);
        let texts = texts(&facts);
        let hidden = golden(name).join("hidden.safetensors");
        let hidden = candle_core::safetensors::load(hidden, &Device::Cpu).unwrap();
        let layers = hidden["hidden.0"].dim(0).unwrap() - 1;
        for layer in 0..=layers {
            // All together: nothing of one text may reach another.
            let embedded = open(&golden(name), Some(layer)).embed(&texts).unwrap();
            let mut worst = 0f32;
            for (index, text) in embedded.iter().enumerate() {
                assert_eq!(json!(text.ids), facts["ids"][index], "{name}, text {index}");
                let expected = hidden[&format!("hidden.{index}")].get(layer).unwrap();
                let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(text.vectors.len(), expected.len());
                for (ours, theirs) in text.vectors.iter().zip(expected) {
                    worst = worst.max((ours - theirs).abs());
                }
            }
            println!("{name} layer {layer}: max |difference| {worst:.2e}");
            assert!(worst <= 1e-5, "{name} layer {layer}: {worst:.2e}");
        }
    }
}

#[test]
fn precision_recall_and_f1_are_those_of_the_package() {
    for name in ENCODERS {
        let facts = facts(name);
        let pair = |pair: &'_ Value| [0, 1].map(|side| pair[side].as_str().unwrap().to_owned());
        let pairs: Vec<[String; 2]> = facts["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(pair)
            .collect();
        let pairs: Vec<(&str, Option<&str>)> = pairs
            .iter()
            .map(|[gold, answer]| (gold.as_str(), Some(answer.as_str())))
            .collect();
        let mut worst = 0f64;
        for case in facts["cases"].as_array().unwrap() {
            let layer = case["layer"].as_u64().unwrap() as usize;
            let rescaled = case["rescaled"] == true;
            let baseline = golden(name).join("baseline.tsv");
            let mut encoder = open(&golden(name), Some(layer));
            let mut scorer = BertScorer {
                embedder: &mut encoder,
                idf: case["idf"] == true,
                baseline: rescaled.then(|| Baseline::read(&baseline, layer).unwrap()),
            };
            let signature = scorer.signature().replace("tiny", "MODEL");
            let hash = case["hash"].as_str().unwrap();
            assert!(
                hash.starts_with(signature.trim_end_matches("_rescaled")),
                "{signature}, {hash}"
            );
            assert_eq!(signature.ends_with("_rescaled"), rescaled);
            let scores = scorer.score(&pairs).unwrap();
            for (index, score) in scores.scores.iter().enumerate() {
                let ours = [score.precision, score.recall, score.f1];
                for (value, expected) in ours
                    .into_iter()
                    .zip(case["scores"][index].as_array().unwrap())
                {
                    let difference = (value - expected.as_f64().unwrap()).abs();
                    worst = worst.max(difference);
                    assert!(
                        difference <= 1e-5,
                        "{name}, {hash}, pair {index}: {value}, {expected}"
                    );
                }
            }
            // Gold: the long text; answers: it in capitals and with two words more, and once more as it is.
            assert_eq!((scores.cut_gold, scores.cut_answers), (1, 2));
        }
        println!("{name}: max |difference| of P, R, F1 {worst:.2e}");
    }
}

#[test]
fn what_does_not_fit_is_cut_before_the_last_special_token_and_counted() {
    let facts = facts("bert");
    let mut encoder = open(&golden("bert"), Some(1));
    assert_eq!(encoder.max_tokens(), 24);
    for text in encoder.embed(&texts(&facts)).unwrap() {
        assert!(text.ids.len() <= 24);
        assert_eq!(text.ids.len() == 24, text.cut_tokens > 0);
        assert_eq!((text.ids[0], text.ids.last()), (2, Some(&3)));
    }
    // Without the tokenizer's limit, the model's: 32 positions.
    let folder = copy("bert");
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let words = "the ".repeat(41);
    let longer = &open(folder.path(), Some(1)).embed(&[&words]).unwrap()[0];
    assert_eq!((longer.ids.len(), longer.cut_tokens), (32, 41 + 2 - 32));
}

/// The vectors of every golden text at the last layer.
fn vectors(path: &Path, facts: &Value) -> Vec<TokenEmbeddings> {
    open(path, None).embed(&texts(facts)).unwrap()
}

#[test]
fn checkpoints_are_read_under_each_of_their_names() {
    let facts_of = ENCODERS.map(facts);
    let [bert, roberta] = [0, 1].map(|i| vectors(&golden(ENCODERS[i]), &facts_of[i]));
    let folder = copy("bert");
    renamed(folder.path(), |name| {
        name.trim_start_matches("bert.").to_owned()
    });
    assert_eq!(vectors(folder.path(), &facts_of[0]), bert, "no prefix");
    renamed(folder.path(), |name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta")
    });
    assert_eq!(vectors(folder.path(), &facts_of[0]), bert, "gamma and beta");
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    std::fs::copy(
        golden("bert").join("vocab.txt"),
        folder.path().join("vocab.txt"),
    )
    .unwrap();
    assert_eq!(vectors(folder.path(), &facts_of[0]), bert, "vocab.txt");
    let folder = copy("roberta");
    renamed(folder.path(), |name| format!("roberta.{name}"));
    assert_eq!(
        vectors(folder.path(), &facts_of[1]),
        roberta,
        "roberta. before every name"
    );
}

#[test]
fn half_precision_weights_are_widened() {
    let folder = copy("bert");
    let halved = |tensors: HashMap<String, Tensor>, dtype| -> HashMap<String, Tensor> {
        let half = |(name, t): (String, Tensor)| {
            (
                name,
                t.to_dtype(DType::F16).unwrap().to_dtype(dtype).unwrap(),
            )
        };
        tensors.into_iter().map(half).collect()
    };
    let facts = facts("bert");
    rewrite(folder.path(), |tensors| halved(tensors, DType::F16));
    let half = vectors(folder.path(), &facts);
    rewrite(folder.path(), |tensors| halved(tensors, DType::F32));
    for (half, wide) in half.iter().zip(vectors(folder.path(), &facts)) {
        for (a, b) in half.vectors.iter().zip(wide.vectors) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for name in ENCODERS {
        let facts = facts(name);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| vectors(&golden(name), &facts))
        };
        let one = on(1);
        for threads in [2, 3, 7] {
            assert_eq!(on(threads), one, "{name} on {threads} threads");
        }
    }
}

/// Message and hint of what a changed copy of the BERT is refused with.
fn refusal(change: impl Fn(&Path), layer: Option<usize>) -> String {
    let folder = copy("bert");
    change(folder.path());
    let Err(error) = BertEncoder::open(folder.path(), "tiny", layer) else {
        panic!("it was not refused");
    };
    let text = format!("{error}\nhint: {}", error.hint().unwrap_or_default());
    text.replace(&folder.path().display().to_string(), "FOLDER")
}

#[test]
fn what_is_no_encoder_is_refused_by_name() {
    let config =
        |edit: fn(&mut Value)| move |folder: &Path| edit_json(&folder.join("config.json"), edit);
    insta::assert_snapshot!(refusal(config(|json| json["model_type"] = json!("llama")), None), @r#"
    FOLDER holds a model of type "llama", and BERTScore needs an encoder
    hint: name a folder whose config.json says one of the types bert, roberta, such as bert-base-multilingual-cased or roberta-large
    "#);
    insta::assert_snapshot!(refusal(|_| {}, Some(4)), @"
    eval.bert_score.layer is 4, and FOLDER has 3 layers
    hint: write 1 to 3, 0 for the embeddings before the first layer, or leave it out
    ");
    let query = "bert.encoder.layer.1.attention.self.query.weight";
    let without = |folder: &Path| {
        rewrite(folder, |mut tensors| {
            tensors.remove(query);
            tensors
        });
    };
    insta::assert_snapshot!(refusal(without, None), @"
    the weights have no tensor `bert.encoder.layer.1.attention.self.query.weight`
    hint: the nearest name is `bert.encoder.layer.0.attention.self.query.weight`; do config.json and the weights belong together?
    ");
    // A layer above the one asked for is not read.
    let folder = copy("bert");
    without(folder.path());
    assert_eq!(open(folder.path(), Some(1)).layer(), 1);
    let turned = |folder: &Path| {
        rewrite(folder, |mut tensors| {
            let name = "bert.encoder.layer.0.output.dense.weight";
            let turned = tensors[name].t().unwrap().contiguous().unwrap();
            tensors.insert(name.into(), turned);
            tensors
        });
    };
    insta::assert_snapshot!(refusal(turned, None), @"
    tensor `bert.encoder.layer.0.output.dense.weight` has shape (40, 24), and the configuration needs (24, 40)
    hint: config.json and the weights do not belong together
    ");
    insta::assert_snapshot!(refusal(|folder| {
        edit_json(&folder.join("tokenizer.json"), |json| {
            let token = json!({"id": 999, "content": "[NEW]", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true});
            json["added_tokens"].as_array_mut().unwrap().push(token);
            json["model"]["vocab"]["[NEW]"] = json!(999);
        });
    }, None), @"
    the tokenizer has 1000 tokens, but the model's embedding has 340 rows
    hint: use the tokenizer the model came with, or a checkpoint whose embedding was resized for the added tokens
    ");
    insta::assert_snapshot!(refusal(|folder| {
        edit_json(&folder.join("tokenizer.json"), |json| json["post_processor"] = Value::Null);
    }, None), @"
    the tokenizer of FOLDER puts 0 tokens around a text, where an encoder has one before it and one behind it
    hint: use the tokenizer's files that the encoder was published with
    ");
    insta::assert_snapshot!(refusal(|folder| {
        edit_json(&folder.join("tokenizer_config.json"), |json| json["model_max_length"] = json!(2));
    }, None), @"
    tokenizer_config.json of FOLDER says model_max_length = 2, which leaves no room for a token between two special ones
    hint: use the tokenizer's files that the encoder was published with
    ");
    insta::assert_snapshot!(refusal(|folder| {
        std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
        std::fs::write(folder.join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\nthe\n").unwrap();
    }, None), @"
    FOLDER/vocab.txt: it has no [SEP]
    hint: is the file whole? Compare its size with the publisher's
    ");
    insta::assert_snapshot!(refusal(|folder| {
        std::fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    }, None), @"
    FOLDER holds only pickled weights (pytorch_model.bin), which medtune does not read
    hint: pickled files can run code when they are opened: convert them to safetensors with transformers' save_pretrained(safe_serialization=True)
    ");
}
