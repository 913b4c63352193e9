//! The dropout mask: how much it keeps, what it depends on, and what not.

use candle_core::{Device, Tensor};
use kernels::{DropoutKey, RowIds, dropout};

const KEY: DropoutKey = DropoutKey {
    seed: 11,
    step: 5,
    module: 3,
};

fn ids(sample: impl Iterator<Item = u64>, position: impl Iterator<Item = u32>) -> RowIds {
    RowIds::new(sample.zip(position))
}

/// Kept elements of a (t, d) mask, rows of one sample.
fn mask(p: f64, key: DropoutKey, sample: u64, t: usize, d: usize) -> Vec<bool> {
    let rows = ids(std::iter::repeat_n(sample, t), 0..t as u32);
    let ones = Tensor::ones((t, d), candle_core::DType::F32, &Device::Cpu).unwrap();
    let y = dropout(&ones, p, key, &rows)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let keep = 1.0 / (1.0 - p) as f32;
    assert!(y.iter().all(|x| *x == 0.0 || (x - keep).abs() < 1e-6));
    y.iter().map(|x| *x != 0.0).collect()
}

fn rate(kept: impl IntoIterator<Item = bool>) -> (f64, f64) {
    let (n, kept) = kept.into_iter().fold((0f64, 0f64), |(n, k), x| {
        (n + 1.0, k + f64::from(u8::from(x)))
    });
    (kept / n, n)
}

/// Within five standard deviations.
fn near(kept: impl IntoIterator<Item = bool>, expected: f64, what: &str) {
    let (rate, n) = rate(kept);
    let deviation = (expected * (1.0 - expected) / n).sqrt();
    assert!(
        (rate - expected).abs() < 5.0 * deviation,
        "{what}: {rate}, not {expected} ± {deviation}"
    );
}

#[test]
fn keeps_its_share_overall_by_row_and_by_column() {
    for p in [0.05, 0.1, 0.5, 0.9] {
        let (t, d) = (512, 512);
        let kept = mask(p, KEY, 1, t, d);
        near(kept.iter().copied(), 1.0 - p, "all");
        for i in 0..t {
            near(kept[i * d..][..d].iter().copied(), 1.0 - p, "a row");
            near(kept[i..].iter().step_by(d).copied(), 1.0 - p, "a column");
        }
    }
}

#[test]
fn neighbours_modules_steps_seeds_and_samples_are_independent() {
    let (t, d, p) = (256, 512, 0.3);
    let first = mask(p, KEY, 1, t, d);
    let both = (1.0 - p) * (1.0 - p);
    for shift in [1, 2, 3, 4, 8, 16, 64, d, 2 * d, 17 * d, d + 1] {
        let pairs = first.iter().zip(&first[shift..]).map(|(a, b)| *a && *b);
        near(pairs, both, &format!("shift {shift}"));
    }
    let others = [
        ("module", mask(p, DropoutKey { module: 4, ..KEY }, 1, t, d)),
        ("step", mask(p, DropoutKey { step: 6, ..KEY }, 1, t, d)),
        ("seed", mask(p, DropoutKey { seed: 12, ..KEY }, 1, t, d)),
        ("sample", mask(p, KEY, 2, t, d)),
        (
            "swapped",
            mask(
                p,
                DropoutKey {
                    step: 3,
                    module: 5,
                    ..KEY
                },
                1,
                t,
                d,
            ),
        ),
        (
            "large",
            mask(
                p,
                DropoutKey {
                    seed: 11 + (1 << 40),
                    ..KEY
                },
                1,
                t,
                d,
            ),
        ),
    ];
    for (what, other) in others {
        near(other.iter().copied(), 1.0 - p, what);
        near(first.iter().zip(&other).map(|(a, b)| *a && *b), both, what);
    }
}

#[test]
fn packing_order_does_not_matter() {
    let d = 37;
    let x = |rows: &[u32]| {
        let list: Vec<f32> = rows
            .iter()
            .flat_map(|r| (0..d).map(move |c| (r * 100 + c) as f32 + 1.0))
            .collect();
        Tensor::from_vec(list, (rows.len(), d as usize), &Device::Cpu).unwrap()
    };
    let order: Vec<u32> = (0..40).collect();
    let shuffled: Vec<u32> = (0..40).map(|i| (i * 27 + 5) % 40).collect();
    let run = |order: &[u32]| {
        let rows = ids(
            order.iter().map(|r| u64::from(r / 10)),
            order.iter().map(|r| r % 10),
        );
        dropout(&x(order), 0.4, KEY, &rows)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap()
    };
    let (plain, moved) = (run(&order), run(&shuffled));
    for (row, original) in shuffled.iter().enumerate() {
        assert_eq!(moved[row], plain[*original as usize]);
    }
}

#[test]
fn zero_probability_is_the_input() {
    let x = Tensor::new(&[[1.0f32, -2.0], [3.5, 4.0]], &Device::Cpu).unwrap();
    let rows = ids([0, 0].into_iter(), 0..2);
    let y = dropout(&x, 0.0, KEY, &rows).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
}
