//! Transformer blocks of FLUX, with separate streams for text and image, and with one joint stream.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;

use super::reference_cache::{KeysValues, References};
use super::{FluxConfig, Rope};
use crate::kernels::activation::{gelu_tanh, silu};
use crate::nn::{EPS, Linear, Prefetch, RmsNorm, attention, join_heads, layer_norm_plain, split_heads};
use crate::weights::Weights;

/// What the conditioning vector does to one sublayer: `[batch, 1, hidden]` each.
struct Modulation {
    shift: Tensor<3>,
    scale: Tensor<3>,
    gate: Tensor<3>,
}

impl Modulation {
    /// Cuts `[batch, 1, 3 * N * hidden]` into triples of (shift, scale, gate).
    fn cut<const N: usize>(modulation: &Tensor<3>) -> [Self; N] {
        let width = modulation.dims()[2] / (3 * N);
        let chunk = |i: usize| modulation.clone().narrow(2, i * width, width);
        std::array::from_fn(|i| Self { shift: chunk(3 * i), scale: chunk(3 * i + 1), gate: chunk(3 * i + 2) })
    }

    /// `(1 + scale) * layer_norm(x) + shift`. `[batch, tokens, hidden]` -> the same.
    fn modulate(&self, x: Tensor<3>) -> Tensor<3> {
        #[cfg(feature = "flex")]
        if crate::kernels::recorded::is_recorded(&x) {
            let (shift, scale) = (self.shift.clone(), self.scale.clone());
            return crate::kernels::recorded::norm::modulate(x, shift, scale, EPS);
        }
        layer_norm_plain(x, EPS) * self.scale.clone().add_scalar(1.0) + self.shift.clone()
    }
}

/// `lin(silu(vec))`: `[batch, hidden]` -> `[batch, 1, parts * hidden]`.
fn modulation(lin: &Linear, vec: &Tensor<2>) -> Tensor<3> {
    lin.forward(silu(vec.clone()).unsqueeze_dim(1))
}

/// Root mean square norms of queries and keys.
#[derive(Module, Debug)]
pub(super) struct QkNorm {
    pub(super) query_norm: RmsNorm,
    pub(super) key_norm: RmsNorm,
}

impl QkNorm {
    fn load(w: Weights<'_>, head_dim: usize) -> Self {
        Self {
            query_norm: RmsNorm::load(w, "query_norm.scale", head_dim, EPS),
            key_norm: RmsNorm::load(w, "key_norm.scale", head_dim, EPS),
        }
    }

    /// `[batch, tokens, 3 * hidden]` -> normed q, normed k, v, each `[batch, heads, tokens, D]`.
    fn split(&self, qkv: Tensor<3>, heads: usize) -> [Tensor<4>; 3] {
        let hidden = qkv.dims()[2] / 3;
        let part = |i: usize| split_heads(qkv.clone().narrow(2, i * hidden, hidden), heads);
        [self.query_norm.forward(part(0)), self.key_norm.forward(part(1)), part(2)]
    }
}

/// Rotates queries and keys, attends, joins the heads. -> `[batch, tokens, hidden]`.
///
/// Cached keys and values of references come after those of the tokens that are there; `references` is how many there are.
fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    rope: &Rope,
    (references, cache): (usize, References<'_>),
) -> Tensor<3> {
    let (q, mut k, mut v) = (rope.apply(q), rope.apply(k), v);
    match cache {
        References::Cached(KeysValues::Tensors(cached)) => {
            let [keys, values] = &**cached;
            k = Tensor::cat(vec![k, keys.clone()], 2);
            v = Tensor::cat(vec![v, values.clone()], 2);
        }
        References::Recorded(slot) => {
            let first = k.dims()[2].saturating_sub(references);
            let last = |x: &Tensor<4>| x.clone().narrow(2, first, references);
            *slot = Some(KeysValues::Tensors(Box::new([last(&k), last(&v)])));
        }
        _ => {}
    }
    join_heads(attention(q, k, v, None, AttentionModuleOptions::default()))
}

/// Projections of one stream's attention.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// To queries, keys and values, `[hidden, 3 * hidden]`.
    pub qkv: Linear,
    pub(super) norm: QkNorm,
    /// Back to the stream, `[hidden, hidden]`.
    pub proj: Linear,
}

impl SelfAttention {
    fn load(w: Weights<'_>, config: &FluxConfig) -> Self {
        let hidden = config.hidden_size;
        Self {
            qkv: w.at("qkv", |w| Linear::load(w, [hidden, 3 * hidden])),
            norm: w.at("norm", |w| QkNorm::load(w, config.head_dim())),
            proj: w.at("proj", |w| Linear::load(w, [hidden, hidden])),
        }
    }
}

/// One of the two streams of a [`DoubleStreamBlock`].
#[derive(Module, Debug)]
pub struct Stream {
    /// Modulation of both sublayers (`{img,txt}_mod.lin`).
    pub modulation: Linear,
    /// `{img,txt}_attn`.
    pub attn: SelfAttention,
    /// `{img,txt}_mlp.0`.
    pub mlp_in: Linear,
    /// `{img,txt}_mlp.2`.
    pub mlp_out: Linear,
}

impl Stream {
    fn load(w: Weights<'_>, name: &str, config: &FluxConfig) -> Self {
        let (hidden, mlp) = (config.hidden_size, config.mlp_hidden);
        Self {
            modulation: w
                .used_once()
                .at(format!("{name}_mod.lin"), |w| Linear::load(w, [hidden, 6 * hidden])),
            attn: w.at(format!("{name}_attn"), |w| SelfAttention::load(w, config)),
            mlp_in: w.at(format!("{name}_mlp.0"), |w| Linear::load(w, [hidden, mlp])),
            mlp_out: w.at(format!("{name}_mlp.2"), |w| Linear::load(w, [mlp, hidden])),
        }
    }

    /// The layer `name` after `{img,txt}_`.
    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "mod.lin" => Some(&mut self.modulation),
            "attn.qkv" => Some(&mut self.attn.qkv),
            "attn.proj" => Some(&mut self.attn.proj),
            "mlp.0" => Some(&mut self.mlp_in),
            "mlp.2" => Some(&mut self.mlp_out),
            _ => None,
        }
    }

    fn linears_mut(&mut self) -> [&mut Linear; 5] {
        let attn = &mut self.attn;
        [&mut self.modulation, &mut attn.qkv, &mut attn.proj, &mut self.mlp_in, &mut self.mlp_out]
    }

    /// Those that run at every step.
    pub(super) fn step_linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.attn.qkv, &mut self.attn.proj, &mut self.mlp_in, &mut self.mlp_out]
    }

    /// The same.
    fn linears(&self) -> [&Linear; 4] {
        [&self.attn.qkv, &self.attn.proj, &self.mlp_in, &self.mlp_out]
    }

    /// What follows the joint attention: projection and MLP, each gated and added to `x`.
    fn finish(&self, x: Tensor<3>, attended: Tensor<3>, [first, second]: [Modulation; 2]) -> Tensor<3> {
        let x = x + first.gate * self.attn.proj.forward(attended);
        let mlp = self.mlp_out.forward(gelu_tanh(self.mlp_in.forward(second.modulate(x.clone()))));
        x + second.gate * mlp
    }
}

/// A block in which text and image have weights of their own and attend jointly.
#[derive(Module, Debug)]
pub struct DoubleStreamBlock {
    /// Image stream: noisy latent and references.
    pub img: Stream,
    /// Text stream.
    pub txt: Stream,
    pub(super) num_heads: usize,
}

impl DoubleStreamBlock {
    pub(super) fn load(w: Weights<'_>, config: &FluxConfig) -> Self {
        Self {
            img: Stream::load(w, "img", config),
            txt: Stream::load(w, "txt", config),
            num_heads: config.num_heads,
        }
    }

    pub(super) fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name.split_once('_')? {
            ("img", layer) => self.img.linear_mut(layer),
            ("txt", layer) => self.txt.linear_mut(layer),
            _ => None,
        }
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.img.linears_mut().into_iter().chain(self.txt.linears_mut()).collect()
    }

    /// `img` `[batch, image tokens, hidden]`, `txt` `[batch, text tokens, hidden]`, `vec` `[batch, hidden]` -> `(img, txt)`.
    pub fn forward(
        &self,
        img: Tensor<3>,
        txt: Tensor<3>,
        vec: &Tensor<2>,
        rope: &Rope,
    ) -> (Tensor<3>, Tensor<3>) {
        let modulations = [&self.img, &self.txt].map(|stream| modulation(&stream.modulation, vec));
        self.forward_modulated(img, txt, modulations, rope, (0, References::Computed))
    }

    /// The same with the modulations of image and text, `[batch, 1, 6 * hidden]` each.
    pub(super) fn forward_modulated(
        &self,
        img: Tensor<3>,
        txt: Tensor<3>,
        modulations: [Tensor<3>; 2],
        rope: &Rope,
        references: (usize, References<'_>),
    ) -> (Tensor<3>, Tensor<3>) {
        let text_tokens = txt.dims()[1];
        let image_tokens = img.dims()[1];
        let start = |stream: &Stream, x: &Tensor<3>, modulation: &Tensor<3>| {
            let modulation: [Modulation; 2] = Modulation::cut(modulation);
            let qkv = stream.attn.qkv.forward(modulation[0].modulate(x.clone()));
            (stream.attn.norm.split(qkv, self.num_heads), modulation)
        };
        let ([img_q, img_k, img_v], img_mod) = start(&self.img, &img, &modulations[0]);
        let ([txt_q, txt_k, txt_v], txt_mod) = start(&self.txt, &txt, &modulations[1]);
        let join = |txt, img| Tensor::cat(vec![txt, img], 2);
        let (q, k, v) = (join(txt_q, img_q), join(txt_k, img_k), join(txt_v, img_v));
        let attended = attend(q, k, v, rope, references);
        let txt_attended = attended.clone().narrow(1, 0, text_tokens);
        let img_attended = attended.narrow(1, text_tokens, image_tokens);
        (self.img.finish(img, img_attended, img_mod), self.txt.finish(txt, txt_attended, txt_mod))
    }
}

/// The linear layers that run at every step: those of modulations run once for many.
impl Prefetch for DoubleStreamBlock {
    fn linears(&self) -> Vec<&Linear> {
        [self.img.linears(), self.txt.linears()].concat()
    }
}

/// A block with one stream for text and image, whose attention and MLP run side by side.
#[derive(Module, Debug)]
pub struct SingleStreamBlock {
    /// Modulation (`modulation.lin`).
    pub modulation: Linear,
    /// To queries, keys, values and the MLP, `[hidden, 3 * hidden + mlp]`.
    pub linear1: Linear,
    /// From attention and MLP back to the stream, `[hidden + mlp, hidden]`.
    pub linear2: Linear,
    pub(super) norm: QkNorm,
    pub(super) num_heads: usize,
}

impl SingleStreamBlock {
    pub(super) fn load(w: Weights<'_>, config: &FluxConfig) -> Self {
        let (hidden, mlp) = (config.hidden_size, config.mlp_hidden);
        Self {
            modulation: w.used_once().at("modulation.lin", |w| Linear::load(w, [hidden, 3 * hidden])),
            linear1: w.at("linear1", |w| Linear::load(w, [hidden, 3 * hidden + mlp])),
            linear2: w.at("linear2", |w| Linear::load(w, [hidden + mlp, hidden])),
            norm: w.at("norm", |w| QkNorm::load(w, config.head_dim())),
            num_heads: config.num_heads,
        }
    }

    pub(super) fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        match name {
            "modulation.lin" => Some(&mut self.modulation),
            "linear1" => Some(&mut self.linear1),
            "linear2" => Some(&mut self.linear2),
            _ => None,
        }
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        vec![&mut self.modulation, &mut self.linear1, &mut self.linear2]
    }

    /// `x` `[batch, text and image tokens, hidden]`, `vec` `[batch, hidden]` -> as `x`.
    pub fn forward(&self, x: Tensor<3>, vec: &Tensor<2>, rope: &Rope) -> Tensor<3> {
        self.forward_modulated(x, modulation(&self.modulation, vec), rope, (0, References::Computed))
    }

    /// The same with the modulation `[batch, 1, 3 * hidden]`.
    pub(super) fn forward_modulated(
        &self,
        x: Tensor<3>,
        modulation: Tensor<3>,
        rope: &Rope,
        references: (usize, References<'_>),
    ) -> Tensor<3> {
        let hidden = x.dims()[2];
        let [modulation]: [Modulation; 1] = Modulation::cut(&modulation);
        let out = self.linear1.forward(modulation.modulate(x.clone()));
        let mlp_width = out.dims()[2] - 3 * hidden;
        let [q, k, v] = self.norm.split(out.clone().narrow(2, 0, 3 * hidden), self.num_heads);
        let mlp = gelu_tanh(out.narrow(2, 3 * hidden, mlp_width));
        let joined = Tensor::cat(vec![attend(q, k, v, rope, references), mlp], 2);
        x + modulation.gate * self.linear2.forward(joined)
    }
}

/// The linear layers that run at every step: those of modulations run once for many.
impl Prefetch for SingleStreamBlock {
    fn linears(&self) -> Vec<&Linear> {
        vec![&self.linear1, &self.linear2]
    }
}
