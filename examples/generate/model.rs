//! Which model: named on the command line or by the environment, that of a picture, or the embedded one.

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::tensor::{Device, FloatDType};
use uno_core::device::{check_dtype, is_cpu};
use uno_core::vae::AutoEncoderConfig;
use uno_core::weights::{Checkpoint, Storage};
use uno_models::checkpoint::{CheckpointOptions, EMBEDDED, discover, embedded};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::memory::{Budget, Geometry, Plan};
use uno_models::output::{ModelInfo, ModelRecord, Settings};
use uno_models::{Defaults, UnoPipeline};

use super::arguments::{AddedLora, Arguments};
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
    pub fn open(
        arguments: &Arguments,
        repeated: Option<&Settings>,
        device: &Device,
        bars: &Bars,
    ) -> Result<Self> {
        let mut options = checkpoint_options(arguments);
        if let Some(settings) = repeated {
            let explicit = arguments.model.is_some() || arguments.dit.is_some();
            if settings.model_type == EMBEDDED && !explicit {
                return Self::embedded(arguments, repeated, device, bars);
            }
            options.use_lora = settings.lora_scale.is_some();
            options.model_type = Some(settings.model_type.parse()?);
            if !explicit {
                let path = |part: &str| {
                    let record = settings.model.iter().find(|record| record.part == part);
                    record.map(|record: &ModelRecord| PathBuf::from(&record.path))
                };
                (options.dit, options.ae, options.lora) = (path("dit"), path("ae"), path("lora"));
                (options.t5, options.clip) = (path("t5"), path("clip"));
                // Vocabularies need not lie beside the weights; where they are gone, they are looked for as usual.
                let there = |part: &str| path(part).filter(|path| path.exists());
                options.t5_tokenizer = options.t5_tokenizer.or_else(|| there("t5_tokenizer"));
                let of_clip = || there("clip_tokenizer").or_else(|| there("clip_vocab"));
                options.clip_tokenizer = options.clip_tokenizer.or_else(of_clip);
            }
        } else if !names_model(arguments, &options) {
            return Self::embedded(arguments, repeated, device, bars);
        }
        let files = discover(&options, bars)?;
        for (part, path, source) in files.parts() {
            bars.say(&format!("{part}: {} ({source})", path.display()));
        }
        Self::new(ModelSource::open(&files)?, arguments, repeated, device)
    }

    fn embedded(
        arguments: &Arguments,
        repeated: Option<&Settings>,
        device: &Device,
        bars: &Bars,
    ) -> Result<Self> {
        bars.say(
            "No model was named, so this uses uno-tiny, the small one inside the program. It knows mugs, balls, robots, birds, cars, \
             houses, fish and teapots in a few scenes, and takes their looks from the references (docs/uno-tiny.md).\nFor the real one give --model DIR, or --download to fetch FLUX.1-dev and UNO from the \
             Hugging Face hub (37 GB; FLUX.1-dev's licence is non-commercial). See docs/checkpoints.md.",
        );
        Self::new(embedded()?, arguments, repeated, device)
    }

    fn new(
        mut source: ModelSource,
        arguments: &Arguments,
        repeated: Option<&Settings>,
        device: &Device,
    ) -> Result<Self> {
        // For a picture that is made again its own LoRAs, unless others are named.
        let scales = repeated.map(|settings| settings.add_lora_scales.clone()).unwrap_or_default();
        let recorded = scales.into_iter().enumerate().filter_map(|(i, scale)| {
            let part = format!("add_lora.{i}");
            let record = repeated?.model.iter().find(|record| record.part == part)?;
            Some(AddedLora { path: record.path.clone(), scale })
        });
        let recorded: Vec<_> = if arguments.add_lora.is_empty() { recorded.collect() } else { Vec::new() };
        for AddedLora { path, scale } in arguments.add_lora.iter().chain(&recorded) {
            source.more_loras.push((Checkpoint::open(path)?, *scale));
        }
        let options = options(arguments, repeated, device)?;
        let info = ModelInfo::new(&source, &options, &arguments.device);
        for record in repeated.iter().flat_map(|settings| &settings.model) {
            let now = info.files.iter().find(|now| now.part == record.part);
            if now.is_none_or(|now| now.fingerprint != record.fingerprint) {
                bail!(
                    "{}: the picture was made with {} (fingerprint {}); the file found now is another; name the original \
                     with --model or --{}",
                    record.part,
                    record.path.display(),
                    record.fingerprint,
                    match record.part.as_str() {
                        "clip_vocab" | "clip_merges" => "clip_tokenizer",
                        "clip_config" => "clip",
                        part => part,
                    }
                );
            }
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
        self.info.lora_merged = plan.merge_lora;
        self.plan = Some(plan);
        Ok(())
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
fn options(arguments: &Arguments, repeated: Option<&Settings>, device: &Device) -> Result<PipelineOptions> {
    let mut options = PipelineOptions::new(device);
    options.dtype = arguments.float_dtype();
    (options.lora_scale, options.merge_lora) = (arguments.lora_scale, arguments.merge_lora);
    options.int8 = arguments.int8;
    if let Some(settings) = repeated {
        options.dtype = match settings.dtype.as_str() {
            "F32" => FloatDType::F32,
            "F16" => FloatDType::F16,
            "BF16" => FloatDType::BF16,
            other => bail!("the picture was computed in {other:?}, which this version does not know"),
        };
        options.lora_scale = settings.lora_scale.unwrap_or(0.0);
        options.merge_lora = settings.lora_merged.into();
        options.int8 = settings.int8;
    }
    check_dtype(device, options.dtype)?;
    // The CPU reads weights where they are mapped; a GPU holds them, as far as the plan lets it.
    options.storage = if is_cpu(device) { Storage::AsStored } else { Storage::Expanded };
    Ok(options)
}
