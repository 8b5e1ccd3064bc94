//! The part of the base model.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor};
use uno_core::flux::Flux;
use uno_core::image::Pixels;
use uno_core::sampling::schedule;
use uno_core::text::{ClipTokenizer, T5Tokenizer};
use uno_core::traits::{Conditioning, LatentCodec, VelocityInput, VelocityModel};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage, StorageDtype};
use uno_models::tiny::autoencoder::SIDE;
use uno_models::tiny::base::{self, Base, Prompt, Scenes, T5_TOKENS, Tokenizers};
use uno_models::tiny::data::{FEATURES, Latents, diptych, fingerprint, scene};
use uno_models::tiny::fresh::{self, CLIP_HEAD, Sizes, T5_BUCKETS, T5_HEAD};
use uno_models::tiny::names::Names;
use uno_models::tiny::trainer::{Settings, Trainer};
use uno_models::tiny::world::Draw;
use uno_models::train::learning_rate::{Decay, LearningRate};
use uno_models::train::optimizer::AdamWConfig;
use uno_models::unope::{UnoPe, sequence_ids};

use crate::steps::{PARTS, State, short, train};

#[derive(clap::Args)]
pub struct Arguments {
    /// Steps in all
    #[arg(long, default_value_t = 6_500)]
    steps: u64,
    /// Pictures per step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Pictures to train on
    #[arg(long, default_value_t = PICTURES)]
    pictures: usize,
    /// Learning rate of the transformer after the warm-up
    #[arg(long, default_value_t = 4e-3)]
    rate: f64,
    /// Steps between two states on disk
    #[arg(long, default_value_t = 200)]
    save_every: u64,
}

impl Arguments {
    pub fn run(&self, out: &Path, folder: &Path, seed: u64) -> Result<()> {
        let device = Device::flex().autodiff();
        let (tokenizers, sizes) = tokenizers(folder)?;
        write_small(out, folder, &sizes)?;
        let checkpoint = Checkpoint::open(out.join("model/ae.safetensors"))?;
        let codec = AutoEncoder::load(&checkpoint, &LoadOptions::new(&Device::flex()))?;
        let encoders =
            Encoders { codec: &codec, checkpoint: &checkpoint, tokenizers: &tokenizers, sizes: &sizes };
        let scenes = scenes(self.pictures, out, &encoders, seed)?;

        let config = clip_config(&sizes);
        let options = LoadOptions::new(&device).with_storage(Storage::Expanded);
        let [flux, t5, clip] =
            [fresh::flux(&sizes, seed), fresh::t5(&sizes, seed + 1), fresh::clip(&sizes, seed + 2)];
        let load = |flux: &Checkpoint, t5: &Checkpoint, clip: &Checkpoint| {
            Base::load(flux, t5, clip, config.as_bytes(), &options)
        };
        let names = [
            ("flux.", FLUX, Names::find(&flux, |c| Ok(load(c, &t5, &clip)?.flux))?),
            ("t5.", T5, Names::find(&t5, |c| Ok(load(&flux, c, &clip)?.t5))?),
            ("clip.", CLIP, Names::find(&clip, |c| Ok(load(&flux, &t5, c)?.clip))?),
        ];
        let to = out.join(BASE);
        let settings = Settings {
            optimizer: AdamWConfig { beta2: 0.99, weight_decay: 0.01, ..AdamWConfig::default() },
            max_norm: 1.0,
            ema_decay: 0.998,
            rates: RATES,
            parts: PARTS,
        };
        let mut trainer = Trainer::new(load(&flux, &t5, &clip)?, settings)?;
        let rate = LearningRate { peak: self.rate, warmup: 100, decay: Decay::Cosine, steps: self.steps };
        let state = State::new(out, "base", self.save_every);
        let loss = |model: &Base, batch, number| base::loss(model, &scenes, batch, seed, number, &device);
        train(&mut trainer, &rate, &state, self.batch, loss, |trainer| {
            write(&to, &names, trainer.average(), &config)?;
            let base = open(&to)?;
            let sheet = out.join(format!("base-{:06}.png", trainer.steps()));
            samples(&sheet, &base, &base.flux, 1.0, &codec, &tokenizers)
        })
    }
}

/// Pictures that are trained on, unless it is said otherwise.
pub const PICTURES: usize = 12_000;
/// The text encoders' learning rates by the transformer's.
pub const RATES: &[(&str, f64)] = &[("t5.", 0.2), ("clip.", 0.2)];
/// Folder of transformer and text encoders as this part leaves them, below the folder of results.
pub const BASE: &str = "base";
/// Files of a model in its folder.
pub const FLUX: &str = "flux1-dev.safetensors";
pub const T5: &str = "t5/model.safetensors";
pub const CLIP: &str = "clip/model.safetensors";
/// CLIP's dimensions, which its tensors do not tell.
pub const CLIP_CONFIG: &str = "clip/config.json";

/// The tokenizers in a folder, and the sizes of a model for them.
pub fn tokenizers(folder: &Path) -> Result<(Tokenizers, Sizes)> {
    let tokenizers = Tokenizers {
        t5: T5Tokenizer::from_dir(folder.join("t5"))?,
        clip: ClipTokenizer::from_dir(folder.join("clip"))?,
    };
    let vocabulary = [tokenizers.t5.vocab_size(), tokenizers.clip.vocab_size()];
    Ok((tokenizers, Sizes { vocabulary, ..Sizes::default() }))
}

/// What pictures are encoded with.
pub struct Encoders<'a> {
    pub codec: &'a AutoEncoder,
    /// The codec's file: latents on disk belong to it.
    pub checkpoint: &'a Checkpoint,
    pub tokenizers: &'a Tokenizers,
    pub sizes: &'a Sizes,
}

/// Pictures and prompts to train on.
pub fn scenes(count: usize, out: &Path, encoders: &Encoders<'_>, seed: u64) -> Result<Scenes> {
    let side = SIDE / 16;
    encode("scenes", count, (side, side), out, encoders, seed, |i| {
        let (composition, caption) = scene(seed, i);
        Drawn {
            covered: composition.covered(side),
            picture: Box::new(move || composition.render(SIDE)),
            caption,
        }
    })
}

/// Diptychs of one layout.
pub fn diptychs(
    count: usize,
    is_stacked: bool,
    out: &Path,
    encoders: &Encoders<'_>,
    seed: u64,
) -> Result<Scenes> {
    let (name, grid) = match is_stacked {
        true => ("stacked", (SIDE / 8, SIDE / 16)),
        false => ("side-by-side", (SIDE / 16, SIDE / 8)),
    };
    encode(name, count, grid, out, encoders, seed, |i| {
        let diptych = diptych(seed, i, is_stacked);
        let caption = diptych.caption.clone();
        Drawn {
            covered: diptych.covered(SIDE / 16),
            picture: Box::new(move || diptych.render(SIDE)),
            caption,
        }
    })
}

/// What is trained on, before it is in latents and tokens.
struct Drawn {
    /// Renders it, which takes longer than all else here.
    picture: Box<dyn Fn() -> Pixels>,
    /// How much of each token subjects cover.
    covered: Vec<f32>,
    caption: String,
}

/// Latents of pictures, as an earlier run left them or made anew, with their captions in tokens.
fn encode(
    name: &str,
    count: usize,
    grid: (usize, usize),
    out: &Path,
    encoders: &Encoders<'_>,
    seed: u64,
    draw: impl Fn(usize) -> Drawn + Sync,
) -> Result<Scenes> {
    let Encoders { codec, checkpoint, tokenizers, sizes } = encoders;
    let file = format!("{name}-{count}-{seed}-{}-{}.safetensors", fingerprint(), short(checkpoint));
    let start = Instant::now();
    let latents = Latents::of(&out.join(file), *codec, count, &Device::flex(), |i| (draw(i).picture)())?;
    println!("{} latents, spread {:.3?}, {:.0?}", latents.len(), latents.spread(), start.elapsed());
    let (mut prompts, mut weights) = (Vec::new(), Vec::new());
    for i in 0..latents.len() {
        let Drawn { covered, caption, .. } = draw(i);
        prompts.push(tokenizers.encode(&caption, sizes.clip_tokens)?);
        weights.extend(covered.into_iter().map(base::weight));
    }
    Ok(Scenes { prompts, weights, empty: tokenizers.encode("", sizes.clip_tokens)?, grid, latents })
}

/// Transformer and text encoders as they were written to a folder last.
pub fn open(folder: &Path) -> Result<Base> {
    let open = |file: &str| Checkpoint::open(folder.join(file));
    let config = std::fs::read(folder.join(CLIP_CONFIG))?;
    Ok(Base::load(&open(FLUX)?, &open(T5)?, &open(CLIP)?, &config, &LoadOptions::new(&Device::flex()))?)
}

/// CLIP's config.json: what its tensors do not tell.
fn clip_config(sizes: &Sizes) -> String {
    let [hidden, ..] = sizes.clip;
    let config = serde_json::json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
        "hidden_size": hidden, "intermediate_size": sizes.clip[1], "num_hidden_layers": sizes.clip[2],
        "num_attention_heads": hidden / CLIP_HEAD, "max_position_embeddings": sizes.clip_tokens,
        "vocab_size": sizes.vocabulary[1], "layer_norm_eps": 1e-5,
    });
    format!("{config:#}\n")
}

/// The model's files: beginnings of parameters' names, files, and the names in these.
pub type Files = [(&'static str, &'static str, Names); 3];

/// Writes transformer and text encoders to a folder.
pub fn write(
    folder: &Path,
    names: &Files,
    parameters: &uno_models::train::named::NamedTensors,
    config: &str,
) -> Result<()> {
    for (prefix, file, names) in names {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        names.write(&path, &parameters.below(prefix), StorageDtype::BF16)?;
    }
    Ok(std::fs::write(folder.join(CLIP_CONFIG), config)?)
}

/// Puts the small files beside the weights.
fn write_small(out: &Path, tokenizers: &Path, sizes: &Sizes) -> Result<()> {
    for file in ["t5/spiece.model", "clip/vocab.json", "clip/merges.txt"] {
        let to = out.join("model").join(file);
        std::fs::create_dir_all(to.parent().context("a file in a folder")?)?;
        std::fs::copy(tokenizers.join(file), to)?;
    }
    let [d_model, d_ff, num_layers] = sizes.t5;
    let t5 = serde_json::json!({
        "architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": d_model, "d_ff": d_ff, "d_kv": T5_HEAD,
        "num_heads": d_model / T5_HEAD, "num_layers": num_layers, "vocab_size": sizes.vocabulary[0],
        "n_positions": T5_TOKENS, "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": T5_BUCKETS, "relative_attention_max_distance": 128,
    });
    Ok(std::fs::write(out.join("model/t5/config.json"), format!("{t5:#}\n"))?)
}

/// Prompts whose pictures show how far training is; the last four name looks that are held out.
const PROMPTS: [&str; 16] = [
    "a photo of a red mug with white dots on a beach",
    "a plain blue and yellow car in the desert",
    "a green fish with orange stripes in the snow",
    "a photo of a purple teapot with yellow checks on a wooden table",
    "a white robot with black dots in a city at night",
    "an orange bird with blue stripes in a meadow",
    "a red house with white checks to the left of a blue car with yellow stripes in the snow",
    "a yellow ball with red dots on top of a plain white and black teapot on a wooden table",
    "a black mug with white stripes to the left of a plain red and yellow house in a meadow",
    "a photo of a blue robot with red checks to the right of a green ball with white dots on a beach",
    "a plain purple and white bird on top of a red car with black dots in the desert",
    "a red mug with white dots, a blue ball with yellow stripes and a green car with black checks in a city at night",
    "a green teapot with red dots on a beach",
    "a blue bird with orange checks in the snow",
    "a yellow house with purple stripes in a meadow",
    "a plain orange and green robot on a wooden table",
];

/// Makes the pictures of `PROMPTS` with a transformer and the text encoders of a base model.
pub fn samples(
    sheet: &Path,
    base: &Base,
    flux: &Flux,
    guidance: f32,
    codec: &AutoEncoder,
    tokenizers: &Tokenizers,
) -> Result<()> {
    let prompts =
        PROMPTS.iter().map(|prompt| tokenizers.encode(prompt, base.clip.config().max_position_embeddings));
    let prompts: Vec<Prompt> = prompts.collect::<Result<_, _>>()?;
    let times = schedule(25, (SIDE / 8).pow(2) / 256, true)?;
    let mut pictures: Vec<Pixels> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let grid = SIDE / 16;
        let (txt, vec) = base.encode(prompt)?;
        let ids = sequence_ids(UnoPe::D, T5_TOKENS, (grid, grid), &[]);
        let conditioning = Conditioning { txt, vec, references: Vec::new(), ids };
        let noise = Draw::new(i as u64).normals(grid * grid * FEATURES);
        let mut x =
            Tensor::<1>::from_floats(noise.as_slice(), &Device::flex()).reshape([1, grid * grid, FEATURES]);
        for pair in times.windows(2) {
            let input = VelocityInput {
                latent: x.clone(),
                t: &pair[..1],
                guidance: &[guidance],
                conditioning: &conditioning,
            };
            x = x + flux.velocity(input)?.mul_scalar(pair[1] - pair[0]);
        }
        let latent = uno_core::latents::unpack(x, [SIDE / 8, SIDE / 8])?;
        pictures.extend(Pixels::from_tensor(codec.decode(latent)?)?);
    }
    crate::sheet::write(sheet, &pictures, 4)
}
