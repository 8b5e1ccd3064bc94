//! Layers that several models share: linear with weights as stored and LoRA branches, norms, activations.

mod ahead;
mod attention;

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData, module};

pub(crate) use ahead::{Prefetch, reading_ahead};
pub(crate) use attention::attention;

use crate::error::{Error, Result};
use crate::kernels::{self, View, ViewMut, is_ours, numbers, tensor};
use crate::weights::{LoadOptions, Start, Storage, StoredTensor, Weights, multiply};

/// Added to variances and mean squares in FLUX's norms.
pub(crate) const EPS: f64 = 1e-6;

/// The weight matrix of a linear layer.
#[derive(Module, Debug)]
pub enum Matrix {
    /// `[in, out]` in the compute format.
    Dense(Param<Tensor<2>>),
    /// `[out, in]` as the file holds it, expanded at each use.
    Stored(StoredTensor),
}

impl Matrix {
    /// Takes the tensor `name` of `[out, in]`.
    pub(crate) fn load(w: Weights<'_>, name: &str, [input, output]: [usize; 2]) -> Self {
        let stored = w.waiting(name, &[output, input]);
        match w.storage() {
            Storage::Expanded if !stored.is_streamed() => {
                Self::Dense(Param::from_tensor(stored.to_tensor::<2>(w.device(), w.dtype()).transpose()))
            }
            _ => Self::Stored(stored),
        }
    }

    /// A matrix `[out, in]` that was found to fit, to wait as `options` say.
    pub(crate) fn waiting(stored: StoredTensor, options: &LoadOptions) -> Self {
        match options.storage {
            _ if options.resident_bytes != u64::MAX => Self::Stored(stored.streamed()),
            Storage::AsStored => Self::Stored(stored),
            Storage::Expanded => Self::Dense(Param::from_tensor(
                stored.to_tensor::<2>(&options.device, options.dtype).transpose(),
            )),
        }
    }

    /// The matrix `[in, out]` on `device` in `dtype`.
    pub(crate) fn expand(&self, device: &Device, dtype: FloatDType) -> Tensor<2> {
        match self {
            // Parameters that train stay f32, whatever is computed in.
            Self::Dense(weight) => weight.val().cast(dtype),
            Self::Stored(stored) => {
                let made_ready = stored.take_ready(device, dtype);
                made_ready.unwrap_or_else(|| stored.to_tensor::<2>(device, dtype)).transpose()
            }
        }
    }

    /// `[batch, tokens, in]` -> `[batch, tokens, out]`.
    pub(crate) fn multiply(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.expand(&x.device(), float_dtype(&x));
        let product = times(x, weight);
        if let Self::Stored(stored) = self {
            stored.release();
        }
        product
    }

    /// `y[.., first..] += scale * x W^T`, for `x` `[batch, tokens, in]`.
    fn multiply_add(&self, y: Tensor<3>, x: Tensor<3>, first: usize, scale: f64) -> Tensor<3> {
        let added = self.multiply(x).mul_scalar(scale);
        let [batch, tokens, count] = added.dims();
        if count == y.dims()[2] {
            return y + added;
        }
        let place = [0..batch, 0..tokens, first..first + count];
        let sum = y.clone().slice(place.clone()) + added;
        y.slice_assign(place, sum)
    }

    /// Lets products be computed in 8-bit integers, or says what the matrix is stored in.
    pub(crate) fn multiply_in_int8(&mut self) -> std::result::Result<(), String> {
        match self {
            Self::Dense(weight) => Err(format!("{:?}", weight.val().dtype())),
            Self::Stored(stored) => {
                let int8 = stored.clone().int8();
                *stored = int8.ok_or_else(|| stored.dtype().to_string())?;
                Ok(())
            }
        }
    }

    /// Whether products are computed in 8-bit integers.
    fn is_int8(&self) -> bool {
        self.as_stored().is_some_and(StoredTensor::is_int8)
    }

    fn as_stored(&self) -> Option<&StoredTensor> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::Dense(_) => None,
        }
    }

    /// `[in, out]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.lazy_shape().dims(),
            Self::Stored(stored) => match *stored.shape() {
                [output, input] => [input, output],
                _ => [0, 0],
            },
        }
    }
}

/// A low-rank addition to a linear layer: `scale * up(down(x))`, on some or all of its outputs (LoRA, arXiv 2106.09685).
#[derive(Module, Debug)]
pub struct LoraBranch {
    /// `[in, rank]`.
    pub down: Matrix,
    /// `[rank, outputs]`.
    pub up: Matrix,
    /// Factor on the addition.
    pub scale: f64,
    /// First output that the branch adds to.
    pub first_output: usize,
}

impl LoraBranch {
    /// Adds the branch for `x` to the layer's output `y`.
    fn add_to(&self, y: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        self.up.multiply_add(y, self.down.multiply(x), self.first_output, self.scale)
    }

    /// The same in place, for some of the layer's outputs, with weights as stored.
    fn apply(&self, x: View<'_>, outputs: &Range<usize>, y: ViewMut<'_>) {
        let (Some(down), Some(up)) = (self.down.as_stored(), self.up.as_stored()) else { return };
        let (&[rank, _], &[count, _]) = (down.shape(), up.shape()) else { return };
        let first = self.first_output.max(outputs.start);
        let end = (self.first_output + count).min(outputs.end);
        if first >= end {
            return;
        }
        let shape = [x.shape().batch, x.shape().tokens, rank];
        let mut middle = vec![0.0; shape.iter().product()];
        multiply(x, down, 0..rank, Start::Zero, 1.0, ViewMut::new(&mut middle, shape));
        let rows = first - self.first_output..end - self.first_output;
        let y = y.columns(first - outputs.start..end - outputs.start);
        multiply(View::new(&middle, shape), up, rows, Start::Result, self.scale as f32, y);
    }
}

/// `y = x W^T + b`, plus LoRA branches.
#[derive(Module, Debug)]
pub struct Linear {
    /// Weight matrix; `weight` `[out, in]` in files.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Branches, applied in order.
    pub lora: Vec<LoraBranch>,
}

impl Linear {
    /// Takes `weight` `[out, in]` and `bias` `[out]`.
    pub fn load(w: Weights<'_>, shape: [usize; 2]) -> Self {
        Self { bias: Some(w.param("bias", [shape[1]])), ..Self::load_without_bias(w, shape) }
    }

    /// Takes `weight` `[out, in]`; there is no bias.
    pub fn load_without_bias(w: Weights<'_>, shape: [usize; 2]) -> Self {
        Self { weight: Matrix::load(w, "weight", shape), bias: None, lora: Vec::new() }
    }

    /// `[in, out]`.
    pub fn shape(&self) -> [usize; 2] {
        self.weight.shape()
    }

    /// `[batch, tokens, in]` -> `[batch, tokens, out]`.
    ///
    /// Each sample of a batch is multiplied by itself, so that it comes out the same, to the last bit, as it does alone.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let ([batch, tokens, input], [wanted, outputs]) = (x.dims(), self.shape());
        if is_ours(&x) && self.is_as_stored() && input == wanted {
            let x = numbers(x);
            let mut y = vec![0.0; batch * tokens * outputs];
            let shape = [batch, tokens, outputs];
            self.apply(View::new(&x, [batch, tokens, input]), 0..outputs, ViewMut::new(&mut y, shape));
            return tensor(y, shape);
        }
        let branches = (!self.lora.is_empty()).then(|| x.clone());
        let mut y = match &self.weight {
            Matrix::Dense(weight) if weight.val().is_autodiff() => all_rows_times(x, weight.val()),
            weight => weight.multiply(x),
        };
        if let Some(bias) = &self.bias {
            y = y + bias.val().unsqueeze();
        }
        if let Some(x) = branches {
            for branch in &self.lora {
                y = branch.add_to(y, x.clone());
            }
        }
        y
    }

    /// Whether all weights are as stored, so that [`apply`](Self::apply) can multiply with them.
    pub(crate) fn is_as_stored(&self) -> bool {
        let stored = |matrix: &Matrix| matches!(matrix, Matrix::Stored(_));
        stored(&self.weight) && self.lora.iter().all(|b| stored(&b.down) && stored(&b.up))
    }

    /// Some of the outputs of [`forward`](Self::forward) into `y`, on the CPU in f32: `x` `[batch, tokens, in]`, `y` `[batch,
    /// tokens, outputs]`.
    pub(crate) fn apply(&self, x: View<'_>, outputs: Range<usize>, mut y: ViewMut<'_>) {
        let Some(weight) = self.weight.as_stored() else { return };
        let bias = self.bias.as_ref().map(|bias| numbers(bias.val()));
        let start = match bias.as_ref().and_then(|bias| bias.get(outputs.clone())) {
            Some(bias) => Start::Bias(bias),
            None => Start::Zero,
        };
        multiply(x, weight, outputs.clone(), start, 1.0, y.lend());
        for branch in &self.lora {
            branch.apply(x, &outputs, y.lend());
        }
    }

    /// The weights of the layer that are not where they are computed with.
    fn stored(&self) -> impl Iterator<Item = &StoredTensor> {
        let branches = self.lora.iter().flat_map(|branch| [&branch.down, &branch.up]);
        std::iter::once(&self.weight).chain(branches).filter_map(Matrix::as_stored)
    }

    /// `[batch, in]` -> `[batch, out]`.
    pub fn forward_vec(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward(x.unsqueeze_dim(1)).squeeze_dim(1)
    }

    /// Adds the branches to the weight once and for all; the layer then holds its matrix in `dtype`.
    ///
    /// # Errors
    ///
    /// A layer that multiplies in 8-bit integers: merged, it could not.
    pub fn merge_lora(&mut self, device: &Device, dtype: FloatDType) -> Result<()> {
        if self.lora.is_empty() {
            return Ok(());
        }
        if self.weight.is_int8() {
            let wanted = "LoRAs beside the weights where products are in 8-bit integers (int8)";
            return Err(Error::invalid("merged LoRAs", "int8", wanted));
        }
        // The sum is formed in f32, whatever is computed in: up @ down is small beside the weight.
        let mut weight = self.weight.expand(device, dtype).cast(FloatDType::F32);
        for branch in self.lora.drain(..) {
            let down = branch.down.expand(device, FloatDType::F32).cast(FloatDType::F32);
            let up = branch.up.expand(device, FloatDType::F32).cast(FloatDType::F32);
            let delta = down.matmul(up).mul_scalar(branch.scale);
            let [input, count] = delta.dims();
            let ranges = [0..input, branch.first_output..branch.first_output + count];
            let sum = weight.clone().slice(ranges.clone()) + delta;
            weight = weight.slice_assign(ranges, sum);
        }
        if is_ours(&weight) && dtype == FloatDType::F32 {
            let [input, output] = weight.dims();
            let merged = StoredTensor::from_numbers(vec![output, input], numbers(weight.transpose()));
            self.weight = Matrix::Stored(merged);
            return Ok(());
        }
        self.weight = Matrix::Dense(Param::from_tensor(weight.cast(dtype)));
        Ok(())
    }
}

/// `[batch, tokens, in]` times `[in, out]`, each sample by itself.
fn times(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [batch, tokens, _] = x.dims();
    let weight: Tensor<3> = weight.unsqueeze();
    // burn folds a batch of single rows into one matrix, whose kernel adds in another order than the one for a single row.
    if batch > 1 && tokens == 1 {
        let rows = (0..batch).map(|i| x.clone().narrow(0, i, 1).matmul(weight.clone()));
        return Tensor::cat(rows.collect(), 0);
    }
    x.matmul(weight)
}

/// The same for a weight that trains: its gradient is a sum over all rows, so that one product is formed for all samples, and not
/// one for each whose sum would be formed after.
fn all_rows_times(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let ([batch, tokens, input], [_, output]) = (x.dims(), weight.dims());
    x.reshape([batch * tokens, input]).matmul(weight).reshape([batch, tokens, output])
}

/// The float format of a tensor.
pub(crate) fn float_dtype<const D: usize>(x: &Tensor<D>) -> FloatDType {
    match x.dtype() {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

/// Runs `f` in f32 and casts its result back, as PyTorch does inside its norms.
pub(crate) fn in_f32<const D: usize>(x: Tensor<D>, f: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    match float_dtype(&x) {
        FloatDType::F32 => f(x),
        dtype => f(x.cast(FloatDType::F32)).cast(dtype),
    }
}

/// Root mean square norm over the last dimension, computed in f32: `x / sqrt(mean(x^2) + eps) * scale`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[features]`.
    pub scale: Param<Tensor<1>>,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// Takes the tensor `name` of `[features]`.
    pub fn load(w: Weights<'_>, name: &str, features: usize, eps: f64) -> Self {
        Self { scale: w.param(name, [features]), eps }
    }

    /// `[..., features]` -> the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if is_ours(&x) && is_ours(&self.scale.val()) {
            return kernels::norm::rms_norm(x, self.scale.val(), self.eps);
        }
        #[cfg(feature = "flex")]
        if kernels::recorded::is_recorded(&x) {
            return kernels::recorded::norm::rms_norm(x, self.scale.val(), self.eps);
        }
        let normed = in_f32(x, |x| {
            let mean_square = x.clone().square().mean_dim(D - 1);
            x.div(mean_square.add_scalar(self.eps).sqrt())
        });
        normed * self.scale.val().unsqueeze()
    }
}

/// Layer norm over the last dimension with weight and bias.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[features]`.
    pub weight: Param<Tensor<1>>,
    /// `[features]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Takes `weight` and `bias` of `[features]`.
    pub fn load(w: Weights<'_>, features: usize, eps: f64) -> Self {
        Self { weight: w.param("weight", [features]), bias: w.param("bias", [features]), eps }
    }

    /// `[batch, tokens, features]` -> the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (weight, bias) = (self.weight.val().cast(FloatDType::F32), self.bias.val().cast(FloatDType::F32));
        if is_ours(&x) && is_ours(&weight) && is_ours(&bias) {
            return kernels::norm::layer_norm(x, weight, bias, self.eps);
        }
        in_f32(x, |x| module::layer_norm(x, weight, Some(bias), self.eps))
    }
}

/// Layer norm over the last dimension without weight and bias. `[batch, tokens, features]` -> the same.
pub(crate) fn layer_norm_plain(x: Tensor<3>, eps: f64) -> Tensor<3> {
    let ones = Tensor::<1>::ones([x.dims()[2]], (&x.device(), DType::F32));
    in_f32(x, |x| module::layer_norm(x, ones, None, eps))
}

/// `[batch, tokens, heads * d]` -> `[batch, heads, tokens, d]`.
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// `[batch, heads, tokens, d]` -> `[batch, tokens, heads * d]`.
pub(crate) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, tokens, d] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * d])
}

/// A table of one vector per token.
#[derive(Module, Debug)]
pub enum Embedding {
    /// `[tokens, features]` in the compute format.
    Dense(Param<Tensor<2>>),
    /// `[tokens, features]` as the file holds it; only the rows that are asked for are read.
    Stored(StoredTensor),
}

impl Embedding {
    /// Takes the tensor `name` of `[tokens, features]`.
    pub(crate) fn load(w: Weights<'_>, name: &str, shape: [usize; 2]) -> Self {
        match w.storage() {
            Storage::AsStored => Self::Stored(w.waiting(name, &shape)),
            Storage::Expanded => Self::Dense(w.param(name, shape)),
        }
    }

    /// Token ids `[tokens]` -> `[1, tokens, features]`.
    ///
    /// # Errors
    ///
    /// No ids, or an id beyond the table.
    pub(crate) fn forward(&self, ids: &[u32], device: &Device, dtype: FloatDType) -> Result<Tensor<3>> {
        let tokens = match self {
            Self::Dense(table) => table.lazy_shape().dims::<2>()[0],
            Self::Stored(table) => table.shape().first().copied().unwrap_or(0),
        };
        if let Some(id) = ids.iter().find(|id| **id as usize >= tokens) {
            return Err(Error::invalid(
                "token id",
                id,
                format!("less than {tokens}; the tokenizer belongs to another model"),
            ));
        }
        if ids.is_empty() {
            return Err(Error::invalid("token ids", 0, "at least one"));
        }
        let rows = match self {
            Self::Dense(table) => {
                let count = ids.len();
                let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                table.val().select(0, Tensor::from_data(TensorData::new(ids, [count]), device))
            }
            Self::Stored(table) => table.rows(ids).to_tensor(device, dtype),
        };
        Ok(rows.unsqueeze())
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn a_sample_is_multiplied_alike_alone_and_in_a_batch() {
        let device = Device::flex();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let weight = random([1, 768, 512]).squeeze_dim(0);
        for tokens in [1, 2, 33] {
            let (a, b) = (random([1, tokens, 768]), random([1, tokens, 768]));
            let both = times(Tensor::cat(vec![a.clone(), b], 0), weight.clone());
            let alone = times(a, weight.clone()).into_data();
            assert_eq!(alone, both.narrow(0, 0, 1).into_data(), "{tokens} tokens");
        }
    }
}
