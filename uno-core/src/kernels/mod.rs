//! What stands between the matrix products, on the CPU in f32: loops over slices, compiled for the widest vectors of the
//! machine, in place where nothing else holds the numbers.
//!
//! Other devices, other number formats and automatic differentiation take burn's operations instead; each caller asks
//! [`is_ours`] first. All loops give the same bits for any number of threads.

/// Compiles a function for AVX-512, for AVX2 and for what every machine has, and picks one at run time. Loops in the body are
/// left to the compiler to vectorize; what they call has to be `#[inline(always)]`.
macro_rules! vectorized {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn v4($($arg: $ty),*) $(-> $out)? {
                    plain($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $ty),*) $(-> $out)? {
                    plain($($arg),*)
                }
                let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if fma
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                {
                    // SAFETY: the processor was asked for these instructions.
                    #[allow(unsafe_code)]
                    return unsafe { v4($($arg),*) };
                }
                if fma {
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    return unsafe { v3($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod convolution;
pub(crate) mod group_norm;
pub(crate) mod int8;
mod math;
pub(crate) mod norm;
#[cfg(feature = "flex")]
pub(crate) mod recorded;
pub(crate) mod rope;
pub(crate) mod view;

use burn::tensor::{DType, Device, Tensor, TensorData};

pub(crate) use math::dot;
pub(crate) use view::{View, ViewMut};

/// Whether tensors like `x` are computed here: on the CPU, in f32, without gradients.
pub(crate) fn is_ours<const D: usize>(x: &Tensor<D>) -> bool {
    // Devices compare equal whether or not they record gradients.
    x.dtype() == DType::F32 && Some(x.device()) == cpu() && !x.is_autodiff()
}

/// burn's CPU, where it is compiled in.
pub(crate) fn cpu() -> Option<Device> {
    #[cfg(feature = "flex")]
    return Some(Device::flex());
    #[cfg(not(feature = "flex"))]
    None
}

/// The f32 numbers of `x`, outermost dimension first; copied only if another tensor shares them or they lie in another order.
pub(crate) fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    // Never empty for what `is_ours` says yes to.
    x.into_data().try_into_vec::<f32>().unwrap_or_default()
}

/// The way back from [`numbers`], for what [`is_ours`] said yes to.
pub(crate) fn tensor<const D: usize>(numbers: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers, shape), &cpu().unwrap_or_default())
}
