//! Exponential and sums, in a form that compilers turn into vector instructions.

/// Numbers that are added up side by side: four of the widest registers.
const LANES: usize = 64;

/// `e^x`, to 2 units in the last place. NaN gives NaN; below -87.33 it is 0 and above 88.37 infinite.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.33;
    const HIGHEST: f32 = 88.37;
    // Comparisons with NaN are false: it stays.
    let y = if x < LOWEST { LOWEST } else { x };
    let y = if y > HIGHEST { HIGHEST } else { y };
    let shifted = y.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, y));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    let e = p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let e = if x < LOWEST { 0.0 } else { e };
    if x > HIGHEST { f32::INFINITY } else { e }
}

/// Adds up `f` of each number.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    fold(lanes)
}

/// Sum of all lanes, by halves.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

vectorized! {
    /// `sum of a_i b_i` over the shorter of the two.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let length = a.len().min(b.len());
        let ((a, rest_a), (b, rest_b)) = (a[..length].as_chunks::<LANES>(), b[..length].as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                lanes[i] = a[i].mul_add(b[i], lanes[i]);
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
            *lane = a.mul_add(*b, *lane);
        }
        fold(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_the_last_bits_and_at_its_ends() {
        let mut x = -87.3f32;
        while x < 88.3 {
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 2.5e-7 * exact, "{x}: {} {exact}", exp(x));
            x += 0.000_371;
        }
        assert_eq!([exp(0.0), exp(f32::NEG_INFINITY), exp(-200.0)], [1.0, 0.0, 0.0]);
        assert_eq!([exp(89.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert!(exp(f32::NAN).is_nan() && exp(88.3).is_finite());
    }

    #[test]
    fn sums_take_every_number_once() {
        for length in [0, 1, 63, 64, 65, 200] {
            let x: Vec<f32> = (0..length).map(|i| i as f32).collect();
            assert_eq!(sum(&x, |x| x), (0..length).sum::<i32>() as f32);
            assert_eq!(dot(&x, &x), (0..length).map(|i| i * i).sum::<i32>() as f32);
        }
        assert!(dot(&[1.0, f32::NAN], &[1.0, 0.0]).is_nan());
    }
}
