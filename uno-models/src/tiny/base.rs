//! Training of the base model: transformer and both text encoders together, by flow matching (Lipman et al., arXiv 2210.02747).

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use uno_core::flux::Flux;
use uno_core::text::{ClipTextConfig, ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer};
use uno_core::traits::{Conditioning, VelocityInput, VelocityModel};
use uno_core::weights::{Checkpoint, LoadOptions};

use super::data::{FEATURES, Latents};
use super::world::Draw;
use crate::error::Result;
use crate::unope::{UnoPe, sequence_ids};

/// T5 tokens of a prompt.
pub const T5_TOKENS: usize = 32;
/// Share of prompts that are left empty.
const DROPPED: f32 = 0.1;
/// Guidance while training, as in UNO's.
const GUIDANCE: f32 = 1.0;

/// What trains together.
#[derive(Module, Debug)]
pub struct Base {
    /// The transformer.
    pub flux: Flux,
    /// The encoder of tokens.
    pub t5: T5Encoder,
    /// The encoder of the prompt as a whole.
    pub clip: ClipTextEncoder,
}

impl Base {
    /// Loads the three from their checkpoints.
    ///
    /// # Errors
    ///
    /// Weights that do not fit.
    pub fn load(
        flux: &Checkpoint,
        t5: &Checkpoint,
        clip: &Checkpoint,
        config: &[u8],
        options: &LoadOptions,
    ) -> Result<Self> {
        let config = ClipTextConfig::detect(clip, Some(config))?;
        Ok(Self {
            flux: Flux::load(flux, options)?,
            t5: T5Encoder::load(t5, options)?,
            clip: ClipTextEncoder::load_with(clip, config, options)?,
        })
    }
}

/// A prompt in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    t5: Vec<u32>,
    clip: Vec<u32>,
}

/// Both tokenizers.
#[derive(Debug, Clone)]
pub struct Tokenizers {
    /// T5's.
    pub t5: T5Tokenizer,
    /// CLIP's.
    pub clip: ClipTokenizer,
}

impl Tokenizers {
    /// A prompt in tokens, padded.
    ///
    /// # Errors
    ///
    /// What the tokenizers return.
    pub fn encode(&self, prompt: &str, clip_tokens: usize) -> Result<Prompt> {
        Ok(Prompt {
            t5: self.t5.encode(prompt, T5_TOKENS)?.ids,
            clip: self.clip.encode(prompt, clip_tokens)?.ids,
        })
    }
}

/// A time between 0 (picture) and 1 (noise): mostly logit-normal about the middle (Esser et al., arXiv 2403.03206), sometimes
/// uniform, so that the ends are seen too.
fn time(draw: &mut Draw) -> f32 {
    if draw.chance(0.25) {
        return draw.unit();
    }
    1.0 / (1.0 + (-(0.2 + draw.normal_pair()[0])).exp())
}

/// Pictures and prompts to train on.
#[derive(Debug)]
pub struct Scenes {
    /// The pictures.
    pub latents: Latents,
    /// Their captions.
    pub prompts: Vec<Prompt>,
    /// How much each token of each picture counts, one after the other.
    pub weights: Vec<f32>,
    /// The prompt that says nothing.
    pub empty: Prompt,
    /// Rows and columns of tokens.
    pub grid: (usize, usize),
}

/// What one step trains on.
pub(super) struct Batch<'a> {
    /// Pictures mixed with noise, `[batch, tokens, FEATURES]`.
    pub latent: Tensor<3>,
    /// The velocities there, of the same shape.
    pub velocity: Tensor<3>,
    /// How much each token counts, `[batch, tokens, 1]`; their mean is 1.
    pub weights: Tensor<3>,
    /// The time of each.
    pub times: Vec<f32>,
    /// The prompt of each.
    pub prompts: Vec<&'a Prompt>,
}

impl Scenes {
    /// The batch of step `step`.
    pub(super) fn batch(&self, batch: usize, seed: u64, step: u64, device: &Device) -> Batch<'_> {
        let mut draw = Draw::stream(seed, 300, step);
        let which: Vec<usize> = (0..batch).map(|_| draw.below(self.latents.len())).collect();
        let prompts: Vec<&Prompt> = which
            .iter()
            .map(|&i| if draw.chance(DROPPED) { &self.empty } else { &self.prompts[i] })
            .collect();
        let times: Vec<f32> = (0..batch).map(|_| time(&mut draw)).collect();
        let x1 = self.latents.select(&which, device);
        let shape = [batch, self.latents.tokens, FEATURES];
        let x0 = TensorData::new(draw.normals(shape.iter().product()), shape);
        let x0 = Tensor::<3>::from_data(x0, (device, DType::F32));
        let t = Tensor::<1>::from_data(TensorData::new(times.clone(), [batch]), (device, DType::F32));
        let t: Tensor<3> = t.reshape([batch, 1, 1]);
        let latent = x1.clone() * t.clone().neg().add_scalar(1.0) + x0.clone() * t;
        let tokens = self.latents.tokens;
        let weights = which.iter().flat_map(|&i| &self.weights[i * tokens..(i + 1) * tokens]).copied();
        let weights = TensorData::new(weights.collect::<Vec<f32>>(), [batch, tokens, 1]);
        let weights = Tensor::<3>::from_data(weights, (device, DType::F32));
        let weights = weights.clone() / weights.mean().reshape([1, 1, 1]);
        Batch { latent, velocity: x0 - x1, weights, times, prompts }
    }
}

impl Base {
    /// What prompts are to the transformer.
    ///
    /// # Errors
    ///
    /// Token ids beyond the vocabulary; prompts of differing lengths.
    pub(super) fn condition(&self, prompts: &[&Prompt], grid: (usize, usize)) -> Result<Conditioning> {
        let ids = |part: fn(&Prompt) -> &[u32]| prompts.iter().map(|prompt| part(prompt)).collect::<Vec<_>>();
        Ok(Conditioning {
            txt: self.t5.forward_batch(&ids(|prompt| &prompt.t5))?,
            vec: self.clip.forward_batch(&ids(|prompt| &prompt.clip))?,
            references: Vec::new(),
            ids: sequence_ids(UnoPe::D, T5_TOKENS, grid, &[]),
        })
    }
}

/// How much a token counts of which subjects cover so much. Where they stand follows from the caption, but for a hundredth, so
/// that the best prediction is the same as without weights: only less is spent on grounds, which are soon learned.
pub fn weight(covered: f32) -> f32 {
    1.0 + 3.0 * covered
}

/// The weighted mean squared error of the velocity in step `step`.
///
/// # Errors
///
/// Token ids beyond the vocabulary.
pub fn loss(
    model: &Base,
    scenes: &Scenes,
    batch: usize,
    seed: u64,
    step: u64,
    device: &Device,
) -> Result<Tensor<1>> {
    let Batch { latent, velocity, weights, times, prompts } = scenes.batch(batch, seed, step, device);
    let conditioning = model.condition(&prompts, scenes.grid)?;
    let guidance = vec![GUIDANCE; batch];
    let input = VelocityInput { latent, t: &times, guidance: &guidance, conditioning: &conditioning };
    Ok(((model.flux.velocity(input)? - velocity).square() * weights).mean())
}

impl Base {
    /// What a prompt is to the transformer: `[1, tokens, features]` and `[1, features]`.
    ///
    /// # Errors
    ///
    /// Token ids beyond the vocabulary.
    pub fn encode(&self, prompt: &Prompt) -> Result<(Tensor<3>, Tensor<2>)> {
        Ok((self.t5.forward(&prompt.t5)?, self.clip.forward(&prompt.clip)?))
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
pub(super) mod tests {
    use std::path::Path;

    use uno_core::weights::Storage;

    use super::super::data::{diptych, pair, scene};
    use super::super::fresh::{self, Sizes};
    use super::super::trainer::{Settings, Trainer};
    use super::*;
    use crate::train::optimizer::AdamWConfig;

    fn tokenizers() -> Tokenizers {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/uno-tiny");
        Tokenizers {
            t5: T5Tokenizer::from_dir(folder.join("t5")).unwrap(),
            clip: ClipTokenizer::from_dir(folder.join("clip")).unwrap(),
        }
    }

    #[test]
    fn every_caption_fits() {
        let (tokenizers, sizes) = (tokenizers(), Sizes::default());
        let captions = (0..400).map(|i| scene(1, i).1).chain((0..100).map(|i| pair(1, i, 3, true).prompt));
        let captions = captions.chain((0..400).map(|i| diptych(1, i, false).caption));
        for caption in captions {
            let (t5, clip) = (tokenizers.t5.encode(&caption, 64), tokenizers.clip.encode(&caption, 64));
            assert!(t5.unwrap().len <= T5_TOKENS && clip.unwrap().len <= sizes.clip_tokens, "{caption}");
        }
    }

    /// CLIP's configuration for [`small`].
    pub(in super::super) const CONFIG: &[u8] = br#"{"num_attention_heads": 2}"#;

    /// First weights of a very small model, and two pictures of four tokens with prompts.
    pub(in super::super) fn small() -> ([Checkpoint; 3], Scenes) {
        let tokenizers = tokenizers();
        let vocabulary = [tokenizers.t5.vocab_size(), tokenizers.clip.vocab_size()];
        let sizes = Sizes {
            hidden: 32,
            depth: [1, 1],
            t5: [32, 32, 1],
            clip: [32, 32, 1],
            vocabulary,
            ..Sizes::default()
        };
        let prompts = ["a red mug on a beach", "a bird"];
        let prompts = prompts.map(|p| tokenizers.encode(p, sizes.clip_tokens).unwrap());
        let latents = Latents::of_numbers(4, (0..2 * 4 * FEATURES).map(|i| (i as f32).sin()).collect());
        let empty = tokenizers.encode("", sizes.clip_tokens).unwrap();
        let weights = (0..2 * 4).map(|i| weight(i as f32 / 8.0)).collect();
        let scenes = Scenes { latents, empty, prompts: prompts.to_vec(), weights, grid: (2, 2) };
        ([fresh::flux(&sizes, 1), fresh::t5(&sizes, 2), fresh::clip(&sizes, 3)], scenes)
    }

    pub(in super::super) fn settings() -> Settings {
        Settings { optimizer: AdamWConfig::default(), max_norm: 1.0, ema_decay: 0.9, rates: &[], parts: 1 }
    }

    #[test]
    fn a_prompt_is_encoded_alike_alone_and_in_a_batch_and_all_parts_learn() {
        let device = Device::flex().autodiff();
        let options = LoadOptions::new(&device).with_storage(Storage::Expanded);
        let ([flux, t5, clip], scenes) = small();
        let model = Base::load(&flux, &t5, &clip, CONFIG, &options).unwrap();
        let prompts = &scenes.prompts;
        let ids = |part: fn(&Prompt) -> &[u32]| prompts.iter().map(part).collect::<Vec<_>>();
        let batch = model.t5.forward_batch(&ids(|p| &p.t5)).unwrap();
        let pooled = model.clip.forward_batch(&ids(|p| &p.clip)).unwrap();
        for (i, prompt) in prompts.iter().enumerate() {
            let (txt, vec) = model.encode(prompt).unwrap();
            assert!((batch.clone().narrow(0, i, 1) - txt).abs().max().into_scalar::<f32>() < 1e-4);
            assert!((pooled.clone().narrow(0, i, 1) - vec).abs().max().into_scalar::<f32>() < 1e-4);
        }
        assert!(model.t5.forward_batch(&[&[1, 2], &[1]]).is_err(), "lengths that differ");

        // The last layer begins at zero; nothing learns before it has moved.
        let mut trainer = Trainer::new(model, settings()).unwrap();
        let before = trainer.parameters().clone();
        for step in 0..4 {
            trainer.step(1e-3, |model, _| loss(model, &scenes, 3, 1, step, &device)).unwrap();
        }
        for name in ["flux.img_in.weight", "t5.embedding", "clip.token_embedding"] {
            let [a, b] = [&before, trainer.parameters()].map(|p| p.get(name).unwrap().data());
            assert!((a - b).abs().max().into_scalar::<f32>() > 1e-4, "{name}");
        }
    }
}
