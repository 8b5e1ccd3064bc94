//! One tensor as it lies in a file: expanded to numbers only when asked.

use std::fmt;

use burn::empty;
use burn::tensor::{Bytes, DType, Device, FloatDType, Shape, Tensor, TensorData};
use rayon::prelude::*;

use super::dtype::{StorageDtype, expand_to_f32, f32_to_e4m3, float_bytes};

/// A tensor in its stored form. Cloning shares the bytes.
///
/// The bytes are usually a window of a memory-mapped file, so that an unused tensor takes no memory.
#[derive(Clone)]
pub struct StoredTensor {
    dtype: StorageDtype,
    shape: Vec<usize>,
    /// `None` where only the header is known; the tensor then reads as zeros.
    bytes: Option<bytes::Bytes>,
}

impl StoredTensor {
    /// A tensor over `bytes`; `None` if their number is not what `dtype` and `shape` need.
    pub fn new(dtype: StorageDtype, shape: Vec<usize>, bytes: bytes::Bytes) -> Option<Self> {
        let numbers = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        match dtype.bytes() {
            Some(size) if numbers.checked_mul(size)? != bytes.len() => None,
            _ => Some(Self { dtype, shape, bytes: Some(bytes) }),
        }
    }

    /// A tensor of which only format and shape are known; it reads as zeros that take no memory.
    pub fn header_only(dtype: StorageDtype, shape: Vec<usize>) -> Self {
        Self { dtype, shape, bytes: None }
    }

    /// Format in the file.
    pub fn dtype(&self) -> StorageDtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes in the file.
    pub fn byte_len(&self) -> usize {
        self.bytes.as_ref().map_or(0, bytes::Bytes::len)
    }

    /// All numbers as f32, outermost dimension first; empty where only the header is known or the format is not read.
    pub fn to_f32(&self) -> Vec<f32> {
        self.bytes.as_ref().and_then(|bytes| expand_to_f32(self.dtype, bytes)).unwrap_or_default()
    }

    /// The same tensor with every number cast to e4m3 without a scale, held in memory.
    pub fn to_e4m3(&self) -> Self {
        let bytes = self.bytes.as_ref().map(|bytes| match self.dtype {
            StorageDtype::F8E4M3 => bytes.clone(),
            _ => self.to_f32().into_par_iter().map(f32_to_e4m3).collect::<Vec<u8>>().into(),
        });
        Self { dtype: StorageDtype::F8E4M3, shape: self.shape.clone(), bytes }
    }

    /// The rows `indices` of a matrix, in their stored form; indices beyond the last row are left out.
    pub(crate) fn rows(&self, indices: &[u32]) -> Self {
        let width = self.shape.last().copied().unwrap_or(0);
        let shape = vec![indices.len(), width];
        let Some((bytes, size)) = self.bytes.as_ref().zip(self.dtype.bytes()) else {
            return Self::header_only(self.dtype, shape);
        };
        let row = width * size;
        let mut picked = Vec::with_capacity(indices.len() * row);
        for &index in indices {
            let start = index as usize * row;
            picked.extend_from_slice(bytes.get(start..start + row).unwrap_or_default());
        }
        Self { dtype: self.dtype, shape, bytes: Some(picked.into()) }
    }

    /// How many numbers are NaN or infinite.
    pub fn count_non_finite(&self) -> usize {
        self.to_f32().iter().filter(|x| !x.is_finite()).count()
    }

    /// Whether the file holds the numbers just as they are computed with, so that expanding copies nothing.
    pub fn is_native(&self, dtype: FloatDType) -> bool {
        self.dtype.burn() == Some(DType::from(dtype)) && self.is_aligned(float_bytes(dtype))
    }

    fn is_aligned(&self, to: usize) -> bool {
        self.bytes.as_ref().is_none_or(|bytes| (bytes.as_ptr() as usize).is_multiple_of(to))
    }

    /// The tensor on `device` in `dtype`; `D` must be the rank of [`StoredTensor::shape`].
    ///
    /// Where the file holds `dtype` itself, the CPU backend reads the mapped file in place.
    pub fn to_tensor<const D: usize>(&self, device: &Device, dtype: FloatDType) -> Tensor<D> {
        let shape = Shape::from(self.shape.clone());
        let Some(bytes) = &self.bytes else {
            return Tensor::<D>::zeros([1; D], (device, DType::from(dtype))).expand(shape);
        };
        let data = if self.is_native(dtype) {
            let bytes = Bytes::from_shared(bytes.clone(), burn::tensor::AllocationProperty::File);
            TensorData::from_bytes(bytes, shape, DType::from(dtype))
        } else {
            TensorData::new(self.to_f32(), shape).convert_dtype(DType::from(dtype))
        };
        Tensor::from_data(data, (device, DType::from(dtype)))
    }
}

impl fmt::Debug for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

// A stored tensor is constant: no gradient, and its device is chosen when it is expanded.
empty!(StoredTensor);
