//! Who may see credentialed text: PhysioNet's and n2c2's terms allow it to the person who signed them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use datasets::recipe::SourceSection;
use ledger::AccessClass;
use serde_json::{Value, json};

use crate::failure::Failure;

/// The record of who said that they may, in the run's folder.
pub const ACCESS_LOG: &str = "access-log.jsonl";

/// Lets a command print or export the text of these sources, or refuses it: credentialed text needs
/// `--i-have-credentials`, and that it was given is recorded in the run's folder.
pub fn require<'s>(
    run: &Path,
    given: bool,
    command: &str,
    sources: impl IntoIterator<Item = &'s SourceSection>,
) -> Result<()> {
    let terms = sources
        .into_iter()
        .map(|source| (source.access, source.name.as_str(), source.licence.as_str()));
    require_terms(run, given, command, terms)
}

/// As [`require`], of (access class, source, licence).
pub fn require_terms<'s>(
    run: &Path,
    given: bool,
    command: &str,
    terms: impl IntoIterator<Item = (AccessClass, &'s str, &'s str)>,
) -> Result<()> {
    let mut terms: Vec<(AccessClass, &str, &str)> = terms
        .into_iter()
        .filter(|(access, ..)| *access == AccessClass::Credentialed)
        .collect();
    terms.dedup();
    if terms.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = terms
        .iter()
        .map(|(_, source, licence)| format!("{source} ({licence})"))
        .collect();
    if !given {
        let message = format!(
            "`{command}` would show or export credentialed text: {}",
            named.join(", ")
        );
        let hint =
            "if you have signed these terms, say so with --i-have-credentials; the run records it";
        return Err(Failure::user(message).hint(hint).into());
    }
    record(run, command, &named)
}

fn record(run: &Path, command: &str, named: &[String]) -> Result<()> {
    let facts = json!({"i_have_credentials": true, "sources": named});
    append(run, command, facts)
}

/// Records that texts which are not open were sent to an endpoint, and under which agreement.
pub fn record_sent(run: &Path, endpoint: &Value, tasks: &[Value]) -> Result<()> {
    append(run, "eval", json!({"sent_to": endpoint, "tasks": tasks}))
}

fn append(run: &Path, command: &str, facts: Value) -> Result<()> {
    let path = run.join(ACCESS_LOG);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut line = json!({
        "unix_secs": now.map_or(0, |now| now.as_secs()),
        "command": command,
    });
    if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
        line.extend(facts);
    }
    let written = fs::create_dir_all(run).and_then(|()| {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{line}")
    });
    written.with_context(|| format!("cannot record the access in `{}`", path.display()))
}
