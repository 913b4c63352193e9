//! Merging, against PEFT's merge, and proofs that must hold or must not.

use crate::support::{distance, golden, lora, numbers, read_tensors, refused, shown, tensor};
use adapters::peft::{PeftAdapter, PeftConfig};
use adapters::{ExportOptions, MergeOptions, TensorProof, Weights, merge, verify_tensors};
use candle_core::DType;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const ARCHITECTURES: [&str; 9] = [
    "llama",
    "llama3_rope",
    "llama_gqa",
    "llama_linear_rope",
    "mistral_window",
    "qwen2",
    "qwen3",
    "smollm2_tiny",
    "tinyllama",
];

fn options(dtype: Option<DType>) -> MergeOptions<'static> {
    MergeOptions {
        export: ExportOptions {
            dtype,
            ..Default::default()
        },
        ..Default::default()
    }
}

#[test]
fn merged_weights_are_peft_s() {
    for architecture in ARCHITECTURES {
        let base = Weights::open(&golden(architecture)).unwrap();
        let adapter = PeftAdapter::load(&golden(architecture).join("adapter")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let report = merge(&base, &adapter, &out, &options(None)).unwrap();
        let proof = report.proof.unwrap();
        // Beyond what two ways of adding in f32 may differ by, nothing.
        assert_eq!(
            (proof.targeted, proof.max_steps),
            (adapter.modules().count(), 0.0)
        );
        assert_eq!(proof.targeted + proof.untouched, base.names().count());
        assert!(proof.holds() && proof.warnings().is_empty());

        let merged = read_tensors(&out.join("model.safetensors"));
        let fixtures = read_tensors(&golden(architecture).join("fixtures.safetensors"));
        let expected: Vec<_> = fixtures
            .iter()
            .filter_map(|(k, t)| Some((k.strip_prefix("merged.")?, t)))
            .collect();
        assert!(!expected.is_empty());
        for (name, wanted) in expected {
            assert!(
                distance(&merged[name], wanted) <= 1e-6,
                "{architecture} {name}"
            );
        }
        assert_eq!(merged.len(), base.names().count());
        let config: Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(&config, base.config());
    }
}

/// The base rounded to bf16, merged in f32 and rounded once, bit for bit.
#[test]
fn bf16_merges_are_rounded_once() {
    let dir = tempfile::tempdir().unwrap();
    let rounded = dir.path().join("base");
    let base = Weights::open(&golden("llama")).unwrap();
    let to_bf16 = ExportOptions {
        dtype: Some(DType::BF16),
        ..Default::default()
    };
    adapters::convert(&base, &rounded, &to_bf16).unwrap();
    let base = Weights::open(&rounded).unwrap();
    assert_eq!(base.config()["dtype"], "bfloat16");
    let adapter = PeftAdapter::load(&golden("llama/adapter")).unwrap();
    let out = dir.path().join("merged");
    let proof = merge(&base, &adapter, &out, &options(None))
        .unwrap()
        .proof
        .unwrap();
    assert!(proof.max_steps > 0.4 && proof.max_steps <= 0.5);
    let merged = read_tensors(&out.join("model.safetensors"));
    let fixtures = read_tensors(&golden("llama/fixtures.safetensors"));
    let expected: Vec<_> = fixtures
        .iter()
        .filter_map(|(k, t)| Some((k.strip_prefix("merged_bf16.")?, t)))
        .collect();
    assert_eq!(expected.len(), 7);
    for (name, wanted) in expected {
        assert_eq!(merged[name].dtype(), DType::BF16);
        assert_eq!(distance(&merged[name], wanted), 0.0, "{name}");
    }
}

/// DoRA and modules to save, each with its proof, in f32 and from a base rounded to bf16.
#[test]
fn other_adapters_merge_as_in_peft() {
    for (architecture, variant) in [("llama", "dora"), ("llama_gqa", "dora"), ("qwen2", "saved")] {
        let dir = tempfile::tempdir().unwrap();
        let exact = Weights::open(&golden(architecture)).unwrap();
        let bf16 = ExportOptions {
            dtype: Some(DType::BF16),
            ..Default::default()
        };
        let rounded = dir.path().join("base");
        adapters::convert(&exact, &rounded, &bf16).unwrap();
        let rounded = Weights::open(&rounded).unwrap();
        let adapter = PeftAdapter::load(&golden(architecture).join(variant)).unwrap();
        let fixtures = golden(architecture)
            .join(variant)
            .join("fixtures.safetensors");
        let fixtures = read_tensors(&fixtures);
        for (base, prefix, steps, tolerance) in [
            (&exact, "merged.", 0.0, 1e-6),
            (&rounded, "merged_bf16.", 0.5, 0.0),
        ] {
            let out = dir.path().join(prefix);
            let proof = merge(base, &adapter, &out, &options(None))
                .unwrap()
                .proof
                .unwrap();
            assert!(proof.holds() && proof.max_steps <= steps);
            let tied = usize::from(adapter.config.ensure_weight_tying);
            let changed = adapter.modules().count() + adapter.saved().count() - tied;
            assert_eq!(proof.targeted, changed);
            let merged = read_tensors(&out.join("model.safetensors"));
            let mut compared = 0;
            for (name, wanted) in &fixtures {
                let Some(name) = name.strip_prefix(prefix) else {
                    continue;
                };
                // PEFT lists the tied table under both names, a file holds it once.
                let found = match name {
                    "lm_head.weight" if tied == 1 => "model.embed_tokens.weight",
                    name => name,
                };
                let worst = distance(&merged[found], wanted);
                assert!(
                    worst <= tolerance,
                    "{architecture} {prefix}{name}: {worst:.1e}"
                );
                compared += 1;
            }
            assert!(compared >= 7);
        }
    }
}

/// An adapter of PEFT's that unties what the base ties has no place for its head there.
#[test]
fn an_adapter_that_unties_is_not_merged() {
    let base = Weights::open(&golden("smollm2_tiny")).unwrap();
    let mut adapter = PeftAdapter::load(&golden("smollm2_tiny/saved")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("merged");
    adapter.config.ensure_weight_tying = false;
    // Both tables are there and are the same.
    let proof = merge(&base, &adapter, &out, &options(None)).unwrap().proof;
    assert_eq!(proof.unwrap().targeted, adapter.modules().count() + 1);
    adapter
        .tensors
        .remove("base_model.model.model.embed_tokens.weight");
    let found = refused(merge(&base, &adapter, &out, &options(None)));
    insta::assert_snapshot!(shown(&found, dir.path()), @r"
    the adapter parts the output head from the embedding, which are one table in this base
    hint: it can be evaluated; to train or merge it, merge it with PEFT, which unties the base
    ");
}

/// The proof reads what was saved whole, and the rows' lengths, too.
#[test]
fn a_proof_fails_where_a_whole_module_or_a_magnitude_differs() {
    let base = Weights::open(&golden("llama")).unwrap();
    for (variant, key, by) in [
        ("saved", "base_model.model.lm_head.weight", 1e-3),
        (
            "dora",
            "base_model.model.model.layers.1.mlp.up_proj.lora_magnitude_vector",
            1e-3,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let mut adapter = PeftAdapter::load(&golden("llama").join(variant)).unwrap();
        merge(&base, &adapter, &out, &options(None)).unwrap();
        let merged = Weights::open(&out).unwrap();
        assert!(verify_tensors(&base, &adapter, &merged).unwrap().holds());
        let other = (&adapter.tensors[key] * (1.0 + by)).unwrap();
        adapter.tensors.insert(key.into(), other);
        let proof = verify_tensors(&base, &adapter, &merged).unwrap();
        assert_eq!(proof.problems.len(), 1, "{:?}", proof.problems);
    }
}

const MODULE: &str = "model.layers.0.self_attn.o_proj";

/// A base of one targeted bf16 matrix (9, 6), one untouched norm, a buffer of integers, and files that travel along.
fn base(dir: &Path) -> Weights {
    std::fs::create_dir_all(dir).unwrap();
    let bf16 = |v: &[f32]| {
        v.iter()
            .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let (w, norm, positions) = (bf16(&numbers(54, 1)), bf16(&numbers(6, 2)), vec![7u8; 16]);
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
    let tensors = [
        (format!("{MODULE}.weight"), view(Dtype::BF16, &[9, 6], &w)),
        ("model.norm.weight".into(), view(Dtype::BF16, &[6], &norm)),
        (
            "model.position_ids".into(),
            view(Dtype::I64, &[2], &positions),
        ),
    ];
    std::fs::write(
        dir.join("model.safetensors"),
        safetensors::serialize(tensors, None).unwrap(),
    )
    .unwrap();
    let config = json!({"model_type": "llama", "torch_dtype": "bfloat16"});
    for (name, text) in [
        ("config.json", config.to_string()),
        ("tokenizer.json", "{}".into()),
        ("chat_template.jinja", "{{ messages }}".into()),
        ("generation_config.json", "{\"eos_token_id\": 2}".into()),
        ("training_args.bin", "no".into()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    Weights::open(dir).unwrap()
}

fn adapter(module: &str, scale: f64) -> PeftAdapter {
    let key = |which: &str| format!("base_model.model.{module}.{which}.weight");
    let b = (tensor((9, 2), DType::F32, 4) * scale).unwrap();
    let tensors = BTreeMap::from([
        (key("lora_A"), tensor((2, 6), DType::F32, 3)),
        (key("lora_B"), b),
    ]);
    let config = PeftConfig {
        lora: lora(2, 3.0, 0.0, &["o_proj"]),
        ensure_weight_tying: false,
        base_model: None,
    };
    PeftAdapter {
        config,
        tensors,
        belonging: None,
    }
}

#[test]
fn companions_travel_and_the_rest_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"));
    let out = dir.path().join("merged");
    merge(&base, &adapter(MODULE, 1.0), &out, &options(None)).unwrap();
    let mut files: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json"
        ]
    );
    let merged = Weights::open(&out).unwrap();
    assert_eq!(
        merged.view("model.position_ids").unwrap().dtype_name(),
        "I64"
    );
    // Same input, same bytes.
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    merge(&base, &adapter(MODULE, 1.0), &out, &options(None)).unwrap();
    assert_eq!(std::fs::read(out.join("model.safetensors")).unwrap(), bytes);
}

#[test]
fn another_dtype_is_rounded_to_once_and_said_in_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"));
    for (dtype, name) in [
        (DType::F32, "float32"),
        (DType::F16, "float16"),
        (DType::BF16, "bfloat16"),
    ] {
        let out = dir.path().join(name);
        let proof = merge(&base, &adapter(MODULE, 1.0), &out, &options(Some(dtype)))
            .unwrap()
            .proof
            .unwrap();
        assert_eq!((proof.targeted, proof.untouched), (1, 2));
        let merged = Weights::open(&out).unwrap();
        assert_eq!(merged.config()["torch_dtype"], name);
        assert_eq!(
            merged.view("model.norm.weight").unwrap().float_dtype(),
            Some(dtype)
        );
        assert_eq!(
            merged.view("model.position_ids").unwrap().dtype_name(),
            "I64"
        );
    }
}

#[test]
fn adapters_of_other_models_are_named_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"));
    let out = dir.path().join("merged");
    let error = |adapter: &PeftAdapter, dtype| {
        let found = refused(merge(&base, adapter, &out, &options(dtype)));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "something was left"
        );
        shown(&found, dir.path())
    };
    insta::assert_snapshot!(error(&adapter("model.layers.0.self_attn.q_proj", 1.0), None), @r"
    the adapter was made for a module `model.layers.0.self_attn.q_proj`, which this base does not have
    hint: the adapter belongs to another base model; the nearest name in this one is `model.layers.0.self_attn.o_proj`
    ");
    insta::assert_snapshot!(error(&adapter("model.norm", 1.0), None), @r"
    target module `model.norm` cannot be adapted: in this base it is not a linear layer
    hint: leave it out of target_modules, or tune all weights
    ");
    let mut wide = adapter(MODULE, 1.0);
    wide.tensors.insert(
        format!("base_model.model.{MODULE}.lora_A.weight"),
        tensor((2, 8), DType::F32, 3),
    );
    insta::assert_snapshot!(error(&wide, None), @r"
    adapter tensor `base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight` has shape (2, 8), and this base needs (2, 6)
    hint: the adapter belongs to another base model
    ");
    insta::assert_snapshot!(error(&adapter(MODULE, 1e6), Some(DType::F16)), @r"
    tensor `model.layers.0.self_attn.o_proj.weight` holds -89938.57, beyond the largest f16 number
    hint: write bf16 or f32 instead
    ");
    let onto_itself = refused(merge(
        &base,
        &adapter(MODULE, 1.0),
        &dir.path().join("base"),
        &options(None),
    ));
    insta::assert_snapshot!(shown(&onto_itself, dir.path()), @r"
    DIR/base is the base model itself
    hint: choose another folder for the result
    ");
    assert!(Weights::open(&dir.path().join("base")).is_ok());
}

fn proof_of(change: impl Fn(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) -> TensorProof {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"));
    let out = dir.path().join("merged");
    merge(&base, &adapter(MODULE, 1.0), &out, &options(None)).unwrap();
    let path = out.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(n, t)| (n, t.dtype(), t.shape().to_vec(), t.data().to_vec()))
        .collect();
    tensors.sort();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(n, d, s, b)| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    verify_tensors(&base, &adapter(MODULE, 1.0), &Weights::open(&out).unwrap()).unwrap()
}

#[test]
fn a_proof_fails_on_each_way_to_be_wrong() {
    assert!(proof_of(|_| {}).holds());
    // Sixteen rounding steps in one element of the target.
    let target = proof_of(|tensors| {
        let element = &mut tensors[0].3[20..22];
        let bits = u16::from_le_bytes([element[0], element[1]]) + 16;
        element.copy_from_slice(&bits.to_le_bytes());
    });
    assert!(!target.holds());
    assert!(target.max_steps > 1.0 && target.max_steps < 17.0);
    assert!(target.problems[0].starts_with("`model.layers.0.self_attn.o_proj.weight` is "));
    let norm = proof_of(|tensors| tensors[1].3[3] ^= 1);
    insta::assert_snapshot!(norm.problems.join("\n"), @"`model.norm.weight` has no adapter and differs from the base");
    let buffer = proof_of(|tensors| tensors[2].3[3] ^= 1);
    insta::assert_snapshot!(buffer.problems.join("\n"), @"`model.position_ids` has no adapter and differs from the base");
    let missing = proof_of(|tensors| drop(tensors.remove(1)));
    insta::assert_snapshot!(missing.problems.join("\n"), @"`model.norm.weight` is missing");
    let more =
        proof_of(|tensors| tensors.push(("model.extra".into(), Dtype::U8, vec![1], vec![0])));
    insta::assert_snapshot!(more.problems.join("\n"), @"`model.extra` is not in the base");
    let reshaped = proof_of(|tensors| tensors[0].2 = vec![6, 9]);
    insta::assert_snapshot!(reshaped.problems.join("\n"), @"`model.layers.0.self_attn.o_proj.weight` has shape [6, 9] for [9, 6]");
    let nan =
        proof_of(|tensors| tensors[0].3[0..2].copy_from_slice(&half::bf16::NAN.to_le_bytes()));
    assert!(!nan.holds() && nan.max_steps == f64::INFINITY);
}

#[test]
fn what_rounding_swallows_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(&dir.path().join("base"));
    let proof = |scale: f64, dtype, name: &str| {
        merge(
            &base,
            &adapter(MODULE, scale),
            &dir.path().join(name),
            &options(dtype),
        )
        .unwrap()
        .proof
        .unwrap()
    };
    let good = proof(1.0, None, "good");
    assert!(good.surviving > 0.99 && good.lost_in_rounding < 0.1 && good.warnings().is_empty());
    let faint = proof(1e-4, None, "faint");
    assert!(
        faint.lost_in_rounding > 0.5 && faint.relative_change > 1e-6,
        "{faint:?}"
    );
    assert_eq!(faint.warnings().len(), 1);
    let kept = proof(1e-4, Some(DType::F32), "kept");
    assert!(kept.surviving > 0.99 && kept.warnings().is_empty());
    let nothing = proof(0.0, None, "nothing");
    insta::assert_snapshot!(nothing.warnings().join("\n"), @"the adapter changes the weights by 0.0e0 of their norm: next to nothing");
}
