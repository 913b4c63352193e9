//! A run that was stopped goes on from its checkpoint to the same bytes, whatever happened to its files meanwhile.

mod best;
mod damage;
mod disk;
mod nonfinite;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use adapters::{Builder, LoraConfig, Method, Weights};
use candle_core::DType;
use datasets::Tokenized;
use finetune::models::decoder_config;
use finetune::recipe::{MicroBatchSize, TrainSection};
use finetune::{Decoder, TrainJob, TrainOutcome, tensor_specs, train};
use serde_json::{Value, json};

/// Rows of the embedding. The last one is in no sample.
const VOCABULARY: usize = 38;

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

fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": false
    })
}

fn weights() -> Weights {
    let shape = decoder_config(&config()).unwrap();
    Weights::random(config(), tensor_specs(&shape, 0.1), 5)
}

fn lora() -> Method {
    Method::Lora(LoraConfig {
        rank: 2,
        alpha: 6.0,
        dropout: 0.1,
        target_modules: adapters::TargetModules::AllLinear,
        use_rslora: false,
        use_dora: false,
        modules_to_save: Vec::new(),
    })
}

/// A training in a folder, of one process.
struct Process<'a> {
    folder: &'a Path,
    method: Method,
    settings: TrainSection,
    train_set: Vec<Tokenized>,
    validation: Vec<Tokenized>,
    weights: Weights,
    learning_rate_in_run: &'a str,
}

impl<'a> Process<'a> {
    fn new(folder: &'a Path, method: Method) -> Self {
        Self {
            folder,
            method,
            settings: settings(),
            train_set: samples(41),
            validation: samples(5),
            weights: weights(),
            learning_rate_in_run: "0.01",
        }
    }

    fn run_through(self) -> finetune::Result<TrainOutcome> {
        self.run(|_, _| {})
    }

    /// As if Ctrl-C came during this step.
    fn stopped_after(self, step: u64) -> TrainOutcome {
        let outcome = self.run(|at, stop| stop.store(at == step, Ordering::Relaxed));
        let outcome = outcome.unwrap();
        assert!(outcome.stopped);
        assert_eq!(outcome.steps, step);
        outcome
    }

    fn run(self, mut on_step: impl FnMut(u64, &AtomicBool)) -> finetune::Result<TrainOutcome> {
        let shape = decoder_config(&config()).unwrap();
        let mut builder = Builder::new(&self.weights, DType::F32, self.method, 9);
        let decoder = Decoder::build(&mut builder, shape, DType::F32).unwrap();
        let stop = AtomicBool::new(false);
        let job = TrainJob {
            decoder: &decoder,
            parameters: builder.finish().unwrap(),
            train: &self.train_set,
            validation: &self.validation,
            settings: &self.settings,
            max_seq_len: 24,
            packing: true,
            seed: 3,
            folder: self.folder,
            run: BTreeMap::from([(
                "train.learning_rate".to_owned(),
                self.learning_rate_in_run.to_owned(),
            )]),
            stop: &stop,
            plan: None,
            tasks: None,
        };
        train(job, &mut |report, _| on_step(report.step, &stop))
    }
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

/// Everything that an uninterrupted run says of its end.
fn assert_same_end(whole: &TrainOutcome, resumed: &TrainOutcome) {
    assert_eq!(values(whole), values(resumed));
    assert_eq!(whole.final_loss, resumed.final_loss);
    assert_eq!(whole.eval_loss, resumed.eval_loss);
    assert_eq!(whole.best, resumed.best);
    assert_eq!(whole.skipped_steps, resumed.skipped_steps);
    assert_eq!(whole.steps, resumed.steps);
}

/// The step log, without what differs from one run to the next.
fn log(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("steps.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("tokens_per_sec");
        line
    });
    lines.collect()
}

fn checkpoints(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn checkpoint(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoints/step-{step:08}"))
}

/// Message and hint, with the folder's name taken out.
fn said(error: &finetune::Error, folder: &Path) -> String {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error)
        && !text.ends_with(&source.to_string())
    {
        text.push_str(&format!("\n  {source}"));
    }
    text.push_str(&format!("\nhint: {}", error.hint().unwrap_or_default()));
    text.replace(&folder.display().to_string(), "RUN")
}

#[test]
fn a_stopped_run_ends_in_the_same_bytes() {
    for method in [lora, || Method::Full] {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = Process::new(a.path(), method()).run_through().unwrap();
        assert!(
            !whole.stopped && whole.steps == whole.total_steps && whole.steps > 12,
            "{}",
            whole.steps
        );

        for step in [2, 7, 8] {
            Process::new(b.path(), method()).stopped_after(step);
        }
        let resumed = Process::new(b.path(), method()).run_through().unwrap();
        assert_eq!(resumed.resumed_from, 8);
        assert_same_end(&whole, &resumed);
        assert_eq!(log(a.path()), log(b.path()));
        // A process that has nothing left to do says the same, though it saw no step.
        let again = Process::new(b.path(), method()).run_through().unwrap();
        assert_eq!(again.resumed_from, again.total_steps);
        assert_same_end(&whole, &again);
        assert_eq!(log(a.path()), log(b.path()));
    }
}

#[test]
fn the_newest_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::new(folder.path(), lora());
    process.settings.save_steps = 2;
    process.settings.eval_steps = 0;
    process.settings.save_total_limit = 3;
    let total = process.run_through().unwrap().total_steps;
    let last_even = total / 2 * 2;
    let newest = match total - last_even {
        0 => [total - 4, total - 2, total],
        _ => [last_even - 2, last_even, total],
    };
    assert_eq!(
        checkpoints(folder.path()),
        newest.map(|step| format!("step-{step:08}"))
    );
}

#[test]
fn training_lowers_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = Process::new(folder.path(), Method::Full)
        .run_through()
        .unwrap();
    let (before, after) = (
        outcome.eval_loss_before.unwrap(),
        outcome.eval_loss.unwrap(),
    );
    assert!(after < 0.7 * before, "{before} -> {after}");
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Process::new(folder.path(), lora()).stopped_after(2);
    let mut other = Process::new(folder.path(), lora());
    other.learning_rate_in_run = "0.02";
    let error = other.run_through().err().unwrap();
    insta::assert_snapshot!(said(&error, folder.path()), @"
    checkpoint RUN/checkpoints/step-00000002 is of another run: train.learning_rate was 0.01 and is now 0.02
    hint: to start anew, give another --out or remove the folder train/checkpoints; to go on, restore the settings
    ");
}

/// The scalars of the event files in the order in which TensorBoard reads them, as (step, tag).
fn scalars(folder: &Path) -> Vec<(u64, String)> {
    let mut files: Vec<_> = fs::read_dir(folder.join("tensorboard"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut scalars = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let event = &bytes[at + 12..at + 12 + length];
            at += length + 16;
            // The time, 9 bytes; the step, 2; the summary and its value, each a tag and a length; the value's name.
            if event[9] == 0x10 {
                let name = &event[17..17 + event[16] as usize];
                scalars.push((event[10].into(), String::from_utf8(name.to_vec()).unwrap()));
            }
        }
    }
    scalars
}

#[test]
fn logs_that_a_kill_cut_short_are_whole_again() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Process::new(a.path(), lora()).run_through().unwrap();
    for step in [5, 8] {
        let mut process = Process::new(b.path(), lora());
        process.settings.save_total_limit = 9;
        process.stopped_after(step);
    }
    // What follows the checkpoint of step 5 is lost: its lines are there, and the last is cut.
    fs::remove_dir_all(checkpoint(b.path(), 8)).unwrap();
    fs::remove_dir_all(checkpoint(b.path(), 6)).unwrap();
    let cut = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 7]).unwrap();
    };
    cut(&b.path().join("steps.jsonl"));
    let events = b.path().join("tensorboard");
    cut(&events.join("events.out.tfevents.0000000005.medtune"));
    // An attempt that went further, and half a record in the file of the first.
    fs::write(events.join("events.out.tfevents.0000000011.medtune"), "x").unwrap();
    let first = events.join("events.out.tfevents.0000000000.medtune");
    let mut bytes = fs::read(&first).unwrap();
    bytes.extend([9, 0, 0, 0]);
    fs::write(&first, bytes).unwrap();

    let resumed = Process::new(b.path(), lora()).run_through().unwrap();
    assert_eq!(resumed.resumed_from, 5);
    assert_eq!(log(a.path()), log(b.path()));
    assert_eq!(scalars(a.path()), scalars(b.path()));
    assert_eq!(
        scalars(a.path())
            .iter()
            .filter(|s| s.1 == "train/loss")
            .count() as u64,
        resumed.total_steps
    );
}
