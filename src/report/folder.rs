//! Reading a run's folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use eval::ReportFile;
use finetune::StepReport;
use ledger::{MEASURED_FILE, Manifest};
use serde_json::Value;

use crate::failure::Failure;

/// What was kept of a run.
pub struct RunFiles {
    /// What it is called: its folder's name.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// The stages that were run, in their order.
    pub stages: Vec<StageFiles>,
    /// The steps of its training, as far as it has come.
    pub steps: Vec<StepReport>,
    /// Its evaluation.
    pub report: Option<ReportFile>,
}

/// What was kept of a stage.
pub struct StageFiles {
    /// Its folder's name.
    pub folder: &'static str,
    /// What it read and made.
    pub manifest: Manifest,
    /// What was measured: an empty object where that is not there.
    pub measured: Value,
}

/// The folders of stages; a training makes an adapter or a whole model.
const FOLDERS: [&str; 5] = ["data", "adapter", "model", "merged", "eval"];

impl RunFiles {
    /// Reads what the stages have left in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut stages = Vec::new();
        for name in FOLDERS {
            let path = folder.join(name);
            let Some(manifest) = Manifest::read(&path)? else {
                continue;
            };
            // Times and memory are told where they are known; a run is none the less one without them.
            let measured = fs::read(path.join(MEASURED_FILE)).ok();
            let measured = measured.and_then(|text| serde_json::from_slice(&text).ok());
            stages.push(StageFiles {
                folder: name,
                manifest,
                measured: measured.unwrap_or_default(),
            });
        }
        let steps = read_steps(&folder.join("train/steps.jsonl"))?;
        if stages.is_empty() && steps.is_empty() {
            let failure =
                Failure::user(format!("`{}` is not the folder of a run", folder.display()));
            let hint = "name a folder that `medtune run` has made, such as runs/quickstart";
            return Err(failure.hint(hint).into());
        }
        let evaluated = stages.iter().any(|stage| stage.folder == "eval");
        let report = match evaluated {
            true => Some(ReportFile::read(&folder.join("eval/report.json"))?),
            false => None,
        };
        Ok(Self {
            name: name_of(folder),
            path: folder.to_owned(),
            stages,
            steps,
            report,
        })
    }

    /// What a stage has left, by its folder's name.
    pub fn stage(&self, folder: &str) -> Option<&StageFiles> {
        self.stages.iter().find(|stage| stage.folder == folder)
    }

    /// What training has left.
    pub fn trained(&self) -> Option<&StageFiles> {
        self.stage("adapter").or_else(|| self.stage("model"))
    }

    /// The recipe's name: that of its file.
    pub fn recipe(&self) -> Option<String> {
        let recipe = self.stage("data")?.measured["facts"]["recipe"].as_str()?;
        Some(
            Path::new(recipe)
                .file_name()?
                .to_string_lossy()
                .into_owned(),
        )
    }
}

impl StageFiles {
    /// A number of the manifest's details, at a JSON pointer.
    pub fn detail(&self, pointer: &str) -> Option<f64> {
        self.manifest.details.pointer(pointer)?.as_f64()
    }

    /// A whole number of the manifest's details, at a JSON pointer.
    pub fn detail_count(&self, pointer: &str) -> Option<u64> {
        self.manifest.details.pointer(pointer)?.as_u64()
    }

    /// A number that was measured, at a JSON pointer.
    pub fn measured(&self, pointer: &str) -> Option<f64> {
        self.measured.pointer(pointer)?.as_f64()
    }
}

fn name_of(folder: &Path) -> String {
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The steps, in their order, each once. The last line of a training that goes on may be half written; any line that
/// is no step is passed over, as the training itself does when it goes on.
fn read_steps(path: &Path) -> Result<Vec<StepReport>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read `{}`", path.display()));
        }
    };
    let mut steps: Vec<StepReport> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(step) = serde_json::from_slice::<StepReport>(line) else {
            continue;
        };
        if steps.last().is_none_or(|last| step.step > last.step) {
            steps.push(step);
        }
    }
    Ok(steps)
}
