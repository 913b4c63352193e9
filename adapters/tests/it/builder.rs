//! Who is frozen, adapted or trained.

use crate::support::{distance, flat, lora, random_weights, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{Builder, LinearSpec, LoraConfig, Method, Parameters, Weights};
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
        assert_eq!(parameter.decay, parameter.name != "model.norm.weight");
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
