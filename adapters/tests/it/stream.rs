//! Models of several files, tensors of several units of work, and the same bytes whatever the number of threads.

use crate::support::{golden, lora, random_weights_in, read_tensors, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::recipe::Verify;
use adapters::{ExportOptions, MergeOptions, MergeReport, Weights, convert, merge};
use candle_core::DType;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn options(max_shard_bytes: u64) -> MergeOptions<'static> {
    MergeOptions {
        export: ExportOptions {
            max_shard_bytes,
            ..Default::default()
        },
        verify: Verify::Full,
        ..Default::default()
    }
}

fn index(dir: &Path) -> Value {
    let text = std::fs::read(dir.join("model.safetensors.index.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let name =
        |f: std::io::Result<std::fs::DirEntry>| f.unwrap().file_name().into_string().unwrap();
    std::fs::read_dir(dir).unwrap().map(name).collect()
}

#[test]
fn shards_hold_what_one_file_holds_and_their_index_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let (one, several, from_shards) = (
        dir.path().join("one"),
        dir.path().join("several"),
        dir.path().join("from_shards"),
    );
    let base = Weights::open(&golden("llama")).unwrap();
    let adapter = PeftAdapter::load(&golden("llama/adapter")).unwrap();
    let whole = merge(&base, &adapter, &one, &options(u64::MAX)).unwrap();
    let limit = 20_000;
    let sharded = merge(&base, &adapter, &several, &options(limit)).unwrap();
    assert!(files(&one).contains("model.safetensors"));
    assert!(sharded.files.len() > 2 && whole.files.len() == 1);
    assert!(!files(&several).contains("model.safetensors"));

    let index = index(&several);
    let map = index["weight_map"].as_object().unwrap();
    let expected = read_tensors(&one.join("model.safetensors"));
    assert_eq!(map.len(), expected.len());
    let mut total = 0;
    for file in &sharded.files {
        let tensors = read_tensors(&several.join(&file.path));
        let bytes: usize = tensors.values().map(|t| 4 * t.elem_count()).sum();
        assert!(bytes as u64 <= limit || tensors.len() == 1, "{}", file.path);
        total += bytes;
        for (name, tensor) in tensors {
            assert_eq!(map[&name], file.path.as_str());
            let same = (&tensor - &expected[&name]).unwrap().abs().unwrap();
            assert_eq!(
                same.flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap(),
                0.0
            );
        }
        let bytes = std::fs::read(several.join(&file.path)).unwrap();
        assert_eq!(ledger::hash::sha256_bytes(&bytes), file.sha256);
        assert_eq!(bytes.len() as u64, file.bytes);
    }
    assert_eq!(index["metadata"]["total_size"], total);

    // The fingerprint made on the way is that of the base, however it is spread over files.
    assert_eq!(whole.base_fingerprint, base.fingerprint().unwrap());
    let as_shards = dir.path().join("base");
    convert(&base, &as_shards, &options(limit).export).unwrap();
    let as_shards = Weights::open(&as_shards).unwrap();
    let again = merge(&as_shards, &adapter, &from_shards, &options(u64::MAX)).unwrap();
    assert_eq!(again.base_fingerprint, whole.base_fingerprint);
    let merged = |dir: &Path| Weights::open(dir).unwrap().fingerprint().unwrap();
    assert_eq!(merged(&from_shards), merged(&one));
    assert_eq!(merged(&several), merged(&one));
}

const MODULE: &str = "model.layers.0.mlp.up_proj";

/// Tensors larger than what is computed, hashed and written at a time, in bf16 on the disk.
fn large(dir: &Path) -> (Weights, PeftAdapter) {
    let name = format!("{MODULE}.weight");
    let random = random_weights_in(
        "bfloat16",
        &[
            (&name, &[1031, 1100]),
            ("model.embed_tokens.weight", &[2203, 1100]),
            ("model.norm.weight", &[1100]),
        ],
    );
    convert(&random, dir, &ExportOptions::default()).unwrap();
    let key = |which: &str| format!("base_model.model.{MODULE}.{which}.weight");
    let adapter = PeftAdapter {
        config: PeftConfig {
            lora: lora(3, 4.0, 0.0, &["up_proj"]),
            ensure_weight_tying: false,
            base_model: None,
        },
        tensors: BTreeMap::from([
            (key("lora_A"), tensor((3, 1100), DType::F32, 3)),
            (key("lora_B"), tensor((1031, 3), DType::F32, 4)),
        ]),
        belonging: None,
    };
    (Weights::open(dir).unwrap(), adapter)
}

#[test]
fn large_tensors_are_whole_and_the_same_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = large(&dir.path().join("base"));
    let run = |threads: usize| -> (MergeReport, Vec<u8>) {
        let out = dir.path().join(format!("merged{threads}"));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let report = pool.install(|| merge(&base, &adapter, &out, &options(u64::MAX)).unwrap());
        (
            report,
            std::fs::read(out.join("model.safetensors")).unwrap(),
        )
    };
    let (report, bytes) = run(1);
    let proof = report.proof.unwrap();
    assert!(proof.read_back && proof.holds());
    assert!(
        proof.max_steps > 0.49 && proof.max_steps <= 0.5,
        "{}",
        proof.max_steps
    );
    assert_eq!((proof.targeted, proof.untouched), (1, 2));
    for threads in [2, 5] {
        let (again, same) = run(threads);
        assert_eq!(
            serde_json::to_string(&again.proof).unwrap(),
            serde_json::to_string(&Some(&proof)).unwrap()
        );
        assert!(same == bytes, "{threads} threads");
    }

    // Against the sum in f64, at elements of every part.
    let merged = read_tensors(&dir.path().join("merged1/model.safetensors"));
    let rows = |t: &candle_core::Tensor| t.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let name = format!("{MODULE}.weight");
    let (m, w) = (
        rows(&merged[&name]),
        rows(&base.view(&name).unwrap().tensor(DType::F32).unwrap()),
    );
    let (a, b) = adapter.pair(MODULE).unwrap();
    let (a, b) = (rows(a), rows(b));
    for i in (0..1031).step_by(17).chain([1030]) {
        for j in (0..1100).step_by(13).chain([1099]) {
            let delta: f64 = (0..3).map(|k| b[i][k] * a[k][j]).sum();
            let wanted = w[i][j] + 4.0 / 3.0 * delta;
            let step = 2f64.powi(wanted.abs().max(w[i][j].abs()).log2().floor() as i32 - 7);
            assert!((m[i][j] - wanted).abs() <= 0.501 * step, "{i} {j}");
        }
    }
}

#[test]
fn however_it_is_proven_the_model_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = large(&dir.path().join("base"));
    let run = |verify: Verify, name: &str| {
        let out = dir.path().join(name);
        let options = MergeOptions {
            verify,
            ..options(u64::MAX)
        };
        let report = merge(&base, &adapter, &out, &options).unwrap();
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        assert_eq!(ledger::hash::sha256_bytes(&bytes), report.files[0].sha256);
        (report, bytes)
    };
    // The first two go past the page cache where they can.
    let (proven, bytes) = run(Verify::Tensors, "tensors");
    let (unproven, same) = run(Verify::None, "none");
    assert!(unproven.proof.is_none() && same == bytes);
    let (again, same) = run(Verify::Standard, "standard");
    assert!(same == bytes);
    let json = |report: &MergeReport| serde_json::to_string(report).unwrap();
    assert_eq!(json(&again), json(&proven));
    let proof = proven.proof.unwrap();
    assert!(!proof.read_back && proof.holds() && proof.targeted == 1);
    let (full, same) = run(Verify::Full, "full");
    assert!(same == bytes && full.proof.unwrap().read_back);
}

#[test]
fn an_adapter_is_taken_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let base = Weights::open(&golden("llama")).unwrap();
    let adapter = PeftAdapter::load(&golden("llama/adapter")).unwrap();
    let (merged, back) = (dir.path().join("merged"), dir.path().join("back"));
    merge(&base, &adapter, &merged, &options(u64::MAX)).unwrap();
    let subtract = MergeOptions {
        subtract: true,
        ..options(u64::MAX)
    };
    let merged = Weights::open(&merged).unwrap();
    let report = merge(&merged, &adapter, &back, &subtract).unwrap();
    assert!(report.proof.unwrap().holds());
    let back = Weights::open(&back).unwrap();
    let mut apart = 0.0f64;
    for view in base.views() {
        let numbers = |w: &Weights| {
            let t = w.view(&view.name).unwrap().tensor(DType::F64).unwrap();
            t.flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        for (a, b) in numbers(&base).iter().zip(numbers(&back)) {
            apart = apart.max((a - b).abs());
        }
    }
    assert!(apart > 0.0 && apart < 1e-6, "{apart}");

    let mut refusals = Vec::new();
    for variant in ["dora", "saved"] {
        let adapter = PeftAdapter::load(&golden("llama").join(variant)).unwrap();
        let error = refused(merge(&merged, &adapter, &dir.path().join("no"), &subtract));
        refusals.push(shown(&error, dir.path()));
    }
    assert!(!dir.path().join("no").exists() && !dir.path().join("no.partial").exists());
    insta::assert_snapshot!(refusals.join("\n"), @"
    the adapter cannot be subtracted: it is a DoRA, whose merge sets the length of each row: the base's is not in the merged model
    hint: keep the base: it is what is left without the adapter
    the adapter cannot be subtracted: it holds whole copies of modules, whose merge replaces the base's: they are not in the merged model
    hint: keep the base: it is what is left without the adapter
    ");
}

#[test]
fn a_failing_writer_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = large(&dir.path().join("base"));
    // A folder where a file is to be: the writer fails while the others work.
    let out = dir.path().join("merged");
    std::fs::create_dir_all(out.join("model.safetensors")).unwrap();
    let error = refused(adapters::merge_into(
        &base,
        &adapter,
        &out,
        &options(u64::MAX),
    ));
    insta::assert_snapshot!(shown(&error, dir.path()), @"DIR/merged/model.safetensors: Is a directory (os error 21)");
}
