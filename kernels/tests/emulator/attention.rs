//! Attention: packed, forward and backward, and from a cache.

use super::*;
use kernels::cuda::launch::{self, AttentionTiles, CacheShape};
use kernels::{AttentionShape, KvCache, Segment};

/// Each: start, rows, prefix.
type Rows = (usize, usize, Option<(usize, usize)>);

fn segments(rows: &[Rows]) -> Vec<Segment> {
    let segment = |&(start, len, prefix): &Rows| Segment {
        start,
        len,
        prefix: prefix.map(|(a, b)| a..b),
    };
    rows.iter().map(segment).collect()
}

/// Packs: one long sequence; short ones beside one that needs several tiles, with rows of none before, between and after;
/// sequences that share a prefix, or a part of it that no tile begins or ends with.
fn packs() -> Vec<(usize, Vec<Segment>)> {
    vec![
        (130, segments(&[(0, 130, None)])),
        (
            225,
            segments(&[
                (3, 1, None),
                (4, 70, None),
                (75, 64, None),
                (139, 5, None),
                (144, 80, None),
            ]),
        ),
        (
            240,
            segments(&[
                (0, 90, None),
                (90, 40, Some((0, 90))),
                (130, 71, Some((17, 83))),
                (201, 9, Some((90, 100))),
                (210, 20, None),
            ]),
        ),
    ]
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.7 / (head_dim as f64).sqrt(),
        window,
    }
}

/// Whether row i sees row j, from the definition.
fn sees(segments: &[Segment], window: Option<usize>, i: usize, j: usize) -> bool {
    let Some(s) = segments
        .iter()
        .find(|s| (s.start..s.start + s.len).contains(&i))
    else {
        return false;
    };
    let prefix = s.prefix.clone().unwrap_or(0..0);
    let own = prefix.len() + i - s.start;
    let other = if prefix.contains(&j) {
        j - prefix.start
    } else if (s.start..=i).contains(&j) {
        prefix.len() + j - s.start
    } else {
        return false;
    };
    window.is_none_or(|window| own - other < window)
}

/// What should come out, and by how much each number may be off before it is stored.
#[derive(Default)]
struct Expected {
    o: [Vec<f64>; 2],
    log_sums: Vec<f64>,
    dq: [Vec<f64>; 2],
    dk: [Vec<f64>; 2],
    dv: [Vec<f64>; 2],
}

/// From the definition, in f64, with bounds. `p` and `stored` are the roundings of probabilities (and of their gradient)
/// before they are multiplied, and of o as it is stored.
fn expected(
    [q, k, v, d_o]: [&[f64]; 4],
    t: usize,
    segments: &[Segment],
    a: &AttentionShape,
    [p_unit, stored]: [f64; 2],
) -> Expected {
    let (d, group) = (a.head_dim, a.heads / a.kv_heads);
    // A score is off by the roundings of its sum and of the exponent of 2, all relative to numbers below `large`.
    let steps = 2f64.powi(-24);
    let mut e = Expected {
        log_sums: vec![0.0; t * a.heads],
        ..Default::default()
    };
    let lists = |n: usize| [vec![0.0; n], vec![0.0; n]];
    (e.o, e.dq) = (lists(q.len()), lists(q.len()));
    (e.dk, e.dv) = (lists(k.len()), lists(k.len()));
    let row = |list: &[f64], at: usize| -> Vec<f64> { list[at * d..][..d].to_vec() };
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let size = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum() };
    for h in 0..a.heads {
        for i in 0..t {
            let seen: Vec<usize> = (0..t).filter(|j| sees(segments, a.window, i, *j)).collect();
            if seen.is_empty() {
                continue;
            }
            let at = i * a.heads + h;
            let kv = |j: usize| j * a.kv_heads + h / group;
            let (query, d_out) = (row(q, at), row(d_o, at));
            let scores: Vec<f64> = seen
                .iter()
                .map(|j| a.scale * dot(&query, &row(k, kv(*j))))
                .collect();
            let large = seen
                .iter()
                .map(|j| a.scale * size(&query, &row(k, kv(*j))))
                .fold(1.0, f64::max);
            let most = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
            let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            e.log_sums[at] = most + sum.ln();
            let off = (d as f64 + seen.len() as f64 / 16.0 + 16.0) * steps * large;
            let p: Vec<f64> = scores.iter().map(|s| (s - most).exp() / sum).collect();
            for (j, p) in seen.iter().zip(&p) {
                for c in 0..d {
                    let value = v[kv(*j) * d + c];
                    e.o[0][at * d + c] += p * value;
                    e.o[1][at * d + c] += p * value.abs() * (p_unit + 4.0 * off);
                }
            }
            let o = row(&e.o[0], at);
            let delta = dot(&d_out, &o);
            // o is stored, so it is off by its own error and by rounding.
            let delta_off: f64 = (0..d)
                .map(|c| d_out[c].abs() * (e.o[1][at * d + c] + stored * o[c].abs()))
                .sum();
            for (j, p) in seen.iter().zip(&p) {
                let at_key = kv(*j);
                let (key, value) = (row(k, at_key), row(v, at_key));
                let dp = dot(&d_out, &value);
                let ds = p * (dp - delta);
                let dp_off = d as f64 * steps * size(&d_out, &value);
                let ds_off = p * (delta_off + dp_off) + ds.abs() * (p_unit + 4.0 * off);
                for c in 0..d {
                    e.dq[0][at * d + c] += a.scale * ds * key[c];
                    e.dq[1][at * d + c] += a.scale * ds_off * key[c].abs();
                    e.dk[0][at_key * d + c] += a.scale * ds * query[c];
                    e.dk[1][at_key * d + c] += a.scale * ds_off * query[c].abs();
                    e.dv[0][at_key * d + c] += p * d_out[c];
                    e.dv[1][at_key * d + c] += p * d_out[c].abs() * (p_unit + 4.0 * off);
                }
            }
        }
    }
    e
}

/// Forward and backward on one pack, with q, k and v in one merged buffer, and their gradients in another.
fn holds(float: Float, a: &AttentionShape, t: usize, segments: &[Segment]) {
    let name = format!("attention {float:?} {a:?} {t} rows");
    let (d, width) = (a.head_dim, a.heads * a.head_dim);
    let kv_width = a.kv_heads * d;
    let [q, k, v, d_o] = [(width, 1), (kv_width, 2), (kv_width, 3), (width, 4)]
        .map(|(width, seed)| numbers(t * width, seed, float));
    let tensor_core = launch::has_tensor_core_kernel(float, d);
    let units = [
        if tensor_core { unit(Float::Bf16) } else { 0.0 },
        unit(float),
    ];
    let expected = expected([&q, &k, &v, &d_o], t, segments, a, units);
    check_definition(&expected, [&q, &k, &v, &d_o], t, segments, a);

    let tiles = AttentionTiles::of(segments, t).unwrap();
    let align = |b: Buffer| if tensor_core { b.aligned() } else { b };
    let of = |list: &[f64]| align(Buffer::floats(list, float));
    let poison = |n: usize| align(Buffer::poison(n, float.size()));
    let step = launch::attention(float, a, &tiles, [width, kv_width, kv_width]);
    let mut buffers = vec![
        of(&q),
        of(&k),
        of(&v),
        poison(t * width),
        Buffer::poison(t * a.heads, 4),
    ];
    buffers.push(Buffer::u32s(&tiles.queries));
    let found = run(step, &buffers);
    let o = found[3].floats(float);
    within(
        &format!("{name}: o"),
        &o,
        &expected.o[0],
        float,
        &expected.o[1],
    );
    let large = expected.log_sums.iter().fold(8.0f64, |m, x| m.max(x.abs()));
    let bounds = vec![(d + t) as f64 * 2f64.powi(-24) * large; t * a.heads];
    within(
        &format!("{name}: log-sum-exp"),
        &found[4].floats(Float::F32),
        &expected.log_sums,
        Float::F32,
        &bounds,
    );

    let strides = [width, kv_width, kv_width, width, kv_width, kv_width];
    let step = launch::attention_backward(float, a, &tiles, t, strides);
    let mut buffers = vec![
        of(&q),
        of(&k),
        of(&v),
        of(&o),
        Buffer::f32s(&found[4].f32s()),
        of(&d_o),
    ];
    buffers.extend([
        poison(t * width),
        poison(t * kv_width),
        poison(t * kv_width),
    ]);
    buffers.extend([&tiles.queries, &tiles.keys, &tiles.edges].map(|list| Buffer::u32s(list)));
    let found = run(step, &buffers);
    for (what, i, [expected, bounds]) in [
        ("dq", 6, &expected.dq),
        ("dk", 7, &expected.dk),
        ("dv", 8, &expected.dv),
    ] {
        let found = found[i].floats(float);
        assert!(
            expected.iter().any(|x| x.abs() > 1e-3),
            "{name}: {what} is nothing"
        );
        within(&format!("{name}: {what}"), &found, expected, float, bounds);
    }
}

/// That the definition here is the operation's.
fn check_definition(
    e: &Expected,
    lists: [&[f64]; 4],
    t: usize,
    segments: &[Segment],
    a: &AttentionShape,
) {
    let [q, k, v, d_o] = lists.map(|list| tensor(list, &[t, list.len() / t], DType::F64));
    let (o, saved) = kernels::attention(&q, &k, &v, segments, a).unwrap();
    let (dq, dk, dv) = kernels::attention_backward(saved, &d_o).unwrap();
    for (ours, theirs) in [(&e.o, o), (&e.dq, dq), (&e.dk, dk), (&e.dv, dv)] {
        let off = ours[0]
            .iter()
            .zip(list(&theirs))
            .fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(off < 1e-11, "{off}");
    }
}

#[test]
fn on_tensor_cores() {
    for (t, segments) in packs() {
        for (heads, kv_heads, head_dim, window) in [
            (2, 1, 64, None),
            (2, 2, 64, Some(37)),
            (1, 1, 96, None),
            (3, 1, 128, None),
            (2, 1, 128, Some(70)),
        ] {
            holds(
                Float::Bf16,
                &shape(heads, kv_heads, head_dim, window),
                t,
                &segments,
            );
        }
    }
}

#[test]
fn without_tensor_cores() {
    for (t, segments) in packs() {
        for (float, heads, kv_heads, head_dim, window) in [
            (Float::F32, 6, 2, 10, None),
            (Float::F32, 2, 1, 64, Some(37)),
            (Float::Bf16, 2, 1, 33, None),
            (Float::F32, 1, 1, 200, None),
        ] {
            holds(
                float,
                &shape(heads, kv_heads, head_dim, window),
                t,
                &segments,
            );
        }
    }
}

/// NaN in one sequence and in rows of none stays there.
#[test]
fn sequences_never_meet() {
    let (t, rows) = (
        150,
        segments(&[(0, 50, None), (50, 70, None), (125, 20, None)]),
    );
    let tiles = AttentionTiles::of(&rows, t).unwrap();
    for (float, d) in [(Float::Bf16, 64), (Float::F32, 8)] {
        let a = shape(2, 1, d, None);
        let [mut q, mut k, mut v, mut d_o] = [(2, 1), (1, 2), (1, 3), (2, 4)]
            .map(|(heads, seed)| numbers(t * heads * d, seed, float));
        for (list, heads) in [(&mut q, 2), (&mut k, 1), (&mut v, 1), (&mut d_o, 2)] {
            list[50 * heads * d..125 * heads * d].fill(f64::NAN);
        }
        let clean = |list: &[f64], heads: usize, what: &str| {
            for (row, numbers) in list.chunks(heads * d).enumerate() {
                let sick = (50..120).contains(&row);
                assert!(
                    sick || numbers.iter().all(|x| x.is_finite()),
                    "{what}: row {row}"
                );
            }
        };
        let of = |list: &[f64]| Buffer::floats(list, float).aligned();
        let poison = |heads: usize| Buffer::poison(t * heads * d, float.size()).aligned();
        let mut buffers = vec![of(&q), of(&k), of(&v), poison(2), Buffer::poison(t * 2, 4)];
        buffers.push(Buffer::u32s(&tiles.queries));
        let found = run(
            launch::attention(float, &a, &tiles, [2 * d, d, d]),
            &buffers,
        );
        let o = found[3].floats(float);
        clean(&o, 2, "o");
        let step = launch::attention_backward(float, &a, &tiles, t, [2 * d, d, d, 2 * d, d, d]);
        let mut buffers = vec![
            of(&q),
            of(&k),
            of(&v),
            of(&o),
            Buffer::f32s(&found[4].f32s()),
            of(&d_o),
        ];
        buffers.extend([poison(2), poison(1), poison(1)]);
        buffers.extend([&tiles.queries, &tiles.keys, &tiles.edges].map(|list| Buffer::u32s(list)));
        let found = run(step, &buffers);
        for (i, heads, what) in [(6, 2, "dq"), (7, 1, "dk"), (8, 1, "dv")] {
            clean(&found[i].floats(float), heads, what);
        }
    }
}

/// q, k, v and their gradients as columns of merged rows.
#[test]
fn merged_buffers() {
    let (t, rows) = (100, segments(&[(0, 30, None), (30, 70, None)]));
    let tiles = AttentionTiles::of(&rows, t).unwrap();
    let (a, d) = (shape(2, 1, 64, None), 64);
    let stride = 4 * d;
    let merged = numbers(t * stride, 1, Float::Bf16);
    let part = |at: usize, heads: usize| -> Vec<f64> {
        merged
            .chunks(stride)
            .flat_map(|row| row[at * d..(at + heads) * d].to_vec())
            .collect()
    };
    let of = |list: &[f64]| Buffer::floats(list, Float::Bf16).aligned();
    let forward = |q: Buffer, k: Buffer, v: Buffer, strides| {
        let mut buffers = vec![
            q,
            k,
            v,
            Buffer::poison(t * 2 * d, 2).aligned(),
            Buffer::poison(t * 2, 4),
        ];
        buffers.push(Buffer::u32s(&tiles.queries));
        run(
            launch::attention(Float::Bf16, &a, &tiles, strides),
            &buffers,
        )
    };
    let dense = forward(
        of(&part(0, 2)),
        of(&part(2, 1)),
        of(&part(3, 1)),
        [2 * d, d, d],
    );
    let [q, k, v] = [0, 2, 3].map(|at| of(&merged[at * d..]));
    let strided = forward(q.clone(), k.clone(), v.clone(), [stride; 3]);
    assert!(dense[3].0 == strided[3].0 && dense[4].0 == strided[4].0);

    let d_o = of(&numbers(t * 2 * d, 2, Float::Bf16));
    let backward = |inputs: [Buffer; 3], outputs: [Buffer; 3], strides| {
        let mut buffers = inputs.to_vec();
        buffers.extend([
            of(&dense[3].floats(Float::Bf16)),
            Buffer::f32s(&dense[4].f32s()),
            d_o.clone(),
        ]);
        buffers.extend(outputs);
        buffers.extend([&tiles.queries, &tiles.keys, &tiles.edges].map(|list| Buffer::u32s(list)));
        let found = run(
            launch::attention_backward(Float::Bf16, &a, &tiles, t, strides),
            &buffers,
        );
        [6, 7, 8].map(|i| found[i].floats(Float::Bf16))
    };
    let poison = |n: usize| Buffer::poison(n, 2).aligned();
    let inputs = [of(&part(0, 2)), of(&part(2, 1)), of(&part(3, 1))];
    let outputs = [poison(t * 2 * d), poison(t * d), poison(t * d)];
    let dense = backward(inputs, outputs, [2 * d, d, d, 2 * d, d, d]);
    let outputs = [0, 2, 3].map(|at| poison(t * stride - at * d));
    let strided = backward([q, k, v], outputs, [stride; 6]);
    for ((dense, strided), heads) in dense.iter().zip(&strided).zip([2, 1, 1]) {
        for (dense, strided) in dense.chunks(heads * d).zip(strided.chunks(stride)) {
            assert_eq!(dense, &strided[..heads * d]);
            // What lies between stays.
            assert!(strided[heads * d..].iter().all(|x| x.is_nan()));
        }
    }
}

/// Every pair of rows that see each other is in exactly one pair of tiles from either side.
#[test]
fn tiles_say_who_sees_whom() {
    for (t, segments) in packs() {
        let tiles = AttentionTiles::of(&segments, t).unwrap();
        let mut by_queries = vec![0; t * t];
        for w in tiles.queries.chunks(8) {
            assert!(w[1] <= 64);
            for i in (w[0]..w[0] + w[1]).filter(|_| w[2] != u32::MAX) {
                (w[3]..w[4])
                    .chain(w[2]..=i)
                    .for_each(|j| by_queries[i as usize * t + j as usize] += 1);
            }
        }
        let mut by_keys = vec![0; t * t];
        for w in tiles.keys.chunks(4) {
            for e in tiles
                .edges
                .chunks(8)
                .take(w[3] as usize)
                .skip(w[2] as usize)
            {
                for i in e[0]..e[1] {
                    let near = |j: &u32| i64::from(i) + i64::from(e[4] as i32) >= i64::from(*j);
                    let keys = (w[0].max(e[2])..(w[0] + w[1]).min(e[3])).filter(near);
                    keys.for_each(|j| by_keys[i as usize * t + j as usize] += 1);
                }
            }
        }
        for at in 0..t * t {
            let expected = i32::from(sees(&segments, None, at / t, at % t));
            assert_eq!(
                (by_queries[at], by_keys[at]),
                (expected, expected),
                "{} {}",
                at / t,
                at % t
            );
        }
        // Every row belongs to one tile of either kind.
        for (words, width) in [(&tiles.queries, 8), (&tiles.keys, 4)] {
            let mut rows: Vec<u32> = words
                .chunks(width)
                .flat_map(|w| w[0]..w[0] + w[1])
                .collect();
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..t as u32));
        }
    }
}

#[test]
fn tiles_of_a_pack_without_sequences() {
    let tiles = AttentionTiles::of(&[], 70).unwrap();
    assert_eq!(
        (tiles.query_tiles(), tiles.key_tiles(), tiles.edges.len()),
        (2, 2, 8)
    );
    assert!(AttentionTiles::of(&segments(&[(0, 71, None)]), 70).is_err());
}

/// One row a sequence, sequences of many lengths, one that has ended, one that fills its cache.
#[test]
fn decoding_from_a_cache() {
    let lens = [1usize, 700, 33, 0, 256, 511];
    let cases = [
        (4, 2, 64, None),
        (9, 1, 40, None),
        (2, 2, 128, Some(300)),
        (3, 1, 7, None),
    ];
    for (x, stored) in [
        (Float::F32, Float::F32),
        (Float::F32, Float::Bf16),
        (Float::Bf16, Float::Bf16),
    ] {
        for (heads, kv_heads, d, window) in cases {
            let name = format!("decode {x:?} {stored:?} {heads} {kv_heads} {d} {window:?}");
            let a = shape(heads, kv_heads, d, window);
            let cache = CacheShape {
                sequences: lens.len(),
                capacity: 700,
                stored,
            };
            let slot = cache.capacity * d;
            let (mut keys, mut values) = (vec![f64::NAN; lens.len() * kv_heads * slot], Vec::new());
            values.clone_from(&keys);
            let [q, k, v] = [(heads, 1), (kv_heads, 2), (kv_heads, 3)]
                .map(|(heads, seed)| numbers(lens.len() * heads * d, seed, x));
            let mut expected = vec![0.0; q.len()];
            let mut large = 0f64;
            for (s, len) in lens.iter().enumerate().filter(|(_, len)| **len > 0) {
                let before = [5, 6]
                    .map(|seed| numbers((len - 1) * kv_heads * d, seed + 10 * s as u64, stored));
                for (to, from) in [(&mut keys, &before[0]), (&mut values, &before[1])] {
                    for (i, row) in from.chunks(d).enumerate() {
                        let at = (s * kv_heads + i % kv_heads) * slot + i / kv_heads * d;
                        to[at..at + d].copy_from_slice(row);
                    }
                }
                let row = |list: &[f64], heads: usize| {
                    tensor(
                        &list[s * heads * d..][..heads * d],
                        &[1, heads * d],
                        DType::F64,
                    )
                };
                let mut held = KvCache::new(kv_heads, d, DType::F64);
                let [old_k, old_v] =
                    before.map(|list| tensor(&list, &[len - 1, kv_heads * d], DType::F64));
                let round = |t: Tensor| {
                    t.to_dtype(dtype(stored))
                        .unwrap()
                        .to_dtype(DType::F64)
                        .unwrap()
                };
                if *len > 1 {
                    let zeros =
                        Tensor::zeros((len - 1, heads * d), DType::F64, &Device::Cpu).unwrap();
                    kernels::attention_cached(
                        &zeros,
                        &old_k,
                        &old_v,
                        &mut [&mut held],
                        &[len - 1],
                        &a,
                    )
                    .unwrap();
                }
                let new = [row(&k, kv_heads), row(&v, kv_heads)].map(round);
                let o = kernels::attention_cached(
                    &row(&q, heads),
                    &new[0],
                    &new[1],
                    &mut [&mut held],
                    &[1],
                    &a,
                )
                .unwrap();
                expected[s * heads * d..][..heads * d].copy_from_slice(&list(&o));
                large = large.max(a.scale * 2.25 * d as f64);
            }
            let lens_u32: Vec<u32> = lens.iter().map(|n| *n as u32).collect();
            let lens_u32 = Buffer::u32s(&lens_u32);
            let buffers = [
                Buffer::floats(&k, x),
                Buffer::floats(&v, x),
                lens_u32.clone(),
                Buffer::floats(&keys, stored),
                Buffer::floats(&values, stored),
            ];
            let filled = run(launch::cache_append(x, &a, &cache), &buffers);
            let refill = |r: &Result| Buffer::floats(&r.floats(stored), stored);
            let buffers = [
                Buffer::floats(&q, x),
                refill(&filled[3]),
                refill(&filled[4]),
                lens_u32,
                Buffer::poison(q.len(), x.size()),
            ];
            let found = run(launch::attention_decode(x, &a, &cache, 700), &buffers);
            // A probability is off by its score's roundings; values are below 1.5.
            let bounds =
                vec![1.5 * 2.0 * (d as f64 + 40.0) * 2f64.powi(-24) * large.max(1.0); q.len()];
            within(&name, &found[4].floats(x), &expected, x, &bounds);
        }
    }
}
