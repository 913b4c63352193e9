//! Parity with transformers, PEFT and torch on tiny seeded models: logits, losses, every gradient, twenty AdamW steps.
//!
//! `scripts/golden/README.md` says what each file holds and how it was made.

mod bert;
mod fixtures;
mod lm_eval;

use adapters::{Method, ParamId};
use finetune::recipe::{Recompute, Schedule, TrainSection};
use finetune::{DropoutState, Gradients, Optimizer, learning_rate};
use fixtures::{Architecture, METHODS, architectures, relative_error};

const NO_DROPOUT: DropoutState = DropoutState { seed: 0, step: 0 };

#[test]
fn every_architecture_is_covered() {
    let names: Vec<String> = architectures().into_iter().map(|a| a.name).collect();
    for needed in [
        "llama",
        "llama_gqa",
        "llama3_rope",
        "llama_linear_rope",
        "mistral_window",
        "qwen2",
        "qwen3",
    ] {
        assert!(
            names.iter().any(|n| n == needed),
            "no golden for {needed}: {names:?}"
        );
    }
    assert!(names.len() >= 9, "{names:?}");
}

#[test]
fn both_dialects_of_config_json_mean_the_same() {
    for a in architectures() {
        assert_eq!(
            a.config("config.json"),
            a.config("config.v4.json"),
            "{}",
            a.name
        );
    }
}

#[test]
fn logits_agree_within_1e_4() {
    for a in architectures() {
        for (method, tensor) in [
            (a.frozen(None), "base.logits"),
            (a.frozen(Some("adapter")), "lora.logits"),
            (a.frozen(Some("dora")), "dora.logits"),
            (a.frozen(Some("saved")), "saved.logits"),
            (a.adapted("dora"), "dora.logits"),
            (a.adapted("saved"), "saved.logits"),
        ] {
            let (decoder, _) = method;
            let ours = decoder.logits(&a.batch("")).unwrap();
            let difference = a.max_difference(&ours, tensor);
            println!("{} {tensor}: max |difference| {difference:.2e}", a.name);
            assert!(difference <= 1e-4, "{} {tensor}: {difference:.2e}", a.name);
        }
    }
}

#[test]
fn loss_and_every_lora_gradient_agree() {
    for a in architectures() {
        for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
            let (mut decoder, parameters) = a.lora();
            decoder.set_recompute(recompute);
            let batch = a.batch("");
            let mut gradients = Gradients::new(&parameters);
            let scale = 1.0 / batch.target_tokens() as f64;
            let loss = decoder
                .loss_and_gradients(&batch, NO_DROPOUT, scale, &mut gradients)
                .unwrap();
            a.close("loss", loss.loss_sum * scale, a.number("/lora/loss"), 1e-4);
            check_gradients(&a, "lora.grad.", &parameters, &gradients);
        }
    }
}

/// DoRA, and modules saved whole: between the architectures both tables, a tied one by either name, norms, linear layers
/// with a bias and without, DoRA and a saved head at once.
#[test]
fn every_gradient_of_the_other_methods_agrees() {
    for a in architectures() {
        for method in METHODS {
            for recompute in [Recompute::None, Recompute::Full] {
                let (mut decoder, parameters) = a.adapted(method);
                decoder.set_recompute(recompute);
                let batch = a.batch("");
                let mut gradients = Gradients::new(&parameters);
                let scale = 1.0 / batch.target_tokens() as f64;
                let loss = decoder
                    .loss_and_gradients(&batch, NO_DROPOUT, scale, &mut gradients)
                    .unwrap();
                let expected = a.number(&format!("/{method}/loss"));
                a.close("loss", loss.loss_sum * scale, expected, 1e-4);
                check_gradients(&a, &format!("{method}.grad."), &parameters, &gradients);
            }
        }
    }
}

#[test]
fn full_gradients_agree() {
    let mut seen = 0;
    for a in architectures()
        .into_iter()
        .filter(|a| a.has_prefix("full.grad."))
    {
        let (decoder, parameters) = a.full();
        let batch = a.batch("");
        let mut gradients = Gradients::new(&parameters);
        let scale = 1.0 / batch.target_tokens() as f64;
        decoder
            .loss_and_gradients(&batch, NO_DROPOUT, scale, &mut gradients)
            .unwrap();
        check_gradients(&a, "full.grad.", &parameters, &gradients);
        seen += 1;
    }
    assert!(seen >= 2);
}

/// Every fixture has its parameter, every parameter its fixture, and they agree tensor by tensor.
fn check_gradients(
    a: &Architecture,
    prefix: &str,
    parameters: &adapters::Parameters,
    gradients: &Gradients,
) {
    let expected = a.names(prefix);
    let ours: Vec<&str> = parameters.0.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        expected.len(),
        ours.len(),
        "{}: {expected:?}\n{ours:?}",
        a.name
    );
    let mut worst = 0f64;
    for (i, p) in parameters.0.iter().enumerate() {
        let theirs = a.tensor(&format!("{prefix}{}", p.name));
        let gradient = gradients
            .get(ParamId(i))
            .unwrap_or_else(|| panic!("{}: no gradient", p.name));
        let largest = theirs.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let largest = largest.to_scalar::<f32>().unwrap();
        assert!(largest > 0.0, "{} {}: a gradient of zeros", a.name, p.name);
        let error = relative_error(gradient, &theirs);
        worst = worst.max(error);
        assert!(
            error <= 1e-4,
            "{} {prefix}{}: relative error {error:.2e}",
            a.name,
            p.name
        );
    }
    println!(
        "{} {prefix}*: worst relative error {worst:.2e} of {} tensors",
        a.name,
        ours.len()
    );
}

#[test]
fn two_micro_batches_weigh_every_target_token_the_same() {
    let a = architectures()
        .into_iter()
        .find(|a| a.name == "llama")
        .unwrap();
    let (decoder, parameters) = a.lora();
    let batches = [a.batch("train.0."), a.batch("train.1.")];
    let targets: usize = batches.iter().map(|b| b.target_tokens()).sum();
    let mut gradients = Gradients::new(&parameters);
    let mut loss = 0.0;
    for batch in &batches {
        let part = decoder
            .loss_and_gradients(batch, NO_DROPOUT, 1.0 / targets as f64, &mut gradients)
            .unwrap();
        loss += part.loss_sum;
    }
    a.close(
        "loss",
        loss / targets as f64,
        a.number("/lora/accumulate_train_0_and_1/loss"),
        1e-4,
    );
    let norm = gradients.norm(&parameters).unwrap();
    a.close(
        "norm",
        norm,
        a.number("/lora/accumulate_train_0_and_1/grad_norm"),
        1e-4,
    );
    check_gradients(&a, "accumulate.grad.", &parameters, &gradients);
}

/// The settings of every golden training.
fn settings() -> TrainSection {
    TrainSection {
        learning_rate: 1e-3,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        adam_epsilon: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
        warmup_ratio: 0.2,
        schedule: Schedule::Cosine,
        ..Default::default()
    }
}

#[test]
fn twenty_adamw_steps_agree() {
    for a in architectures() {
        steps_agree(&a, "/lora/train", a.lora(), &settings(), 20);
        for method in METHODS {
            let at = format!("/{method}/train");
            steps_agree(&a, &at, a.adapted(method), &settings(), 20);
        }
        if a.has_prefix("full.grad.") {
            steps_agree(&a, "/full/train", a.full(), &settings(), 20);
        }
    }
}

/// PEFT's `create_loraplus_optimizer`, over DoRA's magnitudes and modules saved whole too.
#[test]
fn loraplus_steps_agree() {
    for a in architectures() {
        for method in METHODS {
            let at = format!("/{method}/loraplus");
            let settings = TrainSection {
                loraplus_lr_ratio: a.number(&format!("{at}/loraplus_lr_ratio")),
                weight_decay: a.number(&format!("{at}/weight_decay")),
                ..settings()
            };
            assert_eq!(settings.loraplus_lr_ratio, 16.0);
            steps_agree(&a, &at, a.adapted(method), &settings, 6);
        }
    }
}

/// The first `steps` of twenty, against the record at that place of golden.json.
fn steps_agree(
    a: &Architecture,
    record: &str,
    model: (finetune::Decoder, adapters::Parameters),
    settings: &TrainSection,
    steps: u64,
) {
    let (decoder, mut parameters) = model;
    let mut optimizer = Optimizer::new(&parameters, settings, 0).unwrap();
    let mut worst = 0f64;
    for step in 0..steps {
        let at = |what: &str| a.number(&format!("{record}/{what}/{step}"));
        let batch = a.batch(&format!("train.{}.", step % 5));
        let scale = 1.0 / batch.target_tokens() as f64;
        let mut gradients = Gradients::new(&parameters);
        let pending = decoder
            .pending_loss_and_gradients(&batch, NO_DROPOUT, scale, &mut gradients)
            .unwrap();
        let rate = learning_rate(settings, step, 20);
        a.close("learning rate", rate, at("learning_rate"), 1e-12);
        let (loss, norm) = optimizer
            .step(&mut parameters, gradients, vec![pending], rate, step + 1)
            .unwrap();
        worst = worst.max((loss.loss_sum * scale - at("loss")).abs());
        a.close(
            &format!("{record} loss of step {step}"),
            loss.loss_sum * scale,
            at("loss"),
            1e-4,
        );
        a.close(
            &format!("{record} grad norm of step {step}"),
            norm,
            at("grad_norm"),
            1e-3 * at("grad_norm").max(1.0),
        );
    }
    println!("{} {record}: worst |loss difference| {worst:.2e}", a.name);
}

#[test]
fn greedy_generation_agrees() {
    for a in architectures() {
        let (decoder, _) = a.frozen(None);
        let prompt: Vec<u32> = a.batch("").input_ids[..6].to_vec();
        let mut cache = decoder.new_cache();
        let mut all: Vec<u32> = Vec::new();
        let mut feed = prompt;
        for _ in 0..12 {
            let logits = decoder.extend(&[&feed], &mut [&mut cache]).unwrap();
            let logits = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            feed = vec![finetune::argmax(&logits)];
            all.extend(&feed);
        }
        assert_eq!(all, a.ids("/base/greedy_12_from_first_6"), "{}", a.name);
    }
}

#[test]
fn merged_weights_agree() {
    for a in architectures() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("merged");
        let base = a.weights();
        let adapter = adapters::PeftAdapter::load(&a.path("adapter")).unwrap();
        adapters::merge(&base, &adapter, &folder, &Default::default()).unwrap();
        let merged = adapters::Weights::open(&folder).unwrap();
        let names = a.names("merged.");
        assert!(!names.is_empty(), "{}", a.name);
        for name in names {
            let ours = merged
                .view(&name)
                .unwrap()
                .tensor(candle_core::DType::F32)
                .unwrap();
            let difference = a.max_difference(&ours, &format!("merged.{name}"));
            assert!(difference <= 1e-6, "{} {name}: {difference:.2e}", a.name);
        }
    }
}

#[test]
fn an_adapter_trains_only_itself() {
    let a = architectures()
        .into_iter()
        .find(|a| a.name == "llama")
        .unwrap();
    let (_, parameters) = a.lora();
    assert!(
        parameters
            .0
            .iter()
            .all(|p| p.name.contains(".lora_A.") || p.name.contains(".lora_B."))
    );
    let (_, none) = a.build(Method::Frozen, None);
    assert!(none.0.is_empty());
}
