//! Latents as grids and as token sequences.

use burn::tensor::Tensor;

use crate::error::{Error, Result};
use crate::flux::PositionId;

/// Latent rows and columns per token.
pub const PATCH: usize = 2;

/// Latent grid `[batch, C, h, w]` -> tokens `[batch, (h/2) * (w/2), C * 4]`; features run (channel, row, column) within a 2x2 patch.
///
/// # Errors
///
/// An odd height or width.
pub fn pack(latent: Tensor<4>) -> Result<Tensor<3>> {
    let [batch, channels, h, w] = latent.dims();
    if h % PATCH != 0 || w % PATCH != 0 || h == 0 || w == 0 {
        return Err(Error::invalid(
            "latent [batch, C, h, w]",
            format!("h {h}, w {w}"),
            "even, positive h and w",
        ));
    }
    let tokens = latent
        .reshape([batch, channels, h / PATCH, PATCH, w / PATCH, PATCH])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, (h / PATCH) * (w / PATCH), channels * PATCH * PATCH]);
    Ok(tokens)
}

/// Tokens `[batch, (h/2) * (w/2), C * 4]` -> latent grid `[batch, C, h, w]`; undoes [`pack`].
///
/// # Errors
///
/// A number of tokens or features that does not belong to `h` and `w`.
pub fn unpack(tokens: Tensor<3>, [h, w]: [usize; 2]) -> Result<Tensor<4>> {
    let [batch, count, features] = tokens.dims();
    let fits = h % PATCH == 0 && w % PATCH == 0 && (h / PATCH) * (w / PATCH) == count;
    if !fits || features % (PATCH * PATCH) != 0 {
        return Err(Error::invalid(
            "packed latent [batch, tokens, features]",
            format!("{count} tokens of {features} features"),
            format!("the tokens of a latent grid of {h}x{w}, with a multiple of 4 features"),
        ));
    }
    let channels = features / (PATCH * PATCH);
    Ok(tokens
        .reshape([batch, h / PATCH, w / PATCH, channels, PATCH, PATCH])
        .permute([0, 3, 1, 4, 2, 5])
        .reshape([batch, channels, h, w]))
}

/// Positions of the tokens of a grid of `rows` x `columns` tokens whose first token lies at `origin` (row, column):
/// `(0, row, column)`, row by row. Plain FLUX puts the latent at (0, 0).
pub fn grid_ids(rows: usize, columns: usize, origin: (usize, usize)) -> Vec<PositionId> {
    (0..rows)
        .flat_map(|r| (0..columns).map(move |c| [0.0, (r + origin.0) as f32, (c + origin.1) as f32]))
        .collect()
}

/// Positions of `count` text tokens: all zero.
pub fn text_ids(count: usize) -> Vec<PositionId> {
    vec![[0.0; 3]; count]
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    #[test]
    fn features_run_channel_then_row_then_column() {
        let values: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let latent = Tensor::<4>::from_data(TensorData::new(values, [1, 2, 2, 2]), &Device::flex());
        let packed = pack(latent).unwrap().into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(packed, [0., 1., 2., 3., 4., 5., 6., 7.]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let device = Device::flex();
        assert!(pack(Tensor::zeros([1, 16, 3, 4], &device)).is_err());
        assert!(unpack(Tensor::zeros([1, 5, 64], &device), [4, 4]).is_err());
        assert!(unpack(Tensor::zeros([1, 4, 63], &device), [4, 4]).is_err());
    }

    proptest! {
        #[test]
        fn unpacking_undoes_packing(batch in 1usize..3, c in 1usize..5, h in 1usize..6, w in 1usize..6) {
            let n = batch * c * h * w * 4;
            let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let latent = Tensor::<4>::from_data(TensorData::new(values.clone(), [batch, c, 2 * h, 2 * w]), &Device::flex());
            let packed = pack(latent).unwrap();
            prop_assert_eq!(packed.dims(), [batch, h * w, 4 * c]);
            let back = unpack(packed, [2 * h, 2 * w]).unwrap().into_data().try_to_vec::<f32>().unwrap();
            prop_assert_eq!(back, values);
        }
    }
}
