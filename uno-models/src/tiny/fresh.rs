//! First weights of models that are trained from scratch: names and shapes of the real checkpoints, at small widths.

use std::collections::BTreeMap;

use uno_core::weights::{Checkpoint, StoredTensor};

use super::world::Draw;

/// Widths and depths of uno-tiny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Channels of the autoencoder's levels, finest first.
    pub ae_channels: Vec<usize>,
    /// Width of the transformer's streams.
    pub hidden: usize,
    /// Width of an attention head.
    pub head: usize,
    /// Blocks with two streams and with one.
    pub depth: [usize; 2],
    /// Width of T5, of its MLP, and its blocks.
    pub t5: [usize; 3],
    /// Width of CLIP, of its MLP, and its blocks.
    pub clip: [usize; 3],
    /// Tokens of the T5 and the CLIP vocabulary.
    pub vocabulary: [usize; 2],
    /// Tokens of a prompt for CLIP.
    pub clip_tokens: usize,
}

impl Default for Sizes {
    /// Those of the model that the programs carry, but for the vocabularies, which are the tokenizers'.
    fn default() -> Self {
        Self {
            // Norms have 32 groups: with one channel in each, no channel could say how bright a picture is.
            ae_channels: vec![64, 64, 64, 64],
            hidden: 160,
            head: 32,
            depth: [1, 5],
            t5: [64, 128, 2],
            clip: [64, 128, 2],
            vocabulary: [0, 0],
            clip_tokens: 32,
        }
    }
}

/// Channels of a latent, and features of a packed token.
const LATENT: usize = 16;
const TOKEN: usize = 64;
const TIME: usize = 256;
/// Width of a T5 head.
pub const T5_HEAD: usize = 16;
/// Buckets of relative positions.
pub const T5_BUCKETS: usize = 32;
/// Width of a CLIP head.
pub const CLIP_HEAD: usize = 16;

/// Tensors by name, drawn from a seed.
struct Fresh {
    seed: u64,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Fresh {
    fn new(seed: u64) -> Self {
        Self { seed, tensors: BTreeMap::new() }
    }

    fn put(&mut self, name: String, shape: Vec<usize>, numbers: &[f32]) {
        // The number of numbers is that of the shape in all calls below.
        if let Some(tensor) = StoredTensor::from_f32(shape, numbers) {
            self.tensors.insert(name, tensor);
        }
    }

    /// Normal numbers.
    fn normal(&mut self, name: String, shape: Vec<usize>, deviation: f32) {
        let count = shape.iter().product();
        let stream = self.tensors.len() as u64;
        let numbers: Vec<f32> = Draw::stream(self.seed, 0x6669_7273, stream)
            .normals(count)
            .iter()
            .map(|x| x * deviation)
            .collect();
        self.put(name, shape, &numbers);
    }

    fn constant(&mut self, name: String, count: usize, value: f32) {
        self.put(name, vec![count], &vec![value; count]);
    }

    /// A matrix that keeps the size of what it multiplies, times `gain`.
    fn matrix(&mut self, at: &str, [input, output]: [usize; 2], gain: f32) {
        self.normal(format!("{at}.weight"), vec![output, input], gain / (input as f32).sqrt());
    }

    /// A matrix and a bias of zeros.
    fn linear(&mut self, at: &str, shape: [usize; 2], gain: f32) {
        self.matrix(at, shape, gain);
        self.constant(format!("{at}.bias"), shape[1], 0.0);
    }

    fn conv(&mut self, at: &str, [input, output]: [usize; 2], kernel: usize, gain: f32) {
        let deviation = gain / ((input * kernel * kernel) as f32).sqrt();
        self.normal(format!("{at}.weight"), vec![output, input, kernel, kernel], deviation);
        self.constant(format!("{at}.bias"), output, 0.0);
    }

    fn norm(&mut self, at: &str, width: usize) {
        self.constant(format!("{at}.weight"), width, 1.0);
        self.constant(format!("{at}.bias"), width, 0.0);
    }

    fn checkpoint(self, name: &str) -> Checkpoint {
        Checkpoint::from_tensors(name, self.tensors)
    }
}

/// Gain of layers whose result is added to a stream: small, so that a fresh model is near the identity.
const BRANCH: f32 = 0.2;

/// A fresh autoencoder with one residual block per level.
pub fn autoencoder(sizes: &Sizes, seed: u64) -> Checkpoint {
    let mut f = Fresh::new(seed);
    let residual = |f: &mut Fresh, at: String, [input, output]: [usize; 2]| {
        f.norm(&format!("{at}.norm1"), input);
        f.conv(&format!("{at}.conv1"), [input, output], 3, 1.4);
        f.norm(&format!("{at}.norm2"), output);
        f.conv(&format!("{at}.conv2"), [output, output], 3, BRANCH);
        if input != output {
            f.conv(&format!("{at}.nin_shortcut"), [input, output], 1, 1.0);
        }
    };
    let middle = |f: &mut Fresh, at: &str, width: usize| {
        residual(f, format!("{at}.mid.block_1"), [width, width]);
        f.norm(&format!("{at}.mid.attn_1.norm"), width);
        for (part, gain) in [("q", 1.0), ("k", 1.0), ("v", 1.0), ("proj_out", BRANCH)] {
            f.conv(&format!("{at}.mid.attn_1.{part}"), [width, width], 1, gain);
        }
        residual(f, format!("{at}.mid.block_2"), [width, width]);
    };
    let channels = &sizes.ae_channels;
    let (Some(&first), Some(&last)) = (channels.first(), channels.last()) else {
        return f.checkpoint("fresh autoencoder");
    };
    f.conv("encoder.conv_in", [3, first], 3, 1.0);
    let mut width = first;
    for (level, &output) in channels.iter().enumerate() {
        residual(&mut f, format!("encoder.down.{level}.block.0"), [width, output]);
        width = output;
        if level + 1 < channels.len() {
            f.conv(&format!("encoder.down.{level}.downsample.conv"), [width, width], 3, 1.0);
        }
    }
    middle(&mut f, "encoder", width);
    f.norm("encoder.norm_out", width);
    f.conv("encoder.conv_out", [width, 2 * LATENT], 3, 0.7);
    // Little noise at first, so that the decoder learns from the latents: log-variances begin near -5.
    let bias: Vec<f32> = (0..2 * LATENT).map(|i| if i < LATENT { 0.0 } else { -5.0 }).collect();
    f.put("encoder.conv_out.bias".into(), vec![2 * LATENT], &bias);
    f.conv("decoder.conv_in", [LATENT, last], 3, 1.0);
    middle(&mut f, "decoder", last);
    for (level, &output) in channels.iter().enumerate().rev() {
        residual(&mut f, format!("decoder.up.{level}.block.0"), [width, output]);
        residual(&mut f, format!("decoder.up.{level}.block.1"), [output, output]);
        width = output;
        if level > 0 {
            f.conv(&format!("decoder.up.{level}.upsample.conv"), [width, width], 3, 1.0);
        }
    }
    f.norm("decoder.norm_out", width);
    f.conv("decoder.conv_out", [width, 3], 3, 0.5);
    f.checkpoint("fresh autoencoder")
}

/// A fresh transformer. Modulations and the last layer begin at zero (Peebles and Xie, arXiv 2212.09748).
pub fn flux(sizes: &Sizes, seed: u64) -> Checkpoint {
    let mut f = Fresh::new(seed);
    let h = sizes.hidden;
    f.linear("img_in", [TOKEN, h], 1.0);
    f.linear("txt_in", [sizes.t5[0], h], 1.0);
    for (name, input) in [("time_in", TIME), ("guidance_in", TIME), ("vector_in", sizes.clip[0])] {
        // The sinusoids of guidance are at all times the same; their share is kept small.
        let gain = if name == "guidance_in" { 0.1 } else { 1.0 };
        f.linear(&format!("{name}.in_layer"), [input, h], 1.0);
        f.linear(&format!("{name}.out_layer"), [h, h], gain);
    }
    for block in 0..sizes.depth[0] {
        for stream in ["img", "txt"] {
            let at = format!("double_blocks.{block}.{stream}");
            f.linear(&format!("{at}_mod.lin"), [h, 6 * h], 0.0);
            f.linear(&format!("{at}_attn.qkv"), [h, 3 * h], 1.0);
            for part in ["query_norm", "key_norm"] {
                f.constant(format!("{at}_attn.norm.{part}.scale"), sizes.head, 1.0);
            }
            f.linear(&format!("{at}_attn.proj"), [h, h], 1.0);
            f.linear(&format!("{at}_mlp.0"), [h, 4 * h], 1.0);
            f.linear(&format!("{at}_mlp.2"), [4 * h, h], 1.0);
        }
    }
    for block in 0..sizes.depth[1] {
        let at = format!("single_blocks.{block}");
        f.linear(&format!("{at}.modulation.lin"), [h, 3 * h], 0.0);
        f.linear(&format!("{at}.linear1"), [h, 7 * h], 1.0);
        f.linear(&format!("{at}.linear2"), [5 * h, h], 1.0);
        for part in ["query_norm", "key_norm"] {
            f.constant(format!("{at}.norm.{part}.scale"), sizes.head, 1.0);
        }
    }
    f.linear("final_layer.adaLN_modulation.1", [h, 2 * h], 0.0);
    f.linear("final_layer.linear", [h, TOKEN], 0.0);
    f.checkpoint("fresh transformer")
}

/// A fresh T5 encoder.
pub fn t5(sizes: &Sizes, seed: u64) -> Checkpoint {
    let mut f = Fresh::new(seed);
    let [d, ff, blocks] = sizes.t5;
    let heads = d / T5_HEAD;
    f.normal("shared.weight".into(), vec![sizes.vocabulary[0], d], 1.0);
    for block in 0..blocks {
        let at = format!("encoder.block.{block}.layer");
        // T5 does not scale its scores: the factor 1 / sqrt(d_kv) is in the first queries.
        for (part, gain) in [("q", 1.0 / (T5_HEAD as f32).sqrt()), ("k", 1.0), ("v", 1.0), ("o", 1.0)] {
            f.matrix(&format!("{at}.0.SelfAttention.{part}"), [d, d], gain);
        }
        f.constant(format!("{at}.0.layer_norm.weight"), d, 1.0);
        f.matrix(&format!("{at}.1.DenseReluDense.wi_0"), [d, ff], 1.0);
        f.matrix(&format!("{at}.1.DenseReluDense.wi_1"), [d, ff], 1.0);
        f.matrix(&format!("{at}.1.DenseReluDense.wo"), [ff, d], 1.0);
        f.constant(format!("{at}.1.layer_norm.weight"), d, 1.0);
    }
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    f.normal(bias.into(), vec![T5_BUCKETS, heads], 0.5);
    f.constant("encoder.final_layer_norm.weight".into(), d, 1.0);
    f.checkpoint("fresh T5")
}

/// A fresh CLIP text encoder.
pub fn clip(sizes: &Sizes, seed: u64) -> Checkpoint {
    let mut f = Fresh::new(seed);
    let [d, ff, blocks] = sizes.clip;
    f.normal("text_model.embeddings.token_embedding.weight".into(), vec![sizes.vocabulary[1], d], 0.5);
    f.normal("text_model.embeddings.position_embedding.weight".into(), vec![sizes.clip_tokens, d], 0.1);
    for block in 0..blocks {
        let at = format!("text_model.encoder.layers.{block}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            f.linear(&format!("{at}.self_attn.{part}"), [d, d], 1.0);
        }
        f.linear(&format!("{at}.mlp.fc1"), [d, ff], 1.0);
        f.linear(&format!("{at}.mlp.fc2"), [ff, d], 1.0);
        f.norm(&format!("{at}.layer_norm1"), d);
        f.norm(&format!("{at}.layer_norm2"), d);
    }
    f.norm("text_model.final_layer_norm", d);
    f.checkpoint("fresh CLIP")
}
