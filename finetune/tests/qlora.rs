//! LoRA over quantized bases: PEFT over bitsandbytes, and LoRA over the same weights dequantized.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use adapters::recipe::Quantization;
use adapters::{
    Builder, ExportOptions, LoraConfig, Method, ParamId, Parameters, PeftAdapter, TargetModules,
    Weights, convert,
};
use candle_core::{DType, Device, Tensor};
use datasets::{Batch, Pack, Tokenized};
use finetune::models::decoder_config;
use finetune::{Decoder, DropoutState, Gradients, tensor_specs};
use serde_json::json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

fn max_abs(t: &Tensor) -> f64 {
    let t = t.to_dtype(DType::F64).unwrap().abs().unwrap();
    t.max_all().unwrap().to_scalar().unwrap()
}

fn bits(t: &Tensor) -> Vec<u64> {
    let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    let list: Vec<f64> = t.to_vec1().unwrap();
    list.iter().map(|x| x.to_bits()).collect()
}

fn gradients(
    (decoder, parameters): &(Decoder, Parameters),
    batch: &Batch,
    step: u64,
) -> (f64, Vec<Tensor>) {
    let mut gradients = Gradients::new(parameters);
    let state = DropoutState { seed: 3, step };
    let scale = 1.0 / batch.target_tokens() as f64;
    let loss = decoder
        .loss_and_gradients(batch, state, scale, &mut gradients)
        .unwrap();
    let list = (0..parameters.0.len())
        .map(|i| gradients.get(ParamId(i)).unwrap().clone())
        .collect();
    (loss.loss_sum * scale, list)
}

/// The ragged batch of the golden: see `scripts/golden/README.md`.
fn golden_batch(tensors: &HashMap<String, Tensor>) -> Batch {
    let read = |name: &str| tensors[name].to_vec1::<i64>().unwrap();
    let (ids, labels) = (read("input_ids"), read("labels"));
    let mut pack = Pack::default();
    let mut start = 0;
    for (i, len) in read("lengths").into_iter().enumerate() {
        let range = start..start + len as usize;
        start = range.end;
        pack.push(&Tokenized {
            id: i.to_string(),
            sample: i as u64,
            input_ids: ids[range.clone()].iter().map(|x| *x as u32).collect(),
            loss_mask: labels[range].iter().map(|l| *l != -100).collect(),
        });
    }
    Batch::from_packs([&pack])
}

fn close(ours: &Tensor, theirs: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (
        ours.to_dtype(DType::F64).unwrap(),
        theirs.to_dtype(DType::F64).unwrap(),
    );
    let error = max_abs(&(ours - &theirs).unwrap()) / max_abs(&theirs);
    assert!(error <= tolerance, "{what}: {error:.1e}");
}

#[test]
fn logits_loss_and_gradients_are_peft_s_over_bitsandbytes() {
    let tensors =
        candle_core::safetensors::load(golden("nf4/parity.safetensors"), &Device::Cpu).unwrap();
    let weights = Weights::open(&golden("nf4/model")).unwrap();
    let config = decoder_config(weights.config()).unwrap();
    let batch = golden_batch(&tensors);
    let build = |method: Method, adapter: bool| {
        let mut builder = Builder::new(&weights, DType::F32, method, 1);
        if adapter {
            let adapter = PeftAdapter::load(&golden("nf4/lora")).unwrap();
            builder = builder.with_adapter(adapter).unwrap();
        }
        let decoder = Decoder::build(&mut builder, config.clone(), DType::F32).unwrap();
        (decoder, builder.finish().unwrap())
    };
    let (base, _) = build(Method::Frozen, false);
    close(
        &base.logits(&batch).unwrap(),
        &tensors["base.logits"],
        1e-5,
        "base.logits",
    );
    let adapter = PeftAdapter::load(&golden("nf4/lora")).unwrap();
    let model = build(Method::Lora(adapter.config.lora), true);
    close(
        &model.0.logits(&batch).unwrap(),
        &tensors["lora.logits"],
        1e-5,
        "lora.logits",
    );
    let (loss, gradients) = gradients(&model, &batch, 0);
    let expected = f64::from(tensors["lora.loss"].to_vec1::<f32>().unwrap()[0]);
    assert!((loss - expected).abs() < 1e-5, "{loss} against {expected}");
    assert_eq!(gradients.len(), 14);
    for (gradient, p) in gradients.iter().zip(&model.1.0) {
        let theirs = &tensors[&format!("lora.grad.{}", p.name)];
        close(gradient, theirs, 1e-4, &p.name);
    }
}

/// A fresh adapter with values in B too: zeros hide mistakes.
fn model(weights: &Weights, compute: DType, dropout: f64) -> (Decoder, Parameters) {
    let lora = LoraConfig {
        rank: 3,
        alpha: 7.0,
        dropout,
        target_modules: TargetModules::AllLinear,
        use_rslora: false,
        use_dora: false,
        modules_to_save: Vec::new(),
    };
    let mut builder = Builder::new(weights, compute, Method::Lora(lora), 9);
    let config = decoder_config(weights.config()).unwrap();
    let decoder = Decoder::build(&mut builder, config, compute).unwrap();
    let mut parameters = builder.finish().unwrap();
    for (i, p) in parameters.0.iter_mut().enumerate() {
        if p.name.contains("lora_B") {
            let values: Vec<f64> = (0..p.value.elem_count())
                .map(|j| (((i * 31 + j * 17) % 23) as f64 - 11.0) * 0.01)
                .collect();
            let values = Tensor::from_vec(values, p.value.dims(), &Device::Cpu).unwrap();
            let values = values.to_dtype(p.value.dtype()).unwrap();
            p.value.slice_set(&values, 0, 0).unwrap();
        }
    }
    (decoder, parameters)
}

fn batch(vocab: usize) -> Batch {
    let mut pack = Pack::default();
    for (i, len) in [9usize, 4, 17, 2, 11].into_iter().enumerate() {
        pack.push(&Tokenized {
            id: format!("s{i}"),
            sample: i as u64,
            input_ids: (0..len)
                .map(|t| ((i * 13 + t * 7 + 3) % vocab) as u32)
                .collect(),
            loss_mask: (0..len).map(|t| t > 0 && t >= len / 3).collect(),
        });
    }
    Batch::from_packs([&pack])
}

/// The weights written out in f32 and opened again.
fn dequantized(weights: &Weights, dir: &Path) -> Weights {
    let out = dir.join("plain");
    let options = ExportOptions {
        dtype: Some(DType::F32),
        ..Default::default()
    };
    convert(weights, &out, &options).unwrap();
    Weights::open(&out).unwrap()
}

/// Every base there is a file of, and one wide enough to be dequantized in several panels.
fn bases() -> Vec<(String, Weights)> {
    let mut bases = Vec::new();
    for name in [
        "llama",
        "llama_gqa",
        "llama3_rope",
        "mistral_window",
        "qwen2",
        "qwen3",
        "smollm2_tiny",
    ] {
        let weights = Weights::open(&golden(name)).unwrap();
        let weights = weights.quantized(Quantization::Nf4).unwrap();
        bases.push((format!("{name} in NF4"), weights));
    }
    for name in ["smollm", "spm", "llama_bpe", "qwen2"] {
        let path = golden("gguf").join(name).with_extension("gguf");
        bases.push((format!("{name}.gguf"), Weights::open(&path).unwrap()));
    }
    bases.push((
        "bitsandbytes".into(),
        Weights::open(&golden("nf4/model")).unwrap(),
    ));
    bases
}

/// Bit for bit: dequantizing gives the numbers that the plain weight holds, and one panel holds them all.
#[test]
fn gradients_are_those_of_lora_over_the_dequantized_weights() {
    for (name, weights) in bases() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dequantized(&weights, dir.path());
        let vocab = decoder_config(weights.config()).unwrap().vocab_size;
        let batch = batch(vocab);
        for compute in [DType::F32, DType::BF16, DType::F64] {
            for dropout in [0.0, 0.3] {
                let (a, b) = (
                    model(&weights, compute, dropout),
                    model(&plain, compute, dropout),
                );
                let (loss_a, gradients_a) = gradients(&a, &batch, 4);
                let (loss_b, gradients_b) = gradients(&b, &batch, 4);
                assert_eq!(loss_a.to_bits(), loss_b.to_bits(), "{name} {compute:?}");
                for ((x, y), p) in gradients_a.iter().zip(&gradients_b).zip(&a.1.0) {
                    assert!(max_abs(x) > 0.0, "{name} {}: gradient is zero", p.name);
                    assert_eq!(bits(x), bits(y), "{name} {compute:?} {}", p.name);
                }
            }
        }
    }
}

/// A weight of several panels is summed panel by panel in the backward pass: within what reordering a sum of f32 may do.
#[test]
fn so_are_those_of_weights_of_several_panels() {
    let config = json!({
        "model_type": "llama", "vocab_size": 61, "hidden_size": 252, "intermediate_size": 1300,
        "num_hidden_layers": 1, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 42,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "max_position_embeddings": 64
    });
    let shape = decoder_config(&config).unwrap();
    let weights = Weights::random(config, tensor_specs(&shape, 0.05), 5)
        .quantized(Quantization::Nf4)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plain = dequantized(&weights, dir.path());
    for (compute, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
        let (a, b) = (model(&weights, compute, 0.0), model(&plain, compute, 0.0));
        let (loss_a, gradients_a) = gradients(&a, &batch(61), 0);
        let (loss_b, gradients_b) = gradients(&b, &batch(61), 0);
        assert!((loss_a - loss_b).abs() <= tolerance * loss_b);
        let largest = gradients_b.iter().map(max_abs).fold(0.0, f64::max);
        for ((x, y), p) in gradients_a.iter().zip(&gradients_b).zip(&a.1.0) {
            let difference = max_abs(&(x - y).unwrap());
            assert!(
                difference <= tolerance * largest,
                "{}: {difference:.1e} of {largest:.1e}",
                p.name
            );
        }
    }
}

/// Training changes the adapter and not a bit of the base.
#[test]
fn the_base_stays_as_it_is() {
    let weights = Weights::open(&golden("qwen3")).unwrap();
    let weights = weights.quantized(Quantization::Nf4).unwrap();
    let (mut decoder, mut parameters) = model(&weights, DType::F32, 0.1);
    let batch = batch(97);
    let before = decoder.logits(&batch).unwrap();
    let start: Vec<Tensor> = parameters
        .0
        .iter()
        .map(|p| p.value.copy().unwrap())
        .collect();
    for step in 0..3 {
        let model = (decoder, parameters);
        let (_, gradients) = gradients(&model, &batch, step);
        (decoder, parameters) = model;
        for (p, gradient) in parameters.0.iter_mut().zip(&gradients) {
            let moved = (&p.value - gradient.affine(0.3, 0.0).unwrap()).unwrap();
            p.value.slice_set(&moved, 0, 0).unwrap();
        }
    }
    assert!(max_abs(&(decoder.logits(&batch).unwrap() - &before).unwrap()) > 1e-3);
    // The adapter as it was gives what it gave.
    for (p, start) in parameters.0.iter_mut().zip(&start) {
        p.value.slice_set(start, 0, 0).unwrap();
    }
    assert_eq!(bits(&decoder.logits(&batch).unwrap()), bits(&before));
}
