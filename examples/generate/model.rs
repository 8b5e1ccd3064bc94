//! Which model: named on the command line or by the environment, that of a picture, or the embedded one.

use anyhow::{Context, Result};
use uno_core::device::{Opened, check_dtype};
use uno_core::lora;
use uno_core::vae::AutoEncoderConfig;
use uno_models::checkpoint::{CheckpointOptions, discover, embedded};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::memory::{Budget, Geometry, Plan};
use uno_models::output::ModelInfo;
use uno_models::{Defaults, UnoPipeline};

use super::again::Again;
use super::arguments::{AddedLora, Arguments, Dtype};
use super::progress::Bars;

/// A model that was found and opened.
pub struct Model {
    source: ModelSource,
    codec: AutoEncoderConfig,
    options: PipelineOptions,
    info: ModelInfo,
    /// How it is fitted into memory, once that is known.
    plan: Option<Plan>,
}

impl Model {
    pub fn open(arguments: &Arguments, again: Option<&Again>, device: &Opened, bars: &Bars) -> Result<Self> {
        let mut options = checkpoint_options(arguments);
        let is_embedded = match again {
            Some(again) => {
                options = again.checkpoint_options(options)?;
                again.is_embedded()
            }
            None => !names_model(arguments, &options),
        };
        if is_embedded {
            bars.say(
                "No model was named, so this uses uno-tiny, the small one inside the program. It knows mugs, balls, robots, birds, cars, \
                 houses, fish and teapots in a few scenes, and takes their looks from the references (docs/uno-tiny.md).\nFor the real one give --model DIR, or --download to fetch FLUX.1-dev and UNO from the \
                 Hugging Face hub (37 GB; FLUX.1-dev's licence is non-commercial). See docs/checkpoints.md.",
            );
            return Self::new(embedded()?, arguments, again, device);
        }
        let files = discover(&options, bars);
        let files = match again {
            Some(again) => files.with_context(|| again.files())?,
            None => files?,
        };
        for (part, path, source) in files.parts() {
            bars.say(&format!("{part}: {} ({source})", path.display()));
        }
        Self::new(ModelSource::open(&files)?, arguments, again, device)
    }

    fn new(
        mut source: ModelSource,
        arguments: &Arguments,
        again: Option<&Again>,
        device: &Opened,
    ) -> Result<Self> {
        source.more_loras = match again {
            Some(again) => again.loras(&arguments.add_lora)?,
            None => {
                let open = |added: &AddedLora| Ok((lora::open(&added.path)?, added.scale.unwrap_or(1.0)));
                arguments.add_lora.iter().map(open).collect::<Result<_>>()?
            }
        };
        let options = options(arguments, again, device)?;
        let info = ModelInfo::new(&source, &options, device);
        if let Some(again) = again {
            again.check_model(&info)?;
        }
        Ok(Self { codec: AutoEncoderConfig::detect(&source.ae)?, source, options, info, plan: None })
    }

    pub fn channels(&self) -> usize {
        self.codec.latent_channels
    }

    pub fn downsampling(&self) -> usize {
        self.codec.downsampling()
    }

    /// What is recorded of it with a picture.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Fits the model into the memory that it may use. `geometry` is of the largest request.
    pub fn plan(&mut self, geometry: &Geometry, budget: Budget) -> Result<()> {
        let plan = Plan::make(&self.source, &self.options, geometry, budget)?;
        plan.apply(&mut self.options);
        (self.info.lora_merged, self.info.vae_tile) = (plan.merge_lora, plan.vae_tile);
        self.plan = Some(plan);
        Ok(())
    }

    /// Side of the autoencoder's tiles in latents, once the model is fitted into memory.
    pub fn tile(&self) -> Option<usize> {
        self.plan.as_ref()?.vae_tile
    }

    /// Says how the model is fitted into memory, and loads it.
    pub fn load(&self, bars: &Bars) -> Result<UnoPipeline> {
        if let Some(plan) = self.plan.as_ref().filter(|plan| !plan.is_trivial()) {
            bars.say(&plan.to_string());
        }
        Ok(load(&self.source, &self.options, bars)?)
    }
}

/// Where the command line says that the model is.
fn checkpoint_options(arguments: &Arguments) -> CheckpointOptions {
    CheckpointOptions {
        model_dir: arguments.model.clone(),
        model_type: arguments.model_type,
        dit: arguments.dit.clone(),
        ae: arguments.ae.clone(),
        t5: arguments.t5.clone(),
        clip: arguments.clip.clone(),
        t5_tokenizer: arguments.t5_tokenizer.clone(),
        clip_tokenizer: arguments.clip_tokenizer.clone(),
        lora: arguments.lora.clone(),
        use_lora: arguments.lora_scale != 0.0,
        allow_download: arguments.download,
        offline: arguments.offline,
        ..CheckpointOptions::default()
    }
}

/// Whether a model is named, on the command line or by the environment.
fn names_model(arguments: &Arguments, options: &CheckpointOptions) -> bool {
    options.names_anything() || arguments.model_type.is_some() || arguments.download
}

/// The settings that the model was made for, before it is opened.
pub fn defaults(arguments: &Arguments) -> Defaults {
    match names_model(arguments, &checkpoint_options(arguments)) {
        true => Defaults::UNO,
        false => Defaults::UNO_TINY,
    }
}

/// How the model computes: as the command line says, or as it did for the picture that is made again.
fn options(arguments: &Arguments, again: Option<&Again>, device: &Opened) -> Result<PipelineOptions> {
    let mut options = PipelineOptions::suited_to(device);
    match again {
        Some(again) => again.apply(&mut options)?,
        None => {
            options.dtype = arguments.dtype.map_or(options.dtype, Dtype::float);
            (options.lora_scale, options.merge_lora) = (arguments.lora_scale, arguments.merge_lora);
            options.int8 = arguments.int8;
        }
    }
    check_dtype(&options.device, options.dtype)?;
    Ok(options)
}
