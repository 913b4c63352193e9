//! Scores before and after, with intervals.

use std::fmt::Write;

use super::super::bert_score;
use super::super::file::{ReportFile, ScoreReport, TaskReport};
use super::super::markdown::small;
use super::super::notes::FORGETTING;
use super::super::rows::Row;
use super::super::table::{percent, signed};
use super::{Section, chart, classes, escape, items, table};
use crate::statistics::Interval;

/// The parts of a page that a report fills: scores, forgetting, single classes, single items, and
/// what others have published. Texts of items that are not open are shown only with `reveal`.
pub fn evaluation_sections(file: &ReportFile, reveal: bool) -> Vec<Section> {
    let shown = match reveal {
        true => file.clone(),
        false => file.clone().without_texts(),
    };
    let (forgetting, others): (Vec<_>, Vec<_>) = shown
        .rows()
        .into_iter()
        .partition(|row| row.task.has_tag(FORGETTING));
    let mut sections = vec![scores(&shown, &others)];
    sections.extend(settings_section(&shown));
    sections.push(forgetting_section(&shown, &forgetting));
    sections.extend(classes::section(&shown));
    sections.extend(items::section(&shown));
    sections.extend(published(&shown));
    sections
}

/// What came of the last model against the first, as figures: (value, what it is).
pub fn headline(file: &ReportFile) -> Vec<(String, &'static str)> {
    let Some(last) = file.models.last() else {
        return Vec::new();
    };
    let mut tiles = vec![(last.tasks.len().to_string(), "tasks")];
    let changes: Vec<(f64, bool)> = last
        .tasks
        .iter()
        .filter_map(|task| {
            let value = task.scores.first()?.change?.value;
            Some((value, task.change.as_ref()?.is_significant()))
        })
        .collect();
    if !changes.is_empty() {
        let number = |sign: f64| {
            let found = changes
                .iter()
                .filter(|(value, sure)| *sure && value * sign > 0.0);
            found.count().to_string()
        };
        tiles.push((
            format!("<span class=\"good\">{}</span>", number(1.0)),
            "tasks better, p&nbsp;&lt;&nbsp;0.05",
        ));
        let worse = number(-1.0);
        let class = if worse == "0" { "" } else { "bad" };
        tiles.push((
            format!("<span class=\"{class}\">{worse}</span>"),
            "tasks worse, p&nbsp;&lt;&nbsp;0.05",
        ));
    }
    tiles
}

fn scores(file: &ReportFile, rows: &[Row<'_>]) -> Section {
    let (id, title) = ("evaluation", "Evaluation");
    if rows.is_empty() && file.models.iter().all(|model| model.perplexity.is_empty()) {
        return Section::empty(id, title, "No task was asked.");
    }
    let mut body = String::new();
    if !rows.is_empty() {
        body.push_str(&legend(file));
        body.push_str(&score_table(file, rows));
        let _ = write!(
            body,
            "<p class=\"note\">Intervals are {:.0} % bootstrap intervals ({} resamples, seed {}); those of changes are paired by item. \
             p is McNemar’s test where the first metric is right or wrong, else the paired bootstrap’s, \
             after Holm’s adjustment over the tasks.</p>",
            100.0 * file.intervals.confidence,
            file.intervals.resamples,
            file.intervals.seed
        );
    }
    body.push_str(&perplexity_table(file));
    Section { id, title, body }
}

/// Where a task was asked with shots and without, its settings as columns.
fn settings_section(file: &ReportFile) -> Option<Section> {
    let settings = file.settings()?;
    let rows = settings.rows();
    let note =
        "<p class=\"note\">The same tasks, a column a setting; changes are from zero-shot.</p>";
    let body = format!(
        "{note}{}{}",
        legend(&settings),
        score_table(&settings, &rows)
    );
    Some(Section {
        id: "settings-compared",
        title: "Settings compared",
        body,
    })
}

fn forgetting_section(file: &ReportFile, rows: &[Row<'_>]) -> Section {
    let (id, title) = ("forgetting", "Forgetting");
    if rows.is_empty() {
        let why = "Not run: no task of this evaluation is tagged “forgetting”.";
        return Section::empty(id, title, why);
    }
    let body = format!("{}{}", legend(file), score_table(file, rows));
    Section { id, title, body }
}

fn legend(file: &ReportFile) -> String {
    if file.models.len() < 2 {
        return String::new();
    }
    let mut html = "<ul class=\"legend\">".to_owned();
    for (index, model) in file.models.iter().enumerate() {
        let colour = chart::colour(index);
        let hole = if index == 0 {
            "<path class=\"hole\" d=\"M11 5h.01\"/>"
        } else {
            ""
        };
        let _ = write!(
            html,
            "<li><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><path class=\"whisker {colour}\" d=\"M0 5H22\"/>\
             <path class=\"dot {colour}\" d=\"M11 5h.01\"/>{hole}</svg>{}</li>",
            escape(&model.label)
        );
    }
    html.push_str("</ul>");
    html
}

fn score_table(file: &ReportFile, rows: &[Row<'_>]) -> String {
    let mut html =
        "<div class=\"wide\"><table class=\"cards\"><thead><tr><th>metric</th>".to_owned();
    let mut columns = 2;
    for (index, model) in file.models.iter().enumerate() {
        let _ = write!(html, "<th class=\"n\">{}</th>", escape(&model.label));
        columns += 1;
        if index > 0 {
            html.push_str("<th class=\"n\">change</th><th class=\"n\">p</th>");
            columns += 2;
        }
    }
    let _ = write!(
        html,
        "<th>{}</th></tr></thead><tbody>",
        chart::range_scale()
    );
    for row in rows {
        let _ = write!(
            html,
            "<tr class=\"task\"><td colspan=\"{columns}\">{}</td></tr>",
            about(*row)
        );
        let note = |line: &str| {
            let line = escape(line.trim());
            format!(
                "<tr class=\"sub\"><td colspan=\"{columns}\"><span class=\"note\">{line}</span></td></tr>"
            )
        };
        html.extend(row.chose_checkpoint().iter().map(|line| note(line)));
        for (index, score) in row.metrics().into_iter().enumerate() {
            score_row(file, *row, score, index == 0, &mut html);
        }
        html.extend(bert_score::lines(*row).iter().map(|line| note(line)));
        if row.generated() {
            let share = TaskReport::unextracted_share;
            share_row(file, *row, "no answer extracted", share, &mut html);
        }
        if row.refused() {
            let share = |task: &TaskReport| Some(task.unanswered_share());
            share_row(file, *row, "unanswered", share, &mut html);
        }
        if row.judged() {
            let share = TaskReport::judge_failed_share;
            share_row(file, *row, "judge failed", share, &mut html);
        }
    }
    html.push_str("</tbody></table></div>");
    html
}

fn about(row: Row<'_>) -> String {
    let task = row.task;
    // Settings side by side differ in their shots, which their columns' heads say.
    let alike = row
        .by_model()
        .flatten()
        .all(|other| other.shots == task.shots);
    let mut html = format!(
        "<b>{}</b><span class=\"note\">{} items · {}{}</span>",
        escape(&task.task),
        task.items.len(),
        escape(&task.answering),
        match task.shots {
            _ if !alike => String::new(),
            0 => " · zero-shot".to_owned(),
            1 => " · 1 shot".to_owned(),
            n => format!(" · {n} shots"),
        }
    );
    if task.access != ledger::AccessClass::Open {
        let _ = write!(
            html,
            " <span class=\"badge strict\">{}</span>",
            task.access.name()
        );
    }
    for tag in &task.tags {
        let _ = write!(html, " <span class=\"badge\">{}</span>", escape(tag));
    }
    if !row.chose_checkpoint().is_empty() {
        html.push_str(" <span class=\"badge\">chose the checkpoint</span>");
    }
    if let Some(judging) = row.judging() {
        let _ = write!(html, " <span class=\"note\">{}</span>", escape(&judging));
    }
    html
}

fn score_row(file: &ReportFile, row: Row<'_>, score: &ScoreReport, first: bool, html: &mut String) {
    let paper = match score.is_paper_compatible() {
        true => " <span class=\"badge\">paper-compatible</span>",
        false => "",
    };
    let _ = write!(
        html,
        "<tr><td class=\"metric\">{}{paper}",
        escape(&score.metric)
    );
    for (model, task) in file.models.iter().zip(row.by_model()) {
        let unflagged = task.and_then(|task| task.score(&score.metric)?.unflagged);
        if let Some(unflagged) = unflagged {
            let _ = write!(
                html,
                "<span class=\"ci\">{}: {:.3} on the {} items not in the training data</span>",
                escape(&model.label),
                unflagged.value,
                unflagged.items
            );
        }
    }
    html.push_str("</td>");
    let mut values = Vec::new();
    let mut words = Vec::new();
    for (index, (model, task)) in file.models.iter().zip(row.by_model()).enumerate() {
        let own = task.and_then(|task| task.score(&score.metric));
        let label = escape(&model.label);
        let shown = own.map_or("–".to_owned(), |own| {
            with_interval(own.value, own.interval)
        });
        let _ = write!(html, "<td class=\"n\" data-label=\"{label}\">{shown}</td>");
        if let Some(own) = own {
            values.push((own.value, own.interval.map(Into::into), index));
            words.push(format!("{} {:.3}", model.label, own.value));
        }
        if index > 0 {
            let change = task.and_then(|task| task.change.as_ref()).filter(|_| first);
            let p = change.and_then(|change| change.p_holm);
            let _ = write!(
                html,
                "<td class=\"n\" data-label=\"change\">{}</td><td class=\"n\" data-label=\"p\">{}</td>",
                change_cell(own),
                p.map_or(String::new(), |p| escape(&small(p)))
            );
        }
    }
    // What is no share has no place on the scale.
    let share = values.iter().all(|(value, ..)| (0.0..=1.0).contains(value));
    let plot = match share {
        true => chart::ranges(&values, &words.join(", ")),
        false => String::new(),
    };
    let _ = write!(html, "<td class=\"plot\">{plot}</td></tr>");
}

fn change_cell(score: Option<&ScoreReport>) -> String {
    let Some(change) = score.and_then(|score| score.change) else {
        return "–".to_owned();
    };
    let class = match change.interval {
        Some(interval) if interval.low > 0.0 => " class=\"good\"",
        Some(interval) if interval.high < 0.0 => " class=\"bad\"",
        _ => "",
    };
    let mut html = format!("<span{class}>{}</span>", signed(change.value, None));
    if let Some(Interval { low, high }) = change.interval {
        let _ = write!(html, "<span class=\"ci\">[{low:+.3}, {high:+.3}]</span>");
    }
    html
}

fn with_interval(value: f64, interval: Option<Interval>) -> String {
    let mut html = format!("{value:.3}");
    if let Some(Interval { low, high }) = interval {
        let _ = write!(html, "<span class=\"ci\">[{low:.3}, {high:.3}]</span>");
    }
    html
}

/// A share of each model's items.
fn share_row(
    file: &ReportFile,
    row: Row<'_>,
    name: &str,
    share: impl Fn(&TaskReport) -> Option<f64>,
    html: &mut String,
) {
    let _ = write!(html, "<tr class=\"sub\"><td class=\"metric\">{name}</td>");
    for (index, (model, task)) in file.models.iter().zip(row.by_model()).enumerate() {
        let share = task.and_then(&share);
        let shown = share.map_or("–".to_owned(), percent);
        let label = escape(&model.label);
        let _ = write!(html, "<td class=\"n\" data-label=\"{label}\">{shown}</td>");
        if index > 0 {
            html.push_str("<td></td><td></td>");
        }
    }
    html.push_str("<td></td></tr>");
}

fn perplexity_table(file: &ReportFile) -> String {
    let names = file.perplexity_names();
    if names.is_empty() {
        return String::new();
    }
    let labels = file.models.iter().map(|model| format!("#{}", model.label));
    let head: Vec<String> = [String::from("set"), "#samples".into()]
        .into_iter()
        .chain(labels)
        .collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = names
        .into_iter()
        .map(|name| {
            let own = || file.models.iter().map(|model| model.perplexity_of(name));
            let samples = own().flatten().map(|result| result.samples).max();
            let mut row = vec![escape(name), samples.unwrap_or(0).to_string()];
            row.extend(
                own().map(|own| own.map_or("–".into(), |own| format!("{:.3}", own.perplexity))),
            );
            row
        })
        .collect();
    format!("<h3>Perplexity</h3>{}", table(&head, &rows))
}

fn published(file: &ReportFile) -> Option<Section> {
    let mut rows = Vec::new();
    for row in file.rows() {
        for theirs in &row.task.published {
            let last = row.by_model().last().flatten();
            let ours = last.and_then(|task| task.score(&theirs.metric));
            rows.push(vec![
                escape(&row.task.task),
                escape(&theirs.metric),
                escape(&theirs.model),
                format!("{:.3}", theirs.value),
                ours.map_or("–".to_owned(), |ours| format!("{:.3}", ours.value)),
                escape(&theirs.source),
            ]);
        }
    }
    if rows.is_empty() {
        return None;
    }
    let last = file.models.last().map_or("", |model| model.label.as_str());
    let ours = format!("#{last}, measured here");
    let head = [
        "task",
        "metric",
        "their model",
        "#theirs",
        &ours,
        "published in",
    ];
    let note = "<p class=\"note\">Other people’s numbers, as they have published them; nothing here has measured them.</p>";
    Some(Section {
        id: "published",
        title: "Published by others",
        body: format!("{note}{}", table(&head, &rows)),
    })
}
