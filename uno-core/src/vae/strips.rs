//! Planning of strips: how many rows of a picture are worked on at a time, and what that takes.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

/// Bytes that the temporaries of one strip may take: the normalized rows, their copies inside the convolution, the result.
pub(crate) const STRIP_BYTES: usize = 64 << 20;
/// Pixels whose patches burn's CPU convolution gathers at a time, in each thread.
const PATCHES: usize = 512;

/// A 3x3 convolution that runs over a picture from top to bottom, in steps of a few rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Channels before and after.
    pub(super) channels: [usize; 2],
    /// Pixels read and pixels written by each step.
    pub(super) pixels: [usize; 2],
    /// How many steps the picture has.
    pub(super) steps: usize,
}

impl Plan {
    /// Every step makes one row of `width` pixels out of one.
    pub(super) fn same(channels: [usize; 2], height: usize, width: usize) -> Self {
        Self { channels, pixels: [width, width], steps: height }
    }

    /// Every step makes two rows out of one, whose pixels were doubled before: `[H, W]` -> `[2 H, 2 W]`.
    pub(super) fn doubling(channels: usize, height: usize, width: usize) -> Self {
        Self { channels: [channels; 2], pixels: [width.saturating_mul(4); 2], steps: height }
    }

    /// Every step makes one row out of two: `[H, W]` -> `[H / 2, W / 2]`.
    pub(super) fn halving(channels: usize, height: usize, width: usize) -> Self {
        Self { channels: [channels; 2], pixels: [width.saturating_mul(2), width / 2], steps: height / 2 }
    }

    /// Bytes of `steps` rows before and after the convolution.
    pub(super) fn planes(&self, steps: usize) -> [usize; 2] {
        let bytes = |i: usize| {
            let numbers = self.channels[i].saturating_mul(self.pixels[i]).saturating_mul(steps);
            numbers.saturating_mul(size_of::<f32>())
        };
        [bytes(0), bytes(1)]
    }

    /// Bytes of the patches and products that all threads together hold while they work on `steps`.
    pub(super) fn patches(&self, steps: usize) -> usize {
        let pixels = self.pixels[1].saturating_mul(steps);
        let at_once = PATCHES * pixels.div_ceil(PATCHES).min(rayon::current_num_threads());
        at_once.min(pixels) * (9 * self.channels[0] + self.channels[1]) * size_of::<f32>()
    }

    /// Bytes of all temporaries of a strip of `steps`: its input twice (normalized, and in the order of the convolution) with a
    /// row above and below, its result, and the patches.
    pub(super) fn bytes(&self, steps: usize) -> usize {
        let [input, output] = self.planes(steps);
        let [edge, _] = self.planes(1);
        [input, input, edge.saturating_mul(4), output, self.patches(steps)]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    /// Strips of nearly equal height from top to bottom, each within `budget` bytes (or one step high). One alone is the whole.
    pub(super) fn strips(&self, budget: usize) -> Vec<Range<usize>> {
        let fits = |steps: &usize| self.bytes(*steps) <= budget;
        // More steps never take fewer bytes: the last one that fits is found by halving.
        let (mut low, mut high) = (1, self.steps.max(1));
        while low < high {
            let middle = high - (high - low) / 2;
            if fits(&middle) { low = middle } else { high = middle - 1 }
        }
        split(self.steps, low)
    }
}

/// `0..total` in pieces of nearly equal length, none above `most`.
pub(super) fn split(total: usize, most: usize) -> Vec<Range<usize>> {
    let each = total.div_ceil(total.div_ceil(most.max(1)).max(1)).max(1);
    (0..total).step_by(each).map(|start| start..(start + each).min(total)).collect()
}

/// Puts strips of rows together: `make` gives the rows of each range. The result is there from the beginning and written in
/// place, so that strips and result are never in memory twice.
pub(super) fn assemble(
    shape: [usize; 4],
    device: &Device,
    strips: Vec<Range<usize>>,
    make: impl Fn(Range<usize>) -> Tensor<4>,
) -> Tensor<4> {
    let whole = Tensor::empty(shape, (device, DType::F32));
    strips.into_iter().fold(whole, |whole, rows| put_rows(whole, rows.clone(), make(rows)))
}

/// The given rows of `x`. `[batch, C, H, W]` -> `[batch, C, rows, W]`
pub(super) fn rows_of(x: &Tensor<4>, rows: Range<usize>) -> Tensor<4> {
    x.clone().narrow(2, rows.start, rows.len())
}

/// `x` with these rows replaced; in place if nothing else holds `x`.
pub(super) fn put_rows(x: Tensor<4>, rows: Range<usize>, value: Tensor<4>) -> Tensor<4> {
    let [batch, channels, _, width] = x.dims();
    x.slice_assign([0..batch, 0..channels, rows, 0..width], value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_every_row_once_and_are_nearly_equal() {
        for (total, most) in [(1, 1), (1, 9), (7, 3), (10, 3), (9, 3), (64, 64), (65, 64), (5, 0)] {
            let pieces = split(total, most);
            assert_eq!(
                pieces.iter().flat_map(Clone::clone).collect::<Vec<_>>(),
                (0..total).collect::<Vec<_>>()
            );
            let lengths: Vec<usize> = pieces.iter().map(ExactSizeIterator::len).collect();
            assert!(lengths.iter().all(|l| *l <= most.max(1)), "{total} by {most}: {lengths:?}");
        }
        assert!(split(0, 3).is_empty());
    }

    #[test]
    fn a_strip_is_as_high_as_the_budget_allows_and_at_least_one_row() {
        let plan = Plan::same([128, 64], 1000, 512);
        for budget in [0, 1, 2 << 20, 10 << 20, STRIP_BYTES] {
            let strips = plan.strips(budget);
            let highest = strips.iter().map(ExactSizeIterator::len).max().unwrap();
            assert!(highest == 1 || plan.bytes(highest) <= budget, "{budget}: {highest}");
            assert_eq!(strips.last().unwrap().end, 1000);
        }
        let whole = plan.strips(usize::MAX);
        assert!(whole.len() == 1 && whole[0] == (0..1000));
        assert_eq!(plan.strips(0).len(), 1000);
    }
}
