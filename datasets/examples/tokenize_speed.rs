//! How fast conversations become tokens.
//!
//! ```text
//! tokenize_speed ROWS.jsonl MODEL [N]
//! ```
//!
//! Reads the first N rows (`instruction`, `input`, `output`) of a JSONL file,
//! writes them by the model's chat template and prints one line of JSON: rows,
//! tokens, seconds, CPU seconds (of all threads), rows and tokens a CPU-second,
//! and the peak of the resident memory. Reading is in the time.
//! `RAYON_NUM_THREADS` sets the threads.

use std::io::BufRead;
use std::time::Instant;

use datasets::recipe::TemplateKind;
use datasets::{
    Conversation, Message, OnTooLong, Provenance, Role, SampleWriter, Template, Tokenizer, Written,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(rows), Some(model)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tokenize_speed ROWS.jsonl MODEL [N]".into());
    };
    let most: usize = arguments.next().map_or(Ok(usize::MAX), |n| n.parse())?;
    let tokenizer = Tokenizer::from_folder(model.as_ref())?;
    let template = Template::new(TemplateKind::Chat, &tokenizer)?;
    let lines = std::io::BufReader::new(std::fs::File::open(&rows)?).lines();

    let (start, cpu) = (Instant::now(), cpu_secs()?);
    let mut writer = SampleWriter::new(&tokenizer, &template, 1024, OnTooLong::TruncatePrompt);
    let (mut samples, mut tokens, mut targets) = (0, 0, 0);
    // Of all ids, in order: two runs, or two versions, are compared by it.
    let mut sum = 0u64;
    let conversations = lines.take(most).enumerate();
    let conversations = conversations.map(|(i, line)| Ok(conversation(i, &line.expect("a line"))));
    writer.write_all(conversations, |_, written| {
        if let Written::Whole(sample) | Written::Truncated(sample, _) = written {
            samples += 1;
            tokens += sample.len();
            targets += sample.target_tokens();
            for &id in &sample.input_ids {
                sum = (sum ^ u64::from(id)).wrapping_mul(0x0000_0100_0000_01B3);
            }
        }
        Ok(())
    })?;
    let (wall_secs, cpu_secs) = (start.elapsed().as_secs_f64(), cpu_secs()? - cpu);
    let figures = json!({
        "rows": samples, "tokens": tokens, "target_tokens": targets, "sum": format!("{sum:016x}"),
        "wall_secs": wall_secs, "cpu_secs": cpu_secs,
        "rows_per_cpu_sec": (f64::from(samples) / cpu_secs).round(),
        "tokens_per_cpu_sec": (tokens as f64 / cpu_secs).round(),
        "peak_rss_mib": peak_rss_mib()?,
    });
    println!("{figures}");
    Ok(())
}

fn conversation(number: usize, line: &str) -> Conversation {
    let row: Value = serde_json::from_str(line).expect("a row is JSON");
    let field = |name: &str| row[name].as_str().unwrap_or_default();
    let question = match field("input") {
        "" => field("instruction").to_string(),
        input => format!("{}\n{input}", field("instruction")),
    };
    Conversation {
        id: number.to_string(),
        messages: vec![
            Message::new(Role::User, question),
            Message::new(Role::Assistant, field("output")),
        ],
        provenance: Provenance {
            source: "rows".into(),
            file: "rows.jsonl".into(),
            record: number as u64 + 1,
            licence: "none".into(),
            access: ledger::AccessClass::Open,
            transforms: Vec::new(),
        },
    }
}

/// CPU time of this process so far (Linux: `proc_pid_stat(5)`, in ticks of 10 ms).
fn cpu_secs() -> std::io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name may have spaces; the fields are counted from behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    Ok(ticks.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

fn peak_rss_mib() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.unwrap_or(0) / 1024)
}
