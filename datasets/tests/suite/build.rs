//! A recipe's data, built twice, is the same bytes.

use std::path::Path;

use datasets::recipe::DataSection;
use datasets::{BuildOptions, Samples, build, load_built};
use insta::assert_snapshot;
use ledger::AccessClass;
use serde_json::{Value, json};

use crate::{folder, shown};

fn data() -> tempfile::TempDir {
    let lines = |n: usize, line: &dyn Fn(usize) -> Value| {
        (0..n).map(|i| format!("{}\n", line(i))).collect::<String>()
    };
    let alpaca = lines(
        60,
        &|i| json!({"instruction": format!("Q{i}"), "input": if i % 2 == 0 { "" } else { "with é" }, "output": format!("A{i}")}),
    );
    let facts = lines(
        40,
        &|i| json!({"drug": format!("drug {i}"), "use": "pain", "options": {"B": "b", "A": "a"}}),
    );
    let chats = json!([{"system": "S", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}]);
    folder([
        ("sets/alpaca.jsonl", alpaca.as_bytes()),
        ("sets/facts.jsonl", facts.as_bytes()),
        ("sets/chats.json", chats.to_string().as_bytes()),
        ("notes/a.txt", b"One note.".as_slice()),
        (
            "notes/b.jsonl",
            b"{\"text\": \"Two.\"}\n{\"text\": \"Three.\"}\n",
        ),
    ])
}

fn section(json: Value) -> DataSection {
    serde_json::from_value(json).unwrap()
}

fn seed(seed: u64) -> BuildOptions<'static> {
    BuildOptions {
        name: "test",
        seed,
        ..BuildOptions::default()
    }
}

/// As `section`, with nothing compared: its rows are too alike.
fn mixed() -> DataSection {
    section(json!({
        "validation_fraction": 0.1,
        "clean": {"exact_duplicates": false, "near_duplicates": 0},
        "source": [
            {"name": "alpaca", "format": "alpaca", "path": "sets/alpaca.jsonl", "limit": 20, "licence": "MIT"},
            {"name": "facts", "format": "records", "path": "sets/facts.jsonl", "access": "registered", "task": {
                "system": "Answer in a word.",
                "prompt": "What is {{ drug }} for?{% for key, text in options|items %} {{ key }}: {{ text }}{% endfor %}",
                "answer": "{{ use.strip()|upper }}"}},
            {"name": "chats", "format": "sharegpt", "path": "sets/chats.json"},
        ],
    }))
}

fn bytes(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    files.sort_by_key(|entry| entry.file_name());
    files
        .iter()
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn two_builds_from_two_folders_are_the_same_bytes() {
    let outputs = [1, 4].map(|threads| {
        let (root, out) = (data(), tempfile::tempdir().unwrap());
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let built = pool
            .install(|| build(&mixed(), root.path(), out.path(), &seed(3)))
            .unwrap();
        (built, bytes(out.path()), out)
    });
    assert_eq!(outputs[0].0, outputs[1].0);
    assert_eq!(outputs[0].1, outputs[1].1);
    let (built, files, out) = &outputs[0];
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "DATACARD.md",
            "composition.svg",
            "dropped.jsonl",
            "train.jsonl",
            "validation.jsonl"
        ]
    );
    assert_snapshot!(serde_json::to_string_pretty(&built.counts).unwrap(), @r#"
    {
      "source.alpaca.kept": 20,
      "source.alpaca.read": 60,
      "source.chats.kept": 1,
      "source.chats.read": 1,
      "source.facts.kept": 40,
      "source.facts.read": 40,
      "train": 55,
      "validation": 6
    }
    "#);
    assert_eq!(built.access, AccessClass::Registered);

    let loaded = load_built(out.path()).unwrap();
    assert_eq!((loaded.train.len(), loaded.validation.len()), (55, 6));
    let Samples::Conversations(train) = loaded.train else {
        panic!("conversations")
    };
    let fact = train
        .iter()
        .find(|c| c.provenance.source == "facts")
        .unwrap();
    assert!(
        fact.messages[1].content.ends_with(" for? B: b A: a"),
        "a record's order: {:?}",
        fact.messages[1]
    );
    assert_eq!(fact.messages[2].content, "PAIN");
    let line = String::from_utf8(files[3].1.clone()).unwrap();
    assert_snapshot!(line.lines().next().unwrap(), @r#"{"id":"alpaca/6","messages":[{"role":"user","content":"Q5\n\nwith é"},{"role":"assistant","content":"A5"}],"provenance":{"source":"alpaca","file":"sets/alpaca.jsonl","record":6,"licence":"MIT","access":"open"}}"#);
}

#[test]
fn another_seed_holds_out_others() {
    let root = data();
    let held_out = |seed| {
        let out = tempfile::tempdir().unwrap();
        build(&mixed(), root.path(), out.path(), &self::seed(seed)).unwrap();
        std::fs::read(out.path().join("validation.jsonl")).unwrap()
    };
    assert_eq!(held_out(1), held_out(1));
    assert_ne!(held_out(1), held_out(2));
}

#[test]
fn documents_and_a_validation_source() {
    let (root, out) = (data(), tempfile::tempdir().unwrap());
    let section = section(json!({
        "source": [{"name": "notes", "format": "text", "path": "notes"}],
        "validation": [{"name": "more", "format": "text", "path": "notes/b.jsonl", "access": "credentialed"}],
    }));
    let built = build(&section, root.path(), out.path(), &seed(0)).unwrap();
    assert_eq!(built.access, AccessClass::Credentialed);
    let loaded = load_built(out.path()).unwrap();
    let Samples::Documents(train) = loaded.train else {
        panic!("documents")
    };
    let texts: Vec<_> = train
        .iter()
        .map(|d| (d.id.as_str(), d.text.as_str()))
        .collect();
    // What is validated on is not trained on.
    assert_eq!(texts, [("notes/a.txt/1", "One note.")]);
    let dropped = std::fs::read_to_string(out.path().join("dropped.jsonl")).unwrap();
    assert_snapshot!(dropped, @r#"
    {"id":"notes/b.jsonl/1","reason":"exact duplicate","of":"more/1"}
    {"id":"notes/b.jsonl/2","reason":"exact duplicate","of":"more/2"}
    "#);
    assert_eq!(loaded.validation.len(), 2);
    let inputs = datasets::inputs(&section, root.path(), false).unwrap();
    let names: Vec<_> = inputs.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["notes/a.txt", "notes/b.jsonl"]);
}

fn fails(json: Value) -> String {
    let (root, out) = (data(), tempfile::tempdir().unwrap());
    shown(&build(&section(json), root.path(), out.path(), &seed(0)).unwrap_err())
}

#[test]
fn a_section_that_cannot_be_built_is_named() {
    let alpaca = json!({"name": "a", "format": "alpaca", "path": "sets/alpaca.jsonl"});
    let notes = json!({"name": "n", "format": "text", "path": "notes"});
    assert_snapshot!(fails(json!({"source": []})), @r"
    no training samples: 0 records read, 0 held out for validation
    hint: add sources, raise their limits, or lower validation_fraction
    ");
    assert_snapshot!(fails(json!({"source": [alpaca, alpaca]})), @r#"
    two sources are named "a"
    hint: a source's name starts its samples' ids; give each its own
    "#);
    assert_snapshot!(fails(json!({"source": [alpaca, notes]})), @r"
    source n gives documents, but a gives conversations
    hint: tune on conversations and pre-train on documents in separate stages
    ");
    assert_snapshot!(fails(json!({"source": [alpaca], "validation": [notes]})), @r"
    source n gives documents, but a gives conversations
    hint: tune on conversations and pre-train on documents in separate stages
    ");
    assert_snapshot!(fails(json!({"source": [alpaca], "validation_fraction": 1.5})), @r"
    validation_fraction = 1.5 is not between 0 and 1
    hint: 0.05 holds out one sample in twenty
    ");
    assert_snapshot!(fails(json!({"source": [alpaca], "sample": 2})), @r"
    sample = 2 is not above 0 and up to 1
    hint: 0.02 builds 2 % of each quota, 1 the whole set
    ");
    assert_snapshot!(fails(json!({"source": [alpaca], "validation_fraction": 0.5, "validation": [notes]})), @r"
    validation_fraction = 0.5 and [[data.validation]] are both given
    hint: keep one of them
    ");
    assert_snapshot!(fails(json!({"source": [alpaca], "validation_fraction": 0.999})), @r"
    no training samples: 60 records read, 60 held out for validation
    hint: add sources, raise their limits, or lower validation_fraction
    ");
    assert_snapshot!(fails(json!({"source": [{"name": "a", "format": "alpaca", "path": "sets/alpaca.jsonl", "limit": 0}]})), @r"
    source a: no records in sets/alpaca.jsonl
    hint: check the path, the split and the limit
    ");
}

#[test]
fn a_task_that_does_not_fit_the_records_is_named() {
    let with = |prompt: &str| {
        fails(
            json!({"source": [{"name": "f", "format": "records", "path": "sets/facts.jsonl",
            "task": {"prompt": prompt, "answer": "x"}}]}),
        )
    };
    assert_snapshot!(with("{{ durg }}"), @r"
    sample f/1 (sets/facts.jsonl, record 1): template task.prompt, line 1: undefined value: `durg` is undefined
    hint: the record's fields are drug, use, options
    ");
    assert_snapshot!(with("{{ drug"), @"template task.prompt, line 1: syntax error: unexpected end of input, expected end of variable block");
    assert_snapshot!(with("{{ drug.nothing }}"), @r"
    sample f/1 (sets/facts.jsonl, record 1): template task.prompt, line 1: undefined value: `drug.nothing` is undefined
    hint: the record's fields are drug, use, options
    ");
    assert_snapshot!(with("\n{{ drug|nofilter }}"), @r"
    sample f/1 (sets/facts.jsonl, record 1): template task.prompt, line 2: unknown filter: filter nofilter is unknown
    hint: the record's fields are drug, use, options
    ");
    assert_snapshot!(with("{{ drug|int }}"), @r"
    sample f/1 (sets/facts.jsonl, record 1): template task.prompt, line 1: invalid operation
    hint: the record's fields are drug, use, options
    ");
}

#[test]
fn an_error_never_quotes_a_record() {
    let prompts = [
        "{{ drug + 1 }}",
        "{{ drug.nothing() }}",
        "{{ drug|float }}",
        "{{ drug|items }}",
        "{{ drug|sum }}",
        "{{ drug() }}",
        "{{ {}[drug] }}",
        "{{ {}[drug].x }}",
        "{{ options[drug] }}",
        "{% for a, b in [drug] %}{% endfor %}",
        "{{ drug[drug] }}",
        "{{ drug is divisibleby(drug) }}",
        "{{ drug|round }}",
        "{{ drug|indent(drug) }}",
        "{{ drug.replace(1, 2) }}",
        "{% include drug %}",
        "{{ -drug }}",
        "{{ dict(drug) }}",
        "{{ range(drug) }}",
        "{{ drug|tojson(indent=drug) }}",
        "{{ drug|default(x=drug) }}",
        "{{ drug|bool|abs|sort(attribute=drug) }}",
    ];
    for prompt in prompts {
        let task = json!({"prompt": prompt, "answer": "x"});
        let source =
            json!({"name": "f", "format": "records", "path": "sets/facts.jsonl", "task": task});
        let (root, out) = (data(), tempfile::tempdir().unwrap());
        // Some of these have a meaning; most are mistakes.
        if let Err(error) = build(
            &section(json!({"source": [source]})),
            root.path(),
            out.path(),
            &seed(0),
        ) {
            assert!(!shown(&error).contains("drug 0"), "{prompt}: {error}");
        }
    }
}

#[test]
fn a_folder_that_was_not_built_is_named() {
    let fails = |files: &[(&str, &[u8])]| {
        let root = folder(files.iter().copied());
        shown(&load_built(root.path()).unwrap_err()).replace(root.path().to_str().unwrap(), "ROOT")
    };
    assert_snapshot!(fails(&[]), @r"
    cannot read ROOT/train.jsonl: No such file or directory (os error 2)
    hint: check the path; a source's path is relative to --data-root
    ");
    assert_snapshot!(fails(&[("train.jsonl", b"{\"id\": 7, \"secret\": 1}\n")]), @r"
    train.jsonl:1: not a sample that a build wrote
    hint: build the data again
    ");
}

#[test]
fn the_recipe_names_every_format() {
    let schema = serde_json::to_value(schemars::schema_for!(DataSection)).unwrap();
    let names: Vec<_> = datasets::formats::FORMATS
        .iter()
        .map(|format| format.name)
        .collect();
    assert_eq!(schema["$defs"]["FormatName"]["enum"], json!(names));
    let unknown = serde_json::from_value::<DataSection>(
        json!({"source": [{"name": "a", "format": "alpacca", "path": "x"}]}),
    );
    let shown = unknown
        .unwrap_err()
        .to_string()
        .replace(&names.join(", "), "FORMATS");
    assert_snapshot!(shown, @r#"unknown format "alpacca"; the formats are FORMATS"#);
}

/// The sections as a recipe's file writes them, read by the recipe language.
#[test]
fn a_recipe_reads_the_sections_and_names_mistakes() {
    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Recipe {
        data: DataSection,
    }
    let read = |text: &str| {
        let root = folder([("r.toml", text.as_bytes())]);
        let read = ledger::recipe::read::<Recipe>(&root.path().join("r.toml"), &[]);
        read.map(|document| document.value.data).map_err(|error| {
            error
                .to_string()
                .replace(root.path().to_str().unwrap(), "ROOT")
        })
    };
    let good = r#"
        [data]
        template = "me-llama"
        on_too_long = "truncate_prompt"
        max_seq_len = 512
        [[data.source]]
        name = "pubmedqa"
        format = "pubmedqa"
        path = "ori_pqal.json"
        split = "train"
        access = "non-commercial"
        [data.source.task]
        prompt = "{{ context }}"
        answer = "{{ final_decision }}"
        [[data.validation]]
        name = "held-out"
        format = "text"
        path = "notes"
    "#;
    let section = read(good).unwrap();
    assert_eq!((section.max_seq_len, section.packing), (512, true));
    assert_eq!(
        section.source[0].task.as_ref().unwrap().answer,
        "{{ final_decision }}"
    );
    assert_eq!(section.validation.unwrap()[0].format.0.name, "text");
    let bad = good
        .replace("template =", "templat =")
        .replace("\"truncate_prompt\"", "\"truncate\"")
        .replace("format = \"pubmedqa\"", "format = \"pubmed-qa\"")
        .replace("answer =", "anwser =");
    let names = datasets::formats::FORMATS
        .iter()
        .map(|f| format!("`{}`", f.name));
    let names = names.collect::<Vec<_>>().join(", ");
    assert_snapshot!(read(&bad).unwrap_err().replace(&names, "FORMATS"), @r#"
    the recipe has 4 problems
    ROOT/r.toml:3:9: unknown key `templat` in [data]
      hint: did you mean `template`?
    ROOT/r.toml:4:23: `data.on_too_long` is the string "truncate", expected one of `error`, `drop`, `truncate_prompt`
    ROOT/r.toml:8:18: `data.source[0].format` is the string "pubmed-qa", expected one of FORMATS
      hint: did you mean `pubmedqa`?
    ROOT/r.toml:14:9: unknown key `anwser` in [data.source.task]
      hint: did you mean `answer`?
    "#);
}
