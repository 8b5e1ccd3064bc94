//! One tensor as it lies in its files: expanded to numbers only when asked, a few rows at a time if need be.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use burn::empty;
use burn::tensor::{Bytes, DType, Device, FloatDType, Shape, Tensor, TensorData};
use rayon::prelude::*;

use super::dtype::{StorageDtype, f32_to_e4m3, float_bytes, round_to_e4m3};
use super::ggml::GgmlType;
use super::mapped::Window;

/// Numbers that one thread expands at a time.
const CHUNK: usize = 1 << 16;

/// A tensor in its stored form. Cloning shares the bytes.
///
/// The bytes are usually a window of a memory-mapped file, so that an unused tensor takes no memory. Several windows may
/// follow each other along the first dimension: layouts that keep queries, keys and values apart are joined so, without
/// copying anything.
#[derive(Clone)]
pub struct StoredTensor {
    shape: Vec<usize>,
    segments: Vec<Segment>,
    streamed: bool,
    int8: bool,
}

/// Some consecutive rows (indices of the first dimension) in one format.
#[derive(Clone)]
struct Segment {
    dtype: StorageDtype,
    rows: usize,
    /// `None` where only the header is known; the rows then read as zeros.
    bytes: Option<Window>,
    scale: Scale,
    /// Whether every number passes through e4m3 when it is expanded.
    rounded: bool,
}

/// What expanded numbers are multiplied by.
#[derive(Clone)]
enum Scale {
    One,
    Tensor(f32),
    Rows(Arc<[f32]>),
}

impl StoredTensor {
    /// A tensor over `bytes`; `None` if their number is not what `dtype` and `shape` need.
    pub fn new(dtype: StorageDtype, shape: Vec<usize>, bytes: bytes::Bytes) -> Option<Self> {
        Self::in_window(dtype, shape, Window::from(bytes))
    }

    pub(super) fn in_window(dtype: StorageDtype, shape: Vec<usize>, bytes: Window) -> Option<Self> {
        let numbers = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if dtype.is_read() && !fits(dtype, &shape, numbers, bytes.as_slice().len()) {
            return None;
        }
        let segment =
            Segment { dtype, rows: rows_of(&shape), bytes: Some(bytes), scale: Scale::One, rounded: false };
        Some(Self { shape, segments: vec![segment], streamed: false, int8: false })
    }

    /// A tensor of which only format and shape are known; it reads as zeros that take no memory.
    pub fn header_only(dtype: StorageDtype, shape: Vec<usize>) -> Self {
        let rows = rows_of(&shape);
        let segment = Segment { dtype, rows, bytes: None, scale: Scale::One, rounded: false };
        Self { shape, segments: vec![segment], streamed: false, int8: false }
    }

    /// f32 numbers in memory; `None` if there are not as many as `shape` needs.
    pub fn from_f32(shape: Vec<usize>, numbers: &[f32]) -> Option<Self> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::new(StorageDtype::F32, shape, bytes.into())
    }

    /// f32 numbers in memory, taken over; there are as many as `shape` needs.
    pub(crate) fn from_numbers(shape: Vec<usize>, numbers: Vec<f32>) -> Self {
        struct Owner(Vec<f32>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        let bytes = bytes::Bytes::from_owner(Owner(numbers));
        let new = Self::new(StorageDtype::F32, shape.clone(), bytes);
        new.unwrap_or_else(|| Self::header_only(StorageDtype::F32, shape))
    }

    /// Format in the file; of the first rows, where several formats are joined.
    pub fn dtype(&self) -> StorageDtype {
        self.segments.first().map_or(StorageDtype::F32, |s| s.dtype)
    }

    /// Whether all rows are of formats that are read.
    pub fn is_read(&self) -> bool {
        self.segments.iter().all(|s| s.dtype.is_read())
    }

    /// Whether anything but the plain bytes of one format stands behind the numbers: joined rows, scales, rounding.
    pub fn is_derived(&self) -> bool {
        self.segments.len() != 1 || self.segments.iter().any(|s| s.rounded || !matches!(s.scale, Scale::One))
    }

    /// Whether its numbers pass through e4m3 when they are expanded.
    pub fn is_rounded(&self) -> bool {
        self.segments.iter().any(|s| s.rounded)
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the numbers take as they are stored, whether the data is there or only its header is known.
    pub fn byte_len(&self) -> usize {
        let width = self.width();
        self.segments.iter().map(|s| s.dtype.bytes_of(s.rows * width).unwrap_or(0)).sum()
    }

    /// The bytes, where they are those of one format and nothing is derived from them.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.segments[..] {
            [one] if !self.is_derived() => one.bytes.as_ref().map(Window::as_slice),
            _ => None,
        }
    }

    /// The bytes of a tensor of any format, read or not.
    pub(super) fn any_bytes(&self) -> Option<&[u8]> {
        self.segments.first()?.bytes.as_ref().map(Window::as_slice)
    }

    /// Numbers in one row: in one index of the first dimension.
    fn width(&self) -> usize {
        self.shape.get(1..).unwrap_or_default().iter().product()
    }

    fn rows_count(&self) -> usize {
        rows_of(&self.shape)
    }

    /// All numbers as f32, outermost dimension first; empty where only the header is known or the format is not read.
    pub fn to_f32(&self) -> Vec<f32> {
        if !self.is_read() || self.segments.iter().any(|s| s.bytes.is_none()) {
            return Vec::new();
        }
        let width = self.width();
        let mut out = vec![0.0f32; self.len()];
        if width == 0 || out.is_empty() {
            return out;
        }
        let rows = (CHUNK / width).max(1);
        out.par_chunks_mut(rows * width).enumerate().for_each(|(i, chunk)| {
            let first = i * rows;
            self.expand_rows(first..first + chunk.len() / width, chunk);
        });
        out
    }

    /// Expands the rows `range` into `out`, on this thread; what is beyond the tensor, or only known by its header, is zero.
    pub fn expand_rows(&self, range: Range<usize>, out: &mut [f32]) {
        let width = self.width();
        let (mut start, mut rest) = (0, out);
        for segment in &self.segments {
            let end = start + segment.rows;
            let (first, last) = (range.start.max(start), range.end.min(end));
            if first < last {
                let count = ((last - first) * width).min(rest.len());
                let (these, others) = rest.split_at_mut(count);
                segment.expand(first - start, width, these);
                rest = others;
            }
            start = end;
        }
        rest.fill(0.0);
    }

    /// The f32 numbers themselves where the file holds them, row after row, aligned and in this machine's order.
    pub(crate) fn native_f32(&self) -> Option<&[f32]> {
        if !self.is_native(FloatDType::F32) || cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes()?).ok()
    }

    /// The same tensor with every number cast to e4m3 without a scale, held in memory.
    pub fn to_e4m3(&self) -> Self {
        if self.dtype() == StorageDtype::F8E4M3 && !self.is_derived() || self.is_header_only() {
            return self.rounded_to_e4m3();
        }
        let width = self.width().max(1);
        let mut codes = vec![0u8; self.len()];
        let rows = (CHUNK / width).max(1);
        codes.par_chunks_mut(rows * width).enumerate().for_each_init(Vec::new, |numbers, (i, codes)| {
            numbers.resize(codes.len(), 0.0);
            self.expand_rows(i * rows..i * rows + codes.len() / width, numbers);
            codes.iter_mut().zip(&*numbers).for_each(|(code, x)| *code = f32_to_e4m3(*x));
        });
        Self::new(StorageDtype::F8E4M3, self.shape.clone(), codes.into()).unwrap_or_else(|| self.clone())
    }

    /// The same tensor with every number rounded to e4m3 (without a scale) whenever it is expanded: the numbers of
    /// [`StoredTensor::to_e4m3`], without the memory.
    pub fn rounded_to_e4m3(&self) -> Self {
        let mut rounded = self.clone();
        for segment in &mut rounded.segments {
            segment.rounded = segment.dtype != StorageDtype::F8E4M3 || !matches!(segment.scale, Scale::One);
        }
        rounded
    }

    /// The tensors below each other along the first dimension; `None` if their other dimensions differ.
    pub fn join_rows(parts: &[Self]) -> Option<Self> {
        let first = parts.first()?;
        let inner = first.shape.get(1..)?;
        if first.shape.is_empty() || parts.iter().any(|p| p.shape.get(1..) != Some(inner)) {
            return None;
        }
        let rows = parts.iter().try_fold(0usize, |n, p| n.checked_add(p.rows_count()))?;
        let mut shape = first.shape.clone();
        *shape.first_mut()? = rows;
        let segments = parts.iter().flat_map(|p| p.segments.iter().cloned()).collect();
        Some(Self { shape, segments, streamed: first.streamed, int8: first.int8 })
    }

    /// The rows `range` as they are stored; `None` beyond the tensor or where a row is no whole number of blocks.
    pub fn slice_rows(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.rows_count() || self.shape.is_empty() {
            return None;
        }
        let width = self.width();
        let mut segments = Vec::new();
        let mut start = 0;
        for segment in &self.segments {
            let end = start + segment.rows;
            let (first, last) = (range.start.max(start), range.end.min(end));
            if first < last {
                segments.push(segment.slice(first - start..last - start, width)?);
            }
            start = end;
        }
        let mut shape = self.shape.clone();
        *shape.first_mut()? = range.len();
        Some(Self { shape, segments, streamed: self.streamed, int8: self.int8 })
    }

    /// The second half of the rows, then the first; `None` if their number is odd.
    pub fn with_swapped_halves(&self) -> Option<Self> {
        let rows = self.rows_count();
        let half = rows.is_multiple_of(2).then_some(rows / 2)?;
        Self::join_rows(&[self.slice_rows(half..rows)?, self.slice_rows(0..half)?])
    }

    /// The same numbers under another shape; `None` if it holds another number of them, or rows would tear blocks.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        let numbers = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if numbers != self.len() {
            return None;
        }
        if rows_of(&shape) == self.rows_count() {
            return Some(Self { shape, ..self.clone() });
        }
        match &self.segments[..] {
            [one] if !matches!(one.scale, Scale::Rows(_)) => {
                let length = one.dtype.bytes_of(numbers)?;
                if one.dtype.is_read() && !fits(one.dtype, &shape, numbers, length) {
                    return None;
                }
                let segment = Segment { rows: rows_of(&shape), ..one.clone() };
                Some(Self { shape, segments: vec![segment], streamed: self.streamed, int8: self.int8 })
            }
            _ => None,
        }
    }

    /// The same tensor with every number multiplied by `scale`: one number, or one per row. `None` for any other count.
    pub fn scaled(&self, scale: &[f32]) -> Option<Self> {
        let mut scaled = self.clone();
        let [segment] = &mut scaled.segments[..] else { return None };
        segment.scale = match scale {
            [one] => Scale::Tensor(*one),
            rows if rows.len() == segment.rows => Scale::Rows(rows.into()),
            _ => return None,
        };
        Some(scaled)
    }

    /// The same tensor, to be let go of after each use: its part of a mapped file leaves memory, and is read again.
    pub fn streamed(self) -> Self {
        Self { streamed: true, ..self }
    }

    /// Whether it is let go of after each use.
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// The same tensor, to be multiplied with in 8-bit integers; `None` if it is not Q8_0 throughout.
    pub(crate) fn int8(self) -> Option<Self> {
        let is_plain = |s: &Segment| matches!(s.scale, Scale::One) && !s.rounded;
        let is_q8_0 = |s: &Segment| s.dtype == StorageDtype::Ggml(GgmlType::Q8_0) && is_plain(s);
        self.segments.iter().all(is_q8_0).then_some(Self { int8: true, ..self })
    }

    /// Whether it is multiplied with in 8-bit integers.
    pub fn is_int8(&self) -> bool {
        self.int8
    }

    /// The stored blocks of one row, for a tensor that [`is_int8`](Self::is_int8); `None` beyond it, and for a known header only.
    pub(crate) fn q8_0_row(&self, row: usize) -> Option<&[u8]> {
        let mut first = 0;
        for segment in &self.segments {
            if row < first + segment.rows {
                let bytes = segment.dtype.bytes_of(self.width())?;
                let start = (row - first) * bytes;
                return segment.bytes.as_ref()?.as_slice().get(start..start + bytes);
            }
            first += segment.rows;
        }
        None
    }

    /// Asks the system to read the bytes into its file cache; returns before they are there.
    pub fn prefetch(&self) {
        if self.streamed {
            self.segments.iter().filter_map(|s| s.bytes.as_ref()).for_each(Window::prefetch);
        }
    }

    /// Lets go of the mapped bytes if the tensor is streamed; they are read again at the next use.
    pub fn release(&self) {
        if self.streamed {
            self.segments.iter().filter_map(|s| s.bytes.as_ref()).for_each(Window::release);
        }
    }

    pub(crate) fn is_header_only(&self) -> bool {
        self.segments.iter().any(|s| s.bytes.is_none())
    }

    /// The rows `indices` of a matrix, expanded to f32 in memory; indices beyond the last row are zeros.
    pub(crate) fn rows(&self, indices: &[u32]) -> Self {
        let width = self.width();
        let shape = vec![indices.len(), width];
        if self.is_header_only() {
            return Self::header_only(StorageDtype::F32, shape);
        }
        let mut picked = vec![0.0; indices.len() * width];
        for (&index, row) in indices.iter().zip(picked.chunks_mut(width.max(1))) {
            self.expand_rows(index as usize..index as usize + 1, row);
        }
        self.release();
        Self::from_f32(shape.clone(), &picked).unwrap_or_else(|| Self::header_only(StorageDtype::F32, shape))
    }

    /// How many numbers are NaN or infinite.
    pub fn count_non_finite(&self) -> usize {
        let count = self.to_f32().par_iter().filter(|x| !x.is_finite()).count();
        self.release();
        count
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
        let shape = Shape::from(self.shape.clone());
        if self.is_header_only() {
            return Tensor::<D>::zeros([1; D], (device, DType::from(dtype))).expand(shape);
        }
        let native = self.segments.first().filter(|_| self.is_native(dtype)).and_then(|s| s.bytes.as_ref());
        let data = match native {
            Some(window) => {
                let bytes =
                    Bytes::from_shared(window.shared().clone(), burn::tensor::AllocationProperty::File);
                TensorData::from_bytes(bytes, shape, DType::from(dtype))
            }
            None => {
                let numbers = self.to_f32();
                self.release();
                TensorData::new(numbers, shape).convert_dtype(DType::from(dtype))
            }
        };
        Tensor::from_data(data, (device, DType::from(dtype)))
    }
}

impl Segment {
    /// Rows from `first` on, as many as fit `out`.
    fn expand(&self, first: usize, width: usize, out: &mut [f32]) {
        let bytes = self.dtype.bytes_of(first * width).zip(self.dtype.bytes_of(out.len()));
        let window = bytes.zip(self.bytes.as_ref());
        let stored =
            window.and_then(|((start, count), w)| w.as_slice().get(start..start.checked_add(count)?));
        // Lengths were checked when the tensor was made, so that only a missing body is left to read as zeros.
        if !stored.is_some_and(|bytes| self.dtype.expand(bytes, out)) {
            out.fill(0.0);
        }
        match &self.scale {
            Scale::One => {}
            Scale::Tensor(scale) => out.iter_mut().for_each(|x| *x *= scale),
            Scale::Rows(scales) => {
                for (row, scale) in out.chunks_mut(width.max(1)).zip(scales.iter().skip(first)) {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
            }
        }
        if self.rounded {
            out.iter_mut().for_each(|x| *x = round_to_e4m3(*x));
        }
    }

    fn slice(&self, rows: Range<usize>, width: usize) -> Option<Self> {
        let (start, end) = (self.dtype.bytes_of(rows.start * width)?, self.dtype.bytes_of(rows.end * width)?);
        let bytes = match &self.bytes {
            Some(window) => Some(window.slice(start..end)?),
            None => None,
        };
        let scale = match &self.scale {
            Scale::Rows(scales) => Scale::Rows(scales.get(rows.clone())?.into()),
            other => other.clone(),
        };
        Some(Self { dtype: self.dtype, rows: rows.len(), bytes, scale, rounded: self.rounded })
    }
}

fn rows_of(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

/// Whether `length` bytes hold `numbers` of `dtype`, with rows of whole blocks.
fn fits(dtype: StorageDtype, shape: &[usize], numbers: usize, length: usize) -> bool {
    let last = shape.last().copied().unwrap_or(1);
    last.is_multiple_of(dtype.block_len()) && dtype.bytes_of(numbers) == Some(length)
}

impl fmt::Debug for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype(), self.shape)
    }
}

// A stored tensor is constant: no gradient, and its device is chosen when it is expanded.
empty!(StoredTensor);

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(first: f32, rows: usize) -> StoredTensor {
        let numbers: Vec<f32> = (0..rows * 2).map(|i| first + i as f32).collect();
        StoredTensor::from_f32(vec![rows, 2], &numbers).unwrap()
    }

    #[test]
    fn rows_are_joined_and_cut_without_copying() {
        let joined = StoredTensor::join_rows(&[matrix(0.0, 2), matrix(10.0, 1), matrix(20.0, 3)]).unwrap();
        assert_eq!(joined.shape(), [6, 2]);
        assert_eq!(joined.to_f32(), [0., 1., 2., 3., 10., 11., 20., 21., 22., 23., 24., 25.]);
        assert_eq!(joined.slice_rows(1..4).unwrap().to_f32(), [2., 3., 10., 11., 20., 21.]);
        let mut rows = [9.0; 6];
        joined.expand_rows(4..7, &mut rows);
        assert_eq!(rows, [22., 23., 24., 25., 0., 0.]);
        assert!(joined.slice_rows(5..7).is_none());
        assert!(
            StoredTensor::join_rows(&[matrix(0.0, 2), StoredTensor::from_f32(vec![1], &[0.0]).unwrap()])
                .is_none()
        );
        assert!(StoredTensor::join_rows(&[]).is_none());
    }

    #[test]
    fn scales_multiply_the_whole_or_each_row() {
        assert_eq!(matrix(1.0, 2).scaled(&[2.0]).unwrap().to_f32(), [2., 4., 6., 8.]);
        let by_row = matrix(1.0, 2).scaled(&[2.0, 10.0]).unwrap();
        assert_eq!(by_row.to_f32(), [2., 4., 30., 40.]);
        assert_eq!(by_row.slice_rows(1..2).unwrap().to_f32(), [30., 40.]);
        assert!(matrix(1.0, 2).scaled(&[1.0; 3]).is_none());
    }

    #[test]
    fn rounding_on_the_fly_equals_the_cast_in_memory() {
        let numbers: Vec<f32> = (0..4096).map(|i| (i as f32 - 2000.0) * 0.013).collect();
        let tensor = StoredTensor::from_f32(vec![64, 64], &numbers).unwrap();
        assert_eq!(tensor.rounded_to_e4m3().to_f32(), tensor.to_e4m3().to_f32());
    }

    #[test]
    fn a_shape_of_another_size_is_refused() {
        assert!(matrix(0.0, 2).reshaped(vec![2, 2, 1, 1]).is_some());
        assert_eq!(matrix(0.0, 2).reshaped(vec![4]).unwrap().to_f32(), [0., 1., 2., 3.]);
        assert!(matrix(0.0, 2).reshaped(vec![5]).is_none());
        assert!(StoredTensor::from_f32(vec![3], &[0.0]).is_none());
    }
}
