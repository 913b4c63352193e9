//! A packed neighbour's numbers, even NaN, change no bit of another segment's results.

use candle_core::{Device, Tensor};
use kernels::{
    AttentionShape, Matrix, Segment, Segments, attention, attention_backward, linear, linear_dx,
};

const POISONED: std::ops::Range<usize> = 40..75;
const T: usize = 140;

fn numbers(rows: usize, cols: usize, salt: usize, poison: Option<f32>) -> Tensor {
    let list = (0..rows * cols)
        .map(|i| match poison {
            Some(value) if POISONED.contains(&(i / cols)) => value,
            _ => ((i * 7_919 + salt * 104_729) % 2_003) as f32 / 1_001.0 - 0.9987,
        })
        .collect();
    Tensor::from_vec(list, (rows, cols), &Device::Cpu).unwrap()
}

/// Bits of the rows outside the poisoned segment.
fn clean_rows(t: &Tensor) -> Vec<u32> {
    let rows = t.to_vec2::<f32>().unwrap();
    let clean = rows
        .iter()
        .enumerate()
        .filter(|(i, _)| !POISONED.contains(i));
    let bits: Vec<u32> = clean
        .flat_map(|(_, row)| row.iter().map(|x| x.to_bits()))
        .collect();
    assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
    bits
}

/// The poisoned segment lies between a prefix and a segment that continues the prefix.
fn attend(poison: Option<f32>) -> Vec<Vec<u32>> {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        scale: 0.4,
        window: None,
    };
    let segments = [(0, 40, None), (40, 35, Some(0..40)), (75, 65, Some(0..40))]
        .map(|(start, len, prefix)| Segment { start, len, prefix });
    let segments = Segments::new(&segments, T).unwrap();
    let (q, k, v) = (
        numbers(T, 32, 1, poison),
        numbers(T, 16, 2, poison),
        numbers(T, 16, 3, poison),
    );
    let (o, saved) = attention(&q, &k, &v, &segments, &shape).unwrap();
    let mut results = vec![clean_rows(&o)];
    // The prefix's gradient sums over its readers, the poisoned one among them: only the reader
    // that follows must stay clean.
    let (dq, dk, dv) = attention_backward(saved, &numbers(T, 32, 4, poison)).unwrap();
    results.push(clean_rows(&dq));
    results.extend([dk, dv].map(|t| clean_rows(&t.narrow(0, 75, 65).unwrap())));
    results
}

#[test]
fn attention_keeps_segments_apart() {
    let clean = attend(None);
    for poison in [f32::NAN, f32::INFINITY, 1e30, 0.25] {
        assert!(attend(Some(poison)) == clean, "poisoned with {poison}");
    }
}

#[test]
fn unrelated_segments_keep_their_gradients() {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        scale: 0.4,
        window: Some(9),
    };
    let segments = [(0, 40), (40, 35), (75, 65)].map(|(start, len)| Segment {
        start,
        len,
        prefix: None,
    });
    let segments = Segments::new(&segments, T).unwrap();
    let run = |poison| {
        let (q, k, v) = (
            numbers(T, 32, 1, poison),
            numbers(T, 16, 2, poison),
            numbers(T, 16, 3, poison),
        );
        let (o, saved) = attention(&q, &k, &v, &segments, &shape).unwrap();
        let (dq, dk, dv) = attention_backward(saved, &numbers(T, 32, 4, poison)).unwrap();
        [o, dq, dk, dv].map(|t| clean_rows(&t))
    };
    assert!(run(Some(f32::NAN)) == run(None));
}

#[test]
fn rows_of_a_linear_layer_are_apart() {
    let w = Matrix::dense(numbers(33, 32, 7, None).narrow(0, 0, 33).unwrap());
    let run = |poison| {
        let y = linear(&numbers(T, 32, 1, poison), &w).unwrap();
        let dx = linear_dx(&numbers(T, 33, 2, poison), &w).unwrap();
        [clean_rows(&y), clean_rows(&dx)]
    };
    assert!(run(Some(f32::NAN)) == run(None));
}
