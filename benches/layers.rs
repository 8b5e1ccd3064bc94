//! cargo bench --bench layers -- --layer gelu
//!
//! Single operations at FLUX's sizes, uno-core's own. The counterparts are `peers/layers.py`.

mod common;

use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use clap::{Parser, ValueEnum};
use common::{Timing, tensor};
use uno_core::nn::Linear;
use uno_core::ops;
use uno_core::weights::{Checkpoint, LoadOptions, load};
use uno_core::{device, tensor_to_vec};

#[derive(Clone, Copy, ValueEnum)]
enum Layer {
    /// `[1, rows, in]` times `linear.weight` `[out, in]`, and a bias
    Linear,
    /// `[1, heads, rows, width]`
    Attention,
    /// Tanh GELU of `[1, rows, width]`
    Gelu,
    /// Layer norm of `[1, rows, width]`, times a scale, plus a shift
    Modulate,
    /// Group norm of 32 groups, then SiLU, of `[1, channels, rows, width]`
    GroupNormSilu,
}

/// Times an operation.
#[derive(Parser)]
struct Arguments {
    /// Which
    #[arg(long)]
    layer: Layer,
    /// A file with `linear.weight` and `linear.bias`
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Rows or tokens
    #[arg(long, default_value_t = 1024)]
    rows: usize,
    /// Width of a row
    #[arg(long, default_value_t = 3072)]
    width: usize,
    /// Heads or channels
    #[arg(long, default_value_t = 24)]
    heads: usize,
    #[command(flatten)]
    timing: Timing,
}

/// Of burn's operations.
fn group_norm_silu(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>) -> Tensor<4> {
    let [batch, channels, rows, width] = x.dims();
    let (groups, numbers) = (32, channels / 32 * rows * width);
    let grouped = x.reshape([batch, groups, numbers]);
    let mean = grouped.clone().mean_dim(2);
    let variance = (grouped.clone() - mean.clone()).square().mean_dim(2);
    let normed =
        ((grouped - mean) / variance.add_scalar(1e-6).sqrt()).reshape([batch, channels, rows, width]);
    let affine = |p: Tensor<1>| p.reshape([1, channels, 1, 1]);
    silu(normed * affine(weight) + affine(bias))
}

fn main() -> Result<()> {
    let Arguments { layer, checkpoint, rows, width, heads, timing } = Arguments::parse();
    let device = device::open("cpu")?;
    let x = || tensor::<3>(1, [1, rows, width], &device);
    match layer {
        Layer::Linear => {
            let checkpoint = Checkpoint::open(checkpoint.context("--checkpoint is needed")?)?;
            let shape = checkpoint.shape("linear.weight").context("linear.weight is missing")?;
            let shape = [*shape.last().context("no matrix")?, *shape.first().context("no matrix")?];
            let build = |w: uno_core::weights::Weights<'_>| Ok(w.at("linear", |w| Linear::load(w, shape)));
            let linear = load(&checkpoint, "a linear layer", &LoadOptions::new(&device), |_| false, build)?;
            let x = tensor::<3>(1, [1, rows, shape[0]], &device);
            timing.run("linear", || Ok(tensor_to_vec(linear.forward(x.clone()))?))
        }
        Layer::Attention => {
            // The peer's `[1, heads, rows, width]`, as uno-core has it.
            let [q, k, v] = [1, 2, 3].map(|seed| {
                let x = tensor::<4>(seed, [1, heads, rows, width], &device);
                let joined = x.swap_dims(1, 2).reshape([1, rows, heads * width]).into_data();
                Tensor::<3>::from_data(joined, &device)
            });
            timing.run("attention", || {
                Ok(tensor_to_vec(ops::attention(q.clone(), k.clone(), v.clone(), heads))?)
            })
        }
        Layer::Gelu => {
            let x = x();
            timing.run("gelu", || Ok(tensor_to_vec(ops::gelu_tanh(x.clone()))?))
        }
        Layer::Modulate => {
            let (x, scale, shift) =
                (x(), tensor(2, [1, 1, width], &device), tensor(3, [1, 1, width], &device));
            timing.run("modulate", || {
                Ok(tensor_to_vec(ops::modulate(x.clone(), shift.clone(), scale.clone(), 1e-6))?)
            })
        }
        Layer::GroupNormSilu => {
            let x = tensor::<4>(1, [1, heads, rows, width], &device);
            let (weight, bias) = (tensor(2, [heads], &device), tensor(3, [heads], &device));
            timing.run("group norm and silu", || {
                Ok(tensor_to_vec(group_norm_silu(x.clone(), weight.clone(), bias.clone()))?)
            })
        }
    }
}
