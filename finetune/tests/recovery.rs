//! A run that was stopped goes on from its checkpoint to the same bytes; a checkpoint that does not belong is refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use adapters::{Builder, LoraConfig, Method, Weights};
use candle_core::DType;
use datasets::Tokenized;
use finetune::models::decoder_config;
use finetune::recipe::{MicroBatchSize, TrainSection};
use finetune::{Decoder, TrainJob, TrainOutcome, tensor_specs, train};
use serde_json::json;

fn settings() -> TrainSection {
    TrainSection {
        epochs: 2.5,
        learning_rate: 1e-2,
        micro_batch_size: MicroBatchSize::Packs(2),
        gradient_accumulation_steps: 2,
        weight_decay: 0.1,
        save_steps: 3,
        eval_steps: 4,
        ..Default::default()
    }
}

fn samples(n: usize) -> Vec<Tokenized> {
    (0..n)
        .map(|i| {
            let len = 3 + i * 5 % 14;
            Tokenized {
                id: format!("s{i}"),
                sample: i as u64,
                input_ids: (0..len).map(|t| ((i + t * 3) % 37) as u32).collect(),
                loss_mask: (0..len).map(|t| t > 0).collect(),
            }
        })
        .collect()
}

struct Setup<'a> {
    folder: &'a Path,
    method: Method,
    settings: TrainSection,
    learning_rate_in_run: &'a str,
    stop_after: u64,
}

fn run(setup: Setup) -> finetune::Result<TrainOutcome> {
    let config = json!({
        "model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true
    });
    let shape = decoder_config(&config).unwrap();
    let weights = Weights::random(config, tensor_specs(&shape, 0.1), 5);
    let mut builder = Builder::new(&weights, DType::F32, setup.method, 9);
    let decoder = Decoder::build(&mut builder, shape, DType::F32).unwrap();
    let stop = AtomicBool::new(false);
    let (train_set, validation) = (samples(41), samples(5));
    let job = TrainJob {
        decoder: &decoder,
        parameters: builder.finish().unwrap(),
        train: &train_set,
        validation: &validation,
        settings: &setup.settings,
        max_seq_len: 24,
        packing: true,
        seed: 3,
        folder: setup.folder,
        run: BTreeMap::from([(
            "train.learning_rate".to_owned(),
            setup.learning_rate_in_run.to_owned(),
        )]),
        stop: &stop,
        plan: None,
    };
    train(job, &mut |report, _| {
        stop.store(report.step == setup.stop_after, Ordering::Relaxed)
    })
}

fn lora() -> Method {
    Method::Lora(LoraConfig {
        rank: 2,
        alpha: 6.0,
        dropout: 0.1,
        target_modules: adapters::TargetModules::AllLinear,
        use_rslora: false,
        use_dora: false,
        modules_to_save: vec![],
    })
}

fn values(outcome: &TrainOutcome) -> Vec<(String, Vec<f32>)> {
    let values = outcome.parameters.0.iter();
    values
        .map(|p| {
            (
                p.name.clone(),
                p.value.flatten_all().unwrap().to_vec1().unwrap(),
            )
        })
        .collect()
}

fn setup(folder: &Path, method: Method, stop_after: u64) -> Setup<'_> {
    Setup {
        folder,
        method,
        settings: settings(),
        learning_rate_in_run: "0.01",
        stop_after,
    }
}

#[test]
fn a_stopped_run_ends_in_the_same_bytes() {
    for method in [lora, || Method::Full] {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = run(setup(a.path(), method(), u64::MAX)).unwrap();
        assert!(
            !whole.stopped && whole.steps == whole.total_steps && whole.steps > 12,
            "{}",
            whole.steps
        );

        for stop_after in [2, 7, 8] {
            let part = run(setup(b.path(), method(), stop_after)).unwrap();
            assert!(part.stopped);
            assert_eq!(part.steps, stop_after);
        }
        let resumed = run(setup(b.path(), method(), u64::MAX)).unwrap();
        assert_eq!(resumed.resumed_from, 8);
        assert_eq!(values(&whole), values(&resumed));
        assert_eq!(whole.eval_loss, resumed.eval_loss);

        let steps = |folder: &Path| -> Vec<(u64, f64)> {
            let text = std::fs::read_to_string(folder.join("steps.jsonl")).unwrap();
            let lines = text
                .lines()
                .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
            lines
                .map(|v| (v["step"].as_u64().unwrap(), v["loss"].as_f64().unwrap()))
                .collect()
        };
        assert_eq!(steps(a.path()), steps(b.path()));
        let checkpoints = std::fs::read_dir(b.path().join("checkpoints"))
            .unwrap()
            .count();
        assert_eq!(checkpoints, settings().save_total_limit);
    }
}

#[test]
fn training_lowers_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(setup(folder.path(), Method::Full, u64::MAX)).unwrap();
    let (before, after) = (
        outcome.eval_loss_before.unwrap(),
        outcome.eval_loss.unwrap(),
    );
    assert!(after < 0.7 * before, "{before} -> {after}");
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(setup(folder.path(), lora(), 2)).unwrap();
    let error = run(Setup {
        learning_rate_in_run: "0.02",
        ..setup(folder.path(), lora(), 9)
    })
    .err()
    .unwrap();
    let text = error
        .to_string()
        .replace(&folder.path().display().to_string(), "RUN");
    insta::assert_snapshot!(text, @"checkpoint RUN/checkpoints/step-00000002 is of another run: train.learning_rate was 0.01 and is now 0.02");
    insta::assert_snapshot!(error.hint().unwrap(), @"to start anew, give another --out or remove the folder train/checkpoints; to go on, restore the settings");
}

#[test]
fn a_flipped_bit_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    run(setup(folder.path(), lora(), 2)).unwrap();
    let file = folder
        .path()
        .join("checkpoints/step-00000002/state.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = run(setup(folder.path(), lora(), 9)).err().unwrap();
    let text = error
        .to_string()
        .replace(&folder.path().display().to_string(), "RUN");
    insta::assert_snapshot!(text, @"checkpoint RUN/checkpoints/step-00000002 cannot be used: state.safetensors has changed since it was written (SHA-256 differs)");
}

#[test]
fn a_loss_that_is_not_finite_stops_with_the_samples_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = TrainSection {
        learning_rate: 1e30,
        warmup_ratio: 0.0,
        max_grad_norm: 0.0,
        ..settings()
    };
    let error = run(Setup {
        settings,
        ..setup(folder.path(), Method::Full, u64::MAX)
    })
    .err()
    .unwrap();
    let text = error.to_string();
    assert!(text.contains("step"), "{text}");
    assert!(error.hint().unwrap().contains("learning_rate"));
}
