//! Trains models of 7B to 70B parameters for some steps, with random weights: whole optimizer steps over packs of one
//! sequence of 4,096 tokens, every token a target, no dropout; one row over a pack as an instruction set fills it. Rates
//! are told with loss and gradient norm; and as every step reads the same pack, a training that works brings the loss
//! down.

use std::time::Instant;

use adapters::recipe::Quantization;
use adapters::{Builder, Init, LoraConfig, Method, Parameters, TargetModules, Weights};
use anyhow::Result;
use finetune::recipe::{
    Clipping, GradientMode, OptimizerKind, Recompute, Schedule, TrainSection, TrainedWeights,
};
use finetune::{
    AnsweringShape, BatchShape, Decoder, DecoderConfig, DeviceKind, DropoutState, Optimizer,
    PlanInput, StoredWeights, TrainPlan, WeightsRead, flops_per_token, models::decoder_config,
    plan, tensor_specs, weight_bytes,
};
use kernels::DType;
use serde_json::Value;

use super::models::{Kind, ROWS, Row, TINY};
use super::packs::{self, Filling, Sequence};
use super::record::{Figure, Outcome, Record, StageRecord};
use super::timing::Timing;
use super::{Check, ceilings};
use crate::failure::{Failure, describe};
use crate::terminal::note;

const GIB: f64 = (1u64 << 30) as f64;

/// Steps before the clock counts: kernels are loaded, algorithms chosen, memory taken.
const WARM_UP: usize = 3;
/// Steps that are timed, unless they take too long.
const STEPS: usize = 20;
/// Seconds after which no further step is begun.
const MOST_SECS: f64 = 180.0;
const RANK: usize = 16;

/// Refuses a row that there is none of.
pub(super) fn check_names(names: &[String]) -> Result<()> {
    let all: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    match names.iter().find(|name| !all.contains(&name.as_str())) {
        Some(name) => {
            let failure = Failure::user(format!("there is no row `{name}`"));
            Err(failure.hint(format!("rows are: {}", all.join(", "))).into())
        }
        None => Ok(()),
    }
}

/// A record a row.
pub(super) fn speed_train(check: &Check, before: &Record) -> Result<Vec<StageRecord>> {
    let (_, ceiling) = ceilings::of(before);
    let asked = ROWS.iter().filter(|row| {
        let names = check.rows;
        names.is_empty() || names.iter().any(|name| name == row.name)
    });
    let asked: Vec<&Row> = asked.collect();
    // The driver tells the most of a whole process: of several rows in one it is nobody's.
    let alone = asked.len() == 1;
    let record = |row: &Row| {
        note(&format!("  {}", row.what));
        let started = Instant::now();
        let found = row.run(check, ceiling, alone).unwrap_or_else(|error| {
            StageRecord::new("", Outcome::Failed).because(describe(&error))
        });
        StageRecord {
            stage: format!("speed-train/{}", row.name),
            secs: started.elapsed().as_secs_f64(),
            ..found
        }
    };
    Ok(asked.into_iter().map(record).collect())
}

/// A row that is about to be run, or planned.
struct Job {
    config: DecoderConfig,
    json: Value,
    settings: TrainSection,
    lora: Option<LoraConfig>,
    quantization: Option<Quantization>,
    filling: Filling,
    /// Of the pack that every step reads.
    sequences: Vec<Sequence>,
}

impl Row {
    fn job(&self, tiny: bool) -> Result<Job> {
        let json = if tiny {
            TINY.config()
        } else {
            self.shape.config()
        };
        let full = self.kind == Kind::Full;
        let lora = LoraConfig {
            rank: if tiny { 4 } else { RANK },
            alpha: 32.0,
            dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            use_rslora: false,
            use_dora: false,
            modules_to_save: Vec::new(),
        };
        let mut settings = TrainSection {
            learning_rate: if full { 1e-5 } else { 1e-3 },
            schedule: Schedule::Constant,
            ..TrainSection::default()
        };
        if full {
            settings.weights = TrainedWeights::Bf16Stochastic;
            settings.optimizer = OptimizerKind::Adamw8bit;
            settings.gradients = GradientMode::PerLayer;
            settings.clipping = Clipping::PerParameter;
        }
        Ok(Job {
            config: decoder_config(&json)?,
            json,
            settings,
            lora: (!full).then_some(lora),
            quantization: (self.kind == Kind::QLora).then_some(Quantization::Nf4),
            filling: self.filling,
            sequences: self.filling.sequences(if tiny { 48 } else { 4096 }),
        })
    }

    fn run(&self, check: &Check, ceiling: Option<f64>, alone: bool) -> Result<StageRecord> {
        let mut job = self.job(check.tiny)?;
        let usable = check.compute.spec().usable_bytes();
        let planned = match job.fit(usable) {
            Ok(planned) => planned,
            Err(least) => {
                let why = format!(
                    "it does not fit: the plan needs {:.1} GiB with everything computed again, and {:.1} GiB can be used here",
                    least as f64 / GIB,
                    usable as f64 / GIB
                );
                return Ok(StageRecord::new("", Outcome::Skipped).because(why));
            }
        };
        let started = Instant::now();
        let (decoder, mut parameters) = job.build(check)?;
        let load_secs = started.elapsed().as_secs_f64();
        let steps = job.steps(check, &decoder, &mut parameters)?;
        let first_step_secs = load_secs + steps.first_secs;
        let measured = Measured {
            peak_bytes: kernels::cuda::peak_bytes(check.place()).filter(|_| alone),
            first_step_secs,
            ..steps
        };
        Ok(job.record(&planned, &measured, ceiling))
    }
}

/// What the steps came to.
struct Measured {
    timing: Timing,
    /// Of the first step alone.
    first_secs: f64,
    /// From nothing to the end of the first step.
    first_step_secs: f64,
    losses: Vec<f64>,
    norms: Vec<f64>,
    peak_bytes: Option<u64>,
}

impl Job {
    fn plan(&self, recompute: Recompute) -> TrainPlan {
        let settings = TrainSection {
            recompute,
            ..self.settings.clone()
        };
        plan(&PlanInput {
            config: &self.config,
            settings: &settings,
            adapter: self.lora.as_ref(),
            compute: DType::BF16,
            weights: StoredWeights {
                bytes: weight_bytes(&self.config, DType::BF16, self.quantization),
                read: WeightsRead::of(self.quantization.is_none(), DeviceKind::Cuda),
            },
            batch: BatchShape {
                tokens: self.tokens(),
                targets: self.sequences.iter().map(|s| s.tokens - s.prompt).sum(),
                longest: self.sequences.iter().map(|s| s.tokens).max().unwrap_or(0),
            },
            answering: AnsweringShape::default(),
        })
    }

    /// Takes the first way of computing again that fits; else says what the last would need.
    fn fit(&mut self, usable_bytes: u64) -> Result<TrainPlan, u64> {
        let mut least = u64::MAX;
        for recompute in [
            Recompute::None,
            Recompute::Selective,
            Recompute::Full,
            Recompute::Offload,
        ] {
            let plan = self.plan(recompute);
            least = plan.peak_bytes;
            if plan.peak_bytes <= usable_bytes {
                self.settings.recompute = recompute;
                return Ok(plan);
            }
        }
        Err(least)
    }

    fn build(&self, check: &Check) -> Result<(Decoder, Parameters)> {
        let mut specs = tensor_specs(&self.config, 0.02);
        for spec in &mut specs {
            if let Init::Normal { std } = spec.init {
                spec.init = Init::Uniform { std };
            }
        }
        let mut weights = Weights::random(self.json.clone(), specs, check.seed);
        if let Some(quantization) = self.quantization {
            weights = weights.quantized(quantization)?;
        }
        let method = match &self.lora {
            Some(lora) => Method::Lora(lora.clone()),
            None => self.settings.weights.method(),
        };
        let mut builder = Builder::new(&weights, DType::BF16, method, check.seed).on(check.place());
        let mut decoder = Decoder::build(&mut builder, self.config.clone(), DType::BF16)?;
        decoder.set_recompute(self.settings.recompute);
        Ok((decoder, builder.finish()?))
    }

    /// Tokens of a step.
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens).sum()
    }

    /// Model FLOPs of a step, each sequence at its own length.
    fn flops(&self) -> f64 {
        let of = |s: &Sequence| {
            let a_token = flops_per_token(&self.config, s.tokens as u64, self.lora.is_none());
            a_token as f64 * s.tokens as f64
        };
        self.sequences.iter().map(of).sum()
    }

    fn steps(
        &self,
        check: &Check,
        decoder: &Decoder,
        parameters: &mut Parameters,
    ) -> Result<Measured> {
        let batch = packs::batch(&self.sequences, self.config.vocab_size, check.seed);
        let scale = 1.0 / batch.target_tokens() as f64;
        let mut optimizer = Optimizer::new(parameters, &self.settings, check.seed)?;
        let (warm_up, steps) = if check.tiny { (1, 3) } else { (WARM_UP, STEPS) };
        let (mut secs, mut losses, mut norms) = (Vec::new(), Vec::new(), Vec::new());
        let begun = Instant::now();
        for number in 1..=warm_up + steps {
            let late = begun.elapsed().as_secs_f64() > MOST_SECS;
            if late && secs.len() > warm_up {
                break;
            }
            let (started, step) = (Instant::now(), number as u64);
            let dropout = DropoutState { seed: 0, step };
            let rate = self.settings.learning_rate;
            let tied = decoder.tied_parameter();
            let (loss, norm) = optimizer.take_step(parameters, tied, rate, step, |sink| {
                let loss = decoder.pending_loss_and_gradients(&batch, dropout, scale, sink)?;
                Ok(vec![loss])
            })?;
            check.place().synchronize()?;
            secs.push(started.elapsed().as_secs_f64());
            losses.push(loss.mean());
            norms.push(norm);
        }
        let first_secs = secs[0];
        Ok(Measured {
            timing: Timing::of(secs.split_off(warm_up)),
            first_secs,
            first_step_secs: first_secs,
            losses,
            norms,
            peak_bytes: None,
        })
    }

    /// The row's figures; a training whose loss does not fall, or is no number, has failed.
    fn record(
        &self,
        planned: &TrainPlan,
        measured: &Measured,
        ceiling: Option<f64>,
    ) -> StageRecord {
        let rate = measured.timing.rate(self.tokens() as f64);
        let tflops = measured.timing.rate(self.flops()) / 1e12;
        let (first, last) = (
            measured.losses[0],
            measured.losses[measured.losses.len() - 1],
        );
        let norm = measured.norms[measured.norms.len() - 1];
        let share = ceiling.map_or(String::new(), |c| {
            format!("{:.0} % of the product's rate", 100.0 * tflops / c)
        });
        let mut figures = vec![
            Figure::new("tokens", rate, "tokens/s").note(measured.timing.spread()),
            Figure::new("model arithmetic", tflops, "TFLOP/s").note(share),
            Figure::new("a step", measured.timing.median, "s"),
            Figure::new(
                "until the first step was done",
                measured.first_step_secs,
                "s",
            )
            .note("weights are drawn, not read"),
            Figure::new("planned memory", planned.peak_bytes as f64 / GIB, "GiB")
                .note(format!("recompute = \"{:?}\"", planned.recompute).to_lowercase()),
        ];
        if let Some(peak) = measured.peak_bytes {
            let share = 100.0 * peak as f64 / planned.peak_bytes as f64;
            let figure = Figure::new("memory at most", peak as f64 / GIB, "GiB");
            figures.push(figure.note(format!("{share:.0} % of the plan")));
        }
        if self.filling != Filling::OneSequence {
            figures.extend(packs::figures(&self.sequences));
        }
        figures.extend([
            Figure::new("loss of the first step", first, "nats"),
            Figure::new("loss of the last step", last, "nats")
                .note(format!("step {}", measured.losses.len())),
            Figure::new("gradient norm of the last step", norm, ""),
        ]);
        let mut record = StageRecord::measured("", figures);
        // Not a number is not below anything.
        let learns = last < first
            && measured
                .norms
                .iter()
                .all(|norm| norm.is_finite() && *norm > 0.0);
        if !learns {
            record.outcome = Outcome::Failed;
            record.failures.push(format!(
                "it does not learn: the loss of the same pack went from {first:.4} to {last:.4}, with a gradient norm of {norm:.4}"
            ));
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Compute;
    use std::path::Path;

    const H200: u64 = (138.0 * GIB) as u64;

    #[test]
    fn rows_are_the_published_models() -> Result<()> {
        let mut lines = Vec::new();
        for row in &ROWS {
            let mut job = row.job(false)?;
            let gflops = job.flops() / job.tokens() as f64 / 1e9;
            let parameters = job.config.parameter_count() as f64 / 1e9;
            let fits = match job.fit(H200) {
                Ok(plan) => format!(
                    "{:.1} GiB, recompute {:?}",
                    plan.peak_bytes as f64 / GIB,
                    plan.recompute
                ),
                Err(least) => format!("does not fit: {:.1} GiB", least as f64 / GIB),
            };
            lines.push(format!(
                "{}: {parameters:.2}B, {gflops:.1} GFLOP/token, {fits}",
                row.name
            ));
        }
        insta::assert_snapshot!(lines.join("\n"), @"
        7b-lora: 6.74B, 28.6 GFLOP/token, 29.6 GiB, recompute None
        8b-lora: 8.03B, 32.2 GFLOP/token, 33.1 GiB, recompute None
        13b-lora: 13.02B, 54.8 GFLOP/token, 50.8 GiB, recompute None
        13b-lora-mix: 13.02B, 51.7 GFLOP/token, 50.4 GiB, recompute None
        13b-qlora: 13.02B, 54.8 GFLOP/token, 33.3 GiB, recompute None
        13b-full: 13.02B, 82.1 GFLOP/token, 74.9 GiB, recompute None
        70b-qlora: 68.98B, 285.6 GFLOP/token, 121.6 GiB, recompute None
        70b-lora: 68.98B, 285.6 GFLOP/token, 133.9 GiB, recompute Offload
        ");
        Ok(())
    }

    /// What does not fit is skipped with the plan's figures, before anything is drawn.
    #[test]
    fn what_does_not_fit_is_not_begun() -> Result<()> {
        let mut job = ROWS[ROWS.len() - 1].job(false)?;
        assert!(job.fit(80 << 30).is_err_and(|least| least > 128 << 30));
        Ok(())
    }

    #[test]
    fn every_row_learns_on_the_processor_at_a_tiny_size() -> Result<()> {
        let compute = Compute::default();
        let check = Check {
            compute: &compute,
            device: "cpu",
            tiny: true,
            seed: 7,
            rows: &[],
            tree: Path::new("."),
            work: "unused".into(),
        };
        let record = Record::new(super::super::record::DeviceRecord::of(None), None);
        let rows = speed_train(&check, &record)?;
        assert_eq!(rows.len(), ROWS.len());
        for row in rows {
            assert_eq!(
                row.outcome,
                Outcome::Measured,
                "{} {} {:?}",
                row.stage,
                row.why,
                row.failures
            );
            assert!(row.value("tokens").is_some_and(|rate| rate > 0.0));
            let mixed = row.value("target tokens").is_some();
            assert_eq!(mixed, row.stage.ends_with("-mix"), "{}", row.stage);
            // Random weights know nothing.
            let first = row.value("loss of the first step").unwrap_or_default();
            assert!((first - 123f64.ln()).abs() < 0.1, "{first}");
        }
        Ok(())
    }

    #[test]
    fn what_does_not_learn_has_failed() -> Result<()> {
        let job = ROWS[2].job(false)?;
        let plan = job.plan(Recompute::Full);
        let of = |losses: Vec<f64>, norm: f64| {
            let measured = Measured {
                timing: Timing::of(vec![0.5, 0.5, 0.52]),
                first_secs: 2.0,
                first_step_secs: 30.0,
                losses,
                norms: vec![norm, norm],
                peak_bytes: Some(50 << 30),
            };
            job.record(&plan, &measured, Some(790.0))
        };
        let good = of(vec![10.4, 10.3], 0.5);
        assert_eq!(good.outcome, Outcome::Measured);
        let lines: Vec<String> = good
            .figures
            .iter()
            .map(|f| {
                let value = super::super::table::number(f.value);
                let line = format!("{}: {value} {} {}", f.what, f.unit, f.note);
                line.trim_end().to_owned()
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        tokens: 8192 tokens/s ± 2.0 %
        model arithmetic: 448.6 TFLOP/s 57 % of the product's rate
        a step: 0.500 s
        until the first step was done: 30.00 s weights are drawn, not read
        planned memory: 27.75 GiB recompute = "full"
        memory at most: 50.00 GiB 180 % of the plan
        loss of the first step: 10.40 nats
        loss of the last step: 10.30 nats step 2
        gradient norm of the last step: 0.500
        "#);
        for bad in [
            of(vec![10.4, 10.4], 0.5),
            of(vec![10.4, f64::NAN], 0.5),
            of(vec![f64::NAN, 10.3], 0.5),
            of(vec![10.4, 10.3], 0.0),
            of(vec![10.4, 10.3], f64::INFINITY),
        ] {
            assert_eq!(bad.outcome, Outcome::Failed);
            assert_eq!(bad.failures.len(), 1);
        }
        Ok(())
    }

    #[test]
    fn rows_have_names() {
        assert!(check_names(&["13b-full".into(), "7b-lora".into()]).is_ok());
        let refused = check_names(&["13b".into()]).expect_err("no such row");
        insta::assert_snapshot!(describe(&refused), @"
        error: there is no row `13b`
        hint: rows are: 7b-lora, 8b-lora, 13b-lora, 13b-lora-mix, 13b-qlora, 13b-full, 70b-qlora, 70b-lora
        ");
    }
}
