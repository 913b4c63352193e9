//! The recipe sections, read as a user writes them.

use adapters::recipe::{
    AdapterSection, ComputeDtype, MergeSection, ModelInit, ModelSection, Onto, StoredDtype, Verify,
};
use adapters::{LoraConfig, TargetModules};
use candle_core::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Recipe {
    model: ModelSection,
    adapter: Option<AdapterSection>,
    merge: MergeSection,
}

fn read(text: &str) -> Result<Recipe, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    match ledger::recipe::read::<Recipe>(&path, &[]) {
        Ok(document) => Ok(document.value),
        Err(error) => Err(error
            .to_string()
            .replace(&dir.path().display().to_string(), "DIR")),
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let recipe = read("[adapter.lora]\n").unwrap();
    let Some(AdapterSection::Lora(section)) = recipe.adapter else {
        panic!("no adapter")
    };
    let config = LoraConfig::from(&section);
    assert_eq!((config.rank, config.alpha, config.dropout), (16, 32.0, 0.0));
    assert_eq!(config.target_modules, TargetModules::AllLinear);
    assert!(config.check().is_ok());
    assert_eq!(DType::from(recipe.model.dtype), DType::F32);
    assert!(recipe.merge.verify == Verify::Standard && recipe.merge.dtype.is_none());
}

#[test]
fn sections_say_what_they_say() {
    let recipe = read(
        r#"
[model]
init = "random"
config = "tiny.json"
dtype = "bf16"

[adapter.lora]
rank = 8
alpha = 4
target_modules = ["q_proj", "v_proj"]
use_rslora = true
use_dora = true
modules_to_save = ["embed_tokens", "lm_head"]

[merge]
dtype = "f16"
verify = "full"
onto = "stored"
max_shard_bytes = 1000
"#,
    )
    .unwrap();
    assert_eq!(recipe.model.init, Some(ModelInit::Random));
    assert_eq!(recipe.model.dtype, ComputeDtype::Bf16);
    assert_eq!(recipe.merge.dtype, Some(StoredDtype::F16));
    assert_eq!(
        (
            recipe.merge.verify,
            recipe.merge.onto,
            recipe.merge.max_shard_bytes
        ),
        (Verify::Full, Onto::Stored, 1000)
    );
    let Some(AdapterSection::Lora(section)) = recipe.adapter else {
        panic!("no adapter")
    };
    assert_eq!(
        section.target_modules,
        TargetModules::Named(vec!["q_proj".into(), "v_proj".into()])
    );
    let config = LoraConfig::from(&section);
    assert_eq!(config.scaling(), 4.0 / 8f64.sqrt());
    assert!(config.use_dora);
    assert_eq!(config.modules_to_save, ["embed_tokens", "lm_head"]);
}

#[test]
fn mistakes_are_all_told_with_their_lines() {
    let told = read(
        r#"
[model]
dtype = "fp16"
init = "zeros"

[adapter.lora]
rnak = 8
rank = 0
dropout = 2.0
target_modules = "q_proj"

[merge]
verify = "yes"
"#,
    )
    .unwrap_err();
    insta::assert_snapshot!(told, @r#"
the recipe has 7 problems
DIR/recipe.toml:3:9: `model.dtype` is the string "fp16", expected one of `f32`, `bf16`, `f64`
DIR/recipe.toml:4:8: `model.init` is the string "zeros", expected `random`
DIR/recipe.toml:7:1: unknown key `rnak` in [adapter.lora]
  hint: did you mean `rank`, which belongs in [adapter.lora]?
DIR/recipe.toml:8:8: `adapter.lora.rank` is the integer `0`, and must be at least 1
DIR/recipe.toml:9:11: `adapter.lora.dropout` is the number `2.0`, and must be at least 0 and at most 1
DIR/recipe.toml:10:18: `adapter.lora.target_modules` is the string "q_proj", expected `all-linear`
DIR/recipe.toml:13:10: `merge.verify` is the string "yes", expected one of `none`, `tensors`, `standard`, `full`
"#);
    insta::assert_snapshot!(read("[adapter.dora]\nrank = 8\n").unwrap_err(), @r"
    the recipe has a problem
    DIR/recipe.toml:1:10: unknown key `dora` in [adapter]
      hint: did you mean `lora`?
    ");
}
