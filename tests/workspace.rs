//! What holds for the whole tree: which crate may know which, under which licences, and that what is generated is
//! fresh.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What each crate of ours may depend on. `ledger` is a leaf; `datasets` and `eval` know no tensors.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("medtune-ledger", &[]),
    ("medtune-kernels", &["medtune-ledger"]),
    ("medtune-datasets", &["medtune-ledger"]),
    ("medtune-eval", &["medtune-datasets", "medtune-ledger"]),
    ("medtune-adapters", &["medtune-kernels", "medtune-ledger"]),
    (
        "medtune-finetune",
        &[
            "medtune-adapters",
            "medtune-kernels",
            "medtune-datasets",
            "medtune-eval",
            "medtune-ledger",
        ],
    ),
    (
        "medtune",
        &[
            "medtune-finetune",
            "medtune-adapters",
            "medtune-kernels",
            "medtune-datasets",
            "medtune-eval",
            "medtune-ledger",
        ],
    ),
];

/// Crates that must never come to know candle, however far down.
const WITHOUT_CANDLE: &[&str] = &["medtune-ledger", "medtune-datasets", "medtune-eval"];

/// The licences that a dependency may be under. `deny.toml` has the same list.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    // Only what is built here: the packages of other systems may not be on this machine.
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            HOST,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

const HOST: &str = env!("MEDTUNE_HOST");

/// Name and id of the packages, and what each needs to be built and run (not tested).
struct Graph {
    names: BTreeMap<String, String>,
    needs: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn of(metadata: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let names = packages
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let mut needs = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let built = |need: &&Value| {
                need["dep_kinds"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|kind| kind["kind"] != "dev")
            };
            let all = node["deps"]
                .as_array()
                .unwrap()
                .iter()
                .filter(built)
                .map(|need| text(&need["pkg"]));
            needs.insert(text(&node["id"]), all.collect());
        }
        Self { names, needs }
    }

    fn id(&self, name: &str) -> &str {
        self.names
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| id.as_str())
            .unwrap()
    }

    fn direct(&self, name: &str) -> BTreeSet<&str> {
        self.needs[self.id(name)]
            .iter()
            .map(|id| self.names[id].as_str())
            .collect()
    }

    fn all(&self, name: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.id(name)];
        while let Some(id) = open.pop() {
            for need in &self.needs[id] {
                if found.insert(self.names[need].as_str()) {
                    open.push(need);
                }
            }
        }
        found
    }
}

#[test]
fn crates_depend_downwards_only() {
    let graph = Graph::of(&metadata());
    for (name, may_know) in MAY_KNOW {
        let ours = graph
            .direct(name)
            .into_iter()
            .filter(|other| other.starts_with("medtune"));
        for other in ours {
            assert!(
                may_know.contains(&other),
                "{name} may not depend on {other}"
            );
        }
    }
    for name in WITHOUT_CANDLE {
        let candle: Vec<_> = graph
            .all(name)
            .into_iter()
            .filter(|other| other.contains("candle"))
            .collect();
        assert!(candle.is_empty(), "{name} has come to depend on {candle:?}");
    }
}

#[test]
fn every_dependency_is_under_an_allowed_licence() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(
            allowed(licence),
            "{name} is under {licence:?}, which is not among {LICENCES:?}"
        );
    }
}

/// An SPDX expression: alternatives of what must all be allowed. The old `MIT/Apache-2.0` means `OR`.
fn allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let joined = spaced.replace(" WITH ", "-WITH-");
    let words: Vec<&str> = joined.split_whitespace().collect();
    let (holds, rest) = any_of(&words);
    holds && rest.is_empty()
}

/// Whether one of some alternatives is allowed, and the words after them.
fn any_of<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut holds, mut rest) = all_of(words);
    while let Some((&"OR", more)) = rest.split_first() {
        let (also, after) = all_of(more);
        (holds, rest) = (holds || also, after);
    }
    (holds, rest)
}

fn all_of<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut holds, mut rest) = one(words);
    while let Some((&"AND", more)) = rest.split_first() {
        let (also, after) = one(more);
        (holds, rest) = (holds && also, after);
    }
    (holds, rest)
}

fn one<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words.split_first() {
        Some((&"(", inside)) => {
            let (holds, rest) = any_of(inside);
            (holds, rest.strip_prefix(&[")"]).unwrap_or(rest))
        }
        Some((licence, rest)) => (
            LICENCES.contains(&licence.replace("-WITH-", " WITH ").as_str()),
            rest,
        ),
        None => (false, words),
    }
}

#[test]
fn licence_expressions_are_read() {
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "MIT/Apache-2.0",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
    ] {
        assert!(allowed(good), "{good}");
    }
    assert!(allowed("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR ISC) AND GPL-3.0",
        "MIT ISC",
        "GPL-3.0 WITH LLVM-exception",
    ] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn deny_toml_allows_the_same_licences() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let listed = table["licenses"]["allow"].as_array().unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|licence| licence.as_str().unwrap())
        .collect();
    assert_eq!(listed, LICENCES);
}

fn medtune(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_medtune"))
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{args:?}: {stderr}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_recipe_of_the_tree_is_right() {
    medtune(&["check"]);
}

#[test]
fn the_schemas_are_those_of_the_types() {
    for kind in ["recipe", "task"] {
        let path = format!("recipes/{kind}.schema.json");
        let written = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
        assert!(
            written == medtune(&["recipes", "schema", kind]),
            "{path} is not fresh: run `cargo run --release -- recipes schema {kind} > {path}`"
        );
    }
}
