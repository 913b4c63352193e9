//! The memory that a step really takes is what its plan says, within 5 %.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use adapters::{Builder, LoraConfig, Method, TargetModules, Weights};
use candle_core::DType;
use datasets::{Batch, Pack, Tokenized};
use finetune::models::decoder_config;
use finetune::recipe::{
    Clipping, GradientMode, OptimizerKind, Recompute, TrainSection, TrainedWeights,
};
use finetune::{
    AnsweringShape, BatchShape, Decoder, DecoderConfig, DeviceKind, DropoutState, Optimizer,
    PlanInput, StoredWeights, WeightsRead, plan, tensor_specs,
};
use kernels::Arena;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counted = Counted(Arena);

/// Counts the blocks that an arena would hold, wherever they are.
struct Counted(Arena);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn large(size: usize) -> usize {
    if size < 16 << 10 { 0 } else { size }
}

fn counted(size: usize) {
    let live = LIVE.fetch_add(large(size), Ordering::SeqCst) + large(size);
    PEAK.fetch_max(live, Ordering::SeqCst);
}

// SAFETY: every call is handed on as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted(layout.size());
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        counted(layout.size());
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(large(layout.size()), Ordering::SeqCst);
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        counted(new_size);
        LIVE.fetch_sub(large(layout.size()), Ordering::SeqCst);
        unsafe { self.0.realloc(block, layout, new_size) }
    }
}

struct Case {
    name: &'static str,
    /// Rank and dropout; `None`: every weight is trained.
    adapter: Option<(usize, f64)>,
    compute: DType,
    stored: &'static str,
    recompute: Recompute,
    /// Tokens a sample, samples a batch, share of a sample that is a prompt.
    samples: (usize, usize, usize),
    config: fn() -> Value,
    use_dora: bool,
    modules_to_save: &'static [&'static str],
    weights: TrainedWeights,
    optimizer: OptimizerKind,
    gradients: GradientMode,
}

/// GQA, tied.
fn small() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 3001, "hidden_size": 192, "intermediate_size": 520,
        "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
        "tie_word_embeddings": true, "max_position_embeddings": 4096
    })
}

/// Deep and narrow, untied, with norms on q and k.
fn qwen3() -> Value {
    json!({
        "model_type": "qwen3", "vocab_size": 1201, "hidden_size": 160, "intermediate_size": 400,
        "num_hidden_layers": 9, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 48,
        "tie_word_embeddings": false, "max_position_embeddings": 4096
    })
}

/// A wide head: the logits are the largest part.
fn wide_head() -> Value {
    json!({
        "model_type": "mistral", "vocab_size": 32003, "hidden_size": 128, "intermediate_size": 352,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "tie_word_embeddings": true, "max_position_embeddings": 4096, "sliding_window": 512
    })
}

const LORA: Case = Case {
    name: "LoRA",
    adapter: Some((24, 0.0)),
    compute: DType::F32,
    stored: "float32",
    recompute: Recompute::None,
    samples: (255, 4, 85),
    config: small,
    use_dora: false,
    modules_to_save: &[],
    weights: TrainedWeights::F32,
    optimizer: OptimizerKind::Adamw,
    gradients: GradientMode::Accumulate,
};

/// Gradients applied as they come, moments in 8 bits.
const LEAN: Case = Case {
    name: "full, per layer, 8-bit",
    adapter: None,
    optimizer: OptimizerKind::Adamw8bit,
    gradients: GradientMode::PerLayer,
    ..LORA
};

const CASES: &[Case] = &[
    LORA,
    LEAN,
    Case {
        name: "full, per layer, 8-bit, bf16 stochastic",
        compute: DType::BF16,
        weights: TrainedWeights::Bf16Stochastic,
        ..LEAN
    },
    Case {
        name: "full, bf16 master, untied",
        adapter: None,
        compute: DType::BF16,
        weights: TrainedWeights::Bf16Master,
        config: qwen3,
        ..LORA
    },
    Case {
        name: "DoRA",
        use_dora: true,
        ..LORA
    },
    Case {
        name: "DoRA, bf16, dropout",
        adapter: Some((16, 0.1)),
        compute: DType::BF16,
        stored: "bfloat16",
        use_dora: true,
        ..LORA
    },
    Case {
        name: "LoRA, embedding saved",
        modules_to_save: &["embed_tokens"],
        ..LORA
    },
    Case {
        name: "LoRA, dropout, one long sample",
        adapter: Some((16, 0.1)),
        samples: (1024, 1, 1),
        ..LORA
    },
    Case {
        name: "LoRA, bf16",
        compute: DType::BF16,
        stored: "bfloat16",
        ..LORA
    },
    Case {
        name: "LoRA, f32 over bf16 weights",
        stored: "bfloat16",
        ..LORA
    },
    Case {
        name: "LoRA, selective",
        recompute: Recompute::Selective,
        ..LORA
    },
    Case {
        name: "LoRA, full recompute",
        recompute: Recompute::Full,
        ..LORA
    },
    Case {
        name: "LoRA, bf16, full recompute",
        compute: DType::BF16,
        stored: "bfloat16",
        recompute: Recompute::Full,
        ..LORA
    },
    Case {
        name: "LoRA, short targets",
        samples: (255, 4, 230),
        ..LORA
    },
    Case {
        name: "full",
        adapter: None,
        ..LORA
    },
    Case {
        name: "full, recompute",
        adapter: None,
        recompute: Recompute::Full,
        ..LORA
    },
    Case {
        name: "full, selective, bf16",
        adapter: None,
        compute: DType::BF16,
        recompute: Recompute::Selective,
        ..LORA
    },
    Case {
        name: "LoRA, Qwen3",
        config: qwen3,
        ..LORA
    },
    Case {
        name: "full, Qwen3",
        adapter: None,
        config: qwen3,
        ..LORA
    },
    Case {
        name: "LoRA, wide head",
        config: wide_head,
        ..LORA
    },
    Case {
        name: "full, wide head",
        adapter: None,
        config: wide_head,
        ..LORA
    },
];

fn batch((tokens, samples, prompt): (usize, usize, usize)) -> Batch {
    let packs: Vec<Pack> = (0..samples)
        .map(|sample| {
            Pack::single(&Tokenized {
                id: format!("s{sample}"),
                sample: sample as u64,
                input_ids: (0..tokens)
                    .map(|t| ((sample * 31 + t * 7) % 1201) as u32)
                    .collect(),
                loss_mask: (0..tokens).map(|t| t >= prompt).collect(),
            })
        })
        .collect();
    Batch::from_packs(&packs)
}

/// The model of a case and its adapter.
fn shape_of(case: &Case) -> (Value, DecoderConfig, Option<LoraConfig>) {
    let mut json = (case.config)();
    json["dtype"] = case.stored.into();
    let config = decoder_config(&json).unwrap();
    let lora = case.adapter.map(|(rank, dropout)| LoraConfig {
        rank,
        alpha: 11.0,
        dropout,
        target_modules: TargetModules::AllLinear,
        use_rslora: false,
        use_dora: case.use_dora,
        modules_to_save: case
            .modules_to_save
            .iter()
            .map(|m| (*m).to_owned())
            .collect(),
    });
    (json, config, lora)
}

/// Planned and actual peak of one step's backward pass with its gradients.
fn measure(case: &Case) -> (u64, u64) {
    let (json, config, lora) = shape_of(case);
    let weights = Weights::random(json, tensor_specs(&config, 0.05), 5);
    let method = lora.clone().map_or(case.weights.method(), Method::Lora);
    let mut builder = Builder::new(&weights, case.compute, method, 9);
    let mut decoder = Decoder::build(&mut builder, config.clone(), case.compute).unwrap();
    decoder.set_recompute(case.recompute);
    let mut parameters = builder.finish().unwrap();
    let batch = batch(case.samples);
    let settings = TrainSection {
        recompute: case.recompute,
        weights: case.weights,
        optimizer: case.optimizer,
        gradients: case.gradients,
        clipping: Clipping::PerParameter,
        ..Default::default()
    };
    let plan = plan(&PlanInput {
        config: &config,
        settings: &settings,
        adapter: lora.as_ref(),
        compute: case.compute,
        weights: StoredWeights {
            bytes: 0,
            read: WeightsRead::of(case.stored == "float32", DeviceKind::Cpu),
        },
        batch: BatchShape {
            tokens: batch.len(),
            targets: batch.target_tokens(),
            longest: case.samples.0,
        },
        answering: Default::default(),
    });
    let dropout = DropoutState { seed: 1, step: 0 };
    let tied = decoder.tied_parameter();
    let mut step = || {
        let mut optimizer = Optimizer::new(&parameters, &settings, 1).unwrap();
        optimizer
            .take_step(&mut parameters, tied, 1e-4, 1, |sink| {
                let loss = decoder.pending_loss_and_gradients(&batch, dropout, 1e-3, sink)?;
                Ok(vec![loss])
            })
            .unwrap();
    };
    // Tables that are made once and stay are not a step's.
    step();
    let arena = Arena::reserve(1 << 30).expect("this program allocates through it");
    step();
    let used = Arena::used();
    assert_eq!(used.missed, 0);
    drop(arena);
    println!(
        "{:32} planned {:7.2} MiB, took {:7.2} ({:+.1} %), touched {:7.2}",
        case.name,
        plan.arena_bytes as f64 / 1048576.0,
        used.peak as f64 / 1048576.0,
        100.0 * (plan.arena_bytes as f64 / used.peak as f64 - 1.0),
        used.touched as f64 / 1048576.0,
    );
    (plan.arena_bytes, used.peak as u64)
}

/// Planned and actual peak of scoring options, and of continuing prompts, between steps.
fn measure_answering(case: &Case) -> [(u64, u64); 2] {
    let (json, config, lora) = shape_of(case);
    let weights = Weights::random(json, tensor_specs(&config, 0.05), 5);
    let method = lora.clone().map_or(case.weights.method(), Method::Lora);
    let mut builder = Builder::new(&weights, case.compute, method, 9);
    let decoder = Decoder::build(&mut builder, config.clone(), case.compute).unwrap();
    let _parameters = builder.finish().unwrap();
    let settings = TrainSection {
        weights: case.weights,
        ..Default::default()
    };
    let planned = |answering| {
        plan(&PlanInput {
            config: &config,
            settings: &settings,
            adapter: lora.as_ref(),
            compute: case.compute,
            weights: StoredWeights {
                bytes: 0,
                read: WeightsRead::of(case.stored == "float32", DeviceKind::Cpu),
            },
            batch: BatchShape::default(),
            answering,
        })
        .answering_bytes
    };
    let ids = |n: usize, from: usize| (0..n).map(|t| ((from + t * 7) % 1201) as u32).collect();
    // Three questions of 257 tokens with four options of 5.
    let mut pack = Pack::default();
    for question in 0..3 {
        let prompt: Vec<u32> = ids(257, question);
        let first = pack.push_segment(&prompt, &[false; 257], question as u64, None);
        for option in 0..4 {
            let option: Vec<u32> = ids(5, option);
            pack.push_segment(&option, &[true; 5], question as u64, Some(first));
        }
    }
    let batch = Batch::from_packs([&pack]);
    let scoring = peak(|| {
        decoder.token_scores(&batch).unwrap();
    });
    let scored = planned(AnsweringShape {
        scored_tokens: 3 * (257 + 4 * 5),
        scored_targets: 3 * 4 * 5,
        ..Default::default()
    });
    // Prompts whose keys and values then double once, and one whose do not.
    let prompts: Vec<Vec<u32>> = [255, 254, 300].map(|n| ids(n, n)).to_vec();
    let writing = peak(|| {
        let mut caches: Vec<_> = prompts.iter().map(|_| decoder.new_cache()).collect();
        let mut caches: Vec<_> = caches.iter_mut().collect();
        for step in 0..7 {
            let one = [step];
            let tokens: Vec<&[u32]> = match step {
                0 => prompts.iter().map(Vec::as_slice).collect(),
                _ => prompts.iter().map(|_| &one[..]).collect(),
            };
            let logits = decoder.extend(&tokens, &mut caches).unwrap();
            let logits = logits.to_dtype(DType::F32).unwrap();
            logits.to_vec2::<f32>().unwrap();
        }
    });
    let written = planned(AnsweringShape {
        read_tokens: 255 + 254 + 300,
        read_room_tokens: 256 + 256 + 512,
        written_room_tokens: 3 * 512,
        sequences: 3,
        ..Default::default()
    });
    [(scored, scoring), (written, writing)]
}

/// The most that something takes at once in large blocks, the second time it is done: in the arena and outside of it.
fn peak(mut what: impl FnMut()) -> u64 {
    what();
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    what();
    (PEAK.load(Ordering::SeqCst) - before) as u64
}

#[test]
fn answering_takes_what_was_planned() {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut wrong = Vec::new();
    for case in CASES {
        if case.compute == DType::BF16 && kernels::Bf16Dot::native().is_some() {
            continue;
        }
        let found = measure_answering(case);
        for ((planned, actual), what) in found.into_iter().zip(["scoring", "writing"]) {
            println!(
                "{:32} {what} planned {:7.2} MiB, took {:7.2} ({:+.1} %)",
                case.name,
                planned as f64 / 1048576.0,
                actual as f64 / 1048576.0,
                100.0 * (planned as f64 / actual as f64 - 1.0),
            );
            if planned.abs_diff(actual) * 20 > actual {
                wrong.push((case.name, what));
            }
        }
    }
    assert!(wrong.is_empty(), "off by more than 5 %: {wrong:?}");
}

/// There is one arena for the program.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn a_step_takes_what_was_planned() {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut wrong = Vec::new();
    for case in CASES {
        if case.compute == DType::BF16 && kernels::Bf16Dot::native().is_some() {
            println!(
                "{}: skipped: the plan is of f32 products, and this processor multiplies bf16",
                case.name
            );
            continue;
        }
        let (planned, actual) = measure(case);
        if planned.abs_diff(actual) * 20 > actual {
            wrong.push(case.name);
        }
    }
    assert!(wrong.is_empty(), "off by more than 5 %: {wrong:?}");
}
