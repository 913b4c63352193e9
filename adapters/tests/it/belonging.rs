//! Which base an adapter belongs to: what is compared, what is refused, and how it says so.

use crate::support::{json_file, random_weights, random_weights_in, refused, shown};
use adapters::recipe::Quantization;
use adapters::{
    BaseIdentity, Belonging, Difference, FingerprintBuilder, PeftAdapter, Vocabulary, Weights,
};
use serde_json::{Value, json};
use std::path::Path;

const SHAPES: &[(&str, &[usize])] = &[
    ("model.embed_tokens.weight", &[11, 5]),
    ("model.layers.0.self_attn.q_proj.weight", &[7, 5]),
    ("model.norm.weight", &[5]),
];

/// A base in every part.
fn identity(config: Value) -> BaseIdentity {
    let weights = Weights::random(config, vec![], 1);
    BaseIdentity {
        vocabulary: Vocabulary {
            rows: Some(11),
            tokens: Some(11),
            sha256: Some("ab".into()),
        },
        ..BaseIdentity::of(&weights)
    }
}

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 5, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "num_attention_heads": 1, "torch_dtype": "float32", "use_cache": true, "rope_scaling": null
    })
}

fn belonging(base: BaseIdentity) -> Belonging {
    Belonging {
        base_fingerprint: "cd".into(),
        tokenizer_fingerprint: Some("ef".into()),
        base: Some(base),
    }
}

fn with(key: &str, value: Value) -> Value {
    let mut config = config();
    config[key] = value;
    config
}

#[test]
fn the_builder_gives_the_fingerprint_of_the_weights() {
    for dtype in ["float32", "bfloat16"] {
        let weights = random_weights_in(dtype, SHAPES);
        let quantized = random_weights_in(dtype, SHAPES)
            .quantized(Quantization::Nf4)
            .unwrap();
        for base in [&weights, &quantized] {
            let mut builder = FingerprintBuilder::new(base.config());
            // The bytes of a random tensor are those of a file of it.
            let folder = tempfile::tempdir().unwrap();
            adapters::convert(&weights, &folder.path().join("out"), &Default::default()).unwrap();
            let file = std::fs::read(folder.path().join("out/model.safetensors")).unwrap();
            let file = safetensors::SafeTensors::deserialize(&file).unwrap();
            // Last first: the order in which tensors come does not count.
            let views: Vec<_> = base.views().collect();
            for view in views.into_iter().rev() {
                let bytes = file.tensor(&view.name).unwrap();
                builder.add(view, blake3::hash(bytes.data()).into());
            }
            let built = builder.finish();
            assert_eq!(built, base.fingerprints().unwrap());
            assert_eq!(built.whole, base.fingerprint().unwrap());
        }
        let (plain, nf4) = (
            weights.fingerprints().unwrap(),
            quantized.fingerprints().unwrap(),
        );
        assert_ne!(plain.whole, nf4.whole);
        assert_eq!(plain.weights, nf4.weights, "the same files");
    }
    let (a, b) = (
        random_weights(SHAPES).fingerprints().unwrap(),
        random_weights_in("bfloat16", SHAPES)
            .fingerprints()
            .unwrap(),
    );
    assert_ne!(a.weights, b.weights);
}

#[test]
fn a_fingerprint_is_what_its_documentation_says() {
    let weights = random_weights_in("bfloat16", SHAPES);
    let mut text = String::new();
    for view in weights.views() {
        let bytes = view
            .tensor(candle_core::DType::BF16)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<half::bf16>()
            .unwrap();
        let bytes: Vec<u8> = bytes.iter().flat_map(|x| x.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes).to_hex();
        text.push_str(&format!("\n{} BF16 {:?} {hash}", view.name, view.shape));
    }
    let found = weights.fingerprints().unwrap();
    assert_eq!(found.weights, ledger::hash::sha256_bytes(text.as_bytes()));
}

#[test]
fn the_same_base_is_not_refused() {
    let mine = belonging(identity(config()));
    let same = [
        config(),
        // Stored or run otherwise, or as another program writes it.
        with("torch_dtype", json!("bfloat16")),
        with("use_cache", json!(false)),
        with("rms_norm_eps", json!(9.999999747378752e-06)),
        with("_name_or_path", json!("elsewhere")),
        with("mlp_bias", json!(false)),
    ];
    for config in same {
        assert_eq!(mine.check(&identity(config.clone())), [], "{config}");
    }
    let mut five = config();
    five.as_object_mut().unwrap().remove("rope_theta");
    five["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10000});
    assert_eq!(mine.check(&identity(five)), []);
    // What is not known is not compared.
    assert_eq!(mine.check(&BaseIdentity::default()), []);
}

#[test]
fn what_differs_is_named_with_both_values() {
    let mine = belonging(identity(config()));
    let says = |base: &BaseIdentity| {
        let found: Vec<String> = mine.check(base).iter().map(Difference::to_string).collect();
        found.join("\n")
    };
    let mut base = identity(with("hidden_size", json!(7)));
    insta::assert_snapshot!(says(&base), @"hidden_size is 7 here and 5 in the adapter's base");
    base = identity(with(
        "rope_scaling",
        json!({"type": "linear", "factor": 2.0}),
    ));
    insta::assert_snapshot!(says(&base), @r#"rope_scaling is {"factor":2.0,"rope_type":"linear"} here and null in the adapter's base"#);
    base = identity(with(
        "rope_parameters",
        json!({"rope_theta": 7.0, "rope_type": "yarn"}),
    ));
    insta::assert_snapshot!(says(&base), @r#"rope_scaling is {"rope_type":"yarn"} here and null in the adapter's base"#);
    base = identity(config());
    base.vocabulary.sha256 = Some("ba".into());
    base.vocabulary.tokens = Some(9);
    insta::assert_snapshot!(says(&base), @"tokens have other ids (9 tokens here, 11 in the adapter's base)");
    base = identity(config());
    for rows in [10, 13] {
        base.vocabulary.rows = Some(rows);
        match rows {
            10 => {
                insta::assert_snapshot!(says(&base), @"the embedding has 10 rows here and 11 in the adapter's base, whose tokenizer has 11 tokens: tokens were added before the adapter was trained")
            }
            _ => {
                insta::assert_snapshot!(says(&base), @"the embedding has 13 rows here and 11 in the adapter's base: tokens or padding rows were added to this one")
            }
        }
    }
    let mut padded = identity(config());
    padded.vocabulary.rows = Some(16);
    let found = belonging(padded).check(&identity(config()));
    insta::assert_snapshot!(found[0], @"the embedding has 11 rows here and 16 in the adapter's base: padding rows were added to that one");
}

#[test]
fn weights_are_compared_by_the_hash_that_was_recorded() {
    let (one, other) = (
        random_weights(SHAPES).fingerprints().unwrap(),
        random_weights_in("bfloat16", SHAPES)
            .fingerprints()
            .unwrap(),
    );
    let mut mine = belonging(identity(config()));
    mine.base_fingerprint = one.whole.clone();
    // An adapter of the first form.
    mine.base = None;
    assert_eq!(mine.check_weights(&one), None);
    assert!(mine.check_weights(&other).is_some());
    assert_eq!(mine.check(&identity(with("hidden_size", json!(7)))), []);
    // With the parts apart, a base that is quantized as it is read is the same.
    let quantized = random_weights(SHAPES)
        .quantized(Quantization::Nf4)
        .unwrap()
        .fingerprints()
        .unwrap();
    mine.base_fingerprint = quantized.whole;
    assert!(mine.check_weights(&one).is_some());
    mine.base = Some(BaseIdentity {
        weights_sha256: Some(quantized.weights),
        ..identity(config())
    });
    assert_eq!(mine.check_weights(&one), None);
    let refusal = mine.check_weights(&other).unwrap();
    assert!(
        refusal
            .to_string()
            .starts_with("the weights are others (sha256 ")
    );
}

#[test]
fn quantization_and_templates_are_worth_a_line() {
    let mut base = identity(config());
    let mine = belonging(BaseIdentity {
        quantization: Some(Quantization::Nf4),
        ..base.clone()
    });
    assert_eq!(mine.quantization(), Some(Quantization::Nf4));
    assert_eq!(mine.check(&base), []);
    insta::assert_snapshot!(mine.notes(&base, Some("fe")).join("\n"), @"
    the adapter was trained on a base that was quantized to NF4, and this one is not quantized
    the tokenizer's settings or its chat template are not those of the adapter's training
    ");
    base.quantization = Some(Quantization::Nf4);
    assert_eq!(mine.notes(&base, Some("ef")), Vec::<String>::new());
}

fn saved(folder: &Path, belonging: Option<&Belonging>) -> PeftAdapter {
    let parameters = crate::peft::parameters(candle_core::DType::F32);
    let config = crate::support::lora(2, 5.0, 0.1, &["q_proj"]);
    adapters::peft::save(folder, &parameters, &config, Some("org/base"), belonging).unwrap();
    PeftAdapter::load(folder).unwrap()
}

#[test]
fn files_of_both_forms_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mine = belonging(BaseIdentity {
        name: Some("org/base".into()),
        quantization: Some(Quantization::Nf4),
        weights_sha256: Some("0123456789abcdef".into()),
        ..identity(config())
    });
    let adapter = saved(dir.path(), Some(&mine));
    assert_eq!(adapter.belonging, Some(mine));
    let text = std::fs::read_to_string(dir.path().join("medtune.json")).unwrap();
    insta::assert_snapshot!(text, @r#"
    {
      "base_fingerprint": "cd",
      "tokenizer_fingerprint": "ef",
      "base": {
        "name": "org/base",
        "config_sha256": "f916ce9418683f41959e0f0f30191b059980120acd19adbdb53bd6a1a07b1327",
        "weights_sha256": "0123456789abcdef",
        "quantization": "nf4",
        "vocabulary": {
          "rows": 11,
          "tokens": 11,
          "sha256": "ab"
        },
        "config": {
          "hidden_size": 5,
          "model_type": "llama",
          "num_attention_heads": 1,
          "rms_norm_eps": 0.00001,
          "rope_scaling": null,
          "rope_theta": 10000.0
        }
      }
    }
    "#);
    json_file(
        &dir.path().join("medtune.json"),
        &json!({"base_fingerprint": "cd", "tokenizer_fingerprint": null}),
    );
    let old = PeftAdapter::load(dir.path()).unwrap().belonging.unwrap();
    assert_eq!((old.base_fingerprint.as_str(), old.base), ("cd", None));
    json_file(&dir.path().join("medtune.json"), &json!({"base": 3}));
    let error = refused(PeftAdapter::load(dir.path()));
    assert!(shown(&error, dir.path()).contains("DIR/medtune.json"));
}

#[test]
fn a_wrong_base_is_refused_with_every_difference() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = saved(dir.path(), Some(&belonging(identity(config()))));
    adapter.check_base(&identity(config())).unwrap();
    let mut base = identity(with("hidden_size", json!(7)));
    base.vocabulary.rows = Some(13);
    insta::assert_snapshot!(shown(&refused(adapter.check_base(&base)), dir.path()), @"
    the adapter was trained on another base: hidden_size is 7 here and 5 in the adapter's base; the embedding has 13 rows here and 11 in the adapter's base: tokens or padding rows were added to this one
    hint: use `org/base`; `medtune merge --base BASE --adapter ADAPTER --into DIR --force` merges all the same, and records what differs
    ");
    adapter.without_belonging().check_base(&base).unwrap();
}

#[test]
fn an_adapter_that_says_nothing_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut adapter = saved(dir.path(), None);
    adapter.check_base(&identity(config())).unwrap();
    insta::assert_snapshot!(adapter.unchecked_base().unwrap(), @"the adapter names `org/base` as its base and carries no hash of it: only shapes can be checked");
    adapter.config.base_model = None;
    insta::assert_snapshot!(adapter.unchecked_base().unwrap(), @"the adapter does not say which base it belongs to: only shapes can be checked");
}

#[test]
fn a_vocabulary_that_was_resized_is_explained() {
    let hint = |key: &str, expected: &[usize], found: &[usize]| {
        let (key, expected, found) = (key.into(), expected.into(), found.into());
        let error = adapters::Error::AdapterShape {
            key,
            expected,
            found,
        };
        error.hint().unwrap()
    };
    insta::assert_snapshot!(hint("base_model.model.lm_head.weight", &[9, 6], &[11, 6]), @"the adapter was trained with 11 tokens and this base has 9 rows: its embedding was resized before training, so resize this one in the same way, or use the base that the adapter was trained on");
    // Another width, another kind of tensor, another layer: another base.
    let other = "the adapter belongs to another base model";
    assert_eq!(
        hint("base_model.model.lm_head.weight", &[9, 6], &[9, 7]),
        other
    );
    assert_eq!(
        hint("base_model.model.lm_head.weight", &[9, 6], &[6]),
        other
    );
    assert_eq!(
        hint("base_model.model.model.norm.weight", &[9, 6], &[11, 6]),
        other
    );
}
