//! Hugging Face folders: one file or shards, and what must be refused.

use crate::support::{
    change_every_byte, distance, json_file, numbers, random_weights, refuse_every_prefix, refused,
    shown, write_safetensors,
};
use adapters::Weights;
use candle_core::DType;
use serde_json::json;
use std::path::Path;

const A: (&str, &[usize]) = ("model.layers.0.mlp.up_proj.weight", &[3, 5]);
const B: (&str, &[usize]) = ("model.norm.weight", &[5]);

fn tensors() -> [(&'static str, &'static [usize], Vec<f32>); 2] {
    [(A.0, A.1, numbers(15, 1)), (B.0, B.1, numbers(5, 2))]
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    json_file(
        &dir.path().join("config.json"),
        &json!({"model_type": "llama"}),
    );
    dir
}

fn single() -> tempfile::TempDir {
    let dir = folder();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors());
    dir
}

fn sharded(weight_map: serde_json::Value) -> tempfile::TempDir {
    let dir = folder();
    let [a, b] = tensors();
    write_safetensors(&dir.path().join("model-00001-of-00002.safetensors"), &[a]);
    write_safetensors(&dir.path().join("model-00002-of-00002.safetensors"), &[b]);
    json_file(
        &dir.path().join("model.safetensors.index.json"),
        &json!({"weight_map": weight_map}),
    );
    dir
}

fn error(dir: &Path) -> String {
    shown(&refused(Weights::open(dir)), dir)
}

#[test]
fn one_file_and_shards_are_the_same_model() {
    let (one, two) = (
        single(),
        sharded(
            json!({A.0: "model-00001-of-00002.safetensors", B.0: "model-00002-of-00002.safetensors"}),
        ),
    );
    let (one, two) = (
        Weights::open(one.path()).unwrap(),
        Weights::open(two.path()).unwrap(),
    );
    assert_eq!(one.names().collect::<Vec<_>>(), [A.0, B.0]);
    for name in one.names() {
        let a = one.view(name).unwrap().tensor(DType::F32).unwrap();
        assert_eq!(a.dims(), if name == A.0 { A.1 } else { B.1 });
        assert_eq!(
            distance(&a, &two.view(name).unwrap().tensor(DType::F32).unwrap()),
            0.0
        );
    }
    assert_eq!(one.fingerprint().unwrap(), two.fingerprint().unwrap());
    assert_eq!(one.config()["model_type"], "llama");
}

#[test]
fn a_fingerprint_changes_with_anything_that_matters() {
    let dir = single();
    let print = || Weights::open(dir.path()).unwrap().fingerprint().unwrap();
    let first = print();
    let config = |v| json_file(&dir.path().join("config.json"), &v);
    config(json!({"transformers_version": "5.0", "_name_or_path": "x", "model_type": "llama"}));
    assert_eq!(print(), first);
    config(json!({"model_type": "llama", "rms_norm_eps": 1e-6}));
    assert_ne!(print(), first);
    config(json!({"model_type": "llama"}));
    let [a, mut b] = tensors();
    b.2[4] += 1e-6;
    write_safetensors(&dir.path().join("model.safetensors"), &[a, b]);
    assert_ne!(print(), first);
}

#[test]
fn paths_that_are_no_model_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let touch = |name: &str| std::fs::write(path.join(name), "x").unwrap();
    insta::assert_snapshot!(shown(&refused(Weights::open(&path.join("absent"))), path), @r"
    DIR/absent does not exist
    hint: give a Hugging Face folder or a .gguf file that is on this machine
    ");
    insta::assert_snapshot!(shown(&refused(Weights::open(&path.join("absent.gguf"))), path), @r"
    DIR/absent.gguf does not exist
    hint: check the spelling of the file's path
    ");
    insta::assert_snapshot!(error(path), @r"
    DIR is not a model: it holds neither model.safetensors nor model.safetensors.index.json
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    touch("model-q4.gguf");
    insta::assert_snapshot!(error(path), @r"
    DIR is not a model: it is a folder of GGUF files; give the file, such as model-q4.gguf
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    touch("pytorch_model-00001-of-00002.bin");
    insta::assert_snapshot!(error(path), @r"
    DIR holds only pickled weights (pytorch_model-00001-of-00002.bin), which medtune does not read
    hint: pickled files can run code when they are opened: convert them to safetensors with transformers' save_pretrained(safe_serialization=True)
    ");
    touch("model-00001-of-00002.safetensors");
    insta::assert_snapshot!(error(path), @r"
    DIR is not a model: it holds model-00001-of-00002.safetensors and no model.safetensors.index.json
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    touch("adapter_model.safetensors");
    insta::assert_snapshot!(error(path), @r"
    DIR is not a model: it is an adapter; give its base model, and this folder as the adapter
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    insta::assert_snapshot!(shown(&refused(Weights::open(&path.join("adapter_model.safetensors"))), path), @r"
    DIR/adapter_model.safetensors is not a model: it is one file of a folder; give the folder
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    insta::assert_snapshot!(shown(&refused(Weights::open(&path.join("model-q4.gguf"))), path), @r"
    DIR/model-q4.gguf is truncated: it holds 1 bytes and its header promises 4
    hint: copy or download the file again
    ");
}

#[test]
fn configurations_that_do_not_read_are_named() {
    let dir = single();
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": ").unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/config.json is not valid JSON: EOF while parsing a value at line 1 column 15
    hint: the file is not as its writer left it: copy or download it again
    ");
    std::fs::write(dir.path().join("config.json"), "[]").unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR is not a model: its config.json is not an object
    hint: a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file
    ");
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/config.json does not exist
    hint: the folder is incomplete: copy or download it again
    ");
}

#[test]
fn indices_that_do_not_fit_their_shards_are_named() {
    let index = |map| error(sharded(map).path());
    let second = "model-00002-of-00002.safetensors";
    insta::assert_snapshot!(index(json!({A.0: "model-00001-of-00003.safetensors"})), @r"
    DIR/model.safetensors.index.json names the shard model-00001-of-00003.safetensors, which is not in the folder
    hint: copy or download the missing shard, or the whole folder again
    ");
    insta::assert_snapshot!(index(json!({A.0: second, B.0: second})), @r"
    DIR/model.safetensors.index.json places tensor `model.layers.0.mlp.up_proj.weight` in model-00002-of-00002.safetensors, which does not hold it
    hint: the index and the shards belong to different versions: download the folder again
    ");
    insta::assert_snapshot!(index(json!({A.0: "../../etc/passwd"})), @r"
    DIR/model.safetensors.index.json is damaged: `../../etc/passwd` is not the name of a file in its folder
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(index(json!({A.0: 3})), @r"
    DIR/model.safetensors.index.json is damaged: `weight_map` gives no file for `model.layers.0.mlp.up_proj.weight`
    hint: the file is not as its writer left it: copy or download it again
    ");
    let dir = sharded(json!({A.0: "model-00001-of-00002.safetensors", B.0: second}));
    write_safetensors(&dir.path().join(second), &tensors());
    insta::assert_snapshot!(error(dir.path()), @r"
    tensor `model.layers.0.mlp.up_proj.weight` is stored twice, in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors
    hint: the file is not as its writer left it: copy or download it again
    ");
    json_file(
        &dir.path().join("model.safetensors.index.json"),
        &json!({"metadata": {}}),
    );
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/model.safetensors.index.json is damaged: it has no `weight_map`
    hint: the file is not as its writer left it: copy or download it again
    ");
}

/// A file with this header and so many bytes of data.
fn file_with(header: &str, data: usize) -> tempfile::TempDir {
    let dir = folder();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

#[test]
fn damaged_files_are_named() {
    let header = |h: &str, data: usize| error(file_with(h, data).path());
    let of = |shape: &str, begin: usize, end: usize| {
        format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
    };
    insta::assert_snapshot!(header(&format!("{{\"a\":{}}}", of("[2,2]", 0, 16)), 12), @r"
    DIR/model.safetensors is truncated: it holds 77 bytes and its header promises 81
    hint: copy or download the file again
    ");
    insta::assert_snapshot!(header(&format!("{{\"a\":{}}}", of("[2,2]", 0, 16)), 20), @r"
    DIR/model.safetensors is damaged: 4 bytes follow the last tensor
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(header(&format!("{{\"a\":{}}}", of("[2,3]", 0, 16)), 16), @r"
    DIR/model.safetensors is damaged: tensor `a` needs 24 bytes and has 16
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(header(&format!("{{\"a\":{},\"b\":{}}}", of("[2]", 0, 8), of("[2]", 4, 12)), 12), @r"
    DIR/model.safetensors is damaged: tensor `b` lies at 4..12, and 8 was expected
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(header(&format!("{{\"a\":{},\"a\":{}}}", of("[2]", 0, 8), of("[2]", 8, 16)), 16), @r"
    DIR/model.safetensors is damaged: tensor `a` is listed twice
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(header(&format!("{{\"a\":{}}}", of("[4294967296,4294967296,4294967296]", 0, 16)), 16), @r"
    DIR/model.safetensors is damaged: tensor `a` has an impossible shape
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(header("{\"a\":{\"dtype\":\"F3\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4), @r"
    DIR/model.safetensors is damaged: its header does not parse: `a`: unknown variant `F3`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, `U16`, `F16`, `BF16`, `I32`, `U32`, `F32`, `C64`, `F64`, `I64`, `U64` at line 1 column 18
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(header("[1, 2]", 0), @r"
    DIR/model.safetensors is damaged: its header does not parse: invalid type: sequence, expected a safetensors header at line 1 column 0
    hint: the file is not as its writer left it: copy or download it again
    ");
    let dir = folder();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, 1000u64.to_le_bytes()).unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/model.safetensors is truncated: it holds 8 bytes and its header promises 1008
    hint: copy or download the file again
    ");
    std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/model.safetensors is damaged: its header claims 18446744073709551615 bytes, more than the format allows
    hint: the file is not as its writer left it: copy or download it again
    ");
    std::fs::write(&path, []).unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/model.safetensors is truncated: it holds 0 bytes and its header promises 8
    hint: copy or download the file again
    ");
}

#[test]
fn every_prefix_is_refused() {
    let dir = single();
    refuse_every_prefix(&dir.path().join("model.safetensors"), || {
        Weights::open(dir.path())
    });
}

#[test]
fn no_changed_byte_panics() {
    let dir = single();
    let path = dir.path().join("model.safetensors");
    let header = std::fs::metadata(&path).unwrap().len() as usize - 80;
    change_every_byte(
        &path,
        header,
        &[0, b'0', b'9', b'"', b'{', b'}', 0xff],
        || {
            let Ok(weights) = Weights::open(dir.path()) else {
                return;
            };
            for view in weights.views() {
                let _ = view.tensor(DType::F32);
            }
        },
    );
}

#[test]
fn integers_are_no_weights() {
    let header = r#"{"model.norm.weight":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}"#;
    let dir = file_with(header, 16);
    let weights = Weights::open(dir.path()).unwrap();
    let found = refused(
        weights
            .view("model.norm.weight")
            .unwrap()
            .tensor(DType::F32),
    );
    insta::assert_snapshot!(shown(&found, dir.path()), @r"
    tensor `model.norm.weight` is stored as I64, which medtune does not compute with
    hint: use a version of the model in F64, F32, F16 or BF16, or a GGUF file in one of the types that are read
    ");
}

/// A tensor from a seed is the same however and in which order it is asked for, in any stored dtype.
#[test]
fn random_weights_are_functions_of_seed_and_name() {
    let (a, b) = (random_weights(&[A, B]), random_weights(&[B]));
    let tensor = |w: &Weights| w.view(B.0).unwrap().tensor(DType::F32).unwrap();
    assert_eq!(distance(&tensor(&a), &tensor(&b)), 0.0);
    let matrix = a
        .view(A.0)
        .unwrap()
        .matrix()
        .unwrap()
        .to_tensor(DType::F32)
        .unwrap();
    assert_eq!(
        distance(&matrix, &a.view(A.0).unwrap().tensor(DType::F32).unwrap()),
        0.0
    );
    let spec = adapters::TensorSpec {
        name: A.0.into(),
        shape: A.1.into(),
        init: adapters::Init::Normal { std: 0.7 },
    };
    let bf16 = Weights::random(json!({"torch_dtype": "bfloat16"}), vec![spec], 5);
    assert_eq!(bf16.view(A.0).unwrap().dtype_name(), "BF16");
    let rounded = matrix.to_dtype(DType::BF16).unwrap();
    assert_eq!(
        distance(
            &bf16.view(A.0).unwrap().tensor(DType::F32).unwrap(),
            &rounded
        ),
        0.0
    );
}
