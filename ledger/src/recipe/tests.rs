//! Every problem a recipe can have, as the user sees it; and that nothing written in one can make reading it panic.

use std::fs;

use serde::Deserialize;

use super::*;

/// A recipe with one of everything that recipe types are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// What the run's folder is called.
    name: String,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    train: Train,
    adapter: Option<Adapter>,
    #[serde(default)]
    data: Data,
    #[serde(default)]
    targets: Targets,
    #[serde(default)]
    quotas: BTreeMap<String, u32>,
    #[serde(default)]
    free: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Train {
    /// The highest learning rate of the schedule.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    learning_rate: f64,
    epochs: u32,
    max_seq_len: u16,
    schedule: Schedule,
    betas: [f64; 2],
    packing: bool,
}

impl Default for Train {
    fn default() -> Self {
        let (schedule, betas) = (Schedule::Cosine, [0.9, 0.999]);
        Self {
            learning_rate: 1e-4,
            epochs: 3,
            max_seq_len: 512,
            schedule,
            betas,
            packing: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    /// Half a cosine.
    Cosine,
    /// A straight line.
    Linear,
    Constant,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Adapter {
    Lora(Lora),
    Full(Full),
    /// Nothing is trained.
    Frozen,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lora {
    /// Rows of A, columns of B.
    rank: usize,
    #[serde(default)]
    alpha: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Full {
    #[serde(default)]
    freeze_embeddings: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
// Unknown keys are denied although it does not say so.
struct Data {
    #[serde(default)]
    source: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Source {
    name: String,
    path: PathBuf,
    #[serde(default)]
    access: crate::AccessClass,
    task: Option<Task>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Task {
    prompt: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Targets {
    #[default]
    #[serde(skip)]
    None,
    Word(AllLinear),
    Names(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
enum AllLinear {
    #[serde(rename = "all-linear")]
    AllLinear,
}

/// A recipe that is right, with comments and every form of table.
const GOOD: &str = r#"
name = "tiny"
targets = ["q_proj", "v_proj"]

[train]
learning_rate = 2e-4
schedule = "linear"

[adapter.lora]
rank = 8

[[data.source]]
name = "pubmedqa"
path = "pubmedqa.json"
[data.source.task]
prompt = "{{ question }}"

[[data.source]]
name = "notes"
path = "notes.jsonl"
access = "credentialed"

[quotas]
pubmedqa = 450
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn read(&self, sets: &[&str]) -> Result<Document<Recipe>> {
        let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
        read(&self.0.path().join("recipe.toml"), &sets)
    }

    /// The error as it is printed, with the folder taken out.
    fn error(&self, sets: &[&str]) -> String {
        let text = self.read(sets).unwrap_err().to_string();
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn error(text: &str) -> String {
    Folder::new(&[("recipe.toml", text)]).error(&[])
}

fn set_error(sets: &[&str]) -> String {
    Folder::new(&[("recipe.toml", GOOD)]).error(sets)
}

#[test]
fn a_good_recipe_is_read_with_its_defaults_and_origins() {
    let folder = Folder::new(&[("recipe.toml", GOOD)]);
    let document = folder.read(&["train.epochs=1", "name=7"]).unwrap();
    assert_eq!(document.value.name, "7");
    assert_eq!(document.value.train.max_seq_len, 512);
    assert_eq!(
        document.value.data.source[1].access,
        crate::AccessClass::Credentialed
    );
    assert_eq!(document.files, [folder.0.path().join("recipe.toml")]);
    assert_eq!(
        document.written["train"],
        serde_json::json!({
            "epochs": 1, "learning_rate": 2e-4, "schedule": "linear",
        })
    );
    let origins = document
        .origins
        .iter()
        .map(|(key, origin)| format!("{key}: {origin}\n"));
    let origins = origins
        .collect::<String>()
        .replace(&format!("{}/", folder.0.path().display()), "");
    insta::assert_snapshot!(origins, @"
    adapter: recipe.toml:9
    adapter.lora: recipe.toml:9
    adapter.lora.alpha: default
    adapter.lora.rank: recipe.toml:10
    data: recipe.toml:12
    data.source[0]: recipe.toml:12
    data.source[0].access: default
    data.source[0].name: recipe.toml:13
    data.source[0].path: recipe.toml:14
    data.source[0].task: recipe.toml:15
    data.source[0].task.prompt: recipe.toml:16
    data.source[1]: recipe.toml:18
    data.source[1].access: recipe.toml:21
    data.source[1].name: recipe.toml:19
    data.source[1].path: recipe.toml:20
    data.source[1].task: default
    free: default
    name: --set name=7
    quotas: recipe.toml:23
    quotas.pubmedqa: recipe.toml:24
    seed: default
    targets: recipe.toml:3
    train: recipe.toml:5
    train.betas: default
    train.epochs: --set train.epochs=1
    train.learning_rate: recipe.toml:6
    train.max_seq_len: default
    train.packing: default
    train.schedule: recipe.toml:7
    ");
    assert_eq!(document.folder_of("data.source[0].path"), folder.0.path());
    assert_eq!(document.folder_of("train.epochs"), Path::new(""));
}

#[test]
fn unknown_keys() {
    insta::assert_snapshot!(error("name = 'x'\n[train]\nlearning_rat = 1e-4\n"), @"
    the recipe has a problem
    recipe.toml:3:1: unknown key `learning_rat` in [train]
      hint: did you mean `learning_rate`?
    ");
    insta::assert_snapshot!(error("name = 'x'\nlearning_rate = 1e-4\n"), @"
    the recipe has a problem
    recipe.toml:2:1: unknown key `learning_rate` in the recipe
      hint: `learning_rate` belongs in [train]
    ");
    insta::assert_snapshot!(error("name = 'x'\n[adapter.lora]\nrank = 8\nlearning_rate = 1\n"), @"
    the recipe has a problem
    recipe.toml:4:1: unknown key `learning_rate` in [adapter.lora]
      hint: `learning_rate` belongs in [train]
    ");
    insta::assert_snapshot!(error("[train]\nname = 'x'\n"), @"
    the recipe has 2 problems
    recipe.toml:1:1: the recipe lacks `name`
      hint: `name`: What the run's folder is called.
    recipe.toml:2:1: unknown key `name` in [train]
      hint: `name` belongs at the top of the file, before the first [table] or in [[data.source]]
    ");
    insta::assert_snapshot!(error("name = 'x'\n[[data.source]]\nname = 'a'\npath = 'p'\npromt = ''\n"), @"
    the recipe has a problem
    recipe.toml:5:1: unknown key `promt` in [[data.source]]
      hint: did you mean `prompt`, which belongs in [data.source.task]?
    ");
    insta::assert_snapshot!(error("name = 'x'\n[data]\nsauce = []\n"), @"
    the recipe has a problem
    recipe.toml:3:1: unknown key `sauce` in [data]
      hint: known keys: `source`
    ");
    insta::assert_snapshot!(error("name = 'x'\n[train]\nflash_attention = true\n"), @"
    the recipe has a problem
    recipe.toml:3:1: unknown key `flash_attention` in [train]
      hint: known keys: `learning_rate`, `epochs`, `max_seq_len`, `schedule`, `betas`, `packing`
    ");
    insta::assert_snapshot!(error("name = 'x'\n[training]\nepochs = 3\n"), @"
    the recipe has a problem
    recipe.toml:2:2: unknown key `training` in the recipe
      hint: did you mean `train`?
    ");
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(error("name = 'x'\n[train]\nlearning_rate = '1e-4'\n"), @r#"
    the recipe has a problem
    recipe.toml:3:17: `train.learning_rate` is the string "1e-4", expected a number
      hint: write 1e-4 without quotes
    "#);
    insta::assert_snapshot!(error("name = 'x'\n[train]\nepochs = 3.0\n"), @"
    the recipe has a problem
    recipe.toml:3:10: `train.epochs` is the number `3.0`, expected an integer
      hint: write 3
    ");
    insta::assert_snapshot!(error("name = 3\n"), @"
    the recipe has a problem
    recipe.toml:1:8: `name` is the integer `3`, expected a string
      hint: put it in quotes
    ");
    insta::assert_snapshot!(error("name = 'x'\n[train]\npacking = 'yes'\n"), @r#"
    the recipe has a problem
    recipe.toml:3:11: `train.packing` is the string "yes", expected `true` or `false`
    "#);
    insta::assert_snapshot!(error("name = 'x'\n[data.source]\nname = 'a'\n"), @"
    the recipe has a problem
    recipe.toml:2:1: `data.source` is a table, expected an array of tables
      hint: a table in a list is written [[data.source]]
    ");
    insta::assert_snapshot!(error("name = 'x'\n[[train]]\nepochs = 1\n"), @"
    the recipe has a problem
    recipe.toml:2:1: `train` is an array, expected a table
      hint: a single table is written [train]
    ");
    insta::assert_snapshot!(error("name = 'x'\ntrain = 2026-11-22\n"), @"
    the recipe has a problem
    recipe.toml:2:9: `train` is the date or time `2026-11-22`, expected a table
    ");
    insta::assert_snapshot!(error("name = 'x'\ntargets = 'all-liner'\n"), @r#"
    the recipe has a problem
    recipe.toml:2:11: `targets` is the string "all-liner", expected `all-linear`
      hint: did you mean `all-linear`?
    "#);
    insta::assert_snapshot!(error("name = 'x'\ntargets = ['q_proj', 3]\n"), @"
    the recipe has a problem
    recipe.toml:2:22: `targets[1]` is the integer `3`, expected a string
      hint: put it in quotes
    ");
    insta::assert_snapshot!(error("name = 'x'\ntargets = 3\n"), @"
    the recipe has a problem
    recipe.toml:2:11: `targets` is the integer `3`, expected `all-linear` or an array of strings
    ");
}

#[test]
fn values_out_of_range() {
    insta::assert_snapshot!(
        error("name = 'x'\n[train]\nlearning_rate = 0\nepochs = -1\nmax_seq_len = 70000\nbetas = [0.9]\n"), @"
    the recipe has 4 problems
    recipe.toml:3:17: `train.learning_rate` is the integer `0`, and must be above 0
    recipe.toml:4:10: `train.epochs` is the integer `-1`, and must be at least 0 and at most 4294967295
    recipe.toml:5:15: `train.max_seq_len` is the integer `70000`, and must be at least 0 and at most 65535
    recipe.toml:6:9: `train.betas` has a length of 1, expected 2
    "
    );
    insta::assert_snapshot!(
        error("name = 'x'\nseed = 99999999999999999999\n[train]\nlearning_rate = inf\n"), @"
    the recipe has 2 problems
    recipe.toml:2:8: the integer `99999999999999999999` has more than 64 bits
    recipe.toml:4:17: `inf` is not a finite number
    "
    );
}

#[test]
fn missing_keys() {
    insta::assert_snapshot!(error(""), @"
    the recipe has a problem
    recipe.toml:1:1: the recipe lacks `name`
      hint: `name`: What the run's folder is called.
    ");
    insta::assert_snapshot!(error("name = 'x'\n[adapter.lora]\nalpha = 16\n[[data.source]]\n"), @"
    the recipe has 3 problems
    recipe.toml:2:1: [adapter.lora] lacks `rank`
      hint: `rank`: Rows of A, columns of B.
    recipe.toml:4:1: [[data.source]] lacks `name`
    recipe.toml:4:1: [[data.source]] lacks `path`
    ");
}

#[test]
fn words_that_are_none_of_the_choices() {
    insta::assert_snapshot!(error("name = 'x'\n[train]\nschedule = 'cosin'\n"), @r#"
    the recipe has a problem
    recipe.toml:3:12: `train.schedule` is the string "cosin", expected one of `constant`, `cosine`, `linear`
      hint: did you mean `cosine`?
    "#);
    insta::assert_snapshot!(
        error("name = 'x'\n[[data.source]]\nname = 'a'\npath = 'p'\naccess = 'secret'\n"), @r#"
    the recipe has a problem
    recipe.toml:5:10: `data.source[0].access` is the string "secret", expected one of `open`, `non-commercial`, `registered`, `credentialed`
    "#
    );
}

#[test]
fn choices_of_tables() {
    insta::assert_snapshot!(error("name = 'x'\n[adapter]\n"), @"
    the recipe has a problem
    recipe.toml:2:1: [adapter] needs a choice: `lora` or `full`
      hint: write [adapter.lora]
    ");
    insta::assert_snapshot!(error("name = 'x'\n[adapter.lora]\nrank = 8\n[adapter.full]\n"), @"
    the recipe has a problem
    recipe.toml:2:10: [adapter] has 2 choices: `full`, `lora`
      hint: keep one of them
    ");
    insta::assert_snapshot!(error("name = 'x'\n[adapter.laro]\nrank = 8\n"), @"
    the recipe has a problem
    recipe.toml:2:10: unknown choice `laro` in [adapter], expected `lora` or `full`
    ");
    insta::assert_snapshot!(error("name = 'x'\n[adapter]\nrank = 8\n"), @"
    the recipe has a problem
    recipe.toml:3:1: unknown choice `rank` in [adapter], expected `lora` or `full`
      hint: `rank` belongs in [adapter.lora]
    ");
    insta::assert_snapshot!(error("name = 'x'\nadapter = 'lora'\n"), @r#"
    the recipe has a problem
    recipe.toml:2:11: `adapter` is the string "lora", which is a table
      hint: write [adapter.lora]
    "#);
    insta::assert_snapshot!(error("name = 'x'\nadapter = 'dora'\n"), @r#"
    the recipe has a problem
    recipe.toml:2:11: `adapter` is the string "dora", expected `frozen`, or a table with `lora` or `full`
      hint: did you mean `lora`?
    "#);
    insta::assert_snapshot!(error("name = 'x'\n[adapter.frozen]\n"), @r#"
    the recipe has a problem
    recipe.toml:2:10: unknown choice `frozen` in [adapter], expected `lora` or `full`
      hint: `frozen` has no settings: write adapter = "frozen"
    "#);
}

#[test]
fn text_that_is_not_toml() {
    insta::assert_snapshot!(error("name = 'x\n[train]\nepochs = 3\nseed = = 2\n"), @"
    the recipe has 2 problems
    recipe.toml:1:10: not TOML: invalid literal string, expected `'`
    recipe.toml:4:8: not TOML: extra `=`, expected nothing
    ");
    insta::assert_snapshot!(error("name = 'x'\nname = 'y'\n"), @"
    the recipe has a problem
    recipe.toml:2:1: not TOML: duplicate key
    ");
    insta::assert_snapshot!(error("[train\n"), @"
    the recipe has a problem
    recipe.toml:1:7: not TOML: unclosed table, expected `]`
    ");
    insta::assert_snapshot!(error("name"), @"
    the recipe has a problem
    recipe.toml:1:5: not TOML: key with no value, expected `=`
    ");
    insta::assert_snapshot!(error(&format!("name = {}1{}", "[".repeat(5000), "]".repeat(5000))), @"
    the recipe has a problem
    recipe.toml:1:88: not TOML: cannot recurse further; max recursion depth met
    ");
}

#[test]
fn three_mistakes_are_three_problems_in_order() {
    insta::assert_snapshot!(
        error("name = 'x'\n[train]\nschedule = 'linea'\nepochs = '3'\n[adapter.lora]\nrnk = 8\n"), @r#"
    the recipe has 3 problems
    recipe.toml:3:12: `train.schedule` is the string "linea", expected one of `constant`, `cosine`, `linear`
      hint: did you mean `linear`?
    recipe.toml:4:10: `train.epochs` is the string "3", expected an integer
      hint: write 3 without quotes
    recipe.toml:6:1: unknown key `rnk` in [adapter.lora]
      hint: did you mean `rank`?
    "#
    );
}

#[test]
fn mistakes_in_sets() {
    insta::assert_snapshot!(set_error(&["train.epochs", "=3", "train..x=1"]), @"
    the recipe has 3 problems
    --set train.epochs: it has no `=`
      hint: write --set table.key=value, such as --set train.learning_rate=1e-4
    --set =3: `` is not a dotted key
      hint: write --set table.key=value, such as --set train.learning_rate=1e-4
    --set train..x=1: `train..x` is not a dotted key
      hint: write --set table.key=value, such as --set train.learning_rate=1e-4
    ");
    insta::assert_snapshot!(set_error(&["train.epoch=3", "adapter.lora.rank=eight", "name.x=1"]), @r#"
    the recipe has 3 problems
    --set train.epoch=3: unknown key `epoch` in [train]
      hint: did you mean `epochs`?
    --set adapter.lora.rank=eight: `adapter.lora.rank` is the string "eight", expected an integer
    --set name.x=1: `name` is a table, expected a string
    "#);
    insta::assert_snapshot!(set_error(&["data.source[5].path=x", "data.source.first.path=x"]), @"
    the recipe has 2 problems
    --set data.source[5].path=x: `5` is not an item of an array of 2
    --set data.source.first.path=x: `first` is not an item of an array of 2
    ");
    insta::assert_snapshot!(set_error(&["extends=base.toml"]), @"
    the recipe has a problem
    --set extends=base.toml: `extends` is read before any --set
      hint: write --set table.key=value, such as --set train.learning_rate=1e-4
    ");
}

#[test]
fn mistakes_in_extends() {
    let folder = Folder::new(&[("recipe.toml", "name = 'x'\nextends = 'base.toml'\n")]);
    insta::assert_snapshot!(folder.error(&[]), @"
    the recipe has a problem
    recipe.toml:2:11: cannot read `base.toml`: No such file or directory (os error 2)
      hint: `extends` is relative to the file that it stands in
    ");
    let folder = Folder::new(&[
        ("recipe.toml", "extends = 'lib/a.toml'\n"),
        ("lib/a.toml", "# parent\nextends = 'b.toml'\n"),
        ("lib/b.toml", "extends = '../recipe.toml'\n"),
    ]);
    insta::assert_snapshot!(folder.error(&[]), @r#"
    the recipe has a problem
    lib/b.toml:1:11: `extends = "../recipe.toml"` leads back to a file that was already read
      hint: remove one `extends`
    "#);
    let folder = Folder::new(&[("recipe.toml", "extends = ['a.toml', 'b.toml']\n")]);
    insta::assert_snapshot!(folder.error(&[]), @"
    the recipe has a problem
    recipe.toml:1:11: `extends` is an array, expected a string
      hint: name one recipe, relative to this file
    ");
    // A problem in a parent is shown in the parent.
    let folder = Folder::new(&[
        ("recipe.toml", "extends = 'base.toml'\nname = 'x'\n"),
        ("base.toml", "\n\n[train]\nepoch = 3\n"),
    ]);
    insta::assert_snapshot!(folder.error(&[]), @"
    the recipe has a problem
    base.toml:4:1: unknown key `epoch` in [train]
      hint: did you mean `epochs`?
    ");
}

#[test]
fn files_that_are_no_recipes() {
    let folder = Folder::new(&[]);
    insta::assert_snapshot!(folder.error(&[]), @"cannot read `recipe.toml`");
    let shown = |bytes: &[u8]| {
        let folder = Folder::new(&[]);
        fs::write(folder.0.path().join("recipe.toml"), bytes).unwrap();
        match folder.read(&[]).unwrap_err() {
            Error::Read { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    };
    insta::assert_snapshot!(shown(b"name = \"\xff\""), @"it is not UTF-8 text");
    insta::assert_snapshot!(shown(&vec![b'#'; 2 << 20]), @"it is longer than 1 MiB, which no recipe is");
    assert_eq!(error(""), {
        let folder = Folder::new(&[("recipe.toml", "\u{feff}")]);
        folder.error(&[])
    });
}

#[test]
fn many_problems_are_counted_and_not_all_listed() {
    let lines: String = (0..30_000).map(|i| format!("key_{i} = {i}\n")).collect();
    let text = error(&lines);
    assert!(
        text.starts_with("the recipe has 30001 problems\n"),
        "{}",
        &text[..100]
    );
    assert!(
        text.ends_with("\n... and 29951 more"),
        "{}",
        &text[text.len() - 100..]
    );
}

#[test]
fn a_child_changes_its_parent() {
    let folder = Folder::new(&[
        (
            "recipe.toml",
            "extends = 'lib/base.toml'\n[train]\nepochs = 9\n[[data.source]]\nname = 'b'\npath = 'b'\n",
        ),
        (
            "lib/base.toml",
            "extends = 'root.toml'\ntargets = 'all-linear'\n[adapter.lora]\nalpha = 4\n",
        ),
        ("lib/root.toml", GOOD),
    ]);
    let document = folder.read(&[]).unwrap();
    let recipe = document.value.clone();
    assert_eq!(recipe.name, "tiny");
    assert_eq!((recipe.train.epochs, recipe.train.learning_rate), (9, 2e-4));
    assert_eq!(
        recipe.adapter,
        Some(Adapter::Lora(Lora {
            rank: 8,
            alpha: 4.0
        }))
    );
    assert_eq!(recipe.targets, Targets::Word(AllLinear::AllLinear));
    // An array is replaced whole.
    assert_eq!(recipe.data.source.len(), 1);
    assert_eq!(document.files.len(), 3);
    assert_eq!(
        document.folder_of("adapter.lora.alpha"),
        folder.0.path().join("lib")
    );
    let line = |key: &str| match document.origin(key) {
        Origin::File { path, line } => format!("{}:{line}", path.file_name().unwrap().display()),
        other => other.to_string(),
    };
    assert_eq!(line("train.epochs"), "recipe.toml:3");
    assert_eq!(line("train.learning_rate"), "root.toml:6");
    assert_eq!(line("adapter.lora.alpha"), "base.toml:4");
    assert_eq!(line("train.packing"), "default");
}

#[test]
fn another_choice_replaces_the_parents() {
    let full = Some(Adapter::Full(Full {
        freeze_embeddings: true,
    }));
    let folder = Folder::new(&[
        (
            "recipe.toml",
            "extends = 'base.toml'\n[adapter.full]\nfreeze_embeddings = true\n",
        ),
        ("base.toml", GOOD),
    ]);
    assert_eq!(folder.read(&[]).unwrap().value.adapter, full);
    let folder = Folder::new(&[("recipe.toml", GOOD)]);
    let adapter = |set| folder.read(&[set]).unwrap().value.adapter;
    assert_eq!(adapter("adapter.full.freeze_embeddings=true"), full);
    assert_eq!(adapter("adapter={full={freeze_embeddings=true}}"), full);
    assert_eq!(adapter("adapter=frozen"), Some(Adapter::Frozen));
    assert_eq!(
        adapter("adapter.lora.alpha=16"),
        Some(Adapter::Lora(Lora {
            rank: 8,
            alpha: 16.0
        }))
    );
}

#[test]
fn sets_reach_into_arrays_and_make_tables() {
    let folder = Folder::new(&[("recipe.toml", GOOD)]);
    let document = folder
        .read(&[
            "data.source[1].path=other.jsonl",
            "data.source.0.name = a=b",
            "quotas.\"a.b\"=3",
            "free.x.y=[1, 2]",
        ])
        .unwrap();
    assert_eq!(document.value.data.source[1].path, Path::new("other.jsonl"));
    assert_eq!(document.value.data.source[0].name, "a=b");
    assert_eq!(document.value.quotas["a.b"], 3);
    assert_eq!(document.value.free["x"], serde_json::json!({"y": [1, 2]}));
    assert_eq!(
        document.origins["data.source[1].path"],
        Origin::Set("data.source[1].path=other.jsonl".into())
    );
}

#[test]
fn a_rule_that_only_the_type_knows_has_its_line_too() {
    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    struct Outer {
        inner: Even,
    }
    #[derive(Debug, Serialize, JsonSchema)]
    struct Even(u32);
    impl<'de> Deserialize<'de> for Even {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            match u32::deserialize(from)? {
                odd if odd % 2 == 1 => Err(serde::de::Error::custom(format!("{odd} is odd"))),
                even => Ok(Self(even)),
            }
        }
    }
    let folder = Folder::new(&[("recipe.toml", "\ninner = 3\n")]);
    let path = folder.0.path().join("recipe.toml");
    let Err(Error::Recipe(problems)) = read::<Outer>(&path, &[]) else {
        panic!("3 is odd")
    };
    assert_eq!((problems[0].line, problems[0].key.as_str()), (2, "inner"));
    assert_eq!(problems[0].message, "3 is odd");
}

#[test]
fn the_schema_is_an_object_that_knows_extends() {
    let schema = schema::<Recipe>();
    assert_eq!(schema["properties"]["extends"]["type"], "string");
    assert_eq!(
        schema["properties"]["name"]["description"],
        "What the run's folder is called."
    );
}

/// xorshift64*: enough to scatter edits, and the same on every machine.
struct Scatter(u64);

impl Scatter {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

#[test]
fn no_edit_of_a_recipe_makes_reading_it_panic() {
    const PIECES: &[&str] = &[
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        "\"",
        "'",
        "\"\"\"",
        "\n",
        "#",
        ",",
        "é",
        "\u{0}",
        "\r",
        "inf",
        "-nan",
        "1e999",
        "-1",
        "0x",
        "99999999999999999999",
        "1979-05-27T07:32:00Z",
        "true",
        "extends = 'recipe.toml'",
        "[adapter.full]",
        "[train]",
        "adapter = 3",
        "targets = {}",
        "[[train]]",
        "a.b.c.d",
        "\u{feff}",
    ];
    let mut scatter = Scatter(0x9E37_79B9_7F4A_7C15);
    let folder = Folder::new(&[("recipe.toml", "")]);
    let path = folder.0.path().join("recipe.toml");
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..=scatter.below(4) {
            let at = scatter.below(bytes.len());
            match scatter.below(5) {
                0 => bytes[at] = scatter.below(256) as u8,
                1 => drop(bytes.drain(at..(at + scatter.below(40)).min(bytes.len()))),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let piece = PIECES[scatter.below(PIECES.len())];
                    bytes.splice(at..at, piece.bytes());
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
        let mut set: String = (0..scatter.below(4))
            .map(|_| PIECES[scatter.below(PIECES.len())])
            .collect();
        set.insert_str(
            0,
            ["", "train.", "adapter", "data.source[0]", "targets="][scatter.below(5)],
        );
        if let Err(error) = read::<Recipe>(&path, &[set]) {
            refused += 1;
            // Printing is part of it.
            assert!(!error.to_string().is_empty());
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_megabyte_of_anything_is_read_or_refused_in_time() {
    let started = std::time::Instant::now();
    let hostile = [
        "a.".repeat(300_000),
        "[".repeat(1_000_000),
        "{a=".repeat(300_000),
        format!("name = \"{}\"", "x".repeat(1_000_000)),
        format!("name = [{}]", "1,".repeat(500_000)),
        "[[data.source]]\n".repeat(60_000),
        (0..30_000)
            .map(|i| format!("[quotas.a{i}.b]\nc = 1\n"))
            .collect::<String>(),
        format!("x = [{}]", "{a = 1}, ".repeat(100_000)),
    ];
    for text in &hostile {
        assert!(text.len() <= MAX_FILE_BYTES as usize);
        assert!(error(text).len() < 1 << 20);
    }
    // An optimised build takes a second; the bound is for what grows with the square.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
