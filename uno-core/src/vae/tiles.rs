//! Encoding and decoding by overlapping tiles: the memory of one tile, and nearly the same picture.
//!
//! A tile knows nothing of what is outside: its edges see zeros instead of neighbours, its norms and its attention see the tile
//! only. Neighbours overlap, and where they do one fades into the other. So there are no edges in the result, but colours may
//! drift a little from tile to tile. Only tiles do this; without them every result is exact.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::strips::put_rows;

/// Start and length of each tile along a side of `total`: all of `tile`, evenly spread, each two overlapping by `overlap` or
/// more. One that covers it all if `total` is not above `tile`.
pub(super) fn spread(total: usize, tile: usize, overlap: usize) -> Vec<Range<usize>> {
    if total <= tile {
        return std::iter::once(0..total).collect();
    }
    let step = tile.saturating_sub(overlap).max(1);
    let gaps = (total - tile).div_ceil(step);
    (0..=gaps)
        .map(|i| {
            let start = (total - tile) * i / gaps;
            start..start + tile
        })
        .collect()
}

/// How much each tile along a side counts at each of its places, 1 in sum over all tiles. It rises linearly over what a tile
/// shares with the one before.
pub(super) fn shares(tiles: &[Range<usize>], scale: usize) -> Vec<Vec<f32>> {
    let at =
        |tile: &Range<usize>, place: usize, before: Option<&Range<usize>>, after: Option<&Range<usize>>| {
            // Middles of pixels, so that two neighbours rise and fall alike.
            let place = place as f32 + 0.5;
            let fade = |shared: usize, from: usize| (place - (from * scale) as f32) / (shared * scale) as f32;
            let rise = before.map_or(1.0, |b| fade(b.end - tile.start, tile.start));
            let fall = after.map_or(1.0, |a| 1.0 - fade(tile.end - a.start, a.start));
            rise.min(fall).clamp(0.0, 1.0)
        };
    let weights: Vec<Vec<f32>> = (0..tiles.len())
        .map(|i| {
            let (before, after) = (i.checked_sub(1).and_then(|i| tiles.get(i)), tiles.get(i + 1));
            let tile = &tiles[i];
            (tile.start * scale..tile.end * scale).map(|place| at(tile, place, before, after)).collect()
        })
        .collect();
    // Where three tiles meet (an overlap of more than half a tile) the sum is not 1 yet.
    let mut sum = vec![0.0f32; tiles.last().map_or(0, |tile| tile.end * scale)];
    for (tile, weights) in tiles.iter().zip(&weights) {
        sum.iter_mut().skip(tile.start * scale).zip(weights).for_each(|(sum, weight)| *sum += weight);
    }
    let normalized = tiles.iter().zip(weights).map(|(tile, weights)| {
        let sums = sum.iter().skip(tile.start * scale);
        weights.into_iter().zip(sums).map(|(weight, sum)| weight / sum.max(f32::MIN_POSITIVE)).collect()
    });
    normalized.collect()
}

/// Lengths and scale of what tiles are made of and of what comes out of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// Pixels before for each unit that tiles are measured in.
    pub(super) input: usize,
    /// Pixels after.
    pub(super) output: usize,
}

/// `run` over the tiles of `x` `[1, C, H, W]`, faded into each other. `tile` and `overlap` are in units of `scale`.
pub(super) fn run_tiled(
    x: Tensor<4>,
    [tile, overlap]: [usize; 2],
    scale: Scale,
    run: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let [tall, wide] = [height, width].map(|length| spread(length / scale.input, tile, overlap));
    if tall.len() == 1 && wide.len() == 1 {
        return run(x);
    }
    let device = x.device();
    let vector = |values: Vec<f32>, shape: [usize; 4], device: &Device| {
        Tensor::<4>::from_data(TensorData::new(values, shape), (device, DType::F32))
    };
    let length = |tile: &Range<usize>| tile.len() * scale.output;
    let (down, across) = (shares(&tall, scale.output), shares(&wide, scale.output));
    let mut whole: Option<Tensor<4>> = None;
    for (rows, down) in tall.iter().zip(down) {
        let down = vector(down, [1, 1, length(rows), 1], &device);
        // A row of tiles is put together across first.
        let mut band: Option<Tensor<4>> = None;
        for (columns, across) in wide.iter().zip(&across) {
            let part = x.clone().narrow(2, rows.start * scale.input, rows.len() * scale.input).narrow(
                3,
                columns.start * scale.input,
                columns.len() * scale.input,
            );
            let done = run(part) * vector(across.clone(), [1, 1, 1, length(columns)], &device);
            let shape = [1, done.dims()[1], length(rows), width / scale.input * scale.output];
            let sum = band.take().unwrap_or_else(|| Tensor::zeros(shape, (&device, DType::F32)));
            let place = columns.start * scale.output..columns.end * scale.output;
            let range = [0..1, 0..shape[1], 0..shape[2], place];
            let value = done + sum.clone().slice(range.clone());
            band = Some(sum.slice_assign(range, value));
        }
        let Some(band) = band else { continue };
        let band = band * down;
        let [_, channels, _, out_width] = band.dims();
        let shape = [1, channels, height / scale.input * scale.output, out_width];
        let sum = whole.take().unwrap_or_else(|| Tensor::zeros(shape, (&device, DType::F32)));
        let place = rows.start * scale.output..rows.end * scale.output;
        let value = band + sum.clone().narrow(2, place.start, place.len());
        whole = Some(put_rows(sum, place, value));
    }
    // There is always a tile; a picture of no rows was refused before.
    whole.unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_side_and_overlap_as_asked() {
        for (total, tile, overlap) in
            [(5, 8, 2), (8, 8, 2), (9, 8, 2), (64, 16, 4), (65, 16, 15), (20, 3, 9), (7, 1, 0)]
        {
            let tiles = spread(total, tile, overlap);
            assert_eq!((tiles[0].start, tiles[tiles.len() - 1].end), (0, total));
            assert!(tiles.iter().all(|t| t.len() == tile.min(total)));
            for pair in tiles.windows(2) {
                assert!(pair[1].start > pair[0].start, "{total} {tile} {overlap}: {tiles:?}");
                assert!(
                    pair[0].end >= pair[1].start + overlap.min(tile - 1),
                    "{total} {tile} {overlap}: {tiles:?}"
                );
            }
        }
    }

    #[test]
    fn shares_of_all_tiles_are_one_in_sum_everywhere() {
        for (total, tile, overlap, scale) in
            [(20, 8, 2, 8), (21, 8, 6, 2), (9, 8, 0, 1), (65, 16, 15, 4), (30, 10, 0, 3)]
        {
            let tiles = spread(total, tile, overlap);
            let mut sum = vec![0.0; total * scale];
            for (tile, share) in tiles.iter().zip(shares(&tiles, scale)) {
                assert_eq!(share.len(), tile.len() * scale);
                share.iter().enumerate().for_each(|(i, share)| sum[tile.start * scale + i] += share);
            }
            assert!(sum.iter().all(|s| (s - 1.0_f32).abs() < 1e-5), "{total} {tile} {overlap}: {sum:?}");
        }
    }
}
