//! Bad input: a named error with a hint, and exit code 2.

use std::fs;

use super::Place;

/// The failure of running the recipe after a change, and after building nothing that should not be built.
fn after(change: impl Fn(&Place)) -> String {
    let place = Place::new();
    change(&place);
    let said = place
        .medtune(&["run", "recipe.toml", "--out", "out"])
        .failure();
    // What went well before it is not of interest.
    let lines = said
        .lines()
        .filter(|line| !line.starts_with("data ") && !line.starts_with("train "));
    lines.collect::<Vec<_>>().join("\n")
}

fn edited(file: &str, from: &str, to: &str) -> String {
    after(|place| place.edit(file, from, to))
}

#[test]
fn files_that_are_not_there() {
    let place = Place::new();
    insta::assert_snapshot!(place.medtune(&["run", "recipes/quick.toml"]).failure(), @"
    exit 2
    error: there is no recipe `recipes/quick.toml`
    hint: `medtune recipes list` names those that come with medtune, `recipes copy` gives you one
    ");
    insta::assert_snapshot!(edited("recipe.toml", "\"questions.jsonl\"", "\"question.jsonl\""), @"
    exit 2
    error: sources that are missing: 1
      questions: question.jsonl
    hint: put the files under --data-root, or build the rest with --allow-missing
    ");
    insta::assert_snapshot!(edited("recipe.toml", "shape/config.json", "shap/config.json"), @"
    exit 2
    error: shap/config.json: No such file or directory (os error 2)
    hint: check the path; one in a recipe starts from the recipe's folder
    ");
    insta::assert_snapshot!(edited("recipe.toml", "tasks/which.toml", "tasks/witch.toml"), @"
    exit 2
    error: there is no task file `tasks/witch.toml`
    hint: a relative path starts from the recipe's folder
    ");
    let model = "init = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"";
    insta::assert_snapshot!(edited("recipe.toml", model, "path = \"models/none\""), @"
    exit 2
    error: there is no folder `models/none`, and no such model in the Hugging Face cache huggingface/hub
    hint: download it with `medtune fetch models/none`, or give a Hugging Face folder or a .gguf file that is on this machine
    ");
    insta::assert_snapshot!(place.medtune(&["chat", "models/none"]).failure(), @"
    exit 2
    error: there is no folder `models/none`, and no such model in the Hugging Face cache huggingface/hub
    hint: download it with `medtune fetch models/none`, or give a Hugging Face folder or a .gguf file that is on this machine
    ");
    insta::assert_snapshot!(place.medtune(&["convert", "none.gguf", "out"]).failure(), @"
    exit 2
    error: none.gguf does not exist
    hint: check the spelling of the file's path
    ");
}

#[test]
fn mistakes_in_a_recipe() {
    insta::assert_snapshot!(edited("recipe.toml", "max_steps", "max_step"), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:22:1: unknown key `max_step` in [train]
      hint: did you mean `max_steps`?
    ");
    insta::assert_snapshot!(edited("recipe.toml", "rank = 4", "rank = 4\nlearning_rate = 1"), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:19:1: unknown key `learning_rate` in [adapter.lora]
      hint: `learning_rate` belongs in [train]
    ");
    insta::assert_snapshot!(edited("recipe.toml", "max_steps = 4", "max_steps = \"4\""), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:22:13: `train.max_steps` is the string "4", expected an integer
      hint: write 4 without quotes
    "#);
    let three = after(|place| {
        place.edit("recipe.toml", "max_steps = 4", "max_steps = true");
        place.edit("recipe.toml", "rank = 4", "rnk = 4");
        place.edit("recipe.toml", "\"alpaca\"", "\"alpacca\"");
    });
    insta::assert_snapshot!(three, @r#"
    exit 2
    error: the recipe has 3 problems
    recipe.toml:14:10: `data.source[0].format` is the string "alpacca", expected one of `alpaca`, `messages`, `sharegpt`, `prompt-completion`, `text`, `pubmedqa`, `records`, `csv`, `tsv`, `xlsx`, `parquet`, `medqa`, `medmcqa`, `mmlu`, `hoc`, `ddi-blue`, `mednli`, `bionli`, `emrqa`, `mtsamples`, `truthfulqa`, `pubmed-summarization`, `mslr`, `medquad`, `liveqa`, `liveqa-test`, `mediqa-qa`, `mediqa-rqe`, `ddi2013`, `i2b2-2012`, `iob`, `brat`, `medline`, `jats`, `umls-relations`, `umls-concepts`, `mimic-iii-notes`, `mimic-iv-notes`, `mimic-cxr`, `mimic-cxr-sectioned`
      hint: did you mean `alpaca`?
    recipe.toml:18:1: unknown key `rnk` in [adapter.lora]
      hint: did you mean `rank`?
    recipe.toml:22:13: `train.max_steps` is `true`, expected an integer
    "#);
    let place = Place::new();
    insta::assert_snapshot!(place.medtune(&["run", "recipe.toml", "--set", "train.epoch=2"]).failure(), @"
    exit 2
    error: the recipe has a problem
    --set train.epoch=2: unknown key `epoch` in [train]
      hint: did you mean `epochs`?
    ");
}

#[test]
fn sections_that_contradict_one_another() {
    insta::assert_snapshot!(edited("recipe.toml", "[adapter.lora]\nrank = 4\nalpha = 8.0\n", ""), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:18:1: [train] trains an adapter, and there is no [adapter]
      hint: add an [adapter.lora] table, or set train.method = "full"
    "#);
    insta::assert_snapshot!(edited("recipe.toml", "[train]\n", "[train]\nmethod = \"full\"\nmicro_batch_size = 0\n"), @r#"
    exit 2
    error: the recipe has 3 problems
    recipe.toml:17:1: [adapter] is not used where train.method is "full"
      hint: remove one of them
    recipe.toml:23:1: `train.micro_batch_size` must be at least 1
    recipe.toml:27:1: [merge] has no adapter to merge
      hint: train one, or name one with model.adapter
    "#);
    insta::assert_snapshot!(edited("recipe.toml", "init = \"random\"\n", "path = \"x\"\n"), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:6:1: `model.tokenizer` is used with `model.init` only
      hint: put the tokenizer's files into the model's folder
    ");
    insta::assert_snapshot!(edited("recipe.toml", "name = \"tiny\"", "name = \"a/b\""), @r#"
    exit 2
    error: the recipe has a problem
    recipe.toml:1:1: `name` is "a/b", and names a folder
      hint: use letters, digits, `-`, `_` and `.`
    "#);
    insta::assert_snapshot!(edited("recipe.toml", "tuned.which.items", "tuned.which.accurcy"), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:31:1: this recipe does not measure `tuned.which.accurcy`
      hint: did you mean `tuned.which.accuracy`?
    ");
    insta::assert_snapshot!(edited("recipe.toml", "at_least = 8.0\n", ""), @"
    exit 2
    error: the recipe has a problem
    recipe.toml:31:1: [[expect]] `tuned.which.items` has no limit
      hint: add `at_least`, `at_most`, `above` or `below`
    ");
}

#[test]
fn models_that_cannot_be() {
    insta::assert_snapshot!(edited("shape/config.json", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\""), @r#"
    exit 2
    error: architecture "mamba" is not supported
    hint: supported: llama, mistral, qwen2, qwen3
    "#);
    insta::assert_snapshot!(edited("shape/config.json", "\"vocab_size\": 2048", "\"vocab_size\": 1000"), @"
    exit 2
    error: the tokenizer has 2048 tokens, but the model's embedding has 1000 rows
    hint: use the tokenizer the model came with, or a checkpoint whose embedding was resized for the added tokens
    ");
    insta::assert_snapshot!(edited("recipe.toml", "rank = 4", "rank = 4\ntarget_modules = [\"q_prj\"]"), @"
    exit 2
    error: target module `q_prj` matches no linear layer of this model
    hint: did you mean `q_proj`? There are: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj
    ");
}

#[test]
fn samples_that_cannot_be() {
    insta::assert_snapshot!(edited("questions.jsonl", "{\"id\": \"q2\"", "{\"id\": \"q2"), @"
    exit 2
    error: questions.jsonl:3: not valid JSON: expected `,` or `}` (column 14)
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    insta::assert_snapshot!(edited("questions.jsonl", "\"output\": \"no\"", "\"output\": \"\""), @"
    exit 2
    error: sample questions/2 (questions.jsonl, record 2): the answer (message 2) is empty
    hint: leave the record out, or give it an answer
    ");
    insta::assert_snapshot!(edited("recipe.toml", "max_seq_len = 128", "max_seq_len = 8"), @r#"
    exit 2
    error: sample questions/1 (questions.jsonl, record 1): 19 tokens, more than max_seq_len = 8
    hint: raise max_seq_len, or set on_too_long = "drop" or "truncate_prompt"
    "#);
}

#[test]
fn files_that_are_damaged() {
    let damaged = |change: &dyn Fn(&Place)| {
        let place = Place::new();
        place
            .medtune(&["train", "recipe.toml", "--out", "made"])
            .ok();
        place
            .medtune(&["merge", "recipe.toml", "--out", "made"])
            .ok();
        change(&place);
        place
            .medtune(&["chat", "made/merged", "--prompt", "x"])
            .failure()
    };
    let truncated = damaged(&|place| {
        let path = place.path("made/merged/model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
    });
    insta::assert_snapshot!(truncated, @"
    exit 2
    error: made/merged/model.safetensors is truncated: it holds 337576 bytes and its header promises 338576
    hint: copy or download the file again
    ");
    let reshaped = damaged(&|place| {
        place.edit(
            "made/merged/config.json",
            "\"intermediate_size\": 64",
            "\"intermediate_size\": 96",
        );
    });
    insta::assert_snapshot!(reshaped, @"
    exit 2
    error: tensor `model.layers.0.mlp.gate_proj.weight` has shape (64, 32), and the configuration needs (96, 32)
    hint: config.json and the weights do not belong together
    ");
    assert!(damaged(&|_| {}).starts_with("exit 0"));
    let place = Place::new();
    place
        .medtune(&["merge", "recipe.toml", "--out", "made"])
        .ok();
    let said = place
        .medtune(&["logits", "made/merged", "--ids", "1,2047,2048"])
        .failure();
    insta::assert_snapshot!(said, @"
    exit 2
    error: token id 2048 at position 2 is outside the table of 2048 rows
    hint: the tokenizer does not belong to this model, or its vocabulary was extended and the model's was not
    ");
    let place = Place::new();
    let golden = format!(
        "{}/tests/golden/gguf/smollm.gguf",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = fs::read(golden).unwrap();
    place.write("cut.gguf", &bytes[..bytes.len() / 2]);
    insta::assert_snapshot!(place.medtune(&["convert", "cut.gguf", "out"]).failure(), @"
    exit 2
    error: cut.gguf is truncated: it holds 50832 bytes and its header promises 59136
    hint: copy or download the file again
    ");
    assert!(!place.path("out").exists());
}

#[test]
fn flags_that_cannot_be() {
    let place = Place::new();
    for command in ["run", "plan", "chat"] {
        let cuda = place.medtune(&[command, "recipe.toml", "--device", "cuda"]);
        if cfg!(feature = "cuda") {
            // Without a driver that is what is said, and with one a GPU can at least be planned for.
            let missing = cuda.code == 3 && cuda.stderr.contains("libcuda.so.1");
            let opened = cuda.code == if command == "plan" { 0 } else { 2 };
            assert!(missing || opened, "{}", cuda.failure());
        } else {
            insta::allow_duplicates! {
                insta::assert_snapshot!(cuda.failure(), @"
                exit 2
                error: this build of medtune cannot compute on `cuda`
                hint: leave --device out: every recipe runs on the CPU; scripts/cuda-build makes a build that computes on NVIDIA GPUs
                ");
            }
        }
    }
    insta::assert_snapshot!(place.medtune(&["run", "recipe.toml", "--device", "gpu"]).failure(), @"
    exit 2
    error: there is no device `gpu`
    hint: devices are: cpu, cuda (the first GPU), cuda:1 (the second)
    ");
    assert_eq!(place.medtune(&["rum"]).code, 2);
    assert_eq!(place.medtune(&["merge", "--base", "x"]).code, 2);
    place.edit("recipe.toml", "[merge]", "");
    insta::assert_snapshot!(place.medtune(&["verify", "recipe.toml"]).failure(), @"
    exit 2
    error: the recipe `tiny` has no [merge]
    hint: add a [merge] table to it
    ");
    insta::assert_snapshot!(place.medtune(&["chat", "recipe.toml"]).failure(), @"
    exit 2
    error: the recipe `tiny` has not been trained yet
    hint: train it first with `medtune train RECIPE`, or name its folder with --out
    ");
}

#[test]
fn a_training_that_cannot_be_planned_or_shared_is_refused() {
    let place = Place::new();
    insta::assert_snapshot!(place.medtune(&["plan", "recipe.toml", "--machine", "h300"]).failure(), @"
    exit 2
    error: there is no machine `h300`
    hint: machines are: a100-80g, cpu, h100-80g, h200, or the file of one
    ");
    let shared = after(|place| {
        place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\ndropout = 0.1");
        place.edit("recipe.toml", "[train]", "[train]\nshare_prefixes = true");
    });
    insta::assert_snapshot!(shared, @"
    exit 2
    error: the recipe has a problem
    recipe.toml:23:1: samples cannot share prefixes under dropout, whose masks are a sample's own
      hint: set adapter.lora.dropout = 0.0, or train.share_prefixes = false
    ");
}
