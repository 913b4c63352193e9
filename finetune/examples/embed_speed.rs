//! How fast an encoder embeds texts for BERTScore.
//!
//! ```text
//! embed_speed ENCODER TEXTS.txt
//! ```
//!
//! A text a line, given 32 at a time as BERTScore does. Prints one line of JSON: texts, tokens, seconds (without
//! loading), the peak of the resident memory, and the sum of all vectors to compare with another program's.
//! `RAYON_NUM_THREADS` sets the threads.

use std::path::Path;
use std::time::Instant;

use eval::Embedder;
use finetune::bert::BertEncoder;
use serde_json::json;

/// Texts that are given together.
const BATCH: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, texts] = &arguments[..] else {
        return Err("usage: embed_speed ENCODER TEXTS.txt".into());
    };
    let mut encoder = BertEncoder::open(Path::new(encoder), "encoder", None)?;
    let texts = std::fs::read_to_string(texts)?;
    let texts: Vec<&str> = texts.lines().collect();
    let started = Instant::now();
    let (mut tokens, mut sum) = (0, 0.0);
    for batch in texts.chunks(BATCH) {
        for text in encoder.embed(batch)? {
            tokens += text.ids.len();
            sum += text.vectors.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
    }
    let result = json!({
        "texts": texts.len(),
        "tokens": tokens,
        "seconds": started.elapsed().as_secs_f64(),
        "peak_memory_bytes": finetune::peak_memory_bytes(),
        "sum": sum,
    });
    println!("{result}");
    Ok(())
}
