//! Scaled dot-product attention by burn's operations, on any device.

use std::ops::Range;

use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{FloatDType, Tensor, module};

use super::in_f32;
use crate::device::is_cpu;

/// Bytes of scores that are held at once on a GPU, where no kernel spares them; some passes over them take several times as much.
const SCORES: usize = 256 << 20;

/// Scaled dot-product attention; everything `[batch, heads, tokens, d]`, `bias` `[1, heads, tokens, tokens]`.
///
/// What is not a number in queries, keys or values is not one in the result.
pub(crate) fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    bias: Option<Tensor<4>>,
    options: AttentionModuleOptions,
) -> Tensor<4> {
    if is_cpu(&q.device()) {
        return carrying_non_finite(q, k, v, bias, options);
    }
    if q.is_autodiff() {
        return module::attention(q, k, v, None, bias, options);
    }
    if is_fused(&q, bias.as_ref(), options) {
        return in_whole_tiles(q, |q| module::attention(q, k, v, None, None, options));
    }
    by_queries(q, k, v, bias, options, SCORES)
}

/// Whether burn has one kernel for all of it: where it times its kernels, for 16-bit formats, with nothing added to the scores.
///
/// That kernel multiplies in f16 (and adds in f32) whatever its input, so f32 is not left to it.
fn is_fused(q: &Tensor<4>, bias: Option<&Tensor<4>>, options: AttentionModuleOptions) -> bool {
    let half = matches!(super::float_dtype(q), FloatDType::F16 | FloatDType::BF16);
    let plain = bias.is_none() && options.scale.is_none() && options.softcap.is_none() && !options.is_causal;
    cfg!(feature = "autotune") && half && plain
}

/// Runs `attend` with as many queries as its kernel takes whole tiles of, and gives the rows that were asked for.
///
/// cubek's kernel for tensor cores needs a multiple of its tile's rows, 128 at most; for any other number of queries burn quietly
/// takes the way that holds all scores.
fn in_whole_tiles(q: Tensor<4>, attend: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    const ROWS: usize = 128;
    let [batch, heads, tokens, d] = q.dims();
    let more = tokens.next_multiple_of(ROWS) - tokens;
    if more == 0 {
        return attend(q);
    }
    let zeros = Tensor::zeros([batch, heads, more, d], (&q.device(), q.dtype()));
    attend(Tensor::cat(vec![q, zeros], 2)).narrow(2, 0, tokens)
}

/// Product, softmax and product in f32 (scores in a 16-bit format would lose too much), for so many queries at a time that their
/// scores take at most so many bytes.
fn by_queries(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    bias: Option<Tensor<4>>,
    options: AttentionModuleOptions,
    bytes: usize,
) -> Tensor<4> {
    let ([batch, heads, tokens, d], keys) = (q.dims(), k.dims()[2]);
    // A scale that is given keeps burn from the kernel that multiplies in f16.
    let scale = options.scale.or(Some(1.0 / (d as f64).sqrt()));
    let options = AttentionModuleOptions { scale, ..options };
    let [k, v] = [k, v].map(|x| x.cast(FloatDType::F32));
    let bias = bias.map(|bias| bias.cast(FloatDType::F32));
    let rows = (bytes / (4 * batch * heads * keys).max(1)).max(1);
    in_f32(q, |q| {
        // Which keys a causal mask hides depends on the number of queries.
        if rows >= tokens || options.is_causal {
            return module::attention(q, k, v, None, bias, options);
        }
        let of = |Range { start, end }: Range<usize>| {
            let some = |x: &Tensor<4>| x.clone().narrow(2, start, end - start);
            let bias = bias.as_ref().map(some);
            module::attention(some(&q), k.clone(), v.clone(), None, bias, options)
        };
        let parts = (0..tokens).step_by(rows).map(|first| of(first..(first + rows).min(tokens)));
        Tensor::cat(parts.collect(), 2)
    })
}

/// burn's CPU kernel takes a row of scores of which none is a number for one that is masked, and gives zeros. A damaged
/// weight or an overflow before queries or keys would vanish, and the picture be wrong for no visible reason. So what is not
/// finite in them is carried into the result; numbers stay as they are. GPUs need no such help (tests/gpu).
fn carrying_non_finite(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    bias: Option<Tensor<4>>,
    options: AttentionModuleOptions,
) -> Tensor<4> {
    // 0, or NaN for NaN and infinity.
    let zero = |x: &Tensor<4>| x.clone().detach().mul_scalar(0.0).sum_dim(3);
    let (of_queries, of_keys) = (zero(&q), zero(&k).sum_dim(2));
    let of_bias = bias.as_ref().map(zero);
    let attended = module::attention(q, k, v, None, bias, options) + of_queries + of_keys;
    match of_bias {
        Some(of_bias) => attended + of_bias,
        None => attended,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn random(tokens: usize) -> Tensor<4> {
        Tensor::random([1, 2, tokens, 8], Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    #[test]
    fn what_is_no_number_comes_out_of_attention_too() {
        let (q, k, v) = (random(5), random(5), random(5));
        let attend = |q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>| {
            attention(q.clone(), k.clone(), v.clone(), None, AttentionModuleOptions::default())
        };
        let sound = module::attention(q.clone(), k.clone(), v.clone(), None, None, Default::default());
        assert_eq!(attend(&q, &k, &v).into_data(), sound.into_data());
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let wrong = q.clone().slice_fill([0..1, 1..2, 0..5, 3..4], wrong);
            for attended in [attend(&wrong, &k, &v), attend(&q, &wrong, &v), attend(&q, &k, &wrong)] {
                let finite =
                    |head| attended.clone().narrow(1, head, 1).is_finite().all().into_scalar::<bool>();
                assert!(finite(0) && !finite(1));
            }
        }
    }

    #[test]
    fn queries_in_whole_tiles_give_the_same() {
        for tokens in [1, 127, 128, 130] {
            let (q, k, v) = (random(tokens), random(6), random(6));
            let attend = |q| module::attention(q, k.clone(), v.clone(), None, None, Default::default());
            let wanted = attend(q.clone());
            let got = in_whole_tiles(q, |q| {
                assert_eq!(q.dims()[2] % 128, 0);
                attend(q)
            });
            assert!((wanted - got).abs().max().into_scalar::<f32>() < 1e-6, "{tokens} queries");
        }
    }

    #[test]
    fn some_queries_at_a_time_give_the_same() {
        let (q, k, v) = (random(7), random(6), random(6));
        let whole = module::attention(q.clone(), k.clone(), v.clone(), None, None, Default::default());
        for queries in [1, 3, 7, 100] {
            let bytes = queries * 2 * 6 * 4;
            let parts = by_queries(q.clone(), k.clone(), v.clone(), None, Default::default(), bytes);
            assert!((whole.clone() - parts).abs().max().into_scalar::<f32>() < 1e-6, "{queries} at a time");
        }
    }
}
