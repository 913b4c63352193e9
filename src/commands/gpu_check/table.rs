//! A record as people read it.

use super::record::{Outcome, Record, StageRecord};

impl Record {
    /// For a terminal, or as Markdown.
    pub fn shown(&self, markdown: bool) -> String {
        let device = &self.device;
        let mut text = match markdown {
            true => format!("# {}\n\n", device.name),
            false => format!("{}\n", device.name),
        };
        if !device.compute_capability.is_empty() {
            text.push_str(&format!(
                "compute capability {}, {} multiprocessors, {:.1} GiB, a driver for CUDA {}; medtune {} for CUDA {}\n",
                device.compute_capability,
                device.multiprocessors,
                device.memory_bytes as f64 / (1u64 << 30) as f64,
                device.driver_cuda,
                self.medtune,
                device.built_with_cuda,
            ));
        }
        if let Some(why) = &self.rehearsal {
            text.push_str(&format!("\nA REHEARSAL, not a measurement: {why}\n"));
        }
        for stage in &self.stages {
            text.push_str(&shown_stage(stage, markdown));
        }
        text
    }
}

fn shown_stage(stage: &StageRecord, markdown: bool) -> String {
    let outcome = match stage.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Measured => "measured",
        Outcome::Skipped => "SKIPPED",
    };
    let seed = stage
        .seed
        .map_or(String::new(), |seed| format!(", seed {seed}"));
    let heading = format!(
        "{}: {outcome} ({:.0} s, {}{seed})",
        stage.stage, stage.secs, stage.date
    );
    let mut text = match markdown {
        true => format!("\n## {heading}\n"),
        false => format!("\n{heading}\n"),
    };
    let why = Some(&stage.why).into_iter().filter(|why| !why.is_empty());
    let lines: Vec<&String> = why.chain(&stage.failures).collect();
    if markdown && !lines.is_empty() {
        text.push('\n');
    }
    for line in lines {
        text.push_str(if markdown { "- " } else { "  " });
        text.push_str(&line.replace('\n', "\n  "));
        text.push('\n');
    }
    if stage.figures.is_empty() {
        return text;
    }
    let rows: Vec<Vec<String>> = stage
        .figures
        .iter()
        .map(|f| {
            vec![
                f.what.clone(),
                number(f.value),
                f.unit.clone(),
                f.note.clone(),
            ]
        })
        .collect();
    if markdown {
        text.push_str("\n| what | value | unit | |\n|---|---:|---|---|\n");
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        return text;
    }
    text.push_str(&aligned(&rows));
    text
}

/// Columns in line: the value to the right, the rest to the left.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let (what, value, unit) = (width(0), width(1), width(2));
    let mut text = String::new();
    for row in rows {
        let [w, v, u, n] = [&row[0], &row[1], &row[2], &row[3]];
        let line = format!("  {w:<what$}  {v:>value$} {u:<unit$}  {n}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Four digits that count, as people write them.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !v.is_finite() => format!("{value}"),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn tables() {
        let mut record = record();
        record.stages.drain(..2);
        record.put(StageRecord::proof(
            "ops",
            vec![],
            vec!["rms_norm F32: y is off".into()],
        ));
        record.put(StageRecord::new("peers", Outcome::Skipped).because("no torch with CUDA here"));
        insta::assert_snapshot!(record.shown(false), @"
        NVIDIA H200
        compute capability 9.0, 132 multiprocessors, 139.8 GiB, a driver for CUDA 13.0; medtune 0.1.0 (abcdef1) for CUDA 13.0

        train: passed (12 s, 2026-11-23 06:08 UTC, seed 7)
          rms_norm  0.250 of what is allowed

        ceilings: measured (3 s, 2026-11-24 06:08 UTC)
          copy                 4012 GB/s     4 GiB, read and written
          bf16 product, 8192  781.2 TFLOP/s

        ops: FAILED (0 s, )
          rms_norm F32: y is off

        peers: SKIPPED (0 s, )
          no torch with CUDA here
        ");
        record.rehearsal = Some("tiny sizes".into());
        insta::assert_snapshot!(record.shown(true), @"
        # NVIDIA H200

        compute capability 9.0, 132 multiprocessors, 139.8 GiB, a driver for CUDA 13.0; medtune 0.1.0 (abcdef1) for CUDA 13.0

        A REHEARSAL, not a measurement: tiny sizes

        ## train: passed (12 s, 2026-11-23 06:08 UTC, seed 7)

        | what | value | unit | |
        |---|---:|---|---|
        | rms_norm | 0.250 | of what is allowed |  |

        ## ceilings: measured (3 s, 2026-11-24 06:08 UTC)

        | what | value | unit | |
        |---|---:|---|---|
        | copy | 4012 | GB/s | 4 GiB, read and written |
        | bf16 product, 8192 | 781.2 | TFLOP/s |  |

        ## ops: FAILED (0 s, )

        - rms_norm F32: y is off

        ## peers: SKIPPED (0 s, )

        - no torch with CUDA here
        ");
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let all = [
            0.0,
            4012.34,
            781.23,
            12.345,
            0.25,
            0.00123,
            -5.5,
            f64::INFINITY,
        ]
        .map(number);
        assert_eq!(all.join(" "), "0 4012 781.2 12.35 0.250 1.23e-3 -5.500 inf");
    }
}
