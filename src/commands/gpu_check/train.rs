//! Trains the quickstart's small model on the device and on the processor, in f32 and in bf16; kills a training twice and
//! goes on with it. All by this program as a user runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Check;
use super::record::{Figure, StageRecord};
use crate::failure::Failure;
use crate::terminal::note;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    loss: f64,
    grad_norm: f64,
}

/// How far a training may be from the processor's, as shares.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tolerance {
    /// Of any step's loss.
    loss: f64,
    /// Of the mean of all steps' losses: what rounding does to single steps goes either way.
    mean_loss: f64,
    /// Of any step's gradient norm.
    grad_norm: f64,
}

/// The same arithmetic in another order: what lies between f32 and bf16, times the ratio of their roundings, 2^-16, would
/// be a hundredth of this and less.
const F32: Tolerance = Tolerance {
    loss: 1e-4,
    mean_loss: 2e-5,
    grad_norm: 2e-3,
};

/// Two to three times what lies between f32 and bf16 on the processor: 0.0083, 0.00032 and 0.118.
const BF16: Tolerance = Tolerance {
    loss: 0.02,
    mean_loss: 1e-3,
    grad_norm: 0.25,
};

/// What a rehearsal sets: the shortest packs that hold every sample of the recipe, two a step.
const SMALL: [&str; 2] = ["data.max_seq_len=96", "train.micro_batch_size=2"];

/// How the two trainings compare.
#[derive(Debug, PartialEq)]
struct Compared {
    worst_loss: f64,
    mean_loss: f64,
    worst_norm: f64,
    failures: Vec<String>,
}

pub(super) fn train(check: &Check) -> Result<StageRecord> {
    let steps = if check.tiny { 4 } else { 50 };
    let training = Training {
        check,
        recipe: check.own("recipes/quickstart.toml")?,
        steps,
        save_steps: if check.tiny { 1 } else { 5 },
    };
    let (mut figures, mut failures) = (Vec::new(), Vec::new());
    for (dtype, tolerance) in [("f32", F32), ("bf16", BF16)] {
        let there = training.whole(dtype, check.device, "there")?;
        let here = training.whole(dtype, "cpu", "cpu")?;
        let compared = compare(&there, &here, steps, tolerance);
        for (number, (a, b)) in there
            .iter()
            .zip(&here)
            .enumerate()
            .step_by(steps.div_ceil(10))
        {
            note(&format!(
                "    {dtype} step {:2}: loss {:.5} there, {:.5} here; gradient norm {:.4} and {:.4}",
                number + 1,
                a.loss,
                b.loss,
                a.grad_norm,
                b.grad_norm
            ));
        }
        let figure = |what: &str, value: f64, most: f64| {
            Figure::new(format!("{dtype}: {what}"), value, "").note(format!("at most {most}"))
        };
        figures.extend([
            figure(
                "largest difference of a loss",
                compared.worst_loss,
                tolerance.loss,
            ),
            figure(
                "difference of the mean loss",
                compared.mean_loss,
                tolerance.mean_loss,
            ),
            figure(
                "largest difference of a norm",
                compared.worst_norm,
                tolerance.grad_norm,
            ),
        ]);
        figures.extend(
            there
                .last()
                .map(|s| Figure::new(format!("{dtype}: last loss"), s.loss, "nats")),
        );
        failures.extend(
            compared
                .failures
                .iter()
                .map(|line| format!("{dtype}: {line}")),
        );
    }
    let killed = training.killed("bf16")?;
    figures.push(Figure::new("kills survived", killed.kills as f64, ""));
    failures.extend(killed.failures);
    Ok(StageRecord::proof("train", figures, failures))
}

/// Steps that two trainings must share.
fn compare(there: &[Step], here: &[Step], steps: usize, tolerance: Tolerance) -> Compared {
    let mut failures = Vec::new();
    for (what, found) in [("there", there), ("on the processor", here)] {
        if found.len() != steps {
            failures.push(format!("{} steps {what}, not {steps}", found.len()));
        }
    }
    let share = |a: f64, b: f64| match (a - b).abs() / b.abs() {
        share if share.is_nan() => f64::INFINITY,
        share => share,
    };
    let worst = |of: fn(&Step) -> f64| {
        let shares = there.iter().zip(here).map(|(a, b)| share(of(a), of(b)));
        shares.fold(0.0, f64::max)
    };
    let mean = |steps: &[Step]| steps.iter().map(|s| s.loss).sum::<f64>() / steps.len() as f64;
    let compared = Compared {
        worst_loss: worst(|s| s.loss),
        mean_loss: share(mean(there), mean(here)),
        worst_norm: worst(|s| s.grad_norm),
        failures: Vec::new(),
    };
    for (what, found, most) in [
        ("a loss", compared.worst_loss, tolerance.loss),
        ("the mean loss", compared.mean_loss, tolerance.mean_loss),
        ("a gradient norm", compared.worst_norm, tolerance.grad_norm),
    ] {
        if found > most {
            failures.push(format!(
                "{what} is off by {found:.2e} of itself, where {most:.0e} is allowed"
            ));
        }
    }
    Compared {
        failures,
        ..compared
    }
}

/// What killing a training came to.
struct Killed {
    kills: usize,
    failures: Vec<String>,
}

struct Training<'a> {
    check: &'a Check<'a>,
    recipe: PathBuf,
    steps: usize,
    save_steps: usize,
}

impl Training<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        self.check.work.join(name)
    }

    /// A folder without what an earlier check left there.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot empty `{}`", folder.display()))
            }
            _ => Ok(folder),
        }
    }

    fn command(&self, dtype: &str, device: &str, out: &Path) -> Result<Command> {
        fs::create_dir_all(out).with_context(|| format!("cannot make `{}`", out.display()))?;
        let log = out.with_extension("log");
        let log = fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("train")
            .arg(&self.recipe)
            .arg("--device")
            .arg(device)
            .arg("--out")
            .arg(out);
        let mut sets = vec![
            format!("train.max_steps={}", self.steps),
            format!("train.save_steps={}", self.save_steps),
            format!("model.dtype={dtype:?}"),
        ];
        if self.check.tiny {
            // A stand-in for a GPU takes minutes for the recipe's own batches.
            sets.extend(SMALL.map(str::to_owned));
        }
        for set in sets {
            command.arg("--set").arg(set);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// Trains from the first step to the last.
    fn whole(&self, dtype: &str, device: &str, place: &str) -> Result<Vec<Step>> {
        note(&format!("  {} steps in {dtype} on {device}", self.steps));
        let out = self.fresh(&format!("{dtype}-{place}"))?;
        let status = self.command(dtype, device, &out)?.status()?;
        if !status.success() {
            return Err(died(
                &out,
                &format!("training in {dtype} on {device} ended with {status}"),
            ));
        }
        steps_of(&out)
    }

    /// Trains, is killed at two steps that follow from the seed, goes on, and must have come to what the training that
    /// was left alone came to.
    fn killed(&self, dtype: &str) -> Result<Killed> {
        let (whole, out) = (
            self.folder(&format!("{dtype}-there")),
            self.fresh("killed")?,
        );
        let third = (self.steps / 3).max(1);
        let draw =
            |part: usize| part * third + 1 + (self.check.seed as usize / (1 + 6 * part)) % third;
        let mut kills = 0;
        for at in [draw(0), draw(1)] {
            let mut child = self.command(dtype, self.check.device, &out)?.spawn()?;
            let killed = kill_after(&mut child, &out, at)?;
            note(&format!("  killed after step {at}: {killed}"));
            kills += usize::from(killed);
        }
        let status = self.command(dtype, self.check.device, &out)?.status()?;
        if !status.success() {
            return Err(died(
                &out,
                &format!("going on after being killed ended with {status}"),
            ));
        }
        let mut failures = differences(&whole, &out)?;
        if kills == 0 {
            failures.push("the training was over before it could be killed".into());
        }
        Ok(Killed { kills, failures })
    }
}

/// What the program said last, for a training that ended with an error.
fn died(out: &Path, what: &str) -> anyhow::Error {
    let log = fs::read_to_string(out.with_extension("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(4)..].join("\n  ");
    Failure::machine(format!("{what}\n  {last}")).into()
}

/// Kills a training as soon as its log has that many steps; false where it was over before.
fn kill_after(child: &mut Child, out: &Path, steps: usize) -> Result<bool> {
    let log = out.join("train/steps.jsonl");
    loop {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        let written = fs::read(&log).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count());
        if written >= steps {
            child.kill()?;
            child.wait()?;
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lines_of(out: &Path) -> Result<Vec<Value>> {
    let path = out.join("train/steps.jsonl");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn steps_of(out: &Path) -> Result<Vec<Step>> {
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or(f64::NAN);
    let step = |line: &Value| Step {
        loss: number(line, "loss"),
        grad_norm: number(line, "grad_norm"),
    };
    Ok(lines_of(out)?.iter().map(step).collect())
}

/// What differs between two runs that must be the same: the adapter's bytes, and the log but for its times.
fn differences(whole: &Path, other: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in [
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
    ] {
        let read = |run: &Path| {
            let path = run.join(name);
            fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))
        };
        if read(whole)? != read(other)? {
            found.push(format!("after a kill `{name}` has other bytes"));
        }
    }
    let steps = |run: &Path| -> Result<Vec<Value>> {
        let mut lines = lines_of(run)?;
        for line in &mut lines {
            line["tokens_per_sec"] = Value::Null;
        }
        Ok(lines)
    };
    if steps(whole)? != steps(other)? {
        found.push("after a kill the steps' log has other numbers".into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(off: f64) -> Vec<Step> {
        let step = |i: usize| Step {
            loss: 3.0 - 0.02 * i as f64 + off * (i % 3) as f64,
            grad_norm: 1.5 + off,
        };
        (0..50).map(step).collect()
    }

    #[test]
    fn the_same_training_is_the_same() {
        let compared = compare(&steps(0.0), &steps(0.0), 50, F32);
        assert_eq!((compared.worst_loss, compared.worst_norm), (0.0, 0.0));
        assert!(compared.failures.is_empty());
    }

    #[test]
    fn what_is_off_is_told() {
        let found = |there: &[Step], tolerance| compare(there, &steps(0.0), 50, tolerance).failures;
        assert!(found(&steps(1e-5), F32).is_empty());
        assert!(found(&steps(1e-3), BF16).is_empty());
        insta::assert_snapshot!(found(&steps(0.2), BF16).join("\n"), @"
        a loss is off by 1.94e-1 of itself, where 2e-2 is allowed
        the mean loss is off by 7.81e-2 of itself, where 1e-3 is allowed
        ");
        // One step, a training that stopped learning, one that is short, a NaN.
        let mut one = steps(0.0);
        one[20].loss *= 1.03;
        assert_eq!(found(&one, BF16).len(), 1);
        let flat: Vec<Step> = (0..50).map(|_| steps(0.0)[0]).collect();
        assert!(!found(&flat, BF16).is_empty());
        assert!(!found(&steps(0.0)[..49], BF16).is_empty());
        one[20].loss = f64::NAN;
        assert!(!found(&one, BF16).is_empty());
    }

    #[test]
    fn a_byte_and_a_number_that_differ_are_found() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let write = |run: &str, adapter: &[u8], steps: &str| -> Result<PathBuf> {
            let run = folder.path().join(run);
            fs::create_dir_all(run.join("adapter"))?;
            fs::create_dir_all(run.join("train"))?;
            fs::write(run.join("adapter/adapter_model.safetensors"), adapter)?;
            fs::write(run.join("adapter/adapter_config.json"), "{}")?;
            fs::write(run.join("train/steps.jsonl"), steps)?;
            Ok(run)
        };
        let a = write(
            "a",
            b"abc",
            "{\"step\":1,\"loss\":2.5,\"tokens_per_sec\":7.0}\n",
        )?;
        let b = write(
            "b",
            b"abc",
            "{\"step\":1,\"loss\":2.5,\"tokens_per_sec\":9.0}\n",
        )?;
        assert!(differences(&a, &b)?.is_empty());
        let c = write(
            "c",
            b"abd",
            "{\"step\":1,\"loss\":2.6,\"tokens_per_sec\":9.0}\n",
        )?;
        assert_eq!(differences(&a, &c)?.len(), 2);
        assert_eq!(steps_of(&a)?[0].loss, 2.5);
        Ok(())
    }
}
