//! What was made from what, by which program, on which machine.

use std::fmt::Write;
use std::time::Duration;

use eval::report::html::{Section, escape, facts, table};
use ledger::FileHash;

use super::data::access_badge;
use super::folder::StageFiles;
use super::{RunFiles, settings};
use crate::terminal::{bytes, duration};

/// The longest value of a setting that is shown.
const VALUE: usize = 200;

/// Versions, machines, hashes and settings, stage by stage.
pub fn section(run: &RunFiles) -> Section {
    let (id, title) = ("provenance", "Provenance");
    if run.stages.is_empty() {
        return Section::empty(id, title, "No stage is finished.");
    }
    let mut body = String::new();
    for stage in &run.stages {
        let _ = write!(body, "<h3>{}</h3>{}", stage.folder, facts(figures(stage)));
        for (name, files) in [
            ("Inputs", &stage.manifest.inputs),
            ("Outputs", &stage.manifest.outputs),
        ] {
            let _ = write!(
                body,
                "<details><summary>{name}<span class=\"note\">{} files</span></summary>{}</details>",
                files.len(),
                hashes(files)
            );
        }
    }
    let rows: Vec<Vec<String>> = settings::of(run)
        .iter()
        .map(|(key, value)| {
            let value = escape(&settings::shortened(value, VALUE));
            vec![
                format!("<code>{}</code>", escape(key)),
                format!("<code>{value}</code>"),
            ]
        })
        .collect();
    let number = rows.len();
    let _ = write!(
        body,
        "<h3>Settings</h3><details><summary>All settings<span class=\"note\">{number}</span></summary>{}</details>",
        table(&["setting", "value"], &rows)
    );
    Section { id, title, body }
}

fn figures(stage: &StageFiles) -> Vec<(&'static str, String)> {
    let manifest = &stage.manifest;
    let word = |pointer: &str| stage.measured.pointer(pointer)?.as_str().map(escape);
    let program = word("/program").unwrap_or_else(|| escape(&manifest.program_version));
    let mut rows = vec![
        ("made by medtune", program),
        ("terms", access_badge(manifest.access)),
    ];
    let finished = stage.measured["finished_unix_secs"].as_u64();
    rows.extend(finished.map(|secs| ("finished", utc(secs))));
    let secs = stage
        .measured("/secs")
        .filter(|secs| (0.0..1e12).contains(secs));
    rows.extend(secs.map(|secs| ("time", duration(Duration::from_secs_f64(secs)))));
    let peak = stage.measured("/peak_memory_bytes");
    rows.extend(peak.map(|peak| ("peak memory of the process", bytes(peak as u64))));
    let machine: Vec<String> = ["/machine/cpu", "/machine/arch", "/machine/os"]
        .into_iter()
        .filter_map(word)
        .collect();
    if !machine.is_empty() {
        let threads = stage.measured("/machine/threads");
        let threads = threads.map_or(String::new(), |threads| format!(", {threads} threads"));
        rows.push(("machine", format!("{}{threads}", machine.join(", "))));
    }
    rows
}

fn hashes(files: &[FileHash]) -> String {
    let rows: Vec<Vec<String>> = files
        .iter()
        .map(|file| {
            let size = if file.bytes == 0 {
                String::new()
            } else {
                bytes(file.bytes)
            };
            let hash = format!("<span class=\"hash\">{}</span>", escape(&file.sha256));
            vec![escape(&file.path), size, hash]
        })
        .collect();
    table(&["file", "#size", "SHA-256"], &rows)
}

/// `2026-11-23 06:08 UTC`
pub(crate) fn utc(unix_secs: u64) -> String {
    let (days, secs) = (unix_secs / 86_400, unix_secs % 86_400);
    // Days to a date of the Gregorian calendar (Howard Hinnant, civil_from_days), for days after 1970.
    let z = days.saturating_add(719_468);
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02} UTC",
        secs / 3600,
        secs % 3600 / 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        // date -u -d @N
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_868_800), "2000-03-01 00:00 UTC");
        assert_eq!(utc(1_709_164_800), "2024-02-29 00:00 UTC");
        assert_eq!(utc(1_795_414_090), "2026-11-23 06:08 UTC");
        let _ = utc(u64::MAX);
    }
}
