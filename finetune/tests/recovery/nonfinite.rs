//! A loss or a gradient that is NaN or infinite: the training stops and names the samples, or leaves the step out.

use std::fs;
use std::path::Path;

use adapters::{ExportOptions, Method, Weights};
use candle_core::{Device, Tensor};
use finetune::recipe::{MicroBatchSize, OnNonfinite, TrainSection};

use super::{
    Process, VOCABULARY, assert_same_end, log, lora, said, samples, settings, values, weights,
};

/// A tensor's name, and what is done to its values.
type Change<'a> = (&'a str, &'a dyn Fn(&mut [f32]));

/// The base model as files, with some tensors' values changed.
fn changed(folder: &Path, changes: &[Change]) -> Weights {
    let base = folder.join("base");
    if !base.exists() {
        adapters::convert(&weights(), &base, &ExportOptions::default()).unwrap();
        let file = base.join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        for (name, change) in changes {
            let tensor = &tensors[*name];
            let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            change(&mut values);
            let changed = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
            tensors.insert((*name).into(), changed);
        }
        candle_core::safetensors::save(&tensors, &file).unwrap();
    }
    Weights::open(&base).unwrap()
}

/// NaN in the embedding of the last token, and sample 7 with that token in it.
fn poisoned(folder: &Path, policy: OnNonfinite) -> Process<'_> {
    let mut process = Process::new(folder, lora());
    let poison = |values: &mut [f32]| {
        let width = values.len() / VOCABULARY;
        values[(VOCABULARY - 1) * width..].fill(f32::NAN);
    };
    process.weights = changed(folder, &[("model.embed_tokens.weight", &poison)]);
    process.train_set[7].input_ids[1] = VOCABULARY as u32 - 1;
    process.settings.on_nonfinite = policy;
    process
}

#[test]
fn a_loss_that_is_nan_stops_the_training_and_names_its_samples() {
    let folder = tempfile::tempdir().unwrap();
    let error = poisoned(folder.path(), OnNonfinite::Stop)
        .run_through()
        .err()
        .unwrap();
    insta::assert_snapshot!(said(&error, folder.path()), @r#"
    the loss of step 3 is NaN; samples in it: s1, s7, s9, s19, s20, s23, s32, s36 and 2 more
    hint: look at these samples; train.on_nonfinite = "skip" goes on from the last checkpoint and leaves such steps out. Where it comes back, a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps
    "#);
    let finetune::Error::StepNotFinite { step, samples, .. } = error else {
        panic!("{error}");
    };
    assert!(samples.contains(&"s7".to_owned()));
    // As the hint says: the same run, now leaving such steps out, goes on from the last checkpoint before it.
    let outcome = poisoned(folder.path(), OnNonfinite::Skip)
        .run_through()
        .unwrap();
    assert_eq!(outcome.resumed_from, (step - 1) / 3 * 3);
    assert!(outcome.skipped_steps > 0);
}

#[test]
fn steps_that_are_not_finite_are_left_out_and_counted() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = poisoned(a.path(), OnNonfinite::Skip).run_through().unwrap();
    let skipped: Vec<_> = log(a.path())
        .into_iter()
        .filter(|line| line.get("skipped_samples").is_some())
        .collect();
    assert!(skipped.len() >= 2, "one in each whole epoch");
    assert_eq!(whole.skipped_steps, skipped.len() as u64);
    for line in &skipped {
        let samples = line["skipped_samples"].as_array().unwrap();
        assert!(samples.contains(&"s7".into()), "{line}");
        assert!(line["loss"].is_null() && line["grad_norm"].is_null());
    }
    for (name, value) in values(&whole) {
        assert!(value.iter().all(|x| x.is_finite()), "{name}");
    }
    // Interrupted before, at and after the steps that are left out.
    let first = skipped[0]["step"].as_u64().unwrap();
    for step in [first - 1, first, first + 1] {
        if step > 0 {
            poisoned(b.path(), OnNonfinite::Skip).stopped_after(step);
        }
    }
    let resumed = poisoned(b.path(), OnNonfinite::Skip).run_through().unwrap();
    assert_same_end(&whole, &resumed);
    assert_eq!(log(a.path()), log(b.path()));
}

#[test]
fn a_gradient_that_is_not_finite_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    // The head's rows are as large as f32 has room for, and what they are multiplied with as small: so the logits are
    // numbers of a few hundred, and the loss is one. Backwards, the difference of two rows is beyond f32.
    let mut process = Process::new(folder.path(), lora());
    process.weights = changed(
        folder.path(),
        &[
            ("model.norm.weight", &|values| values.fill(1e-37)),
            ("lm_head.weight", &|values| {
                values.iter_mut().for_each(|x| *x = x.signum() * 3e38);
            }),
        ],
    );
    // One target a step, so that it is not divided by their number.
    process.train_set = samples(41);
    process
        .train_set
        .retain(|sample| sample.input_ids.len() > 12);
    for sample in &mut process.train_set {
        let last = sample.loss_mask.len() - 1;
        sample.loss_mask[..last].fill(false);
    }
    process.validation.clear();
    process.settings.micro_batch_size = MicroBatchSize::Packs(1);
    process.settings.gradient_accumulation_steps = 1;
    let error = process.run_through().err().unwrap();
    insta::assert_snapshot!(said(&error, folder.path()), @r#"
    the gradient norm of step 1 is NaN; samples in it: s16
    hint: look at these samples; train.on_nonfinite = "skip" goes on from the last checkpoint and leaves such steps out. Where it comes back, a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps
    "#);
}

#[test]
fn a_training_that_diverges_ends_though_steps_may_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::new(folder.path(), Method::Full);
    process.settings = TrainSection {
        learning_rate: 1e30,
        warmup_ratio: 0.0,
        max_grad_norm: 0.0,
        max_steps: Some(30),
        on_nonfinite: OnNonfinite::Skip,
        ..settings()
    };
    let error = process.run_through().err().unwrap();
    // Which of the two is NaN first is the kernels' affair.
    let text = said(&error, folder.path()).replace("gradient norm", "loss");
    insta::assert_snapshot!(text, @"
    10 steps in a row were left out, the last because the loss of step 11 is NaN; samples in it: s0, s7, s12, s16, s19, s26, s33, s35 and 2 more
    hint: a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps; the last checkpoint is intact
    ");
    assert!(
        fs::read_dir(folder.path().join("checkpoints"))
            .unwrap()
            .count()
            > 0
    );
}
