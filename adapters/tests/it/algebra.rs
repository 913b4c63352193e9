//! Combining, extracting, resizing and measuring adapters: against PEFT, against numpy's SVD, and against the dense
//! computation that they avoid.

use crate::support::{
    distance, flat, golden, json_file, lora, numbers, random_weights, random_weights_in,
    read_tensors, refused, shown, tensor, write_safetensors,
};
use adapters::Belonging;
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{
    CombineMethod, CombineOptions, ExtractOptions, LoraConfig, MergeOptions, NoOp, TargetModules,
    Weights, combine, extract, inspect, merge, resize,
};
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn loaded(name: &str) -> PeftAdapter {
    PeftAdapter::load(&golden("combine").join(name)).unwrap()
}

fn by(method: CombineMethod, weights: &[f64], density: Option<f64>) -> CombineOptions {
    CombineOptions {
        method,
        weights: weights.into(),
        density,
        rank: None,
        seed: 3,
        force: false,
    }
}

/// s B A in f64, by the plain product.
fn update(adapter: &PeftAdapter, module: &str) -> Tensor {
    let (a, b) = adapter.pair(module).unwrap();
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    (wide(b).matmul(&wide(a)).unwrap() * adapter.config.lora.scaling()).unwrap()
}

fn norm(t: &Tensor) -> f64 {
    flat(t).iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn relative(found: &Tensor, wanted: &Tensor) -> f64 {
    norm(&(found - wanted).unwrap()) / norm(wanted)
}

/// An adapter of (out, in) pairs with numbers in them, and a scaling that is not 1.
fn adapter(rank: usize, modules: &[(&str, usize, usize)], seed: u64) -> PeftAdapter {
    let mut tensors = BTreeMap::new();
    for (i, (module, out, inner)) in modules.iter().enumerate() {
        let seed = seed + 10 * i as u64;
        for (part, shape, seed) in [("A", (rank, *inner), seed), ("B", (*out, rank), seed + 1)] {
            let key = format!("base_model.model.{module}.lora_{part}.weight");
            tensors.insert(key, tensor(shape, DType::F32, seed));
        }
    }
    let names: Vec<&str> = modules.iter().map(|m| m.0).collect();
    PeftAdapter {
        config: PeftConfig {
            lora: lora(rank, 2.5 * rank as f64, 0.1, &names),
            ensure_weight_tying: false,
            base_model: Some("org/base".into()),
        },
        tensors,
        belonging: None,
    }
}

const Q: &str = "model.layers.0.self_attn.q_proj";
const UP: &str = "model.layers.1.mlp.up_proj";

#[test]
fn combined_adapters_are_peft_s() {
    let (a, b, c) = (loaded("a"), loaded("b"), loaded("c"));
    let (two, three) = ([("a", &a), ("b", &b)], [("a", &a), ("b", &b), ("c", &c)]);
    let fixtures = read_tensors(&golden("combine/combined.safetensors"));
    let weights = [0.7, -0.4, 1.3];
    use CombineMethod::*;
    for (method, name, inputs, density) in [
        (Linear, "cat", &three[..], None),
        (Ties, "ties", &two[..], Some(0.3)),
        (DareLinear, "dare_linear", &two[..], Some(1.0)),
        (DareTies, "dare_ties", &two[..], Some(1.0)),
    ] {
        let options = by(method, &weights[..inputs.len()], density);
        let found = combine(inputs, &options).unwrap().adapter;
        assert_eq!(found.config.lora.scaling(), 1.0);
        let prefix = format!("{name}.");
        let mut compared = 0;
        for (key, wanted) in &fixtures {
            let Some(key) = key.strip_prefix(&prefix) else {
                continue;
            };
            // PEFT's rank is the sum of all adapters' also where no module has all of them.
            let mut found = found.tensors[key].clone();
            for dim in 0..2 {
                let missing = wanted.dims()[dim] - found.dims()[dim];
                found = found.pad_with_zeros(dim, 0, missing).unwrap();
            }
            let worst = distance(&found, wanted);
            assert!(worst <= 1e-6, "{method} {key}: {worst:.1e}");
            compared += 1;
        }
        assert_eq!(compared, found.tensors.len());
    }
}

#[test]
fn updates_combined_as_published_are_peft_s() {
    let (a, b, c) = (loaded("a"), loaded("b"), loaded("c"));
    let inputs = [("a", &a), ("b", &b), ("c", &c)];
    let options = by(CombineMethod::TiesSvd, &[0.7, -0.4, 1.3], Some(0.3));
    let found = combine(&inputs, &options).unwrap();
    assert_eq!(found.adapter.config.lora.rank, 5);
    let energy = found.energy.unwrap();
    assert!(energy > 0.3 && energy < 1.0, "{energy}");
    let fixtures = read_tensors(&golden("combine/combined.safetensors"));
    for module in found.adapter.modules() {
        let wanted = fixtures[&format!("ties_svd.base_model.model.{module}")].clone();
        let wanted = wanted.to_dtype(DType::F64).unwrap();
        let error = relative(&update(&found.adapter, module), &wanted);
        assert!(error < 1e-5, "{module}: {error:.1e}");
    }
    assert_eq!(found.adapter.modules().count(), 6);
}

/// Whatever the ranks, scalings and targets.
#[test]
fn linear_is_the_weighted_sum_of_the_updates() {
    let (a, b, c) = (loaded("a"), loaded("b"), loaded("c"));
    let inputs = [("a", &a), ("b", &b), ("c", &c)];
    let weights = [0.7, -0.4, 1.3];
    let found = combine(&inputs, &by(CombineMethod::Linear, &weights, None)).unwrap();
    let found = found.adapter;
    // The largest sum of ranks that any module needs: v_proj has all three.
    assert_eq!(found.config.lora.rank, 11);
    let named = ["q_proj", "up_proj", "v_proj"].map(String::from).to_vec();
    assert_eq!(
        found.config.lora.target_modules,
        TargetModules::Named(named)
    );
    let mut compared = 0;
    for module in found.modules() {
        let mut wanted: Option<Tensor> = None;
        for ((_, adapter), weight) in inputs.iter().zip(weights) {
            if adapter.pair(module).is_some() {
                let term = (update(adapter, module) * weight).unwrap();
                wanted = Some(match wanted {
                    None => term,
                    Some(sum) => (sum + term).unwrap(),
                });
            }
        }
        let error = relative(&update(&found, module), &wanted.unwrap());
        assert!(error < 1e-6, "{module}: {error:.1e}");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

/// The mask of one adapter does not depend on the others or on the weights, so that it can be seen by giving the other
/// the weight 0.
#[test]
fn dare_is_its_definition_given_the_masks() {
    let (a, b) = (loaded("a"), loaded("b"));
    let inputs = [("a", &a), ("b", &b)];
    let density = Some(0.4);
    let run = |method, weights: &[f64]| {
        combine(&inputs, &by(method, weights, density))
            .unwrap()
            .adapter
    };
    let (only_a, only_b) = (
        run(CombineMethod::DareLinear, &[1.0, 0.0]),
        run(CombineMethod::DareLinear, &[0.0, 1.0]),
    );
    let weights = [0.7, -0.4];
    let (sum, elected) = (
        run(CombineMethod::DareLinear, &weights),
        run(CombineMethod::DareTies, &weights),
    );
    let module = "model.layers.1.self_attn.v_proj";
    let mut dropped = 0;
    for part in ["A", "B"] {
        let key = format!("base_model.model.{module}.lora_{part}.weight");
        // With a weight of 1 each side carries the root of the scaling.
        let pruned = |only: &PeftAdapter, from: &PeftAdapter| -> Vec<f64> {
            let root = from.config.lora.scaling().sqrt();
            flat(&only.tensors[&key]).iter().map(|x| x / root).collect()
        };
        let (pa, pb) = (pruned(&only_a, &a), pruned(&only_b, &b));
        for (pruned, whole) in [(&pa, flat(&a.tensors[&key])), (&pb, flat(&b.tensors[&key]))] {
            for (p, w) in pruned.iter().zip(whole) {
                assert!(*p == 0.0 || (p - w / 0.4).abs() < 1e-5, "{p} of {w}");
                dropped += usize::from(*p == 0.0);
            }
        }
        let root = |w: f64, adapter: &PeftAdapter| {
            let factor = w * adapter.config.lora.scaling();
            let sign = if part == "A" { factor.signum() } else { 1.0 };
            sign * factor.abs().sqrt()
        };
        let (wa, wb) = (root(weights[0], &a), root(weights[1], &b));
        let found = (flat(&sum.tensors[&key]), flat(&elected.tensors[&key]));
        for i in 0..pa.len() {
            let (x, y) = (pa[i], pb[i]);
            assert!((found.0[i] - (wa * x + wb * y)).abs() < 1e-5);
            let sign = if x + y >= 0.0 { 1.0 } else { -1.0 };
            let agree: Vec<f64> = [(x, wa), (y, wb)]
                .iter()
                .filter(|(x, _)| x * sign > 0.0)
                .map(|(x, w)| x * w)
                .collect();
            let mean = agree.iter().sum::<f64>() / agree.len().max(1) as f64;
            assert!(
                (found.1[i] - mean).abs() < 1e-5,
                "{i}: {} {mean}",
                found.1[i]
            );
        }
    }
    assert!(dropped > 100, "{dropped}");
    // Another seed, other masks; the same seed, the same bytes.
    let mut options = by(CombineMethod::DareLinear, &weights, density);
    let again = combine(&inputs, &options).unwrap().adapter;
    options.seed = 4;
    let other = combine(&inputs, &options).unwrap().adapter;
    for (key, t) in &sum.tensors {
        assert_eq!(flat(t), flat(&again.tensors[key]));
        assert_ne!(flat(t), flat(&other.tensors[key]));
    }
}

#[test]
fn whole_tensors_are_averaged_and_not_more() {
    let make = |seed| {
        let mut one = adapter(2, &[(Q, 7, 5)], seed);
        one.config.lora.modules_to_save = vec!["lm_head".into()];
        let key = "base_model.model.lm_head.weight".to_owned();
        one.tensors
            .insert(key, tensor((9, 5), DType::F32, seed + 5));
        one
    };
    let (a, b) = (make(1), make(2));
    let inputs = [("a", &a), ("b", &b)];
    let found = combine(&inputs, &by(CombineMethod::Linear, &[0.75, 0.25], None)).unwrap();
    let whole = |adapter: &PeftAdapter| adapter.saved_tensor("lm_head.weight").unwrap().clone();
    let wanted = ((whole(&a) * 0.75).unwrap() + (whole(&b) * 0.25).unwrap()).unwrap();
    assert!(distance(&whole(&found.adapter), &wanted) < 1e-6);
    let refusal = |inputs: &[(&str, &PeftAdapter)], options: &CombineOptions| {
        shown(&refused(combine(inputs, options)), Path::new("DIR"))
    };
    insta::assert_snapshot!(refusal(&inputs, &by(CombineMethod::Linear, &[0.75, 0.5], None)), @r"
    `lm_head.weight`, which `a` saves whole, cannot be combined: the weights do not add up to 1, so the base would not come out once
    hint: whole tensors are combined by --method linear where every adapter has them and the weights add up to 1; else merge each adapter into the base and combine the models
    ");
    insta::assert_snapshot!(refusal(&inputs, &by(CombineMethod::Ties, &[0.75, 0.25], Some(0.5))), @r"
    `lm_head.weight`, which `a` saves whole, cannot be combined: TIES and DARE need the difference from the base
    hint: whole tensors are combined by --method linear where every adapter has them and the weights add up to 1; else merge each adapter into the base and combine the models
    ");
    let without = adapter(2, &[(Q, 7, 5)], 3);
    let half = by(CombineMethod::Linear, &[0.5, 0.5], None);
    insta::assert_snapshot!(refusal(&[("a", &a), ("c", &without)], &half), @r"
    `lm_head.weight`, which `a` saves whole, cannot be combined: not every adapter has it
    hint: whole tensors are combined by --method linear where every adapter has them and the weights add up to 1; else merge each adapter into the base and combine the models
    ");
    let adapted = adapter(2, &[("lm_head", 9, 5)], 3);
    insta::assert_snapshot!(refusal(&[("a", &a), ("c", &adapted)], &half), @r"
    `lm_head.weight`, which `a` saves whole, cannot be combined: another adapter has a low-rank update of it
    hint: whole tensors are combined by --method linear where every adapter has them and the weights add up to 1; else merge each adapter into the base and combine the models
    ");
}

#[test]
fn what_cannot_be_combined_is_named() {
    let (a, b) = (
        adapter(2, &[(Q, 7, 5)], 1),
        adapter(3, &[(Q, 7, 5), (UP, 4, 6)], 2),
    );
    let refusal = |inputs: &[(&str, &PeftAdapter)], options: CombineOptions| {
        shown(&refused(combine(inputs, &options)), Path::new("DIR"))
    };
    use CombineMethod::*;
    let both = [("a", &a), ("b", &b)];
    insta::assert_snapshot!(refusal(&both[..1], by(Linear, &[1.0], None)), @r"
    there is nothing to combine: 1 of at least 2 adapters given
    hint: name two or more adapters after the output folder
    ");
    insta::assert_snapshot!(refusal(&both, by(Linear, &[1.0], None)), @r"
    there are 2 adapters, and weights given: 1
    hint: give one weight for each adapter, in their order: --weights 0.7,0.3
    ");
    insta::assert_snapshot!(refusal(&both, by(Linear, &[1.0, f64::NAN], None)), @r"
    weight 2 is NaN, which is not a finite number
    hint: weights may be negative or zero, which takes an update away or leaves it out
    ");
    insta::assert_snapshot!(refusal(&both, by(Linear, &[1.0, 1.0], Some(0.5))), @r"
    method linear prunes nothing, and a density is given
    hint: leave --density out
    ");
    insta::assert_snapshot!(refusal(&both, by(Ties, &[1.0, 1.0], None)), @r"
    method ties needs a density
    hint: --density is the share of the numbers that is kept, above 0 and at most 1: TIES was published with 0.2, DARE with 0.1 and more
    ");
    insta::assert_snapshot!(refusal(&both, by(DareTies, &[1.0, 1.0], Some(0.0))), @r"
    method dare-ties cannot keep a share of 0 of the numbers
    hint: --density is the share of the numbers that is kept, above 0 and at most 1: TIES was published with 0.2, DARE with 0.1 and more
    ");
    insta::assert_snapshot!(refusal(&both, by(DareLinear, &[1.0, 1.0], Some(0.5))), @r"
    method dare-linear needs adapters of one rank; `a` has 2 and `b` 3
    hint: bring them to one rank with `medtune adapter resize`, or use --method linear, which takes any
    ");
    let ranked = CombineOptions {
        rank: Some(2),
        ..by(Linear, &[1.0, 1.0], None)
    };
    insta::assert_snapshot!(refusal(&both, ranked), @r"
    method linear takes no rank
    hint: leave --rank out; `medtune adapter resize` changes the rank of the result
    ");
    let ranked = CombineOptions {
        rank: Some(5),
        ..by(TiesSvd, &[1.0, 1.0], Some(0.5))
    };
    insta::assert_snapshot!(refusal(&both, ranked), @r"
    rank 5 is more than module `model.layers.1.mlp.up_proj` (4 × 6) has
    hint: ask for at most 4, or leave the module out
    ");
    insta::assert_snapshot!(refusal(&both, by(Linear, &[1.0, 1e300], None)), @r"
    tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` would hold 1.0979411005973817e300, beyond the largest f32 number
    hint: give smaller weights
    ");
    let wide = adapter(2, &[(Q, 7, 6)], 1);
    insta::assert_snapshot!(refusal(&[("a", &a), ("wide", &wide)], by(Linear, &[1.0, 1.0], None)), @r"
    module `model.layers.0.self_attn.q_proj` is 7 × 5 in `a` and 7 × 6 in `wide` (out × in)
    hint: the adapters belong to different base models
    ");
    let dora = PeftAdapter::load(&golden("llama/dora")).unwrap();
    insta::assert_snapshot!(refusal(&[("a", &a), ("llama/dora", &dora)], by(Linear, &[1.0, 1.0], None)), @r"
    adapter `llama/dora` is a DoRA, whose update is not a product of two factors
    hint: merge each into the base, combine the models, and extract a LoRA with `medtune adapter extract`
    ");
}

#[test]
fn adapters_of_different_bases_are_combined_by_force_only() {
    let of_base = |base: &str, tokenizer: Option<&str>, seed| {
        let mut one = adapter(2, &[(Q, 7, 5)], seed);
        one.belonging = Some(Belonging {
            base_fingerprint: base.repeat(32),
            tokenizer_fingerprint: tokenizer.map(|t| t.repeat(32)),
            base: None,
        });
        one
    };
    let (a, same) = (of_base("a1", Some("c3"), 1), of_base("a1", None, 2));
    let (other, words) = (of_base("b2", Some("c3"), 3), of_base("a1", Some("d4"), 4));
    let silent = adapter(2, &[(Q, 7, 5)], 5);
    let mut options = by(CombineMethod::Linear, &[0.5, 0.5], None);
    let found = combine(&[("a", &a), ("same", &same)], &options).unwrap();
    assert_eq!(
        (found.adapter.belonging, found.notes),
        (a.belonging.clone(), vec![])
    );
    let found = combine(&[("silent", &silent), ("a", &a)], &options).unwrap();
    assert_eq!(found.adapter.belonging, a.belonging);
    assert_eq!(
        found.notes,
        ["`silent` does not say which base it belongs to"]
    );
    let refusal = |second: (&str, &PeftAdapter)| {
        let found = refused(combine(&[("a", &a), second], &options));
        shown(&found, Path::new("DIR"))
    };
    insta::assert_snapshot!(refusal(("other", &other)), @r"
    `a` and `other` were trained on different bases (a1a1a1a1a1a1 and b2b2b2b2b2b2)
    hint: --force combines them all the same, and the manifest says so
    ");
    insta::assert_snapshot!(refusal(("words", &words)), @r"
    `a` and `words` were trained on different tokenizers (c3c3c3c3c3c3 and d4d4d4d4d4d4)
    hint: --force combines them all the same, and the manifest says so
    ");
    options.force = true;
    let found = combine(&[("a", &a), ("other", &other)], &options).unwrap();
    // It belongs to neither.
    assert_eq!(found.adapter.belonging, None);
    insta::assert_snapshot!(found.notes.join("\n"), @"forced: `a` and `other` were trained on different bases (a1a1a1a1a1a1 and b2b2b2b2b2b2)");
}

#[test]
fn a_smaller_rank_is_the_best_approximation() {
    let modules = [(Q, 57, 23), (UP, 19, 61)];
    for use_rslora in [false, true] {
        let mut whole = adapter(6, &modules, 1);
        whole.config.lora.use_rslora = use_rslora;
        let found = resize(&whole, 2).unwrap();
        let (old, new) = (&whole.config.lora, &found.adapter.config.lora);
        assert_eq!((new.rank, new.use_rslora), (2, use_rslora));
        assert!((new.scaling() - old.scaling()).abs() < 1e-15 * old.scaling());
        let (mut lost, mut all) = (0.0, 0.0);
        for (module, energy) in whole.modules().zip(&found.modules) {
            let (wanted, cut) = (update(&whole, module), update(&found.adapter, module));
            let square = |t: &Tensor| norm(t).powi(2);
            let rest = square(&(&wanted - &cut).unwrap());
            assert_eq!(energy.module, module);
            assert!((energy.energy - (1.0 - rest / square(&wanted))).abs() < 1e-6);
            assert!((energy.norm - norm(&wanted)).abs() < 1e-5 * energy.norm);
            // What is kept is orthogonal to what is not, as in the best approximation and in no other projection.
            let inner: f64 = flat(&cut)
                .iter()
                .zip(flat(&wanted))
                .map(|(a, b)| a * b)
                .sum();
            assert!((inner - square(&cut)).abs() < 1e-5 * square(&cut));
            lost += rest;
            all += square(&wanted);
        }
        assert!((found.energy - (1.0 - lost / all)).abs() < 1e-6 && found.energy < 0.9);
    }
}

#[test]
fn a_larger_rank_changes_nothing_and_can_be_trained() {
    for use_rslora in [false, true] {
        let mut small = adapter(2, &[(Q, 57, 23)], 1);
        small.config.lora.use_rslora = use_rslora;
        let found = resize(&small, 5).unwrap();
        assert_eq!((found.energy, found.adapter.config.lora.rank), (1.0, 5));
        let error = relative(&update(&found.adapter, Q), &update(&small, Q));
        assert!(error < 1e-15, "{error:.1e}");
        let (a, b) = found.adapter.pair(Q).unwrap();
        let beyond = |t: &Tensor, dim| flat(&t.narrow(dim, 2, 3).unwrap());
        assert!(beyond(b, 1).iter().all(|x| *x == 0.0));
        assert!(beyond(a, 0).iter().all(|x| *x != 0.0));
        // And back: what was added is what goes.
        let back = resize(&found.adapter, 2).unwrap();
        assert!(back.energy > 1.0 - 1e-12);
        assert!(relative(&update(&back.adapter, Q), &update(&small, Q)) < 1e-6);
    }
    // Magnitudes and whole tensors stay.
    let dora = PeftAdapter::load(&golden("llama/dora")).unwrap();
    let found = resize(&dora, 3).unwrap().adapter;
    let module = dora.modules().next().unwrap();
    assert_eq!(
        flat(found.magnitude(module).unwrap()),
        flat(dora.magnitude(module).unwrap())
    );
    assert_eq!(found.modules().count(), dora.modules().count());
}

#[test]
fn ranks_that_cannot_be_are_refused() {
    let one = adapter(2, &[(Q, 7, 5)], 1);
    insta::assert_snapshot!(shown(&refused(resize(&one, 6)), Path::new("DIR")), @r"
    rank 6 is more than module `model.layers.0.self_attn.q_proj` (7 × 5) has
    hint: ask for at most 5, or leave the module out
    ");
    insta::assert_snapshot!(shown(&refused(resize(&one, 0)), Path::new("DIR")), @"LoRA setting `rank` is 0: it must be at least 1");
}

#[test]
fn norms_are_those_of_the_formed_updates() {
    let mut one = adapter(4, &[(Q, 57, 23), (UP, 19, 61), ("lm_head", 11, 9)], 1);
    one.config.lora.use_rslora = true;
    let found = inspect(&one).unwrap();
    assert_eq!(found.method, "rsLoRA");
    assert_eq!((found.rank, found.scaling), (4, 5.0));
    assert_eq!(found.parameters, 4 * (57 + 23 + 19 + 61 + 11 + 9));
    let mut square = 0.0;
    for module in &found.modules {
        let formed = update(&one, &module.module);
        let wanted = norm(&formed);
        square += wanted * wanted;
        assert!((module.norm - wanted).abs() < 1e-10 * wanted);
        // Power iteration on the formed update finds the largest singular value.
        let mut x = tensor((module.inner, 1), DType::F64, 5);
        for _ in 0..2000 {
            x = formed
                .t()
                .unwrap()
                .matmul(&formed.matmul(&x).unwrap())
                .unwrap();
            x = (&x / norm(&x)).unwrap();
        }
        let largest = norm(&formed.matmul(&x).unwrap());
        assert!((module.spectral_norm - largest).abs() < 1e-9 * largest);
        assert!((module.stable_rank - (wanted / largest).powi(2)).abs() < 1e-8);
        assert!(module.effective_rank > 1.0 && module.effective_rank <= 4.0);
        assert_eq!(module.no_op, NoOp::No);
    }
    assert!((found.norm - square.sqrt()).abs() < 1e-10 * found.norm);
    let layers: Vec<_> = found.layers.iter().map(|l| l.layer).collect();
    assert_eq!(layers, [Some(0), Some(1), None]);
    assert_eq!(found.layers[1].by_target["up_proj"], found.layers[1].norm);
    assert!(found.warnings.is_empty());
}

#[test]
fn what_does_nothing_is_told() {
    let modules = [
        (Q, 7, 5),
        (UP, 4, 6),
        ("model.layers.1.mlp.gate_proj", 4, 6),
        ("model.layers.1.mlp.down_proj", 6, 4),
    ];
    let key = |module: &str, part: &str| format!("base_model.model.{module}.lora_{part}.weight");
    let scaled = |adapter: &mut PeftAdapter, key: String, by: f64| {
        let tensor = (&adapter.tensors[&key] * by).unwrap();
        adapter.tensors.insert(key, tensor);
    };
    let mut one = adapter(2, &modules, 1);
    scaled(&mut one, key(Q, "B"), 0.0);
    scaled(&mut one, key(UP, "A"), 0.0);
    scaled(&mut one, key("model.layers.1.mlp.down_proj", "B"), 1e-5);
    let found = inspect(&one).unwrap();
    insta::assert_snapshot!(found.warnings.join("\n"), @r"
    1 of 4 modules change nothing: their B is all zeros (first: model.layers.0.self_attn.q_proj)
    1 of 4 modules change nothing: their A is all zeros (first: model.layers.1.mlp.up_proj)
    1 of 4 modules change next to nothing: less than a thousandth of the median module (first: model.layers.1.mlp.down_proj)
    ");
    let zero = &found.modules[0];
    assert_eq!(
        (zero.no_op, zero.norm, zero.stable_rank, zero.effective_rank),
        (NoOp::ZeroB, 0.0, 0.0, 0.0)
    );
    for (module, ..) in modules {
        scaled(&mut one, key(module, "B"), 0.0);
    }
    insta::assert_snapshot!(inspect(&one).unwrap().warnings.join("\n"), @"the adapter changes nothing: every B is zero, as before training");
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (architecture, variant) in [
        ("llama", "dora"),
        ("smollm2_tiny", "saved"),
        ("qwen2", "saved"),
        ("llama_gqa", "adapter"),
    ] {
        let one = PeftAdapter::load(&golden(architecture).join(variant)).unwrap();
        let out = dir.path().join(architecture);
        assert_eq!(one.save(&out).unwrap().len(), 2);
        let again = PeftAdapter::load(&out).unwrap();
        assert_eq!(again.config, one.config);
        assert_eq!(
            again.tensors.keys().collect::<Vec<_>>(),
            one.tensors.keys().collect::<Vec<_>>()
        );
        assert!(
            one.tensors
                .iter()
                .all(|(key, t)| flat(t) == flat(&again.tensors[key]))
        );
        let bytes = || std::fs::read(out.join("adapter_model.safetensors")).unwrap();
        let first = bytes();
        again.save(&out).unwrap();
        assert_eq!(bytes(), first);
    }
}

fn extraction(rank: usize, targets: &[&str], save_rest: bool) -> ExtractOptions {
    ExtractOptions {
        rank,
        target_modules: lora(1, 1.0, 0.0, targets).target_modules,
        save_rest,
        base_model: Some("org/base".into()),
        belonging: None,
    }
}

/// Merge, and extract at the same rank: the update is back.
#[test]
fn an_update_of_the_rank_comes_back() {
    for architecture in ["llama", "qwen2", "tinyllama"] {
        let dir = tempfile::tempdir().unwrap();
        let base = Weights::open(&golden(architecture)).unwrap();
        let one = PeftAdapter::load(&golden(architecture).join("adapter")).unwrap();
        let out = dir.path().join("tuned");
        merge(&base, &one, &out, &MergeOptions::default()).unwrap();
        let tuned = Weights::open(&out).unwrap();
        let rank = one.config.lora.rank;
        let mut heard = Vec::new();
        let found = extract(
            &base,
            &tuned,
            &extraction(rank, &["all-linear"], false),
            &mut |done, all| {
                heard.push((done, all));
            },
        );
        let found = found.unwrap();
        assert_eq!((heard[0], *heard.last().unwrap()), ((0, 14), (14, 14)));
        assert_eq!(
            found.adapter.config.lora.target_modules,
            one.config.lora.target_modules
        );
        assert_eq!(found.modules.len() + found.unchanged, 14);
        assert_eq!(found.modules.len(), one.modules().count());
        assert!(found.rest.is_empty());
        assert!(found.energy > 1.0 - 1e-6 && found.energy_of_all > 1.0 - 1e-6);
        for module in one.modules() {
            let error = relative(&update(&found.adapter, module), &update(&one, module));
            assert!(error <= 1e-5, "{architecture} {module}: {error:.1e}");
        }
        // And merged again, it is the same model.
        let again = dir.path().join("again");
        merge(&base, &found.adapter, &again, &MergeOptions::default()).unwrap();
        let (first, second) = (
            read_tensors(&out.join("model.safetensors")),
            read_tensors(&again.join("model.safetensors")),
        );
        for (name, tensor) in &first {
            assert!(distance(tensor, &second[name]) < 1e-5, "{name}");
        }
    }
}

/// Against numpy's singular values of a difference of full rank.
#[test]
fn captured_energy_is_that_of_the_spectrum() {
    let (base, tuned) = (
        Weights::open(&golden("llama_linear_rope")).unwrap(),
        Weights::open(&golden("mistral_window")).unwrap(),
    );
    let text = std::fs::read(golden("combine/spectra.json")).unwrap();
    let spectra: BTreeMap<String, Vec<f64>> = serde_json::from_slice(&text).unwrap();
    for rank in [3, 16] {
        let found = extract(
            &base,
            &tuned,
            &extraction(rank, &["all-linear"], false),
            &mut |_, _| {},
        );
        let found = found.unwrap();
        assert_eq!(found.modules.len(), spectra.len());
        for module in &found.modules {
            let values = &spectra[&format!("{}.weight", module.module)];
            let square = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
            let best = square(&values[..rank]) / square(values);
            assert!(
                (module.energy - best).abs() < 1e-6,
                "{} {best}",
                module.energy
            );
            assert!((module.norm - square(values).sqrt()).abs() < 1e-5 * module.norm);
        }
        let rest: Vec<_> = found
            .rest
            .iter()
            .map(|r| (r.name.as_str(), r.why, r.saved))
            .collect();
        if rank == 3 {
            insta::assert_debug_snapshot!(rest, @r#"
            [
                (
                    "lm_head.weight",
                    "output head",
                    false,
                ),
                (
                    "model.embed_tokens.weight",
                    "embedding",
                    false,
                ),
                (
                    "model.layers.0.input_layernorm.weight",
                    "norm",
                    false,
                ),
                (
                    "model.layers.0.post_attention_layernorm.weight",
                    "norm",
                    false,
                ),
                (
                    "model.layers.1.input_layernorm.weight",
                    "norm",
                    false,
                ),
                (
                    "model.layers.1.post_attention_layernorm.weight",
                    "norm",
                    false,
                ),
                (
                    "model.norm.weight",
                    "norm",
                    false,
                ),
            ]
            "#);
        }
        assert!(found.energy_of_all < found.energy);
    }
}

#[test]
fn the_rest_is_saved_whole_where_asked() {
    for (one, other, tied) in [
        ("llama_linear_rope", "mistral_window", false),
        ("qwen2", "qwen2_changed", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let base = Weights::open(&golden(one)).unwrap();
        let tuned = match tied {
            false => Weights::open(&golden(other)).unwrap(),
            true => changed(&golden(one), &dir.path().join(other)),
        };
        let options = extraction(5, &["v_proj", "up_proj"], true);
        let found = extract(&base, &tuned, &options, &mut |_, _| {}).unwrap();
        assert!(found.rest.iter().all(|r| r.saved));
        assert_eq!(found.adapter.config.ensure_weight_tying, tied);
        let out = dir.path().join("adapter");
        found.adapter.save(&out).unwrap();
        let read = PeftAdapter::load(&out).unwrap();
        let merged = dir.path().join("merged");
        merge(&base, &read, &merged, &MergeOptions::default()).unwrap();
        let merged = Weights::open(&merged).unwrap();
        let adapted: Vec<&str> = found.adapter.modules().collect();
        assert!(!adapted.is_empty());
        for view in tuned.views() {
            let module = view
                .name
                .trim_end_matches(".weight")
                .trim_end_matches(".bias");
            let (found, wanted) = (
                merged.view(&view.name).unwrap(),
                view.tensor(DType::F32).unwrap(),
            );
            let worst = distance(&found.tensor(DType::F32).unwrap(), &wanted);
            assert!(
                adapted.contains(&module) || worst == 0.0,
                "{}: {worst}",
                view.name
            );
        }
        if tied {
            // A layer whose bias differs is a whole tensor and no pair.
            assert!(!adapted.contains(&"model.layers.1.self_attn.v_proj"));
            assert!(adapted.contains(&"model.layers.0.self_attn.v_proj"));
        }
    }
}

/// A model with an embedding, two weights, a bias and a norm changed.
fn changed(from: &Path, to: &Path) -> Weights {
    std::fs::create_dir(to).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let mut tensors: Vec<_> = read_tensors(&from.join("model.safetensors"))
        .into_iter()
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, t)| {
            let differs = name.contains("embed_tokens")
                || name.contains("v_proj.weight")
                || name.contains("1.self_attn.v_proj.bias")
                || name == "model.norm.weight";
            let values: Vec<f32> = flat(t).iter().map(|x| *x as f32).collect();
            let noise = numbers(values.len(), 77);
            let moved = values
                .iter()
                .zip(noise)
                .map(|(x, n)| if differs { x + 0.1 * n } else { *x });
            (name.as_str(), t.dims(), moved.collect::<Vec<f32>>())
        })
        .collect();
    write_safetensors(&to.join("model.safetensors"), &tensors);
    Weights::open(to).unwrap()
}

#[test]
fn models_that_do_not_match_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = |name: &str, tensors: &[(&str, &[usize], Vec<f32>)]| {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        json_file(&folder.join("config.json"), &json!({"model_type": "llama"}));
        write_safetensors(&folder.join("model.safetensors"), tensors);
        Weights::open(&folder).unwrap()
    };
    let (q, up) = (format!("{Q}.weight"), format!("{UP}.weight"));
    let embed = "model.embed_tokens.weight";
    let plain = |seed: u64, vocabulary: usize| {
        vec![
            (q.as_str(), &[7, 5][..], numbers(35, seed)),
            (up.as_str(), &[4, 5][..], numbers(20, seed)),
            (
                embed,
                if vocabulary == 9 {
                    &[9, 5][..]
                } else {
                    &[10, 5][..]
                },
                numbers(vocabulary * 5, 2),
            ),
        ]
    };
    let base = model("base", &plain(1, 9));
    let error = |tuned: &Weights, options: &ExtractOptions| {
        shown(
            &refused(extract(&base, tuned, options, &mut |_, _| {})),
            dir.path(),
        )
    };
    let all = extraction(2, &["all-linear"], false);
    insta::assert_snapshot!(error(&model("same", &plain(1, 9)), &all), @r"
    no target module differs between the two models
    hint: check which folders were given; --target-modules names the layers, and --save-rest keeps the others' changes
    ");
    insta::assert_snapshot!(error(&model("grown", &plain(3, 10)), &all), @r"
    tensor `model.embed_tokens.weight` has shape [9, 5] in the base model and [10, 5] in the tuned one: their vocabularies differ in size
    hint: tokens were added in tuning, which a LoRA cannot carry: bring the base's tables to the same size first
    ");
    insta::assert_snapshot!(error(&model("lacks", &plain(3, 9)[1..]), &all), @r"
    tensor `model.layers.0.self_attn.q_proj.weight` is in the base model and not in the tuned one
    hint: is the one model tuned from the other?
    ");
    let mut more = plain(3, 9);
    more.push(("model.norm.weight", &[5], numbers(5, 1)));
    insta::assert_snapshot!(error(&model("more", &more), &all), @r"
    tensor `model.norm.weight` is in the tuned model and not in the base one
    hint: is the one model tuned from the other?
    ");
    let mut reshaped = plain(3, 9);
    reshaped[0].1 = &[5, 7];
    insta::assert_snapshot!(error(&model("reshaped", &reshaped), &all), @r"
    tensor `model.layers.0.self_attn.q_proj.weight` has shape [7, 5] in the base model and [5, 7] in the tuned one
    hint: is the one model tuned from the other?
    ");
    let mut nan = plain(3, 9);
    nan[0].2[13] = f32::NAN;
    insta::assert_snapshot!(error(&model("nan", &nan), &all), @r"
    tensor `model.layers.0.self_attn.q_proj.weight` of the tuned model holds a value that is not finite (element 13)
    hint: the model is damaged, or its training diverged: use an earlier checkpoint
    ");
    let tuned = model("tuned", &plain(3, 9));
    insta::assert_snapshot!(error(&tuned, &extraction(5, &["all-linear"], false)), @r"
    rank 5 is more than module `model.layers.1.mlp.up_proj` (4 × 5) has
    hint: ask for at most 4, or leave the module out
    ");
    insta::assert_snapshot!(error(&tuned, &extraction(2, &["up_prj"], false)), @r"
    target module `up_prj` matches no linear layer of this model
    hint: did you mean `up_proj`? There are: q_proj, up_proj
    ");
    // A smaller rank fits.
    assert!(extract(&base, &tuned, &all, &mut |_, _| {}).is_ok());
}

/// The settings say what PEFT reads: whole names where only some layers have the update.
#[test]
fn layers_without_a_difference_are_left_out_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let base = Weights::open(&golden("llama")).unwrap();
    let mut one = PeftAdapter::load(&golden("llama/adapter")).unwrap();
    one.tensors
        .retain(|key, _| !key.contains("layers.0.self_attn.q_proj"));
    let out = dir.path().join("tuned");
    merge(&base, &one, &out, &MergeOptions::default()).unwrap();
    let options = extraction(4, &["q_proj", "o_proj"], false);
    let found = extract(
        &base,
        &Weights::open(&out).unwrap(),
        &options,
        &mut |_, _| {},
    )
    .unwrap();
    let names = ["model.layers.1.self_attn.q_proj", "o_proj"]
        .map(String::from)
        .to_vec();
    assert_eq!(
        found.adapter.config.lora,
        LoraConfig {
            target_modules: TargetModules::Named(names),
            ..lora(4, 4.0, 0.0, &["x"])
        }
    );
    assert_eq!((found.modules.len(), found.unchanged), (3, 1));
    // Other projections changed too, and nobody asked for them.
    let others = found
        .rest
        .iter()
        .filter(|r| r.why == "linear layer that is no target");
    assert_eq!(others.count(), 10);
    assert!(found.energy > 1.0 - 1e-6 && found.energy_of_all < 0.9);
    let written = dir.path().join("written");
    found.adapter.save(&written).unwrap();
    let text = std::fs::read(written.join("adapter_config.json")).unwrap();
    let settings: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        settings["target_modules"],
        json!(["model.layers.1.self_attn.q_proj", "o_proj"])
    );
}

/// Beyond the size that is decomposed exactly, where products run on all threads.
#[test]
fn threads_do_not_change_an_extraction() {
    let shape: &[usize] = &[163, 211];
    let name = format!("{Q}.weight");
    let (base, tuned) = (
        random_weights(&[(name.as_str(), shape)]),
        random_weights_in("bfloat16", &[(name.as_str(), shape)]),
    );
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().unwrap();
        let options = extraction(7, &["all-linear"], false);
        let found = pool.install(|| extract(&base, &tuned, &options, &mut |_, _| {}).unwrap());
        let energy = found.modules[0].energy;
        // What rounding to bf16 took away has no structure: seven of 163 directions hold little of it.
        assert!(energy > 0.05 && energy < 0.3, "{energy}");
        let (a, b) = found.adapter.pair(Q).unwrap();
        (flat(a), flat(b))
    };
    assert_eq!(with(1), with(3));
}
