//! The task files of MIBE, their stand-ins and the general benchmarks, on made-up records in the
//! publishers' formats and, where `MEDTUNE_DATA` names their folder, on the publishers' files.

use std::path::{Path, PathBuf};

use eval::{Asked, Item, Prompt, Task, published, suite_files};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes")
}

fn load(name: &str, sets: &[String]) -> Task {
    let file = recipes().join(format!("eval/{name}.toml"));
    let mut tasks = Task::load(&file, sets).unwrap_or_else(|e| panic!("{name}: {e}"));
    tasks.remove(0)
}

fn last(prompt: &Prompt) -> &str {
    match prompt {
        Prompt::Chat(messages) => &messages.last().unwrap().content,
        Prompt::Text(text) => text,
    }
}

#[test]
fn mibe_has_its_twelve_tasks() {
    let files = suite_files("mibe", &[recipes().join("eval")]);
    let names: Vec<&str> = files
        .iter()
        .map(|f| f.file_stem().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "bionli",
            "ddi2013",
            "emrqa",
            "hoc",
            "i2b2-2012",
            "medmcqa",
            "mednli",
            "medqa",
            "mimic-cxr",
            "mtsample",
            "pubmed-summarization",
            "pubmedqa"
        ]
    );
    for name in names {
        let task = load(&format!("mibe/{name}"), &[]);
        assert_eq!(task.family, name);
        assert!(task.few_shot.is_some(), "{name} has no training split");
    }
}

/// A model is asked in the words that it was tuned with.
#[test]
fn questions_are_those_of_the_training_recipes() {
    for (task, data) in [
        ("pubmedqa", "pubmedqa"),
        ("medqa", "medqa"),
        ("medmcqa", "medmcqa"),
        ("emrqa", "emrqa"),
        ("i2b2-2012", "i2b2-2012"),
        ("ddi2013", "ddi2013"),
        ("hoc", "hoc"),
        ("mtsample", "mtsamples"),
        ("pubmed-summarization", "pubmed-summarization"),
        ("mimic-cxr", "mimic-cxr"),
        ("bionli", "bionli"),
        ("mednli", "mednli"),
    ] {
        let text =
            std::fs::read_to_string(recipes().join(format!("data/mibe/{data}.toml"))).unwrap();
        let recipe: toml::Table = text.parse().unwrap();
        let trained = &recipe["data"]["source"][0]["task"];
        let asked = load(&format!("mibe/{task}"), &[]).templates;
        assert_eq!(
            trained["prompt"].as_str(),
            Some(asked.prompt.as_str()),
            "{task}"
        );
        assert_eq!(
            trained["answer"].as_str(),
            Some(asked.answer.as_str()),
            "{task}"
        );
    }
}

/// Every published set has scores, under each of the metrics that are to stand beside them.
#[test]
fn published_sets_have_scores() {
    let mut with = 0;
    for file in suite_files("mibe", &[recipes().join("eval")]) {
        let task = Task::load(&file, &[]).unwrap().remove(0);
        let Some(set) = &task.published else { continue };
        with += 1;
        let first = task.metrics[0].name;
        let metric = if first == "accuracy" {
            "macro_f1"
        } else {
            first
        };
        assert!(
            !published(&set.dataset, metric, &set.split).is_empty(),
            "{} {metric}",
            task.name
        );
        assert!(!set.scores(metric, set.items).is_empty());
        assert!(set.scores(metric, set.items - 1).is_empty());
    }
    assert_eq!(with, 9);
}

/// The items of a task whose source is this file's text.
fn items(name: &str, path: &str, text: &str, sets: &[&str]) -> Vec<Item> {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let items = load(name, &sets).items(place.path());
    items.unwrap_or_else(|e| panic!("{name}: {e}: {:?}", std::error::Error::source(&e)))
}

#[test]
fn formats_without_public_files_make_items() {
    let one = |name: &str, path: &str, text: &str, sets: &[&str], ends: &str| {
        let items = items(name, path, text, sets);
        assert_eq!(items.len(), 1, "{name}");
        assert!(last(&items[0].prompt).ends_with(ends), "{name}");
        items[0].gold.clone()
    };
    let mednli = "{\"gold_label\": \"neutral\", \"pairID\": \"1\", \"sentence1\": \"He fell.\", \"sentence2\": \"He is old.\"}\n\
                  {\"gold_label\": \"-\", \"pairID\": \"2\", \"sentence1\": \"a\", \"sentence2\": \"b\"}\n";
    let gold = one(
        "mibe/mednli",
        "mednli/mli_test_v1.jsonl",
        mednli,
        &[],
        "\nINPUT: [PRE] He fell. [HYP] He is old.\nOUTPUT:",
    );
    assert_eq!(gold, "neutral");
    let bionli = "supp_set,conclusion,abstract,label_cat,ori_conclusion,pmid,index\nWe gave X.,X cures.,.,negToPos,.,1,1\n,empty,.,pos,.,2,2\n";
    let gold = one(
        "mibe/bionli",
        "bionli/test.csv",
        bionli,
        &[],
        "[PRE] We gave X. [HYP] X cures.\nOUTPUT:",
    );
    assert_eq!(gold, "contradiction");
    let emrqa = r#"[{"context": "Started aspirin 81 mg.", "question": "Which dose?", "answers": {"text": ["81 mg"], "answer_start": [16]}}]"#;
    let gold = one(
        "mibe/emrqa",
        "emrqa/test.json",
        emrqa,
        &[],
        "###\nContext: Started aspirin 81 mg.\nQuestion Which dose?\nAnswer:",
    );
    assert_eq!(gold, "81 mg");
    let i2b2 = "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<ClinicalNarrativeTemporalAnnotation>\n<TEXT><![CDATA[\nHe has fever & chills\n]]></TEXT>\n<TAGS>\n\
                <EVENT id=\"E0\" start=\"9\" end=\"14\" text=\"fever\" modality=\"FACTUAL\" polarity=\"POS\" type=\"PROBLEM\" />\n</TAGS>\n</ClinicalNarrativeTemporalAnnotation>\n";
    let gold = one(
        "mibe/i2b2-2012",
        "i2b2-2012/ground_truth/merged_xml/1.xml",
        i2b2,
        &[],
        "### Input Text: He has fever & chills\n### Output Text:",
    );
    assert_eq!(gold, "He has <span class=\"problem\">fever</span> & chills");
    let report = "                 FINAL REPORT\n EXAMINATION:  CHEST\n\n FINDINGS:\n\n The lungs are clear.\n\n IMPRESSION:\n\n Normal chest.\n";
    let gold = one(
        "mibe/mimic-cxr",
        "mimic-cxr/test-files/p10/p10000032/s50414267.txt",
        report,
        &[],
        "\nINPUT: The lungs are clear.\nOUTPUT:",
    );
    assert_eq!(gold, "Normal chest.");
    let summ = r#"{"article_id": "1", "article_text": ["One.", "Two."], "abstract_text": ["<S> Both . </S>"], "section_names": [], "sections": [], "labels": []}"#;
    let gold = one(
        "mibe/pubmed-summarization",
        "pubmed-summarization/test.txt",
        summ,
        &[],
        "***EXAMPLES***\n\nInput: One. Two.\nOutput:",
    );
    assert_eq!(gold, "Both .");
    let medqa = r#"{"question": "Which drug is first", "answer": "b", "options": {"A": "a", "B": "b", "C": "c", "D": "d", "E": "e"}, "meta_info": "step1", "answer_idx": "B"}"#;
    let gold = one(
        "mibe/medqa",
        "medqa/questions/US/test.jsonl",
        medqa,
        &[],
        "\nQuestion: Which drug is first?\n\nOptions:\nA. a\nB. b\nC. c\nD. d\nE. e\n\nThe answer is",
    );
    assert_eq!(gold, "B");
    let arc = r#"{"id": "1", "question": "Which is a gas?", "choices": {"text": ["ice", "steam", "snow"], "label": ["1", "2", "3"]}, "answerKey": "2"}"#;
    for name in ["challenge", "easy"] {
        let sets = ["source.format=\"records\"", "source.path=\"arc.jsonl\""];
        let gold = one(
            &format!("forgetting/arc-{name}"),
            "arc.jsonl",
            arc,
            &sets,
            "Question: Which is a gas?\nAnswer:",
        );
        assert_eq!(gold, "steam");
    }
    let case = r#"{"id": "1", "case": "Swollen hilar nodes.", "diagnosis": "Sarcoidosis", "aliases": ["Boeck's disease"]}"#;
    let gold = one(
        "diagnosis/case-diagnosis",
        "cases/cases.jsonl",
        case,
        &[],
        "###\nCASE: Swollen hilar nodes.\nDIAGNOSES:",
    );
    assert_eq!(gold, "Sarcoidosis\nBoeck's disease");
}

/// Needs the publishers' files.
fn data() -> Option<PathBuf> {
    let root = std::env::var_os("MEDTUNE_DATA").map(PathBuf::from);
    if root.is_none() {
        eprintln!("skipped: MEDTUNE_DATA names no folder with the publishers' files");
    }
    root
}

#[test]
fn real_files_make_as_many_items_as_published() {
    let Some(root) = data() else { return };
    let count = |name: &str, sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let items = load(name, &sets).items(&root);
        items
            .unwrap_or_else(|e| panic!("{name}: {e}: {:?}", std::error::Error::source(&e)))
            .len()
    };
    assert_eq!(count("mibe/pubmedqa", &[]), 500);
    assert_eq!(
        count(
            "mibe/medmcqa",
            &["source.path=\"medmcqa/validation.first2000.jsonl\""]
        ),
        2000
    );
    // Of 322 rows the last is cut off, and four have no transcription.
    assert_eq!(
        count(
            "mibe/mtsample",
            &["source.path=\"mtsamples/mtsamples.csv\""]
        ),
        317
    );
    assert_eq!(count("stand-ins/medqa-dev", &[]), 1272);
    assert_eq!(count("stand-ins/hoc-dev", &[]), 157);
    assert_eq!(count("stand-ins/ddi2013-dev", &[]), 7244);
    assert_eq!(count("stand-ins/indiana-cxr", &[]), 177);
    assert_eq!(count("stand-ins/mtsamples-ner", &[]), 96);
    for (group, items) in [
        ("stem", 342),
        ("humanities", 518),
        ("social-sciences", 340),
        ("other", 342),
        ("medical", 123),
    ] {
        assert_eq!(
            count(&format!("forgetting/mmlu-{group}"), &[]),
            items,
            "{group}"
        );
    }
    assert_eq!(count("forgetting/gsm8k", &[]), 1319);
    assert_eq!(count("forgetting/truthfulqa-mc1", &[]), 790);
}

fn few(name: &str, shots: usize, sets: &[&str], root: &Path) -> eval::Result<Asked> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let task = load(name, &sets).with_shots(Some(shots))?;
    task.asked(root, 1, &mut |_| true)
}

#[test]
fn real_training_splits_give_shots() {
    let Some(root) = data() else { return };
    let shots = |name: &str, sets: &[&str]| {
        let asked = few(name, 3, sets, &root).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = asked.shots.unwrap();
        eprintln!("{name}: {report:?}");
        (report.candidates, report.unanswered, report.shared_items)
    };
    assert_eq!(shots("mibe/pubmedqa", &[]), (450, 0, 0));
    assert_eq!(shots("stand-ins/hoc-dev", &[]), (1108, 0, 0));
    assert_eq!(shots("stand-ins/ddi2013-dev", &[]), (20_547, 0, 194));
    assert_eq!(shots("forgetting/gsm8k", &[]), (7473, 0, 0));
    // A quarter of the reports stand among the others word for word, most of them many times.
    assert_eq!(shots("stand-ins/indiana-cxr", &[]), (1564, 0, 12));
    assert_eq!(shots("forgetting/mmlu-stem", &[]), (95, 0, 1));
}

/// Five questions of each subject, shown to that subject's items.
#[test]
fn real_shots_of_mmlu_are_of_the_items_subject() {
    let Some(root) = data() else { return };
    let items = few("forgetting/mmlu-medical", 5, &[], &root).unwrap().items;
    let all = few("forgetting/mmlu-medical", 6, &[], &root);
    assert!(matches!(
        all,
        Err(eval::Error::TooFewShots { found: 5, .. })
    ));
    let Prompt::Text(text) = &items[0].prompt else {
        panic!("a text")
    };
    assert_eq!(text.matches("about anatomy.").count(), 1);
    assert_eq!(text.matches("\nAnswer:").count(), 6);
    let dev = std::fs::read_to_string(root.join("mmlu/data/dev/anatomy_dev.csv")).unwrap();
    let mut dev = dev
        .lines()
        .map(|line| line.trim_matches('"').split([',', '?']).next().unwrap());
    assert!(dev.all(|question| text.contains(question)));
}

/// As the copies of these sets on Hugging Face are: the test is its own training split.
#[test]
fn real_sets_that_hold_their_test_are_refused() {
    let Some(root) = data() else { return };
    let same = ["few_shot.source.path=\"medqa/dev.tsv\""];
    let error = few("stand-ins/medqa-dev", 3, &same, &root).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task `stand-in-medqa-dev@3`: the training split `medqa-train` is not apart from the test: \
         1272 of the 1272 items asked are among its 1272 records, word for word"
    );
    let path = "medmcqa/validation.first2000.jsonl";
    let sets = [
        format!("source.path=\"{path}\""),
        format!("few_shot.source.path=\"{path}\""),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    assert!(matches!(
        few("mibe/medmcqa", 1, &sets, &root),
        Err(eval::Error::ShotsFromTest {
            shared: 2000,
            items: 2000,
            ..
        })
    ));
}
