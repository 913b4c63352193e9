//! Whole model files: GGUF from its header to its logits, and SmolLM2 where it has been fetched.

use std::path::{Path, PathBuf};

use adapters::Method;
use candle_core::{DType, Device, Tensor};
use datasets::{Batch, Pack, Tokenized};
use finetune::{Base, Checkpoint, Decoder};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn open(path: &Path) -> (Checkpoint, Decoder) {
    let checkpoint = Checkpoint::open(&Base::Path(path.to_owned())).unwrap();
    let (decoder, _) = checkpoint
        .decoder(DType::F32, Method::Frozen, None, 0)
        .unwrap();
    (checkpoint, decoder)
}

fn logits(decoder: &Decoder, input_ids: Vec<u32>) -> Tensor {
    let loss_mask = vec![false; input_ids.len()];
    let sample = Tokenized {
        id: String::new(),
        sample: 0,
        input_ids,
        loss_mask,
    };
    decoder
        .logits(&Batch::from_packs([&Pack::single(&sample)]))
        .unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as u32)
        .collect()
}

/// Every block type, both tokenizer kinds, permuted and unpermuted q and k: ids and logits are transformers'.
#[test]
fn gguf_files_answer_as_transformers_reads_them() {
    let folder = root().join("tests/golden/gguf");
    let golden = json(&folder.join("golden.json"));
    for (name, entry) in golden.as_object().unwrap() {
        let (checkpoint, decoder) = open(&folder.join(format!("{name}.gguf")));
        let fixtures = candle_core::safetensors::load(
            folder.join(format!("{name}.safetensors")),
            &Device::Cpu,
        )
        .unwrap();
        let input_ids = fixtures["input_ids"]
            .flatten_all()
            .unwrap()
            .to_dtype(DType::U32)
            .unwrap();
        let ours = logits(&decoder, input_ids.to_vec1().unwrap());
        let theirs = fixtures["logits"].reshape(ours.shape()).unwrap();
        let difference = (ours - theirs)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        println!("{name}: max |difference| {difference:.2e}");
        assert!(difference <= 1e-4, "{name}: {difference:.2e}");

        // A SentencePiece vocabulary in a GGUF file is read as llama.cpp and LLaMA-2's published tokenizer.json read it:
        // a space before the text, and again after each control token. transformers' LlamaTokenizer does neither
        // of a text that begins with a space.
        let kind = match entry["tokenizer"].as_str().unwrap() {
            "llama2" => "llama2_json",
            kind => kind,
        };
        let texts = json(
            &root()
                .join("tests/golden/tokenizers")
                .join(kind)
                .join("golden.json"),
        );
        for text in texts["texts"].as_array().unwrap() {
            let content = text["text"].as_str().unwrap();
            let ours = checkpoint.tokenizer.encode(content, false).unwrap();
            assert_eq!(ours, ids(&text["ids"]), "{name}: {content:?}");
        }
    }
}

/// Runs where `scripts/fetch-smollm2` has been run.
#[test]
fn smollm2_agrees_with_transformers() {
    let models = root().join("models");
    let golden = json(&root().join("tests/golden/smollm2/golden.json"));
    let sampled = ids(&golden["sampled_ids"]);
    let paths =
        ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"].map(|n| models.join(n));
    let found: Vec<&PathBuf> = paths.iter().filter(|p| p.exists()).collect();
    if found.is_empty() {
        println!("skipped: run scripts/fetch-smollm2 to compare with the real model");
    }
    for path in found {
        let (checkpoint, decoder) = open(path);
        let (mut positions, mut worst) = (0, 0f64);
        for sequence in golden["sequences"].as_array().unwrap() {
            let rows = logits(&decoder, ids(&sequence["input_ids"]))
                .to_vec2::<f32>()
                .unwrap();
            let top1 = ids(&sequence["top1"]);
            assert_eq!(rows.len(), top1.len());
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(
                    finetune::argmax(row),
                    top1[i],
                    "{} position {i}",
                    path.display()
                );
                let expected = sequence["sampled_logits"][i].as_array().unwrap();
                for (id, expected) in sampled.iter().zip(expected) {
                    worst =
                        worst.max((row[*id as usize] as f64 - expected.as_f64().unwrap()).abs());
                }
                let top = row[top1[i] as usize] as f64;
                worst = worst.max((top - sequence["top1_logit"][i].as_f64().unwrap()).abs());
                positions += 1;
            }
        }
        println!(
            "{}: top-1 identical at {positions} positions, max |logit difference| {worst:.2e}",
            path.display()
        );
        assert_eq!(positions, 200);
        assert!(worst < 5e-3, "{worst}");
        for text in golden["texts"].as_array().unwrap() {
            let ours = checkpoint
                .tokenizer
                .encode(text["text"].as_str().unwrap(), false)
                .unwrap();
            assert_eq!(ours, ids(&text["ids"]), "{}", text["text"]);
        }
    }
}
