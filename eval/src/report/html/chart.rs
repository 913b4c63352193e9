//! Charts that keep their text at its size at every width: lines and bars stretch in an SVG, the
//! labels beside them are the page's own text.

use std::fmt::Write;

use super::{count, escape};

/// How many colours there are; further series use them again with another dash.
const COLOURS: usize = 6;

/// A line chart.
#[derive(Debug, Clone)]
pub struct LineChart<'a> {
    /// What is shown.
    pub title: &'a str,
    /// The unit of the values; empty where they have none.
    pub unit: &'a str,
    /// What stands along the x axis.
    pub x: &'a str,
    /// The lines.
    pub series: Vec<Series>,
    /// Whether the y axis begins at zero.
    pub from_zero: bool,
    /// Whether the chart is as wide as the page.
    pub full: bool,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is; lines without a name are not in the legend.
    pub name: String,
    /// Where it runs; points whose value is not finite leave a gap.
    pub points: Vec<(f64, f64)>,
    /// Its number in the palette.
    pub colour: usize,
    /// How it is drawn.
    pub mark: Mark,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A line.
    Line,
    /// A thin, pale line: single measurements behind their mean.
    Faint,
    /// Dots, joined by a line.
    Dots,
}

impl LineChart<'_> {
    /// The chart as a figure; nothing where no point is finite.
    pub fn html(&self) -> Option<String> {
        let points = || {
            let all = self.series.iter().flat_map(|series| &series.points);
            all.filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let (first_x, first_y) = *points().next()?;
        let mut xs = (first_x, first_x);
        let mut ys = (first_y, first_y);
        for (x, y) in points() {
            xs = (xs.0.min(*x), xs.1.max(*x));
            ys = (ys.0.min(*y), ys.1.max(*y));
        }
        if self.from_zero {
            ys = (ys.0.min(0.0), ys.1.max(0.0));
        }
        let y = Axis::around(ys.0, ys.1);
        let x = Axis::between(xs.0, xs.1);
        let unit = match self.unit {
            "" => String::new(),
            unit => format!("<span class=\"unit\">{}</span>", escape(unit)),
        };
        let full = if self.full { " class=\"full\"" } else { "" };
        let mut html = format!(
            "<figure{full}><figcaption>{}{unit}</figcaption>{}<div class=\"plotbox\"><div class=\"ys\">",
            escape(self.title),
            self.legend()
        );
        let widest = y.ticks.iter().map(|tick| y.label(*tick));
        let widest = widest
            .max_by_key(|label| label.chars().count())
            .unwrap_or_default();
        // An invisible label holds the column open.
        let _ = write!(html, "<i style=\"height:1px\">{widest}</i>");
        for tick in &y.ticks {
            let _ = write!(
                html,
                "<span style=\"top:{:.2}%\">{}</span>",
                100.0 - 100.0 * y.at(*tick),
                y.label(*tick)
            );
        }
        let _ = write!(
            html,
            "</div><div class=\"area\"><svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
            escape(&self.description(&y))
        );
        for tick in &y.ticks {
            let _ = write!(
                html,
                "<path class=\"gridline\" d=\"M0 {:.1}H1000\"/>",
                1000.0 - 1000.0 * y.at(*tick)
            );
        }
        html.push_str("<path class=\"axis\" d=\"M0 1000H1000\"/>");
        for series in &self.series {
            series.draw(&x, &y, &mut html);
        }
        html.push_str("</svg></div><div class=\"xs\">");
        for tick in &x.ticks {
            let _ = write!(
                html,
                "<span style=\"left:{:.2}%\">{}</span>",
                100.0 * x.at(*tick),
                x.label(*tick)
            );
        }
        let _ = write!(
            html,
            "</div></div><div class=\"xlabel\">{}</div></figure>",
            escape(self.x)
        );
        Some(html)
    }

    fn legend(&self) -> String {
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if named.len() < 2 {
            return String::new();
        }
        let mut html = "<ul class=\"legend\">".to_owned();
        for series in named {
            let _ = write!(
                html,
                "<li><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><path class=\"{}\" d=\"M0 5H22\"/>{}</svg>{}</li>",
                series.classes(),
                if series.mark == Mark::Dots {
                    format!(
                        "<path class=\"dot {}\" d=\"M11 5h.01\"/>",
                        colour(series.colour)
                    )
                } else {
                    String::new()
                },
                escape(&series.name)
            );
        }
        html.push_str("</ul>");
        html
    }

    /// For who can't see it: from where to where each line runs.
    fn description(&self, y: &Axis) -> String {
        let mut words = format!("{} by {}.", self.title, self.x);
        for series in &self.series {
            let mut finite = series.points.iter().filter(|point| point.1.is_finite());
            let (first, last) = (
                finite.next(),
                series.points.iter().rfind(|p| p.1.is_finite()),
            );
            if let (Some(first), Some(last), false) = (first, last, series.mark == Mark::Faint) {
                let name = if series.name.is_empty() {
                    "It"
                } else {
                    &series.name
                };
                let _ = write!(
                    words,
                    " {name} goes from {} to {}.",
                    y.label(first.1),
                    y.label(last.1)
                );
            }
        }
        words
    }
}

impl Series {
    fn classes(&self) -> String {
        let mark = if self.mark == Mark::Faint {
            "faint"
        } else {
            "line"
        };
        let dash = match self.colour / COLOURS {
            0 => String::new(),
            n => format!(" dash{}", (n - 1) % 3 + 1),
        };
        format!("{mark} {}{dash}", colour(self.colour))
    }

    fn draw(&self, x: &Axis, y: &Axis, html: &mut String) {
        let (mut line, mut dots, mut pen_down) = (String::new(), String::new(), false);
        for (at, value) in &self.points {
            if !(at.is_finite() && value.is_finite()) {
                pen_down = false;
                continue;
            }
            let (left, top) = (1000.0 * x.at(*at), 1000.0 - 1000.0 * y.at(*value));
            let _ = write!(
                line,
                "{}{left:.1} {top:.1}",
                if pen_down { 'L' } else { 'M' }
            );
            let _ = write!(dots, "M{left:.1} {top:.1}h.01");
            pen_down = true;
        }
        let _ = write!(html, "<path class=\"{}\" d=\"{line}\"/>", self.classes());
        if self.mark == Mark::Dots {
            let _ = write!(
                html,
                "<path class=\"dot {}\" d=\"{dots}\"/>",
                colour(self.colour)
            );
        }
    }
}

/// The class of a colour of the palette.
pub fn colour(number: usize) -> String {
    format!("s{}", number % COLOURS)
}

/// One axis: its ends and its ticks.
#[derive(Debug, Clone, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// Ends at ticks that hold the values between them.
    fn around(low: f64, high: f64) -> Axis {
        let (low, high) = spread(low, high);
        let step = step(low, high);
        // What is at a tick but for rounding needs no further one.
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let ticks = multiples(first, last, step);
        let (low, high) = (first * step, last * step);
        Axis {
            low,
            high,
            step,
            ticks,
        }
    }

    /// Ends at the values themselves.
    fn between(low: f64, high: f64) -> Axis {
        let (low, high) = spread(low, high);
        let step = step(low, high);
        let ticks = multiples(
            (low / step - 1e-9).ceil(),
            (high / step + 1e-9).floor(),
            step,
        );
        Axis {
            low,
            high,
            step,
            ticks,
        }
    }

    /// Where a value stands, between 0 and 1.
    fn at(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn label(&self, value: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if value == 0.0 {
            return "0".to_owned();
        }
        if !(1e-3..1e9).contains(&largest) {
            let text = format!("{value:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let digits = digits.trim_end_matches('0').trim_end_matches('.');
            return format!("{digits}e{exponent}");
        }
        let decimals = (-exponent_of(self.step)).max(0) as usize;
        // A value between ticks is told more exactly than they are.
        let extra = usize::from((value / self.step).fract().abs() > 1e-6) * 2;
        match decimals + extra {
            0 if value >= 0.0 => count(value as u64),
            decimals => format!("{value:.decimals$}"),
        }
    }
}

fn multiples(first: f64, last: f64, step: f64) -> Vec<f64> {
    // At most a dozen, whatever the ends are.
    let number = (last - first).clamp(0.0, 12.0) as usize;
    (0..=number).map(|i| (first + i as f64) * step).collect()
}

/// Room around values that are all the same.
fn spread(low: f64, high: f64) -> (f64, f64) {
    let room = (high.abs() * 1e-9).max(f64::MIN_POSITIVE);
    match high - low > room {
        true => (low, high),
        false if high == 0.0 => (0.0, 1.0),
        false => (low - low.abs() * 0.1, high + high.abs() * 0.1),
    }
}

/// 1, 2 or 5 times a power of ten, so that there are five ticks or six.
fn step(low: f64, high: f64) -> f64 {
    let rough = (high - low) / 6.0;
    let power = power_of_ten(exponent_of(rough));
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough)
}

/// The decimal exponent, exactly as the number is written.
fn exponent_of(value: f64) -> i32 {
    let text = format!("{value:e}");
    text.split_once('e')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or(0)
}

fn power_of_ten(exponent: i32) -> f64 {
    format!("1e{exponent}").parse().unwrap_or(1.0)
}

/// Horizontal bars: (name, share of the full width, value in words, whether in the other colour).
pub fn bars(rows: &[(String, f64, String, bool)]) -> String {
    let mut html = "<div class=\"bars\">".to_owned();
    for (name, share, value, other) in rows {
        let share = 100.0
            * if share.is_finite() {
                share.clamp(0.0, 1.0)
            } else {
                0.0
            };
        let class = if *other { "bar alt" } else { "bar" };
        let _ = write!(
            html,
            "<div><span>{}</span><div class=\"{class}\"><i style=\"width:{share:.2}%\"></i></div><em>{}</em></div>",
            escape(name),
            escape(value)
        );
    }
    html.push_str("</div>");
    html
}

/// Values between 0 and 1 with their intervals, one below the other, on one line of a table: hollow
/// for the first, filled for the others.
pub fn ranges(values: &[(f64, Option<[f64; 2]>, usize)], description: &str) -> String {
    let at = |value: f64| 1000.0 * value.clamp(0.0, 1.0);
    let mut html = format!(
        "<svg class=\"range\" viewBox=\"0 0 1000 24\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        escape(description)
    );
    for tick in [0, 250, 500, 750, 1000] {
        let _ = write!(html, "<path class=\"gridline\" d=\"M{tick} 0V24\"/>");
    }
    let room = 24.0 / (values.len() as f64 + 1.0);
    for (index, (value, interval, number)) in values.iter().enumerate() {
        if !value.is_finite() {
            continue;
        }
        let (top, colour) = (room * (index + 1) as f64, colour(*number));
        if let Some([low, high]) = interval {
            let _ = write!(
                html,
                "<path class=\"whisker {colour}\" d=\"M{:.1} {top:.1}H{:.1}\"/>",
                at(*low),
                at(*high)
            );
        }
        let _ = write!(
            html,
            "<path class=\"dot {colour}\" d=\"M{:.1} {top:.1}h.01\"/>",
            at(*value)
        );
        if index == 0 && values.len() > 1 {
            let _ = write!(
                html,
                "<path class=\"hole\" d=\"M{:.1} {top:.1}h.01\"/>",
                at(*value)
            );
        }
    }
    html.push_str("</svg>");
    html
}

/// The scale of [`ranges`].
pub fn range_scale() -> &'static str {
    "<div class=\"scale\" aria-hidden=\"true\"><span style=\"left:0\">0</span><span style=\"left:25%\">.25</span><span style=\"left:50%\">.5</span><span style=\"left:75%\">.75</span><span style=\"left:100%\">1</span></div>"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        let axis = Axis::around(0.31, 5.07);
        assert_eq!(labels(&axis), ["0", "1", "2", "3", "4", "5", "6"]);
        assert_eq!((axis.low, axis.high), (0.0, 6.0));
        assert_eq!(
            labels(&Axis::around(0.0, 0.003)),
            [
                "0", "0.0005", "0.0010", "0.0015", "0.0020", "0.0025", "0.0030"
            ]
        );
        assert_eq!(
            labels(&Axis::around(0.0, 2e-5)),
            ["0", "5e-6", "1e-5", "1.5e-5", "2e-5"]
        );
        assert_eq!(
            labels(&Axis::between(1.0, 12_345.0)),
            ["5\u{202f}000", "10\u{202f}000"]
        );
        assert_eq!(
            labels(&Axis::around(-0.3, 0.2)),
            ["-0.3", "-0.2", "-0.1", "0", "0.1", "0.2"]
        );
    }

    #[test]
    fn odd_values_have_an_axis_too() {
        for (low, high) in [
            (0.0, 0.0),
            (7.0, 7.0),
            (-2.0, -2.0),
            (1e300, 1e308),
            (1e-300, 3e-300),
        ] {
            for axis in [Axis::around(low, high), Axis::between(low, high)] {
                assert!(axis.ticks.len() <= 13 && axis.high > axis.low, "{axis:?}");
                assert!(
                    axis.at(low) >= -1e-9 && axis.at(high) <= 1.0 + 1e-9,
                    "{axis:?}"
                );
            }
        }
    }

    fn chart(points: Vec<(f64, f64)>) -> Option<String> {
        let series = Series {
            name: "a <b>".into(),
            points,
            colour: 7,
            mark: Mark::Dots,
        };
        let chart = LineChart {
            title: "Loss",
            unit: "nats",
            x: "step",
            series: vec![series.clone(), series],
            from_zero: false,
            full: false,
        };
        chart.html()
    }

    #[test]
    fn a_gap_is_no_line() {
        let html = chart(vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (5.0, 1.5)]).unwrap();
        assert!(
            html.contains("d=\"M0.0 0.0M500.0 1000.0L1000.0 500.0\""),
            "{html}"
        );
        assert!(html.contains("line s1 dash1") && html.contains("a &lt;b&gt;"));
        assert_eq!(chart(vec![(1.0, f64::INFINITY)]), None);
    }

    #[test]
    fn bars_and_ranges_stay_in_their_box() {
        let html = bars(&[
            ("x".into(), 7.5, "<b>".into(), false),
            ("y".into(), f64::NAN, String::new(), true),
        ]);
        assert!(
            html.contains("width:100.00%")
                && html.contains("width:0.00%")
                && html.contains("&lt;b&gt;")
        );
        let html = ranges(&[(1.5, Some([-2.0, 3.0]), 0), (f64::NAN, None, 1)], "\"");
        assert!(html.contains("H1000.0") && html.contains("&quot;") && !html.contains("NaN"));
    }
}
