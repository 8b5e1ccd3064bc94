//! Which model is served, and how it is loaded for a job: with which LoRAs, and fitted into which memory.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use serde::Serialize;
use tracing::{info, warn};
use uno_core::device::{self, Backend, Opened, check_dtype};
use uno_core::lora;
use uno_core::preview::LatentPreview;
use uno_core::traits::Observer;
use uno_core::vae::AutoEncoderConfig;
use uno_core::weights::Checkpoint;
use uno_models::checkpoint::{EMBEDDED, discover, embedded};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::memory::{Budget, Geometry, Plan, resident};
use uno_models::output::ModelInfo;
use uno_models::preprocess::preprocessed_size_of;
use uno_models::unope::UnoPe;
use uno_models::{Request, UnoPipeline};
use utoipa::ToSchema;

use crate::arguments::{Arguments, Dtype};
use crate::downloads::Downloads;
use crate::error::ApiError;
use crate::job::{JobSettings, LoraScale, Placement};

const TINY_NOTICE: &str = "uno-tiny is a small model inside the program, for trying things out: it knows mugs, balls, robots, birds, \
    cars, houses, fish and teapots, on a beach, in a meadow, in the snow, in a city at night, on a wooden table and in the desert, \
    in pictures of 128x128 pixels. For FLUX.1 and UNO start the server with --model or --download.";
const DEV_NOTICE: &str = "FLUX.1-dev is for non-commercial use: its licence holds for what is done with the model, and says what may be \
    done with pictures (https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md).";

/// A model that was found and opened.
pub struct Model {
    source: ModelSource,
    /// Further LoRAs, in the order in which they are added.
    more_loras: Vec<Checkpoint>,
    /// The same, by name.
    loras: Vec<LoraScale>,
    codec: AutoEncoderConfig,
    options: PipelineOptions,
    device: Opened,
    defaults: ModelDefaults,
    /// The bounds on memory that jobs may choose.
    budgets: Vec<(String, Budget)>,
    /// Where the first of them comes from, in words, if it was measured when the server started.
    budget_from: Option<&'static str>,
    /// What the process takes without a model.
    base: u64,
    /// How latents look; known once the model has been loaded.
    preview: OnceLock<LatentPreview>,
}

/// The settings that the model was made for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelDefaults {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// How closely the prompt is followed.
    pub guidance: f32,
    /// Longer side that a single reference is scaled to, and each of several, in pixels.
    pub ref_sizes: [u32; 2],
    /// How references are placed.
    #[schema(value_type = Placement)]
    pub pe: UnoPe,
    /// Factor on UNO's LoRA.
    pub lora_scale: f64,
    /// The memory to use.
    pub memory: String,
}

/// What decides how the pipeline is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    lora_scale: f64,
    /// Further LoRAs by their place, with factors other than 0.
    loras: Vec<(usize, f64)>,
    memory: Budget,
}

impl Selection {
    /// The bound on memory in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        match self.memory {
            Budget::Bytes(bytes) => Some(bytes),
            Budget::Auto | Budget::Least => None,
        }
    }
}

/// A pipeline, and what it was loaded for.
pub struct Loaded {
    pub pipeline: UnoPipeline,
    pub info: ModelInfo,
    selection: Selection,
    plan: Plan,
}

impl Model {
    /// Finds and opens the model that the arguments name, or the one inside the program.
    ///
    /// # Errors
    ///
    /// A device that does not answer, and files that are missing or not what they should be.
    pub fn open(arguments: &Arguments) -> Result<Self> {
        let device = device::open_named(&arguments.device)?;
        let files = arguments.checkpoint();
        let source = if files.names_anything() || files.allow_download {
            let files = discover(&files, &Downloads)?;
            for (part, path, from) in files.parts() {
                info!("{part}: {} ({from})", path.display());
            }
            ModelSource::open(&files)?
        } else {
            embedded()?
        };
        let mut options = PipelineOptions::suited_to(&device);
        options.dtype = arguments.dtype.map_or(options.dtype, Dtype::float);
        check_dtype(&options.device, options.dtype)?;
        let mut more_loras = Vec::new();
        let mut loras: Vec<LoraScale> = Vec::new();
        for added in &arguments.add_lora {
            anyhow::ensure!(
                loras.iter().all(|other| other.name != added.name),
                "--add_lora: {:?} is the name of two LoRAs; wanted different ones",
                added.name
            );
            more_loras.push(lora::open(&added.path)?);
            loras.push(LoraScale { name: added.name.clone(), scale: added.scale });
        }
        let on_cpu = device.backend == Backend::Cpu;
        let budgets = budgets(arguments.memory, on_cpu);
        let is_measured = arguments.memory == Budget::Auto && on_cpu;
        let made_for = source.defaults();
        let request = Request::with_defaults("", made_for);
        let defaults = ModelDefaults {
            width: made_for.side,
            height: made_for.side,
            num_steps: request.num_steps,
            guidance: made_for.guidance,
            ref_sizes: made_for.ref_sizes,
            pe: request.pe,
            lora_scale: if source.lora.is_some() { arguments.lora_scale } else { 0.0 },
            memory: budgets.first().map(|(name, _)| name.clone()).unwrap_or_default(),
        };
        Ok(Self {
            codec: AutoEncoderConfig::detect(&source.ae)?,
            source,
            more_loras,
            loras,
            options,
            device,
            defaults,
            budgets,
            budget_from: is_measured.then_some("nine tenths of what was free when the server started"),
            base: resident().unwrap_or(0),
            preview: OnceLock::new(),
        })
    }

    /// Its name: `uno-tiny`, or the official one.
    pub fn name(&self) -> &str {
        if self.source.model_type == EMBEDDED { "uno-tiny" } else { &self.source.model_type }
    }

    /// What a user should know of it.
    pub fn notice(&self) -> Option<&'static str> {
        match self.source.model_type.as_str() {
            EMBEDDED => Some(TINY_NOTICE),
            name if name.starts_with("flux-dev") => Some(DEV_NOTICE),
            _ => None,
        }
    }

    /// The device that was opened.
    pub fn device(&self) -> &Opened {
        &self.device
    }

    /// Number format of transformer and text encoders.
    pub fn dtype(&self) -> &'static str {
        use burn::tensor::FloatDType;
        match self.options.dtype {
            FloatDType::F16 => "float16",
            FloatDType::BF16 => "bfloat16",
            _ => "float32",
        }
    }

    /// The settings that it was made for.
    pub fn defaults(&self) -> &ModelDefaults {
        &self.defaults
    }

    /// Longer side that so many references are scaled to.
    pub fn long_side(&self, references: usize) -> u32 {
        self.source.defaults().long_side(references)
    }

    /// Whether UNO's LoRA is there.
    pub fn has_lora(&self) -> bool {
        self.source.lora.is_some()
    }

    /// The further LoRAs that jobs may use, with the factors that are used where a job names none.
    pub fn loras(&self) -> &[LoraScale] {
        &self.loras
    }

    /// The bounds on memory that jobs may choose, the default first.
    pub fn memory_choices(&self) -> Vec<String> {
        self.budgets.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The codec's channels and pixels per latent, as [`Request::validate`] wants them.
    pub fn codec(&self) -> (usize, usize) {
        (self.codec.latent_channels, self.codec.downsampling())
    }

    /// How its latents look, once it has been loaded.
    pub fn preview(&self) -> Option<&LatentPreview> {
        self.preview.get()
    }

    /// How the model has to be loaded for these settings.
    ///
    /// # Errors
    ///
    /// LoRAs and memory that were there when the job was taken, and are no longer.
    pub fn selection(&self, settings: &JobSettings) -> Result<Selection> {
        let place = |lora: &LoraScale| {
            let place = self.loras.iter().position(|known| known.name == lora.name);
            let place = place.with_context(|| {
                format!(
                    "the LoRA {:?} is not here since the server was started anew; start it with --add_lora",
                    lora.name
                )
            })?;
            Ok((place, lora.scale))
        };
        let loras: Vec<_> = settings.loras.iter().map(place).collect::<Result<_>>()?;
        Ok(Selection {
            lora_scale: settings.lora_scale,
            loras: loras.into_iter().filter(|(_, scale)| *scale != 0.0).collect(),
            memory: self.budget(&settings.memory)?,
        })
    }

    fn budget(&self, name: &str) -> Result<Budget> {
        let found = self.budgets.iter().find(|(known, _)| known == name);
        let found = found.with_context(|| {
            format!("memory {name:?} is no choice here; wanted one of {}", self.memory_choices().join(", "))
        })?;
        Ok(found.1)
    }

    /// Sizes of picture and references as the model sees them.
    ///
    /// # Errors
    ///
    /// A reference of which nothing would be left.
    pub fn geometry(&self, settings: &JobSettings) -> Result<Geometry> {
        let seen = settings.references.iter().map(|reference| {
            preprocessed_size_of("reference", (reference.width, reference.height), settings.ref_size)
        });
        let seen = seen.collect::<uno_models::Result<Vec<_>>>()?;
        Ok(Geometry::new(settings.width, settings.height).with_references(seen))
    }

    /// Whether a job fits into the memory that it wants.
    ///
    /// # Errors
    ///
    /// It does not, with the numbers.
    pub fn check_fits(&self, settings: &JobSettings) -> Result<(), ApiError> {
        let selection = self.selection(settings).map_err(ApiError::internal)?;
        let geometry = self.geometry(settings).map_err(ApiError::internal)?;
        self.plan(&selection, &geometry)?;
        Ok(())
    }

    /// How the model is fitted into memory for a job of this size.
    ///
    /// # Errors
    ///
    /// It cannot be, with the numbers.
    pub fn plan(&self, selection: &Selection, geometry: &Geometry) -> uno_models::Result<Plan> {
        let (source, options) = (self.source(selection), self.options(selection));
        let mut plan = Plan::make_beside(&source, &options, geometry, selection.memory, self.base)?;
        if let (Some(from), Budget::Bytes(_)) = (self.budget_from, selection.memory) {
            plan.budget_from = from.to_owned();
        }
        Ok(plan)
    }

    /// The pipeline for a job: the one that is loaded, if it has the same LoRAs and takes no more memory than is planned now;
    /// else that one is let go, and another loaded.
    ///
    /// # Errors
    ///
    /// What does not fit into memory, cannot be loaded, or is stopped by the observer; then nothing is loaded.
    pub fn prepare<'a>(
        &self,
        loaded: &'a mut Option<Loaded>,
        selection: Selection,
        geometry: &Geometry,
        observer: &dyn Observer,
    ) -> Result<&'a Loaded> {
        let plan = self.plan(&selection, geometry)?;
        if !loaded.as_ref().is_some_and(|loaded| loaded.serves(&selection, &plan)) {
            // Before the next is loaded: both together would take twice the memory.
            *loaded = None;
            if !plan.is_trivial() {
                info!("{plan}");
            }
            let (source, mut options) = (self.source(&selection), self.options(&selection));
            plan.apply(&mut options);
            let info = ModelInfo::new(&source, &options, &self.device);
            let pipeline = load(&source, &options, observer)?;
            if self.preview.get().is_none() {
                match LatentPreview::fit(pipeline.codec(), &options.device) {
                    // Only this thread loads models.
                    Ok(preview) => drop(self.preview.set(preview)),
                    Err(error) => warn!("there are no previews: {error}"),
                }
            }
            *loaded = Some(Loaded { pipeline, info, selection, plan });
        }
        loaded.as_ref().context("no model is loaded")
    }

    /// The selection and the size of a job that names nothing but a prompt.
    pub fn usual(&self) -> Result<(Selection, Geometry)> {
        let side = self.long_side(1) as usize;
        let geometry = Geometry::new(self.defaults.width, self.defaults.height);
        Ok((self.usual_selection(&self.defaults.memory)?, geometry.with_references(vec![(side, side)])))
    }

    /// All LoRAs with the factors that the server was started with.
    ///
    /// # Errors
    ///
    /// A memory that is no choice.
    pub fn usual_selection(&self, memory: &str) -> Result<Selection> {
        let loras = self.loras.iter().enumerate().map(|(i, lora)| (i, lora.scale));
        Ok(Selection {
            lora_scale: self.defaults.lora_scale,
            loras: loras.filter(|(_, scale)| *scale != 0.0).collect(),
            memory: self.budget(memory)?,
        })
    }

    fn source(&self, selection: &Selection) -> ModelSource {
        let mut source = self.source.clone();
        if selection.lora_scale == 0.0 {
            source.lora = None;
        }
        let chosen =
            selection.loras.iter().filter_map(|(i, scale)| Some((self.more_loras.get(*i)?.clone(), *scale)));
        source.more_loras = chosen.collect();
        source
    }

    fn options(&self, selection: &Selection) -> PipelineOptions {
        let mut options = self.options.clone();
        options.lora_scale = selection.lora_scale;
        options
    }
}

impl Loaded {
    fn serves(&self, selection: &Selection, plan: &Plan) -> bool {
        self.selection == *selection
            && self.plan.resident <= plan.resident
            && self.plan.stream_text_encoders >= plan.stream_text_encoders
            // Tiles approximate: which are used must not depend on what was made before.
            && self.plan.vae_tile == plan.vae_tile
            && self.plan.merge_lora == plan.merge_lora
    }
}

/// The bounds on memory that jobs may choose: as the server was started, or as little as possible.
fn budgets(started: Budget, on_cpu: bool) -> Vec<(String, Budget)> {
    let usual = match started {
        // What is free changes with what this process has loaded; a plan has to be the same each time.
        Budget::Auto if on_cpu => Budget::Bytes(Budget::Auto.resolve().0),
        other => other,
    };
    let mut budgets = vec![(started.to_string(), usual)];
    if started != Budget::Least {
        budgets.push((Budget::Least.to_string(), Budget::Least));
    }
    budgets
}
