//! One generation, from a request to pictures.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::{Device, FloatDType, Tensor};
use image::RgbImage;
use uno_core::image::Pixels;
use uno_core::latents::{PATCH, pack, unpack};
use uno_core::noise::latent_noise;
use uno_core::sampling::{Sampler, denoise, schedule};
use uno_core::traits::{Event, LatentCodec, Observer, TextEncoder, VelocityModel};
use uno_core::weights::Checkpoint;

use crate::conditioning::condition;
use crate::encodings::Encodings;
use crate::error::{Error, Result};
use crate::preprocess::preprocess_ref;
use crate::request::{Defaults, Request, Sample};

/// UNO: text encoder, latent codec and velocity model, ready to generate.
///
/// [`crate::components::load`] makes one from checkpoint files; [`UnoPipeline::new`] joins parts of your own.
pub struct UnoPipeline {
    text_encoder: Box<dyn TextEncoder>,
    codec: Box<dyn LatentCodec>,
    model: Box<dyn VelocityModel>,
    device: Device,
    dtype: FloatDType,
    encodings: Encodings,
    /// Where the weights came from, to name a damaged one.
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) defaults: Defaults,
}

/// One picture of a generation.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The picture.
    pub picture: RgbImage,
    /// Its prompt and seed.
    pub sample: Sample,
}

/// The result of a generation.
#[derive(Debug)]
#[non_exhaustive]
pub struct Generation {
    /// One picture per sample, in their order.
    pub pictures: Vec<Generated>,
    /// The references as the model saw them.
    pub references: Vec<RgbImage>,
    /// The final latents `[samples, C, H / 8, W / 8]`.
    pub latents: Tensor<4>,
    /// What was changed or noticed: rounded sizes, truncated prompts.
    pub notices: Vec<String>,
    /// Seconds that the whole took.
    pub seconds: f64,
}

impl UnoPipeline {
    /// Joins parts. Latents live on `device` and are rounded to `dtype` between steps (bf16 in the official pipeline).
    pub fn new(
        text_encoder: impl TextEncoder + 'static,
        codec: impl LatentCodec + 'static,
        model: impl VelocityModel + 'static,
        device: &Device,
        dtype: FloatDType,
    ) -> Self {
        Self {
            text_encoder: Box::new(text_encoder),
            codec: Box::new(codec),
            model: Box::new(model),
            device: device.clone(),
            dtype,
            encodings: Encodings::default(),
            checkpoints: Vec::new(),
            defaults: Defaults::default(),
        }
    }

    /// The settings that the model was made for; the official ones unless it is the small one inside the program.
    pub fn defaults(&self) -> Defaults {
        self.defaults
    }

    /// One picture of `prompt` with the settings that the model was made for.
    pub fn request(&self, prompt: impl Into<String>) -> Request {
        Request::with_defaults(prompt, self.defaults)
    }

    /// Generates the pictures of a request. The whole request is checked before any work.
    ///
    /// Each picture depends on its own prompt and seed, the references and the settings, not on the others in the batch.
    /// Prompts and references of earlier calls are not encoded again.
    ///
    /// # Errors
    ///
    /// A request that cannot be done, a reference that cannot be used, a component's error, cancellation by the observer, and
    /// numbers that are not finite anywhere on the way (never a black picture).
    pub fn generate(&self, request: &Request, observer: &dyn Observer) -> Result<Generation> {
        self.run(request, true, observer).map_err(|error| self.name_damaged_weights(error))
    }

    /// The same without the last step: there are latents, but no pictures.
    ///
    /// # Errors
    ///
    /// As [`UnoPipeline::generate`].
    pub fn generate_latents(&self, request: &Request, observer: &dyn Observer) -> Result<Generation> {
        self.run(request, false, observer).map_err(|error| self.name_damaged_weights(error))
    }

    /// Forgets the encodings of earlier prompts and references ([`crate::encodings`] says how much is kept).
    pub fn forget_encodings(&self) {
        self.encodings.clear();
    }

    /// The codec between pictures and latents.
    pub fn codec(&self) -> &dyn LatentCodec {
        &*self.codec
    }

    fn run(&self, request: &Request, decode: bool, observer: &dyn Observer) -> Result<Generation> {
        let start = Instant::now();
        let mut notices = Vec::new();

        // 1. Check the request, round the size.
        let factor = self.codec.downsampling();
        let (width, height) = request.validate(self.codec.channels(), factor)?;
        if (width, height) != (request.width, request.height) {
            let (w, h) = (request.width, request.height);
            notice(
                format!("{w}x{h} is made as {width}x{height}: sides are multiples of 16"),
                &mut notices,
                observer,
            );
        }

        // 2. References: scale, crop, encode, unless they are remembered.
        let references = self.preprocess(request)?;
        let seed = request.reference_seed;
        stage("encoding references", observer, !self.encodings.know_references(&references, seed))?;
        let reference_latents = self.encodings.references(&*self.codec, &references, &self.device, seed)?;

        // 3. Initial noise, one per sample.
        let noise = self.noise(request, [height, width])?;

        // 4. Prompts, unless they are remembered.
        let prompts: Vec<String> = request.samples.iter().map(|sample| sample.prompt.clone()).collect();
        stage("encoding prompts", observer, !self.encodings.know_prompts(&prompts))?;
        let text = self.encodings.prompts(&*self.text_encoder, &prompts)?;
        for t in &text.truncated {
            let text = format!(
                "prompt {} is too long for {}: its last {} tokens were dropped, {} kept",
                t.prompt, t.encoder, t.dropped, t.kept
            );
            notice(text, &mut notices, observer);
        }

        // 5. Everything as tokens with positions.
        let [_, _, rows, columns] = noise.dims();
        let conditioning = condition(text, reference_latents, (rows / PATCH, columns / PATCH), request.pe)?;

        // 6. From noise to latent.
        stage("denoising", observer, true)?;
        let times = schedule(request.num_steps, request.sequence_length.of(width, height), request.shift)?;
        let packed = pack(noise)?.cast(self.dtype);
        let sampler =
            Sampler { times: &times, guidance: request.guidance, approximation: request.approximation };
        let counting = Counting { observer, reused: AtomicUsize::new(0) };
        let latent = denoise(&*self.model, packed, &conditioning, sampler, &counting)?;
        if request.approximation.first_block_cache.is_some() {
            let (reused, total) = (counting.reused.into_inner(), request.num_steps * request.samples.len());
            let text =
                format!("first-block cache: {reused} of {total} steps spared all blocks but the first");
            notice(text, &mut notices, observer);
        }

        // 7. From latent to picture.
        let latents = unpack(latent.cast(FloatDType::F32), [rows, columns])?;
        stage("decoding", observer, decode)?;
        let pixels =
            if decode { Pixels::from_tensor(self.codec.decode(latents.clone())?)? } else { Vec::new() };

        let pictures = pixels.into_iter().zip(&request.samples).map(|(pixels, sample)| {
            let picture = to_picture(pixels)?;
            Ok(Generated { picture, sample: sample.clone() })
        });
        Ok(Generation {
            pictures: pictures.collect::<Result<_>>()?,
            references,
            latents,
            notices,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The references as the model sees them.
    ///
    /// # Errors
    ///
    /// A picture so elongated that a side falls below 16 pixels.
    pub fn preprocess(&self, request: &Request) -> Result<Vec<RgbImage>> {
        request.references.iter().map(|picture| preprocess_ref(picture, request.long_side())).collect()
    }

    /// Initial noise `[samples, C, H / 8, W / 8]`, given or drawn, each sample from its own seed.
    fn noise(&self, request: &Request, size: [usize; 2]) -> Result<Tensor<4>> {
        if let Some(latents) = &request.latents {
            uno_core::sampling::check_finite("the given latents", latents, "give finite noise")?;
            return Ok(latents.clone().to_device(&self.device).cast(FloatDType::F32));
        }
        let draw = |sample: &Sample| {
            let dtype = request.noise_dtype.float();
            latent_noise(request.noise, sample.seed, self.codec.channels(), size, dtype, &self.device)
        };
        Ok(Tensor::cat(request.samples.iter().map(draw).collect::<uno_core::Result<Vec<_>>>()?, 0))
    }

    /// After numbers that are not finite: looks for the weight that is to blame. Reads all weights, so only then.
    fn name_damaged_weights(&self, error: Error) -> Error {
        let Error::Core(uno_core::Error::NonFinite { what, count, total, remedy }) = error else {
            return error;
        };
        let damaged: Vec<String> = self
            .checkpoints
            .iter()
            .flat_map(|c| {
                c.non_finite().into_iter().map(|(name, n)| (c.path().display().to_string(), name, n))
            })
            .map(|(file, name, n)| format!("{name} in {file} ({n})"))
            .collect();
        let remedy = match &damaged[..] {
            [] => remedy,
            _ => format!("these weights hold NaN or infinity; load the files anew: {}", damaged.join(", ")),
        };
        uno_core::Error::NonFinite { what, count, total, remedy }.into()
    }
}

/// Counts the steps that were spared.
struct Counting<'a> {
    observer: &'a dyn Observer,
    reused: AtomicUsize,
}

impl Observer for Counting<'_> {
    fn on_event(&self, event: &Event<'_>) -> ControlFlow<()> {
        if let Event::Step { reused, .. } = event {
            self.reused.fetch_add(*reused, Ordering::Relaxed);
        }
        self.observer.on_event(event)
    }
}

fn to_picture(pixels: Pixels) -> Result<RgbImage> {
    let size = (u32::try_from(pixels.width).ok()).zip(u32::try_from(pixels.height).ok());
    size.and_then(|(width, height)| RgbImage::from_raw(width, height, pixels.rgb))
        .ok_or_else(|| Error::request("width", pixels.width, "a picture that fits its memory"))
}

fn stage(name: &str, observer: &dyn Observer, happens: bool) -> Result<()> {
    if happens && observer.on_event(&Event::Stage { name }).is_break() {
        return Err(uno_core::Error::Cancelled { step: 0, total: 0 }.into());
    }
    Ok(())
}

fn notice(text: String, notices: &mut Vec<String>, observer: &dyn Observer) {
    // Whether to stop is asked at the next stage.
    let _ = observer.on_event(&Event::Notice { text: &text });
    notices.push(text);
}
