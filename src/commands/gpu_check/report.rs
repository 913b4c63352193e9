//! What the device, its driver and this machine are.

use std::process::Command;

use anyhow::Result;

use super::Check;
use super::record::{Figure, Outcome, StageRecord};
use crate::run::cpu_level;

const GIB: f64 = (1u64 << 30) as f64;

/// What `nvidia-smi` is asked, with what its answers are called here.
const ASKED: [(&str, &str, &str); 9] = [
    ("clocks.sm", "clock now", "MHz"),
    ("clocks.max.sm", "clock at most", "MHz"),
    ("clocks.mem", "memory's clock now", "MHz"),
    ("clocks.max.mem", "memory's clock at most", "MHz"),
    ("power.draw", "power now", "W"),
    ("power.limit", "power at most", "W"),
    ("temperature.gpu", "temperature", "C"),
    ("utilization.gpu", "used by others now", "%"),
    ("pcie.link.gen.current", "PCI Express generation", ""),
];

pub(super) fn report(check: &Check) -> Result<StageRecord> {
    let mut figures = Vec::new();
    if let Some(gpu) = &check.compute.gpu {
        figures.push(Figure::new("memory", gpu.memory_bytes as f64 / GIB, "GiB"));
        figures.push(Figure::new(
            "free memory",
            gpu.free_bytes as f64 / GIB,
            "GiB",
        ));
        figures.push(Figure::new(
            "multiprocessors",
            f64::from(gpu.multiprocessors),
            "",
        ));
        figures.extend(driver_says(gpu.ordinal));
    }
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    figures.push(Figure::new("processors", threads as f64, "").note(cpu_level()));
    if let Some(bytes) = finetune::available_bytes() {
        figures.push(Figure::new(
            "free memory of the machine",
            bytes as f64 / GIB,
            "GiB",
        ));
    }
    Ok(StageRecord {
        figures,
        ..StageRecord::new("report", Outcome::Measured)
    })
}

/// Clocks and power, by the program that comes with the driver; nothing where it is missing.
fn driver_says(ordinal: usize) -> Vec<Figure> {
    let query: Vec<&str> = ASKED.iter().map(|(query, ..)| *query).collect();
    let program = Command::new("nvidia-smi")
        .arg(format!("--query-gpu={},driver_version", query.join(",")))
        .arg("--format=csv,noheader,nounits")
        .output();
    match program {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            // CUDA_VISIBLE_DEVICES may count otherwise than nvidia-smi: with it set, nothing can be said.
            let counted = std::env::var_os("CUDA_VISIBLE_DEVICES").is_none();
            let lines: Vec<&str> = text.lines().collect();
            match (
                counted || lines.len() == 1,
                lines.get(ordinal).or(lines.first()),
            ) {
                (true, Some(line)) => read(line),
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// One line of its answers; what a device does not tell is left out.
fn read(line: &str) -> Vec<Figure> {
    let mut fields = line.split(',').map(str::trim);
    let mut figures = Vec::new();
    for (_, what, unit) in ASKED {
        if let Some(Ok(value)) = fields.next().map(str::parse) {
            figures.push(Figure::new(what, value, unit));
        }
    }
    // 580.65.06: what counts is before the second dot.
    if let Some(version) = fields.next() {
        let number = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        if let Ok(value) = number.parse() {
            figures.push(Figure::new("driver", value, "").note(version));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_is_read() {
        let figures = read("1980, 1980, 3201, 3201, 115.21, 700.00, 34, [N/A], 5, 580.65.06");
        let value = |what: &str| figures.iter().find(|f| f.what == what).map(|f| f.value);
        assert_eq!(value("clock now"), Some(1980.0));
        assert_eq!(value("power at most"), Some(700.0));
        assert_eq!(value("used by others now"), None);
        assert_eq!(value("PCI Express generation"), Some(5.0));
        assert_eq!(value("driver"), Some(580.65));
        assert!(read("").is_empty());
    }
}
