//! Shifts, scales and gates of all blocks, for many steps at once.
//!
//! They depend on time, guidance and pooled text only, which are known before the first step, and their matrices are more than
//! a quarter of FLUX: read once for some dozens of steps, they need not stay in memory.

use burn::tensor::Tensor;

use super::Flux;
use super::model::timestep_embedding;
use crate::kernels::activation::silu;
use crate::nn::{Linear, Prefetch, reading_ahead};

/// Steps that are computed together. It is fixed, since the order in which a product is added up may depend on it.
const STEPS: usize = 32;

/// Modulations of a generation.
pub(super) struct Modulations<'a> {
    flux: &'a Flux,
    /// What was made of the pooled text, `[batch, 1, hidden]`.
    text: Tensor<3>,
    /// `[steps, batch]`.
    times: Vec<f32>,
    guidance: Vec<f32>,
    computed: Option<Computed>,
}

/// `[batch, steps, parts * hidden]` of each block, from step `first` on.
struct Computed {
    first: usize,
    steps: usize,
    double: Vec<[Tensor<3>; 2]>,
    single: Vec<Tensor<3>>,
    last: Tensor<3>,
}

/// The modulations of one step.
pub(super) struct StepModulation {
    /// Of image and text in each block with two streams, `[batch, 1, 6 * hidden]`.
    pub(super) double: Vec<[Tensor<3>; 2]>,
    /// Of each block with one stream, `[batch, 1, 3 * hidden]`.
    pub(super) single: Vec<Tensor<3>>,
    /// Shift and scale before the last layer, `[batch, 1, hidden]`.
    pub(super) last: [Tensor<3>; 2],
}

impl<'a> Modulations<'a> {
    /// `pooled` `[batch, features]`, `times` `[steps, batch]`, `guidance` `[batch]`.
    pub(super) fn new(flux: &'a Flux, pooled: Tensor<2>, times: Vec<f32>, guidance: &[f32]) -> Self {
        let pooled = pooled.to_device(&flux.device).cast(flux.dtype).unsqueeze_dim(1);
        let text = flux.vector_in.forward(pooled);
        Self { flux, text, times, guidance: guidance.to_vec(), computed: None }
    }

    /// Those of one step.
    pub(super) fn at(&mut self, step: usize) -> StepModulation {
        let is_there = |c: &Computed| (c.first..c.first + c.steps).contains(&step);
        let computed = match self.computed.take().filter(is_there) {
            Some(computed) => computed,
            None => self.compute(step / STEPS * STEPS),
        };
        let of = |x: &Tensor<3>| x.clone().narrow(1, step - computed.first, 1);
        let last = of(&computed.last);
        let hidden = last.dims()[2] / 2;
        let modulation = StepModulation {
            double: computed.double.iter().map(|[img, txt]| [of(img), of(txt)]).collect(),
            single: computed.single.iter().map(of).collect(),
            last: [last.clone().narrow(2, 0, hidden), last.narrow(2, hidden, hidden)],
        };
        self.computed = Some(computed);
        modulation
    }

    fn compute(&self, first: usize) -> Computed {
        let flux = self.flux;
        let batch = self.guidance.len();
        let steps = STEPS.min((self.times.len() / batch.max(1)).saturating_sub(first));
        let vec = silu(self.conditioning_vectors(first, steps));
        let double = flux.double_blocks.iter().flat_map(|b| [&b.img.modulation, &b.txt.modulation]);
        let single = flux.single_blocks.iter().map(|b| &b.modulation);
        let linears: Vec<&Linear> =
            double.chain(single).chain([&flux.final_layer.ada_ln_modulation]).collect();
        let following = |i: usize| linears.get(i + 1).map(|linear| *linear as &dyn Prefetch);
        let of = |(i, linear): (usize, &&Linear)| reading_ahead(following(i), || linear.forward(vec.clone()));
        let outputs: Vec<Tensor<3>> = linears.iter().enumerate().map(of).collect();
        let (double, rest) = outputs.split_at(2 * flux.double_blocks.len());
        let (single, last) = rest.split_at(flux.single_blocks.len());
        Computed {
            first,
            steps,
            double: double.chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect(),
            single: single.to_vec(),
            last: last[0].clone(),
        }
    }

    /// The conditioning vectors `[batch, steps, hidden]` of some steps.
    fn conditioning_vectors(&self, first: usize, steps: usize) -> Tensor<3> {
        let flux = self.flux;
        let batch = self.guidance.len();
        let embed = |values: &[f32]| {
            let rows = values.len() / batch.max(1);
            let embedded = timestep_embedding(values, flux.config.time_dim, &flux.device, flux.dtype);
            embedded.reshape([batch, rows, flux.config.time_dim])
        };
        let of_sample = |sample| (first..first + steps).map(move |step| (step, sample));
        let times: Vec<f32> =
            (0..batch).flat_map(of_sample).map(|(step, sample)| self.times[step * batch + sample]).collect();
        let mut sum = flux.time_in.forward(embed(&times));
        if let Some(guidance_in) = &flux.guidance_in {
            sum = sum + guidance_in.forward(embed(&self.guidance));
        }
        sum + self.text.clone()
    }
}
