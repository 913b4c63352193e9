//! The settings of a task side by side.

use eval::ReportFile;
use eval::recipe::EvalSection;
use eval::report::html::{Page, evaluation_sections};

use crate::report::report;

/// A base asked without shots and with two, and a tuned model asked without.
fn asked_both_ways() -> ReportFile {
    let mut file = report("open").file(false);
    let mut few_shot = file.models[1].tasks[0].clone();
    (few_shot.task, few_shot.shots) = ("questions@2".into(), 2);
    file.models[0].tasks.push(few_shot);
    file
}

#[test]
fn zero_shot_few_shot_and_supervised_stand_in_one_table() {
    let file = asked_both_ways();
    let table = file.table();
    let settings = table.find("settings").map(|at| &table[at..]);
    insta::assert_snapshot!(settings.unwrap_or_default(), @"
    settings    zero-shot             2-shot                tuned
    questions (12 items, generate)
      accuracy  0.500 [0.250, 0.750]  0.917 [0.750, 1.000]  0.917 [0.750, 1.000]
      macro_f1  0.353 [0.214, 0.455]  0.636 [0.555, 1.000]  0.636 [0.555, 1.000]
    ");
    let markdown = file.markdown();
    let section = markdown.split("## Settings").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    insta::assert_snapshot!(section.trim(), @"
    | task | metric | zero-shot | 2-shot | change | p | tuned | change | p |
    |---|---|---|---|---|---:|---|---|---:|
    | questions (12 items, generate) | accuracy | 0.500 [0.250, 0.750] | 0.917 [0.750, 1.000] | +0.417 [+0.081, +0.750] | 0.125 | 0.917 [0.750, 1.000] | +0.417 [+0.081, +0.750] | 0.125 |
    |  | macro_f1 | 0.353 [0.214, 0.455] | 0.636 [0.555, 1.000] | +0.283 [+0.169, +0.786] |  | 0.636 [0.555, 1.000] | +0.283 [+0.169, +0.786] |  |
    ");
    let page = Page {
        sections: evaluation_sections(&file, false),
        ..Page::default()
    };
    let html = page.html();
    assert!(html.contains("Settings compared"));
    assert!(html.contains("<b>questions</b><span class=\"note\">12 items · generate</span>"));
}

#[test]
fn a_task_asked_in_one_way_has_no_settings() {
    let plain = report("open").file(false);
    assert!(!plain.table().contains("settings"));
    assert!(!plain.markdown().contains("## Settings"));
    let mut shots_alone = asked_both_ways();
    shots_alone.models[0].tasks.remove(0);
    assert!(!shots_alone.table().contains("settings"));
}

#[test]
fn a_tuned_model_may_be_left_without_shots() {
    let zero_shot_only = EvalSection {
        tuned_shots: false,
        ..EvalSection::default()
    };
    let asked = |section: &EvalSection| [0, 1, 5].map(|shots| section.asks_tuned(shots));
    assert_eq!(asked(&zero_shot_only), [true, false, false]);
    assert_eq!(asked(&EvalSection::default()), [true; 3]);
}
