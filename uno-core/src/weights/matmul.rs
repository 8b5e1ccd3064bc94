//! Products with matrices as they are stored: a few output columns are expanded, used and forgotten, on each thread.
//!
//! A whole expanded matrix of FLUX has up to 264 MB, and writing it to memory only to read it back once would be wasted; a
//! tile of it stays in the cache. On the CPU in f32 the product of a tile is as fast as that of the whole.

#[cfg(feature = "flex")]
mod cpu {
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use gemm::Parallelism;
    use rayon::prelude::*;

    use crate::weights::StoredTensor;

    /// Output columns that are expanded at a time. Each column of the result depends on its own weights only, but the order
    /// in which a product is added up may depend on this number: it is fixed, so that pictures do not change with memory.
    const TILE: usize = 128;

    /// Whether tensors like `x` are computed here: on the CPU, in f32, without gradients.
    fn is_ours<const D: usize>(x: &Tensor<D>) -> bool {
        x.dtype() == DType::F32 && x.device() == Device::flex()
    }

    /// A pointer that threads share, each to write columns of its own.
    struct Columns(*mut f32);

    impl Columns {
        fn at(&self, column: usize) -> *mut f32 {
            self.0.wrapping_add(column)
        }
    }

    // SAFETY: every thread writes columns that no other thread touches.
    #[allow(unsafe_code)]
    unsafe impl Sync for Columns {}

    /// `out[rows, first..] = x[rows, in] W[out, in]^T`, or added to it; `out` is `width` numbers wide.
    fn multiply(
        x: &[f32],
        weight: &StoredTensor,
        out: &mut [f32],
        width: usize,
        first: usize,
        accumulate: bool,
    ) {
        let &[outputs, input] = weight.shape() else { return };
        if input == 0 || width == 0 || outputs == 0 || first + outputs > width {
            return;
        }
        let rows = x.len() / input;
        if x.len() != rows * input || out.len() != rows * width {
            return;
        }
        let native = weight.native_f32();
        let columns = Columns(out.as_mut_ptr());
        let tile = |scratch: &mut Vec<f32>, start: usize| {
            let count = TILE.min(outputs - start);
            let numbers = match native {
                Some(all) => &all[start * input..(start + count) * input],
                None => {
                    scratch.resize(TILE * input, 0.0);
                    let scratch = &mut scratch[..count * input];
                    weight.expand_rows(start..start + count, scratch);
                    scratch
                }
            };
            // SAFETY: `x` has rows * input numbers, `numbers` count * input; the columns first + start .. + count of `out`
            // lie within its rows (checked above) and are this tile's alone.
            #[allow(unsafe_code)]
            unsafe {
                gemm::gemm(
                    rows,
                    count,
                    input,
                    columns.at(first + start),
                    1,
                    width as isize,
                    accumulate,
                    x.as_ptr(),
                    1,
                    input as isize,
                    numbers.as_ptr(),
                    input as isize,
                    1,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        };
        (0..outputs.div_ceil(TILE))
            .into_par_iter()
            .for_each_init(Vec::new, |scratch, i| tile(scratch, i * TILE));
        weight.release();
    }

    /// Runs `f` on the f32 numbers of `x`, copied only if another tensor shares them.
    fn numbers(x: Tensor<3>) -> Option<Vec<f32>> {
        x.into_data().try_into_vec::<f32>().ok()
    }

    /// Whether [`stored_matmul`] computes this product; else the matrix has to be expanded.
    pub(crate) fn multiplies_stored(x: &Tensor<3>, weight: &StoredTensor) -> bool {
        is_ours(x) && weight.shape().get(1) == Some(&x.dims()[2])
    }

    /// `[batch, tokens, in]` times a stored `[out, in]` -> `[batch, tokens, out]`.
    pub(crate) fn stored_matmul(x: Tensor<3>, weight: &StoredTensor) -> Tensor<3> {
        let outputs = weight.shape().first().copied().unwrap_or(0);
        let ([batch, tokens, input], device) = (x.dims(), x.device());
        let mut out = vec![0.0f32; batch * tokens * outputs];
        if let Some(x) = numbers(x) {
            // Each sample by itself: the kernel may add in another order where there are more rows.
            let (from, to) = ((tokens * input).max(1), (tokens * outputs).max(1));
            for (x, out) in x.chunks(from).zip(out.chunks_mut(to)) {
                multiply(x, weight, out, outputs, 0, false);
            }
        }
        Tensor::from_data(TensorData::new(out, [batch, tokens, outputs]), &device)
    }

    /// `y[.., first..] += scale * x W^T`; for what [`multiplies_stored`] says yes to.
    pub(crate) fn stored_matmul_add(
        y: Tensor<3>,
        x: Tensor<3>,
        weight: &StoredTensor,
        first: usize,
        scale: f64,
    ) -> Tensor<3> {
        let ([batch, tokens, width], input, device) = (y.dims(), x.dims()[2], x.device());
        let x = if scale == 1.0 { x } else { x.mul_scalar(scale) };
        let mut out = numbers(y).unwrap_or_default();
        let x = numbers(x).unwrap_or_default();
        let (from, to) = ((tokens * input).max(1), (tokens * width).max(1));
        for (x, out) in x.chunks(from).zip(out.chunks_mut(to)) {
            multiply(x, weight, out, width, first, true);
        }
        Tensor::from_data(TensorData::new(out, [batch, tokens, width]), &device)
    }
}

#[cfg(feature = "flex")]
pub(crate) use cpu::{multiplies_stored, stored_matmul, stored_matmul_add};

/// Without the CPU backend every matrix is expanded on its device.
#[cfg(not(feature = "flex"))]
mod elsewhere {
    use burn::tensor::Tensor;

    use crate::weights::StoredTensor;

    pub(crate) fn multiplies_stored(_: &Tensor<3>, _: &StoredTensor) -> bool {
        false
    }

    pub(crate) fn stored_matmul(x: Tensor<3>, _: &StoredTensor) -> Tensor<3> {
        x
    }

    pub(crate) fn stored_matmul_add(
        y: Tensor<3>,
        _: Tensor<3>,
        _: &StoredTensor,
        _: usize,
        _: f64,
    ) -> Tensor<3> {
        y
    }
}

#[cfg(not(feature = "flex"))]
pub(crate) use elsewhere::{multiplies_stored, stored_matmul, stored_matmul_add};
