//! PEFT's files: read as PEFT writes them, written as PEFT reads them.

use crate::support::{
    distance, golden, json_file, lora, numbers, refuse_every_prefix, refused, shown, tensor,
    write_safetensors,
};
use adapters::Belonging;
use adapters::peft::{self, PeftAdapter};
use adapters::{LoraConfig, Parameter, ParameterKind, Parameters, TargetModules};
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::path::Path;

const MODULE: &str = "model.layers.0.self_attn.q_proj";

fn key(which: &str) -> String {
    format!("base_model.model.{MODULE}.{which}.weight")
}

pub fn parameters(dtype: DType) -> Parameters {
    use ParameterKind::{LoraA, LoraB};
    Parameters(vec![
        parameter(key("lora_A"), tensor((2, 5), dtype, 1), LoraA),
        parameter(key("lora_B"), tensor((7, 2), dtype, 2), LoraB),
    ])
}

fn parameter(name: String, value: Tensor, kind: ParameterKind) -> Parameter {
    Parameter {
        name,
        value,
        master: None,
        kind,
    }
}

#[test]
fn what_is_saved_is_loaded() {
    for (dtype, config) in [
        (DType::F32, lora(2, 5.0, 0.1, &["all-linear"])),
        (
            DType::F64,
            LoraConfig {
                use_rslora: true,
                ..lora(2, 0.5, 0.0, &["self_attn.q_proj"])
            },
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let belonging = Belonging {
            base_fingerprint: "ab".into(),
            tokenizer_fingerprint: Some("cd".into()),
            base: None,
        };
        let saved = parameters(dtype);
        let files = peft::save(
            dir.path(),
            &saved,
            &config,
            Some("org/base"),
            Some(&belonging),
        )
        .unwrap();
        assert_eq!(files.len(), 3);
        let loaded = PeftAdapter::load(dir.path()).unwrap();
        assert_eq!(loaded.belonging, Some(belonging));
        assert_eq!(loaded.config.base_model.as_deref(), Some("org/base"));
        // "all-linear" is written as the layers that it came to.
        let targets = match &config.target_modules {
            TargetModules::AllLinear => TargetModules::Named(vec!["q_proj".into()]),
            named => named.clone(),
        };
        assert_eq!(
            loaded.config.lora,
            LoraConfig {
                target_modules: targets,
                ..config.clone()
            }
        );
        assert_eq!(loaded.modules().collect::<Vec<_>>(), [MODULE]);
        for parameter in &saved.0 {
            assert_eq!(loaded.tensors[&parameter.name].dtype(), dtype);
            assert_eq!(
                distance(&loaded.tensors[&parameter.name], &parameter.value),
                0.0
            );
        }
        let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let first = bytes("adapter_model.safetensors");
        peft::save(dir.path(), &saved, &config, Some("org/base"), None).unwrap();
        assert_eq!(bytes("adapter_model.safetensors"), first);
    }
}

#[test]
fn the_files_are_what_peft_reads() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora(2, 5.0, 0.1, &["all-linear"]);
    peft::save(
        dir.path(),
        &parameters(DType::F32),
        &config,
        Some("org/base"),
        None,
    )
    .unwrap();
    let text = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    insta::assert_snapshot!(text, @r#"
    {
      "alpha_pattern": {},
      "auto_mapping": null,
      "base_model_name_or_path": "org/base",
      "bias": "none",
      "fan_in_fan_out": false,
      "inference_mode": true,
      "init_lora_weights": true,
      "layers_pattern": null,
      "layers_to_transform": null,
      "lora_alpha": 5,
      "lora_dropout": 0.1,
      "modules_to_save": null,
      "peft_type": "LORA",
      "r": 2,
      "rank_pattern": {},
      "revision": null,
      "target_modules": [
        "q_proj"
      ],
      "task_type": "CAUSAL_LM",
      "use_dora": false,
      "use_rslora": false
    }
    "#);
    let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let mut names: Vec<String> = header.tensors().into_keys().collect();
    names.sort();
    assert_eq!(names, [key("lora_A"), key("lora_B")]);
}

/// Adapters that PEFT itself saved, of nine models.
#[test]
fn peft_s_own_files_are_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let dir = entry.unwrap().path().join("adapter");
        if !dir.is_dir() {
            continue;
        }
        let json: Value =
            serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap())
                .unwrap();
        let adapter = PeftAdapter::load(&dir).unwrap();
        assert_eq!(adapter.config.lora.rank as u64, json["r"].as_u64().unwrap());
        assert_eq!(
            adapter.config.lora.alpha,
            json["lora_alpha"].as_f64().unwrap()
        );
        assert_eq!(
            adapter.config.lora.use_rslora,
            json["use_rslora"].as_bool().unwrap()
        );
        assert_eq!(adapter.tensors.len(), 2 * adapter.modules().count());
        assert!(adapter.belonging.is_none());
        read += 1;
    }
    assert_eq!(read, 9);
}

fn written(config: Value, tensors: &[(&str, &[usize], Vec<f32>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    json_file(&dir.path().join("adapter_config.json"), &config);
    write_safetensors(&dir.path().join("adapter_model.safetensors"), tensors);
    dir
}

fn plain() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 5, "bias": "none", "target_modules": ["q_proj"]})
}

fn error(dir: &Path) -> String {
    shown(&refused(PeftAdapter::load(dir)), dir)
}

#[test]
fn settings_that_change_the_mathematics_are_refused_by_name() {
    let (a, b) = (key("lora_A"), key("lora_B"));
    let load = |name: &str, value: Value| {
        let mut config = plain();
        config[name] = value;
        let dir = written(
            config,
            &[(&a, &[2, 5], numbers(10, 1)), (&b, &[7, 2], numbers(14, 2))],
        );
        PeftAdapter::load(dir.path()).map_err(|e| shown(&e, dir.path()))
    };
    let refused = |name: &str, value: Value| load(name, value).unwrap_err();
    insta::assert_snapshot!(refused("use_qalora", json!(true)), @r"
    DIR/adapter_config.json sets `use_qalora` to true, which medtune does not support
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
    insta::assert_snapshot!(refused("bias", json!("all")), @r#"
    DIR/adapter_config.json sets `bias` to "all", which medtune does not support
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    "#);
    insta::assert_snapshot!(refused("modules_to_save", json!("lm_head")), @r#"
    DIR/adapter_config.json is damaged: `modules_to_save` is "lm_head"
    hint: the file is not as its writer left it: copy or download it again
    "#);
    insta::assert_snapshot!(refused("use_dora", json!("yes")), @r#"
    DIR/adapter_config.json is damaged: `use_dora` is "yes"
    hint: the file is not as its writer left it: copy or download it again
    "#);
    insta::assert_snapshot!(refused("rank_pattern", json!({"q_proj": 8})), @r#"
    DIR/adapter_config.json sets `rank_pattern` to {"q_proj":8}, which medtune does not support
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    "#);
    insta::assert_snapshot!(refused("init_lora_weights", json!("pissa_niter_16")), @r#"
    DIR/adapter_config.json sets `init_lora_weights` to "pissa_niter_16", which medtune does not support
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    "#);
    insta::assert_snapshot!(refused("peft_type", json!("LOHA")), @r#"
    DIR/adapter_config.json sets `peft_type` to "LOHA", which medtune does not support
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    "#);
    insta::assert_snapshot!(refused("a_setting_of_2030", json!(0.5)), @r"
    DIR/adapter_config.json sets `a_setting_of_2030` to 0.5, which medtune does not support
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
    insta::assert_snapshot!(refused("r", json!(0)), @r"
    DIR/adapter_config.json is damaged: `r` is 0
    hint: the file is not as its writer left it: copy or download it again
    ");
    insta::assert_snapshot!(refused("lora_alpha", json!("16")), @r#"
    DIR/adapter_config.json is damaged: `lora_alpha` is "16"
    hint: the file is not as its writer left it: copy or download it again
    "#);
    for (name, value) in [
        ("use_dora", json!(false)),
        ("modules_to_save", Value::Null),
        ("rank_pattern", json!({})),
        ("init_lora_weights", json!("gaussian")),
        ("peft_version", json!("0.21.2")),
        ("a_setting_of_2030", Value::Null),
    ] {
        load(name, value).unwrap();
    }
    // A regular expression: the matrices say which modules it came to.
    let named = load("target_modules", json!(".*q_proj"))
        .unwrap()
        .config
        .lora
        .target_modules;
    assert_eq!(named, TargetModules::Named(vec![MODULE.into()]));
}

#[test]
fn matrices_that_do_not_pair_are_named() {
    let (a, b) = (key("lora_A"), key("lora_B"));
    let of = |tensors: &[(&str, &[usize], Vec<f32>)]| error(written(plain(), tensors).path());
    insta::assert_snapshot!(of(&[(&a, &[2, 5], numbers(10, 1))]), @r"
    DIR/adapter_model.safetensors: module `model.layers.0.self_attn.q_proj` lacks `lora_B.weight`
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    insta::assert_snapshot!(of(&[(&b, &[7, 2], numbers(14, 1))]), @r"
    DIR/adapter_model.safetensors: module `model.layers.0.self_attn.q_proj` lacks `lora_A.weight`
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    insta::assert_snapshot!(of(&[(&a, &[5, 2], numbers(10, 1)), (&b, &[2, 7], numbers(14, 1))]), @r"
    DIR/adapter_model.safetensors: module `model.layers.0.self_attn.q_proj` has lora_A and lora_B swapped (A is (5, 2), B is (2, 7))
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    insta::assert_snapshot!(of(&[(&a, &[3, 5], numbers(15, 1)), (&b, &[7, 3], numbers(21, 1))]), @r"
    DIR/adapter_model.safetensors: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` has shape (3, 5), and the adapter's rank is 2
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    insta::assert_snapshot!(of(&[(&a, &[2, 5], numbers(10, 1)), (&b, &[7, 3], numbers(21, 1))]), @r"
    DIR/adapter_model.safetensors: `base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight` has shape (7, 3), and the adapter's rank is 2
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    insta::assert_snapshot!(of(&[]), @r"
    DIR/adapter_model.safetensors holds no LoRA matrices
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    let mut nan = numbers(14, 1);
    nan[9] = f32::NAN;
    insta::assert_snapshot!(of(&[(&a, &[2, 5], numbers(10, 1)), (&b, &[7, 2], nan)]), @r"
    tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight` holds a value that is not finite (element 9)
    hint: the training run that wrote it diverged: use an earlier checkpoint
    ");
    let pair = || {
        [
            (a.as_str(), &[2usize, 5][..], numbers(10, 1)),
            (b.as_str(), &[7, 2][..], numbers(14, 2)),
        ]
    };
    for extra in [
        "base_model.model.model.layers.0.self_attn.k_proj.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "x",
    ] {
        let mut tensors = pair().to_vec();
        tensors.push((extra, &[2, 2], numbers(4, 1)));
        assert!(of(&tensors).contains(&format!(
            "`{extra}` is no tensor of the adapter that its settings"
        )));
    }
    insta::assert_snapshot!(of(&[(&a, &[2, 5, 1], numbers(10, 1)), (&b, &[7, 2], numbers(14, 1))]), @r"
    DIR/adapter_model.safetensors: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` is no tensor of the adapter that its settings describe
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
}

#[test]
fn files_that_are_not_there_or_do_not_parse_are_named() {
    let dir = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/adapter_config.json does not exist
    hint: an adapter is a folder with adapter_config.json and adapter_model.safetensors
    ");
    std::fs::write(dir.path().join("adapter_config.json"), "{,").unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/adapter_config.json is not valid JSON: key must be a string at line 1 column 2
    hint: the file is not as its writer left it: copy or download it again
    ");
    json_file(&dir.path().join("adapter_config.json"), &plain());
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR/adapter_model.safetensors does not exist
    hint: an adapter is a folder with adapter_config.json and adapter_model.safetensors
    ");
    std::fs::write(dir.path().join("adapter_model.bin"), "x").unwrap();
    insta::assert_snapshot!(error(dir.path()), @r"
    DIR holds only pickled weights (adapter_model.bin), which medtune does not read
    hint: pickled files can run code when they are opened: convert them to safetensors with transformers' save_pretrained(safe_serialization=True)
    ");
}

#[test]
fn a_full_fine_tune_is_no_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = parameters(DType::F32);
    all.0[0].name = "model.norm.weight".into();
    let found = refused(peft::save(
        dir.path(),
        &all,
        &lora(2, 5.0, 0.0, &["all-linear"]),
        None,
        None,
    ));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    insta::assert_snapshot!(shown(&found, dir.path()), @r"
    DIR/adapter_model.safetensors: `model.norm.weight` is no tensor of the adapter that its settings describe
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
}

#[test]
fn every_prefix_of_the_matrices_is_refused() {
    let (a, b) = (key("lora_A"), key("lora_B"));
    let dir = written(
        plain(),
        &[(&a, &[2, 5], numbers(10, 1)), (&b, &[7, 2], numbers(14, 2))],
    );
    refuse_every_prefix(&dir.path().join("adapter_model.safetensors"), || {
        PeftAdapter::load(dir.path())
    });
}

fn magnitude_key() -> String {
    format!("base_model.model.{MODULE}.lora_magnitude_vector")
}

/// DoRA with a tied table: what PEFT 0.21 writes with `ensure_weight_tying`, the table under both of its names.
#[test]
fn magnitudes_and_modules_to_save_are_written_as_peft_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = parameters(DType::F32);
    let magnitude = tensor((1, 7), DType::F32, 3).reshape(7).unwrap();
    let table = tensor((9, 5), DType::F32, 4);
    let embedding = "base_model.model.model.embed_tokens.weight";
    let head = "base_model.model.lm_head.weight";
    use ParameterKind::{Magnitude, TiedTable};
    all.0
        .push(parameter(magnitude_key(), magnitude.clone(), Magnitude));
    all.0
        .push(parameter(embedding.into(), table.clone(), TiedTable));
    let config = LoraConfig {
        use_dora: true,
        modules_to_save: vec!["lm_head".into()],
        ..lora(2, 5.0, 0.0, &["q_proj"])
    };
    peft::save(dir.path(), &all, &config, None, None).unwrap();
    let text = std::fs::read(dir.path().join("adapter_config.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["modules_to_save"], json!(["embed_tokens", "lm_head"]));
    assert_eq!(json["ensure_weight_tying"], json!(true));
    assert_eq!(json["use_dora"], json!(true));

    let loaded = PeftAdapter::load(dir.path()).unwrap();
    assert!(loaded.config.lora.use_dora && loaded.config.ensure_weight_tying);
    assert_eq!(loaded.tensors.len(), 5);
    assert_eq!(loaded.modules().collect::<Vec<_>>(), [MODULE]);
    let saved: Vec<&str> = loaded.saved().collect();
    assert_eq!(saved, ["lm_head.weight", "model.embed_tokens.weight"]);
    assert_eq!(distance(loaded.magnitude(MODULE).unwrap(), &magnitude), 0.0);
    for key in [embedding, head] {
        assert_eq!(distance(&loaded.tensors[key], &table), 0.0);
    }
}

/// DoRA and modules to save as PEFT itself saved them.
#[test]
fn peft_s_other_adapters_are_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(golden("")).unwrap() {
        for variant in ["dora", "saved"] {
            let dir = entry.as_ref().unwrap().path().join(variant);
            if !dir.is_dir() {
                continue;
            }
            let adapter = PeftAdapter::load(&dir).unwrap();
            let modules = adapter.modules().count();
            let magnitudes = adapter.modules().filter_map(|m| adapter.magnitude(m));
            let expected = if adapter.config.lora.use_dora {
                modules
            } else {
                0
            };
            assert_eq!(magnitudes.count(), expected, "{}", dir.display());
            let saved = adapter.saved().count();
            assert_eq!(saved > 0, variant == "saved", "{}", dir.display());
            let found = adapter.tensors.len();
            assert_eq!(found, 2 * modules + expected + saved, "{}", dir.display());
            read += 1;
        }
    }
    assert_eq!(read, 18);
}

#[test]
fn magnitudes_and_copies_that_do_not_belong_are_named() {
    let (a, b, m) = (key("lora_A"), key("lora_B"), magnitude_key());
    let of = |settings: &[(&str, Value)], more: &[(&str, &[usize], Vec<f32>)]| {
        let mut config = plain();
        for (name, value) in settings {
            config[*name] = value.clone();
        }
        let mut tensors = vec![
            (a.as_str(), &[2usize, 5][..], numbers(10, 1)),
            (b.as_str(), &[7, 2][..], numbers(14, 2)),
        ];
        tensors.extend_from_slice(more);
        let dir = written(config, &tensors);
        PeftAdapter::load(dir.path()).map_err(|e| shown(&e, dir.path()))
    };
    let dora = [("use_dora", json!(true))];
    let seven: (&str, &[usize], _) = (&m, &[7], numbers(7, 3));
    insta::assert_snapshot!(of(&dora, &[]).unwrap_err(), @r"
    DIR/adapter_model.safetensors: module `model.layers.0.self_attn.q_proj` lacks `lora_magnitude_vector`
    hint: adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly
    ");
    insta::assert_snapshot!(of(&[], std::slice::from_ref(&seven)).unwrap_err(), @r"
    DIR/adapter_model.safetensors: `base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector` is no tensor of the adapter that its settings describe
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
    insta::assert_snapshot!(of(&dora, &[(&m, &[5], numbers(5, 3))]).unwrap_err(), @r"
    adapter tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector` has shape (5), and this base needs (7)
    hint: the adapter belongs to another base model
    ");
    insta::assert_snapshot!(of(&dora, &[(&m, &[1, 7], numbers(7, 3))]).unwrap_err(), @r"
    DIR/adapter_model.safetensors: `base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector` is no tensor of the adapter that its settings describe
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
    of(&dora, &[seven]).unwrap();

    let names = |names: &[&str]| [("modules_to_save", json!(names))];
    let copy = |name: &'static str, shape: &'static [usize]| {
        (name, shape, numbers(shape.iter().product(), 3))
    };
    let norm = copy(
        "base_model.model.model.layers.0.input_layernorm.weight",
        &[5],
    );
    let of_mlp = copy(
        "base_model.model.model.layers.0.mlp.up_proj.weight",
        &[9, 5],
    );
    of(&names(&["norm"]), std::slice::from_ref(&norm)).unwrap();
    of(&names(&["mlp"]), std::slice::from_ref(&of_mlp)).unwrap();
    assert!(of(&names(&["lm_head"]), &[norm]).is_err());
    assert!(of(&names(&["proj_up"]), &[of_mlp]).is_err());
    // What is trained whole carries no pair beside it.
    let whole = copy(
        "base_model.model.model.layers.0.self_attn.q_proj.weight",
        &[7, 5],
    );
    insta::assert_snapshot!(of(&names(&["q_proj"]), &[whole]).unwrap_err(), @r"
    DIR/adapter_model.safetensors: `base_model.model.model.layers.0.self_attn.q_proj.weight` is no tensor of the adapter that its settings describe
    hint: LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead
    ");
}
