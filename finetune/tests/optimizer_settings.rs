//! Ways to hold weights, moments and gradients: which of them give the same bits, and what they take.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use adapters::{Builder, GradSink, LoraConfig, Method, Parameters, Weights};
use candle_core::{DType, Device, Tensor};
use datasets::Tokenized;
use finetune::models::decoder_config;
use finetune::recipe::{
    Clipping, GradientMode, MicroBatchSize, OptimizerKind, Recompute, TrainMethod, TrainSection,
    TrainedWeights,
};
use finetune::{
    Decoder, Gradients, Optimizer, PendingLoss, TrainJob, TrainOutcome, TrainedBytes, tensor_specs,
    train, trained_bytes,
};
use serde_json::json;

fn settings() -> TrainSection {
    TrainSection {
        method: TrainMethod::Full,
        max_steps: Some(12),
        learning_rate: 1e-2,
        micro_batch_size: MicroBatchSize::Packs(2),
        weight_decay: 0.1,
        save_steps: 3,
        // Gradients of this model have a norm of 2 to 5: clipping is at work.
        max_grad_norm: 0.7,
        ..Default::default()
    }
}

fn samples(n: usize) -> Vec<Tokenized> {
    (0..n)
        .map(|i| {
            let len = 3 + i * 5 % 14;
            Tokenized {
                id: format!("s{i}"),
                sample: i as u64,
                input_ids: (0..len).map(|t| ((i + t * 3) % 137) as u32).collect(),
                loss_mask: (0..len).map(|t| t > 0).collect(),
            }
        })
        .collect()
}

/// A model whose matrices lie on both sides of the 4,096 elements from which moments take 8 bits.
fn weights(tied: bool) -> (finetune::DecoderConfig, Weights) {
    let config = json!({
        "model_type": "qwen2", "vocab_size": 137, "hidden_size": 40, "intermediate_size": 104,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied
    });
    let shape = decoder_config(&config).unwrap();
    let weights = Weights::random(config, tensor_specs(&shape, 0.1), 5);
    (shape, weights)
}

struct Run<'a> {
    folder: &'a Path,
    settings: TrainSection,
    compute: DType,
    tied: bool,
    stop_after: u64,
}

impl Run<'_> {
    fn train(&self) -> finetune::Result<TrainOutcome> {
        let (shape, weights) = weights(self.tied);
        let method = match self.settings.method {
            TrainMethod::Full => self.settings.weights.method(),
            TrainMethod::Adapter => lora(),
        };
        let mut builder = Builder::new(&weights, self.compute, method, 9);
        let mut decoder = Decoder::build(&mut builder, shape, self.compute).unwrap();
        decoder.set_recompute(self.settings.recompute);
        let stop = AtomicBool::new(false);
        let (train_set, validation) = (samples(41), samples(5));
        let job = TrainJob {
            decoder: &decoder,
            parameters: builder.finish().unwrap(),
            train: &train_set,
            validation: &validation,
            settings: &self.settings,
            max_seq_len: 24,
            packing: true,
            seed: 3,
            folder: self.folder,
            run: BTreeMap::new(),
            stop: &stop,
            plan: None,
            tasks: None,
        };
        train(job, &mut |report, _| {
            stop.store(report.step == self.stop_after, Ordering::Relaxed);
        })
    }
}

fn lora() -> Method {
    Method::Lora(LoraConfig {
        rank: 3,
        alpha: 7.0,
        dropout: 0.0,
        target_modules: adapters::TargetModules::AllLinear,
        use_rslora: false,
        use_dora: false,
        modules_to_save: Vec::new(),
    })
}

/// Trains from the start in a folder of its own.
fn trained(settings: TrainSection, compute: DType, tied: bool) -> TrainOutcome {
    let folder = tempfile::tempdir().unwrap();
    let run = Run {
        folder: folder.path(),
        settings,
        compute,
        tied,
        stop_after: u64::MAX,
    };
    run.train().unwrap()
}

fn wide(t: &Tensor) -> Vec<f32> {
    let t = t.to_dtype(DType::F32).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn values(parameters: &Parameters) -> Vec<(String, Vec<f32>)> {
    let named = |p: &adapters::Parameter| (p.name.clone(), wide(&p.value));
    parameters.0.iter().map(named).collect()
}

/// Every setting of the optimizer, the gradients added up first.
fn storages() -> Vec<TrainSection> {
    let mut all = Vec::new();
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Adamw8bit] {
        for weights in [
            TrainedWeights::F32,
            TrainedWeights::Bf16Master,
            TrainedWeights::Bf16Stochastic,
        ] {
            all.push(TrainSection {
                optimizer,
                weights,
                ..settings()
            });
        }
    }
    all
}

#[test]
fn gradients_consumed_as_they_come_give_the_same_bits() {
    let clipped = |max_grad_norm, clipping| {
        move |settings: TrainSection| TrainSection {
            max_grad_norm,
            clipping,
            ..settings
        }
    };
    let clippings = [
        clipped(0.7, Clipping::Global),
        clipped(0.0, Clipping::Global),
        clipped(0.2, Clipping::PerParameter),
    ];
    let mut seen = Vec::new();
    for clip in clippings {
        for (compute, tied, recompute) in [
            (DType::F32, true, Recompute::None),
            (DType::F32, false, Recompute::Full),
            (DType::BF16, true, Recompute::Full),
            (DType::BF16, false, Recompute::None),
        ] {
            for storage in storages() {
                let accumulated = clip(TrainSection {
                    recompute,
                    max_steps: Some(4),
                    ..storage
                });
                let per_layer = TrainSection {
                    gradients: GradientMode::PerLayer,
                    ..accumulated.clone()
                };
                let a = trained(accumulated.clone(), compute, tied);
                let b = trained(per_layer, compute, tied);
                let of = |p: &str| format!("{p} of {accumulated:?} {compute:?} tied {tied}");
                for ((name, a), (_, b)) in
                    values(&a.parameters).into_iter().zip(values(&b.parameters))
                {
                    assert_eq!(a, b, "{}", of(&name));
                }
                assert_eq!(a.final_loss, b.final_loss, "{}", of("loss"));
                seen.push(values(&a.parameters));
            }
        }
    }
    // No two settings train the same weights, or the comparison above would say nothing.
    for (i, a) in seen.iter().enumerate() {
        assert!(seen[..i].iter().all(|b| a != b), "setting {i}");
    }
}

#[test]
fn a_second_backward_pass_is_only_for_a_global_norm() {
    let passes = |gradients, clipping, max_grad_norm| {
        let settings = TrainSection {
            gradients,
            clipping,
            max_grad_norm,
            ..settings()
        };
        settings.backward_passes()
    };
    use {Clipping::*, GradientMode::*};
    assert_eq!(passes(Accumulate, Global, 1.0), 1);
    assert_eq!(passes(PerLayer, Global, 1.0), 2);
    assert_eq!(passes(PerLayer, Global, 0.0), 1);
    assert_eq!(passes(PerLayer, PerParameter, 1.0), 1);
}

#[test]
fn moments_in_8_bits_follow_those_in_32() {
    let losses = |settings: TrainSection| -> Vec<f64> {
        let folder = tempfile::tempdir().unwrap();
        let run = Run {
            folder: folder.path(),
            settings,
            compute: DType::F32,
            tied: true,
            stop_after: u64::MAX,
        };
        run.train().unwrap();
        let log = std::fs::read_to_string(folder.path().join("steps.jsonl")).unwrap();
        let line = |l| serde_json::from_str::<serde_json::Value>(l).unwrap();
        log.lines()
            .map(|l| line(l)["loss"].as_f64().unwrap())
            .collect()
    };
    for weights in [
        TrainedWeights::F32,
        TrainedWeights::Bf16Master,
        TrainedWeights::Bf16Stochastic,
    ] {
        let curve = |optimizer, weights| {
            losses(TrainSection {
                optimizer,
                weights,
                max_steps: Some(60),
                ..settings()
            })
        };
        let exact = curve(OptimizerKind::Adamw, TrainedWeights::F32);
        let ours = curve(OptimizerKind::Adamw8bit, weights);
        let apart = |from: usize| {
            let pairs = exact.iter().zip(&ours).skip(from);
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        println!(
            "{weights:?}: {} -> {} and {}, at most {} apart",
            exact[0],
            exact[59],
            ours[59],
            apart(0)
        );
        assert!(exact[59] < 0.3 * exact[0], "{exact:?}");
        assert_ne!(exact[59], ours[59]);
        assert!(apart(0) < 0.01 * exact[0], "{exact:?}\n{ours:?}");
    }
}

#[test]
fn bf16_weights_are_the_rounded_master_copies() {
    let (shape, weights) = weights(true);
    let method = TrainedWeights::Bf16Master.method();
    let mut builder = Builder::new(&weights, DType::F32, method, 9);
    let decoder = Decoder::build(&mut builder, shape, DType::F32).unwrap();
    let mut parameters = builder.finish().unwrap();
    let with_master = |parameters: &Parameters| {
        let mut matrices = 0;
        for p in &parameters.0 {
            let Some(master) = &p.master else {
                assert_eq!(p.value.dims().len(), 1, "{}", p.name);
                assert_eq!(p.value.dtype(), DType::F32);
                continue;
            };
            assert_eq!(p.value.dtype(), DType::BF16);
            let rounded = wide(&kernels::narrow(master, DType::BF16).unwrap());
            assert_eq!(wide(&p.value), rounded, "{}", p.name);
            assert_ne!(wide(&p.value), wide(master), "{}", p.name);
            matrices += 1;
        }
        matrices
    };
    assert_eq!(with_master(&parameters), 22);
    let before = values(&parameters);
    let settings = settings();
    let mut optimizer = Optimizer::new(&parameters, &settings, 1).unwrap();
    let sample = &samples(4)[3];
    let batch = datasets::Batch::from_packs([&datasets::Pack::single(sample)]);
    for step in 1..=3 {
        let dropout = finetune::DropoutState { seed: 0, step };
        let backward = |sink: &mut dyn GradSink| {
            let loss = decoder.pending_loss_and_gradients(&batch, dropout, 0.1, sink)?;
            Ok(vec![loss])
        };
        let twice = decoder.tied_parameter();
        optimizer
            .take_step(&mut parameters, twice, 1e-2, step, backward)
            .unwrap();
        assert_eq!(with_master(&parameters), 22);
    }
    assert_ne!(before, values(&parameters));
}

#[test]
fn every_form_of_state_stops_and_resumes_to_the_same_bytes() {
    let mut all = storages();
    all.push(TrainSection {
        method: TrainMethod::Adapter,
        optimizer: OptimizerKind::Adamw8bit,
        ..settings()
    });
    for gradients in [GradientMode::Accumulate, GradientMode::PerLayer] {
        for storage in &all {
            if storage.method == TrainMethod::Adapter && gradients == GradientMode::PerLayer {
                continue;
            }
            let settings = TrainSection {
                gradients,
                ..storage.clone()
            };
            let whole = trained(settings.clone(), DType::F32, true);
            let folder = tempfile::tempdir().unwrap();
            for stop_after in [2, 7, u64::MAX] {
                let run = Run {
                    folder: folder.path(),
                    settings: settings.clone(),
                    compute: DType::F32,
                    tied: true,
                    stop_after,
                };
                let part = run.train().unwrap();
                if stop_after == u64::MAX {
                    assert_eq!(part.resumed_from, 7);
                    assert_eq!(
                        values(&whole.parameters),
                        values(&part.parameters),
                        "{settings:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_bytes_said_are_the_bytes_allocated() {
    for tied in [true, false] {
        for settings in storages() {
            let (shape, weights) = weights(tied);
            let mut builder = Builder::new(&weights, DType::F32, settings.weights.method(), 9);
            Decoder::build(&mut builder, shape, DType::F32).unwrap();
            let parameters = builder.finish().unwrap();
            let optimizer = Optimizer::new(&parameters, &settings, 1).unwrap();
            let bytes = |t: &Tensor| (t.elem_count() * t.dtype().size_in_bytes()) as u64;
            let state = optimizer.state();
            let of_state = |prefix: &str| {
                let tensors = state.iter().filter(|(name, _)| name.starts_with(prefix));
                tensors.map(|(_, t)| bytes(t)).sum::<u64>()
            };
            let allocated = TrainedBytes {
                weights: parameters.0.iter().map(|p| bytes(&p.value)).sum(),
                master: of_state("master."),
                moments: of_state("adamw."),
                gradient: 4 * parameters.elements() as u64,
            };
            let said = parameters
                .0
                .iter()
                .map(|p| {
                    let elements = p.value.elem_count() as u64;
                    trained_bytes(elements, p.value.dims().len() == 2, &settings, 4)
                })
                .fold(TrainedBytes::default(), |a, b| a + b);
            assert_eq!(said, allocated, "{settings:?}");
        }
    }
}

fn said(error: finetune::Error) -> String {
    format!("{error}\nhint: {}", error.hint().unwrap_or_default())
}

/// Three parameters, the second of which meets this gradient, and a loss.
fn poisoned(
    settings: &TrainSection,
    gradient: f32,
    loss_sum: f64,
) -> (finetune::Error, Vec<(String, Vec<f32>)>) {
    let parameter = |name: &str, n| adapters::Parameter {
        name: name.into(),
        value: Tensor::ones(n, DType::F32, &Device::Cpu).unwrap(),
        master: None,
        kind: adapters::ParameterKind::Weight,
    };
    let mut parameters = Parameters(vec![
        parameter("model.norm.weight", 5),
        parameter("model.layers.1.mlp.up_proj.weight", 7),
        parameter("model.layers.0.mlp.up_proj.weight", 7),
    ]);
    let mut optimizer = Optimizer::new(&parameters, settings, 1).unwrap();
    let losses = vec![PendingLoss {
        loss_sum: loss_sum.into(),
        target_tokens: 4,
    }];
    let backward = |sink: &mut dyn GradSink| {
        for (i, (n, value)) in [(5, 0.25f32), (7, gradient), (7, 0.5)]
            .into_iter()
            .enumerate()
        {
            let gradient = Tensor::full(value, n, &Device::Cpu)?;
            sink.add(adapters::ParamId(i), gradient)?;
        }
        Ok(losses.clone())
    };
    let error = optimizer
        .take_step(&mut parameters, None, 1e-2, 3, backward)
        .unwrap_err();
    (error, values(&parameters))
}

#[test]
fn a_gradient_that_is_not_finite_is_never_applied() {
    let untouched =
        |values: &[(String, Vec<f32>)]| values.iter().all(|(_, v)| v.iter().all(|x| *x == 1.0));
    let per_layer = TrainSection {
        gradients: GradientMode::PerLayer,
        ..settings()
    };
    for settings in [settings(), per_layer.clone()] {
        let (error, values) = poisoned(&settings, 0.125, f64::NEG_INFINITY);
        assert!(untouched(&values));
        insta::allow_duplicates! {
            insta::assert_snapshot!(said(error), @r"
            loss of step 3 is -inf
            hint: a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps; the last checkpoint is intact
            ");
        }
        let (error, values) = poisoned(&settings, f32::INFINITY, 9.0);
        assert!(untouched(&values));
        insta::allow_duplicates! {
            insta::assert_snapshot!(said(error), @r"
            gradient norm of step 3 is inf
            hint: a lower train.learning_rate, a longer train.warmup_ratio or f32 compute usually helps; the last checkpoint is intact
            ");
        }
    }
    let per_parameter = TrainSection {
        clipping: Clipping::PerParameter,
        ..per_layer
    };
    let (error, values) = poisoned(&per_parameter, 0.125, f64::NEG_INFINITY);
    assert!(!untouched(&values));
    insta::assert_snapshot!(said(error), @r#"
    the loss of step 3 is -inf; 3 of 3 parameters had already taken the step
    hint: run the command again: it goes on from the last checkpoint, which is intact; train.gradients = "accumulate" (or train.clipping = "global") finds this before any weight has changed, and a lower train.learning_rate or f32 compute usually avoids it
    "#);
    let (error, values) = poisoned(&per_parameter, f32::INFINITY, 9.0);
    // The first has taken its step; the poisoned one and what came after it have not.
    assert!(!untouched(&values[..1]) && untouched(&values[1..]));
    insta::assert_snapshot!(said(error), @r#"
    the gradient of model.layers.1.mlp.up_proj.weight in step 3 has norm inf; 1 of 3 parameters had already taken the step
    hint: run the command again: it goes on from the last checkpoint, which is intact; train.gradients = "accumulate" (or train.clipping = "global") finds this before any weight has changed, and a lower train.learning_rate or f32 compute usually avoids it
    "#);
}

#[test]
fn gradients_too_few_or_too_many_are_defects() {
    let (error, _) = (1..=2).fold((None, 0), |_, calls| {
        let mut parameters = Parameters(vec![adapters::Parameter {
            name: "lm_head.weight".into(),
            value: Tensor::ones(5, DType::F32, &Device::Cpu).unwrap(),
            master: None,
            kind: adapters::ParameterKind::Weight,
        }]);
        let settings = TrainSection {
            gradients: GradientMode::PerLayer,
            max_grad_norm: 0.0,
            ..settings()
        };
        let mut optimizer = Optimizer::new(&parameters, &settings, 1).unwrap();
        let step = optimizer.take_step(&mut parameters, None, 1e-2, 3, |sink| {
            for _ in 0..calls {
                let gradient = Tensor::ones(5, DType::F32, &Device::Cpu)?;
                sink.add(adapters::ParamId(0), gradient)?;
            }
            Ok(Vec::new())
        });
        (step.err(), calls)
    });
    insta::assert_snapshot!(said(error.unwrap()), @r"
    parameter lm_head.weight received a gradient after it had taken its step
    hint: this is a defect of medtune: please report it with the recipe
    ");

    let (_, weights) = weights(true);
    let mut builder = Builder::new(&weights, DType::F32, Method::Full, 9);
    builder.norm("model.norm.weight", 40).unwrap();
    let mut parameters = builder.finish().unwrap();
    let mut optimizer = Optimizer::new(&parameters, &settings(), 1).unwrap();
    let gradients = Gradients::new(&parameters);
    let error = optimizer
        .step(&mut parameters, gradients, Vec::new(), 1e-2, 1)
        .unwrap_err();
    insta::assert_snapshot!(said(error), @r"
    parameter model.norm.weight is trained but received no gradient
    hint: this is a defect of medtune: please report it with the recipe
    ");
}

#[test]
fn settings_that_exclude_one_another_name_both_keys() {
    let problems = TrainSection {
        gradients: GradientMode::PerLayer,
        gradient_accumulation_steps: 4,
        ..settings()
    }
    .problems();
    insta::assert_debug_snapshot!(problems, @r#"
    [
        (
            "gradients",
            "is \"per-layer\", which applies gradients at once, but gradient_accumulation_steps = 4 adds them up first; raise micro_batch_size instead",
        ),
    ]
    "#);
    let problems = TrainSection {
        method: TrainMethod::Adapter,
        gradients: GradientMode::PerLayer,
        weights: TrainedWeights::Bf16Master,
        ..settings()
    }
    .problems();
    insta::assert_debug_snapshot!(problems, @r#"
    [
        (
            "weights",
            "is not \"f32\", which needs method = \"full\": an adapter's own weights are few",
        ),
        (
            "gradients",
            "is \"per-layer\", which needs method = \"full\": an adapter's gradients are few",
        ),
    ]
    "#);
    assert_eq!(settings().problems(), []);
}
