//! Pictures at each checkpoint, made with what has been learned so far by the same pipeline that users generate with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use image::RgbImage;
use uno_core::flux::Flux;
use uno_core::traits::{LatentCodec, Silent, TextEncoder, TextEncoding};

use super::config::PictureConfig;
use super::encodings::{EncodedPrompt, Encodings};
use crate::components::{ModelSource, PipelineOptions, load_autoencoder};
use crate::error::{Error, Result};
use crate::output::write_atomically;
use crate::picture::{DecodeOptions, Picture};
use crate::pipeline::UnoPipeline;
use crate::preprocess::preprocessed_size;
use crate::request::Request;

/// What is asked for, with references opened and all settings checked. It needs no model, so that a configuration is refused
/// before anything is loaded.
///
/// # Errors
///
/// A reference that cannot be read or scaled; a setting that cannot be done. The message names the picture.
pub fn requests(configs: &[PictureConfig]) -> Result<Vec<Request>> {
    let request = |config: &PictureConfig| {
        let mut request = Request::new(config.prompt.clone())
            .with_size(config.width, config.height)
            .with_steps(config.num_steps)
            .with_seed(config.seed);
        (request.guidance, request.ref_size) = (config.guidance, config.ref_size);
        for path in &config.references {
            request.references.push(Picture::open(path, &DecodeOptions::default())?);
        }
        // The codec's numbers only say how large given noise must be, and none is given.
        request.validate(16, 8)?;
        for reference in &request.references {
            preprocessed_size(reference, request.long_side())?;
        }
        Ok(request)
    };
    let numbered = configs.iter().enumerate().map(|(i, config)| {
        request(config).map_err(|e: Error| Error::checkpoint(format!("pictures[{i}]"), e.to_string()))
    });
    numbered.collect()
}

/// What the pictures need, encoded ahead.
pub struct Pictures {
    requests: Vec<Request>,
    prompts: Arc<BTreeMap<String, EncodedPrompt>>,
    source: ModelSource,
    options: PipelineOptions,
}

impl Pictures {
    /// Encodes the prompts of checked `requests`.
    ///
    /// # Errors
    ///
    /// What the encoder returns.
    pub fn prepare(
        requests: Vec<Request>,
        encodings: &Encodings,
        source: &ModelSource,
        options: &PipelineOptions,
    ) -> Result<Self> {
        let mut prompts = BTreeMap::new();
        for sample in requests.iter().flat_map(|request| &request.samples) {
            prompts.insert(sample.prompt.clone(), encodings.prompt(&sample.prompt)?);
        }
        Ok(Self { requests, prompts: Arc::new(prompts), source: source.clone(), options: options.clone() })
    }

    /// Whether all pictures are in `folder`.
    pub fn are_in(&self, folder: &Path) -> bool {
        (0..self.requests.len()).all(|i| folder.join(file_name(i)).is_file())
    }

    /// Makes the pictures with `flux` and writes them to `folder` as `{i}.png`. One that cannot be made does not keep the
    /// others from it: the reasons are returned, each with the picture's name.
    pub fn make(&self, flux: Flux, device: &Device, dtype: FloatDType, folder: &Path) -> Vec<String> {
        if self.requests.is_empty() {
            return Vec::new();
        }
        let text = Remembered(self.prompts.clone());
        let codec = OnDemand { source: self.source.clone(), options: self.options.clone() };
        let pipeline = UnoPipeline::new(text, codec, flux, device, dtype);
        let one = |(i, request): (usize, &Request)| {
            let name = file_name(i);
            let made = pipeline.generate(request, &Silent).and_then(|generation| {
                let mut pictures = generation.pictures.iter();
                pictures.try_for_each(|generated| write_png(&folder.join(&name), &generated.picture))
            });
            made.err().map(|e| format!("{name}: {e}"))
        };
        self.requests.iter().enumerate().filter_map(one).collect()
    }
}

fn file_name(i: usize) -> String {
    format!("{i}.png")
}

fn write_png(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    write_atomically(path, |out| {
        picture.write_to(&mut bytes, image::ImageFormat::Png).map_err(std::io::Error::other)?;
        out.write_all(bytes.get_ref())
    })
}

/// A text encoder that knows some prompts.
struct Remembered(Arc<BTreeMap<String, EncodedPrompt>>);

impl TextEncoder for Remembered {
    fn encode(&self, prompts: &[String]) -> uno_core::Result<TextEncoding> {
        let known = prompts.iter().map(|prompt| {
            let found = self.0.get(prompt).cloned();
            found.ok_or_else(|| uno_core::Error::invalid("prompt", prompt, "one that was encoded ahead"))
        });
        let known: Vec<EncodedPrompt> = known.collect::<uno_core::Result<_>>()?;
        let (txt, vec) = known.into_iter().map(|one| (one.txt, one.vec)).unzip();
        Ok(TextEncoding { txt: Tensor::cat(txt, 0), vec: Tensor::cat(vec, 0), truncated: Vec::new() })
    }
}

/// An autoencoder that is loaded when it is needed and takes no memory in between.
struct OnDemand {
    source: ModelSource,
    options: PipelineOptions,
}

impl OnDemand {
    fn load(&self) -> uno_core::Result<uno_core::vae::AutoEncoder> {
        load_autoencoder(&self.source, &self.options)
            .map_err(|e| uno_core::Error::component("autoencoder", e))
    }
}

impl LatentCodec for OnDemand {
    fn encode(&self, pictures: Tensor<4>, seed: Option<u64>) -> uno_core::Result<Tensor<4>> {
        self.load()?.encode(pictures, seed)
    }

    fn decode(&self, latents: Tensor<4>) -> uno_core::Result<Tensor<4>> {
        self.load()?.decode(latents)
    }

    fn channels(&self) -> usize {
        uno_core::vae::AutoEncoderConfig::detect(&self.source.ae).map_or(16, |config| config.latent_channels)
    }

    fn downsampling(&self) -> usize {
        uno_core::vae::AutoEncoderConfig::detect(&self.source.ae).map_or(8, |config| config.downsampling())
    }
}
