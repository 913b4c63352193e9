//! Loss and every gradient of the small models of `tests/golden` on the device, beside what transformers, PEFT and torch
//! give for them: architectures × LoRA, DoRA, modules saved whole, every weight × what is computed again. In f32 they
//! must agree as the processor's do; in bf16 be no further off than twice what the processor's are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use adapters::{Builder, Method, ParamId, Parameters, PeftAdapter, Weights};
use anyhow::{Context, Result};
use datasets::{Batch, Pack, Tokenized};
use finetune::recipe::Recompute;
use finetune::{Decoder, DropoutState, Gradients, models::decoder_config};
use kernels::{DType, Device, Tensor};
use serde_json::Value;

use super::Check;
use super::record::{Figure, StageRecord};
use crate::failure::Failure;
use crate::terminal::note;

/// Of f32, as a share of a gradient's length.
const F32: f64 = 1e-4;
/// Of bf16, what is allowed beside twice the processor's own distance.
const BF16: f64 = 5e-3;

/// What is trained: the name of its adapter's folder, and where its figures are.
const METHODS: [(&str, Option<&str>); 4] = [
    ("lora", Some("adapter")),
    ("dora", Some("dora")),
    ("saved", Some("saved")),
    ("full", None),
];

/// What a safetensors file of known good numbers holds.
struct Fixtures {
    lists: BTreeMap<String, Vec<f64>>,
}

impl Fixtures {
    fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let lists = lists_of(&bytes).ok_or_else(|| {
            Failure::user(format!("`{}` is not a safetensors file", path.display()))
        })?;
        Ok(Self { lists })
    }

    fn list(&self, name: &str) -> Result<&[f64]> {
        let list = self.lists.get(name).map(Vec::as_slice);
        Ok(list.ok_or_else(|| Failure::user(format!("there is no fixture `{name}`")))?)
    }
}

/// The tensors of f32 and i64 of a safetensors file.
fn lists_of(bytes: &[u8]) -> Option<BTreeMap<String, Vec<f64>>> {
    let (len, rest) = bytes.split_at_checked(8)?;
    let len = usize::try_from(u64::from_le_bytes(len.try_into().ok()?)).ok()?;
    let (header, data) = rest.split_at_checked(len)?;
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).ok()?;
    let mut lists = BTreeMap::new();
    for (name, tensor) in header {
        let at = |i: usize| {
            tensor["data_offsets"][i]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
        };
        let (Some(from), Some(to)) = (at(0), at(1)) else {
            continue;
        };
        let data = data.get(from..to)?;
        let list = match tensor["dtype"].as_str() {
            Some("F32") => data
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect(),
            Some("I64") => data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b) as f64)
                .collect(),
            _ => continue,
        };
        lists.insert(name, list);
    }
    Some(lists)
}

/// One architecture with one way to train it.
struct Case {
    name: String,
    folder: PathBuf,
    adapter: Option<&'static str>,
    batch: Batch,
    loss: Option<f64>,
    /// By parameter.
    gradients: BTreeMap<String, Vec<f64>>,
}

pub(super) fn gradients(check: &Check) -> Result<StageRecord> {
    let cases = cases(&check.own("tests/golden")?, check.tiny)?;
    let (mut figures, mut failures) = (Vec::new(), Vec::new());
    for case in &cases {
        note(&format!("  {}", case.name));
        let recomputes = [Recompute::None, Recompute::Selective, Recompute::Full];
        let (mut worst_f32, mut worst_bf16) = (0f64, 0f64);
        let bf16_here = case.distances(&Device::Cpu, DType::BF16, Recompute::None)?;
        for recompute in recomputes {
            let there = case.distances(check.place(), DType::F32, recompute)?;
            for (name, off) in &there {
                worst_f32 = worst_f32.max(*off);
                if beyond(*off, F32) {
                    failures.push(format!(
                        "{} {recompute:?} f32 {name}: off by {off:.1e}",
                        case.name
                    ));
                }
            }
            let there = case.distances(check.place(), DType::BF16, recompute)?;
            for ((name, off), (_, here)) in there.iter().zip(&bf16_here) {
                worst_bf16 = worst_bf16.max(*off);
                if beyond(*off, 2.0 * here + BF16) {
                    failures.push(format!(
                        "{} {recompute:?} bf16 {name}: off by {off:.1e}, on the processor {here:.1e}",
                        case.name
                    ));
                }
            }
        }
        let note = format!("{} tensors; bf16: {worst_bf16:.1e}", bf16_here.len());
        figures.push(Figure::new(&case.name, worst_f32, "of a gradient in f32").note(note));
    }
    failures.truncate(25);
    Ok(StageRecord::proof("gradients", figures, failures))
}

/// Every golden folder with every method that it has gradients for.
fn cases(root: &Path, tiny: bool) -> Result<Vec<Case>> {
    let mut folders: Vec<PathBuf> = fs::read_dir(root)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    folders.retain(|folder| folder.join("fixtures.safetensors").exists());
    folders.sort();
    if tiny {
        folders.truncate(2);
    }
    let mut cases = Vec::new();
    for folder in folders {
        let own = Fixtures::read(&folder.join("fixtures.safetensors"))?;
        let golden: Value = super::record::read_json(&folder.join("golden.json"))?;
        let batch = batch(&own)?;
        for (method, adapter) in METHODS {
            let of_method = match method {
                "dora" | "saved" => Some(Fixtures::read(
                    &folder.join(method).join("fixtures.safetensors"),
                )?),
                _ => None,
            };
            let (fixtures, prefix) = match &of_method {
                Some(fixtures) => (fixtures, "grad.".to_owned()),
                None => (&own, format!("{method}.grad.")),
            };
            let loss = match &of_method {
                Some(_) => {
                    let numbers: Value =
                        super::record::read_json(&folder.join(method).join("golden.json"))?;
                    numbers["loss"].as_f64()
                }
                None => golden[method]["loss"].as_f64(),
            };
            let gradients: BTreeMap<String, Vec<f64>> = fixtures
                .lists
                .iter()
                .filter_map(|(name, list)| {
                    Some((name.strip_prefix(&prefix)?.to_owned(), list.clone()))
                })
                .collect();
            if gradients.is_empty() {
                continue;
            }
            let architecture = folder.file_name().unwrap_or_default().to_string_lossy();
            cases.push(Case {
                name: format!("{architecture} {method}"),
                folder: folder.clone(),
                adapter,
                batch: batch.clone(),
                loss,
                gradients,
            });
        }
    }
    Ok(cases)
}

/// The ragged batch of the fixtures, a segment a sample.
fn batch(fixtures: &Fixtures) -> Result<Batch> {
    let (ids, labels) = (fixtures.list("input_ids")?, fixtures.list("labels")?);
    let (mut pack, mut start) = (Pack::default(), 0);
    for (i, len) in fixtures.list("lengths")?.iter().enumerate() {
        let range = start..start + *len as usize;
        start = range.end;
        let (Some(ids), Some(labels)) = (ids.get(range.clone()), labels.get(range)) else {
            return Err(Failure::user("the fixtures' lengths are not those of their ids").into());
        };
        pack.push(&Tokenized {
            id: i.to_string(),
            sample: i as u64,
            input_ids: ids.iter().map(|x| *x as u32).collect(),
            loss_mask: labels.iter().map(|label| *label != -100.0).collect(),
        });
    }
    Ok(Batch::from_packs([&pack]))
}

impl Case {
    fn build(&self, device: &Device, compute: DType) -> Result<(Decoder, Parameters)> {
        let weights = Weights::open(&self.folder)?;
        let config = decoder_config(weights.config())?;
        let adapter = self
            .adapter
            .map(|name| PeftAdapter::load(&self.folder.join(name)))
            .transpose()?;
        let method = match &adapter {
            Some(adapter) => Method::Lora(adapter.config.lora.clone()),
            None => Method::Full,
        };
        let mut builder = Builder::new(&weights, compute, method, 1).on(device);
        if let Some(adapter) = adapter {
            builder = builder.with_adapter(adapter)?;
        }
        let decoder = Decoder::build(&mut builder, config, compute)?;
        Ok((decoder, builder.finish()?))
    }

    /// How far the loss and each gradient are from what they should be, in the order of the parameters. A gradient that
    /// is missing, or of a parameter that has none there, is infinitely far.
    fn distances(
        &self,
        device: &Device,
        compute: DType,
        recompute: Recompute,
    ) -> Result<Vec<(String, f64)>> {
        let (mut decoder, parameters) = self.build(device, compute)?;
        decoder.set_recompute(recompute);
        let mut gradients = Gradients::new(&parameters);
        let scale = 1.0 / self.batch.target_tokens() as f64;
        let none = DropoutState { seed: 0, step: 0 };
        let loss = decoder.loss_and_gradients(&self.batch, none, scale, &mut gradients)?;
        let mut found = Vec::new();
        if let Some(expected) = self.loss {
            found.push((
                "loss".to_owned(),
                (loss.loss_sum * scale - expected).abs() / expected,
            ));
        }
        for (i, parameter) in parameters.0.iter().enumerate() {
            let off = match (
                gradients.get(ParamId(i)),
                self.gradients.get(&parameter.name),
            ) {
                (Some(found), Some(expected)) => distance(&list(found)?, expected),
                _ => f64::INFINITY,
            };
            found.push((parameter.name.clone(), off));
        }
        let missing = self.gradients.len().saturating_sub(parameters.0.len());
        if missing > 0 {
            found.push((
                format!("{missing} parameters that are not trained"),
                f64::INFINITY,
            ));
        }
        Ok(found)
    }
}

fn list(tensor: &Tensor) -> Result<Vec<f64>> {
    let here = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    Ok(here.flatten_all()?.to_vec1()?)
}

/// Not a number is beyond everything.
fn beyond(off: f64, most: f64) -> bool {
    off.is_nan() || off > most
}

/// ‖found − expected‖ / ‖expected‖; infinite for a NaN, another length, and where nothing but zeros is expected.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    let squares = |list: &mut dyn Iterator<Item = f64>| list.map(|x| x * x).sum::<f64>().sqrt();
    let off = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let share = off / squares(&mut expected.iter().copied());
    match share.is_finite() && found.len() == expected.len() {
        true => share,
        false => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_a_share_of_the_length() {
        assert_eq!(distance(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(distance(&[3.0, 5.0], &[3.0, 4.0]), 0.2);
        for (found, expected) in [
            (vec![f64::NAN, 4.0], vec![3.0, 4.0]),
            (vec![3.0], vec![3.0, 4.0]),
            (vec![0.0], vec![0.0]),
        ] {
            assert!(distance(&found, &expected).is_infinite());
        }
    }

    /// The processor's gradients agree, one that is changed does not, and every method of an architecture is there.
    #[test]
    fn the_processor_is_held_to_the_goldens() -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let all = cases(&root, false)?;
        assert!(all.len() >= 29, "{}", all.len());
        let of_llama = all.iter().find(|case| case.name == "llama lora");
        let mut case = cases(&root, true)?.swap_remove(0);
        assert!(of_llama.is_some_and(|case| case.loss.is_some()), "no loss");
        for (name, off) in case.distances(&Device::Cpu, DType::F32, Recompute::None)? {
            assert!(off <= F32, "{name}: {off}");
        }
        if let Some(list) = case.gradients.values_mut().next() {
            list.iter_mut().for_each(|x| *x *= 1.01);
        }
        let found = case.distances(&Device::Cpu, DType::F32, Recompute::None)?;
        assert_eq!(found.iter().filter(|(_, off)| *off > F32).count(), 1);
        case.gradients.pop_last();
        let found = case.distances(&Device::Cpu, DType::F32, Recompute::None)?;
        assert!(found.iter().any(|(_, off)| off.is_infinite()));
        Ok(())
    }

    #[test]
    fn a_file_that_is_cut_off_is_none() {
        assert!(lists_of(&[]).is_none());
        assert!(lists_of(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).is_none());
        assert!(lists_of(&u64::MAX.to_le_bytes()).is_none());
    }
}
