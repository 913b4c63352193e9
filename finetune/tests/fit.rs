//! What "auto" becomes follows from declared limits alone, and a run that goes on keeps it.

use std::path::Path;

use adapters::{LoraConfig, TargetModules};
use candle_core::DType;
use datasets::Tokenized;
use finetune::models::decoder_config;
use finetune::recipe::{MicroBatchSize, Recompute, TrainSection};
use finetune::{
    BatchShape, DecoderConfig, DeviceSpec, Error, FitSamples, Fitted, PlanInput, StoredWeights, fit,
};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn config() -> DecoderConfig {
    decoder_config(&json!({
        "model_type": "llama", "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 700,
        "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4
    }))
    .unwrap()
}

fn samples() -> Vec<Tokenized> {
    (0..40)
        .map(|sample| Tokenized {
            id: format!("s{sample}"),
            sample,
            input_ids: vec![7; 500],
            loss_mask: (0..500).map(|t| t > 100).collect(),
        })
        .collect()
}

fn auto() -> TrainSection {
    TrainSection {
        recompute: Recompute::Auto,
        micro_batch_size: MicroBatchSize::Auto,
        gradient_accumulation_steps: 8,
        ..Default::default()
    }
}

fn fitted(settings: &TrainSection, usable_bytes: u64, file: &Path) -> finetune::Result<Fitted> {
    let (config, samples) = (config(), samples());
    let lora = LoraConfig {
        rank: 8,
        alpha: 24.0,
        dropout: 0.0,
        target_modules: TargetModules::AllLinear,
        use_rslora: false,
        use_dora: false,
        modules_to_save: Vec::new(),
    };
    let input = PlanInput {
        config: &config,
        settings,
        adapter: Some(&lora),
        compute: DType::F32,
        weights: StoredWeights {
            bytes: 30 * MIB,
            computed_in_place: true,
        },
        batch: BatchShape::default(),
        answering: Default::default(),
    };
    let data = FitSamples {
        samples: &samples,
        max_seq_len: 512,
        packing: true,
        seed: 1,
    };
    fit(&input, data, usable_bytes, file)
}

fn chosen(fitted: &Fitted) -> (Recompute, usize, usize) {
    let settings = &fitted.settings;
    (
        settings.recompute,
        settings.micro_batch_size.packs(),
        settings.gradient_accumulation_steps,
    )
}

#[test]
fn the_most_that_fits_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |usable: u64| {
        let file = folder.path().join(format!("{usable}.json"));
        chosen(&fitted(&auto(), usable, &file).unwrap())
    };
    let needs = |recompute| {
        let settings = TrainSection {
            recompute,
            gradient_accumulation_steps: 8,
            ..Default::default()
        };
        let file = folder.path().join("unused.json");
        fitted(&settings, u64::MAX, &file).unwrap().plan.peak_bytes
    };
    assert_eq!(
        at(4000 * MIB),
        (Recompute::None, 8, 1),
        "all packs of a step at once"
    );
    let none = needs(Recompute::None);
    let selective = needs(Recompute::Selective);
    let full = needs(Recompute::Full);
    assert!(full < selective && selective < none);
    assert_eq!(at(none), (Recompute::None, 1, 8));
    assert_eq!(at(none - 1).0, Recompute::Selective);
    assert_eq!(at(selective - 1).0, Recompute::Full);
    assert_eq!(at(full), (Recompute::Full, 1, 8));
}

#[test]
fn a_choice_is_kept_where_the_memory_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolved.json");
    let first = fitted(&auto(), 400 * MIB, &file).unwrap();
    let again = fitted(&auto(), 4000 * MIB, &file).unwrap();
    assert_eq!(chosen(&first), chosen(&again));
    // Nothing is written where nothing was left open.
    let other = folder.path().join("other.json");
    fitted(&TrainSection::default(), 4000 * MIB, &other).unwrap();
    assert!(!other.exists());
}

#[test]
fn what_cannot_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolved.json");
    let error = fitted(&auto(), 40 * MIB, &file).unwrap_err();
    insta::assert_snapshot!(format!("{error}\nhint: {}", error.hint().unwrap()), @r#"
    this training needs 0.06 GB of memory, of which 0.03 GB is base weights; 0.04 GB is free
    hint: train.recompute = "auto", a smaller data.max_seq_len or micro_batch_size, or an adapter instead of every weight needs less; `medtune plan` shows the parts
    "#);
}

#[test]
fn a_machine_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let text = "name = \"m\"\nabout = \"x\"\nkind = \"cpu\"\nmemory_gib = 4.0\nreserved_gib = 5.0\nf32_tflops = 1.0\nbf16_tflops = 1.0\nefficiency = 0.5\n";
    std::fs::write(&path, text).unwrap();
    let error = DeviceSpec::read(&path).unwrap_err();
    assert!(matches!(error, Error::Machine { .. }));
    let said = format!("{error}\nhint: {}", error.hint().unwrap());
    insta::assert_snapshot!(said.replace(&folder.path().display().to_string(), "."), @"
    machine ./m.toml: `reserved_gib` is 5
    hint: recipes/machines holds files to start from
    ");
}
