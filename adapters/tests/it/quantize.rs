//! Bases in NF4: those that bitsandbytes saved, and those that are quantized as they are read.

use crate::support::{
    change_every_byte, distance, golden, json_file, lora, numbers, random_weights, read_tensors,
    refused, shown, write_safetensors,
};
use adapters::recipe::Quantization;
use adapters::{
    Builder, Error, ExportOptions, MergeOptions, Method, PeftAdapter, WeightView, Weights, convert,
    merge, verify_tensors,
};
use candle_core::{DType, Tensor};
use kernels::{Matrix, Nf4};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn bits(t: &Tensor) -> Vec<u32> {
    let list: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    list.iter().map(|x| x.to_bits()).collect()
}

fn values(view: &WeightView) -> Tensor {
    view.tensor(DType::F32).unwrap()
}

/// The tiny Llama that bitsandbytes quantized; see `scripts/golden/nf4.py`.
fn saved() -> Weights {
    Weights::open(&golden("nf4/model")).unwrap()
}

#[test]
fn a_folder_of_bitsandbytes_dequantizes_to_its_bits() {
    let weights = saved();
    let parity = read_tensors(&golden("nf4/parity.safetensors"));
    let mut compared = 0;
    for (key, expected) in &parity {
        let Some(name) = key.strip_prefix("dequantized.") else {
            continue;
        };
        let view = weights.view_shaped(name, expected.dims()).unwrap();
        assert_eq!(
            (view.dtype_name().as_str(), view.float_dtype()),
            ("NF4", None)
        );
        assert_eq!(bits(&values(&view)), bits(expected), "{name}");
        assert_eq!(
            view.size_bytes(),
            Nf4::size_of(view.elements(), true) as u64
        );
        compared += 1;
    }
    assert_eq!(compared, 7);
    // Nothing is left over of the parts, and what is not quantized is as it was.
    assert_eq!(weights.names().count(), 7 + 2 + 1 + 2);
    assert_eq!(
        weights.view("lm_head.weight").unwrap().float_dtype(),
        Some(DType::F32)
    );
    assert!(weights.config().get("quantization_config").is_none());
    assert_eq!(
        weights.fingerprint().unwrap(),
        saved().fingerprint().unwrap()
    );
}

#[test]
fn linear_layers_of_the_blocks_are_quantized_and_nothing_else() {
    for (name, linears) in [
        ("llama_gqa", 14),
        ("qwen2", 14),
        ("qwen3", 14),
        ("tinyllama", 14),
    ] {
        let plain = Weights::open(&golden(name)).unwrap();
        let quantized = Weights::open(&golden(name))
            .unwrap()
            .quantized(Quantization::Nf4)
            .unwrap();
        let mut changed = 0;
        for (view, other) in plain.views().zip(quantized.views()) {
            assert_eq!((&view.name, &view.shape), (&other.name, &other.shape));
            if !view.name.contains("_proj.weight") {
                assert_eq!(other.dtype_name(), "F32");
                assert_eq!(bits(&values(view)), bits(&values(other)));
                continue;
            }
            changed += 1;
            let (n, k) = (view.shape[0], view.shape[1]);
            let nf4 = Nf4::quantize(&Matrix::dense(values(view)), true).unwrap();
            assert_eq!(other.size_bytes(), nf4.size_bytes() as u64);
            let matrix = other.matrix().unwrap();
            assert_eq!(matrix.size_bytes(), nf4.size_bytes());
            let expected = Matrix::nf4(nf4, n, k).unwrap();
            assert_eq!(
                bits(&matrix.to_tensor(DType::F32).unwrap()),
                bits(&expected.to_tensor(DType::F32).unwrap())
            );
            assert_eq!(
                (other.dtype_name().as_str(), other.written_dtype()),
                ("NF4", DType::F32)
            );
        }
        assert_eq!(changed, linears, "{name}");
        // Not the same base any more.
        assert_ne!(
            plain.fingerprint().unwrap(),
            quantized.fingerprint().unwrap()
        );
    }
}

#[test]
fn a_gguf_file_of_floats_is_quantized_in_the_order_of_its_checkpoint() {
    // Layer 2's q is F16, in llama.cpp's row order.
    let path = golden("gguf/smollm.gguf");
    let name = "model.layers.2.self_attn.q_proj.weight";
    let plain = Weights::open(&path).unwrap().view(name).unwrap();
    assert_eq!(plain.dtype_name(), "F16");
    let nf4 = Nf4::quantize(&plain.matrix().unwrap(), true).unwrap();
    let by_values = Nf4::quantize(&Matrix::dense(values(&plain)), true).unwrap();
    assert_eq!(nf4.codes().as_slice(), by_values.codes().as_slice());
    // Other tensors of it are in blocks.
    let refusal = refused(Weights::open(&path).unwrap().quantized(Quantization::Nf4));
    insta::assert_snapshot!(shown(&refusal, Path::new("/nowhere")), @r"
    the base is quantized already: tensor `model.layers.0.mlp.down_proj.weight` is stored as Q4_K
    hint: leave `quantization` out: the weights are computed with as they are stored
    ");
}

#[test]
fn what_is_quantized_is_not_quantized_again_nor_trained() {
    insta::assert_snapshot!(shown(&refused(saved().quantized(Quantization::Nf4)), Path::new("/nowhere")), @r"
    the base is quantized already: tensor `model.layers.0.mlp.down_proj.weight` is stored as NF4
    hint: leave `quantization` out: the weights are computed with as they are stored
    ");
    let weights = random_weights(&[("model.layers.0.mlp.up_proj.weight", &[7, 123])])
        .quantized(Quantization::Nf4)
        .unwrap();
    let mut builder = Builder::new(&weights, DType::F32, Method::Full, 1);
    let spec = adapters::LinearSpec {
        name: "model.layers.0.mlp.up_proj".into(),
        in_features: 123,
        out_features: 7,
        bias: false,
    };
    insta::assert_snapshot!(shown(&refused(builder.linear_group(std::slice::from_ref(&spec))), Path::new("/nowhere")), @r"
    tensor `model.layers.0.mlp.up_proj.weight` is to be quantized, and quantized weights are not trained
    hint: train an adapter on the quantized base (QLoRA), or leave `quantization` out
    ");
    // An adapter on it is.
    let method = Method::Lora(lora(3, 7.0, 0.0, &["all-linear"]));
    let mut builder = Builder::new(&weights, DType::F32, method, 1);
    builder.linear_group(&[spec]).unwrap();
    assert_eq!(builder.finish().unwrap().0.len(), 2);
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut list = numbers(7 * 123, 3);
    list[500] = f32::NAN;
    let name = "model.layers.0.mlp.up_proj.weight";
    write_safetensors(
        &dir.path().join("model.safetensors"),
        &[(name, &[7, 123], list)],
    );
    json_file(&dir.path().join("config.json"), &json!({}));
    let weights = Weights::open(dir.path())
        .unwrap()
        .quantized(Quantization::Nf4)
        .unwrap();
    insta::assert_snapshot!(shown(&refused(weights.view(name).unwrap().matrix()), dir.path()), @r"
    tensor `model.layers.0.mlp.up_proj.weight` holds a value that is not finite (element 500)
    hint: the training run that wrote it diverged: use an earlier checkpoint
    ");
}

/// Merging adds to the dequantized numbers, those that the adapter was trained on.
#[test]
fn a_merge_adds_to_what_the_adapter_was_trained_on() {
    let adapter = PeftAdapter::load(&golden("nf4/lora")).unwrap();
    let name = "model.layers.0.mlp.down_proj";
    let delta = {
        let (a, b) = adapter.pair(name).unwrap();
        (b.matmul(a).unwrap() * (7.0 / 3.0)).unwrap()
    };
    {
        let base = saved();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let report = merge(&base, &adapter, &out, &MergeOptions::default()).unwrap();
        assert_eq!(report.targeted, 7);
        assert!(report.proof.unwrap().holds());
        let merged = Weights::open(&out).unwrap();
        let weight = merged.view(&format!("{name}.weight")).unwrap();
        assert_eq!(weight.float_dtype(), Some(DType::F32));
        let base = values(&base.view(&format!("{name}.weight")).unwrap());
        assert!(distance(&values(&weight), &(base + &delta).unwrap()) < 1e-6);
    }
}

/// One that is quantized as it is read: the merged model is not the unquantized base plus the update.
#[test]
fn merging_into_a_base_that_was_quantized_here() {
    let plain = || Weights::open(&golden("llama_gqa")).unwrap();
    let quantized = plain().quantized(Quantization::Nf4).unwrap();
    let adapter = PeftAdapter::load(&golden("llama_gqa/adapter")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("merged");
    let options = MergeOptions {
        export: ExportOptions {
            dtype: Some(DType::BF16),
            ..Default::default()
        },
        ..Default::default()
    };
    merge(&quantized, &adapter, &out, &options).unwrap();
    let merged = Weights::open(&out).unwrap();
    assert!(
        verify_tensors(&quantized, &adapter, &merged)
            .unwrap()
            .holds()
    );
    assert!(!verify_tensors(&plain(), &adapter, &merged).unwrap().holds());
    assert_eq!(merged.config()["dtype"], "bfloat16");
}

#[test]
fn a_folder_is_written_in_the_dtype_that_was_quantized() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Saved::read();
    folder
        .with_state(|state| state["dtype"] = json!("bfloat16"))
        .write(dir.path());
    let weights = Weights::open(dir.path()).unwrap();
    let out = dir.path().join("plain");
    convert(&weights, &out, &ExportOptions::default()).unwrap();
    let plain = Weights::open(&out).unwrap();
    let view = plain.view(TENSOR).unwrap();
    assert_eq!(view.float_dtype(), Some(DType::BF16));
    let expected = saved().view(TENSOR).unwrap().tensor(DType::BF16).unwrap();
    let expected = expected.to_dtype(DType::F32).unwrap();
    assert_eq!(bits(&values(&view)), bits(&expected));
    assert!(plain.config().get("quantization_config").is_none());
}

const TENSOR: &str = "model.layers.0.self_attn.q_proj.weight";

/// The tensors of the golden folder, to be changed and written again.
#[derive(Clone)]
struct Saved {
    config: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Saved {
    fn read() -> Self {
        let folder = golden("nf4/model");
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let config = std::fs::read(folder.join("config.json")).unwrap();
        Self {
            config: serde_json::from_slice(&config).unwrap(),
            tensors: tensors
                .tensors()
                .into_iter()
                .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
                .collect(),
        }
    }

    fn write(&self, dir: &Path) {
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
        json_file(&dir.join("config.json"), &self.config);
    }

    fn part(&self, part: &str) -> &(Dtype, Vec<usize>, Vec<u8>) {
        &self.tensors[&format!("{TENSOR}{part}")]
    }

    fn with(&self, part: &str, new: Option<(Dtype, Vec<usize>, Vec<u8>)>) -> Self {
        let mut changed = self.clone();
        let name = format!("{TENSOR}{part}");
        match new {
            Some(new) => changed.tensors.insert(name, new),
            None => changed.tensors.remove(&name),
        };
        changed
    }

    fn with_state(&self, change: impl Fn(&mut Value)) -> Self {
        const STATE: &str = ".quant_state.bitsandbytes__nf4";
        let mut state = serde_json::from_slice(&self.part(STATE).2).unwrap();
        change(&mut state);
        let text = state.to_string().into_bytes();
        self.with(STATE, Some((Dtype::U8, vec![text.len()], text)))
    }

    fn refusal(&self) -> String {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        let error = refused(Weights::open(dir.path()));
        assert!(matches!(error, Error::Bitsandbytes { .. }));
        error
            .to_string()
            .replace(&dir.path().display().to_string(), "DIR")
    }
}

#[test]
fn other_ways_to_quantize_are_refused_by_name() {
    let saved = Saved::read();
    let dir = tempfile::tempdir().unwrap();
    saved
        .with_state(|s| s["blocksize"] = json!(128))
        .write(dir.path());
    insta::assert_snapshot!(shown(&refused(Weights::open(dir.path())), dir.path()), @r#"
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has blocks of 128, and 64 are read
    hint: NF4 in blocks of 64 is read, with double quantization or without: load_in_4bit with bnb_4bit_quant_type "nf4"; or use the model before it was quantized
    "#);
    let state = saved.part(".quant_state.bitsandbytes__nf4").clone();
    let fp4 = saved
        .with(".quant_state.bitsandbytes__nf4", None)
        .with(".quant_state.bitsandbytes__fp4", Some(state));
    let mut int8 = saved.clone();
    int8.tensors.insert(
        "model.layers.0.mlp.up_proj.SCB".into(),
        (Dtype::F32, vec![1], vec![0; 4]),
    );
    let mut map = saved.part(".quant_map").clone();
    map.2[0] ^= 1;
    let refusals = [
        saved.with_state(|s| s["nested_blocksize"] = json!(512)),
        saved.with_state(|s| s["quant_type"] = json!("fp4")),
        saved.with_state(|s| s["dtype"] = json!("float64")),
        fp4,
        int8,
        saved.with(".quant_map", Some(map)),
    ];
    insta::assert_snapshot!(refusals.map(|s| s.refusal()).join("\n"), @r#"
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has nested blocks of 512, and 256 are read
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has the quant_type "fp4", and is stored as NF4
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` was float64 before it was quantized
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` is quantized to FP4, which medtune does not read
    DIR: tensor `model.layers.0.mlp.up_proj.weight` is quantized to 8 bits (LLM.int8), which medtune does not read
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has a `quant_map` that is not NF4's
    "#);
}

#[test]
fn parts_that_contradict_each_other_are_named() {
    let saved = Saved::read();
    let mut changed: Vec<Saved> = [
        ("shape", json!([48, 49])),
        ("shape", json!([48])),
        ("shape", json!(null)),
        ("shape", json!([1u64 << 40, 1u64 << 40])),
        ("nested_offset", json!(null)),
        ("nested_offset", json!(1e300)),
        ("blocksize", json!(-1)),
        ("more", json!("x".repeat(5000))),
    ]
    .into_iter()
    .map(|(key, value)| saved.with_state(|state| state[key] = value.clone()))
    .collect();
    for part in [
        "",
        ".absmax",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_map",
    ] {
        changed.push(saved.with(part, None));
    }
    let absmax = saved.part(".absmax").clone();
    for (part, dtype, data) in [
        (".absmax", Dtype::I8, absmax.2.clone()),
        (".absmax", Dtype::U8, absmax.2[1..].to_vec()),
        (".nested_quant_map", Dtype::F32, vec![0; 8]),
        (
            ".nested_absmax",
            Dtype::F32,
            f32::NAN.to_le_bytes().to_vec(),
        ),
    ] {
        let count = data.len() * 8 / dtype.bitsize();
        changed.push(saved.with(part, Some((dtype, vec![count], data))));
    }
    let refusals: Vec<String> = changed.iter().map(Saved::refusal).collect();
    insta::assert_snapshot!(refusals.join("\n"), @"
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` is damaged: NF4 of 2352 numbers takes 1176 bytes of codes, but 1152 are given
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has the shape [48], not that of a matrix
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has the shape [], not that of a matrix
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has the shape [1099511627776, 1099511627776], not that of a matrix
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has no `nested_offset` in its quant_state
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has scales that are not finite
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has a quant_state that does not parse: invalid value: integer `-1`, expected u64 at line 1 column 34
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has a quant_state of 5162 bytes
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has a quant_state and no codes
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` lacks `absmax`
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` lacks `nested_absmax`
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` lacks `nested_quant_map`
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` lacks `quant_map`
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has `absmax` in I8, and U8 is read
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` is damaged: NF4 of 2304 numbers takes 36 absmax codes, but 35 are given
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has a `nested_quant_map` of 2 values
    DIR: tensor `model.layers.0.self_attn.q_proj.weight` has scales that are not finite
    ");
}

#[test]
fn codes_stored_as_another_type_are_the_same() {
    let saved_here = Saved::read();
    let codes = saved_here.part("").clone();
    let (count, bytes) = (codes.2.len() / 2, codes.2);
    let dir = tempfile::tempdir().unwrap();
    saved_here
        .with("", Some((Dtype::BF16, vec![count, 1], bytes)))
        .write(dir.path());
    let view = Weights::open(dir.path()).unwrap().view(TENSOR).unwrap();
    assert_eq!(
        bits(&values(&view)),
        bits(&values(&saved().view(TENSOR).unwrap()))
    );
}

#[test]
fn no_changed_byte_of_a_quant_state_makes_it_panic() {
    let dir = tempfile::tempdir().unwrap();
    Saved::read().write(dir.path());
    let path = dir.path().join("model.safetensors");
    // The header, and with it every name and size.
    change_every_byte(&path, 1500, &[0, b'9', 0xff], || {
        if let Ok(weights) = Weights::open(dir.path()) {
            for view in weights.views().filter(|v| v.dtype_name() == "NF4") {
                let _ = view.matrix();
            }
        }
    });
    let saved = Saved::read();
    let state = saved.part(".quant_state.bitsandbytes__nf4").2.clone();
    for at in 0..state.len() {
        for value in [b'0', b'9', b'"', b'-', 0xff] {
            let mut text = state.clone();
            text[at] = value;
            let changed = saved.with(
                ".quant_state.bitsandbytes__nf4",
                Some((Dtype::U8, vec![text.len()], text)),
            );
            changed.write(dir.path());
            if let Ok(weights) = Weights::open(dir.path()) {
                let _ = weights.view(TENSOR).unwrap().matrix();
            }
        }
    }
}
