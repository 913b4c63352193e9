//! GGUF files: what is in them, and what must be refused.

use crate::gguf_writer::{Gguf, Value, tiny};
use crate::support::{
    change_every_byte, distance, golden, read_tensors, refuse_every_prefix, refused, shown,
};
use adapters::{GgufValue, Weights};
use candle_core::{DType, Device, Tensor};
use std::path::PathBuf;

fn write(gguf: &Gguf) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, gguf.bytes()).unwrap();
    (dir, path)
}

fn open(gguf: &Gguf) -> adapters::Result<Weights> {
    let (_dir, path) = write(gguf);
    Weights::open(&path)
}

fn error(gguf: &Gguf) -> String {
    let (dir, path) = write(gguf);
    shown(&refused(Weights::open(&path)), dir.path())
}

/// Four architectures and tokenizers, every block type, written by the gguf package and read by transformers.
#[test]
fn tensors_and_configuration_are_those_that_transformers_reads() {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("gguf/golden.json")).unwrap()).unwrap();
    for (name, golden_file) in json.as_object().unwrap() {
        let weights = Weights::open(&golden(&format!("gguf/{name}.gguf"))).unwrap();
        for (key, expected) in golden_file["config"].as_object().unwrap() {
            let found = &weights.config()[key];
            match key.as_str() {
                "rms_norm_eps" => assert_eq!(found.as_f64(), Some(1e-5)),
                _ => assert_eq!(found, expected, "{name} {key}"),
            }
        }
        let mut compared = 0;
        for (key, expected) in read_tensors(&golden(&format!("gguf/{name}.safetensors"))) {
            if let Some(tensor) = key.strip_prefix("whole.") {
                let found = weights.view(tensor).unwrap().tensor(DType::F32).unwrap();
                assert!(distance(&found, &expected) < 1e-6, "{name} {tensor}");
            } else if let Some(tensor) = key.strip_prefix("rows.") {
                let found = weights.view(tensor).unwrap().tensor(DType::F32).unwrap();
                let n = found.dim(0).unwrap() as u32;
                let rows = Tensor::new(&[0, 1, n / 2, n - 1], &Device::Cpu).unwrap();
                let found = found.index_select(&rows, 0).unwrap();
                assert!(distance(&found, &expected) < 1e-6, "{name} {tensor}");
            } else {
                continue;
            }
            compared += 1;
        }
        assert_eq!(compared, weights.names().count(), "{name}");
    }
}

#[test]
fn both_versions_are_read_with_names_shapes_and_metadata() {
    for version in [2, 3] {
        let weights = open(&Gguf { version, ..tiny() }).unwrap();
        let names: Vec<&str> = weights.names().collect();
        assert_eq!(names.len(), 11);
        assert!(names.contains(&"model.layers.0.mlp.down_proj.weight"));
        let view = weights.view("model.layers.0.mlp.down_proj.weight").unwrap();
        assert_eq!(view.shape, [8, 12]);
        assert_eq!(view.dtype_name(), "F32");
        let metadata = weights.gguf().unwrap();
        assert_eq!(metadata.integer("tokenizer.ggml.eos_token_id"), Some(4));
        assert_eq!(metadata.boolean("tokenizer.ggml.add_bos_token"), Some(true));
        assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap()[3], "<s>");
        assert_eq!(
            metadata.integers("tokenizer.ggml.token_type"),
            Some(&[1, 1, 1, 3, 3][..])
        );
        assert_eq!(metadata.numbers("tokenizer.ggml.scores").unwrap()[1], -1.0);
        assert_eq!(metadata.string("general.architecture"), Some("llama"));
        assert_eq!(metadata.get("general.file_type"), Some(&GgufValue::Int(0)));
        assert_eq!(metadata.string("llama.block_count"), None);
        assert!(weights.folder().is_none());
    }
}

#[test]
fn the_configuration_says_what_changes_the_mathematics() {
    let weights = open(&tiny()).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(weights.config()).unwrap(), @r#"
    {
      "architectures": [
        "LlamaForCausalLM"
      ],
      "model_type": "llama",
      "hidden_act": "silu",
      "hidden_size": 8,
      "intermediate_size": 12,
      "num_hidden_layers": 1,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "head_dim": 4,
      "vocab_size": 5,
      "max_position_embeddings": 64,
      "rms_norm_eps": 0.00001,
      "rope_theta": 100000.0,
      "rope_scaling": null,
      "tie_word_embeddings": true,
      "attention_bias": false,
      "mlp_bias": false,
      "bos_token_id": 3,
      "eos_token_id": 4,
      "torch_dtype": "float32"
    }
    "#);
}

/// Row r of a head in the file is row (r % 2) · 2 + r / 2 of the checkpoint's head of four.
#[test]
fn rows_of_q_and_k_are_put_back() {
    let mut gguf = tiny();
    let rows = |n: usize| (0..n).flat_map(|r| [r as f32; 8]).collect::<Vec<f32>>();
    gguf.tensors
        .retain(|t| !t.name.contains("attn_q") && !t.name.contains("attn_k"));
    gguf.add_f32("blk.0.attn_q.weight", &[8, 8], &rows(8));
    gguf.add_f32("blk.0.attn_k.weight", &[4, 8], &rows(4));
    let weights = open(&gguf).unwrap();
    let first_column = |name: &str| {
        let tensor = weights.view(name).unwrap().tensor(DType::F32).unwrap();
        tensor
            .to_vec2::<f32>()
            .unwrap()
            .iter()
            .map(|r| r[0])
            .collect::<Vec<f32>>()
    };
    assert_eq!(
        first_column("model.layers.0.self_attn.q_proj.weight"),
        [0., 2., 1., 3., 4., 6., 5., 7.]
    );
    assert_eq!(
        first_column("model.layers.0.self_attn.k_proj.weight"),
        [0., 2., 1., 3.]
    );
    let mut biased = gguf.clone();
    for (name, n) in [
        ("attn_q", 8u64),
        ("attn_k", 4),
        ("attn_v", 4),
        ("attn_output", 8),
    ] {
        let values: Vec<f32> = (0..n).map(|x| x as f32).collect();
        biased.add_f32(&format!("blk.0.{name}.bias"), &[n], &values);
    }
    let weights = open(&biased).unwrap();
    assert_eq!(weights.config()["attention_bias"], true);
    let bias = |name: &str| {
        weights
            .view(name)
            .unwrap()
            .tensor(DType::F32)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    assert_eq!(
        bias("model.layers.0.self_attn.k_proj.bias"),
        [0., 2., 1., 3.]
    );
    assert_eq!(
        bias("model.layers.0.self_attn.v_proj.bias"),
        [0., 1., 2., 3.]
    );
}

#[test]
fn rotary_scaling_is_taken_from_keys_or_from_llama_3_divisors() {
    let with = |set: &[(&str, Value)]| {
        let mut gguf = tiny();
        set.iter().for_each(|(k, v)| gguf.set(k, v.clone()));
        gguf
    };
    let linear = with(&[
        ("llama.rope.scaling.type", Value::Text("linear")),
        ("llama.rope.scaling.factor", Value::F32(4.0)),
    ]);
    assert_eq!(
        open(&linear).unwrap().config()["rope_scaling"].to_string(),
        r#"{"rope_type":"linear","factor":4.0}"#
    );
    let none = with(&[("llama.rope.scaling.type", Value::Text("none"))]);
    assert!(open(&none).unwrap().config()["rope_scaling"].is_null());
    let yarn = with(&[("llama.rope.scaling.type", Value::Text("yarn"))]);
    insta::assert_snapshot!(error(&yarn), @r"
    DIR/model.gguf: metadata key `llama.rope.scaling.type` is `yarn`, which medtune does not support
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");

    // Heads of 4 have two frequencies: 1, never divided, and theta^-1/2. At theta 1e5 its wavelength is 1987, below
    // 8192 / 4; at 5e5 it is 4443, in the smooth part: smooth = (8192/4443 - 1) / 3.
    let mut llama3 = with(&[("llama.rope.freq_base", Value::F32(5e5))]);
    let wavelength = std::f64::consts::TAU * 5e5f64.sqrt();
    let smooth = (8192.0 / wavelength - 1.0) / 3.0;
    let divisor = (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32;
    llama3.add_f32("rope_freqs.weight", &[2], &[1.0, divisor]);
    // The largest divisor here is not the factor, so these two say nothing that we could reproduce.
    insta::assert_snapshot!(error(&llama3), @r"
    DIR/model.gguf: the divisors in `rope_freqs.weight` are not those of Llama 3's rotary scaling
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    let mut llama3 = with(&[("llama.rope.freq_base", Value::F32(1e10))]);
    llama3.add_f32("rope_freqs.weight", &[2], &[1.0, 32.0]);
    insta::assert_snapshot!(open(&llama3).unwrap().config()["rope_scaling"], @r#"{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}"#);
}

#[test]
fn a_window_makes_a_mistral() {
    let mut gguf = tiny();
    gguf.set("llama.attention.sliding_window", Value::U32(16));
    let weights = open(&gguf).unwrap();
    assert_eq!(weights.config()["model_type"], "mistral");
    assert_eq!(weights.config()["sliding_window"], 16);
}

#[test]
fn what_is_not_supported_is_named() {
    let set = |key: &str, value: Value| {
        let mut gguf = tiny();
        gguf.set(key, value);
        error(&gguf)
    };
    insta::assert_snapshot!(set("general.architecture", Value::Text("gemma")), @r"
    DIR/model.gguf has the architecture `gemma`, which medtune does not read
    hint: llama (also Mistral), qwen2 and qwen3 are read
    ");
    insta::assert_snapshot!(set("llama.expert_count", Value::U32(8)), @r"
    DIR/model.gguf: metadata key `llama.expert_count` is 8, which medtune does not support
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    insta::assert_snapshot!(set("split.count", Value::U32(2)), @r"
    DIR/model.gguf: metadata key `split.count` is 2: join the parts with llama.cpp's gguf-split --merge first
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    insta::assert_snapshot!(set("llama.rope.dimension_count", Value::U32(2)), @r"
    DIR/model.gguf: metadata key `llama.rope.dimension_count` is 2, and a head has 4: partial rotary embedding is not supported
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    insta::assert_snapshot!(set("llama.attention.head_count_kv", Value::Ints(vec![1, 1])), @r"
    DIR/model.gguf: metadata key `llama.attention.head_count_kv` is not one integer for the whole model
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    insta::assert_snapshot!(set("llama.attention.head_count", Value::U32(0)), @r"
    DIR/model.gguf: metadata key `llama.attention.head_count_kv` is 1, which does not divide 0 heads
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    insta::assert_snapshot!(set("llama.block_count", Value::U32(u32::MAX)), @r"
    DIR/model.gguf: metadata key `llama.block_count` is 4294967295, and the file holds 11 tensors
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    insta::assert_snapshot!(set("general.alignment", Value::U32(3)), @r"
    DIR/model.gguf is damaged: general.alignment is not a power of two
    hint: the file is not as its writer left it: copy or download it again
    ");
    let mut missing = tiny();
    missing.remove("llama.embedding_length");
    insta::assert_snapshot!(error(&missing), @r"
    DIR/model.gguf: metadata key `llama.embedding_length` is missing
    hint: use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp
    ");
    let mut foreign = tiny();
    foreign.add_f32("blk.0.ffn_gate_inp.weight", &[2, 8], &[0.0; 16]);
    insta::assert_snapshot!(error(&foreign), @r"
    DIR/model.gguf: tensor `blk.0.ffn_gate_inp.weight` has no place in a `llama` model
    hint: mixtures of experts, and models of which only some layers have biases, are not read
    ");
    let mut kind = tiny();
    kind.tensor("blk.0.ffn_up.weight").kind = 19;
    insta::assert_snapshot!(error(&kind), @r"
    DIR/model.gguf: tensor `blk.0.ffn_up.weight` has the ggml type 19, which medtune does not read
    hint: these are read: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K
    ");
    let mut odd = tiny();
    odd.tensor("blk.0.ffn_up.weight").kind = 2;
    insta::assert_snapshot!(error(&odd), @r"
    DIR/model.gguf is damaged: tensor `blk.0.ffn_up.weight` has rows of 8, no multiple of its block of 32
    hint: the file is not as its writer left it: copy or download it again
    ");
    let mut half = tiny();
    half.add_f32("blk.0.attn_q.bias", &[8], &[0.0; 8]);
    insta::assert_snapshot!(error(&half), @r"
    DIR/model.gguf: tensor `blk.0.attn_q.bias` has no place in a `llama` model
    hint: mixtures of experts, and models of which only some layers have biases, are not read
    ");
    let mut heads = tiny();
    heads.set("llama.attention.head_count_kv", Value::U32(2));
    heads.tensor("blk.0.attn_k.weight").shape = vec![1, 8];
    heads.tensor("blk.0.attn_k.weight").data.truncate(32);
    insta::assert_snapshot!(error(&heads), @r"
    DIR/model.gguf is damaged: tensor `blk.0.attn_k.weight` has 1 rows, which 2 heads do not share
    hint: the file is not as its writer left it: copy or download it again
    ");
}

#[test]
fn damaged_files_are_named() {
    let changed = |at: usize, bytes: &[u8]| {
        let (dir, path) = write(&tiny());
        let mut file = tiny().bytes();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, file).unwrap();
        shown(&refused(Weights::open(&path)), dir.path())
    };
    insta::assert_snapshot!(changed(0, b"GGML"), @r"
    DIR/model.gguf is not a model: it does not start as a GGUF file does
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    insta::assert_snapshot!(changed(4, &[1, 0, 0, 0]), @r"
    DIR/model.gguf is GGUF version 1; versions 2 and 3 are read
    hint: write the file anew with a current llama.cpp
    ");
    insta::assert_snapshot!(changed(4, &[0, 0, 0, 3]), @r"
    DIR/model.gguf is not a model: it is a GGUF file for big-endian machines
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    // Counts of 2^63 and of a few million: nothing may be allocated for either.
    insta::assert_snapshot!(changed(8, &(1u64 << 63).to_le_bytes()), @r"
    DIR/model.gguf is damaged: it claims 9223372036854775808 tensors
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(changed(16, &5_000_000u64.to_le_bytes()), @r"
    DIR/model.gguf is truncated: it holds 3616 bytes and its header promises 65000024
    hint: copy or download the file again
    ");
    insta::assert_snapshot!(changed(24, &u64::MAX.to_le_bytes()), @r"
    DIR/model.gguf is damaged: it claims 18446744073709551615 bytes of text
    hint: the file is not as its writer left it: copy or download it again
    ");
    let mut twice = tiny();
    let again = twice.tensors[0].clone();
    twice.tensors.push(again);
    insta::assert_snapshot!(error(&twice), @r"
    DIR/model.gguf is damaged: tensor `token_embd.weight` is listed twice
    hint: the file is not as its writer left it: copy or download it again
    ");
    let mut huge = tiny();
    huge.tensor("output_norm.weight").shape = vec![u64::MAX, u64::MAX];
    insta::assert_snapshot!(error(&huge), @r"
    DIR/model.gguf is damaged: tensor `output_norm.weight` has an impossible shape
    hint: the file is not as its writer left it: copy or download it again
    ");
    let mut long = tiny();
    long.tensor("output_norm.weight").shape = vec![1 << 40];
    insta::assert_snapshot!(error(&long), @r"
    DIR/model.gguf is truncated: it holds 3616 bytes and its header promises 4398046514688
    hint: copy or download the file again
    ");
}

/// However short a file is cut, it is refused and nothing panics.
#[test]
fn every_prefix_is_refused() {
    let (dir, path) = write(&tiny());
    let whole = tiny().bytes();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    insta::assert_snapshot!(shown(&refused(Weights::open(&path)), dir.path()), @r"
    DIR/model.gguf is truncated: it holds 3615 bytes and its header promises 3616
    hint: copy or download the file again
    ");
    refuse_every_prefix(&path, || Weights::open(&path));
}

/// Every byte of the header, changed: an error or other weights, never a panic.
#[test]
fn no_changed_byte_panics() {
    let (_dir, path) = write(&tiny());
    let data: usize = tiny()
        .tensors
        .iter()
        .map(|t| t.data.len().next_multiple_of(32))
        .sum();
    let header = std::fs::metadata(&path).unwrap().len() as usize - data;
    change_every_byte(&path, header, &[0x00, 0x01, 0x7f, 0xff], || {
        let Ok(weights) = Weights::open(&path) else {
            return;
        };
        for view in weights.views().filter(|v| v.elements() < 1 << 20) {
            let _ = view.tensor(DType::F32);
        }
    });
}
