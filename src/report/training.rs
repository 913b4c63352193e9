//! How training went: curves of loss, learning rate and gradient.

use std::collections::BTreeMap;

use eval::report::html::chart::{LineChart, Mark, Series};
use eval::report::html::{Section, count, escape, facts};
use finetune::StepReport;

use super::RunFiles;
use super::folder::StageFiles;
use crate::terminal::duration;

/// More points than this are drawn as means of as many neighbours as it takes.
const POINTS: usize = 500;

/// The curves, with what came of them.
pub fn section(run: &RunFiles) -> Section {
    let (id, title) = ("training", "Training");
    if run.steps.is_empty() {
        return Section::empty(id, title, "Not run.");
    }
    let mut body = String::new();
    if run.trained().is_none() {
        body.push_str("<p>Not finished: this is how far it has come.</p>");
    }
    body.push_str(&facts(figures(run)));
    body.push_str("<div class=\"charts\">");
    let charts = [
        loss_chart(&run.steps),
        plain_chart(&run.steps, "Learning rate", "", true, |step| {
            step.learning_rate
        }),
        plain_chart(
            &run.steps,
            "Gradient norm",
            "before clipping",
            true,
            |step| step.grad_norm,
        ),
    ];
    for chart in charts {
        body.extend(chart.html());
    }
    for (metric, series) in task_series(&run.steps) {
        let unit = match series.as_slice() {
            [one] => format!("of {} during training", one.name),
            _ => "of the tasks asked during training".to_owned(),
        };
        let chart = LineChart {
            title: &metric,
            unit: &unit,
            x: "optimizer step",
            series,
            from_zero: false,
            full: false,
        };
        body.extend(chart.html());
    }
    body.push_str("</div>");
    Section { id, title, body }
}

fn figures(run: &RunFiles) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let last = run.steps.last();
    rows.push(("steps", count(last.map_or(0, |step| step.step))));
    rows.push((
        "passes over the data",
        last.map_or(String::new(), |step| format!("{:.2}", step.epoch)),
    ));
    let skipped = run
        .steps
        .iter()
        .filter(|step| !step.skipped_samples.is_empty());
    let skipped = skipped.count();
    if skipped > 0 {
        rows.push((
            "steps left out",
            format!("<span class=\"bad\">{skipped}</span>, not finite"),
        ));
    }
    let tokens: usize = run.steps.iter().map(|step| step.tokens).sum();
    rows.push(("tokens read", count(tokens as u64)));
    let targets: usize = run.steps.iter().map(|step| step.target_tokens).sum();
    rows.push(("of which teach", count(targets as u64)));
    if let Some(trained) = run.trained() {
        if let Some(parameters) = trained.detail_count("/trained_parameters") {
            rows.push(("trained parameters", count(parameters)));
        }
        if let Some(loss) = trained.detail("/loss") {
            rows.push(("last loss", format!("{loss:.4}")));
        }
        if let Some(loss) = trained.detail("/eval_loss") {
            let before = trained.measured("/facts/eval_loss_before");
            let before = before.map_or(String::new(), |before| format!(" (before: {before:.4})"));
            rows.push(("held-out loss", format!("{loss:.4}{before}")));
        }
        if let Some(best) = best_step(trained) {
            rows.push(("best step", escape(&best)));
        }
        if let Some(speed) = trained.measured("/facts/tokens_per_sec") {
            rows.push(("speed", format!("{} tokens/s", count(speed as u64))));
        }
        if let Some(secs) = trained
            .measured("/secs")
            .filter(|secs| (0.0..1e12).contains(secs))
        {
            rows.push(("time", duration(std::time::Duration::from_secs_f64(secs))));
        }
        if let Some(level) = trained.manifest.details["cpu_level"].as_str() {
            rows.push(("arithmetic", escape(level)));
        }
    }
    rows
}

/// The step whose weights were kept because they were the best, and by what: `3 (by pubmedqa[dev].accuracy)`.
pub fn best_step(trained: &StageFiles) -> Option<String> {
    let step = trained.detail_count("/best_step")?;
    let by = trained.manifest.details["chosen_by"]["metric"].as_str();
    Some(format!(
        "{} (by {})",
        count(step),
        by.unwrap_or("held-out loss")
    ))
}

fn loss_chart(steps: &[StepReport]) -> LineChart<'static> {
    let losses: Vec<(f64, f64)> = steps
        .iter()
        .map(|step| (step.step as f64, step.loss))
        .collect();
    let window = (steps.len() / 25).max(1);
    let mut series = Vec::new();
    if window > 1 {
        series.push(line("each step", thinned(&losses), 1, Mark::Faint));
        let name = format!("mean of {} steps", 2 * window + 1);
        series.push(line(
            &name,
            thinned(&smoothed(&losses, window)),
            1,
            Mark::Line,
        ));
    } else {
        series.push(line("training", losses, 1, Mark::Line));
    }
    let held_out = held_out(steps);
    if !held_out.is_empty() {
        series.push(line("held-out", held_out, 0, Mark::Dots));
    }
    LineChart {
        title: "Loss",
        unit: "nats a target token",
        x: "optimizer step",
        series,
        from_zero: false,
        full: true,
    }
}

/// The scores of tasks that were asked during training: a chart a metric, a line a task. What repeats the paper's own
/// scorer stays in the log.
fn task_series(steps: &[StepReport]) -> BTreeMap<String, Vec<Series>> {
    let mut points = BTreeMap::<(&str, &str), Vec<(f64, f64)>>::new();
    for step in steps {
        for (name, score) in &step.scores {
            let (task, metric) = name.rsplit_once('.').unwrap_or((name, "score"));
            let of_task = points.entry((metric, task)).or_default();
            of_task.push((step.step as f64, *score));
        }
    }
    let mut charts = BTreeMap::<String, Vec<Series>>::new();
    for ((metric, task), points) in points {
        if !metric.starts_with("paper_") {
            let series = charts.entry(metric.to_owned()).or_default();
            series.push(line(task, thinned(&points), series.len(), Mark::Dots));
        }
    }
    charts
}

/// The mean loss of a run, and its held-out loss, in one colour: to lay runs over one another.
pub fn overlay(run: &RunFiles, colour: usize) -> Vec<Series> {
    let losses: Vec<(f64, f64)> = run
        .steps
        .iter()
        .map(|step| (step.step as f64, step.loss))
        .collect();
    let window = (losses.len() / 25).max(1);
    let mut series = vec![line(
        &run.name,
        thinned(&smoothed(&losses, window)),
        colour,
        Mark::Line,
    )];
    let held_out = held_out(&run.steps);
    if !held_out.is_empty() {
        series.push(line(
            &format!("{}, held-out", run.name),
            held_out,
            colour,
            Mark::Dots,
        ));
    }
    series
}

fn held_out(steps: &[StepReport]) -> Vec<(f64, f64)> {
    let measured = |step: &StepReport| Some((step.step as f64, step.eval_loss?));
    thinned(&steps.iter().filter_map(measured).collect::<Vec<_>>())
}

fn plain_chart(
    steps: &[StepReport],
    title: &'static str,
    unit: &'static str,
    from_zero: bool,
    value: impl Fn(&StepReport) -> f64,
) -> LineChart<'static> {
    let points: Vec<_> = steps
        .iter()
        .map(|step| (step.step as f64, value(step)))
        .collect();
    LineChart {
        title,
        unit,
        x: "optimizer step",
        series: vec![line("", thinned(&points), 1, Mark::Line)],
        from_zero,
        full: false,
    }
}

fn line(name: &str, points: Vec<(f64, f64)>, colour: usize, mark: Mark) -> Series {
    Series {
        name: name.to_owned(),
        points,
        colour,
        mark,
    }
}

/// The mean of each point and `window` neighbours to both sides, of those that are finite.
fn smoothed(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let means = (0..points.len()).map(|at| {
        let around = &points[at.saturating_sub(window)..(at + window + 1).min(points.len())];
        (points[at].0, mean(around))
    });
    means.collect()
}

/// At most [`POINTS`] points, each the mean of as many neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS).max(1);
    if together == 1 {
        return points.to_vec();
    }
    let parts = points.chunks(together);
    parts
        .map(|part| (part[part.len() / 2].0, mean(part)))
        .collect()
}

fn mean(points: &[(f64, f64)]) -> f64 {
    let finite = points.iter().filter(|point| point.1.is_finite());
    let (sum, number) = finite.fold((0.0, 0.0), |(sum, number), point| {
        (sum + point.1, number + 1.0)
    });
    if number == 0.0 {
        f64::NAN
    } else {
        sum / number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_pass_over_what_is_not_finite() {
        let points = [(1.0, 2.0), (2.0, f64::NAN), (3.0, 4.0), (4.0, 7.0)];
        let values: Vec<f64> = smoothed(&points, 1).iter().map(|point| point.1).collect();
        assert_eq!(values, [2.0, 3.0, 5.5, 5.5]);
        assert!(mean(&[(1.0, f64::NAN)]).is_nan());
    }

    #[test]
    fn a_long_training_is_drawn_with_few_points() {
        let points: Vec<(f64, f64)> = (0..123_457).map(|i| (f64::from(i), 1.5)).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS && thin.iter().all(|point| point.1 == 1.5));
        assert_eq!(thinned(&points[..7]).len(), 7);
    }
}
