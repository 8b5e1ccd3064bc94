//! Attention in tiles with a streaming softmax (Dao et al., arXiv 2205.14135): scores of a few queries with a few keys at a
//! time, and never the whole matrix.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::math::{exp, sum};
use super::{View, ViewMut};

/// Queries and keys of a tile. The order in which results are added up depends on them: they are fixed.
const QUERIES: usize = 128;
const KEYS: usize = 512;

/// What is added to the scores.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias<'a> {
    None,
    /// By how far a key is from the query: `[heads, 2 tokens - 1]`, from `1 - tokens` on.
    Distance(&'a [f32]),
    /// Minus infinity for keys that come after the query.
    Causal,
}

/// Memory of one thread.
struct Scratch {
    /// `[queries, keys]`.
    scores: Vec<f32>,
    /// `[queries, d]`.
    sums: Vec<f32>,
    /// Of each query: the highest score so far, and the sum of all weights relative to it.
    highest: [f32; QUERIES],
    weights: [f32; QUERIES],
}

/// `softmax(scale q k^T + bias) v` for each head, written over the queries that it is asked for.
///
/// All views are `[batch, tokens, heads * d]`. What is not finite in queries, keys, values or bias is so in the result, too.
pub(crate) fn attention(
    q: ViewMut<'_>,
    k: View<'_>,
    v: View<'_>,
    heads: usize,
    queries: Range<usize>,
    scale: f32,
    bias: Bias<'_>,
) {
    let shape = q.shape();
    let d = shape.width / heads.max(1);
    let tiles = queries.len().div_ceil(QUERIES);
    let new = || Scratch {
        scores: vec![0.0; QUERIES * KEYS],
        sums: vec![0.0; QUERIES * d],
        highest: [0.0; QUERIES],
        weights: [0.0; QUERIES],
    };
    // Neighbours share keys and values.
    (0..shape.batch * heads * tiles).into_par_iter().for_each_init(new, |scratch, i| {
        let (sample, head, tile) = (i / tiles / heads, i / tiles % heads, i % tiles);
        let start = queries.start + tile * QUERIES;
        let rows = start..(start + QUERIES).min(queries.end);
        let columns = head * d..(head + 1) * d;
        let bias = match bias {
            Bias::Distance(table) => {
                let width = 2 * shape.tokens - 1;
                Bias::Distance(&table[head * width..(head + 1) * width])
            }
            other => other,
        };
        attend(
            scratch,
            &q,
            [k.columns(columns.clone()), v.columns(columns)],
            (sample, head * d, d),
            rows,
            scale,
            bias,
        );
    });
}

/// One tile of queries of one head, from the first key to the last.
fn attend(
    scratch: &mut Scratch,
    q: &ViewMut<'_>,
    [k, v]: [View<'_>; 2],
    (sample, column, d): (usize, usize, usize),
    rows: Range<usize>,
    scale: f32,
    bias: Bias<'_>,
) {
    let Scratch { scores, sums, highest, weights } = scratch;
    let (count, tokens) = (rows.len(), k.shape().tokens);
    let queries = q.at(sample, rows.start).wrapping_add(column);
    sums.fill(0.0);
    highest.fill(f32::NEG_INFINITY);
    weights.fill(0.0);
    for first in (0..tokens).step_by(KEYS) {
        let keys = KEYS.min(tokens - first);
        // SAFETY: the tile has `count` rows of q and `keys` rows of k, `d` wide, all in view; `scores` has room for them.
        // Only this call reads or writes these columns of these queries.
        #[allow(unsafe_code)]
        unsafe {
            product(
                [count, keys, d],
                scores.as_mut_ptr(),
                KEYS,
                false,
                (queries, q.shape().stride, 1),
                (k.at(sample, first), 1, k.shape().stride),
                scale,
            );
        }
        for i in 0..count {
            let row = &mut scores[i * KEYS..i * KEYS + keys];
            let mut seen = keys;
            if let Bias::Causal = bias {
                seen = keys.min((rows.start + i + 1).saturating_sub(first));
                row[seen..].fill(0.0);
                if seen == 0 {
                    continue;
                }
            }
            let row = &mut row[..seen];
            if let Bias::Distance(bias) = bias {
                let from = tokens - 1 + first - (rows.start + i);
                add(row, &bias[from..from + keys]);
            }
            let [lowest, high] = extremes(row);
            let high = if high > highest[i] { high } else { highest[i] };
            let before = exp(highest[i] - high);
            // The first tile has nothing before it.
            let before = if first == 0 { 0.0 } else { before };
            let sum = exponentials(row, high);
            weights[i] = weights[i] * before + sum;
            // A score of minus infinity would vanish in the sum.
            if lowest == f32::NEG_INFINITY {
                weights[i] = f32::NAN;
            }
            highest[i] = high;
            if first > 0 && before != 1.0 {
                multiply(&mut sums[i * d..(i + 1) * d], before);
            }
        }
        // SAFETY: as above, with the rows of v.
        #[allow(unsafe_code)]
        unsafe {
            product(
                [count, d, keys],
                sums.as_mut_ptr(),
                d,
                true,
                (scores.as_ptr(), KEYS, 1),
                (v.at(sample, first), v.shape().stride, 1),
                1.0,
            );
        }
    }
    for i in 0..count {
        // SAFETY: row `i` of the tile, `d` columns from `column` on, which only this call touches.
        #[allow(unsafe_code)]
        let out =
            unsafe { std::slice::from_raw_parts_mut(q.at(sample, rows.start + i).wrapping_add(column), d) };
        divide(out, &sums[i * d..(i + 1) * d], weights[i]);
    }
}

/// `out[m, n] = scale a[m, k] b[k, n]`, or added to it; `a` and `b` with the distances of their rows and columns.
///
/// # Safety
///
/// All numbers of the three matrices lie in memory that is valid for reading, `out`'s for writing by this thread alone.
#[allow(unsafe_code)]
unsafe fn product(
    [m, n, k]: [usize; 3],
    out: *mut f32,
    width: usize,
    accumulate: bool,
    a: (*const f32, usize, usize),
    b: (*const f32, usize, usize),
    scale: f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            width as isize,
            accumulate,
            a.0,
            a.2 as isize,
            a.1 as isize,
            b.0,
            b.2 as isize,
            b.1 as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

vectorized! {
    /// The least and the greatest; NaN counts as neither.
    fn extremes(x: &[f32]) -> [f32; 2] {
        const LANES: usize = 32;
        let mut low = [f32::INFINITY; LANES];
        let mut high = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                low[i] = if chunk[i] < low[i] { chunk[i] } else { low[i] };
                high[i] = if chunk[i] > high[i] { chunk[i] } else { high[i] };
            }
        }
        let low = low.iter().chain(rest).fold(f32::INFINITY, |a, &b| if b < a { b } else { a });
        let high = high.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        [low, high]
    }
}

vectorized! {
    /// `e^(x - high)` in place, and the sum of all.
    fn exponentials(x: &mut [f32], high: f32) -> f32 {
        for x in x.iter_mut() {
            *x = exp(*x - high);
        }
        sum(x, |x| x)
    }
}

vectorized! {
    fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

vectorized! {
    fn multiply(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

vectorized! {
    fn divide(out: &mut [f32], x: &[f32], divisor: f32) {
        let factor = 1.0 / divisor;
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0) * 1.7).collect()
    }

    /// The definition, in f64.
    fn exact([q, k, v]: [&[f32]; 3], [tokens, heads, d]: [usize; 3], scale: f64, bias: Bias<'_>) -> Vec<f64> {
        let width = heads * d;
        let mut out = vec![0.0; tokens * width];
        for head in 0..heads {
            for i in 0..tokens {
                let scores = (0..tokens).map(|j| {
                    let at = |x: &[f32], row: usize, c: usize| f64::from(x[row * width + head * d + c]);
                    let product: f64 = (0..d).map(|c| at(q, i, c) * at(k, j, c)).sum();
                    let bias = match bias {
                        Bias::None => 0.0,
                        Bias::Distance(b) => f64::from(b[head * (2 * tokens - 1) + tokens - 1 + j - i]),
                        Bias::Causal => {
                            if j > i {
                                f64::NEG_INFINITY
                            } else {
                                0.0
                            }
                        }
                    };
                    (product * scale + bias).exp()
                });
                let weights: Vec<f64> = scores.collect();
                let sum: f64 = weights.iter().sum();
                for c in 0..d {
                    out[i * width + head * d + c] =
                        (0..tokens).map(|j| weights[j] / sum * f64::from(v[j * width + head * d + c])).sum();
                }
            }
        }
        out
    }

    fn attended(qkv: [&[f32]; 3], [tokens, heads, d]: [usize; 3], scale: f32, bias: Bias<'_>) -> Vec<f32> {
        let shape = [1, tokens, heads * d];
        let mut out = qkv[0].to_vec();
        let [k, v] = [View::new(qkv[1], shape), View::new(qkv[2], shape)];
        attention(ViewMut::new(&mut out, shape), k, v, heads, 0..tokens, scale, bias);
        out
    }

    #[test]
    fn tiles_agree_with_the_definition() {
        for [tokens, heads, d] in [[1, 1, 8], [5, 3, 6], [130, 2, 16], [1100, 1, 32]] {
            let n = tokens * heads * d;
            let [q, k, v] = [some(n, 1), some(n, 2), some(n, 3)];
            let table = some(heads * (2 * tokens - 1), 4);
            for bias in [Bias::None, Bias::Distance(&table), Bias::Causal] {
                let exact = exact([&q, &k, &v], [tokens, heads, d], 0.3, bias);
                let got = attended([&q, &k, &v], [tokens, heads, d], 0.3, bias);
                for (a, b) in got.iter().zip(&exact) {
                    assert!((f64::from(*a) - b).abs() < 2e-6, "{tokens} {heads} {d}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_shows_in_its_head_and_in_no_other() {
        let [tokens, heads, d] = [600, 2, 8];
        let n = tokens * heads * d;
        let sound = [some(n, 1), some(n, 2), some(n, 3)];
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for which in 0..3 {
                // The last token's last number: in the second tile of keys.
                let mut parts = sound.clone();
                parts[which][n - 1] = wrong;
                let got = attended([&parts[0], &parts[1], &parts[2]], [tokens, heads, d], 1.0, Bias::None);
                let finite = |head: usize| {
                    let mut rows = got.chunks(d).skip(head).step_by(heads);
                    rows.all(|row| row.iter().all(|x| x.is_finite()))
                };
                assert!(finite(0) && !finite(1), "{wrong} in {which}");
            }
        }
    }

    #[test]
    fn only_the_queries_asked_for_are_replaced_with_the_same_bits_on_any_number_of_threads() {
        let shape = [300, 2, 16];
        let n = shape.iter().product();
        let [q, k, v] = [some(n, 1), some(n, 2), some(n, 3)];
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| attended([&q, &k, &v], shape, 0.25, Bias::None))
        };
        let all = run(1);
        assert_eq!(all, run(3));
        let mut part = q.clone();
        let view = |x| View::new(x, [1, 300, 32]);
        attention(ViewMut::new(&mut part, [1, 300, 32]), view(&k), view(&v), 2, 128..200, 0.25, Bias::None);
        assert_eq!(part[128 * 32..200 * 32], all[128 * 32..200 * 32]);
        assert_eq!(part[..128 * 32], q[..128 * 32]);
        assert_eq!(part[200 * 32..], q[200 * 32..]);
    }
}
