//! GGUF files written: what comes back from them, and what must be refused.

use crate::gguf_writer::tiny;
use crate::support::{distance, golden, lora, numbers, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{
    ExportOptions, GgufMetadata, GgufReport, GgufType, GgufValue, Init, TensorSpec, Weights,
    convert, export_gguf, export_gguf_lora, merge,
};
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

const ARCHITECTURES: [&str; 9] = [
    "llama",
    "llama3_rope",
    "llama_gqa",
    "llama_linear_rope",
    "mistral_window",
    "qwen2",
    "qwen3",
    "smollm2_tiny",
    "tinyllama",
];
const TYPES: [GgufType; 5] = [
    GgufType::F32,
    GgufType::F16,
    GgufType::BF16,
    GgufType::Q8_0,
    GgufType::Q4K,
];

fn export(weights: &Weights, out: &Path, kind: GgufType) -> adapters::Result<GgufReport> {
    let vocabulary = GgufMetadata::from_iter([(
        "tokenizer.ggml.model".to_owned(),
        GgufValue::String("none".into()),
    )]);
    export_gguf(weights, &vocabulary, out, kind)
}

/// Through `dtype` and back.
fn rounded(tensor: &Tensor, dtype: DType) -> Tensor {
    let tensor = tensor.to_dtype(dtype).unwrap();
    tensor.to_dtype(DType::F32).unwrap()
}

/// A model whose rows are whole blocks of 256, and of which nothing is square or like anything else.
fn wide(layers: usize, seed: u64) -> Weights {
    let config = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": layers,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 34, "vocab_size": 37,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        specs.push(TensorSpec {
            name,
            shape: shape.into(),
            init: Init::Normal { std: 0.3 },
        });
    };
    for table in ["model.embed_tokens", "lm_head"] {
        add(format!("{table}.weight"), &[37, 256]);
    }
    add("model.norm.weight".into(), &[256]);
    for layer in 0..layers {
        let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
        add(name("input_layernorm"), &[256]);
        add(name("post_attention_layernorm"), &[256]);
        add(name("self_attn.q_proj"), &[102, 256]);
        add(name("self_attn.k_proj"), &[34, 256]);
        add(name("self_attn.v_proj"), &[34, 256]);
        add(name("self_attn.o_proj"), &[256, 102]);
        add(name("mlp.gate_proj"), &[512, 256]);
        add(name("mlp.up_proj"), &[512, 256]);
        add(name("mlp.down_proj"), &[256, 512]);
    }
    Weights::random(config, specs, seed)
}

/// A file as candle reads it.
struct Candle {
    file: File,
    content: Content,
}

impl Candle {
    fn open(path: &Path) -> Self {
        let mut file = File::open(path).unwrap();
        let content = Content::read(&mut file).unwrap();
        Self { file, content }
    }

    fn tensor(&mut self, name: &str) -> Tensor {
        let stored = self.content.tensor(&mut self.file, name, &Device::Cpu);
        stored.unwrap().dequantize(&Device::Cpu).unwrap()
    }
}

#[test]
fn every_architecture_comes_back_rounded_once() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        let base = Weights::open(&golden(architecture)).unwrap();
        let floats = [
            (GgufType::F32, DType::F32),
            (GgufType::F16, DType::F16),
            (GgufType::BF16, DType::BF16),
        ];
        for (kind, dtype) in floats {
            let out = dir.path().join(format!("{architecture}-{dtype:?}.gguf"));
            let report = export(&base, &out, kind).unwrap();
            assert_eq!(report.bytes, out.metadata().unwrap().len());
            assert!(report.fallbacks.is_empty() && report.left_out.is_empty());
            let read = Weights::open(&out).unwrap();
            assert!(base.names().eq(read.names()), "{architecture}");
            for view in base.views() {
                let stored = if view.shape.len() == 2 {
                    dtype
                } else {
                    DType::F32
                };
                let expected = rounded(&view.tensor(DType::F32).unwrap(), stored);
                let found = read.view(&view.name).unwrap();
                assert_eq!(
                    found.float_dtype(),
                    Some(stored),
                    "{architecture} {}",
                    view.name
                );
                let found = found.tensor(DType::F32).unwrap();
                assert_eq!(
                    distance(&found, &expected),
                    0.0,
                    "{architecture} {}",
                    view.name
                );
            }
        }
    }
}

/// The keys that change the mathematics, in whichever dialect the folder states them.
#[test]
fn every_configuration_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        let base = Weights::open(&golden(architecture)).unwrap();
        let out = dir.path().join(format!("{architecture}.gguf"));
        export(&base, &out, GgufType::F32).unwrap();
        let read = Weights::open(&out).unwrap();
        let (stated, found) = (base.config(), read.config());
        let same = [
            "model_type",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
            "max_position_embeddings",
            "rms_norm_eps",
            "tie_word_embeddings",
        ];
        for key in same {
            // Where a folder leaves the width of a head out, it is that of the heads together by their number.
            if key == "head_dim" && stated[key].is_null() {
                continue;
            }
            let alike = stated[key] == found[key] || stated[key].as_f64() == found[key].as_f64();
            assert!(
                alike,
                "{architecture} {key}: {} {}",
                stated[key], found[key]
            );
        }
        if architecture == "mistral_window" {
            assert_eq!(stated["sliding_window"], found["sliding_window"]);
        }
        let rope = &stated["rope_parameters"];
        assert_eq!(rope["rope_theta"].as_f64(), found["rope_theta"].as_f64());
        let scaling = &found["rope_scaling"];
        match rope["rope_type"].as_str() {
            Some("default") => assert!(scaling.is_null(), "{architecture}"),
            _ => {
                let keys = rope.as_object().unwrap().iter();
                for (key, value) in keys.filter(|(key, _)| *key != "rope_theta") {
                    let alike = &scaling[key] == value || scaling[key].as_f64() == value.as_f64();
                    assert!(alike, "{architecture} {key}");
                }
            }
        }
    }
}

/// Transformers 4's dialect says the same in other words.
#[test]
fn both_dialects_give_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in ["llama3_rope", "llama_linear_rope", "qwen3"] {
        let folder = dir.path().join(architecture);
        std::fs::create_dir(&folder).unwrap();
        let from = golden(architecture);
        std::fs::copy(from.join("config.v4.json"), folder.join("config.json")).unwrap();
        std::fs::copy(
            from.join("model.safetensors"),
            folder.join("model.safetensors"),
        )
        .unwrap();
        let bytes = |weights: &Path| {
            let out = dir.path().join("out.gguf");
            export(&Weights::open(weights).unwrap(), &out, GgufType::F16).unwrap();
            std::fs::read(out).unwrap()
        };
        assert!(bytes(&from) == bytes(&folder), "{architecture}");
    }
}

#[test]
fn blocks_are_candle_s() {
    let dir = tempfile::tempdir().unwrap();
    let base = wide(3, 7);
    for (kind, name) in [(GgufType::Q8_0, "q8_0"), (GgufType::Q4K, "q4_k")] {
        let out = dir.path().join(format!("{name}.gguf"));
        let report = export(&base, &out, kind).unwrap();
        let read = Weights::open(&out).unwrap();
        let mut seen = BTreeMap::new();
        for view in base.views() {
            let found = read.view(&view.name).unwrap();
            *seen.entry(found.dtype_name()).or_insert(0) += 1;
            let plain = view.tensor(DType::F32).unwrap();
            let ones = vec![1.0; *view.shape.last().unwrap()];
            let expected = match found.dtype_name().as_str() {
                "F32" => plain,
                "F16" => rounded(&plain, DType::F16),
                "Q8_0" => dequantized(QTensor::quantize(&plain, GgmlDType::Q8_0)),
                "Q5_0" => dequantized(QTensor::quantize(&plain, GgmlDType::Q5_0)),
                "Q6_K" => dequantized(QTensor::quantize(&plain, GgmlDType::Q6K)),
                "Q4_K" => dequantized(QTensor::quantize_imatrix(&plain, &ones, GgmlDType::Q4K)),
                other => panic!("{other}"),
            };
            let found = found.tensor(DType::F32).unwrap();
            assert_eq!(distance(&found, &expected), 0.0, "{name} {}", view.name);
        }
        let counted = report
            .types
            .iter()
            .map(|(kind, n)| ((*kind).to_owned(), *n));
        assert_eq!(seen, counted.collect());
    }
}

fn dequantized(tensor: candle_core::Result<QTensor>) -> Tensor {
    tensor.unwrap().dequantize(&Device::Cpu).unwrap()
}

/// llama.cpp's Q4_K_M: six bits for the head and, in some layers, for v and down; rows of 102 are blocks of nothing.
#[test]
fn a_mixture_is_llama_cpp_s() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q4_k.gguf");
    let report = export(&wide(16, 3), &out, GgufType::Q4K).unwrap();
    let read = Candle::open(&out);
    let six = |name: &str| {
        let kinds = read.content.tensor_infos.iter();
        let mut layers: Vec<usize> = kinds
            .filter(|(key, info)| key.contains(name) && info.ggml_dtype == GgmlDType::Q6K)
            .map(|(key, _)| key.split('.').nth(1).unwrap().parse().unwrap())
            .collect();
        layers.sort();
        layers
    };
    // The first two and the last two of sixteen, and 4, 7, 10, 13 between.
    for name in ["attn_v", "ffn_down"] {
        assert_eq!(six(name), [0, 1, 4, 7, 10, 13, 14, 15]);
    }
    for name in ["attn_q", "attn_k", "ffn_gate", "ffn_up"] {
        assert!(six(name).is_empty());
    }
    let kind = |name: &str| read.content.tensor_infos[name].ggml_dtype;
    assert_eq!(kind("output.weight"), GgmlDType::Q6K);
    assert_eq!(kind("token_embd.weight"), GgmlDType::Q4K);
    assert_eq!(kind("output_norm.weight"), GgmlDType::F32);
    assert_eq!(report.fallbacks.len(), 16);
    let first = serde_json::to_value(&report.fallbacks[0]).unwrap();
    let expected = json!({"tensor": "blk.0.attn_output.weight", "columns": 102, "wanted": "Q4_K", "used": "F16"});
    assert_eq!(first, expected);
}

#[test]
fn rows_that_are_no_blocks_get_the_nearest_type() {
    let dir = tempfile::tempdir().unwrap();
    // Rows of 32 and of 44; the table is tied, so it stands for the head.
    let base = Weights::open(&golden("smollm2_tiny")).unwrap();
    let out = dir.path().join("out.gguf");
    let report = export(&base, &out, GgufType::Q4K).unwrap();
    let of = |name: &str| {
        let found = report.fallbacks.iter().find(|f| f.tensor.contains(name));
        found.map(|f| (f.columns, f.wanted, f.used)).unwrap()
    };
    let width = base.config()["hidden_size"].as_u64().unwrap() as usize;
    let inner = base.config()["intermediate_size"].as_u64().unwrap() as usize;
    let used = |columns: usize, block| {
        if columns.is_multiple_of(32) {
            block
        } else {
            "F16"
        }
    };
    assert_eq!(of("token_embd"), (width, "Q6_K", used(width, "Q8_0")));
    assert_eq!(of("blk.1.attn_k"), (width, "Q4_K", used(width, "Q5_0")));
    assert_eq!(of("blk.0.ffn_down").2, used(inner, "Q5_0"));
    let report = export(&base, &out, GgufType::Q8_0).unwrap();
    assert!(
        report
            .fallbacks
            .iter()
            .all(|f| f.wanted == "Q8_0" && f.used == "F16")
    );
}

/// A block of one number, of zeros, and of a number alone among zeros.
#[test]
fn constant_blocks_keep_their_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = std::collections::HashMap::new();
    let base = wide(1, 5);
    for view in base.views() {
        files.insert(view.name.clone(), view.tensor(DType::F32).unwrap());
    }
    let mut odd = vec![0.0f32; 37 * 256];
    odd[256..512].fill(0.25);
    odd[512..768].fill(-0.75);
    odd[800] = 3.0;
    let odd = Tensor::from_vec(odd, (37, 256), &Device::Cpu).unwrap();
    files.insert("model.embed_tokens.weight".into(), odd.clone());
    let folder = dir.path().join("odd");
    std::fs::create_dir(&folder).unwrap();
    candle_core::safetensors::save(&files, folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), base.config().to_string()).unwrap();
    let base = Weights::open(&folder).unwrap();
    for (kind, tolerance) in [(GgufType::Q8_0, 0.012), (GgufType::Q4K, 0.03)] {
        let out = dir.path().join("odd.gguf");
        export(&base, &out, kind).unwrap();
        let read = Weights::open(&out).unwrap();
        let found = read.view("model.embed_tokens.weight").unwrap();
        let found = found.tensor(DType::F32).unwrap();
        assert!(
            distance(&found, &odd) < tolerance,
            "{kind:?} {}",
            distance(&found, &odd)
        );
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let base = wide(2, 9);
    for kind in TYPES {
        let bytes = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let out = dir.path().join(format!("{threads}.gguf"));
            pool.install(|| export(&base, &out, kind)).unwrap();
            std::fs::read(out).unwrap()
        };
        let one = bytes(1);
        assert!(one == bytes(5) && one == bytes(2), "{kind:?}");
    }
}

#[test]
fn a_gguf_base_keeps_its_metadata_and_its_blocks() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["smollm", "spm", "llama_bpe", "qwen2"] {
        let path = golden(&format!("gguf/{name}.gguf"));
        let base = Weights::open(&path).unwrap();
        for kind in TYPES {
            let out = dir.path().join("out.gguf");
            export_gguf(&base, &GgufMetadata::default(), &out, kind).unwrap();
            let read = Weights::open(&out).unwrap();
            for key in base.gguf().unwrap().keys() {
                let stands = ["general.file_type", "general.quantization_version"].contains(&key);
                let (was, is) = (base.gguf().unwrap().get(key), read.gguf().unwrap().get(key));
                assert!(stands || was == is, "{name} {key}");
            }
            for view in base.views() {
                let found = read.view(&view.name).unwrap();
                let kept = found.dtype_name() == view.dtype_name();
                if kept || kind == GgufType::F32 {
                    let (a, b) = (view.tensor(DType::F32), found.tensor(DType::F32));
                    let far = distance(&a.unwrap(), &b.unwrap());
                    assert_eq!(far, 0.0, "{name} {} {kind:?}", view.name);
                }
            }
        }
        let out = dir.path().join("copy.gguf");
        std::fs::copy(&path, &out).unwrap();
        let base = Weights::open(&out).unwrap();
        let found = refused(export(&base, &out, GgufType::F16));
        insta::allow_duplicates! {
            insta::assert_snapshot!(shown(&found, dir.path()), @r"
            DIR/copy.gguf is the base model itself
            hint: choose another folder for the result
            ");
        }
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&out).unwrap());
    }
}

/// A folder of a GGUF file, and that file again.
#[test]
fn converting_and_exporting_are_inverses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, tiny().bytes()).unwrap();
    let base = Weights::open(&path).unwrap();
    let folder = dir.path().join("folder");
    convert(&base, &folder, &ExportOptions::default()).unwrap();
    let out = dir.path().join("again.gguf");
    export(&Weights::open(&folder).unwrap(), &out, GgufType::F32).unwrap();
    let (mut was, mut is) = (Candle::open(&path), Candle::open(&out));
    assert_eq!(
        was.content.tensor_infos.len(),
        is.content.tensor_infos.len()
    );
    for name in was.content.tensor_infos.keys().cloned().collect::<Vec<_>>() {
        assert_eq!(
            distance(&was.tensor(&name), &is.tensor(&name)),
            0.0,
            "{name}"
        );
    }
}

/// The base's file with `factor` · B A added is the merged model's file, rows of q and k and all.
#[test]
fn an_adapter_is_what_the_merge_adds() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        let base = Weights::open(&golden(architecture)).unwrap();
        let adapter = PeftAdapter::load(&golden(architecture).join("adapter")).unwrap();
        let merged = dir.path().join(format!("{architecture}-merged"));
        merge(&base, &adapter, &merged, &Default::default()).unwrap();
        let file = |name: &str| dir.path().join(format!("{architecture}-{name}.gguf"));
        export(&base, &file("base"), GgufType::F32).unwrap();
        export(
            &Weights::open(&merged).unwrap(),
            &file("merged"),
            GgufType::F32,
        )
        .unwrap();
        let report = export_gguf_lora(&adapter, &base, &file("lora"), GgufType::F32).unwrap();
        assert_eq!(report.tensors, 2 * adapter.modules().count());
        let (mut base, mut merged) = (Candle::open(&file("base")), Candle::open(&file("merged")));
        let mut lora = Candle::open(&file("lora"));
        let key = |name: &str| lora.content.metadata[name].clone();
        assert_eq!(key("general.type").to_string().unwrap(), "adapter");
        assert_eq!(key("adapter.type").to_string().unwrap(), "lora");
        let alpha = key("adapter.lora.alpha").to_f32().unwrap();
        for name in base
            .content
            .tensor_infos
            .keys()
            .cloned()
            .collect::<Vec<_>>()
        {
            let mut expected = base.tensor(&name);
            if lora
                .content
                .tensor_infos
                .contains_key(&format!("{name}.lora_a"))
            {
                let a = lora.tensor(&format!("{name}.lora_a"));
                let b = lora.tensor(&format!("{name}.lora_b"));
                let factor = f64::from(alpha) / a.dim(0).unwrap() as f64;
                expected = (expected + (b.matmul(&a).unwrap() * factor).unwrap()).unwrap();
            }
            let far = distance(&merged.tensor(&name), &expected);
            assert!(far < 3e-6, "{architecture} {name}: {far}");
        }
    }
}

#[test]
fn an_adapter_in_fewer_bits() {
    let dir = tempfile::tempdir().unwrap();
    let base = Weights::open(&golden("llama")).unwrap();
    let adapter = PeftAdapter::load(&golden("llama").join("adapter")).unwrap();
    let out = dir.path().join("lora.gguf");
    let report = export_gguf_lora(&adapter, &base, &out, GgufType::Q8_0).unwrap();
    // A's rows are as wide as the model, B's as wide as the rank.
    assert!(report.types["Q8_0"] > 0 && report.types["F16"] > 0);
    assert!(
        report
            .fallbacks
            .iter()
            .any(|f| f.tensor.ends_with(".lora_b") && f.columns == 4)
    );
    let (a, _) = adapter.pair("model.layers.0.self_attn.q_proj").unwrap();
    let stored = Candle::open(&out).tensor("blk.0.attn_q.weight.lora_a");
    let largest = a
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap();
    let far = distance(&stored, a);
    assert!(far > 0.0 && far <= f64::from(largest) / 127.0);
}

#[test]
fn adapters_that_the_format_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("lora.gguf");
    let base = Weights::open(&golden("llama")).unwrap();
    let error = |adapter: &PeftAdapter, kind: GgufType| {
        let found = refused(export_gguf_lora(adapter, &base, &out, kind));
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
        shown(&found, dir.path())
    };
    let load = |name: &str| PeftAdapter::load(&golden("llama").join(name)).unwrap();
    insta::assert_snapshot!(error(&load("dora"), GgufType::F32), @r"
    a GGUF adapter has no place for DoRA's magnitudes, which this adapter has
    hint: merge the adapter into its base with `medtune merge`, and export the merged model
    ");
    insta::assert_snapshot!(error(&load("saved"), GgufType::F32), @r"
    a GGUF adapter has no place for modules saved whole, which this adapter has
    hint: merge the adapter into its base with `medtune merge`, and export the merged model
    ");
    insta::assert_snapshot!(error(&load("adapter"), GgufType::Q4K), @"dtype q4_k is not one of f32, f16, bf16, q8_0 for an adapter");
    let on = |module: &str, out: usize| {
        let key = |which: &str| format!("base_model.model.{module}.{which}.weight");
        let tensors = BTreeMap::from([
            (key("lora_A"), tensor((2, 32), DType::F32, 3)),
            (key("lora_B"), tensor((out, 2), DType::F32, 4)),
        ]);
        let config = PeftConfig {
            lora: lora(2, 3.0, 0.0, &["q_proj"]),
            ensure_weight_tying: false,
            base_model: None,
        };
        PeftAdapter {
            config,
            tensors,
            belonging: None,
        }
    };
    insta::assert_snapshot!(error(&on("model.layers.9.self_attn.q_proj", 32), GgufType::F32), @r"
    the adapter was made for a module `model.layers.9.self_attn.q_proj`, which this base does not have
    hint: the adapter belongs to another base model; the nearest name in this one is `model.layers.0.self_attn.q_proj`
    ");
    insta::assert_snapshot!(error(&on("model.layers.0.self_attn.q_proj", 33), GgufType::F32), @r"
    adapter tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight` has shape (33, 2), and this base needs (32, 2)
    hint: the adapter belongs to another base model
    ");
    insta::assert_snapshot!(error(&on("model.embed_tokens", 97), GgufType::F32), @r"
    a GGUF adapter has no place for a low-rank update of the embedding, which this adapter has
    hint: merge the adapter into its base with `medtune merge`, and export the merged model
    ");
}

/// The golden llama with its tensors and its configuration changed.
fn changed(
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(&mut std::collections::HashMap<String, Tensor>),
    kind: GgufType,
) -> String {
    let dir = tempfile::tempdir().unwrap();
    let from = golden("llama");
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config(&mut json);
    let mut all = crate::support::read_tensors(&from.join("model.safetensors"));
    tensors(&mut all);
    candle_core::safetensors::save(&all, dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    let base = Weights::open(dir.path()).unwrap();
    let out = dir.path().join("out.gguf");
    let found = refused(export(&base, &out, kind));
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "a failed export leaves nothing");
    shown(&found, dir.path())
}

#[test]
fn models_that_are_not_written() {
    let set = |key: &'static str, value: Value| changed(|c| c[key] = value, |_| {}, GgufType::F32);
    insta::assert_snapshot!(set("model_type", json!("gemma3")), @r"
    model_type `gemma3` is not one that medtune writes as GGUF
    hint: llama, mistral, qwen2 and qwen3 are written
    ");
    insta::assert_snapshot!(set("num_hidden_layers", json!(1)), @r"
    tensor `model.layers.1.input_layernorm.weight` has no place in a GGUF file of a `llama` model
    hint: config.json and the weights do not belong together, or the model is of another family
    ");
    insta::assert_snapshot!(set("num_hidden_layers", json!(4_000_000_000u64)), @r"
    the weights have no tensor `model.layers.2.input_layernorm.weight`
    hint: the nearest name is `model.layers.0.input_layernorm.weight`; do config.json and the weights belong together?
    ");
    insta::assert_snapshot!(set("vocab_size", json!(98)), @r"
    tensor `lm_head.weight` has shape (97, 32), and the configuration needs (98, 32)
    hint: config.json and the weights do not belong together
    ");
    insta::assert_snapshot!(set("head_dim", json!(7)), @r"
    config.json: `head_dim` is not even
    hint: config.json is not as its publisher left it, or the model is of another family
    ");
    insta::assert_snapshot!(set("hidden_size", json!("32")), @r#"
    config.json: `hidden_size` is "32", not a whole number below 2^32
    hint: config.json is not as its publisher left it, or the model is of another family
    "#);
    insta::assert_snapshot!(set("rope_parameters", json!({"rope_type": "yarn", "factor": 2.0})), @r"
    config.json: `rope_type` is `yarn`, which is not written
    hint: config.json is not as its publisher left it, or the model is of another family
    ");
    insta::assert_snapshot!(set("rms_norm_eps", json!(0.0)), @r"
    config.json: `rms_norm_eps` is missing or not a positive number
    hint: config.json is not as its publisher left it, or the model is of another family
    ");
    insta::assert_snapshot!(set("use_sliding_window", json!(true)), @r"
    config.json: `use_sliding_window` is on, which is not written
    hint: config.json is not as its publisher left it, or the model is of another family
    ");
    let extra = |all: &mut std::collections::HashMap<String, Tensor>| {
        all.insert(
            "model.layers.0.mlp.router.weight".into(),
            tensor((3, 5), DType::F32, 1),
        );
    };
    insta::assert_snapshot!(changed(|_| {}, extra, GgufType::F32), @r"
    tensor `model.layers.0.mlp.router.weight` has no place in a GGUF file of a `llama` model
    hint: config.json and the weights do not belong together, or the model is of another family
    ");
}

#[test]
fn numbers_that_a_type_has_no_room_for() {
    let with = |value: f32, kind: GgufType| {
        let put = |all: &mut std::collections::HashMap<String, Tensor>| {
            let mut values = numbers(32 * 32, 8);
            values[5 * 32 + 3] = value;
            let odd = Tensor::from_vec(values, (32, 32), &Device::Cpu).unwrap();
            all.insert("model.layers.1.self_attn.v_proj.weight".into(), odd);
        };
        changed(|_| {}, put, kind)
    };
    insta::assert_snapshot!(with(f32::NAN, GgufType::Q8_0), @r"
    tensor `model.layers.1.self_attn.v_proj.weight` holds a value that is not finite (element 163)
    hint: the training run that wrote it diverged: use an earlier checkpoint
    ");
    insta::assert_snapshot!(with(1e6, GgufType::Q8_0), @r"
    tensor `model.layers.1.self_attn.v_proj.weight` holds 1000000, beyond the largest f16 number
    hint: write bf16 or f32 instead
    ");
    insta::assert_snapshot!(with(-7e4, GgufType::F16), @r"
    tensor `model.layers.1.self_attn.v_proj.weight` holds -70000, beyond the largest f16 number
    hint: write bf16 or f32 instead
    ");
}

/// A table that is tied and stored twice all the same is written once.
#[test]
fn a_second_copy_of_a_tied_table_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let from = golden("smollm2_tiny");
    let mut all = crate::support::read_tensors(&from.join("model.safetensors"));
    all.insert(
        "lm_head.weight".into(),
        all["model.embed_tokens.weight"].clone(),
    );
    candle_core::safetensors::save(&all, dir.path().join("model.safetensors")).unwrap();
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let out = dir.path().join("out.gguf");
    let report = export(&Weights::open(dir.path()).unwrap(), &out, GgufType::F16).unwrap();
    assert_eq!(report.left_out, ["lm_head.weight"]);
    assert!(!Weights::open(&out).unwrap().has("lm_head.weight"));
}

/// A kill leaves `.partial`; the next attempt takes its place.
#[test]
fn what_an_interrupted_export_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let base = Weights::open(&golden("qwen2")).unwrap();
    let out = dir.path().join("out.gguf");
    std::fs::write(dir.path().join("out.gguf.partial"), vec![7; 1 << 20]).unwrap();
    export(&base, &out, GgufType::F32).unwrap();
    assert!(Weights::open(&out).is_ok());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
