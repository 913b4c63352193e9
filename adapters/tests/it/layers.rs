//! LinearGroup, forward and backward, against the same composition on candle's tape and against finite differences,
//! in f64: B is not zero, alpha is not the rank, no weight is square, dropout is on.

use crate::support::{distance, flat, lora, random_weights_in, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{
    Builder, GradSink, LinearGroup, LinearSpec, LoraConfig, Method, ParamId, Parameters, Pass,
    Weights,
};
use candle_core::{DType, Tensor, Var};
use kernels::{DropoutKey, RowIds};
use std::collections::BTreeMap;

const INNER: usize = 5;
const TOKENS: usize = 6;
const PREFIX: &str = "model.layers.0.self_attn";
/// Name, rows, bias.
const MEMBERS: [(&str, usize, bool); 3] = [
    ("q_proj", 7, true),
    ("k_proj", 3, false),
    ("v_proj", 4, true),
];

fn weights() -> Weights {
    weights_in("float32")
}

fn weights_in(dtype: &str) -> Weights {
    let names: Vec<(String, Vec<usize>)> = MEMBERS
        .iter()
        .flat_map(|(name, rows, _)| {
            [
                (format!("{PREFIX}.{name}.weight"), vec![*rows, INNER]),
                (format!("{PREFIX}.{name}.bias"), vec![*rows]),
            ]
        })
        .collect();
    let shapes: Vec<(&str, &[usize])> = names
        .iter()
        .map(|(n, s)| (n.as_str(), s.as_slice()))
        .collect();
    random_weights_in(dtype, &shapes)
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

/// An adapter on q and v whose matrices are all random.
fn adapter(config: &LoraConfig, dtype: DType) -> PeftAdapter {
    let mut tensors = BTreeMap::new();
    for (i, (name, rows, _)) in MEMBERS.iter().enumerate().filter(|(_, m)| m.0 != "k_proj") {
        let key = |which: &str| format!("base_model.model.{PREFIX}.{name}.{which}.weight");
        let seed = 10 * i as u64;
        tensors.insert(key("lora_A"), tensor((config.rank, INNER), dtype, seed + 1));
        tensors.insert(key("lora_B"), tensor((*rows, config.rank), dtype, seed + 2));
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

fn build(weights: &Weights, dtype: DType, method: Method) -> (LinearGroup, Parameters) {
    let start = match &method {
        Method::Lora(config) => Some(adapter(config, DType::F64)),
        _ => None,
    };
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

#[derive(Default)]
struct Gradients(BTreeMap<usize, Tensor>);

impl GradSink for Gradients {
    fn add(&mut self, param: ParamId, grad: Tensor) -> adapters::Result<()> {
        assert!(
            self.0.insert(param.0, grad).is_none(),
            "parameter {} has two gradients",
            param.0
        );
        Ok(())
    }
}

fn output_gradients(dtype: DType) -> Vec<Tensor> {
    MEMBERS
        .iter()
        .enumerate()
        .map(|(i, m)| tensor((TOKENS, m.1), dtype, 100 + i as u64))
        .collect()
}

/// The scalar whose gradient is taken: Σ y · dy over all members.
fn objective(outputs: &[Tensor], dy: &[Tensor]) -> Tensor {
    let sums = outputs
        .iter()
        .zip(dy)
        .map(|(y, g)| (y * g).unwrap().sum_all().unwrap());
    sums.reduce(|a, b| (a + b).unwrap()).unwrap()
}

/// The masks the layer must have used, read off the mask of a matrix of ones.
fn mask(group_member: &str, config: &LoraConfig, pass: &Pass) -> Tensor {
    let ones = Tensor::ones((TOKENS, INNER), DType::F64, &candle_core::Device::Cpu).unwrap();
    if !pass.training || config.dropout == 0.0 {
        return ones;
    }
    let module = adapters_module_number(&format!("{PREFIX}.{group_member}"));
    let key = DropoutKey {
        seed: pass.seed,
        step: pass.step,
        module,
    };
    kernels::dropout(&ones, config.dropout, key, pass.rows).unwrap()
}

/// The module's number in a mask is the first eight bytes of SHA-256(0u64, name): part of what a seed promises.
fn adapters_module_number(name: &str) -> u64 {
    let mut text = vec![0u8; 8];
    text.extend_from_slice(name.as_bytes());
    let hex = ledger::hash::sha256_bytes(&text);
    let bytes: Vec<u8> = (0..8)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn lora_equals_the_tape() {
    let weights = weights();
    for (dropout, training) in [(0.0, true), (0.4, true), (0.4, false)] {
        let config = LoraConfig {
            use_rslora: dropout == 0.0,
            ..lora(2, 5.0, dropout, &["q_proj", "v_proj"])
        };
        let (group, parameters) = build(&weights, DType::F64, Method::Lora(config.clone()));
        let rows = rows();
        let pass = Pass {
            training,
            seed: 11,
            step: 4,
            rows: &rows,
        };

        let x = Var::from_tensor(&tensor((TOKENS, INNER), DType::F64, 1)).unwrap();
        let mut vars = BTreeMap::new();
        let mut expected = Vec::new();
        let given = adapter(&config, DType::F64);
        for (name, _, bias) in MEMBERS {
            let module = format!("{PREFIX}.{name}");
            let w = weights
                .view(&format!("{module}.weight"))
                .unwrap()
                .tensor(DType::F64)
                .unwrap();
            let mut y = x.matmul(&w.t().unwrap()).unwrap();
            if bias {
                let b = weights
                    .view(&format!("{module}.bias"))
                    .unwrap()
                    .tensor(DType::F64)
                    .unwrap();
                y = y.broadcast_add(&b).unwrap();
            }
            if let Some((a, b)) = given.pair(&module) {
                let (a, b) = (Var::from_tensor(a).unwrap(), Var::from_tensor(b).unwrap());
                let dropped = (x.as_tensor() * mask(name, &config, &pass)).unwrap();
                let low = dropped
                    .matmul(&a.t().unwrap())
                    .unwrap()
                    .matmul(&b.t().unwrap())
                    .unwrap();
                y = (y + (low * config.scaling()).unwrap()).unwrap();
                vars.insert(format!("base_model.model.{module}.lora_A.weight"), a);
                vars.insert(format!("base_model.model.{module}.lora_B.weight"), b);
            }
            expected.push(y);
        }
        let dy = output_gradients(DType::F64);
        let tape = objective(&expected, &dy).backward().unwrap();

        let (outputs, saved) = group.forward(&x, &pass).unwrap();
        for (y, e) in outputs.iter().zip(&expected) {
            assert!(distance(y, e) < 1e-12, "dropout {dropout}");
        }
        let mut sink = Gradients::default();
        let dx = group
            .backward(saved, &dy, &pass, true, &mut sink)
            .unwrap()
            .unwrap();
        assert!(distance(&dx, tape.get(&x).unwrap()) < 1e-12);
        assert_eq!(sink.0.len(), parameters.0.len());
        assert_eq!(parameters.0.len(), vars.len());
        for (i, parameter) in parameters.0.iter().enumerate() {
            let wanted = tape.get(&vars[&parameter.name]).unwrap();
            assert!(distance(&sink.0[&i], wanted) < 1e-12, "{}", parameter.name);
            assert!(
                flat(&sink.0[&i]).iter().any(|g| g.abs() > 1e-3),
                "{}",
                parameter.name
            );
        }

        // The same gradients where dx is not wanted.
        let (_, saved) = group.forward(&x, &pass).unwrap();
        let mut again = Gradients::default();
        assert!(
            group
                .backward(saved, &dy, &pass, false, &mut again)
                .unwrap()
                .is_none()
        );
        for (i, gradient) in &sink.0 {
            assert_eq!(distance(gradient, &again.0[i]), 0.0);
        }
    }
}

/// Central differences of the objective in every parameter and every input.
#[test]
fn gradients_equal_finite_differences() {
    let weights = weights();
    for method in [
        Method::Lora(lora(3, 1.5, 0.3, &["self_attn.q_proj", "v_proj"])),
        Method::Full,
    ] {
        let (group, parameters) = build(&weights, DType::F64, method);
        let rows = rows();
        let pass = Pass {
            training: true,
            seed: 2,
            step: 9,
            rows: &rows,
        };
        let x = tensor((TOKENS, INNER), DType::F64, 1);
        let dy = output_gradients(DType::F64);
        let value = |x: &Tensor| {
            let (outputs, saved) = group.forward(x, &pass).unwrap();
            drop(saved);
            flat(&objective(&outputs, &dy))[0]
        };
        let (_, saved) = group.forward(&x, &pass).unwrap();
        let mut sink = Gradients::default();
        let dx = group
            .backward(saved, &dy, &pass, true, &mut sink)
            .unwrap()
            .unwrap();

        let step = 1e-4;
        // Parameters and layers share storage: a change in place must be seen, as the optimizer's will be.
        let nudge = |t: &Tensor, i: usize, by: f64| {
            let mut one = vec![0.0; t.elem_count()];
            one[i] = by;
            let one = Tensor::from_vec(one, t.shape(), t.device()).unwrap();
            kernels::add_assign(&mut t.clone(), &one).unwrap();
        };
        let check = |t: &Tensor, gradient: &Tensor, x: &Tensor, name: &str| {
            for (i, g) in flat(gradient).into_iter().enumerate() {
                nudge(t, i, step);
                let up = value(x);
                nudge(t, i, -2.0 * step);
                let down = value(x);
                nudge(t, i, step);
                let measured = (up - down) / (2.0 * step);
                assert!(
                    (measured - g).abs() < 1e-7 * (1.0 + g.abs()),
                    "{name}[{i}]: {g} but {measured}"
                );
            }
        };
        for (i, parameter) in parameters.0.iter().enumerate() {
            check(&parameter.value, &sink.0[&i], &x, &parameter.name);
        }
        check(&x, &dx, &x, "x");
    }
}

#[test]
fn full_training_covers_every_weight_and_bias() {
    let weights = weights();
    let (group, parameters) = build(&weights, DType::F64, Method::Full);
    let names: Vec<&str> = parameters
        .0
        .iter()
        .map(|p| p.name.strip_prefix(PREFIX).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            ".q_proj.weight",
            ".q_proj.bias",
            ".k_proj.weight",
            ".v_proj.weight",
            ".v_proj.bias"
        ]
    );
    assert_eq!(
        parameters.0.iter().map(|p| p.decays()).collect::<Vec<_>>(),
        [true, false, true, true, false]
    );
    let rows = rows();
    let pass = Pass {
        training: true,
        seed: 0,
        step: 1,
        rows: &rows,
    };
    let x = tensor((TOKENS, INNER), DType::F64, 1);
    let (_, saved) = group.forward(&x, &pass).unwrap();
    let mut sink = Gradients::default();
    let dx = group
        .backward(
            saved,
            &output_gradients(DType::F64),
            &pass,
            false,
            &mut sink,
        )
        .unwrap();
    assert!(dx.is_none());
    assert_eq!(sink.0.len(), parameters.0.len());
    for (i, parameter) in parameters.0.iter().enumerate() {
        assert_eq!(sink.0[&i].dims(), parameter.value.dims());
        assert!(flat(&sink.0[&i]).iter().any(|g| *g != 0.0));
    }
}

#[test]
fn inference_is_the_forward_pass_without_dropout() {
    let weights = weights();
    let config = lora(2, 5.0, 0.5, &["all-linear"]);
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        let mut builder = Builder::new(&weights, dtype, Method::Frozen, 0)
            .with_adapter(adapter(&config, DType::F32));
        let group = builder.as_mut().unwrap().linear_group(&specs()).unwrap();
        assert!(builder.unwrap().finish().unwrap().0.is_empty());
        let rows = rows();
        let x = tensor((TOKENS, INNER), dtype, 1);
        let still = Pass {
            training: false,
            seed: 0,
            step: 0,
            rows: &rows,
        };
        let (outputs, saved) = group.forward(&x, &still).unwrap();
        for (a, b) in outputs.iter().zip(group.infer(&x).unwrap()) {
            assert_eq!(a.dtype(), dtype);
            assert_eq!(distance(a, &b), 0.0);
        }
        // Nothing is trained, and the gradient still passes through the adapter to what lies before.
        let mut sink = Gradients::default();
        let dy = output_gradients(dtype);
        let dx = group
            .backward(saved, &dy, &still, true, &mut sink)
            .unwrap()
            .unwrap();
        assert!(sink.0.is_empty());
        let plain = Builder::new(&weights, dtype, Method::Frozen, 0)
            .linear_group(&specs())
            .unwrap();
        let (_, saved) = plain.forward(&x, &still).unwrap();
        let without = plain
            .backward(saved, &dy, &still, true, &mut sink)
            .unwrap()
            .unwrap();
        assert!(distance(&dx, &without) > 0.1);
    }
}

/// In bf16 the adapter's part is added before rounding: an update below half a rounding step of the frozen part must
/// still be able to tip it.
#[test]
fn bf16_outputs_are_the_f32_sum_rounded_once() {
    // In bf16: the processor's bf16 products round weights that are stored otherwise.
    let weights = weights_in("bfloat16");
    let config = lora(2, 0.01, 0.0, &["q_proj", "v_proj"]);
    let (bf16, _) = build(&weights, DType::BF16, Method::Lora(config.clone()));
    let (f32, _) = build(&weights, DType::F32, Method::Lora(config));
    let x = tensor((TOKENS, INNER), DType::BF16, 1);
    let exact = f32.infer(&x.to_dtype(DType::F32).unwrap()).unwrap();
    for (y, e) in bf16.infer(&x).unwrap().iter().zip(exact) {
        let once = e.to_dtype(DType::BF16).unwrap();
        assert_eq!(y.dtype(), DType::BF16);
        assert_eq!(distance(y, &once), 0.0);
    }
}

#[test]
fn gradients_for_fewer_outputs_than_there_are_are_refused() {
    let weights = weights();
    let (group, _) = build(&weights, DType::F32, Method::Full);
    let rows = rows();
    let pass = Pass {
        training: true,
        seed: 0,
        step: 0,
        rows: &rows,
    };
    let (_, saved) = group
        .forward(&tensor((TOKENS, INNER), DType::F32, 1), &pass)
        .unwrap();
    let two = &output_gradients(DType::F32)[..2];
    let found = crate::support::refused(group.backward(
        saved,
        two,
        &pass,
        false,
        &mut Gradients::default(),
    ));
    let adapters::Error::Kernel(kernels::Error::Length {
        expected, found, ..
    }) = found
    else {
        panic!("{found}")
    };
    assert_eq!((expected, found), (3, 2));
}
