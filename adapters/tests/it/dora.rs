//! DoRA, against its formula on candle's tape in f64, in bf16, over quantized bases, and where it has no answer.

use crate::support::{distance, flat, golden, lora, random_weights, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{
    Builder, GradSink, LinearGroup, LinearSpec, LoraConfig, Method, ParamId, ParameterKind,
    Parameters, Pass, Weights,
};
use candle_core::{D, DType, Device, Tensor, Var};
use kernels::{DropoutKey, RowIds};
use std::collections::BTreeMap;
use std::path::Path;

const INNER: usize = 5;
const TOKENS: usize = 6;
const PREFIX: &str = "model.layers.0.self_attn";
/// Name, rows, bias.
const MEMBERS: [(&str, usize, bool); 2] = [("q_proj", 7, true), ("v_proj", 3, false)];

fn weights() -> Weights {
    random_weights(&[
        ("model.layers.0.self_attn.q_proj.weight", &[7, INNER]),
        ("model.layers.0.self_attn.q_proj.bias", &[7]),
        ("model.layers.0.self_attn.v_proj.weight", &[3, INNER]),
    ])
}

fn specs() -> Vec<LinearSpec> {
    let spec = |(name, rows, bias): &(&str, usize, bool)| LinearSpec {
        name: format!("{PREFIX}.{name}"),
        in_features: INNER,
        out_features: *rows,
        bias: *bias,
    };
    MEMBERS.iter().map(spec).collect()
}

fn config(dropout: f64) -> LoraConfig {
    LoraConfig {
        use_dora: true,
        use_rslora: true,
        ..lora(2, 3.0, dropout, &["all-linear"])
    }
}

/// Random A, B and magnitudes, these in 0.2 to 1.2.
fn adapter(config: &LoraConfig) -> PeftAdapter {
    let mut tensors = BTreeMap::new();
    for (i, (name, rows, _)) in MEMBERS.iter().enumerate() {
        let module = format!("base_model.model.{PREFIX}.{name}");
        let random = |shape, j| tensor(shape, DType::F64, 10 * i as u64 + j);
        let magnitude = random((1, *rows), 3).reshape(*rows).unwrap();
        let magnitude = (magnitude.abs().unwrap() + 0.2).unwrap();
        tensors.insert(format!("{module}.lora_A.weight"), random((2, INNER), 1));
        tensors.insert(format!("{module}.lora_B.weight"), random((*rows, 2), 2));
        tensors.insert(format!("{module}.lora_magnitude_vector"), magnitude);
    }
    PeftAdapter {
        config: PeftConfig {
            lora: config.clone(),
            ensure_weight_tying: false,
            base_model: None,
        },
        tensors,
        belonging: None,
    }
}

fn build(
    weights: &Weights,
    dtype: DType,
    method: Method,
    start: Option<PeftAdapter>,
) -> (LinearGroup, Parameters) {
    let mut builder = Builder::new(weights, dtype, method, 1);
    if let Some(start) = start {
        builder = builder.with_adapter(start).unwrap();
    }
    let group = builder.linear_group(&specs()).unwrap();
    (group, builder.finish().unwrap())
}

fn rows() -> RowIds {
    RowIds::new([(3, 0), (3, 1), (3, 2), (8, 0), (8, 1), (9, 0)])
}

fn pass(rows: &RowIds, training: bool) -> Pass<'_> {
    Pass {
        training,
        seed: 11,
        step: 4,
        rows,
    }
}

fn output_gradients(dtype: DType) -> Vec<Tensor> {
    let members = MEMBERS.iter().enumerate();
    members.map(|(i, m)| tensor((TOKENS, m.1), dtype, 100 + i as u64)).collect()
}

fn objective(outputs: &[Tensor], dy: &[Tensor]) -> Tensor {
    let sums = outputs.iter().zip(dy).map(|(y, g)| (y * g).unwrap().sum_all().unwrap());
    sums.reduce(|a, b| (a + b).unwrap()).unwrap()
}

/// Collects gradients; with parameters it destroys their values as soon as their gradients come.
#[derive(Default)]
struct Gradients {
    of: BTreeMap<usize, Tensor>,
    destroys: Option<Parameters>,
}

impl GradSink for Gradients {
    fn add(&mut self, param: ParamId, grad: Tensor) -> adapters::Result<()> {
        if let Some(parameters) = &mut self.destroys {
            kernels::scale_assign(&mut parameters.0[param.0].value, f64::NAN)?;
        }
        assert!(self.of.insert(param.0, grad).is_none());
        Ok(())
    }
}

/// The mask that a module uses, read off that of a matrix of ones.
fn mask(module: &str, dropout: f64, pass: &Pass) -> Tensor {
    let ones = Tensor::ones((TOKENS, INNER), DType::F64, &Device::Cpu).unwrap();
    if !pass.training || dropout == 0.0 {
        return ones;
    }
    let mut text = vec![0u8; 8];
    text.extend_from_slice(module.as_bytes());
    let hex = ledger::hash::sha256_bytes(&text);
    let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    let key = DropoutKey {
        seed: pass.seed,
        step: pass.step,
        module: u64::from_le_bytes(std::array::from_fn(byte)),
    };
    kernels::dropout(&ones, dropout, key, pass.rows).unwrap()
}

/// `DoraLinearLayer.forward` of PEFT on the tape, and the variables by PEFT's keys.
fn reference(weights: &Weights, x: &Tensor, config: &LoraConfig, pass: &Pass) -> (Vec<Tensor>, BTreeMap<String, Var>) {
    let (mut outputs, mut vars) = (Vec::new(), BTreeMap::new());
    let given = adapter(config);
    for (name, _, bias) in MEMBERS {
        let module = format!("{PREFIX}.{name}");
        let read = |part: &str| weights.view(&format!("{module}.{part}")).unwrap().tensor(DType::F64).unwrap();
        let mut var = |which: &str| {
            let key = format!("base_model.model.{module}.{which}");
            let var = Var::from_tensor(&given.tensors[&key]).unwrap();
            vars.insert(key, var.clone());
            var.as_tensor().clone()
        };
        let (a, b, m) = (var("lora_A.weight"), var("lora_B.weight"), var("lora_magnitude_vector"));
        let w = read("weight");
        let changed = (&w + (b.matmul(&a).unwrap() * config.scaling()).unwrap()).unwrap();
        let norm = changed.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap().detach();
        let factor = (m / norm).unwrap();
        let dropped = (x * mask(&module, config.dropout, pass)).unwrap();
        let base = dropped.matmul(&w.t().unwrap()).unwrap();
        let low = dropped.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
        let low = (low * config.scaling()).unwrap();
        let mut y = x.matmul(&w.t().unwrap()).unwrap();
        y = (y + base.broadcast_mul(&(&factor - 1.0).unwrap()).unwrap()).unwrap();
        y = (y + low.broadcast_mul(&factor).unwrap()).unwrap();
        if bias {
            y = y.broadcast_add(&read("bias")).unwrap();
        }
        outputs.push(y);
    }
    (outputs, vars)
}

#[test]
fn dora_equals_the_tape() {
    let weights = weights();
    for (dropout, training) in [(0.0, true), (0.4, true), (0.4, false)] {
        let config = config(dropout);
        let method = Method::Lora(config.clone());
        let (group, parameters) = build(&weights, DType::F64, method, Some(adapter(&config)));
        let rows = rows();
        let pass = pass(&rows, training);
        let x = Var::from_tensor(&tensor((TOKENS, INNER), DType::F64, 1)).unwrap();
        let (expected, vars) = reference(&weights, x.as_tensor(), &config, &pass);
        let dy = output_gradients(DType::F64);
        let tape = objective(&expected, &dy).backward().unwrap();

        let (outputs, saved) = group.forward(&x, &pass).unwrap();
        for (y, e) in outputs.iter().zip(&expected) {
            assert!(distance(y, e) < 1e-12, "dropout {dropout}");
        }
        let mut sink = Gradients::default();
        let dx = group.backward(saved, &dy, &pass, true, &mut sink).unwrap().unwrap();
        assert!(distance(&dx, tape.get(&x).unwrap()) < 1e-12);
        assert_eq!((sink.of.len(), parameters.0.len()), (6, 6));
        for (i, parameter) in parameters.0.iter().enumerate() {
            let wanted = tape.get(&vars[&parameter.name]).unwrap();
            assert!(distance(&sink.of[&i], wanted) < 1e-12, "{}", parameter.name);
            let largest = flat(wanted).iter().fold(0f64, |m, g| m.max(g.abs()));
            assert!(largest > 1e-3, "{}", parameter.name);
        }
        // An adapter that is only applied gives the same, and the same gradient to what lies before it.
        let (frozen, none) = build(&weights, DType::F64, Method::Frozen, Some(adapter(&config)));
        assert!(none.0.is_empty());
        let (again, saved) = frozen.forward(&x, &pass).unwrap();
        let mut nothing = Gradients::default();
        let same = frozen.backward(saved, &dy, &pass, true, &mut nothing).unwrap().unwrap();
        assert!(nothing.of.is_empty() && distance(&dx, &same) < 1e-12);
        assert!(outputs.iter().zip(&again).all(|(a, b)| distance(a, b) < 1e-12));
    }
}

/// The magnitudes enter the output linearly, so their gradient is exact; the input passes through a norm that does not
/// depend on it.
#[test]
fn magnitudes_and_inputs_equal_finite_differences() {
    let weights = weights();
    for dropout in [0.0, 0.3] {
        let config = config(dropout);
        let method = Method::Lora(config.clone());
        let (group, parameters) = build(&weights, DType::F64, method, Some(adapter(&config)));
        let rows = rows();
        let pass = pass(&rows, true);
        let x = tensor((TOKENS, INNER), DType::F64, 1);
        let dy = output_gradients(DType::F64);
        let value = || flat(&objective(&group.forward(&x, &pass).unwrap().0, &dy))[0];
        let (_, saved) = group.forward(&x, &pass).unwrap();
        let mut sink = Gradients::default();
        let dx = group.backward(saved, &dy, &pass, true, &mut sink).unwrap().unwrap();
        let nudge = |t: &Tensor, i: usize, by: f64| {
            let mut one = vec![0.0; t.elem_count()];
            one[i] = by;
            let one = Tensor::from_vec(one, t.shape(), t.device()).unwrap();
            kernels::add_assign(&mut t.clone(), &one).unwrap();
        };
        let of = |p: &usize| parameters.0[*p].kind == ParameterKind::Magnitude;
        let magnitudes = (0..parameters.0.len()).filter(of);
        let mut checks: Vec<_> = magnitudes.map(|i| (&parameters.0[i].value, &sink.of[&i])).collect();
        assert_eq!(checks.len(), 2);
        checks.push((&x, &dx));
        for (t, gradient) in checks {
            for (i, g) in flat(gradient).into_iter().enumerate() {
                nudge(t, i, 1e-4);
                let up = value();
                nudge(t, i, -2e-4);
                let down = value();
                nudge(t, i, 1e-4);
                let measured = (up - down) / 2e-4;
                assert!((measured - g).abs() < 1e-7 * (1.0 + g.abs()), "[{i}]: {g} but {measured}");
            }
        }
    }
}

/// A sink may change values as their gradients come: what is computed from them has been computed by then.
#[test]
fn a_sink_may_destroy_what_it_was_given_the_gradient_of() {
    let weights = weights();
    for (use_dora, dropout) in [(false, 0.0), (false, 0.3), (true, 0.0), (true, 0.3)] {
        let config = LoraConfig { use_dora, ..config(dropout) };
        let run = |destroy: bool| {
            let mut start = adapter(&config);
            start.tensors.retain(|key, _| use_dora || !key.ends_with("vector"));
            let method = Method::Lora(config.clone());
            let (group, parameters) = build(&weights, DType::F64, method, Some(start));
            let rows = rows();
            let pass = pass(&rows, true);
            let (_, saved) = group.forward(&tensor((TOKENS, INNER), DType::F64, 1), &pass).unwrap();
            let mut sink = Gradients {
                destroys: destroy.then_some(parameters),
                ..Default::default()
            };
            let dy = output_gradients(DType::F64);
            let dx = group.backward(saved, &dy, &pass, true, &mut sink).unwrap().unwrap();
            let mut all = vec![flat(&dx)];
            all.extend(sink.of.values().map(flat));
            all
        };
        assert_eq!(run(true), run(false));
    }
}

/// m starts at ‖W‖, so a fresh DoRA is the base to the bit; its scaling shows as soon as m moves.
#[test]
fn a_fresh_dora_is_the_base() {
    let weights = weights();
    let x = tensor((TOKENS, INNER), DType::F32, 1);
    let (plain, _) = build(&weights, DType::F32, Method::Frozen, None);
    let (fresh, mut parameters) = build(&weights, DType::F32, Method::Lora(config(0.0)), None);
    let base = plain.infer(&x).unwrap();
    for (a, b) in fresh.infer(&x).unwrap().iter().zip(&base) {
        assert_eq!(distance(a, b), 0.0);
    }
    for p in parameters.0.iter_mut().filter(|p| p.kind == ParameterKind::Magnitude) {
        kernels::scale_assign(&mut p.value, 1.5).unwrap();
    }
    let scaled = fresh.infer(&x).unwrap();
    let expected = (&base[1] * 1.5).unwrap();
    assert!(distance(&scaled[1], &expected) < 1e-6);
}

#[test]
fn bf16_outputs_are_rounded_once() {
    let weights = weights();
    let config = config(0.0);
    let start = || Some(adapter(&config));
    let (bf16, _) = build(&weights, DType::BF16, Method::Lora(config.clone()), start());
    let (f32, _) = build(&weights, DType::F32, Method::Lora(config.clone()), start());
    let x = tensor((TOKENS, INNER), DType::BF16, 1);
    let exact = f32.infer(&x.to_dtype(DType::F32).unwrap()).unwrap();
    for (y, e) in bf16.infer(&x).unwrap().iter().zip(exact) {
        assert_eq!(distance(y, &e.to_dtype(DType::BF16).unwrap()), 0.0);
    }
}

/// Over every block type that the file has: fresh magnitudes are the lengths of the unpacked rows.
#[test]
fn quantized_bases_are_measured_unpacked() {
    let weights = Weights::open(&golden("gguf/smollm.gguf")).unwrap();
    let mut builder = Builder::new(&weights, DType::F32, Method::Lora(config(0.0)), 1);
    let names: Vec<String> = weights.names().filter(|n| n.ends_with("_proj.weight")).map(String::from).collect();
    assert!(names.len() > 14);
    let mut stored = std::collections::BTreeSet::new();
    for name in &names {
        let view = weights.view(name).unwrap();
        stored.insert(view.dtype_name());
        let spec = LinearSpec {
            name: name.strip_suffix(".weight").unwrap().into(),
            in_features: view.shape[1],
            out_features: view.shape[0],
            bias: false,
        };
        let _ = builder.linear_group(&[spec]).unwrap();
    }
    assert!(stored.len() > 5, "{stored:?}");
    let parameters = builder.finish().unwrap();
    for name in &names {
        let module = name.strip_suffix(".weight").unwrap();
        let key = format!("base_model.model.{module}.lora_magnitude_vector");
        let magnitude = &parameters.0.iter().find(|p| p.name == key).unwrap().value;
        let rows = weights.view(name).unwrap().tensor(DType::F64).unwrap();
        let lengths = rows.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap();
        for (m, n) in flat(magnitude).iter().zip(flat(&lengths)) {
            assert!((m - n).abs() < 1e-6 * n, "{name}: {m} for {n}");
        }
    }
}

/// W ≈ −s B A: the three terms of n² cancel, and n is still that of W + s B A.
#[test]
fn an_update_that_all_but_undoes_its_weight_keeps_its_norm() {
    let config = config(0.0);
    let dir = tempfile::tempdir().unwrap();
    let given = adapter(&config);
    let mut tensors = Vec::new();
    let mut changed = Vec::new();
    for (name, rows, bias) in MEMBERS {
        let module = format!("{PREFIX}.{name}");
        let (a, b) = given.pair(&module).unwrap();
        let delta = (b.matmul(a).unwrap() * config.scaling()).unwrap();
        // One row in two.
        let w: Vec<f32> = flat(&delta)
            .iter()
            .zip(flat(&tensor((rows, INNER), DType::F64, 77)))
            .enumerate()
            .map(|(i, (d, r))| if i / INNER % 2 == 0 { -d + 1e-4 * r } else { r } as f32)
            .collect();
        let exact = Tensor::from_vec(w.clone(), (rows, INNER), &Device::Cpu).unwrap();
        changed.push((exact.to_dtype(DType::F64).unwrap() + delta).unwrap());
        tensors.push((format!("{module}.weight"), vec![rows, INNER], w));
        if bias {
            tensors.push((format!("{module}.bias"), vec![rows], vec![0.0; rows]));
        }
    }
    let listed: Vec<(&str, &[usize], Vec<f32>)> =
        tensors.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.clone())).collect();
    crate::support::write_safetensors(&dir.path().join("model.safetensors"), &listed);
    crate::support::json_file(&dir.path().join("config.json"), &serde_json::json!({}));
    let weights = Weights::open(dir.path()).unwrap();
    let x = tensor((TOKENS, INNER), DType::F64, 1);
    for method in [Method::Frozen, Method::Lora(config.clone())] {
        let (group, _) = build(&weights, DType::F64, method, Some(given.clone()));
        for ((y, changed), (name, ..)) in group.infer(&x).unwrap().iter().zip(&changed).zip(MEMBERS) {
            let lengths = changed.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap();
            let factor = (given.magnitude(&format!("{PREFIX}.{name}")).unwrap() / lengths).unwrap();
            let expected = x.matmul(&changed.t().unwrap()).unwrap().broadcast_mul(&factor).unwrap();
            // x (W + Δ)ᵀ itself cancels: eight of sixteen digits are left of its smallest rows.
            assert!(distance(y, &expected) < 1e-8, "{name}");
        }
    }
}

#[test]
fn a_row_without_a_direction_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = crate::support::numbers(35, 1);
    w[10..15].fill(0.0);
    let q = format!("{PREFIX}.q_proj.weight");
    crate::support::write_safetensors(&dir.path().join("model.safetensors"), &[(&q, &[7, INNER], w)]);
    crate::support::json_file(&dir.path().join("config.json"), &serde_json::json!({}));
    let weights = Weights::open(dir.path()).unwrap();
    let mut builder = Builder::new(&weights, DType::F32, Method::Lora(config(0.0)), 1);
    let spec = LinearSpec { bias: false, ..specs().remove(0) };
    let found = refused(builder.linear_group(&[spec]));
    insta::assert_snapshot!(shown(&found, Path::new("/nowhere")), @r"
    row 2 of `model.layers.0.self_attn.q_proj.weight` with its update is all zeros, and DoRA needs its direction
    hint: leave the layer out of target_modules, or turn use_dora off
    ");
}
