//! The same loops for training: functions with gradients written by hand, on the CPU in f32.
//!
//! burn's automatic differentiation takes such a function as one step. burn's own operations, which serve everywhere else,
//! compute the same in more passes over memory.

pub(crate) mod activation;
pub(crate) mod convolution;
pub(crate) mod group_norm;
pub(crate) mod norm;
pub(crate) mod rope;

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use super::cpu;

/// Whether functions of this module serve tensors like `x`: on the CPU, in f32, with gradients recorded.
pub(crate) fn is_recorded<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && Some(x.device()) == cpu() && x.is_autodiff()
}

/// A function of up to three tensors.
pub(super) trait Function: Debug + Send + Sync {
    /// The result's shape, from that of the first input: the same, for most.
    fn shape(&self, shape: &[usize]) -> Vec<usize> {
        shape.to_vec()
    }

    /// The result's numbers. `shape` is that of the first input.
    fn forward(&self, inputs: [&[f32]; 3], shape: &[usize]) -> Vec<f32>;

    /// From the result's gradient to that of each input. What is not `wanted` may be left empty.
    fn backward(
        &self,
        inputs: [&[f32]; 3],
        shape: &[usize],
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> [Vec<f32>; 3];
}

/// Applies `function` to inputs for which [`is_recorded`] is true of at least one.
fn record<const D: usize>(
    function: impl Function + 'static,
    x: Tensor<D>,
    second: Tensor<1>,
    third: Tensor<1>,
) -> Tensor<D> {
    let [x, second, third] = [x.into_dispatch(), second.into_dispatch(), third.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as Recorded>::recorded(x, second, third, Arc::new(function)))
}

/// In the place of an input that a function does not have.
fn nothing<const D: usize>(x: &Tensor<D>) -> Tensor<1> {
    Tensor::zeros([1], &x.device())
}

/// Backends that can run a [`Function`], and record it.
#[backend_extension(Flex, Autodiff)]
trait Recorded: Backend {
    /// The result of the function.
    fn recorded(
        x: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        function: Arc<dyn Function>,
    ) -> FloatTensor<Self>;
}

/// Backends that can run the way back.
trait Back: Backend {
    fn back(
        inputs: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        wanted: [bool; 3],
        function: &dyn Function,
    ) -> [FloatTensor<Self>; 3];
}

/// Runs `f` on the numbers of tensors in their order.
fn with_numbers<const N: usize, T>(tensors: [FloatTensor<Flex>; N], f: impl FnOnce([&[f32]; N]) -> T) -> T {
    let tensors = tensors.map(|tensor| tensor.to_contiguous());
    f(tensors.each_ref().map(|tensor| tensor.as_slice::<f32>().unwrap_or_default()))
}

fn flex(numbers: Vec<f32>, shape: &[usize]) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(numbers, shape.to_vec()))
}

impl Recorded for Flex {
    fn recorded(
        x: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        function: Arc<dyn Function>,
    ) -> FloatTensor<Self> {
        let shape = x.shape().to_vec();
        let result = with_numbers([x, second, third], |inputs| function.forward(inputs, &shape));
        flex(result, &function.shape(&shape))
    }
}

impl Back for Flex {
    fn back(
        inputs: [FloatTensor<Self>; 3],
        gradient: FloatTensor<Self>,
        wanted: [bool; 3],
        function: &dyn Function,
    ) -> [FloatTensor<Self>; 3] {
        let shapes = inputs.each_ref().map(|input| input.shape().to_vec());
        let [x, second, third] = inputs;
        let results = with_numbers([x, second, third, gradient], |[x, second, third, gradient]| {
            function.backward([x, second, third], &shapes[0], gradient, wanted)
        });
        let mut shapes = shapes.iter();
        results.map(|numbers| {
            let shape = shapes.next().filter(|shape| shape.iter().product::<usize>() == numbers.len());
            let length = [numbers.len()];
            flex(numbers, shape.map_or(&length[..], |shape| shape))
        })
    }
}

/// One application of a function in burn's record.
#[derive(Debug)]
struct Recording;

impl<B: Back> Backward<B, 3> for Recording {
    type State = ([FloatTensor<B>; 3], Arc<dyn Function>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (inputs, function) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = B::back(inputs, gradient, wanted, &*function);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, result);
            }
        }
    }
}

impl<B: Recorded + Back, C: CheckpointStrategy> Recorded for Autodiff<B, C> {
    fn recorded(
        x: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        function: Arc<dyn Function>,
    ) -> FloatTensor<Self> {
        let guards = [x.node(), second.node(), third.node()];
        let inputs = [x, second, third].map(|input| input.into_primitive());
        let [x, second, third] = inputs.clone();
        let result = B::recorded(x, second, third, function.clone());
        match Recording.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(ready) => ready.finish((inputs, function), result),
            OpsKind::UnTracked(ready) => ready.finish(result),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    /// A tensor of normal numbers that requires gradients.
    pub(in super::super) fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        let device = Device::flex().autodiff();
        Tensor::random(shape, Distribution::Normal(0.3, 1.0), &device).require_grad()
    }

    /// Largest difference of two tensors.
    pub(in super::super) fn difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        (a.inner() - b.inner()).abs().max().into_scalar::<f32>()
    }

    /// Checks that `ours` and `burns` have the same result, and the same gradient at each of `inputs`.
    pub(in super::super) fn agree<const D: usize>(
        x: &Tensor<D>,
        others: &[Tensor<1>],
        ours: impl Fn(Tensor<D>) -> Tensor<D>,
        burns: impl Fn(Tensor<D>) -> Tensor<D>,
    ) {
        let weights = random(x.dims()).detach();
        let (a, b) = (ours(x.clone()), burns(x.clone()));
        assert!(difference(a.clone(), b.clone()) < 1e-4, "result: {}", difference(a, b));
        let [a, b] = [a, b].map(|y| (y * weights.clone()).sum().backward());
        let of_x =
            difference(Tensor::from_inner(x.grad(&a).unwrap()), Tensor::from_inner(x.grad(&b).unwrap()));
        assert!(of_x < 1e-3, "gradient: {of_x}");
        for other in others {
            let [a, b] = [&a, &b].map(|gradients| Tensor::from_inner(other.grad(gradients).unwrap()));
            let largest = difference(a, b);
            assert!(largest < 2e-3, "gradient: {largest}");
        }
    }
}
