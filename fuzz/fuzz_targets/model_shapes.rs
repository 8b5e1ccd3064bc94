//! Models whose files are sound safetensors but lie about names, shapes and number formats.
//!
//! Random bytes hardly ever get past the names of tensors. Here the input edits a small model that fits: first its dimensions, then
//! single tensors. What a model then loads it must also be able to compute with. No input at all is the model itself.

#![no_main]

use std::sync::LazyLock;

use burn::tensor::{Device, Distribution, Tensor};
use bytes::Bytes;
use libfuzzer_sys::{Corpus, fuzz_target};
use uno_core::flux::Flux;
use uno_core::lora;
use uno_core::text::{ClipTextConfig, ClipTextEncoder, T5Encoder};
use uno_core::traits::{Conditioning, LatentCodec, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage};

/// What a dimension may become: small, just beside what is wanted, and where products overflow.
const DIMENSIONS: [usize; 40] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    12,
    16,
    24,
    31,
    32,
    33,
    48,
    63,
    64,
    65,
    72,
    96,
    100,
    128,
    160,
    192,
    256,
    510,
    512,
    514,
    1024,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 61,
    1 << 62,
    1 << 63,
    usize::MAX / 3,
    usize::MAX,
];
const DTYPES: [(&str, usize); 8] =
    [("F8_E4M3", 1), ("BF16", 2), ("F32", 4), ("F16", 2), ("F64", 8), ("I64", 8), ("U8", 1), ("F8_E5M2", 1)];
/// Most numbers in a model; keeps one run in milliseconds.
const MOST_NUMBERS: usize = 1 << 18;

static DEVICE: LazyLock<Device> = LazyLock::new(|| uno_core::device::open("cpu").expect("the CPU opens"));

/// The input, byte by byte; zeros after its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> usize {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*byte)
    }

    /// `usual`, unless the input names another.
    fn dimension(&mut self, usual: usize) -> usize {
        match self.byte() {
            0 => usual,
            n => DIMENSIONS[(n - 1) % DIMENSIONS.len()],
        }
    }

    /// As [`Script::dimension`], for what is repeated.
    fn count(&mut self, usual: usize) -> usize {
        self.dimension(usual).min(6)
    }
}

struct Entry {
    name: String,
    shape: Vec<usize>,
    dtype: usize,
}

/// The tensors of a model.
#[derive(Default)]
struct Model(Vec<Entry>);

impl Model {
    fn tensor(&mut self, name: String, shape: &[usize]) {
        self.0.push(Entry { name, shape: shape.to_vec(), dtype: 0 });
    }

    /// `weight` of any shape and `bias` of its first dimension.
    fn layer(&mut self, name: &str, shape: &[usize]) {
        self.tensor(format!("{name}.weight"), shape);
        self.tensor(format!("{name}.bias"), &shape[..1]);
    }

    fn flux(script: &mut Script<'_>) -> Self {
        let mut m = Self::default();
        let h = script.dimension(32);
        let head = script.dimension(32);
        let [input, txt, vec, time, mlp] = [4, 2, 2, 2, 8].map(|usual| script.dimension(usual));
        let [double, single] = [1, 1].map(|usual| script.count(usual));
        let parts = |n: usize| h.wrapping_mul(n);
        m.layer("img_in", &[h, input]);
        m.layer("txt_in", &[h, txt]);
        let embedders: &[(&str, usize)] = &[("time_in", time), ("vector_in", vec), ("guidance_in", time)];
        for (name, width) in &embedders[..if script.byte() % 2 == 0 { 3 } else { 2 }] {
            m.layer(&format!("{name}.in_layer"), &[h, *width]);
            m.layer(&format!("{name}.out_layer"), &[h, h]);
        }
        for i in 0..double {
            for stream in ["img", "txt"] {
                let name = format!("double_blocks.{i}.{stream}");
                m.layer(&format!("{name}_mod.lin"), &[parts(6), h]);
                m.layer(&format!("{name}_attn.qkv"), &[parts(3), h]);
                m.layer(&format!("{name}_attn.proj"), &[h, h]);
                m.tensor(format!("{name}_attn.norm.query_norm.scale"), &[head]);
                m.tensor(format!("{name}_attn.norm.key_norm.scale"), &[head]);
                m.layer(&format!("{name}_mlp.0"), &[mlp, h]);
                m.layer(&format!("{name}_mlp.2"), &[h, mlp]);
            }
        }
        for i in 0..single {
            let name = format!("single_blocks.{i}");
            m.layer(&format!("{name}.modulation.lin"), &[parts(3), h]);
            m.layer(&format!("{name}.linear1"), &[parts(3).wrapping_add(mlp), h]);
            m.layer(&format!("{name}.linear2"), &[h, h.wrapping_add(mlp)]);
            m.tensor(format!("{name}.norm.query_norm.scale"), &[head]);
            m.tensor(format!("{name}.norm.key_norm.scale"), &[head]);
        }
        m.layer("final_layer.adaLN_modulation.1", &[parts(2), h]);
        m.layer("final_layer.linear", &[input, h]);
        m
    }

    /// A LoRA for the unedited [`Model::flux`].
    fn lora(script: &mut Script<'_>) -> Self {
        let mut m = Self::default();
        let [h, mlp, rank] = [32, 8, 1].map(|usual| script.dimension(usual));
        let mut branch = |name: String, input: usize, output: usize| {
            m.tensor(format!("{name}.down.weight"), &[rank, input]);
            m.tensor(format!("{name}.up.weight"), &[output, rank]);
        };
        for (name, parts) in [("qkv_lora1", 3), ("qkv_lora2", 3), ("proj_lora1", 1), ("proj_lora2", 1)] {
            branch(format!("double_blocks.0.processor.{name}"), h, h.wrapping_mul(parts));
        }
        branch("single_blocks.0.processor.qkv_lora".into(), h, h.wrapping_mul(3));
        branch("single_blocks.0.processor.proj_lora".into(), h.wrapping_add(mlp), h);
        m
    }

    fn resnet(&mut self, name: &str, [input, output]: [usize; 2]) {
        self.layer(&format!("{name}.norm1"), &[input]);
        self.layer(&format!("{name}.conv1"), &[output, input, 3, 3]);
        self.layer(&format!("{name}.norm2"), &[output]);
        self.layer(&format!("{name}.conv2"), &[output, output, 3, 3]);
        if input != output {
            self.layer(&format!("{name}.nin_shortcut"), &[output, input, 1, 1]);
        }
    }

    fn mid(&mut self, name: &str, channels: usize) {
        self.resnet(&format!("{name}.mid.block_1"), [channels; 2]);
        self.layer(&format!("{name}.mid.attn_1.norm"), &[channels]);
        for part in ["q", "k", "v", "proj_out"] {
            self.layer(&format!("{name}.mid.attn_1.{part}"), &[channels, channels, 1, 1]);
        }
        self.resnet(&format!("{name}.mid.block_2"), [channels; 2]);
    }

    fn autoencoder(script: &mut Script<'_>) -> Self {
        let mut m = Self::default();
        let base = script.dimension(32);
        let latent = script.dimension(1);
        let [levels, blocks] = [1, 1].map(|usual| script.count(usual));
        let channels: Vec<usize> = (0..levels).map(|_| script.dimension(32)).collect();
        let mut input = base;
        m.layer("encoder.conv_in", &[base, 3, 3, 3]);
        for (level, &output) in channels.iter().enumerate() {
            for i in 0..blocks {
                m.resnet(&format!("encoder.down.{level}.block.{i}"), [input, output]);
                input = output;
            }
            if level + 1 < levels {
                m.layer(&format!("encoder.down.{level}.downsample.conv"), &[output, output, 3, 3]);
            }
        }
        m.mid("encoder", input);
        m.layer("encoder.norm_out", &[input]);
        m.layer("encoder.conv_out", &[latent.wrapping_mul(2), input, 3, 3]);
        m.layer("decoder.conv_in", &[input, latent, 3, 3]);
        m.mid("decoder", input);
        for (level, &output) in channels.iter().enumerate().rev() {
            for i in 0..=blocks {
                m.resnet(&format!("decoder.up.{level}.block.{i}"), [input, output]);
                input = output;
            }
            if level > 0 {
                m.layer(&format!("decoder.up.{level}.upsample.conv"), &[output, output, 3, 3]);
            }
        }
        m.layer("decoder.norm_out", &[input]);
        m.layer("decoder.conv_out", &[3, input, 3, 3]);
        m
    }

    fn t5(script: &mut Script<'_>) -> Self {
        let mut m = Self::default();
        let [vocab, d, inner, ff, buckets, heads] = [8, 4, 6, 5, 32, 2].map(|usual| script.dimension(usual));
        let layers = script.count(2);
        let embedding = ["shared.weight", "encoder.embed_tokens.weight"][script.byte() % 2];
        m.tensor(embedding.into(), &[vocab, d]);
        let relative = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        m.tensor(relative.into(), &[buckets, heads]);
        for i in 0..layers {
            let name = format!("encoder.block.{i}.layer");
            for part in ["q", "k", "v"] {
                m.tensor(format!("{name}.0.SelfAttention.{part}.weight"), &[inner, d]);
            }
            m.tensor(format!("{name}.0.SelfAttention.o.weight"), &[d, inner]);
            m.tensor(format!("{name}.1.DenseReluDense.wi_0.weight"), &[ff, d]);
            m.tensor(format!("{name}.1.DenseReluDense.wi_1.weight"), &[ff, d]);
            m.tensor(format!("{name}.1.DenseReluDense.wo.weight"), &[d, ff]);
            m.tensor(format!("{name}.0.layer_norm.weight"), &[d]);
            m.tensor(format!("{name}.1.layer_norm.weight"), &[d]);
        }
        m.tensor("encoder.final_layer_norm.weight".into(), &[d]);
        m
    }

    fn clip(script: &mut Script<'_>) -> Self {
        let mut m = Self::default();
        let [vocab, d, positions, ff] = [8, 6, 7, 5].map(|usual| script.dimension(usual));
        let layers = script.count(2);
        m.tensor("text_model.embeddings.token_embedding.weight".into(), &[vocab, d]);
        m.tensor("text_model.embeddings.position_embedding.weight".into(), &[positions, d]);
        for i in 0..layers {
            let name = format!("text_model.encoder.layers.{i}");
            m.layer(&format!("{name}.layer_norm1"), &[d]);
            m.layer(&format!("{name}.layer_norm2"), &[d]);
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                m.layer(&format!("{name}.self_attn.{part}"), &[d, d]);
            }
            m.layer(&format!("{name}.mlp.fc1"), &[ff, d]);
            m.layer(&format!("{name}.mlp.fc2"), &[d, ff]);
        }
        m.layer("text_model.final_layer_norm", &[d]);
        m
    }

    /// Changes single tensors until the input ends.
    fn edit(&mut self, script: &mut Script<'_>) {
        while !script.0.is_empty() && !self.0.is_empty() {
            let action = script.byte();
            let place = (script.byte() + 256 * script.byte()) % self.0.len();
            match action % 6 {
                0 => drop(self.0.remove(place)),
                1 => self.0[place].name.push_str(".weight"),
                2 => self.0[place].dtype = script.byte() % DTYPES.len(),
                3 => {
                    let dimension = script.dimension(1);
                    self.0[place].shape.push(dimension);
                }
                4 => drop(self.0[place].shape.pop()),
                _ => {
                    let axis = script.byte();
                    let dimension = script.dimension(0);
                    let shape = &mut self.0[place].shape;
                    let rank = shape.len().max(1);
                    if let Some(old) = shape.get_mut(axis % rank) {
                        *old = dimension;
                    }
                }
            }
        }
    }

    /// The model as a file of zeros; `None` where it would be large. Also tells how many numbers it holds.
    fn file(&self) -> Option<(Vec<u8>, usize)> {
        let (mut numbers, mut end) = (0usize, 0usize);
        let mut header = Vec::new();
        for Entry { name, shape, dtype } in &self.0 {
            let (dtype, size) = DTYPES[*dtype];
            let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
            numbers = numbers.checked_add(count).filter(|n| *n <= MOST_NUMBERS)?;
            let start = end;
            end += count * size;
            header.push(format!(
                r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
            ));
        }
        let header = format!("{{{}}}", header.join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + end, 0);
        Some((file, numbers))
    }
}

fn noise<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Default, &*DEVICE)
}

/// One evaluation with two tokens of text, of latent and of one reference.
fn evaluate(flux: &Flux) {
    let config = flux.config();
    let conditioning = Conditioning {
        txt: noise([1, 2, config.context_in_dim]),
        vec: noise([1, config.vec_in_dim]),
        references: vec![noise([1, 2, config.in_channels])],
        ids: vec![[0.0; 3]; 6],
    };
    let latent = noise([1, 2, config.in_channels]);
    let input = VelocityInput { latent, t: &[0.5], guidance: &[4.0], conditioning: &conditioning };
    let velocity = flux.velocity(input).expect("shapes fit");
    assert_eq!(velocity.dims(), [1, 2, config.in_channels]);
}

static FLUX: LazyLock<Flux> = LazyLock::new(|| {
    let (file, _) = Model::flux(&mut Script(&[])).file().expect("is small");
    let checkpoint = Checkpoint::from_bytes("x", file.into()).expect("opens");
    Flux::load(&checkpoint, &LoadOptions::new(&DEVICE)).expect("loads")
});

/// Loads and computes; `Some(false)` if the model was refused.
fn run(data: &[u8]) -> Option<bool> {
    let mut script = Script(data);
    let kind = script.byte() % 5;
    let flags = script.byte();
    let mut model = match kind {
        0 => Model::flux(&mut script),
        1 => Model::lora(&mut script),
        2 => Model::autoencoder(&mut script),
        3 => Model::t5(&mut script),
        _ => Model::clip(&mut script),
    };
    let heads = script.dimension(2);
    model.edit(&mut script);
    let (file, numbers) = model.file()?;
    // An edit may give two tensors one name or a shape that is refused, so this may fail.
    let Ok(checkpoint) = Checkpoint::from_bytes("x", Bytes::from(file)) else { return Some(false) };
    let storage = if flags % 2 == 0 { Storage::AsStored } else { Storage::Expanded };
    let options = LoadOptions::new(&DEVICE).with_storage(storage);
    // All data that a model computes with is in the file, so no dimension is above the number of its numbers.
    let sound = |dimensions: &[usize]| {
        assert!(dimensions.iter().all(|d| (1..=numbers).contains(d)), "{dimensions:?} of {numbers} numbers");
    };
    match kind {
        0 => {
            let Ok(flux) = Flux::load(&checkpoint, &options) else { return Some(false) };
            let c = flux.config();
            sound(&[c.in_channels, c.vec_in_dim, c.context_in_dim, c.hidden_size, c.mlp_hidden]);
            sound(&[c.num_heads, c.time_dim]);
            evaluate(&flux);
        }
        1 => {
            let mut flux = FLUX.clone();
            if lora::attach(&mut flux, &checkpoint, 1.0, &options).is_err() {
                return Some(false);
            }
            evaluate(&flux);
            let _ = lora::merge(&mut flux, burn::tensor::FloatDType::F32);
            evaluate(&flux);
        }
        2 => {
            let Ok(ae) = AutoEncoder::load(&checkpoint, &options) else { return Some(false) };
            sound(&ae.config().channels);
            sound(&[ae.config().base_channels, ae.config().latent_channels]);
            let f = ae.downsampling();
            if f <= 4 {
                let latent = ae.encode(noise([1, 3, f, f]), Some(1)).expect("shapes fit");
                assert_eq!(ae.decode(latent).expect("shapes fit").dims(), [1, 3, f, f]);
            }
        }
        3 => {
            let Ok(t5) = T5Encoder::load(&checkpoint, &options) else { return Some(false) };
            let c = t5.config();
            sound(&[c.vocab_size, c.d_model, c.d_kv, c.num_heads, c.relative_attention_num_buckets]);
            if c.num_layers > 0 {
                sound(&[c.d_ff]);
            }
            // Beyond 128 tokens, where relative positions share the last bucket.
            for tokens in [1, 140] {
                let states = t5.forward(&vec![c.vocab_size as u32 - 1; tokens]).expect("ids fit");
                assert_eq!(states.dims(), [1, tokens, c.d_model]);
            }
        }
        _ => {
            let json = format!(r#"{{"num_attention_heads":{heads}}}"#);
            let json = (flags & 2 == 0).then_some(json.as_bytes());
            let Ok(config) = ClipTextConfig::detect(&checkpoint, json) else { return Some(false) };
            let Ok(clip) = ClipTextEncoder::load_with(&checkpoint, config, &options) else {
                return Some(false);
            };
            let c = clip.config();
            sound(&[c.vocab_size, c.hidden_size, c.num_attention_heads, c.max_position_embeddings]);
            let ids = vec![c.vocab_size as u32 - 1; c.max_position_embeddings.min(8)];
            assert_eq!(clip.forward(&ids).expect("ids fit").dims(), [1, c.hidden_size]);
        }
    }
    Some(true)
}

fuzz_target!(init: {
    for kind in 0..5 {
        assert_eq!(run(&[kind]), Some(true), "model {kind} as it should be");
    }
}, |data: &[u8]| -> Corpus {
    match run(data) {
        Some(_) => Corpus::Keep,
        None => Corpus::Reject,
    }
});
