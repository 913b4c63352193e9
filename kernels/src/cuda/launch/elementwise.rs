//! Sums, scalings, conversions, dropout, and rows picked out or put back.

use super::{Arg, Float, Launch, Launches, PACK, THREADS, blocks, blocks_yz, narrow, wide};
use crate::DropoutKey;
use crate::dropout::{key_hash, threshold};

/// Elements a block takes.
const SPAN: usize = THREADS as usize * PACK;

fn flat(module: &'static str, function: String, n: usize, mut args: Vec<Arg>) -> Launch {
    args.push(wide(n));
    Launch::new(
        module,
        function,
        [blocks(n, SPAN), 1, 1],
        [THREADS, 1, 1],
        args,
    )
}

/// A grid over (rows, d): parts of a row, then rows.
fn by_rows(rows: usize, d: usize) -> [u32; 3] {
    [blocks(d, SPAN), blocks_yz(rows, 1), 1]
}

/// n numbers of one value.
///
/// Buffers: 0 a.
pub fn fill(a: Float, n: usize, value: f32) -> Launch {
    let args = vec![Arg::Write(0), Arg::F32(value)];
    flat("elementwise", format!("fill_{}", a.name()), n, args)
}

/// n numbers in another type, rounded to nearest even.
///
/// Buffers: 0 from, 1 to.
pub fn convert(from: Float, to: Float, n: usize) -> Launch {
    let function = format!("convert_{}_{}", from.name(), to.name());
    flat(
        "elementwise",
        function,
        n,
        vec![Arg::Read(0), Arg::Write(1)],
    )
}

/// a ← a + b.
///
/// Buffers: 0 a, 1 b.
pub fn add_assign(a: Float, b: Float, n: usize) -> Launch {
    let function = format!("add_assign_{}_{}", a.name(), b.name());
    flat(
        "elementwise",
        function,
        n,
        vec![Arg::Update(0), Arg::Read(1)],
    )
}

/// a ← factor · a, and with `by_device` times the number in a buffer as well.
///
/// Buffers: 0 a, 1 a factor (1) f32.
pub fn scale_assign(a: Float, n: usize, factor: f64, by_device: bool) -> Launch {
    let on_device = if by_device { Arg::Read(1) } else { Arg::Absent };
    let args = vec![Arg::Update(0), on_device, Arg::F32(factor as f32)];
    flat("elementwise", format!("scale_assign_{}", a.name()), n, args)
}

/// y (rows, d) ← y + bias (d).
///
/// Buffers: 0 y, 1 bias.
pub fn add_bias(y: Float, bias: Float, rows: usize, d: usize) -> Launch {
    Launch::new(
        "elementwise",
        format!("add_bias_{}_{}", y.name(), bias.name()),
        by_rows(rows, d),
        [THREADS, 1, 1],
        vec![
            Arg::Update(0),
            Arg::Read(1),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
        ],
    )
}

/// y (rows, d) = x ∘ (factors (d) − less).
///
/// Buffers: 0 x, 1 factors f32, 2 y.
pub fn scale_columns(x: Float, rows: usize, d: usize, less: f64) -> Launch {
    Launch::new(
        "column_scale",
        format!("scale_columns_{}", x.name()),
        by_rows(rows, d),
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Write(2),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
            Arg::F32(less as f32),
        ],
    )
}

/// n quotients a / b, all f32.
///
/// Buffers: 0 a, 1 b, 2 y.
pub fn divide(n: usize) -> Launch {
    let args = vec![Arg::Read(0), Arg::Read(1), Arg::Write(2)];
    flat("elementwise", "divide".into(), n, args)
}

/// Most parts that rows are cut into before their sums are added.
const PARTS: usize = 256;
/// Fewest rows of a part.
const PART_ROWS: usize = 64;

/// A kernel that sums columns over parts of the rows, and the sum over its parts. `inputs` are its first arguments, `out`
/// the buffer of the (d) f32 sums; scratch comes after.
pub(super) fn column_sums(
    rows: usize,
    d: usize,
    module: &'static str,
    function: String,
    inputs: &[Arg],
    out: usize,
) -> Launches {
    let part = rows.div_ceil(PARTS).max(PART_ROWS);
    let parts = rows.div_ceil(part).max(1);
    let step = |module, function, inputs: &[Arg], to, rows: usize, part: usize| {
        let mut args = inputs.to_vec();
        args.extend([
            Arg::Write(to),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
            Arg::U32(narrow(part)),
        ]);
        let grid = [blocks(d, 128), blocks_yz(rows, part), 1];
        Launch::new(module, function, grid, [128, 1, 1], args)
    };
    if parts == 1 {
        return step(module, function, inputs, out, rows, part).into();
    }
    let second = step(
        "elementwise",
        "sum_rows_f32".into(),
        &[Arg::Read(out + 1)],
        out,
        parts,
        parts,
    );
    Launches {
        steps: vec![step(module, function, inputs, out + 1, rows, part), second],
        scratch_bytes: 4 * parts * d,
    }
}

/// (d) f32: the sum of x's rows (rows, d).
///
/// Buffers: 0 x, 1 sums, 2 scratch.
pub fn sum_rows(x: Float, rows: usize, d: usize) -> Launches {
    let function = format!("sum_rows_{}", x.name());
    column_sums(rows, d, "elementwise", function, &[Arg::Read(0)], 1)
}

/// (d) f32: Σ over rows of a ∘ b.
///
/// Buffers: 0 a, 1 b (rows, d), 2 sums, 3 scratch.
pub fn column_products(a: Float, b: Float, rows: usize, d: usize) -> Launches {
    let function = format!("column_products_{}_{}", a.name(), b.name());
    column_sums(
        rows,
        d,
        "column_scale",
        function,
        &[Arg::Read(0), Arg::Read(1)],
        2,
    )
}

/// Dropout of x (rows, d) with probability p, the mask of the key and of each row's sample and position.
///
/// Buffers: 0 x, 1 sample (rows) u64, 2 position (rows) u32, 3 y (x's type).
pub fn dropout(x: Float, rows: usize, d: usize, p: f64, key: DropoutKey) -> Launch {
    Launch::new(
        "dropout",
        format!("dropout_{}", x.name()),
        by_rows(rows, d),
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Read(2),
            Arg::Write(3),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
            Arg::U64(key_hash(key)),
            Arg::U32(threshold(p)),
            Arg::F32((1.0 / (1.0 - p)) as f32),
        ],
    )
}

/// (rows, d): the table's rows of `rows` ids.
///
/// Buffers: 0 table, 1 ids (rows) u32, 2 out.
pub fn embedding(table: Float, out: Float, rows: usize, d: usize) -> Launch {
    gather(
        "embedding",
        format!("embedding_{}_{}", table.name(), out.name()),
        rows,
        d,
    )
}

/// (rows, d): `rows` rows of x.
///
/// Buffers: 0 x, 1 indices (rows) u32, 2 y.
pub fn gather_rows(x: Float, rows: usize, d: usize) -> Launch {
    gather("elementwise", format!("gather_rows_{}", x.name()), rows, d)
}

fn gather(module: &'static str, function: String, rows: usize, d: usize) -> Launch {
    Launch::new(
        module,
        function,
        by_rows(rows, d),
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Write(2),
            Arg::U32(narrow(rows)),
            Arg::U32(narrow(d)),
        ],
    )
}

/// Which rows are added into which row: what makes a sum by id one of a fixed order, without atomics. Made once a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroups {
    /// The rows, by ascending target and within it in their order.
    pub order: Vec<u32>,
    /// Where each group begins in `order`, and at last their number.
    pub starts: Vec<u32>,
    /// Each group's target.
    pub targets: Vec<u32>,
}

impl RowGroups {
    /// Of the target of each row.
    pub fn of(targets: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..narrow(targets.len())).collect();
        order.sort_by_key(|row| targets[*row as usize]);
        let mut groups = Self {
            order: Vec::new(),
            starts: Vec::new(),
            targets: Vec::new(),
        };
        for (i, row) in order.iter().enumerate() {
            let target = targets[*row as usize];
            if groups.targets.last() != Some(&target) {
                groups.targets.push(target);
                groups.starts.push(i as u32);
            }
        }
        groups.starts.push(narrow(order.len()));
        groups.order = order;
        groups
    }
}

/// (rows, d) f32: row r is the sum of dy's rows whose id is r.
///
/// Buffers: 0 dy, 1 order, 2 starts, 3 targets of the ids' [`RowGroups`] (u32), 4 sums.
pub fn embedding_backward(dy: Float, groups: usize, rows: usize, d: usize) -> Launches {
    scatter(
        "embedding",
        format!("embedding_backward_{}", dy.name()),
        Float::F32,
        groups,
        rows,
        d,
    )
}

/// (rows, d), in x's type: each row of x added to its target's row of zeros.
///
/// Buffers: 0 x, 1 order, 2 starts, 3 targets of the indices' [`RowGroups`] (u32), 4 y.
pub fn scatter_rows(x: Float, groups: usize, rows: usize, d: usize) -> Launches {
    scatter(
        "elementwise",
        format!("scatter_rows_{}", x.name()),
        x,
        groups,
        rows,
        d,
    )
}

fn scatter(
    module: &'static str,
    function: String,
    out: Float,
    groups: usize,
    rows: usize,
    d: usize,
) -> Launches {
    let mut zeros = fill(out, rows * d, 0.0);
    zeros.args[0] = Arg::Write(4);
    let sums = Launch::new(
        module,
        function,
        by_rows(groups, d),
        [THREADS, 1, 1],
        vec![
            Arg::Read(0),
            Arg::Read(1),
            Arg::Read(2),
            Arg::Read(3),
            Arg::Update(4),
            Arg::U32(narrow(groups)),
            Arg::U32(narrow(d)),
        ],
    );
    let steps = if groups == 0 {
        vec![zeros]
    } else {
        vec![zeros, sums]
    };
    Launches {
        steps,
        scratch_bytes: 0,
    }
}
