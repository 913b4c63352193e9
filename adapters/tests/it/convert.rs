//! GGUF to a folder, and fully trained weights.

use crate::gguf_writer::tiny;
use crate::support::{distance, golden, lora, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{
    Builder, ExportOptions, LinearSpec, MergeOptions, Method, Weights, convert, merge, save_full,
    verify_tensors,
};
use candle_core::DType;
use serde_json::json;
use std::collections::BTreeMap;

fn options(dtype: Option<DType>) -> ExportOptions {
    ExportOptions {
        dtype,
        companions: vec![("tokenizer.json".into(), json!({"version": "1.0"}))],
        ..Default::default()
    }
}

#[test]
fn a_converted_gguf_holds_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["smollm", "spm", "llama_bpe", "qwen2"] {
        let gguf = Weights::open(&golden(&format!("gguf/{name}.gguf"))).unwrap();
        for dtype in [None, Some(DType::BF16)] {
            let out = dir.path().join(name);
            convert(&gguf, &out, &options(dtype)).unwrap();
            let folder = Weights::open(&out).unwrap();
            assert!(out.join("tokenizer.json").is_file());
            assert!(gguf.names().eq(folder.names()));
            for view in gguf.views() {
                let written = folder.view(&view.name).unwrap();
                assert_eq!(written.shape, view.shape);
                let kept = view.float_dtype().unwrap_or(DType::F32);
                assert_eq!(written.float_dtype(), Some(dtype.unwrap_or(kept)));
                let expected = view.tensor(dtype.unwrap_or(DType::F32)).unwrap();
                let found = written.tensor(dtype.unwrap_or(DType::F32)).unwrap();
                assert_eq!(distance(&found, &expected), 0.0, "{name} {}", view.name);
            }
            let mut config = gguf.config().clone();
            config["torch_dtype"] = json!(if dtype.is_some() {
                "bfloat16"
            } else {
                "float32"
            });
            config["torch_dtype"] = folder.config()["torch_dtype"].clone();
            assert_eq!(folder.config(), &config);
        }
    }
}

/// An adapter trained on a quantized base is merged into what that base unpacks to.
#[test]
fn merging_into_a_gguf_base_unpacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let base = Weights::open(&golden("gguf/smollm.gguf")).unwrap();
    let module = "model.layers.0.self_attn.q_proj";
    let key = |which: &str| format!("base_model.model.{module}.{which}.weight");
    let tensors = BTreeMap::from([
        (key("lora_A"), tensor((2, 32), DType::F32, 3)),
        (key("lora_B"), tensor((32, 2), DType::F32, 4)),
    ]);
    let config = PeftConfig {
        lora: lora(2, 3.0, 0.0, &["q_proj"]),
        ensure_weight_tying: false,
        base_model: None,
    };
    let adapter = PeftAdapter {
        config,
        tensors,
        belonging: None,
    };
    let out = dir.path().join("merged");
    let report = merge(
        &base,
        &adapter,
        &out,
        &MergeOptions {
            export: options(None),
            ..Default::default()
        },
    )
    .unwrap();
    let proof = report.proof.unwrap();
    assert_eq!(
        (proof.targeted, proof.untouched),
        (1, base.names().count() - 1)
    );
    let merged = Weights::open(&out).unwrap();
    let name = format!("{module}.weight");
    let w = base.view(&name).unwrap().tensor(DType::F64).unwrap();
    let (a, b) = adapter.pair(module).unwrap();
    let delta = b
        .to_dtype(DType::F64)
        .unwrap()
        .matmul(&a.to_dtype(DType::F64).unwrap())
        .unwrap();
    let expected = (w + (delta * 1.5).unwrap()).unwrap();
    assert!(
        distance(
            &merged.view(&name).unwrap().tensor(DType::F64).unwrap(),
            &expected
        ) < 1e-6
    );
    assert!(!verify_tensors(&base, &adapter, &base).unwrap().holds());
}

#[test]
fn fully_trained_weights_take_the_place_of_the_base_s() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, tiny().bytes()).unwrap();
    let base = Weights::open(&path).unwrap();
    let mut builder = Builder::new(&base, DType::F32, Method::Full, 0);
    let spec = |name: &str| LinearSpec {
        name: format!("model.layers.0.mlp.{name}"),
        in_features: 8,
        out_features: 12,
        bias: false,
    };
    let _ = builder
        .linear_group(&[spec("gate_proj"), spec("up_proj")])
        .unwrap();
    let mut parameters = builder.finish().unwrap();
    for parameter in &mut parameters.0 {
        kernels::scale_assign(&mut parameter.value, 2.0).unwrap();
    }
    let out = dir.path().join("tuned");
    save_full(&base, &parameters, &out, &options(None)).unwrap();
    let tuned = Weights::open(&out).unwrap();
    for view in base.views() {
        let factor = if view.name.contains("gate_proj") || view.name.contains("up_proj") {
            2.0
        } else {
            1.0
        };
        let expected = (view.tensor(DType::F32).unwrap() * factor).unwrap();
        assert_eq!(
            distance(
                &tuned.view(&view.name).unwrap().tensor(DType::F32).unwrap(),
                &expected
            ),
            0.0
        );
    }
    parameters.0[0].name = "model.layers.7.mlp.gate_proj.weight".into();
    let found = refused(save_full(&base, &parameters, &out, &options(None)));
    insta::assert_snapshot!(shown(&found, dir.path()), @"parameter `model.layers.7.mlp.gate_proj.weight` has no tensor in the base it is to be written over");
    assert!(
        Weights::open(&out).is_ok(),
        "the folder that was there must stay"
    );
}
