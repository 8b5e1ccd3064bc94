//! Which model: named on the command line or by the environment, that of a picture, or the embedded one.

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::tensor::Device;
use uno_core::vae::AutoEncoderConfig;
use uno_core::weights::Storage;
use uno_models::UnoPipeline;
use uno_models::checkpoint::{CheckpointOptions, discover, embedded};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::output::{ModelRecord, Settings};

use super::arguments::Arguments;
use super::progress::Bars;

/// Name of the model inside the program, in settings.
const EMBEDDED: &str = "embedded";

/// A model that was found and opened.
pub struct Model {
    source: ModelSource,
    model_type: String,
    codec: AutoEncoderConfig,
    /// Settings of the picture that is made again: they override the command line.
    repeated: Option<Settings>,
}

impl Model {
    pub fn open(arguments: &Arguments, repeated: Option<&Settings>, bars: &Bars) -> Result<Self> {
        let mut options = CheckpointOptions {
            model_dir: arguments.model.clone(),
            model_type: arguments.model_type,
            dit: arguments.dit.clone(),
            ae: arguments.ae.clone(),
            t5: arguments.t5.clone(),
            clip: arguments.clip.clone(),
            lora: arguments.lora.clone(),
            use_lora: arguments.lora_scale != 0.0,
            allow_download: arguments.download,
            offline: arguments.offline,
            ..CheckpointOptions::default()
        };
        let named = options.names_anything() || arguments.model_type.is_some() || arguments.download;
        if let Some(settings) = repeated {
            let explicit = arguments.model.is_some() || arguments.dit.is_some();
            if settings.model_type == EMBEDDED && !explicit {
                return Self::embedded(repeated, bars);
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
            }
        } else if !named {
            return Self::embedded(repeated, bars);
        }
        let files = discover(&options, bars)?;
        for (part, path, source) in files.parts() {
            bars.say(&format!("{part}: {} ({source})", path.display()));
        }
        Self::new(ModelSource::open(&files)?, files.model_type.as_str(), repeated)
    }

    fn embedded(repeated: Option<&Settings>, bars: &Bars) -> Result<Self> {
        bars.say(
            "No model was named, so this uses the small one inside the program. Its weights are random: it makes patterns, not \
             pictures of anything.\nFor the real one give --model DIR, or --download to fetch FLUX.1-dev and UNO from the \
             Hugging Face hub (37 GB; FLUX.1-dev's licence is non-commercial). See docs/checkpoints.md.",
        );
        Self::new(embedded()?, EMBEDDED, repeated)
    }

    fn new(source: ModelSource, model_type: &str, repeated: Option<&Settings>) -> Result<Self> {
        let codec = AutoEncoderConfig::detect(&source.ae)?;
        let model = Self { source, model_type: model_type.to_owned(), codec, repeated: repeated.cloned() };
        if let Some(settings) = repeated {
            for record in &settings.model {
                let now = model.records().into_iter().find(|now| now.part == record.part);
                if now.as_ref().is_none_or(|now| now.fingerprint != record.fingerprint) {
                    bail!(
                        "{}: the picture was made with {} (fingerprint {}); the file found now is another; name the original \
                         with --model or --{}",
                        record.part,
                        record.path.display(),
                        record.fingerprint,
                        record.part
                    );
                }
            }
        }
        Ok(model)
    }

    pub fn channels(&self) -> usize {
        self.codec.latent_channels
    }

    pub fn downsampling(&self) -> usize {
        self.codec.downsampling()
    }

    /// Loads the model.
    pub fn load(&self, device: &Device, arguments: &Arguments, bars: &Bars) -> Result<UnoPipeline> {
        let mut options = PipelineOptions::new(device);
        options.dtype = arguments.float_dtype();
        (options.lora_scale, options.merge_lora) = (arguments.lora_scale, arguments.merge_lora);
        if let Some(settings) = &self.repeated {
            options.dtype = match settings.dtype.as_str() {
                "F32" => burn::tensor::FloatDType::F32,
                "F16" => burn::tensor::FloatDType::F16,
                "BF16" => burn::tensor::FloatDType::BF16,
                other => bail!("the picture was computed in {other:?}, which this version does not know"),
            };
            options.lora_scale = settings.lora_scale.unwrap_or(0.0);
            options.merge_lora = settings.lora_merged;
        }
        // The CPU reads weights where they are mapped; a GPU holds them, unless it is to be spared.
        let on_cpu = arguments.device == "cpu";
        options.storage = if on_cpu || arguments.offload { Storage::AsStored } else { Storage::Expanded };
        options.release_text_encoders = arguments.offload;
        Ok(load(&self.source, &options, bars)?)
    }

    /// Writes what is known of model and computation into the settings of a picture.
    pub fn record(&self, settings: &mut Settings, arguments: &Arguments) {
        settings.model_type.clone_from(&self.model_type);
        settings.model = self.records();
        settings.device.clone_from(&arguments.device);
        match &self.repeated {
            Some(repeated) => {
                settings.dtype.clone_from(&repeated.dtype);
                settings.exif_orientation = repeated.exif_orientation;
                (settings.lora_scale, settings.lora_merged) = (repeated.lora_scale, repeated.lora_merged);
            }
            None => {
                settings.dtype = format!("{:?}", arguments.float_dtype());
                settings.lora_scale = self.source.lora.as_ref().map(|_| arguments.lora_scale);
                settings.lora_merged = arguments.merge_lora;
            }
        }
    }

    fn records(&self) -> Vec<ModelRecord> {
        let record = |(part, checkpoint): (&str, &uno_core::weights::Checkpoint)| ModelRecord {
            part: part.to_owned(),
            path: std::path::absolute(checkpoint.path()).unwrap_or_else(|_| checkpoint.path().to_path_buf()),
            fingerprint: checkpoint.fingerprint().to_owned(),
        };
        self.source.checkpoints().into_iter().map(record).collect()
    }
}
