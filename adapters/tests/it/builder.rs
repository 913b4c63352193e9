//! Who is frozen, adapted or trained.

use crate::support::{distance, flat, lora, random_weights, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{Builder, LinearSpec, LoraConfig, Method, ParameterKind, Parameters, Weights};
use candle_core::DType;
use std::collections::BTreeMap;
use std::path::Path;

fn weights() -> Weights {
    random_weights(&[
        ("model.embed_tokens.weight", &[9, 6]),
        ("model.layers.0.mlp.down_proj.weight", &[6, 8]),
        ("model.layers.0.mlp.gate_proj.weight", &[8, 6]),
        ("model.layers.0.mlp.up_proj.weight", &[8, 6]),
        ("model.norm.weight", &[6]),
        ("lm_head.weight", &[9, 6]),
    ])
}

fn spec(name: &str, in_features: usize, out_features: usize) -> LinearSpec {
    LinearSpec {
        name: format!("model.layers.0.mlp.{name}"),
        in_features,
        out_features,
        bias: false,
    }
}

fn build(builder: &mut Builder) -> adapters::Result<()> {
    builder.embedding("model.embed_tokens.weight", 9, 6)?;
    let _ = builder.linear_group(&[spec("gate_proj", 6, 8), spec("up_proj", 6, 8)])?;
    let _ = builder.linear_group(&[spec("down_proj", 8, 6)])?;
    builder.norm("model.norm.weight", 6)?;
    builder.embedding("lm_head.weight", 9, 6)?;
    Ok(())
}

fn parameters(method: Method) -> adapters::Result<Parameters> {
    let weights = weights();
    let mut builder = Builder::new(&weights, DType::F32, method, 3);
    build(&mut builder)?;
    builder.finish()
}

fn names(method: Method) -> Vec<String> {
    parameters(method)
        .unwrap()
        .0
        .into_iter()
        .map(|p| p.name)
        .collect()
}

#[test]
fn each_method_trains_what_it_says() {
    assert!(names(Method::Frozen).is_empty());
    assert_eq!(
        names(Method::Full),
        [
            "model.embed_tokens.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        ]
    );
    // The output head is no target of all-linear, as in PEFT.
    let all = names(Method::Lora(lora(2, 4.0, 0.0, &["all-linear"])));
    assert_eq!(all.len(), 6);
    assert!(all.iter().all(|n| n.contains(".mlp.")));
    assert_eq!(
        names(Method::Lora(lora(
            2,
            4.0,
            0.0,
            &["mlp.up_proj", "model.layers.0.mlp.down_proj"]
        ))),
        [
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight",
            "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
            "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight",
        ]
    );
}

#[test]
fn fresh_adapters_start_as_in_peft() {
    let all = parameters(Method::Lora(lora(4, 8.0, 0.0, &["all-linear"]))).unwrap();
    for parameter in &all.0 {
        let values = flat(&parameter.value);
        assert_eq!(parameter.value.dtype(), DType::F32);
        if parameter.name.contains("lora_B") {
            assert!(values.iter().all(|x| *x == 0.0));
        } else {
            let bound = 1.0 / (parameter.value.dims()[1] as f64).sqrt();
            let largest = values.iter().fold(0f64, |m, x| m.max(x.abs()));
            assert!(
                largest <= bound && largest > 0.7 * bound,
                "{largest} of {bound}"
            );
        }
    }
    // A matrix is a function of the seed and its name, not of what is built before it.
    let one = parameters(Method::Lora(lora(4, 8.0, 0.0, &["down_proj"]))).unwrap();
    assert_eq!(distance(&one.0[0].value, &all.0[4].value), 0.0);
}

#[test]
fn decay_spares_norms() {
    let all = parameters(Method::Full).unwrap();
    for parameter in all.0 {
        assert_eq!(parameter.decays(), parameter.name != "model.norm.weight");
    }
}

#[test]
fn targets_that_match_nothing_are_named() {
    let error = |targets: &[&str]| {
        let found = refused(parameters(Method::Lora(lora(2, 4.0, 0.0, targets))));
        shown(&found, Path::new("/nowhere"))
    };
    insta::assert_snapshot!(error(&["up_proj", "gate_prj"]), @r"
    target module `gate_prj` matches no linear layer of this model
    hint: did you mean `gate_proj`? There are: gate_proj, up_proj, down_proj
    ");
    insta::assert_snapshot!(error(&["query_key_value"]), @r"
    target module `query_key_value` matches no linear layer of this model
    hint: there are: gate_proj, up_proj, down_proj
    ");
    insta::assert_snapshot!(error(&["up_proj", "lm_head"]), @r"
    target module `lm_head` cannot be adapted: embeddings and the output head are not linear layers of the decoder's blocks
    hint: leave it out of target_modules, or tune all weights
    ");
    insta::assert_snapshot!(error(&["embed_tokens"]), @r"
    target module `embed_tokens` cannot be adapted: embeddings and the output head are not linear layers of the decoder's blocks
    hint: leave it out of target_modules, or tune all weights
    ");
}

#[test]
fn settings_outside_their_range_are_refused() {
    let error = |config: LoraConfig| {
        shown(
            &refused(parameters(Method::Lora(config))),
            Path::new("/nowhere"),
        )
    };
    insta::assert_snapshot!(error(lora(0, 4.0, 0.0, &["all-linear"])), @"LoRA setting `rank` is 0: it must be at least 1");
    insta::assert_snapshot!(error(lora(2, f64::NAN, 0.0, &["all-linear"])), @"LoRA setting `alpha` is NaN: it must be greater than 0");
    insta::assert_snapshot!(error(lora(2, 4.0, 1.0, &["all-linear"])), @"LoRA setting `dropout` is 1: it must be at least 0 and less than 1");
    insta::assert_snapshot!(error(lora(2, 4.0, 0.0, &[])), @"LoRA setting `target_modules` is []: it must name at least one layer");
}

#[test]
fn shapes_and_names_must_be_the_configurations() {
    let weights = weights();
    let error = |name: &str, inner: usize, out: usize| {
        let mut builder = Builder::new(&weights, DType::F32, Method::Frozen, 0);
        shown(
            &refused(builder.linear_group(&[spec(name, inner, out)])),
            Path::new("/nowhere"),
        )
    };
    insta::assert_snapshot!(error("up_proj", 8, 6), @r"
    tensor `model.layers.0.mlp.up_proj.weight` has shape (8, 6), and the configuration needs (6, 8)
    hint: config.json and the weights do not belong together
    ");
    insta::assert_snapshot!(error("upp_proj", 6, 8), @r"
    the weights have no tensor `model.layers.0.mlp.upp_proj.weight`
    hint: the nearest name is `model.layers.0.mlp.up_proj.weight`; do config.json and the weights belong together?
    ");
    let mut builder = Builder::new(&weights, DType::F32, Method::Full, 0);
    builder.norm("model.norm.weight", 6).unwrap();
    let twice = refused(builder.norm("model.norm.weight", 6));
    insta::assert_snapshot!(shown(&twice, Path::new("/nowhere")), @"parameter `model.norm.weight` is registered twice");
}

fn adapter(config: LoraConfig, modules: &[(&str, usize, usize)]) -> PeftAdapter {
    let mut tensors = BTreeMap::new();
    for (name, inner, out) in modules {
        let key =
            |which: &str| format!("base_model.model.model.layers.0.mlp.{name}.{which}.weight");
        tensors.insert(key("lora_A"), tensor((config.rank, *inner), DType::F32, 1));
        tensors.insert(key("lora_B"), tensor((*out, config.rank), DType::F32, 2));
    }
    PeftAdapter {
        config: PeftConfig {
            lora: config,
            ensure_weight_tying: false,
            base_model: None,
        },
        tensors,
        belonging: None,
    }
}

#[test]
fn training_goes_on_from_a_copy_of_the_adapter() {
    let weights = weights();
    let config = lora(2, 4.0, 0.0, &["up_proj"]);
    let start = adapter(config.clone(), &[("up_proj", 6, 8)]);
    let before = flat(&start.tensors.values().next().unwrap().clone());
    let mut builder = Builder::new(&weights, DType::F32, Method::Lora(config), 0)
        .with_adapter(start.clone())
        .unwrap();
    build(&mut builder).unwrap();
    let mut parameters = builder.finish().unwrap();
    assert_eq!(
        distance(
            &parameters.0[0].value,
            &start.tensors[&parameters.0[0].name]
        ),
        0.0
    );
    kernels::scale_assign(&mut parameters.0[0].value, 3.0).unwrap();
    assert_eq!(flat(start.tensors.values().next().unwrap()), before);
}

#[test]
fn adapters_that_do_not_belong_are_named() {
    let weights = weights();
    let error = |method: Method, start: PeftAdapter| {
        let found = refused(
            Builder::new(&weights, DType::F32, method, 0)
                .with_adapter(start)
                .and_then(|mut b| {
                    build(&mut b)?;
                    b.finish()
                }),
        );
        shown(&found, Path::new("/nowhere"))
    };
    let up = || lora(2, 4.0, 0.0, &["up_proj"]);
    let start = || adapter(up(), &[("up_proj", 6, 8)]);
    insta::assert_snapshot!(error(Method::Full, start()), @r"
    a full fine-tune cannot start from an adapter
    hint: merge the adapter into its base first, and tune the merged model
    ");
    insta::assert_snapshot!(error(Method::Lora(lora(3, 4.0, 0.0, &["up_proj"])), start()), @r"
    the adapter to start from has rank = 2, and this run asks for rank = 3
    hint: set rank as the adapter has it, or start a new adapter
    ");
    insta::assert_snapshot!(error(Method::Lora(lora(2, 8.0, 0.0, &["up_proj"])), start()), @r"
    the adapter to start from has alpha = 4, and this run asks for alpha = 8
    hint: set alpha as the adapter has it, or start a new adapter
    ");
    insta::assert_snapshot!(error(Method::Lora(LoraConfig { use_rslora: true, ..up() }), start()), @r"
    the adapter to start from has use_rslora = false, and this run asks for use_rslora = true
    hint: set use_rslora as the adapter has it, or start a new adapter
    ");
    insta::assert_snapshot!(error(Method::Lora(lora(2, 4.0, 0.0, &["gate_proj"])), start()), @r"
    the adapter to start from has target_modules = layers without model.layers.0.mlp.gate_proj, and this run asks for target_modules = layers with model.layers.0.mlp.gate_proj
    hint: set target_modules as the adapter has it, or start a new adapter
    ");
    insta::assert_snapshot!(error(Method::Frozen, adapter(up(), &[("up_proj", 6, 9)])), @r"
    adapter tensor `base_model.model.model.layers.0.mlp.up_proj.lora_B.weight` has shape (9, 2), and this base needs (8, 2)
    hint: the adapter belongs to another base model
    ");
    insta::assert_snapshot!(error(Method::Frozen, adapter(up(), &[("up_prj", 6, 8)])), @r"
    the adapter was made for a module `model.layers.0.mlp.up_prj`, which this base does not have
    hint: the adapter belongs to another base model; the nearest name in this one is `model.layers.0.mlp.up_proj`
    ");
}

fn saving(names: &[&str]) -> LoraConfig {
    LoraConfig {
        modules_to_save: names.iter().map(|n| (*n).into()).collect(),
        ..lora(2, 4.0, 0.0, &["up_proj", "gate_proj"])
    }
}

/// As in PEFT: by the end of the module's name, and what is saved carries no adapter.
#[test]
fn modules_to_save_are_trained_whole() {
    let key = |name: &str| format!("base_model.model.{name}");
    let up = |which: &str| key(&format!("model.layers.0.mlp.up_proj.{which}"));
    let trained = parameters(Method::Lora(saving(&["gate_proj", "norm", "lm_head"]))).unwrap();
    let found: Vec<_> = trained.0.iter().map(|p| (p.name.clone(), p.kind)).collect();
    use ParameterKind::{LoraA, LoraB, Norm, Weight};
    assert_eq!(
        found,
        [
            (key("model.layers.0.mlp.gate_proj.weight"), Weight),
            (up("lora_A.weight"), LoraA),
            (up("lora_B.weight"), LoraB),
            (key("model.norm.weight"), Norm),
            (key("lm_head.weight"), Weight),
        ]
    );
    let weights = weights();
    let of_base = |name: &str| weights.view(name).unwrap().tensor(DType::F32).unwrap();
    let gate = of_base("model.layers.0.mlp.gate_proj.weight");
    assert_eq!(distance(&trained.0[0].value, &gate), 0.0);
    let decays: Vec<bool> = trained.0.iter().map(|p| p.decays()).collect();
    assert_eq!(decays, [true, true, true, false, true]);
    let factors: Vec<f64> = trained
        .0
        .iter()
        .map(|p| p.learning_rate_factor(16.0))
        .collect();
    assert_eq!(factors, [1.0, 1.0, 16.0, 16.0, 1.0]);
}

#[test]
fn modules_to_save_that_match_nothing_are_named() {
    let error = |names: &[&str]| {
        let found = refused(parameters(Method::Lora(saving(names))));
        shown(&found, Path::new("/nowhere"))
    };
    insta::assert_snapshot!(error(&["lm_head", "embed_token"]), @r"
    module to save `embed_token` matches no embedding, head, norm or linear layer of this model
    hint: did you mean `embed_tokens`? There are: gate_proj, up_proj, down_proj, embed_tokens, lm_head, norm
    ");
    insta::assert_snapshot!(error(&["score"]), @r"
    module to save `score` matches no embedding, head, norm or linear layer of this model
    hint: there are: gate_proj, up_proj, down_proj, embed_tokens, lm_head, norm
    ");
    insta::assert_snapshot!(error(&[""]), @r#"LoRA setting `modules_to_save` is [""]: an empty name would mean every module"#);
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Embedding and head of a model that ties them.
fn tied(
    method: Method,
    start: Option<PeftAdapter>,
) -> adapters::Result<(Vec<Vec<f64>>, Parameters)> {
    let weights = random_weights(&[
        (EMBEDDING, &[9, 6]),
        ("model.layers.0.mlp.up_proj.weight", &[8, 6]),
    ]);
    let mut builder = Builder::new(&weights, DType::F32, method, 0);
    if let Some(start) = start {
        builder = builder.with_adapter(start)?;
    }
    let (embedding, head) = builder.tied_embedding(EMBEDDING, HEAD, 9, 6)?;
    let _ = builder.linear_group(&[spec("up_proj", 6, 8)])?;
    let parameters = builder.finish()?;
    assert_eq!(embedding.param, head.param);
    let values = [embedding, head].map(|t| flat(&t.matrix.to_tensor(DType::F32).unwrap()));
    Ok((values.into(), parameters))
}

#[test]
fn either_name_trains_the_tied_table() {
    let config = |names: &[&str]| LoraConfig {
        target_modules: adapters::TargetModules::AllLinear,
        ..saving(names)
    };
    for names in [
        &["lm_head"][..],
        &["embed_tokens"],
        &["embed_tokens", "lm_head"],
    ] {
        let (values, parameters) = tied(Method::Lora(config(names)), None).unwrap();
        assert_eq!(values[0], values[1]);
        assert_eq!(parameters.0.len(), 3);
        assert_eq!(parameters.0[0].kind, ParameterKind::TiedTable);
        assert_eq!(
            parameters.0[0].name,
            format!("base_model.model.{EMBEDDING}")
        );
    }
    let (_, parameters) = tied(Method::Full, None).unwrap();
    assert_eq!(parameters.0[0].name, EMBEDDING);

    // As PEFT leaves them where it unties them: they are evaluated, and not trained.
    let table = |seed| tensor((9, 6), DType::F32, seed);
    let start = |tables: &[(&str, u64)], ties: bool| {
        let mut start = adapter(config(&["lm_head"]), &[("up_proj", 6, 8)]);
        start.config.ensure_weight_tying = ties;
        for (name, seed) in tables {
            start
                .tensors
                .insert(format!("base_model.model.{name}"), table(*seed));
        }
        start
    };
    let (base, _) = tied(Method::Frozen, None).unwrap();
    let values =
        |tables: &[(&str, u64)], ties| tied(Method::Frozen, Some(start(tables, ties))).unwrap().0;
    assert_eq!(
        values(&[(HEAD, 5)], false),
        [base[0].clone(), flat(&table(5))]
    );
    assert_eq!(
        values(&[(EMBEDDING, 5)], false),
        [flat(&table(5)), base[0].clone()]
    );
    assert_eq!(
        values(&[(EMBEDDING, 5)], true),
        [flat(&table(5)), flat(&table(5))]
    );
    assert_eq!(
        values(&[(EMBEDDING, 5), (HEAD, 6)], false),
        [flat(&table(5)), flat(&table(6))]
    );
    let lora = || Method::Lora(config(&["lm_head"]));
    let (same, _) = tied(lora(), Some(start(&[(EMBEDDING, 5), (HEAD, 5)], false))).unwrap();
    assert_eq!(same, [flat(&table(5)), flat(&table(5))]);
    let error = |tables: &[(&str, u64)]| {
        let found = refused(tied(lora(), Some(start(tables, false))));
        shown(&found, Path::new("/nowhere"))
    };
    insta::assert_snapshot!(error(&[(HEAD, 5)]), @r"
    the adapter parts the output head from the embedding, which are one table in this base
    hint: it can be evaluated; to train or merge it, merge it with PEFT, which unties the base
    ");
    insta::assert_snapshot!(error(&[]), @r"
    the adapter to start from has modules_to_save = modules without model.embed_tokens or lm_head, and this run asks for modules_to_save = modules with model.embed_tokens or lm_head
    hint: set modules_to_save as the adapter has it, or start a new adapter
    ");
}

#[test]
fn whole_modules_go_on_from_the_adapter_s() {
    let weights = weights();
    let norm = tensor((1, 6), DType::F32, 8).reshape(6).unwrap();
    let start = |key: &str| {
        let mut start = adapter(saving(&["norm"]), &[("up_proj", 6, 8), ("gate_proj", 6, 8)]);
        start
            .tensors
            .insert(format!("base_model.model.{key}"), norm.clone());
        start
    };
    let go_on = |config: LoraConfig, start: PeftAdapter| {
        let mut builder =
            Builder::new(&weights, DType::F32, Method::Lora(config), 0).with_adapter(start)?;
        build(&mut builder)?;
        builder.finish()
    };
    let parameters = go_on(saving(&["norm"]), start("model.norm.weight")).unwrap();
    let kept = parameters.0.iter().find(|p| p.kind == ParameterKind::Norm);
    assert_eq!(distance(&kept.unwrap().value, &norm), 0.0);
    let error =
        |config, key: &str| shown(&refused(go_on(config, start(key))), Path::new("/nowhere"));
    insta::assert_snapshot!(error(saving(&[]), "model.norm.weight"), @r"
    the adapter to start from has modules_to_save = modules with model.norm, and this run asks for modules_to_save = modules without model.norm
    hint: set modules_to_save as the adapter has it, or start a new adapter
    ");
    insta::assert_snapshot!(error(saving(&["norm"]), "lm_head.weight"), @r"
    the adapter to start from has modules_to_save = modules without model.norm, and this run asks for modules_to_save = modules with model.norm
    hint: set modules_to_save as the adapter has it, or start a new adapter
    ");
    insta::assert_snapshot!(error(LoraConfig { use_dora: true, ..saving(&["norm"]) }, "model.norm.weight"), @r"
    the adapter to start from has use_dora = false, and this run asks for use_dora = true
    hint: set use_dora as the adapter has it, or start a new adapter
    ");
    let frozen = |key: &str| {
        let mut builder =
            Builder::new(&weights, DType::F32, Method::Frozen, 0).with_adapter(start(key))?;
        build(&mut builder)?;
        builder.finish()
    };
    let error = |key: &str| shown(&refused(frozen(key)), Path::new("/nowhere"));
    insta::assert_snapshot!(error("model.nrm.weight"), @r"
    the adapter was made for a module `model.nrm`, which this base does not have
    hint: the adapter belongs to another base model; the nearest name in this one is `model.norm`
    ");
    insta::assert_snapshot!(error("lm_head.weight"), @r"
    adapter tensor `base_model.model.lm_head.weight` has shape (6), and this base needs (9, 6)
    hint: the adapter belongs to another base model
    ");
}
