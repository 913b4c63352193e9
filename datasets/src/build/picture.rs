//! `composition.svg`: the mix by source and by kind of task, as two bars a row.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::BuildReport;

const WIDTH: f64 = 900.0;
const LABELS: f64 = 250.0;
const NUMBERS: f64 = 150.0;
const ROW: f64 = 24.0;
/// Distinct for people with colour-blindness: Okabe and Ito's, then four of Tol's.
const COLOURS: [&str; 12] = [
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999",
    "#882255", "#44AA99", "#332288", "#DDCC77",
];

pub(super) fn picture(report: &BuildReport) -> String {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for source in &report.sources {
        *kinds.entry(&source.kind).or_insert(0) += source.samples();
    }
    let colour = |kind: &str| {
        let number = kinds.keys().position(|name| *name == kind).unwrap_or(0);
        COLOURS[number % COLOURS.len()]
    };
    let total = report.total.train + report.total.validation;
    let sources: Vec<(&str, u64, &str)> = report
        .sources
        .iter()
        .map(|source| (source.name.as_str(), source.samples(), colour(&source.kind)))
        .collect();
    let mut by_kind: Vec<(&str, u64, &str)> = kinds
        .iter()
        .map(|(kind, n)| (*kind, *n, colour(kind)))
        .collect();
    by_kind.sort_by_key(|&(kind, n, _)| (std::cmp::Reverse(n), kind));

    let height = ROW * (sources.len() + by_kind.len()) as f64 + 130.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"Samples by source and by kind of task\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let _ = writeln!(
        svg,
        "<text x=\"20\" y=\"32\" font-size=\"18\">{total} samples</text>"
    );
    let next = section(&mut svg, 60.0, "By source", &sources, total);
    section(&mut svg, next + 20.0, "By kind of task", &by_kind, total);
    svg.push_str("</svg>\n");
    svg
}

/// Draws a heading and a bar a row; returns where it ends.
fn section(svg: &mut String, top: f64, title: &str, rows: &[(&str, u64, &str)], total: u64) -> f64 {
    let _ = writeln!(
        svg,
        "<text x=\"20\" y=\"{top}\" font-weight=\"600\">{title}</text>"
    );
    let largest = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1) as f64;
    let room = WIDTH - LABELS - NUMBERS;
    for (i, &(name, samples, colour)) in rows.iter().enumerate() {
        let y = top + 10.0 + ROW * i as f64;
        let length = room * samples as f64 / largest;
        let share = 100.0 * samples as f64 / total.max(1) as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#555\">{samples} ({share:.1} %)</text>",
            LABELS - 10.0,
            y + 16.0,
            escaped(&shortened(name)),
            y + 3.0,
            ROW - 6.0,
            LABELS + length + 8.0,
            y + 16.0,
        );
    }
    top + 10.0 + ROW * rows.len() as f64
}

/// A name that fits its place.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(34) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
