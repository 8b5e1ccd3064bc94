//! One file that says all of a training run: TOML or JSON. Unknown keys are errors, so that a misspelt one is not ignored.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::buckets::{Fit, buckets};
use super::data::{DataSource, OnDataError, Verify};
use super::learning_rate::{Decay, LearningRate};
use super::optimizer::AdamWConfig;
use crate::checkpoint::{CheckpointOptions, ModelType};
use crate::error::{Error, Result};
use crate::text_file;
use crate::unope::UnoPe;

/// Largest configuration that is read; real ones have some kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// A training run. Only `output` and `stages` have to be given; everything else is UNO's recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Folder for checkpoints, metrics and pictures.
    pub output: PathBuf,
    /// Seed of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Where it is computed: one device, or several that share each step (`["cuda:0", "cuda:1"]`).
    #[serde(default = "default_devices")]
    pub devices: Vec<String>,
    /// The number format that the transformer computes in. The LoRA, its gradients and the optimizer are f32.
    #[serde(default)]
    pub dtype: Dtype,
    /// Whether the transformer's weights are expanded once to that format, which takes more memory than the file (quantized
    /// files stay small: QLoRA) and saves time. By default on GPUs only.
    #[serde(default)]
    pub expand_weights: Option<bool>,
    /// Where the model's files are.
    #[serde(default)]
    pub model: ModelConfig,
    /// The LoRA.
    #[serde(default)]
    pub lora: LoraConfig,
    /// Constants of AdamW.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// The global gradient norm is clipped to this.
    #[serde(default = "one")]
    pub max_grad_norm: f64,
    /// Decay of the moving average of the LoRA; none is kept by default. UNO's script uses 0.99.
    #[serde(default)]
    pub ema_decay: Option<f64>,
    /// Whether activations are computed twice, block by block, rather than kept: far less memory for a third more time.
    #[serde(default = "yes")]
    pub gradient_checkpointing: bool,
    /// Encodings of prompts and pictures.
    #[serde(default)]
    pub cache: CacheConfig,
    /// What happens if entries of the data cannot be used.
    #[serde(default)]
    pub on_data_error: OnDataError,
    /// How far pictures are looked at before the first step.
    #[serde(default)]
    pub verify: Verify,
    /// Steps between checkpoints. There is one at the end of each stage in any case.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// How many checkpoints of a stage are kept, the latest ones; all by default.
    #[serde(default)]
    pub keep_checkpoints: Option<usize>,
    /// Whether event files for TensorBoard are written beside CSV and JSONL.
    #[serde(default = "yes")]
    pub tensorboard: bool,
    /// Pictures to be made at each checkpoint.
    #[serde(default)]
    pub pictures: Vec<PictureConfig>,
    /// What is trained on, one after the other, each from the result of the one before.
    pub stages: Vec<StageConfig>,
}

/// A number format to compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As the official training.
    #[default]
    Bf16,
    /// Half precision.
    F16,
    /// Single precision: the one to use on a CPU.
    F32,
}

/// Where the model's files are; as the options of the programs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Folder with the whole model. If nothing is named here or in the environment, the small embedded model trains.
    pub dir: Option<PathBuf>,
    /// `flux-dev`, `flux-dev-fp8` or `flux-schnell`.
    pub model_type: Option<String>,
    /// The transformer.
    pub dit: Option<PathBuf>,
    /// The autoencoder.
    pub ae: Option<PathBuf>,
    /// T5.
    pub t5: Option<PathBuf>,
    /// CLIP.
    pub clip: Option<PathBuf>,
    /// Whether what is missing may be downloaded.
    pub download: bool,
}

/// The LoRA that trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Inner width of each branch; by default [`DEFAULT_RANK`], or that of `init`. Gains slow down from 128.
    pub rank: Option<usize>,
    /// A LoRA of UNO to go on from, in place of a new one.
    pub init: Option<PathBuf>,
    /// The format of LoRA files in checkpoints. With bf16, exact f32 values are kept beside the optimizer's state.
    pub save_dtype: Dtype,
}

/// UNO's rank.
pub const DEFAULT_RANK: usize = 512;

impl LoraConfig {
    /// The rank of a LoRA that begins anew.
    pub fn new_rank(&self) -> usize {
        self.rank.unwrap_or(DEFAULT_RANK)
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: None, init: None, save_dtype: Dtype::Bf16 }
    }
}

/// Where encodings are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Folder of the files; `cache` in the output folder by default.
    pub folder: Option<PathBuf>,
    /// Whether everything is encoded before the first step, so that the encoders need not stay in memory. Otherwise they
    /// stay, nothing is written, and each batch is encoded when it is its turn.
    pub ahead: bool,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { folder: None, ahead: true }
    }
}

/// A picture to be made at each checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureConfig {
    /// What it shows.
    pub prompt: String,
    /// Pictures of the subjects.
    #[serde(default)]
    pub references: Vec<PathBuf>,
    /// In pixels.
    #[serde(default = "default_resolution")]
    pub width: usize,
    /// In pixels.
    #[serde(default = "default_resolution")]
    pub height: usize,
    /// Steps of the sampler.
    #[serde(default = "default_num_steps")]
    pub num_steps: usize,
    /// How closely the prompt is followed.
    #[serde(default = "default_guidance")]
    pub guidance: f32,
    /// Longer side of the references.
    #[serde(default)]
    pub ref_size: Option<u32>,
    /// Seed of its noise.
    #[serde(default = "default_picture_seed")]
    pub seed: u64,
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Its name, and that of its folder in the output folder.
    pub name: String,
    /// Lists of samples; they are taken together.
    pub data: Vec<DataSource>,
    /// Steps of the optimizer.
    pub steps: u64,
    /// The learning rate. (The official script's default, 1e-2, is a trap: the paper's is this one.)
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Steps in which it rises.
    #[serde(default)]
    pub warmup_steps: u64,
    /// How it goes on.
    #[serde(default)]
    pub decay: Decay,
    /// Samples that are computed together, on one device.
    #[serde(default = "one_usize")]
    pub batch_size: usize,
    /// Batches per step and device, whose gradients are averaged.
    #[serde(default = "default_accumulation")]
    pub accumulation: usize,
    /// Targets have about the area of a square of this side, in pixels.
    #[serde(default = "default_resolution")]
    pub resolution: usize,
    /// How targets are brought to the size of their bucket.
    #[serde(default)]
    pub fit: Fit,
    /// How many references each sample must have; any number if it is not given.
    #[serde(default)]
    pub references: Option<usize>,
    /// Longer side of the references; by default 512 for one, 320 for more.
    #[serde(default)]
    pub ref_size: Option<RefSize>,
    /// How often a prompt is dropped.
    #[serde(default = "default_text_dropout")]
    pub text_dropout: f64,
    /// The guidance that the model is told.
    #[serde(default = "one_f32")]
    pub guidance: f32,
    /// How references are placed.
    #[serde(default)]
    pub pe: UnoPe,
}

/// Longer side of references, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RefSize {
    /// The same for any number of them.
    Same(u32),
    /// Of a single reference, and of each of several.
    ByNumber([u32; 2]),
}

impl RefSize {
    /// That of each of `count` references.
    pub fn long_side(self, count: usize) -> u32 {
        match self {
            Self::Same(side) => side,
            Self::ByNumber(sides) => sides[usize::from(count > 1)],
        }
    }
}

fn default_devices() -> Vec<String> {
    vec!["auto".into()]
}
fn one() -> f64 {
    1.0
}
fn one_f32() -> f32 {
    1.0
}
fn one_usize() -> usize {
    1
}
fn yes() -> bool {
    true
}
fn default_checkpoint_every() -> u64 {
    1000
}
fn default_resolution() -> usize {
    512
}
fn default_num_steps() -> usize {
    25
}
fn default_guidance() -> f32 {
    4.0
}
fn default_picture_seed() -> u64 {
    3407
}
fn default_learning_rate() -> f64 {
    1e-5
}
fn default_accumulation() -> usize {
    16
}
fn default_text_dropout() -> f64 {
    0.1
}

/// `~/x` in the user's home folder, as a shell writes it; other paths as they are.
fn in_home(path: &Path) -> Result<PathBuf> {
    let mut parts = path.components();
    let first = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    match (first.as_str(), std::env::home_dir()) {
        ("~", Some(home)) => Ok(home.join(parts.as_path())),
        (user, _) if user.starts_with('~') && !path.exists() => Err(Error::request(
            "path",
            path.display(),
            "a path without ~user, or with ~/ for your own home folder; write ./~ for a folder of that name",
        )),
        _ => Ok(path.to_path_buf()),
    }
}

impl StageConfig {
    /// The learning rate over the stage.
    pub fn learning_rate(&self) -> LearningRate {
        LearningRate {
            peak: self.learning_rate,
            warmup: self.warmup_steps,
            decay: self.decay,
            steps: self.steps,
        }
    }
}

impl TrainConfig {
    /// Reads a configuration, TOML or JSON by its ending. Relative paths are taken from the file's folder.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; unknown, missing or wrong keys; what [`validate`](Self::validate) returns.
    pub fn read(path: &Path) -> Result<Self> {
        let text = text_file::read(path, MAX_BYTES, "a configuration")?;
        let is_json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let parsed: std::result::Result<Self, String> = if is_json {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            toml::from_str(&text).map_err(|e| e.to_string())
        };
        let wanted = "docs/training.md lists all keys";
        let mut config = parsed
            .map_err(|e| Error::format(path, format!("is no training configuration: {e}; {wanted}")))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in config.paths_mut() {
            *path = folder.join(in_home(path)?);
        }
        config.validate()?;
        Ok(config)
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let model = &mut self.model;
        let named = [&mut model.dir, &mut model.dit, &mut model.ae, &mut model.t5, &mut model.clip];
        let optional = named.into_iter().chain([&mut self.lora.init, &mut self.cache.folder]).flatten();
        let pictures = self.pictures.iter_mut().flat_map(|picture| &mut picture.references);
        let data = self.stages.iter_mut().flat_map(|stage| &mut stage.data).map(|data| &mut data.path);
        [&mut self.output].into_iter().chain(optional).chain(pictures).chain(data).collect()
    }

    /// Checks every setting, before any work.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be done, with what can.
    pub fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
        let need = |is: bool, field: &str, got: &dyn ToString, wanted: &str| {
            if is { Ok(()) } else { Err(Error::request(field, got.to_string(), wanted)) }
        };
        need(!self.stages.is_empty(), "stages", &0, "at least one stage")?;
        need(!self.devices.is_empty(), "devices", &0, "at least one, such as \"auto\"")?;
        need(self.lora.rank != Some(0), "lora.rank", &0, "at least 1")?;
        let norm = self.max_grad_norm;
        need(norm.is_finite() && norm > 0.0, "max_grad_norm", &norm, "a number above 0")?;
        let decay = self.ema_decay.unwrap_or(0.0);
        need((0.0..1.0).contains(&decay), "ema_decay", &decay, "0 to below 1")?;
        need(self.checkpoint_every > 0, "checkpoint_every", &0, "at least 1 step")?;
        need(self.keep_checkpoints != Some(0), "keep_checkpoints", &0, "at least 1, or leave it out")?;
        for (i, stage) in self.stages.iter().enumerate() {
            let field = |name: &str| format!("stages[{i}] ({}): {name}", stage.name);
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let sound = stage.name.chars().all(is_name)
                && stage.name.starts_with(|c: char| c.is_ascii_alphanumeric());
            need(sound, &field("name"), &stage.name, "letters, digits, - and _: it names a folder")?;
            let again = self.stages[..i].iter().any(|other| other.name == stage.name);
            need(!again, &field("name"), &stage.name, "a name of its own")?;
            need(!stage.data.is_empty(), &field("data"), &0, "at least one list")?;
            need(stage.steps > 0, &field("steps"), &0, "at least 1")?;
            need(stage.batch_size > 0, &field("batch_size"), &0, "at least 1")?;
            need(stage.accumulation > 0, &field("accumulation"), &0, "at least 1")?;
            let rate = stage.learning_rate;
            need(
                rate.is_finite() && rate > 0.0,
                &field("learning_rate"),
                &rate,
                "a number above 0; UNO's is 1e-5",
            )?;
            let warmup = format!("at most the {} steps of the stage", stage.steps);
            need(stage.warmup_steps <= stage.steps, &field("warmup_steps"), &stage.warmup_steps, &warmup)?;
            let dropout = stage.text_dropout;
            need((0.0..=1.0).contains(&dropout), &field("text_dropout"), &dropout, "0 to 1")?;
            need(
                stage.guidance.is_finite(),
                &field("guidance"),
                &stage.guidance,
                "a finite number; 1 is UNO's",
            )?;
            for side in stage.ref_size.iter().flat_map(|size| [size.long_side(1), size.long_side(2)]) {
                need((16..=8192).contains(&side), &field("ref_size"), &side, "16 to 8192 pixels")?;
            }
            buckets(stage.resolution)?;
        }
        Ok(())
    }

    /// Where the model is looked for.
    ///
    /// # Errors
    ///
    /// A kind of model that is not known.
    pub fn checkpoint_options(&self) -> Result<CheckpointOptions> {
        let model = &self.model;
        let model_type = model.model_type.as_deref().map(str::parse::<ModelType>).transpose()?;
        Ok(CheckpointOptions {
            model_dir: model.dir.clone(),
            model_type,
            dit: model.dit.clone(),
            ae: model.ae.clone(),
            t5: model.t5.clone(),
            clip: model.clip.clone(),
            use_lora: false,
            allow_download: model.download,
            ..CheckpointOptions::default()
        })
    }

    /// SHA-256 (hexadecimal) of everything that decides what is computed up to the end of a stage. Where it is computed, how often
    /// it is saved and how many steps a stage of constant rate has do not count, nor do later stages, so that a run may be moved
    /// and prolonged.
    pub fn hash(&self, stage: &str) -> String {
        let mut same = self.clone();
        if let Some(last) = same.stages.iter().position(|other| other.name == stage) {
            same.stages.truncate(last + 1);
        }
        (same.output, same.devices, same.cache) = (PathBuf::new(), Vec::new(), CacheConfig::default());
        (same.checkpoint_every, same.keep_checkpoints, same.tensorboard) = (1, None, false);
        (same.pictures, same.gradient_checkpointing, same.expand_weights) = (Vec::new(), true, None);
        // Files may be moved; what is in them is compared by their contents.
        (same.model, same.lora.init, same.verify) = (ModelConfig::default(), None, Verify::default());
        // What is left out is the default, as in configurations of earlier versions.
        same.lora.rank = Some(self.lora.new_rank());
        let data = same.stages.iter_mut().flat_map(|stage| &mut stage.data);
        data.for_each(|data| data.path = data.path.file_name().map(PathBuf::from).unwrap_or_default());
        for stage in same.stages.iter_mut().filter(|stage| stage.decay == Decay::Constant) {
            stage.steps = 1;
        }
        let json = serde_json::to_vec(&same).unwrap_or_default();
        Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests;
