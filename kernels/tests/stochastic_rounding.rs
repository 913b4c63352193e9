//! Weights in bf16: rounded at random so that the mean is right, or from a master copy.

use candle_core::{DType, Device, Tensor};
use kernels::{AdamW, Keep, Moments, RoundingKey, adamw_step, narrow};

/// A step that only decays: p ← p (1 - 0.01·0.5), exactly the same value wherever p is the same.
const DECAY: AdamW = AdamW {
    learning_rate: 0.01,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    weight_decay: 0.5,
    gradient_scale: 1.0,
};

fn key(step: u64) -> RoundingKey {
    RoundingKey {
        seed: 11,
        step,
        parameter: 5,
    }
}

fn wide(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn bf16(values: &[f32]) -> Tensor {
    narrow(&Tensor::new(values, &Device::Cpu).unwrap(), DType::BF16).unwrap()
}

/// p after one decaying step without a gradient.
fn decayed(p: &[f32], key: RoundingKey) -> Vec<f32> {
    let mut p = bf16(p);
    let g = Tensor::zeros(p.shape(), DType::F32, &Device::Cpu).unwrap();
    let mut moments = Moments::plain(&p, DType::F32).unwrap();
    adamw_step(&mut p, &Keep::Stochastic(key), &g, &mut moments, &DECAY, 1).unwrap();
    wide(&p)
}

#[test]
fn the_mean_of_the_roundings_is_the_number() {
    let n = 200_003;
    // 1.5 · 2^-99 too: bf16 has f32's exponents.
    for x in [1.0f32, -3.25, 0.0078125, f32::from_bits(0x0e40_0000)] {
        let exact = f64::from(x * (1.0 - 0.005f64) as f32);
        let rounded = decayed(&vec![x; n], key(7));
        let mut kinds: Vec<f32> = rounded.clone();
        kinds.sort_by(f32::total_cmp);
        kinds.dedup();
        let [low, high] = kinds[..] else {
            panic!("{x}: rounded to {kinds:?}")
        };
        let (low, high) = (f64::from(low), f64::from(high));
        assert!(low < exact && exact < high, "{low} {exact} {high}");
        let mean = rounded.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        // Five standard errors of a coin of that probability.
        let p = (exact - low) / (high - low);
        let error = (high - low) * (p * (1.0 - p) / n as f64).sqrt();
        assert!(
            (mean - exact).abs() < 5.0 * error,
            "{x}: mean {mean}, exact {exact}, standard error {error}"
        );
    }
}

#[test]
fn roundings_follow_from_their_counters_alone() {
    let p = vec![1.0f32; 50_001];
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let first = pool(1).install(|| decayed(&p, key(7)));
    assert_eq!(first, pool(3).install(|| decayed(&p, key(7))));
    // An element's bits do not depend on how many follow it.
    assert_eq!(first[..40_000], decayed(&p[..40_000], key(7)));
    for other in [
        key(8),
        RoundingKey {
            parameter: 6,
            ..key(7)
        },
        RoundingKey { seed: 12, ..key(7) },
    ] {
        let other = decayed(&p, other);
        let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
        // 0.995 lies 0.72 of the way between its neighbours: two independent draws agree in 0.6 of all elements.
        assert!((25_000..36_000).contains(&same), "{same}");
    }
    // Neighbours, and the same place in the next task, are independent too.
    for distance in [1, 2, 256, 16_384] {
        let same = first
            .iter()
            .zip(&first[distance..])
            .filter(|(a, b)| a == b)
            .count() as f64;
        let share = same / (first.len() - distance) as f64;
        assert!((0.57..0.64).contains(&share), "{distance}: {share}");
    }
}

#[test]
fn a_number_that_bf16_can_say_stays() {
    let values: Vec<f32> = (0..5_000)
        .map(|i| (i as f32 - 2_500.0) * 0.015_625)
        .collect();
    let mut p = bf16(&values);
    let before = wide(&p);
    let g = Tensor::zeros(p.shape(), DType::F32, &Device::Cpu).unwrap();
    let mut moments = Moments::plain(&p, DType::F32).unwrap();
    let still = AdamW {
        weight_decay: 0.0,
        ..DECAY
    };
    adamw_step(
        &mut p,
        &Keep::Stochastic(key(1)),
        &g,
        &mut moments,
        &still,
        1,
    )
    .unwrap();
    assert_eq!(before, wide(&p));
}

#[test]
fn an_overflow_stays_an_infinity_and_a_nan_a_nan() {
    let g = Tensor::new(&[f32::NAN, 1.0], &Device::Cpu).unwrap();
    let mut p = bf16(&[1.0, f32::INFINITY]);
    let mut moments = Moments::plain(&p, DType::F32).unwrap();
    adamw_step(
        &mut p,
        &Keep::Stochastic(key(1)),
        &g,
        &mut moments,
        &DECAY,
        1,
    )
    .unwrap();
    let p = wide(&p);
    assert!(p[0].is_nan() && p[1] == f32::INFINITY, "{p:?}");
}

#[test]
fn master_copies_are_stepped_as_f32_and_rounded() {
    let n = 40_003;
    let number =
        |i: usize, salt: usize| ((i * 7_919 + salt * 104_729) % 2_003) as f32 / 1_001.0 - 0.998_7;
    let list = |salt| (0..n).map(|i| number(i, salt)).collect::<Vec<_>>();
    for blockwise in [false, true] {
        let moments = |like: &Tensor| match blockwise {
            true => Moments::blockwise(n, &Device::Cpu).unwrap(),
            false => Moments::plain(like, DType::F32).unwrap(),
        };
        let mut plain = Tensor::new(list(1), &Device::Cpu).unwrap();
        let master = plain.copy().unwrap();
        let mut rounded = narrow(&master, DType::BF16).unwrap();
        let (mut m1, mut m2) = (moments(&plain), moments(&plain));
        for step in 1..=5 {
            let g = Tensor::new(list(1 + step as usize), &Device::Cpu).unwrap();
            adamw_step(&mut plain, &Keep::Exact, &g, &mut m1, &DECAY, step).unwrap();
            let keep = Keep::Master(master.clone());
            adamw_step(&mut rounded, &keep, &g, &mut m2, &DECAY, step).unwrap();
            assert_eq!(wide(&plain), wide(&master));
            assert_eq!(wide(&rounded), wide(&narrow(&master, DType::BF16).unwrap()));
        }
    }
}
