//! The checkpoint with the lowest held-out loss is kept, and used at the end where that is asked for.

use std::path::Path;

use adapters::Method;
use finetune::recipe::Schedule;
use finetune::{Best, TrainOutcome};

use super::{Process, assert_same_end, checkpoint, checkpoints, log, lora, said, samples, values};

/// The held-out samples follow another rule than those learned from: their loss falls, and then rises.
fn overshooting(folder: &Path) -> Process<'_> {
    let mut process = Process::new(folder, Method::Full);
    process.train_set = samples(12);
    for sample in &mut process.validation {
        for (t, id) in sample.input_ids.iter_mut().enumerate() {
            *id = (*id + 5 * t as u32) % 37;
        }
    }
    process.settings.max_steps = Some(20);
    process.settings.learning_rate = 4e-3;
    process.settings.schedule = Schedule::Constant;
    process.settings.eval_steps = 2;
    process.settings.save_steps = 0;
    process.settings.load_best_model_at_end = true;
    process
}

fn eval_losses(folder: &Path) -> Vec<Best> {
    let measured = log(folder).into_iter().filter_map(|line| {
        Some(Best {
            step: line["step"].as_u64()?,
            eval_loss: Some(line.get("eval_loss")?.as_f64()?),
            scores: Default::default(),
        })
    });
    measured.collect()
}

fn lowest<'b>(all: &'b [Best]) -> Best {
    let lower = |a: &'b Best, b: &'b Best| if b.eval_loss < a.eval_loss { b } else { a };
    all.iter().fold(&all[0], lower).clone()
}

#[test]
fn a_training_that_gets_worse_ends_with_its_best_weights() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = overshooting(a.path()).run_through().unwrap();
    let best = lowest(&eval_losses(a.path()));
    assert!(
        best.step > 2 && best.step < 20,
        "the test needs a loss that falls and rises: {best:?}"
    );
    assert_eq!(whole.best, Some(best.clone()));
    assert_eq!(whole.eval_loss, best.eval_loss);

    // The same weights as those of a training that ends there.
    let mut short = overshooting(b.path());
    short.settings.max_steps = Some(best.step);
    let short: TrainOutcome = short.run_through().unwrap();
    assert_eq!(values(&whole), values(&short));

    // It outlives the newer ones, which are as many as are kept.
    let names = checkpoints(a.path());
    assert!(
        names.contains(&format!("step-{:08}", best.step)),
        "{names:?}"
    );
    assert!(names.contains(&"step-00000020".to_owned()), "{names:?}");
}

#[test]
fn the_best_is_the_same_after_interruptions() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = overshooting(a.path()).run_through().unwrap();
    for step in [1, 4, 9, 13, 14, 19] {
        overshooting(b.path()).stopped_after(step);
    }
    let resumed = overshooting(b.path()).run_through().unwrap();
    assert_same_end(&whole, &resumed);
    assert_eq!(log(a.path()), log(b.path()));
    let again = overshooting(b.path()).run_through().unwrap();
    assert_same_end(&whole, &again);
}

#[test]
fn the_checkpoint_before_a_damaged_one_still_has_its_own_best() {
    let folder = tempfile::tempdir().unwrap();
    let whole = overshooting(folder.path()).run_through().unwrap();
    let best = whole.best.as_ref().unwrap().step;
    // The last checkpoint is lost, and then all after the best: each time the run finds the best again.
    for step in [20, best + 1] {
        for name in checkpoints(folder.path()) {
            let of: u64 = name.trim_start_matches("step-").parse().unwrap();
            if of >= step {
                std::fs::remove_dir_all(checkpoint(folder.path(), of)).unwrap();
            }
        }
        let resumed = overshooting(folder.path()).run_through().unwrap();
        assert!(resumed.resumed_from >= best && resumed.resumed_from < 20);
        assert_same_end(&whole, &resumed);
    }
}

#[test]
fn without_being_asked_for_the_best_is_kept_and_the_last_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = overshooting(folder.path());
    process.settings.load_best_model_at_end = false;
    process.settings.save_steps = 2;
    process.settings.save_total_limit = 1;
    let outcome = process.run_through().unwrap();
    let losses = eval_losses(folder.path());
    let best = lowest(&losses).step;
    assert_eq!(outcome.best, None);
    assert_eq!(outcome.eval_loss, losses.last().unwrap().eval_loss);
    assert_eq!(
        checkpoints(folder.path()),
        [format!("step-{best:08}"), "step-00000020".to_owned()]
    );
}

#[test]
fn there_is_no_best_without_held_out_samples() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::new(folder.path(), lora());
    process.validation.clear();
    process.settings.load_best_model_at_end = true;
    let error = process.run_through().err().unwrap();
    insta::assert_snapshot!(said(&error, folder.path()), @"
    train.load_best_model_at_end needs held-out samples to choose by, and there are none
    hint: set data.validation_fraction, choose by a task with train.eval_tasks and train.metric_for_best_model, or leave train.load_best_model_at_end out
    ");
}
