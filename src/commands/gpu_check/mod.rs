//! `medtune gpu-check`: proves and times computing on a GPU, from this program alone.
//!
//! Each stage is a file; `scripts/gpu-check` runs them one a process, each within its time, and what Python peers there
//! are. What a stage found goes into one record ([`record`]), from which the tables are printed. Sizes that are
//! [`Check::tiny`], the processor, and a driver that stands in for one make a rehearsal: everything runs, and nothing
//! that comes out is a measurement.

pub mod args;
mod ceilings;
mod gradients;
mod models;
mod ops;
mod packs;
mod record;
mod report;
mod speed_ops;
mod speed_train;
mod table;
mod timing;
mod train;

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use kernels::Device;

use crate::device::Compute;
use crate::failure::{Exit, Failure, describe};
use crate::report::utc;
use crate::terminal::{note, print, print_json};
use args::{GpuCheckArgs, Stage};
use record::{DeviceRecord, Outcome, Record, StageRecord};

/// What the name of a device says that a driver only plays.
const REHEARSAL: &str = "rehearsal";

/// What every stage reads.
struct Check<'a> {
    compute: &'a Compute,
    /// As it is named to `--device`.
    device: &'a str,
    tiny: bool,
    seed: u64,
    rows: &'a [String],
    tree: &'a Path,
    work: PathBuf,
}

impl Check<'_> {
    fn place(&self) -> &Device {
        &self.compute.device
    }

    /// A file of medtune's own tree.
    fn own(&self, name: &str) -> Result<PathBuf> {
        let path = self.tree.join(name);
        if path.exists() {
            return Ok(path);
        }
        let message = format!("there is no `{}`", path.display());
        Err(Failure::user(message)
            .hint("name the folder that holds medtune's recipes with --tree")
            .into())
    }
}

pub fn gpu_check(args: &GpuCheckArgs, json: bool) -> Result<Exit> {
    speed_train::check_names(&args.row)?;
    let compute = Compute::open(&args.device)?;
    let rehearsal = rehearsal(args.tiny, &compute);
    let mut record = Record::new(DeviceRecord::of(compute.gpu.as_ref()), rehearsal);
    if let Some(out) = &args.out {
        record = record.go_on_with(out)?;
    }
    let mut failed = false;
    for path in &args.add {
        let stage: StageRecord = record::read_json(path)?;
        failed |= stage.outcome == Outcome::Failed;
        record.put(stage);
    }
    let temporary = std::env::temp_dir().join(format!("medtune-gpu-check-{}", std::process::id()));
    let check = Check {
        compute: &compute,
        device: &args.device,
        tiny: args.tiny,
        seed: args.seed.unwrap_or_else(clock),
        rows: &args.row,
        tree: &args.tree,
        work: args.work.clone().unwrap_or_else(|| temporary.clone()),
    };
    for stage in asked(args) {
        for found in run(&check, stage, &record) {
            failed |= found.outcome == Outcome::Failed;
            record.put(found);
        }
        if let Some(out) = &args.out {
            record.write(out)?;
        }
    }
    if let Some(out) = args.out.as_ref().filter(|_| !args.add.is_empty()) {
        record.write(out)?;
    }
    // What was made there is of no use any more; that a folder for temporary files is not emptied is no failure.
    let _ = std::fs::remove_dir_all(&temporary);
    match json {
        true => print_json(&serde_json::to_value(&record)?)?,
        false => print(&record.shown(args.markdown))?,
    }
    if let Some(results) = &args.append_to {
        append(&record, results)?;
    }
    Ok(if failed { Exit::Unmet } else { Exit::Done })
}

/// The stages that were named; all, where nothing else was asked for.
fn asked(args: &GpuCheckArgs) -> Vec<Stage> {
    let other = args.show || !args.add.is_empty() || args.append_to.is_some();
    let all = match (args.stages.is_empty(), other) {
        (true, true) => return Vec::new(),
        (true, false) => &Stage::ALL[..],
        (false, _) => &args.stages,
    };
    let in_order = Stage::ALL.into_iter();
    in_order.filter(|stage| all.contains(stage)).collect()
}

/// Why what comes out is no measurement, where it is none.
fn rehearsal(tiny: bool, compute: &Compute) -> Option<String> {
    let Some(gpu) = &compute.gpu else {
        return Some("on the processor".into());
    };
    if gpu.name.contains(REHEARSAL) {
        return Some(format!("on an {}", gpu.name));
    }
    tiny.then(|| "at tiny sizes".into())
}

fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// One stage, with what went wrong in it told as its failure. Of most stages one record comes out.
fn run(check: &Check, stage: Stage, before: &Record) -> Vec<StageRecord> {
    note(&format!("{} ...", stage.name()));
    let (started, date) = (Instant::now(), utc(clock()));
    let found = match stage {
        Stage::Report => report::report(check).map(one),
        Stage::Ops => ops::ops(check).map(one),
        Stage::Gradients => gradients::gradients(check).map(one),
        Stage::Train => train::train(check).map(one),
        Stage::Ceilings => ceilings::ceilings(check).map(one),
        Stage::SpeedOps => speed_ops::speed_ops(check, before).map(one),
        Stage::SpeedTrain => speed_train::speed_train(check, before),
    };
    let mut found = found.unwrap_or_else(|error| {
        one(StageRecord::new(stage.name(), Outcome::Failed).because(describe(&error)))
    });
    let shared = found.len();
    for record in &mut found {
        if record.secs == 0.0 {
            record.secs = started.elapsed().as_secs_f64() / shared as f64;
        }
        record.date.clone_from(&date);
        record.seed = Some(check.seed);
    }
    found
}

fn one(record: StageRecord) -> Vec<StageRecord> {
    vec![record]
}

/// Adds figures to the table of results.
fn append(record: &Record, results: &Path) -> Result<()> {
    use std::io::Write;
    let lines = record.results()?;
    let mut file = std::fs::File::options().append(true).open(results)?;
    file.write_all(lines.as_bytes())?;
    let count = lines.lines().count();
    note(&format!("{count} figures added to {}", results.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::cuda::GpuFacts;

    fn gpu(name: &str) -> Compute {
        Compute {
            gpu: Some(GpuFacts {
                ordinal: 0,
                name: name.into(),
                compute_capability: (9, 0),
                driver_cuda: "13.0".into(),
                built_with_cuda: "13.0".into(),
                memory_bytes: 1 << 37,
                free_bytes: 1 << 37,
                multiprocessors: 132,
            }),
            ..Compute::default()
        }
    }

    #[test]
    fn what_is_no_measurement_is_said() {
        assert_eq!(rehearsal(false, &gpu("NVIDIA H200")), None);
        assert!(rehearsal(true, &gpu("NVIDIA H200")).is_some());
        assert!(rehearsal(false, &gpu("emulated GPU (medtune rehearsal)")).is_some());
        assert!(rehearsal(false, &Compute::default()).is_some());
    }

    #[test]
    fn stages_are_run_in_their_order_and_once() {
        use clap::Parser;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: GpuCheckArgs,
        }
        let asked = |line: &[&str]| {
            let line = std::iter::once(&"gpu-check").chain(line);
            Line::try_parse_from(line)
                .map(|line| asked(&line.args))
                .unwrap_or_default()
        };
        assert_eq!(asked(&[]), Stage::ALL);
        assert_eq!(
            asked(&["train", "ops", "train"]),
            [Stage::Ops, Stage::Train]
        );
        assert_eq!(asked(&["--add", "peers.json"]), []);
        assert_eq!(asked(&["--out", "x.json", "--append-to", "r.csv"]), []);
        assert_eq!(asked(&["ops", "--add", "peers.json"]), [Stage::Ops]);
    }
}
