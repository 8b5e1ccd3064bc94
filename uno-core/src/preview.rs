//! What a latent looks like, without the decoder: a linear map from its channels to colours.
//!
//! The map is fitted to the codec itself, on a chart that is encoded once: latents of different codecs have nothing in common.
//! It shows colours and places well, and details not at all; it costs next to nothing.

use burn::tensor::{Device, Tensor};

use crate::error::{Error, Result};
use crate::image::Pixels;
use crate::traits::LatentCodec;

/// Latents along each side of the chart.
const CHART: usize = 16;
/// Latents along each side of one of its squares of a single colour.
const SQUARE: usize = 2;
/// Weight of the ridge, for each latent of the chart: it keeps channels that say little from getting large factors.
const RIDGE: f64 = 1e-3;

/// A linear map from a latent's channels to red, green and blue.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentPreview {
    /// Factors of each channel, then what is added.
    rows: Vec<[f64; 3]>,
}

impl LatentPreview {
    /// Fits the map to a codec, which encodes one picture of 128x128 pixels (at 8 pixels per latent) for it.
    ///
    /// # Errors
    ///
    /// What the codec returns, and latents that are not finite.
    pub fn fit(codec: &dyn LatentCodec, device: &Device) -> Result<Self> {
        let factor = codec.downsampling();
        let chart = chart(CHART * factor);
        let colours = averages(&chart, factor);
        let latents = codec.encode(chart.to_tensor(device)?, None)?;
        crate::sampling::check_finite(
            "the latent of a colour chart",
            &latents,
            "the autoencoder's weights are damaged or of another model",
        )?;
        let features = per_latent(latents)?;
        if features.len() != colours.len() {
            let wanted = format!("{} latents of a picture of {} pixels a side", colours.len(), chart.width);
            return Err(Error::invalid("codec", format!("{} latents", features.len()), wanted));
        }
        let rows = ridge(&features, &colours, RIDGE * colours.len() as f64);
        let rows = rows
            .ok_or_else(|| Error::invalid("codec", "latents without any variation", "those of a picture"))?;
        Ok(Self { rows })
    }

    /// What a latent `[1, C, h, w]` looks like: one pixel for each of its places.
    ///
    /// # Errors
    ///
    /// Another number of channels, or more than one latent.
    pub fn picture(&self, latent: Tensor<4>) -> Result<Pixels> {
        let [batch, channels, height, width] = latent.dims();
        if batch != 1 || channels + 1 != self.rows.len() {
            let wanted = format!("[1, {}, h, w]", self.rows.len().saturating_sub(1));
            return Err(Error::invalid("latent", format!("{:?}", [batch, channels, height, width]), wanted));
        }
        let byte = |x: f64| (127.5 * (x.clamp(-1.0, 1.0) + 1.0)).round() as u8;
        let colour = |features: &Vec<f64>| {
            let of = |c: usize| features.iter().zip(&self.rows).map(|(x, row)| x * row[c]).sum::<f64>();
            [byte(of(0)), byte(of(1)), byte(of(2))]
        };
        Ok(Pixels { width, height, rgb: per_latent(latent)?.iter().flat_map(colour).collect() })
    }
}

/// The clean latent that a step of Euler's method was heading for: from the latent `before` it, at time `t`, and that `after` it,
/// at time `t_next`.
///
/// The step went along a velocity, which the two tell, and the same velocity leads on from `t_next` to 0. This shows what the
/// picture will be much earlier than the latent itself, which is mostly noise for most of the time.
pub fn expected_clean<const D: usize>(before: Tensor<D>, after: Tensor<D>, t: f32, t_next: f32) -> Tensor<D> {
    let dt = t_next - t;
    if dt == 0.0 {
        return after;
    }
    let velocity = (after.clone() - before).div_scalar(dt);
    after - velocity.mul_scalar(t_next)
}

/// Channels of each place of a latent `[1, C, h, w]`, row by row, and a 1 for what is added.
fn per_latent(latent: Tensor<4>) -> Result<Vec<Vec<f64>>> {
    let [_, channels, height, width] = latent.dims();
    let values = crate::tensor_to_vec(latent)?;
    let places = height * width;
    let at = |place: usize| {
        let channels = (0..channels).map(|c| f64::from(values[c * places + place]));
        channels.chain([1.0]).collect()
    };
    Ok((0..places).map(at).collect())
}

/// A picture with many colours: plain squares in its upper half, gradients in its lower.
fn chart(side: usize) -> Pixels {
    let square = side * SQUARE / CHART;
    let colour = |x: usize, y: usize| -> [f64; 3] {
        if y < side / 2 {
            let n = (y / square * CHART / SQUARE + x / square) as f64;
            // Multiples of three roots of one polynomial, without their whole part: spread evenly over the cube of colours.
            [0.819_172_5, 0.671_043_6, 0.549_700_4].map(|step| (0.5 + n * step).fract())
        } else {
            let (x, y) = (x as f64 / side as f64, (y - side / 2) as f64 / (side / 2) as f64);
            if x < 0.5 { [2.0 * x, y, 1.0 - 2.0 * x] } else { [1.0 - y, 2.0 * x - 1.0, y] }
        }
    };
    let all = (0..side).flat_map(|y| (0..side).map(move |x| (x, y)));
    let rgb = all.flat_map(|(x, y)| colour(x, y).map(|c| (255.0 * c) as u8)).collect();
    Pixels { width: side, height: side, rgb }
}

/// The mean colour, in -1 to 1, of each square of `factor` pixels a side, row by row.
fn averages(picture: &Pixels, factor: usize) -> Vec<[f64; 3]> {
    let (columns, rows) = (picture.width / factor, picture.height / factor);
    let mut sums = vec![[0.0; 3]; columns * rows];
    for (i, pixel) in picture.rgb.chunks_exact(3).enumerate() {
        let (x, y) = (i % picture.width / factor, i / picture.width / factor);
        for (sum, value) in sums[y * columns + x].iter_mut().zip(pixel) {
            *sum += f64::from(*value);
        }
    }
    let scale = 2.0 / 255.0 / (factor * factor) as f64;
    sums.into_iter().map(|sum| sum.map(|x| x * scale - 1.0)).collect()
}

/// Least squares with a ridge on all features but the last: the rows that take features to colours. `None` where that has no one
/// solution.
fn ridge(features: &[Vec<f64>], colours: &[[f64; 3]], weight: f64) -> Option<Vec<[f64; 3]>> {
    let n = features.first()?.len();
    // Normal equations, the three right-hand sides beside the matrix.
    let mut system = vec![vec![0.0; n + 3]; n];
    for (x, colour) in features.iter().zip(colours) {
        for i in 0..n {
            for (j, sum) in system[i].iter_mut().enumerate() {
                *sum += x[i] * if j < n { x[j] } else { colour[j - n] };
            }
        }
    }
    for (i, row) in system.iter_mut().enumerate().take(n - 1) {
        row[i] += weight;
    }
    // Gauss and Jordan, with the largest element of each column in its turn.
    for column in 0..n {
        let largest =
            (column..n).max_by(|a, b| system[*a][column].abs().total_cmp(&system[*b][column].abs()))?;
        system.swap(column, largest);
        let pivot = system[column].clone();
        if pivot[column].abs() < 1e-12 {
            return None;
        }
        for (i, row) in system.iter_mut().enumerate() {
            let part = if i == column { 1.0 - 1.0 / pivot[column] } else { row[column] / pivot[column] };
            row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= part * p);
        }
    }
    Some(system.iter().map(|row| [row[n], row[n + 1], row[n + 2]]).collect())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    /// A codec whose latents are mean colours, mixed into four channels.
    struct Mixing {
        factor: usize,
    }

    impl LatentCodec for Mixing {
        fn encode(&self, pictures: Tensor<4>, _: Option<u64>) -> Result<Tensor<4>> {
            let pixels = Pixels::from_tensor(pictures.clone())?.remove(0);
            let means = averages(&pixels, self.factor);
            let mix = |channel: usize| {
                let row = [[0.5, 1.0, -2.0], [1.0, 1.0, 1.0], [3.0, -1.0, 0.0], [0.0, 0.1, 0.7]][channel];
                means
                    .iter()
                    .map(move |m| (m[0] * row[0] + m[1] * row[1] + m[2] * row[2] + 0.3) as f32)
                    .collect()
            };
            let values: Vec<f32> = (0..4).flat_map(|c| -> Vec<f32> { mix(c) }).collect();
            let (h, w) = (pixels.height / self.factor, pixels.width / self.factor);
            Ok(Tensor::<1>::from_floats(values.as_slice(), &pictures.device()).reshape([1, 4, h, w]))
        }

        fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>> {
            Ok(latents)
        }

        fn channels(&self) -> usize {
            4
        }

        fn downsampling(&self) -> usize {
            self.factor
        }
    }

    #[test]
    fn colours_of_a_picture_that_was_not_fitted_come_back() {
        let device = Device::flex();
        for factor in [4, 8] {
            let codec = Mixing { factor };
            let preview = LatentPreview::fit(&codec, &device).unwrap();
            let colours =
                [[200, 30, 90], [10, 250, 128], [255, 255, 255], [0, 0, 0], [90, 90, 200], [17, 99, 3]];
            let rows = colours.chunks(3).flat_map(|row| {
                std::iter::repeat_n(
                    row.iter().flat_map(|c| std::iter::repeat_n(*c, factor).flatten()),
                    factor,
                )
                .flatten()
            });
            let picture = Pixels { width: 3 * factor, height: 2 * factor, rgb: rows.collect() };
            let latent = codec.encode(picture.to_tensor(&device).unwrap(), None).unwrap();
            let shown = preview.picture(latent).unwrap();
            assert_eq!((shown.width, shown.height), (3, 2));
            for (got, wanted) in shown.rgb.iter().zip(colours.as_flattened()) {
                assert!(got.abs_diff(*wanted) < 3, "{:?} for {colours:?}", shown.rgb);
            }
        }
    }

    #[test]
    fn latents_of_another_kind_are_refused() {
        let device = Device::flex();
        let preview = LatentPreview::fit(&Mixing { factor: 8 }, &device).unwrap();
        for shape in [[1, 3, 2, 2], [1, 16, 2, 2], [2, 4, 2, 2]] {
            let error = preview.picture(Tensor::zeros(shape, &device)).unwrap_err().to_string();
            assert!(error.contains("[1, 4, h, w]"), "{error}");
        }
    }

    #[test]
    fn what_a_step_heads_for_is_found_from_its_ends() {
        let device = Device::flex();
        let (noise, clean) =
            (Tensor::<1>::from_floats([2.0, -1.0], &device), Tensor::<1>::from_floats([0.5, 3.0], &device));
        let at = |t: f32| noise.clone().mul_scalar(t) + clean.clone().mul_scalar(1.0 - t);
        for (t, t_next) in [(1.0, 0.9), (0.6, 0.2), (0.3, 0.0)] {
            let found = expected_clean(at(t), at(t_next), t, t_next).into_data().try_to_vec::<f32>().unwrap();
            assert!((found[0] - 0.5).abs() < 1e-4 && (found[1] - 3.0).abs() < 1e-4, "{found:?}");
        }
    }
}
