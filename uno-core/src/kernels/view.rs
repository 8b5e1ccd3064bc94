//! Parts of token matrices: some columns of some tokens of every sample, without copying.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

/// Numbers `[batch, tokens, width]` that lie in a larger row-major buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    start: *const f32,
    shape: Shape,
    life: PhantomData<&'a [f32]>,
}

/// The same, to be written to.
#[derive(Debug)]
pub(crate) struct ViewMut<'a> {
    start: *mut f32,
    shape: Shape,
    life: PhantomData<&'a mut [f32]>,
}

/// Extent and distances, in numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    /// From one token to the next.
    pub(crate) stride: usize,
    /// From one sample to the next.
    sample: usize,
}

impl Shape {
    /// `length` numbers as `[batch, tokens, width]`; what does not fit has no tokens.
    fn of(length: usize, [batch, tokens, width]: [usize; 3]) -> Self {
        let numbers = [batch, tokens, width].iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let fits = numbers.is_some_and(|numbers| numbers <= length);
        let tokens = if fits { tokens } else { 0 };
        Self { batch, tokens, width, stride: width, sample: tokens * width }
    }

    fn offset(&self, sample: usize, token: usize) -> usize {
        assert!(sample < self.batch && token < self.tokens, "a row outside the view");
        sample * self.sample + token * self.stride
    }

    fn tokens(self, range: &Range<usize>) -> (usize, Self) {
        let (start, end) = (range.start.min(self.tokens), range.end.min(self.tokens));
        (start * self.stride, Self { tokens: end.saturating_sub(start), ..self })
    }

    fn columns(self, range: &Range<usize>) -> (usize, Self) {
        let (start, end) = (range.start.min(self.width), range.end.min(self.width));
        (start, Self { width: end.saturating_sub(start), ..self })
    }
}

// SAFETY: a view is a shared borrow of numbers, or of those that no other view writes.
#[allow(unsafe_code)]
unsafe impl Send for View<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for View<'_> {}
// SAFETY: views to be written never overlap: they come from one exclusive borrow, cut in parts.
#[allow(unsafe_code)]
unsafe impl Send for ViewMut<'_> {}
// SAFETY: a shared `ViewMut` only reads.
#[allow(unsafe_code)]
unsafe impl Sync for ViewMut<'_> {}

impl<'a> View<'a> {
    /// All of `numbers`, as `[batch, tokens, width]`.
    pub(crate) fn new(numbers: &'a [f32], shape: [usize; 3]) -> Self {
        Self { start: numbers.as_ptr(), shape: Shape::of(numbers.len(), shape), life: PhantomData }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Some tokens of every sample.
    pub(crate) fn tokens(self, range: Range<usize>) -> Self {
        let (offset, shape) = self.shape.tokens(&range);
        Self { start: self.start.wrapping_add(offset), shape, ..self }
    }

    /// Some columns.
    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        let (offset, shape) = self.shape.columns(&range);
        Self { start: self.start.wrapping_add(offset), shape, ..self }
    }

    /// Where a row begins.
    pub(crate) fn at(&self, sample: usize, token: usize) -> *const f32 {
        self.start.wrapping_add(self.shape.offset(sample, token))
    }

    /// One row.
    pub(crate) fn row(&self, sample: usize, token: usize) -> &'a [f32] {
        // SAFETY: `at` checks the bounds; nothing writes these numbers as long as the view lives.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.at(sample, token), self.shape.width)
        }
    }
}

impl<'a> ViewMut<'a> {
    /// All of `numbers`, as `[batch, tokens, width]`.
    pub(crate) fn new(numbers: &'a mut [f32], shape: [usize; 3]) -> Self {
        Self { start: numbers.as_mut_ptr(), shape: Shape::of(numbers.len(), shape), life: PhantomData }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Some tokens of every sample.
    pub(crate) fn tokens(self, range: Range<usize>) -> Self {
        let (offset, shape) = self.shape.tokens(&range);
        Self { start: self.start.wrapping_add(offset), shape, ..self }
    }

    /// Some columns.
    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        let (offset, shape) = self.shape.columns(&range);
        Self { start: self.start.wrapping_add(offset), shape, ..self }
    }

    /// The columns before `column`, and those from there on.
    pub(crate) fn split_columns(self, column: usize) -> (Self, Self) {
        let right = Self { start: self.start, shape: self.shape, life: PhantomData };
        let width = self.shape.width;
        (self.columns(0..column), right.columns(column..width))
    }

    /// The same numbers, lent for a while.
    pub(crate) fn lend(&mut self) -> ViewMut<'_> {
        ViewMut { start: self.start, shape: self.shape, life: PhantomData }
    }

    /// The same numbers, to be read for a while.
    pub(crate) fn view(&self) -> View<'_> {
        View { start: self.start, shape: self.shape, life: PhantomData }
    }

    /// Where a row begins.
    pub(crate) fn at(&self, sample: usize, token: usize) -> *mut f32 {
        self.start.wrapping_add(self.shape.offset(sample, token))
    }

    /// Runs `f(sample, token, row)` on every row, on all threads.
    pub(crate) fn for_each_row(self, f: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let Shape { batch, tokens, width, .. } = self.shape;
        (0..batch * tokens).into_par_iter().with_min_len(8).for_each(|i| {
            let (sample, token) = (i / tokens, i % tokens);
            // SAFETY: `at` checks the bounds; rows do not overlap, and each is visited once.
            #[allow(unsafe_code)]
            let row = unsafe { std::slice::from_raw_parts_mut(self.at(sample, token), width) };
            f(sample, token, row);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_show_tokens_and_columns_of_every_sample() {
        let mut numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let view = View::new(&numbers, [2, 3, 4]).tokens(1..3).columns(2..4);
        assert_eq!((view.row(0, 0), view.row(1, 1)), (&[6.0, 7.0][..], &[22.0, 23.0][..]));
        let (left, right) = ViewMut::new(&mut numbers, [2, 3, 4]).split_columns(1);
        right.tokens(0..1).for_each_row(|_, _, row| row.fill(-1.0));
        left.for_each_row(|sample, token, row| row.fill((10 * sample + token) as f32));
        assert_eq!(numbers[..5], [0.0, -1.0, -1.0, -1.0, 1.0]);
        assert_eq!(numbers[12..17], [10.0, -1.0, -1.0, -1.0, 11.0]);
    }

    #[test]
    fn a_shape_that_does_not_fit_shows_nothing() {
        let numbers = [0.0; 5];
        assert_eq!(View::new(&numbers, [1, 2, 3]).shape().tokens, 0);
        assert_eq!(View::new(&numbers, [usize::MAX, 2, 3]).shape().tokens, 0);
    }
}
