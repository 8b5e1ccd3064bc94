//! From stored bytes to numbers and tensors.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{AllocationProperty, Bytes, DType, Device, FloatDType, Shape, Tensor, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{CHUNK, StoredTensor};
use crate::weights::dtype::float_bytes;

/// A matrix that was made ready on its device before its use. A clone of its tensor does not have it.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<Option<Box<Tensor<2>>>>);

impl Clone for Ready {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Ready {
    fn replace(&self, tensor: Option<Tensor<2>>) -> Option<Tensor<2>> {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *ready, tensor.map(Box::new)).map(|before| *before)
    }
}

impl StoredTensor {
    /// All numbers as f32, outermost dimension first; empty where only the header is known or the format is not read.
    pub fn to_f32(&self) -> Vec<f32> {
        if !self.is_read() || self.is_header_only() {
            return Vec::new();
        }
        self.expanded(|rows, _, out| self.expand_rows(rows, out))
    }

    /// The same in another format, by parts, without ever holding all of them in f32.
    fn rounded<T: Clone + Default + Send>(&self, round: impl Fn(&[f32], &mut [T]) + Sync) -> Vec<T> {
        self.expanded(|rows, numbers, out| {
            numbers.resize(out.len(), 0.0);
            self.expand_rows(rows, numbers);
            round(numbers, out);
        })
    }

    /// Rows by rows on all threads: `expand` is given their range, room to work in, and where they go.
    fn expanded<T: Clone + Default + Send>(
        &self,
        expand: impl Fn(Range<usize>, &mut Vec<f32>, &mut [T]) + Sync,
    ) -> Vec<T> {
        let width = self.width();
        let mut out = vec![T::default(); self.len()];
        if width == 0 || out.is_empty() {
            return out;
        }
        let rows = (CHUNK / width).max(1);
        out.par_chunks_mut(rows * width).enumerate().for_each_init(Vec::new, |room, (i, chunk)| {
            let first = i * rows;
            expand(first..first + chunk.len() / width, room, chunk);
        });
        out
    }

    /// Whether the file holds the numbers just as they are computed with, so that expanding copies nothing.
    pub fn is_native(&self, dtype: FloatDType) -> bool {
        !self.is_derived()
            && self.dtype().burn() == Some(DType::from(dtype))
            && self.bytes().is_none_or(|b| (b.as_ptr() as usize).is_multiple_of(float_bytes(dtype)))
    }

    /// The tensor on `device` in `dtype`; `D` must be the rank of [`StoredTensor::shape`].
    ///
    /// Where the file holds `dtype` itself, the CPU backend reads the mapped file in place.
    pub fn to_tensor<const D: usize>(&self, device: &Device, dtype: FloatDType) -> Tensor<D> {
        self.to_tensor_by(device, dtype, |_| ())
    }

    /// The same through memory from which a GPU copies by itself (pinned), where the backend has such.
    pub(crate) fn to_tensor_staged<const D: usize>(&self, device: &Device, dtype: FloatDType) -> Tensor<D> {
        self.to_tensor_by(device, dtype, |data| device.staging(std::iter::once(data)))
    }

    fn to_tensor_by<const D: usize>(
        &self,
        device: &Device,
        dtype: FloatDType,
        stage: impl FnOnce(&mut TensorData),
    ) -> Tensor<D> {
        if self.is_header_only() {
            let shape = Shape::from(self.shape.clone());
            return Tensor::<D>::zeros([1; D], (device, DType::from(dtype))).expand(shape);
        }
        let mut data = self.to_data(dtype);
        stage(&mut data);
        Tensor::from_data(data, (device, DType::from(dtype)))
    }

    fn to_data(&self, dtype: FloatDType) -> TensorData {
        let shape = Shape::from(self.shape.clone());
        let native = self.segments.first().filter(|_| self.is_native(dtype)).and_then(|s| s.bytes.as_ref());
        if let Some(window) = native {
            let bytes = Bytes::from_shared(window.shared().clone(), AllocationProperty::File);
            return TensorData::from_bytes(bytes, shape, DType::from(dtype));
        }
        let data = match dtype {
            FloatDType::F16 => TensorData::new(self.rounded(to_f16), shape),
            FloatDType::BF16 => TensorData::new(self.rounded(to_bf16), shape),
            _ => TensorData::new(self.to_f32(), shape).convert_dtype(DType::from(dtype)),
        };
        self.release();
        data
    }

    /// Keeps the matrix as it was made by [`to_tensor`](Self::to_tensor), for its next use.
    pub(crate) fn keep_ready(&self, matrix: Tensor<2>) {
        self.ready.replace(Some(matrix));
    }

    /// What was kept ready, once, if it is for this device and format.
    pub(crate) fn take_ready(&self, device: &Device, dtype: FloatDType) -> Option<Tensor<2>> {
        let ready = self.ready.replace(None)?;
        let fits = ready.device() == *device && ready.dtype() == DType::from(dtype) && !device.is_autodiff();
        fits.then_some(ready)
    }

    /// Lets go of what was kept ready.
    pub(crate) fn drop_ready(&self) {
        self.ready.replace(None);
    }
}

fn to_f16(numbers: &[f32], out: &mut [f16]) {
    out.convert_from_f32_slice(numbers);
}

fn to_bf16(numbers: &[f32], out: &mut [bf16]) {
    out.convert_from_f32_slice(numbers);
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn numbers_rounded_by_parts_are_those_rounded_at_once() {
        let numbers: Vec<f32> = (0..3 * CHUNK).map(|i| (i as f32 - 1e5) * 0.37).collect();
        let stored = StoredTensor::from_f32(vec![numbers.len() / 64, 64], &numbers).unwrap();
        for dtype in [FloatDType::F16, FloatDType::BF16] {
            let wanted = TensorData::new(numbers.clone(), stored.shape.clone()).convert_dtype(dtype.into());
            assert_eq!(stored.to_tensor::<2>(&Device::flex(), dtype).into_data(), wanted, "{dtype:?}");
        }
    }

    #[test]
    fn what_is_kept_ready_is_taken_once_and_only_for_its_device_and_format() {
        let (device, stored) = (Device::flex(), StoredTensor::from_f32(vec![1, 2], &[1.0, 2.0]).unwrap());
        let keep = || stored.keep_ready(Tensor::from_data([[1.0f32, 2.0]], &device));
        keep();
        assert!(stored.clone().take_ready(&device, FloatDType::F32).is_none());
        assert!(stored.take_ready(&device, FloatDType::F32).is_some());
        assert!(stored.take_ready(&device, FloatDType::F32).is_none());
        keep();
        assert!(stored.take_ready(&device, FloatDType::F16).is_none());
        keep();
        assert!(stored.take_ready(&device.clone().autodiff(), FloatDType::F32).is_none());
        keep();
        stored.drop_ready();
        assert!(stored.take_ready(&device, FloatDType::F32).is_none());
    }
}
