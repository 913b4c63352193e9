//! Trainings that are killed, stopped, or run out of disk end in the bytes of one that was left alone.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Place, Said};

const STEPS: usize = 600;

/// A way of training.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    set_up: fn(&Place),
    product: &'static str,
}

const ADAPTER: &str = "adapter/adapter_model.safetensors";
const MODEL: &str = "model/model.safetensors";

const WAYS: [Way; 8] = [
    Way {
        name: "lora",
        set_up: |place| {
            place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\ndropout = 0.1");
        },
        product: ADAPTER,
    },
    Way {
        name: "lora in bf16, recomputed",
        set_up: |place| {
            place.edit("recipe.toml", "[model]", "[model]\ndtype = \"bf16\"");
            place.edit("recipe.toml", "[train]", "[train]\nrecompute = \"full\"");
        },
        product: ADAPTER,
    },
    Way {
        // Q4_0, Q4_1, Q8_0, Q4_K and others under the adapter.
        name: "lora on a quantized base",
        set_up: |place| {
            let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/smollm.gguf");
            place.write("base.gguf", &fs::read(base).unwrap());
            place.edit(
                "recipe.toml",
                "init = \"random\"\nconfig = \"shape/config.json\"\ntokenizer = \"shape\"",
                "path = \"base.gguf\"",
            );
        },
        product: ADAPTER,
    },
    Way {
        name: "DoRA on a base in NF4",
        set_up: |place| {
            place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\nuse_dora = true");
            place.edit("recipe.toml", "[model]", "[model]\nquantization = \"nf4\"");
        },
        product: ADAPTER,
    },
    Way {
        name: "full",
        set_up: full,
        product: MODEL,
    },
    Way {
        name: "full, in bf16 rounded at random, moments in 8 bits, gradients applied as they come",
        set_up: |place| {
            full(place);
            let lean = "[train]\nweights = \"bf16-stochastic\"\noptimizer = \"adamw-8bit\"\ngradients = \"per-layer\"\nclipping = \"per-parameter\"";
            place.edit("recipe.toml", "[train]", lean);
        },
        product: MODEL,
    },
    Way {
        name: "full, with the best weights",
        set_up: |place| {
            full(place);
            let best = "[train]\nload_best_model_at_end = true\neval_steps = 7";
            place.edit("recipe.toml", "[train]", best);
        },
        product: MODEL,
    },
    Way {
        name: "lora, with the weights that answer best",
        set_up: |place| {
            place.edit("recipe.toml", "alpha = 8.0", "alpha = 8.0\ndropout = 0.1");
            let best = "[train]\nload_best_model_at_end = true\nmetric_for_best_model = \"which.brier\"\neval_tasks = [\"tasks/which.toml:5\"]\neval_steps = 7";
            place.edit("recipe.toml", "[train]", best);
            place.edit(
                "tasks/which.toml",
                "[\"accuracy\"]",
                "[\"accuracy\", \"brier\"]",
            );
        },
        product: ADAPTER,
    },
];

fn full(place: &Place) {
    place.edit("recipe.toml", "[adapter.lora]\nrank = 4\nalpha = 8.0\n", "");
    place.edit("recipe.toml", "[train]\n", "[train]\nmethod = \"full\"\n");
    place.edit("recipe.toml", "[merge]\n", "");
}

impl Way {
    fn place(&self) -> Place {
        let place = Place::new();
        place.edit(
            "recipe.toml",
            "max_steps = 4",
            &format!("max_steps = {STEPS}"),
        );
        (self.set_up)(&place);
        place
    }
}

/// `medtune train`, with so many threads and a checkpoint after every so many steps, which changes no weight.
fn training(place: &Place, out: &str, threads: usize, save_steps: usize) -> Command {
    let save_steps = format!("train.save_steps={save_steps}");
    let mut command = place.command(&["train", "recipe.toml", "--out", out, "--set", &save_steps]);
    command.env("RAYON_NUM_THREADS", threads.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// xorshift64*: the moments of killing differ from one another, and not from one test run to the next.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

fn steps_done(log: &Path) -> usize {
    fs::read(log).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

fn writes_checkpoint(train: &Path) -> bool {
    let names = fs::read_dir(train.join("checkpoints"))
        .into_iter()
        .flatten();
    names
        .flatten()
        .any(|entry| entry.path().extension().is_some_and(|end| end == "partial"))
}

/// Waits for something to become true of a running process; false where it ended before.
fn wait_for(child: &mut Child, mut what: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !what() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it hangs");
        std::thread::yield_now();
    }
    true
}

/// Starts a training and kills it: after a time, or while a checkpoint is being written some steps from here. Answers
/// whether it lived so long, and whether it left half a checkpoint.
fn kill_one(
    place: &Place,
    random: &mut Random,
    threads: usize,
    in_checkpoint: bool,
) -> (bool, bool) {
    let train = place.path("killed/train");
    let save_steps = if in_checkpoint { 1 } else { 3 };
    let mut child = training(place, "killed", threads, save_steps)
        .spawn()
        .unwrap();
    let lived = if in_checkpoint {
        let log = train.join("steps.jsonl");
        let target = steps_done(&log) + 1 + random.below(12) as usize;
        wait_for(&mut child, || steps_done(&log) >= target)
            && wait_for(&mut child, || writes_checkpoint(&train))
    } else {
        sleep(Duration::from_millis(random.below(200)));
        child.try_wait().unwrap().is_none()
    };
    // SIGKILL, which nothing can be done about.
    child.kill().unwrap();
    child.wait().unwrap();
    (lived, in_checkpoint && lived && writes_checkpoint(&train))
}

/// The step log, without what differs from one run to the next.
fn log(place: &Place, out: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(place.path(out).join("train/steps.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("tokens_per_sec");
        line
    });
    lines.collect()
}

fn assert_same(way: &Way, place: &Place, one: &str, other: &str) {
    for file in [way.product, &manifest(way)] {
        let read = |out: &str| fs::read(place.path(out).join(file)).unwrap();
        assert!(
            read(one) == read(other),
            "{}: {file} of {one} and {other} differ",
            way.name
        );
    }
    assert_eq!(log(place, one), log(place, other), "{}", way.name);
    let steps: Vec<_> = log(place, other)
        .iter()
        .map(|line| line["step"].as_u64().unwrap() as usize)
        .collect();
    assert_eq!(steps, (1..=steps.len()).collect::<Vec<_>>());
}

fn manifest(way: &Way) -> String {
    let folder = way.product.split('/').next().unwrap();
    format!("{folder}/manifest.json")
}

/// Kills a training again and again, under changing numbers of threads, and holds its end against that of one that ran
/// through with one thread, and of one with two.
fn survives_kills(way: &Way, seed: u64) {
    let place = way.place();
    for (out, threads) in [("one", 1), ("two", 2)] {
        assert!(
            training(&place, out, threads, 0)
                .status()
                .unwrap()
                .success()
        );
    }
    assert_same(way, &place, "one", "two");
    let mut random = Random(seed);
    let (mut killed, mut halves) = (0, 0);
    for round in 0..8 {
        let (lived, half) = kill_one(&place, &mut random, 1 + round % 2, round % 4 > 1);
        killed += u32::from(lived);
        halves += u32::from(half);
    }
    let what = format!(
        "{}: killed {killed} times, {halves} of them with half a checkpoint written",
        way.name
    );
    println!("{what}");
    assert!(killed >= 4 && halves >= 1, "{what}");
    let log = place.path("killed/train/steps.jsonl");
    assert!(steps_done(&log) > 4, "{what}");
    assert!(training(&place, "killed", 2, 3).status().unwrap().success());
    assert_same(way, &place, "one", "killed");
    assert!(!writes_checkpoint(&place.path("killed/train")));
}

#[test]
fn lora_survives_kills() {
    survives_kills(&WAYS[0], 0x9e37_79b9_7f4a_7c15);
}

#[test]
fn lora_in_bf16_survives_kills() {
    survives_kills(&WAYS[1], 0xbf58_476d_1ce4_e5b9);
}

#[test]
fn qlora_survives_kills() {
    survives_kills(&WAYS[2], 0x94d0_49bb_1331_11eb);
}

#[test]
fn dora_over_nf4_survives_kills() {
    survives_kills(&WAYS[3], 0x2545_f491_4f6c_dd1d);
}

#[test]
fn full_fine_tuning_survives_kills() {
    survives_kills(&WAYS[4], 0xd6e8_feb8_6659_fd93);
}

#[test]
fn lean_full_fine_tuning_survives_kills() {
    survives_kills(&WAYS[5], 0xe703_7ed1_a0b4_28db);
}

#[test]
fn choosing_the_best_survives_kills() {
    survives_kills(&WAYS[6], 0xa076_1d64_78bd_642f);
}

#[test]
fn choosing_by_a_task_survives_kills() {
    survives_kills(&WAYS[7], 0x8cb9_2ba7_2f3d_8dd7);
}

/// A signal while a task is being asked: what the step did is kept, and whoever goes on asks first.
#[test]
fn a_stopped_evaluation_is_asked_again() {
    let way = WAYS[7];
    let place = way.place();
    place.edit(
        "recipe.toml",
        &format!("max_steps = {STEPS}"),
        "max_steps = 7",
    );
    place.edit("recipe.toml", "eval_steps = 7", "eval_steps = 1");
    place.edit("recipe.toml", "which.toml:5", "which.toml");
    // Without a best one there is no checkpoint but those of the signals.
    let best = "load_best_model_at_end = true\nmetric_for_best_model = \"which.brier\"\n";
    place.edit("recipe.toml", best, "");
    place.edit("tasks/which.toml", "questions.jsonl", "many.jsonl");
    let rows: String = (0..3000)
        .map(|i| format!("{{\"id\": \"q{i}\", \"instruction\": \"Does number {i} help?\", \"output\": \"yes\"}}\n"))
        .collect();
    place.write("many.jsonl", rows.as_bytes());
    assert!(training(&place, "whole", 2, 0).status().unwrap().success());
    let log = place.path("stopped/train/steps.jsonl");
    let mut unevaluated = 0;
    for round in 0..4 {
        let mut child = training(&place, "stopped", 2, 0).spawn().unwrap();
        let target = steps_done(&log) + usize::from(round > 0);
        if !wait_for(&mut child, || steps_done(&log) >= target.max(1)) {
            break;
        }
        // Of a step's time nearly all is asking.
        sleep(Duration::from_millis(30));
        signal(&child, "INT");
        if end_of(child).code != 4 {
            break;
        }
        let newest = fs::read_dir(place.path("stopped/train/checkpoints")).unwrap();
        let newest = newest.map(|entry| entry.unwrap().path()).max().unwrap();
        let state = fs::read_to_string(newest.join("state.json")).unwrap();
        unevaluated += u32::from(state.contains("\"unevaluated\""));
    }
    assert!(unevaluated > 0, "every signal came between two evaluations");
    // Killed once that is done, with no checkpoint after it.
    let mut child = training(&place, "stopped", 2, 0).spawn().unwrap();
    let target = steps_done(&log) + 1;
    wait_for(&mut child, || steps_done(&log) >= target);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        training(&place, "stopped", 2, 0)
            .status()
            .unwrap()
            .success()
    );
    assert_same(&way, &place, "whole", "stopped");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// What a command printed on stderr once it has ended.
fn end_of(child: Child) -> Said {
    Said::of(child.wait_with_output().unwrap())
}

#[test]
fn a_signal_leaves_a_checkpoint_and_says_how_to_go_on() {
    let way = WAYS[0];
    let place = way.place();
    assert!(training(&place, "whole", 2, 0).status().unwrap().success());
    for name in ["INT", "TERM"] {
        // A name that a shell would take apart.
        let out = format!("stopped by {name}");
        let mut child = training(&place, &out, 2, 0)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = place.path(&out).join("train/steps.jsonl");
        assert!(wait_for(&mut child, || steps_done(&log) >= 3));
        signal(&child, name);
        let said = end_of(child);
        assert_eq!(said.code, 4, "{}", said.stderr);
        assert!(!place.path(&out).join("adapter").exists());

        let (_, command) = said.stderr.split_once("; to go on: ").unwrap();
        let command = command.lines().next().unwrap();
        assert!(
            command.ends_with(&format!(
                "medtune train recipe.toml --out 'stopped by {name}' --set train.save_steps=0"
            )),
            "{command}"
        );
        let shell = Command::new("sh")
            .args(["-c", command])
            .current_dir(place.path(""))
            .output();
        let said = Said::of(shell.unwrap()).ok();
        assert!(
            said.stderr.contains(" steps (from step "),
            "{}",
            said.stderr
        );
        assert_same(&way, &place, "whole", &out);
    }
}

#[test]
fn a_second_signal_ends_at_once_and_breaks_nothing() {
    let way = WAYS[0];
    let place = way.place();
    assert!(training(&place, "whole", 2, 0).status().unwrap().success());
    let mut codes = Vec::new();
    for more in [0, 300, 3000] {
        let mut child = training(&place, "stopped", 1, 2).spawn().unwrap();
        let log = place.path("stopped/train/steps.jsonl");
        let target = steps_done(&log) + 2;
        assert!(wait_for(&mut child, || steps_done(&log) >= target));
        signal(&child, "INT");
        sleep(Duration::from_micros(more));
        signal(&child, "INT");
        codes.push(end_of(child).code);
    }
    assert!(
        codes.iter().all(|code| [4, 130].contains(code)),
        "{codes:?}"
    );
    assert!(
        training(&place, "stopped", 2, 2)
            .status()
            .unwrap()
            .success()
    );
    assert_same(&way, &place, "whole", "stopped");
}

/// A signal during the evaluation after the last step: the training is done, and is not thrown away, but `run` does
/// not go on with the merge.
#[test]
fn run_starts_no_stage_after_a_signal() {
    let place = Place::new();
    place.edit("recipe.toml", "max_steps = 4", "max_steps = 2");
    place.edit(
        "recipe.toml",
        "validation_fraction = 0.25",
        "validation_fraction = 0.99",
    );
    place.edit(
        "recipe.toml",
        "[data]\n",
        "[data]\nclean.near_duplicates = 0.0\n",
    );
    let rows: String = (0..3000)
        .map(|i| format!("{{\"id\": \"q{i}\", \"instruction\": \"Does number {i} help?\", \"output\": \"yes\"}}\n"))
        .collect();
    place.write("questions.jsonl", rows.as_bytes());
    let mut child = place
        .command(&["run", "recipe.toml", "--out", "out"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = place.path("out/train/steps.jsonl");
    assert!(wait_for(&mut child, || steps_done(&log) >= 1));
    sleep(Duration::from_millis(50));
    signal(&child, "INT");
    let said = end_of(child);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(said.stderr.contains("; to go on: "), "{}", said.stderr);
    assert!(!place.path("out/merged").exists());
    let said = place
        .medtune(&["merge", "recipe.toml", "--out", "out"])
        .ok();
    assert!(place.path("out/merged").exists(), "{}", said.stderr);
}

/// The system's limit on file sizes stands for a full disk: it holds for root too, and needs no disk of one's own.
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let way = WAYS[0];
    let place = way.place();
    // So that a checkpoint is larger than any other file.
    place.edit("recipe.toml", "rank = 4", "rank = 80");
    assert!(training(&place, "whole", 2, 0).status().unwrap().success());
    let mut child = training(&place, "full", 2, 0).spawn().unwrap();
    let log = place.path("full/train/steps.jsonl");
    assert!(wait_for(&mut child, || steps_done(&log) >= 3));
    signal(&child, "INT");
    assert_eq!(end_of(child).code, 4);

    // In units of 512 or 1024 bytes, as the shell has it: too small for a checkpoint, and then for the logs.
    insta::assert_snapshot!(limited(&place, 100, 2), @"
    exit 3
    error: cannot write checkpoint full/train/checkpoints/step-N
      File too large (os error N)
    hint: free some space on the disk (or raise the limit on file sizes); the same command then goes on from step N, whose checkpoint is intact
    ");
    insta::assert_snapshot!(limited(&place, 8, 0), @"
    exit 3
    error: full/train/tensorboard/events.out.tfevents.N.medtune: File too large (os error N)
    hint: free some space on the disk; the last checkpoint is intact, and the same command goes on from it
    ");
    assert!(!writes_checkpoint(&place.path("full/train")));
    assert!(training(&place, "full", 2, 0).status().unwrap().success());
    assert_same(&way, &place, "whole", "full");
}

/// What a training says under a limit on file sizes.
fn limited(place: &Place, units: usize, save_steps: usize) -> String {
    let script = format!(
        "ulimit -f {units} && exec \"$0\" train recipe.toml --out full --set train.save_steps={save_steps}"
    );
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_medtune")])
        .current_dir(place.path(""))
        .env("RAYON_NUM_THREADS", "1")
        .output();
    error_of(&Said::of(output.unwrap()))
}

/// The exit code and the error, with numbers as `N`, since which step it was depends on the moment; not those in a
/// name, such as f32.
fn error_of(said: &Said) -> String {
    let at = said.stderr.find("error: ").unwrap_or_default();
    let (mut shown, mut in_name) = (String::new(), false);
    for c in said.stderr[at..].chars() {
        in_name = c.is_ascii_lowercase() || (in_name && c.is_ascii_digit());
        match c.is_ascii_digit() && !in_name {
            true if shown.ends_with('N') => {}
            true => shown.push('N'),
            false => shown.push(c),
        }
    }
    format!("exit {}\n{shown}", said.code)
}

#[test]
fn a_training_that_needs_more_disk_than_there_is_does_not_start() {
    let place = Place::new();
    place.edit(
        "recipe.toml",
        "max_steps = 4",
        "max_steps = 1000000000000\nsave_steps = 1\nsave_total_limit = 1000000000000",
    );
    let said = place.medtune(&["train", "recipe.toml", "--out", "out"]);
    insta::assert_snapshot!(error_of(&said), @"
    exit 2
    error: the disk of out/train has N bytes free, and the training's checkpoints and result need N
    hint: free some space on the disk, choose another folder with --out, or lower train.save_total_limit
    ");
    assert!(!place.path("out/train/steps.jsonl").exists());
}

/// Under a file nobody can make a folder, root neither, whom permissions would not keep out.
#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let place = Place::new();
    insta::assert_snapshot!(place.medtune(&["train", "recipe.toml", "--out", "recipe.toml/out"]).failure(), @"
    exit 2
    error: cannot write `recipe.toml/out`
      Not a directory (os error 20)
    hint: choose a folder that you may write to with --out
    ");
    // In sysfs neither; whether it says so by a permission or as read-only differs.
    let said = place.medtune(&["train", "recipe.toml", "--out", "/sys/medtune"]);
    assert_eq!(said.code, 2);
    assert!(
        said.stderr
            .starts_with("error: cannot write `/sys/medtune`\n"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .ends_with("hint: choose a folder that you may write to with --out\n")
    );
    fs::create_dir_all(place.path("out/train")).unwrap();
    place.write("out/train/checkpoints", b"mine");
    let said = place.medtune(&["train", "recipe.toml", "--out", "out"]);
    insta::assert_snapshot!(error_of(&said), @"
    exit 2
    error: out/train/checkpoints: Not a directory (os error N)
    hint: choose a folder that you may write to with --out
    ");
}

#[test]
fn a_loss_that_is_nan_is_named_with_its_samples() {
    let place = Place::new();
    place.edit(
        "recipe.toml",
        "learning_rate = 1e-2",
        "learning_rate = 1e30\nwarmup_ratio = 0.0",
    );
    let said = place.medtune(&["train", "recipe.toml", "--out", "out"]);
    // Which of the two is NaN first is the kernels' affair.
    insta::assert_snapshot!(error_of(&said).replace("gradient norm", "loss"), @r#"
    exit 2
    error: the loss of step N is NaN; samples in it: questions/N, questions/N, questions/N, questions/N, questions/N, questions/N
    hint: look at these samples; train.on_nonfinite = "skip" goes on from the last checkpoint and leaves such steps out. Where it comes back, a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps
    "#);
    // Left out instead: the first step is all that is learned.
    let skip = [
        "train",
        "recipe.toml",
        "--out",
        "out",
        "--json",
        "--set",
        "train.on_nonfinite=skip",
    ];
    let said = place.medtune(&skip).ok();
    assert_eq!(said.json()["stages"]["train"]["counts"]["skipped_steps"], 3);
    assert!(
        said.stderr
            .contains("train  4 steps, 3 of them left out as not finite, loss "),
        "{}",
        said.stderr
    );
}
