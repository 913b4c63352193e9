//! `medtune report`: one run shown, several compared, and what is no run refused.

use std::fs;

use super::Place;

/// A place with two runs of the recipe that differ in their rank.
fn two_runs() -> Place {
    let place = Place::new();
    for (out, rank) in [("rank-4", "4"), ("rank-3", "3")] {
        let set = format!("adapter.lora.rank={rank}");
        place
            .medtune(&["run", "recipe.toml", "--out", out, "--set", &set])
            .ok();
    }
    place
}

#[test]
fn a_run_leaves_a_page_and_is_shown_again() {
    let place = two_runs();
    let page = fs::read_to_string(place.path("rank-4/report.html")).unwrap();
    for part in [
        "Evaluation",
        "Forgetting",
        "Training",
        "Data",
        "Proof of merge",
        "Memory",
        "Provenance",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    for outside in ["http:", "https:", "<script", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let said = place.medtune(&["report", "rank-4"]).ok().stdout;
    assert!(
        said.contains("which (8 items, log-likelihood, zero-shot)"),
        "{said}"
    );
    place
        .medtune(&["report", "rank-4", "--html", "again.html"])
        .ok();
    assert_eq!(fs::read_to_string(place.path("again.html")).unwrap(), page);
    let markdown = place
        .medtune(&["report", "rank-4", "--markdown"])
        .ok()
        .stdout;
    assert!(markdown.starts_with("# rank-4\n"), "{markdown}");

    let both = place.medtune(&["report", "rank-4", "rank-3"]).ok().stdout;
    assert!(
        both.contains("settings that differ") && both.contains("adapter.lora.rank"),
        "{both}"
    );
    assert!(!both.contains("train.learning_rate"), "{both}");
    place
        .medtune(&["report", "rank-4", "rank-3", "--html", "both.html"])
        .ok();
    let page = fs::read_to_string(place.path("both.html")).unwrap();
    assert!(
        page.contains("adapter.lora.rank") && page.contains("rank-3, held-out"),
        "no overlay"
    );
}

#[test]
fn a_run_whose_stages_are_missing_is_shown_as_far_as_it_goes() {
    let place = Place::new();
    place
        .medtune(&["build", "recipe.toml", "--out", "out"])
        .ok();
    let said = place
        .medtune(&["report", "out", "--html", "page.html"])
        .ok()
        .stdout;
    assert!(!said.contains("accuracy"));
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert_eq!(page.matches("class=\"empty\"").count(), 5, "{page}");
}

#[test]
fn names_of_a_run_are_no_markup() {
    let place = Place::new();
    place
        .medtune(&["build", "recipe.toml", "--out", "out"])
        .ok();
    let evil = "<script>alert(1)</script>";
    for name in ["data/manifest.json", "data/measured.json"] {
        let path = place.path("out").join(name);
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("questions", evil).replace("recipe.toml", evil);
        fs::write(path, text.replace("\"linux\"", &format!("\"{evil}\""))).unwrap();
    }
    place
        .medtune(&["report", "out", "--html", "page.html"])
        .ok();
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
}

#[test]
fn what_is_no_run_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    for folder in ["empty", "none"] {
        let said = place.medtune(&["report", folder]).failure();
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.replace(folder, "FOLDER"), @"
            exit 2
            error: `FOLDER` is not the folder of a run
            hint: name a folder that `medtune run` has made, such as runs/quickstart
            ");
        }
    }
    place.write("damaged/data/manifest.json", b"{\"stage\": 3}");
    let said = place.medtune(&["report", "damaged"]).failure();
    insta::assert_snapshot!(said, @"
    exit 2
    error: `damaged/data/manifest.json` is not a manifest that this version can read
      invalid type: integer `3`, expected a string at line 1 column 11
    hint: remove `damaged/data/manifest.json` to run its stage again
    ");
    place
        .medtune(&["build", "recipe.toml", "--out", "one"])
        .ok();
    place
        .medtune(&["build", "recipe.toml", "--out", "two"])
        .ok();
    insta::assert_snapshot!(place.medtune(&["report", "one", "two"]).failure(), @"
    exit 2
    error: `one` and `two` have no task and metric in common
    hint: compare runs whose recipes name a common task in `eval.tasks`
    ");
}
