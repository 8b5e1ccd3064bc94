//! From checkpoint files to the parts of a pipeline.

use std::path::Path;
use std::str::FromStr;

use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};
use uno_core::device::Opened;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::lora;
use uno_core::lora_keys::Component;
use uno_core::text::{
    ClipTextConfig, ClipTextEncoder, ClipTokenizer, FluxTextEncoder, T5_LENGTH, T5Encoder, T5Tokenizer,
};
use uno_core::traits::{Event, Observer, TextEncoder, TextEncoding};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, Storage, layout};

use crate::checkpoint::{CheckpointFiles, ClipTokenizerFiles, EMBEDDED, ModelType, T5TokenizerFiles};
use crate::error::{Error, Result};
use crate::output::FileRecord;
use crate::pipeline::UnoPipeline;
use crate::request::Defaults;

/// Whether LoRAs are added to the weights once, or computed beside them at each step. The result is the same up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoraMerge {
    /// As the memory planner chooses ([`crate::memory::Plan`]): merged where that fits. Without a plan, beside.
    Auto,
    /// Beside the weights, which stay as they are stored: the least memory, on quantized weights too, and the same picture to the
    /// last bit however much memory there is.
    #[default]
    Beside,
    /// Merged: faster steps, for the memory of the adapted matrices in the compute format.
    Merged,
}

impl LoraMerge {
    /// Whether LoRAs are merged where nothing is planned.
    pub fn is_merged(self) -> bool {
        self == Self::Merged
    }
}

impl From<bool> for LoraMerge {
    fn from(merge: bool) -> Self {
        if merge { Self::Merged } else { Self::Beside }
    }
}

impl FromStr for LoraMerge {
    type Err = Error;

    /// `auto`, `always` or `never`.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "always" | "true" => Ok(Self::Merged),
            "never" | "false" => Ok(Self::Beside),
            _ => Err(Error::request("merge_lora", text, "auto, always or never")),
        }
    }
}

/// Whether the autoencoder works on whole pictures, which is exact, or in overlapping tiles, which takes less memory and changes the
/// picture a little. Settings record it as the side of a tile in latents, or as `null` for whole pictures; those of versions that
/// did not record it have no such field, which is [`VaeTiling::Auto`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Option<usize>", into = "Option<usize>")]
pub enum VaeTiling {
    /// As the memory planner chooses ([`crate::memory::Plan`]): whole where that fits. Without a plan, whole.
    #[default]
    Auto,
    /// Whole pictures.
    Whole,
    /// Tiles of so many latents per side.
    Tiles(usize),
}

impl VaeTiling {
    /// Side of the tiles in latents, where nothing is planned.
    pub fn tile(self) -> Option<usize> {
        match self {
            Self::Auto | Self::Whole => None,
            Self::Tiles(tile) => Some(tile),
        }
    }

    /// Whether it is not said.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl From<Option<usize>> for VaeTiling {
    fn from(tile: Option<usize>) -> Self {
        tile.map_or(Self::Whole, Self::Tiles)
    }
}

impl From<VaeTiling> for Option<usize> {
    fn from(tiling: VaeTiling) -> Self {
        tiling.tile()
    }
}

/// How a pipeline is loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PipelineOptions {
    /// Where it computes.
    pub device: Device,
    /// The format of transformer and text encoders (the autoencoder is always f32) and of latents between steps.
    pub dtype: FloatDType,
    /// In which form weight matrices wait for their use.
    pub storage: Storage,
    /// Whether text encoders are loaded for each generation and released after it.
    pub release_text_encoders: bool,
    /// How many bytes of the transformer's and the LoRAs' matrices, in the form of `storage`, stay in memory; those beyond are
    /// streamed from disk.
    pub resident_bytes: u64,
    /// Whether the text encoders' matrices are streamed from disk at each prompt, rather than kept.
    pub stream_text_encoders: bool,
    /// Whether the autoencoder works in tiles.
    pub vae_tiling: VaeTiling,
    /// Factor on UNO's LoRA.
    pub lora_scale: f64,
    /// Whether LoRAs are merged into the transformer's weights. In text encoders they stay beside them.
    pub merge_lora: LoraMerge,
    /// Whether the transformer multiplies in 8-bit integers ([`LoadOptions::int8`]): faster, and an approximation.
    pub int8: bool,
}

impl PipelineOptions {
    /// f32 on `device`, weights as stored, the LoRA beside them at scale 1.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            dtype: FloatDType::F32,
            storage: Storage::AsStored,
            release_text_encoders: false,
            resident_bytes: u64::MAX,
            stream_text_encoders: false,
            vae_tiling: VaeTiling::Auto,
            lora_scale: 1.0,
            merge_lora: LoraMerge::Beside,
            int8: false,
        }
    }

    /// What suits a device that was opened: its number format and the storage that goes with it, all else as in
    /// [`new`](Self::new). Both follow from what the device is, not from the name it was asked for by.
    pub fn suited_to(opened: &Opened) -> Self {
        let (dtype, storage) = (opened.backend.dtype(), opened.backend.storage());
        Self { dtype, storage, ..Self::new(&opened.device) }
    }

    pub(crate) fn load(&self) -> LoadOptions {
        LoadOptions::new(&self.device).with_dtype(self.dtype).with_storage(self.storage)
    }

    fn load_text(&self) -> LoadOptions {
        self.load().with_resident_bytes(if self.stream_text_encoders { 0 } else { u64::MAX })
    }
}

/// The contents of all files of a model, opened but not loaded.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// Kind of model, as the official `--model_type`; `embedded` for the one inside the program.
    pub model_type: String,
    /// The transformer.
    pub dit: Checkpoint,
    /// The autoencoder.
    pub ae: Checkpoint,
    /// UNO's LoRA, if it is used.
    pub lora: Option<Checkpoint>,
    /// Further LoRAs, each with its factor, in the order in which they are added. They are opened with [`lora::open`], which reads
    /// their alpha too where it is not among the tensors.
    pub more_loras: Vec<(Checkpoint, f64)>,
    /// Both text encoders.
    pub text: TextSource,
}

/// The contents of the text encoders' files, opened but not loaded.
#[derive(Debug, Clone)]
pub struct TextSource {
    /// T5's weights.
    pub t5: Checkpoint,
    /// Tokens that prompts are padded or cut to for T5; 512 for the published models.
    pub t5_length: usize,
    /// CLIP's weights.
    pub clip: Checkpoint,
    /// CLIP's `config.json`.
    pub clip_config: Option<Vec<u8>>,
    /// T5's vocabulary.
    pub t5_tokenizer: T5Tokenizer,
    /// CLIP's vocabulary.
    pub clip_tokenizer: ClipTokenizer,
    /// The small files: vocabularies and CLIP's `config.json`, each with the name of its part.
    pub files: Vec<(&'static str, FileRecord)>,
}

impl ModelSource {
    /// Opens the files that were found.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is not what it should be.
    pub fn open(files: &CheckpointFiles) -> Result<Self> {
        // Under our names, and without the other parts of an all-in-one file, so that memory is planned for what is used.
        let mut dit = Checkpoint::open(&files.dit.files)?.arranged(layout::flux).into_owned();
        if files.model_type == ModelType::FluxDevFp8 {
            dit = dit.rounded_to_e4m3();
        }
        let mut small = vec![("t5_tokenizer", files.t5.tokenizer.files.path())];
        match &files.clip.tokenizer.files {
            ClipTokenizerFiles::Json(path) => small.push(("clip_tokenizer", path)),
            ClipTokenizerFiles::VocabMerges { vocab, merges } => {
                small.extend([("clip_vocab", vocab.as_path()), ("clip_merges", merges.as_path())]);
            }
        }
        small.extend(files.clip.config.as_deref().map(|config| ("clip_config", config)));
        let clip_config = files.clip.config.as_deref().map(ClipTextConfig::read).transpose()?;
        Ok(Self {
            model_type: files.model_type.to_string(),
            dit,
            ae: Checkpoint::open(&files.ae.files)?.arranged(layout::autoencoder).into_owned(),
            lora: files.lora.as_ref().map(|lora| lora::open(&lora.files)).transpose()?,
            more_loras: Vec::new(),
            text: TextSource {
                t5: Checkpoint::open(&files.t5.weights.files)?.arranged(layout::t5).into_owned(),
                t5_length: files.t5.config.as_deref().map_or(Ok(T5_LENGTH), t5_length)?,
                clip: Checkpoint::open(&files.clip.weights.files)?.arranged(layout::clip).into_owned(),
                clip_config,
                t5_tokenizer: match &files.t5.tokenizer.files {
                    T5TokenizerFiles::SentencePiece(path) => T5Tokenizer::from_spiece(path)?,
                    T5TokenizerFiles::Json(path) => T5Tokenizer::from_tokenizer_json(path)?,
                },
                clip_tokenizer: match &files.clip.tokenizer.files {
                    ClipTokenizerFiles::Json(path) => ClipTokenizer::from_tokenizer_json(path)?,
                    ClipTokenizerFiles::VocabMerges { vocab, merges } => {
                        ClipTokenizer::from_vocab_merges(vocab, merges)?
                    }
                },
                files: small
                    .into_iter()
                    .map(|(part, path)| Ok((part, FileRecord::of(path)?)))
                    .collect::<Result<_>>()?,
            },
        })
    }

    /// The settings that the model was made for.
    pub fn defaults(&self) -> Defaults {
        if self.model_type == EMBEDDED { Defaults::UNO_TINY } else { Defaults::UNO }
    }

    /// Whether any LoRA is used.
    pub fn has_lora(&self) -> bool {
        self.lora.is_some() || !self.more_loras.is_empty()
    }

    /// All LoRAs in order, each with its factor; `own` is that of UNO's.
    fn loras(&self, own: f64) -> Vec<(Checkpoint, f64)> {
        let own = self.lora.iter().map(|lora| (lora.clone(), own));
        own.chain(self.more_loras.iter().cloned()).collect()
    }

    /// Every checkpoint, with the name of its part.
    pub fn checkpoints(&self) -> Vec<(String, &Checkpoint)> {
        let mut all =
            vec![("dit", &self.dit), ("ae", &self.ae), ("t5", &self.text.t5), ("clip", &self.text.clip)];
        all.extend(self.lora.as_ref().map(|lora| ("lora", lora)));
        let mut all: Vec<_> =
            all.into_iter().map(|(part, checkpoint)| (part.to_owned(), checkpoint)).collect();
        let more = self.more_loras.iter().enumerate();
        all.extend(more.map(|(i, (lora, _))| (format!("add_lora.{i}"), lora)));
        all
    }
}

/// Prompt tokens of a T5: `n_positions` of its `config.json`, 512 in the published ones and where it is not told. Only models trained
/// on shorter prompts tell another number.
fn t5_length(config: &Path) -> Result<usize> {
    #[derive(serde::Deserialize)]
    struct Config {
        n_positions: Option<usize>,
    }
    let json = ClipTextConfig::read(config)?;
    let config: Config = serde_json::from_slice(&json)
        .map_err(|e| Error::format(config, format!("is no config.json of a T5: {e}")))?;
    Ok(config.n_positions.unwrap_or(T5_LENGTH))
}

impl TextSource {
    /// Loads both encoders, and beside their weights what the LoRAs, each with its factor, are to them. It is never merged: an
    /// encoder runs once per prompt, and stays as it is stored.
    fn load(&self, loras: &[(Checkpoint, f64)], options: &LoadOptions) -> uno_core::Result<FluxTextEncoder> {
        let mut t5 = T5Encoder::load(&self.t5, options)?;
        let config = ClipTextConfig::detect(&self.clip, self.clip_config.as_deref())?;
        let mut clip = ClipTextEncoder::load_with(&self.clip, config, options)?;
        for (lora, scale) in loras {
            lora::attach(&mut t5, lora, *scale, options)?;
            lora::attach(&mut clip, lora, *scale, options)?;
        }
        FluxTextEncoder::new(t5, self.t5_tokenizer.clone(), clip, self.clip_tokenizer.clone(), self.t5_length)
    }
}

/// A text encoder that holds no weights between prompts: it loads them, encodes and releases them.
struct ReleasedTextEncoder {
    source: TextSource,
    loras: Vec<(Checkpoint, f64)>,
    options: LoadOptions,
}

impl TextEncoder for ReleasedTextEncoder {
    fn encode(&self, prompts: &[String]) -> uno_core::Result<TextEncoding> {
        self.source.load(&self.loras, &self.options)?.encode(prompts)
    }
}

/// Bytes of the matrices of all modulations while they wait: they are streamed as soon as anything is.
pub(crate) fn modulation_bytes(config: &FluxConfig, dit: &Checkpoint, load: &LoadOptions) -> u64 {
    let matrices = dit.tensors().values().filter(|tensor| tensor.shape().len() == 2);
    let (numbers, bytes) =
        matrices.fold((0, 0), |(n, b), t| (n + t.len() as u64, b + u128::from(load.bytes_of(t))));
    let share = (config.modulation_outputs() * config.hidden_size) as u128;
    u64::try_from(bytes * share / u128::from(numbers.max(1))).unwrap_or(u64::MAX)
}

/// Loads the transformer with UNO's LoRA and the further ones, beside its weights or merged.
///
/// # Errors
///
/// Weights that are missing, left over or of another shape; a LoRA for another model; UNO's without one of its layers.
pub fn load_transformer(source: &ModelSource, options: &PipelineOptions) -> Result<Flux> {
    let load = options.load().with_resident_bytes(options.resident_bytes).with_int8(options.int8);
    let mut model = Flux::load(&source.dit, &load)?;
    let taken = |c: &Checkpoint| c.tensors().values().map(|tensor| load.bytes_of(tensor)).sum::<u64>();
    let taken_by_dit =
        taken(&source.dit).saturating_sub(modulation_bytes(model.config(), &source.dit, &load));
    let mut left = options.resident_bytes.saturating_sub(taken_by_dit);
    if options.resident_bytes == u64::MAX {
        left = u64::MAX;
    }
    for (checkpoint, scale) in source.loras(options.lora_scale) {
        // A LoRA is read at every layer: it stays, or is streamed, as a whole.
        let bytes = taken(&lora::part(&checkpoint, Component::Transformer));
        let resident = if bytes <= left { u64::MAX } else { 0 };
        left = if left == u64::MAX { left } else { left.saturating_sub(bytes) };
        lora::attach(&mut model, &checkpoint, scale, &load.clone().with_resident_bytes(resident))?;
    }
    if let Some(own) = &source.lora {
        lora::check_whole(own, model.config())?;
    }
    if options.merge_lora.is_merged() {
        lora::merge(&mut model, options.dtype)?;
    }
    Ok(model)
}

/// Loads the autoencoder.
///
/// # Errors
///
/// Weights that are missing, left over or of another shape.
pub fn load_autoencoder(source: &ModelSource, options: &PipelineOptions) -> Result<AutoEncoder> {
    Ok(AutoEncoder::load(&source.ae, &options.load())?.with_tile(options.vae_tiling.tile())?)
}

/// Loads both text encoders, with what the LoRAs are to them beside their weights.
///
/// # Errors
///
/// Weights that are missing, left over or of another shape; a vocabulary of another model; a LoRA for another model.
pub fn load_text_encoder(source: &ModelSource, options: &PipelineOptions) -> Result<FluxTextEncoder> {
    Ok(source.text.load(&source.loras(options.lora_scale), &options.load_text())?)
}

/// Loads a pipeline. `observer` hears of each stage, and can stop between them.
///
/// # Errors
///
/// Weights that are missing, left over, of another shape, or of another model; cancellation by the observer.
pub fn load(source: &ModelSource, options: &PipelineOptions, observer: &dyn Observer) -> Result<UnoPipeline> {
    let stage = |name: &str| match observer.on_event(&Event::Stage { name }).is_break() {
        true => Err(Error::from(uno_core::Error::Cancelled { step: 0, total: 0 })),
        false => Ok(()),
    };
    stage("loading the transformer")?;
    let model = load_transformer(source, options)?;
    stage("loading the autoencoder")?;
    let codec = load_autoencoder(source, options)?;
    stage("loading the text encoders")?;
    // Loaded once in any case, so that a wrong file shows now and not after minutes.
    let text = load_text_encoder(source, options)?;
    check_widths(&text, &model, &codec)?;
    let mut pipeline = if options.release_text_encoders {
        drop(text);
        let (text, loras) = (source.text.clone(), source.loras(options.lora_scale));
        let text = ReleasedTextEncoder { source: text, loras, options: options.load_text() };
        UnoPipeline::new(text, codec, model, &options.device, options.dtype)
    } else {
        UnoPipeline::new(text, codec, model, &options.device, options.dtype)
    };
    pipeline.checkpoints =
        source.checkpoints().into_iter().map(|(_, checkpoint)| checkpoint.clone()).collect();
    pipeline.defaults = source.defaults();
    Ok(pipeline)
}

/// The parts must be of one model.
fn check_widths(text: &FluxTextEncoder, model: &Flux, codec: &AutoEncoder) -> Result<()> {
    let config = model.config();
    for (part, got, wanted) in [
        ("T5", text.t5().config().d_model, config.context_in_dim),
        ("CLIP", text.clip().config().hidden_size, config.vec_in_dim),
        ("autoencoder", 4 * codec.config().latent_channels, config.in_channels),
    ] {
        if got != wanted {
            return Err(Error::checkpoint(
                part,
                format!(
                    "gives {got} features{}, the transformer takes {wanted}; the two are of different models",
                    known_width(part, got)
                ),
            ));
        }
    }
    Ok(())
}

/// Which published model gives so many features, where that is known.
fn known_width(part: &str, features: usize) -> &'static str {
    match (part, features) {
        ("T5", 512) => " (T5 small)",
        ("T5", 768) => " (T5 base)",
        ("T5", 1024) => " (T5 large)",
        ("T5", 2048) => " (T5 XL)",
        ("T5", 4096) => " (T5 XXL)",
        ("CLIP", 768) => " (CLIP-L)",
        ("CLIP", 1024) => " (CLIP-H, of Stable Diffusion 2)",
        ("CLIP", 1280) => " (CLIP-G, of SDXL and Stable Diffusion 3)",
        ("autoencoder", 16) => " (4 latent channels: Stable Diffusion 1, 2 or XL)",
        ("autoencoder", 64) => " (16 latent channels: FLUX.1)",
        ("autoencoder", 128) => " (32 latent channels: FLUX.2)",
        _ => "",
    }
}
