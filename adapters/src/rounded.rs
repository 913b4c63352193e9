//! A unit of a tensor's rows: changed, rounded, and held against the change computed another way.

use crate::Result;
use crate::change::{Change, Changed, Gathered, Tile, Way};
use crate::direct::Pool;
use crate::encode;
use crate::output::Data;
use crate::stream::{Item, Part, Unit};
use candle_core::DType;
use kernels::{Bytes, Deviation};
use std::sync::{Arc, Mutex, PoisonError};

/// Elements that a thread works on at a time where rows are read whole.
const PANEL: usize = 1 << 16;

/// Buffers of threads, kept for their next unit, and blocks for what they make.
pub(crate) struct Scratch<'a> {
    buffers: Mutex<Vec<Buffers>>,
    pool: &'a Arc<Pool>,
}

/// What a proof needs of a tile.
#[derive(Default)]
pub(crate) struct Buffers {
    pub base: Vec<f32>,
    pub wanted: Vec<f32>,
    pub plain: Vec<f32>,
    pub found: Vec<f32>,
    pub rounded: Vec<f32>,
    pub bytes: Vec<u8>,
    pub gathered: Gathered,
}

impl<'a> Scratch<'a> {
    pub(crate) fn new(pool: &'a Arc<Pool>) -> Self {
        let buffers = Mutex::default();
        Self { buffers, pool }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Buffers) -> R) -> R {
        let lock = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = lock().pop().unwrap_or_default();
        let result = work(&mut buffers);
        lock().push(buffers);
        result
    }
}

/// The unit's bytes as they are to be written, and with `prove` how far they are from what they should be. `fetched` are
/// those of the base, if it has some for this unit; `changed` is open if the unit is rows.
pub(crate) fn done(
    item: &Item,
    unit: &Unit,
    changed: Option<Arc<Changed>>,
    fetched: Option<Bytes>,
    prove: bool,
    scratch: &Scratch,
) -> Result<(Data, Deviation)> {
    let data = match (&unit.part, changed) {
        (Part::Rows(rows), Some(changed)) => {
            let dtype = item.dtype.unwrap_or(DType::F32);
            let size = rows.len() * changed.columns * dtype.size_in_bytes();
            let mut block = scratch.pool.take(size);
            let deviation = scratch.with(|buffers| match fetched {
                Some(bytes) => {
                    let changed = changed.with_rows(rows.clone(), bytes.clone())?;
                    let tiles = changed.tiles(rows.clone(), PANEL);
                    let out = block.as_mut_slice();
                    let deviation = round_tiles(&changed, &tiles, dtype, prove, buffers, out);
                    item.view.release_bytes(bytes.as_slice());
                    deviation
                }
                None => {
                    let tiles = changed.tiles(rows.clone(), PANEL);
                    round_tiles(
                        &changed,
                        &tiles,
                        dtype,
                        prove,
                        buffers,
                        block.as_mut_slice(),
                    )
                }
            })?;
            return Ok((Data::Block(block), deviation));
        }
        _ => match (fetched, &item.change) {
            (Some(bytes), _) => Data::Stored(bytes),
            (None, Change::Replace(tensor)) => Data::Made(encode::tensor_bytes(tensor)?),
            (None, _) => Data::Made(item.view.with_bytes(<[u8]>::to_vec)?),
        },
    };
    Ok((data, Deviation::default()))
}

/// Rounds the tiles, which together are some rows, into those rows' bytes. Returns how far these are from what they
/// should be.
fn round_tiles(
    changed: &Changed,
    tiles: &[Tile],
    dtype: DType,
    prove: bool,
    buffers: &mut Buffers,
    out: &mut [u8],
) -> Result<Deviation> {
    let size = dtype.size_in_bytes();
    let first = tiles.first().map_or(0, |tile| tile.rows.start);
    let mut deviation = Deviation::default();
    buffers.gathered.forget();
    for tile in tiles {
        let Buffers {
            base,
            wanted,
            found,
            gathered,
            ..
        } = buffers;
        changed.read_base_tile(tile, base)?;
        changed.read_tile(tile, base, Way::Tiled, gathered, wanted)?;
        found.resize(wanted.len(), f32::NAN);
        let width = tile.columns.len().max(1);
        let rows = wanted
            .chunks_exact(width)
            .zip(found.chunks_exact_mut(width));
        for (row, (wanted, found)) in tile.rows.clone().zip(rows) {
            let at = (row - first) * changed.columns + tile.columns.start;
            let out = &mut out[at * size..(at + width) * size];
            encode::encode(&changed.view.name, wanted, dtype, out)?;
            if prove {
                kernels::widen_bytes(out, dtype, found);
            }
        }
        if prove {
            deviation = deviation.with(deviation_of(changed, tile, dtype, buffers)?);
        }
    }
    Ok(deviation)
}

/// How far `found` is from the tile of `changed`, whose base is in the buffers too.
pub(crate) fn deviation_of(
    changed: &Changed,
    tile: &Tile,
    dtype: DType,
    buffers: &mut Buffers,
) -> Result<Deviation> {
    let Buffers {
        base,
        plain,
        found,
        rounded,
        bytes,
        gathered,
        ..
    } = buffers;
    let rounded: &[f32] = if changed.view.float_dtype() == Some(dtype) {
        base
    } else {
        bytes.resize(base.len() * dtype.size_in_bytes(), 0);
        rounded.resize(base.len(), f32::NAN);
        if kernels::round_to_bytes(base, dtype, bytes) {
            kernels::widen_bytes(bytes, dtype, rounded);
        }
        rounded
    };
    let factors = changed.read_tile(tile, base, Way::Plain, gathered, plain)?;
    let mut deviation = Deviation::default();
    let width = tile.columns.len();
    for (i, row) in tile.rows.clone().enumerate() {
        let at = i * width..(i + 1) * width;
        let (base, rounded) = (&base[at.clone()], &rounded[at.clone()]);
        let (plain, found) = (&plain[at.clone()], &found[at]);
        let tolerance = changed.tolerance(row, factors.get(i).copied().unwrap_or(1.0));
        let of_row = Deviation::of(base, rounded, plain, found, dtype, tolerance);
        deviation = deviation.with(of_row);
    }
    Ok(deviation)
}
