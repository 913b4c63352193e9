//! `medtune fetch`, against a hub of the tests' own, and finding what it fetched.

use std::fs;
use std::path::{Path, PathBuf};

use super::hub::{COMMIT, Fault, Hub, git_id, is_large, sha256};
use super::{Place, Said};

/// The quickstart's base, and files that no model needs.
fn tiny() -> Vec<(&'static str, Vec<u8>)> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/quickstart/base");
    let mut files: Vec<_> = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    .map(|name| (name, fs::read(base.join(name)).unwrap()))
    .into();
    files.extend([
        (
            "README.md",
            b"---\nlicense: apache-2.0\n---\n# tiny\n".to_vec(),
        ),
        ("LICENSE", b"terms".to_vec()),
        ("pytorch_model.bin", b"pickled".to_vec()),
        ("onnx/model.onnx", b"other".to_vec()),
    ]);
    files
}

/// A model in two shards, too small to be opened.
fn shards() -> Vec<(&'static str, Vec<u8>)> {
    let index =
        r#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#;
    vec![
        ("config.json", b"{}".to_vec()),
        (
            "model-1-of-2.safetensors",
            (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect(),
        ),
        ("model-2-of-2.safetensors", b"the second".to_vec()),
        ("model-3-of-2.safetensors", b"not in the index".to_vec()),
        ("model.safetensors.index.json", index.into()),
    ]
}

fn fetch(place: &Place, hub: &Hub, args: &[&str]) -> Said {
    with(place, hub, &[], &[&["fetch", "org/tiny"], args].concat())
}

fn with(place: &Place, hub: &Hub, variables: &[(&str, &str)], args: &[&str]) -> Said {
    let mut command = place.command(args);
    for name in [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ] {
        command.env_remove(name);
    }
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &hub.address);
    command.envs(variables.iter().copied());
    Said::of(command.output().unwrap())
}

/// What a failing fetch says, with the test's addresses left out.
fn says(place: &Place, hub: &Hub, variables: &[(&str, &str)], args: &[&str]) -> String {
    let said = with(place, hub, variables, args).failure();
    said.replace(&hub.address, "HUB")
}

fn model(place: &Place) -> PathBuf {
    place.path("huggingface/hub/models--org--tiny")
}

/// Every file below a folder with its folders, sorted; links as their target.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    let mut shown: Vec<String> = found
        .iter()
        .map(|path| {
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            match fs::read_link(path) {
                Ok(to) => format!("{name} -> {}", to.display()),
                Err(_) => name,
            }
        })
        .collect();
    shown.sort();
    shown
}

fn contents(hub: &Hub) -> Vec<String> {
    let is_content =
        |request: &String| request.starts_with("GET ") && !request.contains("/api/models/");
    hub.requests().into_iter().filter(is_content).collect()
}

#[test]
fn a_model_comes_into_the_cache_of_the_hubs_tools() {
    let (place, files) = (Place::new(), tiny());
    let hub = Hub::with(&files);
    let said = fetch(&place, &hub, &[]).ok();
    let snapshot = model(&place).join("snapshots").join(COMMIT);
    let relative = snapshot.strip_prefix(place.0.path()).unwrap();
    assert_eq!(said.stdout, format!("{}\n", relative.display()));
    assert!(
        said.stderr.starts_with("fetch  7 files, "),
        "{}",
        said.stderr
    );
    assert_eq!(
        fs::read_to_string(model(&place).join("refs/main")).unwrap(),
        COMMIT
    );
    let needed: Vec<_> = files
        .iter()
        .filter(|(name, _)| !name.ends_with(".bin") && !name.starts_with("onnx"))
        .collect();
    let mut links: Vec<String> = needed
        .iter()
        .map(|(name, bytes)| {
            let etag = if is_large(name) {
                sha256(bytes)
            } else {
                git_id(bytes)
            };
            format!("{name} -> ../../blobs/{etag}")
        })
        .collect();
    links.sort();
    assert_eq!(tree(&snapshot), links);
    for (name, bytes) in needed {
        assert_eq!(fs::read(snapshot.join(name)).unwrap(), *bytes);
    }
    assert_eq!(tree(&model(&place).join("blobs")).len(), 7);
    let asked = hub.requests();
    assert_eq!(asked[0], "GET /api/models/org/tiny/revision/main");

    // Another time nothing comes.
    let again = fetch(&place, &hub, &["--json"]).ok().json();
    assert_eq!(again["downloaded_bytes"], 0);
    assert_eq!(again["commit"], COMMIT);
    assert_eq!(contents(&hub), Vec::<String>::new());

    // What is there by its name is found without a connection, in commands and in recipes.
    hub.requests();
    let logits = |model: &str| {
        with(&place, &hub, &[], &["logits", model, "--ids", "1,5,9"])
            .ok()
            .stdout
    };
    let folder = format!("{}/recipes/quickstart/base", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(logits("org/tiny"), logits(&folder));
    assert_eq!(logits(&format!("org/tiny@{COMMIT}")), logits(&folder));
    let random = "init = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"";
    place.edit("recipe.toml", random, "path = \"org/tiny\"");
    let run = with(
        &place,
        &hub,
        &[],
        &["train", "recipe.toml", "--set", "train.max_steps=1"],
    )
    .ok();
    assert!(run.stderr.contains("train  1 steps"), "{}", run.stderr);
    let config = fs::read_to_string(place.path("runs/tiny/adapter/adapter_config.json")).unwrap();
    assert!(
        config.contains(r#""base_model_name_or_path": "org/tiny""#),
        "{config}"
    );
    let planned = with(&place, &hub, &[], &["plan", "recipe.toml"])
        .ok()
        .stdout;
    assert!(
        planned.contains(&format!(
            "here     huggingface/hub/models--org--tiny/snapshots/{COMMIT}"
        )),
        "{planned}"
    );
    // A folder of that name wins.
    place.write("org/tiny/config.json", b"{}");
    let local = with(&place, &hub, &[], &["logits", "org/tiny", "--ids", "1"]);
    assert!(
        local.stderr.contains("org/tiny is not a model"),
        "{}",
        local.stderr
    );
    assert_eq!(hub.requests(), Vec::<String>::new());
}

#[test]
fn shards_are_those_of_the_index_and_revisions_are_recorded() {
    let place = Place::new();
    let hub = Hub::with(&shards());
    fetch(&place, &hub, &["--revision", "v/2"]).ok();
    let names: Vec<String> = tree(&model(&place).join("snapshots").join(COMMIT))
        .iter()
        .map(|link| link.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "config.json",
            "model-1-of-2.safetensors",
            "model-2-of-2.safetensors",
            "model.safetensors.index.json"
        ]
    );
    assert_eq!(tree(&model(&place).join("refs")), ["v/2"]);
    let found = |name: &str| with(&place, &hub, &[("HF_HUB_OFFLINE", "1")], &["fetch", name]).code;
    assert_eq!(found("org/tiny@v/2"), 0);
    assert_eq!(found(&format!("org/tiny@{COMMIT}")), 0);
    assert_eq!(found("org/tiny"), 2, "no one asked for main");
    // By a commit there is nothing to record.
    let other = Place::new();
    fetch(&other, &hub, &["--revision", COMMIT, "--include", "*1-of*"]).ok();
    assert_eq!(tree(&model(&other).join("refs")), Vec::<String>::new());
    assert_eq!(tree(&model(&other).join("snapshots")).len(), 1);
}

#[test]
fn what_broke_off_is_gone_on_with() {
    let (place, files) = (Place::new(), shards());
    let hub = Hub::with(&files);
    let first = "model-1-of-2.safetensors";
    // It breaks off with something new, and then for good.
    hub.fail(
        &format!("GET {first}"),
        &[
            Fault::Cut(70_000),
            Fault::Cut(30_001),
            Fault::Status(403, ""),
        ],
    );
    let failed = fetch(&place, &hub, &[]);
    assert_eq!(failed.code, 2, "{}", failed.stderr);
    let etag = sha256(&files[1].1);
    let partial = model(&place)
        .join("blobs")
        .join(format!("{etag}.incomplete"));
    let arrived = fs::metadata(&partial).unwrap().len();
    assert!(arrived > 0 && arrived <= 100_001, "{arrived}");
    // Nothing looks finished.
    assert!(!model(&place).join("snapshots").exists());
    assert!(!model(&place).join("refs").exists());
    assert!(!model(&place).join("blobs").join(&etag).exists());
    insta::assert_snapshot!(says(&place, &hub, &[], &["logits", "org/tiny", "--ids", "1"]), @"
    exit 2
    error: there is no folder `org/tiny`, and no such model in the Hugging Face cache huggingface/hub
    hint: download it with `medtune fetch org/tiny`, or give a Hugging Face folder or a .gguf file that is on this machine
    ");
    let asked = contents(&hub);
    assert!(
        asked.iter().any(|request| request.contains(" from ")),
        "{asked:?}"
    );

    fetch(&place, &hub, &[]).ok();
    let asked = contents(&hub);
    assert!(
        asked.contains(&format!("GET /{first}?signed from {arrived}")),
        "{asked:?}"
    );
    let snapshot = model(&place).join("snapshots").join(COMMIT);
    assert_eq!(fs::read(snapshot.join(first)).unwrap(), files[1].1);
    assert!(!partial.exists());
}

#[test]
fn what_was_begun_wrongly_starts_over() {
    let files = shards();
    let (first, bytes) = (&files[1].0, &files[1].1);
    let etag = sha256(bytes);
    let begun = |part: &[u8], faults: &[Fault]| {
        let place = Place::new();
        let hub = Hub::with(&files);
        hub.fail(&format!("GET {first}"), faults);
        let partial = format!("huggingface/hub/models--org--tiny/blobs/{etag}.incomplete");
        place.write(&partial, part);
        fetch(&place, &hub, &[]).ok();
        let path = model(&place).join("snapshots").join(COMMIT).join(first);
        assert_eq!(fs::read(path).unwrap(), *bytes);
        let asked = contents(&hub).into_iter();
        asked
            .filter(|request| request.contains("?signed") && request.contains(first))
            .count()
    };
    // Another content, one that is too long, a whole wrong one, and a server that cannot go on.
    assert_eq!(begun(b"something else", &[]), 2);
    assert_eq!(begun(&vec![1; bytes.len() + 1], &[]), 1);
    assert_eq!(begun(&vec![1; bytes.len()], &[]), 1);
    assert_eq!(begun(&bytes[..1000], &[Fault::FromTheStart]), 1);
    // A whole right one that was not renamed.
    assert_eq!(begun(bytes, &[]), 0);
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let place = Place::new();
    let hub = Hub::with(&shards());
    let busy = [Fault::Status(500, ""), Fault::Status(429, "")];
    hub.fail("GET api", &busy[..1]);
    hub.fail("HEAD config.json", &busy);
    hub.fail(
        "GET model-2-of-2.safetensors",
        &[Fault::Cut(3), Fault::TooLong, Fault::Status(503, "")],
    );
    fetch(&place, &hub, &[]).ok();
    let place = Place::new();
    hub.fail("GET api", &[Fault::Status(502, ""); 9]);
    insta::assert_snapshot!(says(&place, &hub, &[], &["fetch", "org/tiny"]), @"
    exit 3
    error: asking for `org/tiny` failed 5 times: HUB answered 502 Bad Gateway
    hint: what has arrived is kept: the same command goes on from there
    ");
}

#[test]
fn a_content_that_is_not_the_one_promised_is_refused() {
    let (place, files) = (Place::new(), shards());
    let hub = Hub::with(&files);
    hub.fail("GET model-2-of-2.safetensors", &[Fault::Wrong]);
    let said = says(&place, &hub, &[], &["fetch", "org/tiny"]);
    let promised = sha256(&files[2].1);
    assert!(
        said.starts_with(
            "exit 3\nerror: model-2-of-2.safetensors came whole and wrong: its hash is "
        ),
        "{said}"
    );
    assert!(
        said.contains(&format!("the hub states {promised}")),
        "{said}"
    );
    assert!(!model(&place).join("blobs").join(promised).exists());
    assert!(!model(&place).join("refs").exists());
    // Small files are named by git's hash.
    let place = Place::new();
    hub.fail("GET config.json", &[Fault::Wrong]);
    let said = says(&place, &hub, &[], &["fetch", "org/tiny"]);
    assert!(said.contains("config.json came whole and wrong"), "{said}");
}

#[test]
fn a_token_goes_to_the_hub_alone_and_is_never_shown() {
    let place = Place::new();
    let hub = Hub::with(&tiny());
    let token = "hf_averysecrettoken";
    with(&place, &hub, &[("HF_TOKEN", token)], &["fetch", "org/tiny"]).ok();
    let asked = hub.requests();
    let (elsewhere, here): (Vec<_>, Vec<_>) = asked
        .iter()
        .partition(|request| request.contains("?signed"));
    assert!(
        here.iter()
            .all(|request| request.ends_with(&format!(" as Bearer {token}"))),
        "{here:?}"
    );
    assert_eq!(elsewhere, ["GET /model.safetensors?signed"]);
    // The file that `hf auth login` writes, and not to be sent at all.
    place.write("huggingface/token", b"hf_fromthefile\n");
    fetch(&place, &hub, &[]).ok();
    assert!(hub.requests()[0].ends_with(" as Bearer hf_fromthefile"));
    with(
        &place,
        &hub,
        &[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")],
        &["fetch", "org/tiny"],
    )
    .ok();
    assert!(
        hub.requests()
            .iter()
            .all(|request| !request.contains("Bearer"))
    );
    for (status, code) in [
        (401, ""),
        (403, "GatedRepo"),
        (500, ""),
        (404, "RepoNotFound"),
    ] {
        hub.fail("GET api", &[Fault::Status(status, code); 5]);
        let said = with(&place, &hub, &[("HF_TOKEN", token)], &["fetch", "org/tiny"]);
        assert_ne!(said.code, 0);
        assert!(!format!("{}{}", said.stderr, said.stdout).contains(token));
    }
    let odd = says(
        &place,
        &hub,
        &[("HF_TOKEN", "two words\u{1b}[31m")],
        &["fetch", "org/tiny"],
    );
    insta::assert_snapshot!(odd, @"
    exit 2
    error: HF_TOKEN holds something that is not a token
    hint: a token is one word, such as hf_...; `hf auth login` writes it where it is looked for
    ");
}

#[test]
fn without_a_connection_nothing_is_asked() {
    let place = Place::new();
    let hub = Hub::with(&tiny());
    let offline = [("HF_HUB_OFFLINE", "1")];
    insta::assert_snapshot!(says(&place, &hub, &offline, &["fetch", "org/tiny"]), @"
    exit 2
    error: HF_HUB_OFFLINE is set, and `org/tiny` is not in the cache `huggingface/hub`
    hint: unset HF_HUB_OFFLINE to download it, or copy the cache's folder from a machine that has it
    ");
    assert_eq!(hub.requests(), Vec::<String>::new());
    fetch(&place, &hub, &[]).ok();
    hub.requests();
    let said = with(&place, &hub, &offline, &["fetch", "org/tiny"]).ok();
    assert_eq!(
        said.stdout,
        format!("huggingface/hub/models--org--tiny/snapshots/{COMMIT}\n")
    );
    assert_eq!(hub.requests(), Vec::<String>::new());
    // A part is not a model.
    fs::remove_file(
        model(&place)
            .join("snapshots")
            .join(COMMIT)
            .join("model.safetensors"),
    )
    .unwrap();
    insta::assert_snapshot!(says(&place, &hub, &[], &["logits", "org/tiny", "--ids", "1"]), @"
    exit 2
    error: the Hugging Face cache huggingface/hub holds only a part of `org/tiny`
    hint: download the rest with `medtune fetch org/tiny`
    ");
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    let hub = Hub::with(&tiny());
    let refused = |status: u16, code: &'static str, token: &[(&str, &str)]| {
        hub.fail("GET api", &[Fault::Status(status, code)]);
        says(&place, &hub, token, &["fetch", "org/tiny"])
    };
    let token = [("HF_TOKEN", "hf_x")];
    insta::assert_snapshot!(refused(401, "RepoNotFound", &[]), @"
    exit 2
    error: there is no model `org/tiny` that everyone may see
    hint: check the spelling; if it is private or gated, accept its terms on HUB/org/tiny and set HF_TOKEN to a token of https://huggingface.co/settings/tokens, or run `hf auth login`
    ");
    insta::assert_snapshot!(refused(401, "GatedRepo", &[]), @"
    exit 2
    error: `org/tiny` is gated, and there is no token
    hint: accept its terms on HUB/org/tiny, then set HF_TOKEN to a token of https://huggingface.co/settings/tokens, or run `hf auth login`
    ");
    insta::assert_snapshot!(refused(401, "", &token), @"
    exit 2
    error: the hub does not take your token for `org/tiny`
    hint: check the spelling of the name, and that the token is still valid: `hf auth whoami`
    ");
    insta::assert_snapshot!(refused(403, "GatedRepo", &token), @"
    exit 2
    error: `org/tiny` is gated, and your token's account has not been given access
    hint: accept its terms on HUB/org/tiny; a fine-grained token must also be allowed to read gated models
    ");
    insta::assert_snapshot!(refused(404, "RepoNotFound", &token), @"
    exit 2
    error: there is no model `org/tiny`
    hint: check the spelling; if it is private, set HF_TOKEN to a token of https://huggingface.co/settings/tokens, or run `hf auth login`
    ");
    insta::assert_snapshot!(refused(418, "", &[]), @"
    exit 2
    error: HUB answered 418 I'm a teapot for `org/tiny`
    ");
    let said = |args: &[&str]| says(&place, &hub, &[], args);
    insta::assert_snapshot!(said(&["fetch", "org/tiny", "--revision", "v9"]), @"
    exit 2
    error: `org/tiny` has no revision `v9`
    hint: branches and tags are on HUB/org/tiny/tree/main; leave --revision out for the newest
    ");
    insta::assert_snapshot!(said(&["fetch", "org/tiny", "--revision", "../v9"]), @"
    exit 2
    error: `../v9` is not a branch, a tag or a commit
    hint: such as main, v1.0 or 0123abc
    ");
    insta::assert_snapshot!(said(&["fetch", "gpt2"]), @"
    exit 2
    error: `gpt2` is not a model's name
    hint: a model is ORG/NAME as on the hub's page, such as HuggingFaceTB/SmolLM2-135M
    ");
    hub.fail("HEAD config.json", &[Fault::Status(404, "EntryNotFound")]);
    insta::assert_snapshot!(said(&["fetch", "org/tiny"]), @"
    exit 2
    error: `org/tiny` has no file config.json
    hint: it may have been changed just now: try again
    ");
    insta::assert_snapshot!(says(
        &place,
        &hub,
        &[("HF_ENDPOINT", "hub.co")],
        &["fetch", "org/tiny"]
    ), @"
    exit 2
    error: HF_ENDPOINT is `hub.co`, which is no address
    hint: give one with http:// or https://, or none
    ");
    hub.fail("GET api", &[Fault::Wrong]);
    insta::assert_snapshot!(said(&["fetch", "org/tiny"]), @"
    exit 2
    error: HUB does not answer as a Hugging Face Hub does
    hint: is HF_ENDPOINT right, and is there a proxy that asks for a login?
    ");
    let pickled = Hub::with(&[("config.json", vec![1]), ("pytorch_model.bin", vec![2])]);
    insta::assert_snapshot!(says(&place, &pickled, &[], &["fetch", "org/tiny"]), @"
    exit 2
    error: org/tiny holds only pickled weights (pytorch_model.bin), which medtune does not read
    hint: pickled files can run code when they are opened: convert them to safetensors with transformers' save_pretrained(safe_serialization=True)
    ");
    let outside = Hub::with(&[("config.json", vec![1]), ("../model.safetensors", vec![2])]);
    insta::assert_snapshot!(says(&place, &outside, &[], &["fetch", "org/tiny"]), @"
    exit 2
    error: `org/tiny` lists a file `../model.safetensors`, which would lie outside of its folder
    ");
}
