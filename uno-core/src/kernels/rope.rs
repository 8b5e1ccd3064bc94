//! Norm and rotation of queries and keys, in place.

use super::ViewMut;
use super::math::sum;

vectorized! {
    /// Norm of one head's row, then the rotation of its adjacent pairs by `cos` and `sin` of `[d / 2]`.
    fn norm_and_rotate(x: &mut [f32], scale: &[f32], eps: f32, cos: &[f32], sin: &[f32]) {
        let factor = 1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
        let (pairs, _) = x.as_chunks_mut::<2>();
        let (scales, _) = scale.as_chunks::<2>();
        for (((pair, scale), cos), sin) in pairs.iter_mut().zip(scales).zip(cos).zip(sin) {
            let [a, b] = [pair[0] * factor * scale[0], pair[1] * factor * scale[1]];
            *pair = [cos * a - sin * b, sin * a + cos * b];
        }
    }
}

/// Each head of every row of `x` `[batch, tokens, heads * d]`: root mean square norm with `scale` `[d]`, then rotation by
/// `cos` and `sin` of `[tokens, d / 2]`.
pub(crate) fn norm_and_rope(x: ViewMut<'_>, scale: &[f32], eps: f64, cos: &[f32], sin: &[f32]) {
    let d = scale.len().max(1);
    x.for_each_row(|_, token, row| {
        let angles = token * (d / 2)..(token + 1) * (d / 2);
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        for head in row.chunks_exact_mut(d) {
            norm_and_rotate(head, scale, eps as f32, cos, sin);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_normed_and_their_pairs_turned() {
        for (heads, d) in [(1, 2), (3, 6), (2, 128)] {
            let x: Vec<f32> = (0..2 * heads * d).map(|i| ((i * 29 % 53) as f32 - 20.0) * 0.1).collect();
            let scale: Vec<f32> = (0..d).map(|i| 1.0 + i as f32 * 0.01).collect();
            let angles: Vec<f32> = (0..d).map(|i| i as f32 * 0.3).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let mut got = x.clone();
            norm_and_rope(ViewMut::new(&mut got, [1, 2, heads * d]), &scale, 1e-6, &cos, &sin);
            for (i, (got, x)) in got.chunks(d).zip(x.chunks(d)).enumerate() {
                let token = i / heads;
                let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / d as f64;
                let normed = |j: usize| f64::from(x[j]) / (square + 1e-6).sqrt() * f64::from(scale[j]);
                for j in 0..d / 2 {
                    let (c, s) = (f64::from(cos[token * d / 2 + j]), f64::from(sin[token * d / 2 + j]));
                    let (a, b) = (normed(2 * j), normed(2 * j + 1));
                    assert!((f64::from(got[2 * j]) - (c * a - s * b)).abs() < 1e-6);
                    assert!((f64::from(got[2 * j + 1]) - (s * a + c * b)).abs() < 1e-6);
                }
            }
        }
    }
}
