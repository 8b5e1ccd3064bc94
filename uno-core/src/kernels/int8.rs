//! Products in 8-bit integers: rows of numbers, quantized in blocks of 32, with matrices stored as Q8_0.
//!
//! Both sides of a block are integers times one scale, as in ggml: the integers are multiplied and added up exactly, and their
//! sum is multiplied by both scales. What is lost is what quantizing the rows loses, at most 1/254 of a block's largest number.
//!
//! Where the processor has AVX-512 VNNI, one instruction multiplies 64 pairs. Elsewhere the same sums are formed by plain loops,
//! which give the same bits.

use rayon::prelude::*;

use super::View;

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Outputs that are computed side by side: two of the widest registers.
pub(crate) const LANES: usize = 32;
/// Rows that are computed side by side.
pub(crate) const ROWS: usize = 6;
/// Products of four neighbours are added up by one instruction.
const QUADS: usize = BLOCK / 4;
/// Bytes of a block of [`LANES`] outputs.
const PANEL: usize = BLOCK * LANES;

/// Rows of numbers, quantized.
pub(crate) struct QuantizedRows {
    blocks: usize,
    /// `[rows, blocks, BLOCK]`.
    quants: Vec<i8>,
    /// `[rows, blocks]`: NaN where a number was not finite, so that the product shows it.
    scales: Vec<f32>,
    /// `[rows, blocks]`: -128 times the sum of the block. Weights are multiplied as unsigned bytes, 128 too large.
    offsets: Vec<i32>,
}

impl QuantizedRows {
    /// Quantizes the rows of one sample; their width is a multiple of [`BLOCK`].
    pub(crate) fn new(x: View<'_>, sample: usize) -> Self {
        let (rows, blocks) = (x.shape().tokens, x.shape().width / BLOCK);
        let mut quants = vec![0; rows * blocks * BLOCK];
        let mut scales = vec![0.0; rows * blocks];
        let mut offsets = vec![0; rows * blocks];
        let of_row = quants.par_chunks_mut((blocks * BLOCK).max(1)).zip(scales.par_chunks_mut(blocks.max(1)));
        of_row.zip(offsets.par_chunks_mut(blocks.max(1))).enumerate().with_min_len(8).for_each(
            |(row, ((quants, scales), offsets))| quantize(x.row(sample, row), quants, scales, offsets),
        );
        Self { blocks, quants, scales, offsets }
    }

    fn row(&self, row: usize) -> (&[i8], &[f32], &[i32]) {
        let blocks = row * self.blocks..(row + 1) * self.blocks;
        let quants = &self.quants[blocks.start * BLOCK..blocks.end * BLOCK];
        (quants, &self.scales[blocks.clone()], &self.offsets[blocks])
    }
}

vectorized! {
    fn quantize(x: &[f32], quants: &mut [i8], scales: &mut [f32], offsets: &mut [i32]) {
        // 1.5 * 2^23: adding it rounds to an integer, which then stands in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let blocks = x.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
        for (((x, quants), scale), offset) in blocks.zip(scales).zip(offsets) {
            let (mut largest, mut zero) = (0.0f32, 0.0f32);
            for x in x {
                largest = if x.abs() > largest { x.abs() } else { largest };
                zero += x * 0.0;
            }
            // Below the smallest normal number the inverse overflows: such a block is nothing.
            let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
            let mut sum = 0i32;
            for (quant, x) in quants.iter_mut().zip(x) {
                *quant = (x * inverse + ROUND).to_bits() as i8;
                sum += i32::from(*quant);
            }
            // `zero` is NaN if any number is NaN or infinite.
            *scale = largest / 127.0 + zero;
            *offset = -128 * sum;
        }
    }
}

/// Some outputs of a Q8_0 matrix, laid out for the product.
#[derive(Default)]
pub(crate) struct Panels {
    blocks: usize,
    outputs: usize,
    /// `[panels, blocks, QUADS, LANES, 4]`, each 128 larger than it is.
    quants: Vec<u8>,
    /// `[panels, blocks, LANES]`.
    scales: Vec<f32>,
}

impl Panels {
    /// Takes rows of the matrix, as Q8_0 stores them; a row that is missing is zero.
    pub(crate) fn pack<'r>(
        &mut self,
        width: usize,
        outputs: usize,
        rows: impl Fn(usize) -> Option<&'r [u8]>,
    ) {
        (self.blocks, self.outputs) = (width / BLOCK, outputs);
        let panels = outputs.div_ceil(LANES);
        self.quants.clear();
        self.quants.resize(panels * self.blocks * PANEL, 128);
        self.scales.clear();
        self.scales.resize(panels * self.blocks * LANES, 0.0);
        for output in 0..outputs {
            let (panel, lane) = (output / LANES, output % LANES);
            let blocks = rows(output).unwrap_or_default().as_chunks::<{ BLOCK + 2 }>().0;
            for (i, [d0, d1, block @ ..]) in blocks.iter().take(self.blocks).enumerate() {
                let at = panel * self.blocks + i;
                self.scales[at * LANES + lane] = half::f16::from_le_bytes([*d0, *d1]).to_f32();
                let quads = self.quants[at * PANEL..(at + 1) * PANEL].as_chunks_mut::<{ 4 * LANES }>().0;
                for (quad, four) in quads.iter_mut().zip(block.as_chunks::<4>().0) {
                    // Flipping the highest bit of a signed byte adds 128 to it, as an unsigned one.
                    let four = u32::from_ne_bytes(*four) ^ 0x8080_8080;
                    quad[4 * lane..4 * lane + 4].copy_from_slice(&four.to_ne_bytes());
                }
            }
        }
    }

    /// Multiplies all rows of `x`: `put(row, first output, products)`.
    pub(crate) fn multiply(&self, x: &QuantizedRows, mut put: impl FnMut(usize, usize, &[f32])) {
        let rows = x.scales.len() / self.blocks.max(1);
        for first in (0..rows).step_by(ROWS) {
            // Rows beyond the last are computed as the last, and not put anywhere.
            let these: [_; ROWS] = std::array::from_fn(|i| x.row((first + i).min(rows - 1)));
            for panel in 0..self.outputs.div_ceil(LANES) {
                let blocks = panel * self.blocks..(panel + 1) * self.blocks;
                let quants = &self.quants[blocks.start * PANEL..blocks.end * PANEL];
                let scales = &self.scales[blocks.start * LANES..blocks.end * LANES];
                let mut products = [[0.0; LANES]; ROWS];
                multiply_panel(&these, quants, scales, &mut products);
                let outputs = LANES.min(self.outputs - panel * LANES);
                for (i, products) in products.iter().enumerate().take(rows - first) {
                    put(first + i, panel * LANES, &products[..outputs]);
                }
            }
        }
    }
}

/// Quantized numbers, scales and offsets of a row, block by block.
type Row<'r> = (&'r [i8], &'r [f32], &'r [i32]);

fn multiply_panel(
    rows: &[Row<'_>; ROWS],
    quants: &[u8],
    scales: &[f32],
    products: &mut [[f32; LANES]; ROWS],
) {
    let blocks = scales.len() / LANES;
    // The loops below read without looking.
    assert!(quants.len() == blocks * PANEL, "a panel of another size");
    assert!(
        rows.iter().all(|(q, s, o)| q.len() == blocks * BLOCK && s.len() == blocks && o.len() == blocks),
        "a row of another width"
    );
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
    {
        // SAFETY: the processor was asked for these instructions, and all lengths are as they must be.
        #[allow(unsafe_code)]
        return unsafe { vnni(rows, quants, scales, products) };
    }
    plain(rows, quants, scales, products);
}

vectorized! {
    fn plain(rows: &[Row<'_>; ROWS], quants: &[u8], scales: &[f32], products: &mut [[f32; LANES]; ROWS]) {
        let panels = quants.as_chunks::<PANEL>().0.iter().zip(scales.as_chunks::<LANES>().0);
        for (block, (panel, scales)) in panels.enumerate() {
            for ((quants, row_scales, offsets), products) in rows.iter().zip(products.iter_mut()) {
                let mut sums = [offsets[block]; LANES];
                let quants = &quants[block * BLOCK..(block + 1) * BLOCK];
                let quads = panel.as_chunks::<{ 4 * LANES }>().0.iter().zip(quants.as_chunks::<4>().0);
                for (weights, four) in quads {
                    for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                        for (weight, x) in weights.iter().zip(four) {
                            *sum += i32::from(*weight) * i32::from(*x);
                        }
                    }
                }
                let row_scale = row_scales[block];
                for ((product, sum), scale) in products.iter_mut().zip(sums).zip(scales) {
                    *product = (sum as f32 * scale).mul_add(row_scale, *product);
                }
            }
        }
    }
}

/// The same with AVX-512 VNNI.
///
/// # Safety
///
/// The processor has these instructions; `quants` and all rows hold as many blocks as `scales`.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni(rows: &[Row<'_>; ROWS], quants: &[u8], scales: &[f32], products: &mut [[f32; LANES]; ROWS]) {
    use std::arch::x86_64::*;

    let zero = _mm512_setzero_ps();
    let mut totals = [[zero; 2]; ROWS];
    for block in 0..scales.len() / LANES {
        // SAFETY: the caller's promise on lengths.
        unsafe {
            let panel = quants.as_ptr().add(block * PANEL);
            let mut sums: [[__m512i; 2]; ROWS] =
                std::array::from_fn(|r| [_mm512_set1_epi32(*rows[r].2.get_unchecked(block)); 2]);
            for quad in 0..QUADS {
                let weights = panel.add(quad * 4 * LANES);
                let low = _mm512_loadu_si512(weights.cast());
                let high = _mm512_loadu_si512(weights.add(64).cast());
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let four = row.0.as_ptr().add(block * BLOCK + 4 * quad).cast::<i32>().read_unaligned();
                    let four = _mm512_set1_epi32(four);
                    sums[0] = _mm512_dpbusd_epi32(sums[0], low, four);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], high, four);
                }
            }
            let of_panel = scales.as_ptr().add(block * LANES);
            let scales = [_mm512_loadu_ps(of_panel), _mm512_loadu_ps(of_panel.add(16))];
            for ((row, sums), totals) in rows.iter().zip(sums).zip(&mut totals) {
                let of_row = _mm512_set1_ps(*row.1.get_unchecked(block));
                for ((sum, scale), total) in sums.into_iter().zip(scales).zip(totals) {
                    *total = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), of_row, *total);
                }
            }
        }
    }
    for (totals, products) in totals.iter().zip(products) {
        // SAFETY: a row of products holds two registers.
        unsafe {
            _mm512_storeu_ps(products.as_mut_ptr(), totals[0]);
            _mm512_storeu_ps(products.as_mut_ptr().add(16), totals[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// Q8_0 rows of some numbers, and the numbers that they stand for.
    fn matrix(outputs: usize, width: usize) -> (Vec<u8>, Vec<f32>) {
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        for block in some(outputs * width, 2).chunks(BLOCK) {
            let scale = half::f16::from_f32(block.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0);
            bytes.extend(scale.to_le_bytes());
            for x in block {
                let quant = (x / scale.to_f32()).round().clamp(-128.0, 127.0) as i8;
                bytes.push(quant as u8);
                numbers.push(f32::from(quant) * scale.to_f32());
            }
        }
        (bytes, numbers)
    }

    fn product(x: &[f32], rows: usize, bytes: &[u8], outputs: usize) -> Vec<f32> {
        let width = x.len() / rows;
        let quantized = QuantizedRows::new(View::new(x, [1, rows, width]), 0);
        let mut panels = Panels::default();
        let of_row = width / BLOCK * (BLOCK + 2);
        panels.pack(width, outputs, |i| bytes.get(i * of_row..(i + 1) * of_row));
        let mut out = vec![f32::NAN; rows * outputs];
        panels.multiply(&quantized, |row, first, products| {
            out[row * outputs + first..][..products.len()].copy_from_slice(products);
        });
        out
    }

    #[test]
    fn a_product_in_integers_is_that_of_the_quantized_numbers() {
        for (rows, outputs, width) in [(1, 1, 32), (6, 32, 64), (7, 45, 96), (13, 64, 160)] {
            let (x, (bytes, weights)) = (some(rows * width, 1), matrix(outputs, width));
            let got = product(&x, rows, &bytes, outputs);
            for (i, got) in got.iter().enumerate() {
                let (x, w) = (&x[i / outputs * width..][..width], &weights[i % outputs * width..][..width]);
                let exact: f64 = x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let size: f64 = w.iter().map(|b| f64::from(b.abs())).sum();
                assert!(
                    (f64::from(*got) - exact).abs() <= size / 254.0,
                    "{rows} {outputs} {i}: {got} {exact}"
                );
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let blocks = 5;
        let x = some(ROWS * blocks * BLOCK, 3);
        let rows = QuantizedRows::new(View::new(&x, [1, ROWS, blocks * BLOCK]), 0);
        let (bytes, _) = matrix(LANES, blocks * BLOCK);
        let mut panels = Panels::default();
        panels.pack(blocks * BLOCK, LANES, |i| bytes.chunks(blocks * (BLOCK + 2)).nth(i));
        let (mut a, mut b) = ([[0.0; LANES]; ROWS], [[0.0; LANES]; ROWS]);
        let rows = std::array::from_fn(|i| rows.row(i));
        plain(&rows, &panels.quants, &panels.scales, &mut a);
        multiply_panel(&rows, &panels.quants, &panels.scales, &mut b);
        assert_eq!(a, b);
    }

    #[test]
    fn what_is_no_number_is_not_hidden_and_small_numbers_are_nothing() {
        let (bytes, _) = matrix(3, 64);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = some(2 * 64, 1);
            x[70] = wrong;
            let out = product(&x, 2, &bytes, 3);
            assert!(out[..3].iter().all(|x| x.is_finite()) && out[3..].iter().all(|x| x.is_nan()), "{out:?}");
        }
        assert!(product(&[1e-40; 64], 1, &bytes, 3).iter().all(|x| x.abs() < 1e-37));
        assert_eq!(product(&[0.0; 64], 1, &bytes, 3), [0.0; 3]);
    }
}
