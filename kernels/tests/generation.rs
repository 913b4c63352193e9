//! Attention with a cache gives what attention over the whole sequence gives.

use candle_core::{DType, Device, Tensor};
use kernels::{AttentionShape, KvCache, Segment, Segments, attention, attention_cached};

const SHAPE: AttentionShape = AttentionShape {
    heads: 6,
    kv_heads: 2,
    head_dim: 10,
    scale: 0.37,
    window: None,
};

fn numbers(rows: usize, cols: usize, salt: usize) -> Tensor {
    let list: Vec<f64> = (0..rows * cols)
        .map(|i| ((i * 7_919 + salt * 104_729) % 2_003) as f64 / 1_001.0 - 0.9987)
        .collect();
    Tensor::from_vec(list, (rows, cols), &Device::Cpu).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let to = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    (to(a) - to(b))
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar()
        .unwrap()
}

/// Two sequences of 300 and 41 tokens, fed in uneven steps side by side.
fn feed(dtype: DType, cache_dtype: DType, window: Option<usize>) -> f64 {
    let shape = AttentionShape { window, ..SHAPE };
    let lens = [300, 41];
    let make = |cols, salt| lens.map(|n| numbers(n, cols, salt + n).to_dtype(dtype).unwrap());
    let (q, k, v) = (make(60, 1), make(20, 2), make(20, 3));
    let whole = [0, 1].map(|s| {
        let segments = [Segment {
            start: 0,
            len: lens[s],
            prefix: None,
        }];
        let segments = Segments::new(&segments, lens[s]).unwrap();
        attention(&q[s], &k[s], &v[s], &segments, &shape).unwrap().0
    });
    let mut caches = lens.map(|_| KvCache::new(2, 10, cache_dtype));
    let mut at = [0, 0];
    let mut worst = 0f64;
    for step in [[280, 20], [1, 1], [0, 3], [17, 1], [1, 15], [1, 1]] {
        let rows = |t: &[Tensor; 2]| {
            let parts = [0, 1].map(|s| t[s].narrow(0, at[s], step[s]).unwrap());
            Tensor::cat(&parts, 0).unwrap()
        };
        let [first, second] = &mut caches;
        let out = attention_cached(
            &rows(&q),
            &rows(&k),
            &rows(&v),
            &mut [first, second],
            &step,
            &shape,
        )
        .unwrap();
        assert_eq!(out.dtype(), dtype);
        worst = worst.max(difference(&out, &rows(&whole)));
        (0..2).for_each(|s| at[s] += step[s]);
    }
    assert_eq!(at, lens);
    assert_eq!(caches[0].len(), 300);
    worst
}

#[test]
fn step_by_step_equals_the_whole_sequence() {
    for window in [None, Some(13)] {
        assert!(feed(DType::F64, DType::F64, window) < 1e-13);
        assert!(feed(DType::F32, DType::F32, window) < 1e-6);
        assert!(feed(DType::F32, DType::BF16, window) < 1e-2);
        assert!(feed(DType::BF16, DType::BF16, window) < 1e-2);
    }
}

#[test]
fn a_truncated_cache_forgets() {
    let (q, k, v) = (numbers(9, 60, 1), numbers(9, 20, 2), numbers(9, 20, 3));
    let rows = |t: &Tensor, from, n| t.narrow(0, from, n).unwrap();
    let mut cache = KvCache::new(2, 10, DType::F64);
    let step = |cache: &mut KvCache, from, n| {
        let (q, k, v) = (rows(&q, from, n), rows(&k, from, n), rows(&v, from, n));
        attention_cached(&q, &k, &v, &mut [cache], &[n], &SHAPE).unwrap()
    };
    step(&mut cache, 0, 5);
    let direct = step(&mut cache, 8, 1);
    cache.truncate(5);
    step(&mut cache, 5, 3);
    assert_eq!(cache.len(), 8);
    cache.truncate(5);
    assert_eq!(difference(&step(&mut cache, 8, 1), &direct), 0.0);
    cache.truncate(100);
    assert_eq!(cache.len(), 6);
    assert_eq!(cache.size_bytes(), 2 * 6 * 20 * 8);
}

#[test]
fn threads_do_not_change_a_bit() {
    let (q, k, v) = (
        numbers(600, 60, 1),
        numbers(600, 20, 2),
        numbers(600, 20, 3),
    );
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut cache = KvCache::new(2, 10, DType::F64);
            attention_cached(&q, &k, &v, &mut [&mut cache], &[600], &SHAPE)
                .unwrap()
                .to_vec2::<f64>()
                .unwrap()
        })
    };
    assert!(run(1) == run(2));
}
