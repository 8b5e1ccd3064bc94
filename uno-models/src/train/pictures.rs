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
use crate::error::Result;
use crate::output::write_atomically;
use crate::picture::{DecodeOptions, Picture};
use crate::pipeline::UnoPipeline;
use crate::request::Request;

/// What the pictures need, encoded ahead.
pub struct Pictures {
    requests: Vec<Request>,
    prompts: Arc<BTreeMap<String, EncodedPrompt>>,
    source: ModelSource,
    options: PipelineOptions,
}

impl Pictures {
    /// Reads the references, checks the requests and encodes the prompts.
    ///
    /// # Errors
    ///
    /// A reference that cannot be read; settings that cannot be done; what the encoder returns.
    pub fn prepare(
        configs: &[PictureConfig],
        encodings: &Encodings,
        source: &ModelSource,
        options: &PipelineOptions,
    ) -> Result<Self> {
        let mut requests = Vec::new();
        let mut prompts = BTreeMap::new();
        for config in configs {
            let mut request = Request::new(config.prompt.clone())
                .with_size(config.width, config.height)
                .with_steps(config.num_steps)
                .with_seed(config.seed);
            (request.guidance, request.ref_size) = (config.guidance, config.ref_size);
            for path in &config.references {
                request.references.push(Picture::open(path, &DecodeOptions::default())?);
            }
            prompts.insert(config.prompt.clone(), encodings.prompt(&config.prompt)?);
            requests.push(request);
        }
        let prompts = Arc::new(prompts);
        Ok(Self { requests, prompts, source: source.clone(), options: options.clone() })
    }

    /// Makes all pictures with `flux` and writes them to `folder` as `{i}.png`.
    ///
    /// # Errors
    ///
    /// What generation returns; a picture cannot be written.
    pub fn make(&self, flux: Flux, device: &Device, dtype: FloatDType, folder: &Path) -> Result<()> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let text = Remembered(self.prompts.clone());
        let codec = OnDemand { source: self.source.clone(), options: self.options.clone() };
        let pipeline = UnoPipeline::new(text, codec, flux, device, dtype);
        for (i, request) in self.requests.iter().enumerate() {
            let generation = pipeline.generate(request, &Silent)?;
            for generated in &generation.pictures {
                write_png(&folder.join(format!("{i}.png")), &generated.picture)?;
            }
        }
        Ok(())
    }
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
