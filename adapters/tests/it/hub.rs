//! Names of the hub, and the cache that its tools share.

use adapters::hub::{HubCache, HubName, Stated, locate_in};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap()
}

#[test]
fn names_are_those_that_a_hub_gives() {
    for good in ["meta-llama/Llama-2-7b-hf", "a/b.c_d", "org/name@refs/pr/1"] {
        assert_eq!(name(good).to_string(), good);
    }
    assert_eq!(name("a/b").revision(), "main");
    assert_eq!(name("a/b@v1.0").revision(), "v1.0");
    let bad = [
        "gpt2",
        "a/b/c",
        "../b",
        "a/..",
        "./b",
        "-a/b",
        "a/b-",
        "a--b/c",
        "a/b.gguf",
        "models/x.json",
        "a/b c",
        "a/b@",
        "a/b@../x",
        "a/b@x//y",
        "/a/b",
        "é/b",
        "a/b@.git",
    ];
    for bad in bad {
        assert_eq!(HubName::parse(bad), None, "{bad}");
    }
}

#[test]
fn the_cache_is_where_the_variables_say() {
    let cache = |set: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        HubCache::of(&variable).root().display().to_string()
    };
    let home = ("HOME", "/me");
    assert_eq!(cache(&[home]), "/me/.cache/huggingface/hub");
    assert_eq!(
        cache(&[home, ("XDG_CACHE_HOME", "/c")]),
        "/c/huggingface/hub"
    );
    assert_eq!(
        cache(&[home, ("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/c")]),
        "/hf/hub"
    );
    assert_eq!(cache(&[home, ("HF_HOME", "~/hf")]), "/me/hf/hub");
    assert_eq!(
        cache(&[home, ("HF_HUB_CACHE", "/hub"), ("HF_HOME", "/hf")]),
        "/hub"
    );
    assert_eq!(
        cache(&[home, ("HF_HUB_CACHE", "")]),
        "/me/.cache/huggingface/hub"
    );
}

#[test]
fn a_name_leads_to_the_commit_of_its_revision() {
    let root = tempfile::tempdir().unwrap();
    let cache = HubCache::at(root.path());
    let model = root.path().join("models--org--base");
    let write = |path: &str, text: &str| {
        let path = model.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let find = |text: &str| cache.find(&name(text)).ok();
    assert_eq!(find("org/base"), None);
    write("refs/main", "abc123\n");
    write("refs/v/2", "def456");
    write("snapshots/abc123/config.json", "{}");
    assert_eq!(find("org/base"), None, "no weights");
    let error = cache.find(&name("org/base")).unwrap_err();
    let shown = format!("{error}\nhint: {}", error.hint().unwrap());
    let shown = shown.replace(root.path().to_str().unwrap(), "CACHE");
    insta::assert_snapshot!(shown, @"
    the Hugging Face cache CACHE holds only a part of `org/base`
    hint: download the rest with `medtune fetch org/base`
    ");
    write("snapshots/abc123/model.safetensors", "x");
    assert_eq!(find("org/base"), Some(model.join("snapshots/abc123")));
    assert_eq!(find("org/base@abc123"), find("org/base"));
    assert_eq!(find("org/base@v/2"), None, "not downloaded");
    write("snapshots/def456/config.json", "{}");
    let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    write("snapshots/def456/model.safetensors.index.json", index);
    write("snapshots/def456/m-1.safetensors", "x");
    assert_eq!(find("org/base@v/2"), None, "a shard is missing");
    write("snapshots/def456/m-2.safetensors", "x");
    assert_eq!(find("org/base@v/2"), Some(model.join("snapshots/def456")));
    write("refs/main", "../../elsewhere");
    assert_eq!(find("org/base"), None, "a record that leads out");
}

#[test]
fn a_local_folder_wins() {
    let root = tempfile::tempdir().unwrap();
    let cache = HubCache::at(root.path().join("cache"));
    let snapshot = root.path().join("cache/models--org--base/snapshots/c0ffee");
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    fs::write(snapshot.join("model.safetensors"), "x").unwrap();
    let refs = root.path().join("cache/models--org--base/refs");
    fs::create_dir_all(&refs).unwrap();
    fs::write(refs.join("main"), "c0ffee").unwrap();
    let find = |given: &str| locate_in(Path::new(given), root.path(), &cache);
    assert_eq!(find("org/base").unwrap(), snapshot);
    fs::create_dir_all(root.path().join("org/base")).unwrap();
    assert_eq!(find("org/base").unwrap(), root.path().join("org/base"));
    assert_eq!(
        find("org/base.gguf").unwrap(),
        root.path().join("org/base.gguf")
    );
    let error = find("org/bass").unwrap_err();
    let shown = format!("{error}\nhint: {}", error.hint().unwrap());
    let shown = shown.replace(root.path().to_str().unwrap(), "ROOT");
    insta::assert_snapshot!(shown, @"
    there is no folder `org/bass`, and no such model in the Hugging Face cache ROOT/cache
    hint: download it with `medtune fetch org/bass`, or give a Hugging Face folder or a .gguf file that is on this machine
    ");
}

#[test]
fn terms_are_read_from_front_matter_only() {
    let licence = |text: &str| Stated::of(text).licence;
    assert_eq!(
        licence("---\nlicense: apache-2.0\n---\n"),
        Some("apache-2.0".into())
    );
    let other = "---\nlicense: other\nlicense_name: 'llama3.1'\n---\n";
    assert_eq!(licence(other), Some("llama3.1".into()));
    assert_eq!(licence("---\nlicense: other\n---\n"), Some("other".into()));
    assert_eq!(licence("---\ntags: [a]\n---\nlicense: mit\n"), None);
    assert_eq!(licence("license: mit\n"), None);
    assert_eq!(licence("---\nlicense: [a](b)\n---\n"), None);
    assert_eq!(licence(""), None);
    let languages = |text: &str| Stated::of(text).languages;
    assert_eq!(languages("---\nlanguage: en\n---\n"), ["en"]);
    assert_eq!(
        languages("---\nlanguage:\n- en\n  - fr\ntags:\n- x\n---\n"),
        ["en", "fr"]
    );
    assert_eq!(languages("---\nlicense: mit\n---\n"), Vec::<String>::new());
}
