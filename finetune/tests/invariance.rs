//! The same samples give the same gradient however they are batched, and packed neighbours do not see each other.

use adapters::{Builder, LoraConfig, Method, ParamId, Parameters, TargetModules, Weights};
use candle_core::{DType, Tensor};
use datasets::{Batch, Pack, Tokenized};
use finetune::models::decoder_config;
use finetune::recipe::Recompute;
use finetune::{Decoder, DropoutState, Gradients, tensor_specs};
use serde_json::{Value, json};

/// GQA, odd widths, untied head; heads do not divide anything evenly but what they must.
fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 61, "hidden_size": 36, "intermediate_size": 52,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "max_position_embeddings": 64
    })
}

fn model(compute: DType, dropout: f64) -> (Decoder, Parameters) {
    seeded_model(compute, dropout, 5)
}

/// Weights of 0.05: between transformers' initialisation (0.02) and the square root of one over the width (0.17). Rounding grows
/// with them; at 0.2 the f32 gradients below differ by 1.0e-6, at 0.05 by half of that.
fn seeded_model(compute: DType, dropout: f64, seed: u64) -> (Decoder, Parameters) {
    adapted_model(compute, dropout, seed, false)
}

/// With `everything`, DoRA and a head and norms trained whole as well.
fn adapted_model(
    compute: DType,
    dropout: f64,
    seed: u64,
    everything: bool,
) -> (Decoder, Parameters) {
    let shape = decoder_config(&config()).unwrap();
    let weights = Weights::random(config(), tensor_specs(&shape, 0.05), seed);
    let lora = LoraConfig {
        rank: 3,
        alpha: 7.0,
        dropout,
        target_modules: TargetModules::AllLinear,
        use_rslora: false,
        use_dora: everything,
        modules_to_save: match everything {
            true => vec!["lm_head".into(), "norm".into()],
            false => vec![],
        },
    };
    let mut builder = Builder::new(&weights, compute, Method::Lora(lora), 9);
    let decoder = Decoder::build(&mut builder, shape, compute).unwrap();
    let mut parameters = builder.finish().unwrap();
    // B starts at zero, and zeros hide mistakes: give it values.
    for (i, p) in parameters.0.iter_mut().enumerate() {
        if p.name.contains("lora_B") {
            let n = p.value.elem_count();
            let values: Vec<f64> = (0..n)
                .map(|j| (((i * 31 + j * 17) % 23) as f64 - 11.0) * 0.01)
                .collect();
            let values =
                Tensor::from_vec(values, p.value.shape().clone(), p.value.device()).unwrap();
            p.value
                .slice_set(&values.to_dtype(p.value.dtype()).unwrap(), 0, 0)
                .unwrap();
        }
    }
    (decoder, parameters)
}

/// Eight samples of unequal lengths, prompts masked.
fn samples() -> Vec<Tokenized> {
    let lengths = [9, 4, 17, 2, 11, 6, 13, 5];
    lengths
        .iter()
        .enumerate()
        .map(|(i, len)| Tokenized {
            id: format!("s{i}"),
            sample: i as u64,
            input_ids: (0..*len)
                .map(|t| ((i * 13 + t * 7 + 3) % 61) as u32)
                .collect(),
            loss_mask: (0..*len).map(|t| t > 0 && t >= len / 3).collect(),
        })
        .collect()
}

fn pack_of(samples: &[&Tokenized]) -> Pack {
    let mut pack = Pack::default();
    for sample in samples {
        pack.push(sample);
    }
    pack
}

fn gradients(decoder: &Decoder, parameters: &Parameters, batches: &[Batch]) -> (f64, Gradients) {
    let targets: usize = batches.iter().map(Batch::target_tokens).sum();
    let mut gradients = Gradients::new(parameters);
    let mut loss = 0.0;
    for batch in batches {
        let state = DropoutState { seed: 3, step: 4 };
        let part = decoder
            .loss_and_gradients(batch, state, 1.0 / targets as f64, &mut gradients)
            .unwrap();
        loss += part.loss_sum;
    }
    (loss / targets as f64, gradients)
}

fn same_gradients(compute: DType, dropout: f64, tolerance: f64) {
    for seed in 1..=5 {
        same_gradients_of(seeded_model(compute, dropout, seed), tolerance);
    }
}

fn same_gradients_of((decoder, parameters): (Decoder, Parameters), tolerance: f64) {
    let samples = samples();
    let all: Vec<&Tokenized> = samples.iter().collect();
    let singles: Vec<Pack> = samples.iter().map(Pack::single).collect();
    let shuffled: Vec<&Tokenized> = [5, 2, 7, 0, 6, 1, 4, 3]
        .iter()
        .map(|i| &samples[*i])
        .collect();
    let ways = [
        ("a batch of 8", vec![Batch::from_packs(&singles)]),
        (
            "eight micro-batches of 1",
            singles.iter().map(|p| Batch::from_packs([p])).collect(),
        ),
        ("one pack", vec![Batch::from_packs([&pack_of(&all)])]),
        (
            "one pack, other order",
            vec![Batch::from_packs([&pack_of(&shuffled)])],
        ),
    ];
    let (loss, reference) = gradients(&decoder, &parameters, &ways[0].1);
    let of = |g: &Gradients, i: usize| g.get(ParamId(i)).unwrap().clone();
    let largest = (0..parameters.0.len())
        .map(|i| max_abs(&of(&reference, i)))
        .fold(0.0, f64::max);
    let mut worst = 0f64;
    for (name, batches) in &ways[1..] {
        let (other_loss, other) = gradients(&decoder, &parameters, batches);
        assert!(
            (loss - other_loss).abs() <= tolerance * loss,
            "{name}: loss {other_loss} against {loss}"
        );
        for (i, p) in parameters.0.iter().enumerate() {
            let (a, b) = (of(&reference, i), of(&other, i));
            assert!(max_abs(&a) > 0.0, "{}: gradient is zero", p.name);
            let difference = max_abs(&(a - b).unwrap());
            worst = worst.max(difference / largest);
            assert!(
                difference <= tolerance * largest,
                "{name}, {}: {difference:.1e} of {largest:.1e}",
                p.name
            );
        }
    }
    println!(
        "{:?}: max |difference| is {worst:.1e} of max |gradient|",
        decoder.compute()
    );
}

fn max_abs(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f64>()
        .unwrap()
}

#[test]
fn batch_accumulation_and_packing_give_the_same_gradient_in_f64() {
    same_gradients(DType::F64, 0.0, 1e-10);
}

#[test]
fn batch_accumulation_and_packing_give_the_same_gradient_in_f32() {
    same_gradients(DType::F32, 0.0, 1e-6);
}

/// Masks are drawn from sample and position, so packing cannot change them.
#[test]
fn the_same_holds_with_dropout() {
    same_gradients(DType::F64, 0.3, 1e-10);
}

/// DoRA with its second base product under dropout, and modules trained whole.
#[test]
fn the_same_holds_for_dora_and_modules_to_save() {
    for dropout in [0.0, 0.3] {
        for seed in 1..=3 {
            same_gradients_of(adapted_model(DType::F64, dropout, seed, true), 1e-10);
        }
    }
    same_gradients_of(adapted_model(DType::F32, 0.0, 1, true), 1e-6);
}

#[test]
fn a_packed_neighbour_changes_no_bit() {
    let (decoder, _) = model(DType::F32, 0.0);
    let samples = samples();
    let mut other = samples[0].clone();
    other
        .input_ids
        .iter_mut()
        .for_each(|id| *id = (*id + 29) % 61);
    let with = |neighbour: &Tokenized| {
        let batch = Batch::from_packs([&pack_of(&[neighbour, &samples[2], &samples[6]])]);
        let logits = decoder.logits(&batch).unwrap().to_vec2::<f32>().unwrap();
        logits[neighbour.len()..].to_vec()
    };
    assert_eq!(with(&samples[0]), with(&other));
}

/// A prompt read once and shared by three answers scores as three whole sequences do.
#[test]
fn a_shared_prefix_scores_as_whole_sequences_do() {
    let (decoder, _) = model(DType::F64, 0.0);
    let prompt: Vec<u32> = (0..11).map(|t| (t * 5 + 2) % 61).collect();
    let answers: [&[u32]; 3] = [&[7, 8, 9], &[1], &[40, 3]];
    let mut shared = Pack::default();
    let prefix = shared.push_segment(&prompt, &vec![false; prompt.len()], 0, None);
    let mut whole = Pack::default();
    for answer in answers {
        shared.push_segment(answer, &vec![true; answer.len()], 0, Some(prefix));
        let ids = [&prompt[..], answer].concat();
        let mask: Vec<bool> = (0..ids.len()).map(|i| i >= prompt.len()).collect();
        whole.push_segment(&ids, &mask, 0, None);
    }
    let score = |pack: &Pack| decoder.token_scores(&Batch::from_packs([pack])).unwrap();
    let (a, b) = (score(&shared), score(&whole));
    assert_eq!(a.len(), 6);
    for (a, b) in a.iter().zip(&b) {
        assert!(
            (a.log_prob - b.log_prob).abs() < 1e-12,
            "{} {}",
            a.log_prob,
            b.log_prob
        );
        assert_eq!(a.greedy, b.greedy);
    }
}

/// The same, backwards: the prompt's rows collect the gradient of every answer that shares it.
#[test]
fn a_shared_prefix_has_the_gradient_of_whole_sequences() {
    let (decoder, parameters) = model(DType::F64, 0.0);
    let prompt: Vec<u32> = (0..7).map(|t| (t * 5 + 2) % 61).collect();
    let mut shared = Pack::default();
    let prefix = shared.push_segment(&prompt, &[false; 7], 0, None);
    let mut whole = Pack::default();
    for answer in [&[7u32, 8, 9][..], &[1, 30]] {
        shared.push_segment(answer, &vec![true; answer.len()], 0, Some(prefix));
        let mask: Vec<bool> = (0..7 + answer.len()).map(|i| i >= 7).collect();
        whole.push_segment(&[&prompt[..], answer].concat(), &mask, 0, None);
    }
    let (_, a) = gradients(&decoder, &parameters, &[Batch::from_packs([&shared])]);
    let (_, b) = gradients(&decoder, &parameters, &[Batch::from_packs([&whole])]);
    for (i, p) in parameters.0.iter().enumerate() {
        let (a, b) = (a.get(ParamId(i)).unwrap(), b.get(ParamId(i)).unwrap());
        let difference = max_abs(&(a - b).unwrap());
        assert!(
            difference <= 1e-10 * max_abs(b),
            "{}: {difference:.1e}",
            p.name
        );
    }
}

/// What training packs with `share_prefixes` has the gradient of what it packs without.
#[test]
fn sharing_prefixes_leaves_the_gradient_as_it_is() {
    let (decoder, parameters) = model(DType::F64, 0.0);
    let samples: Vec<Tokenized> = (0..7)
        .map(|i| {
            let instruction = (0..18).map(|t| (t * 5 + i / 4) % 61);
            let input_ids: Vec<u32> = instruction
                .chain((0..4 + i).map(|t| (t * t + 3 * i) % 61))
                .collect();
            Tokenized {
                id: format!("s{i}"),
                sample: u64::from(i),
                loss_mask: (0..input_ids.len()).map(|t| t >= 20).collect(),
                input_ids,
            }
        })
        .collect();
    let shared = datasets::pack_sharing_prefixes(&samples, 64);
    let apart = datasets::pack(&samples, 64);
    let tokens = |packs: &[Pack]| packs.iter().map(Pack::len).sum::<usize>();
    assert!(tokens(&shared) + 18 * 3 <= tokens(&apart));
    let (loss, a) = gradients(&decoder, &parameters, &[Batch::from_packs(&shared)]);
    let (other_loss, b) = gradients(&decoder, &parameters, &[Batch::from_packs(&apart)]);
    assert!((loss - other_loss).abs() < 1e-13 * loss);
    for (i, p) in parameters.0.iter().enumerate() {
        let (a, b) = (a.get(ParamId(i)).unwrap(), b.get(ParamId(i)).unwrap());
        let difference = max_abs(&(a - b).unwrap());
        assert!(
            difference <= 1e-12 * max_abs(b),
            "{}: {difference:.1e}",
            p.name
        );
    }
}

#[test]
fn recomputing_changes_no_bit() {
    for everything in [false, true] {
        recomputing_changes_nothing(adapted_model(DType::F32, 0.3, 5, everything));
    }
}

fn recomputing_changes_nothing((mut decoder, parameters): (Decoder, Parameters)) {
    let batch = [Batch::from_packs(
        samples()
            .iter()
            .map(Pack::single)
            .collect::<Vec<_>>()
            .iter(),
    )];
    let (_, kept) = gradients(&decoder, &parameters, &batch);
    for recompute in [Recompute::Selective, Recompute::Full] {
        decoder.set_recompute(recompute);
        let (_, again) = gradients(&decoder, &parameters, &batch);
        for i in 0..parameters.0.len() {
            let values = |g: &Gradients| {
                g.get(ParamId(i))
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            };
            assert_eq!(values(&kept), values(&again), "{recompute:?}");
        }
    }
}

/// Generation reads one token at a time what scoring reads at once.
#[test]
fn cached_decoding_agrees_with_one_pass() {
    let (decoder, _) = model(DType::F64, 0.0);
    let ids: Vec<u32> = (0..12).map(|t| (t * 11 + 5) % 61).collect();
    let sample = Tokenized {
        id: "x".into(),
        sample: 0,
        loss_mask: vec![false; 12],
        input_ids: ids.clone(),
    };
    let whole = decoder
        .logits(&Batch::from_packs([&Pack::single(&sample)]))
        .unwrap()
        .to_vec2::<f64>()
        .unwrap();
    let mut cache = decoder.new_cache();
    let mut other = decoder.new_cache();
    decoder.extend(&[&ids[..4]], &mut [&mut other]).unwrap();
    let mut at = 0;
    for chunk in [&ids[..5], &ids[5..6], &ids[6..9], &ids[9..]] {
        at += chunk.len();
        // A second sequence alongside must not matter.
        let logits = decoder
            .extend(&[&[3, 1], chunk], &mut [&mut other, &mut cache])
            .unwrap();
        let row = &logits.to_vec2::<f64>().unwrap()[1];
        for (a, b) in row.iter().zip(&whole[at - 1]) {
            assert!((a - b).abs() < 1e-11, "{a} {b}");
        }
    }
}

#[test]
fn bf16_stays_near_f32() {
    let (f32_model, _) = model(DType::F32, 0.0);
    let (bf16_model, parameters) = model(DType::BF16, 0.0);
    let batch = Batch::from_packs(
        samples()
            .iter()
            .map(Pack::single)
            .collect::<Vec<_>>()
            .iter(),
    );
    let loss = |d: &Decoder| -> f64 {
        let scores = d.token_scores(&batch).unwrap();
        -scores.iter().map(|s| s.log_prob).sum::<f64>() / scores.len() as f64
    };
    let (a, b) = (loss(&f32_model), loss(&bf16_model));
    assert!((a - b).abs() < 0.02 * a, "{a} {b}");
    let (_, gradients) = gradients(&bf16_model, &parameters, &[batch]);
    assert!(gradients.norm(&parameters).unwrap().is_finite());
}
