//! What discovery finds: the parts of a model, their files, and where each came from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// Which FLUX.1 model, by the names of the official `--model_type`. The tensors decide what is computed; this decides which
/// files are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelType {
    /// `flux-dev`: guidance-distilled; what UNO was trained on.
    #[default]
    FluxDev,
    /// `flux-dev-fp8`: the same model, with the DiT's weights kept as e4m3.
    FluxDevFp8,
    /// `flux-schnell`: timestep-distilled, without guidance.
    FluxSchnell,
}

impl ModelType {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::FluxDev, Self::FluxDevFp8, Self::FluxSchnell];

    /// The official name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FluxDev => "flux-dev",
            Self::FluxDevFp8 => "flux-dev-fp8",
            Self::FluxSchnell => "flux-schnell",
        }
    }
}

impl fmt::Display for ModelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ModelType {
    type Err = Error;

    /// Underscores and capitals are taken too.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.trim().to_ascii_lowercase().replace('_', "-");
        Self::ALL
            .into_iter()
            .find(|t| t.as_str() == name)
            .ok_or_else(|| Error::request("model_type", text, "flux-dev, flux-dev-fp8 or flux-schnell"))
    }
}

/// A part of a model that is found on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The diffusion transformer.
    Dit,
    /// The autoencoder between pictures and latents.
    Autoencoder,
    /// Weights of the T5 text encoder.
    T5,
    /// Vocabulary of T5.
    T5Tokenizer,
    /// Weights of the CLIP text encoder.
    Clip,
    /// Vocabulary of CLIP.
    ClipTokenizer,
    /// UNO's own weights: a LoRA on the diffusion transformer.
    Lora,
}

impl Part {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 7] = [
        Self::Dit,
        Self::Autoencoder,
        Self::T5,
        Self::T5Tokenizer,
        Self::Clip,
        Self::ClipTokenizer,
        Self::Lora,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dit => "DiT",
            Self::Autoencoder => "autoencoder",
            Self::T5 => "T5",
            Self::T5Tokenizer => "T5 tokenizer",
            Self::Clip => "CLIP",
            Self::ClipTokenizer => "CLIP tokenizer",
            Self::Lora => "LoRA",
        }
    }

    /// The field of [`CheckpointOptions`](super::CheckpointOptions) that names its path.
    pub fn option(self) -> &'static str {
        match self {
            Self::Dit => "dit",
            Self::Autoencoder => "ae",
            Self::T5 => "t5",
            Self::T5Tokenizer => "t5_tokenizer",
            Self::Clip => "clip",
            Self::ClipTokenizer => "clip_tokenizer",
            Self::Lora => "lora",
        }
    }

    /// The environment variables that may name its path, the first that is set counting (README of bytedance/UNO).
    ///
    /// `flux-dev-fp8` takes `FLUX_DEV` too, because the official code makes its fp8 weights from that file.
    pub fn variables(self, model_type: ModelType) -> &'static [&'static str] {
        match (self, model_type) {
            (Self::Dit, ModelType::FluxDev) => &["FLUX_DEV"],
            (Self::Dit, ModelType::FluxDevFp8) => &["FLUX_DEV_FP8", "FLUX_DEV"],
            (Self::Dit, ModelType::FluxSchnell) => &["FLUX_SCHNELL"],
            (Self::Autoencoder, _) => &["AE"],
            (Self::T5 | Self::T5Tokenizer, _) => &["T5"],
            (Self::Clip | Self::ClipTokenizer, _) => &["CLIP"],
            (Self::Lora, _) => &["LORA"],
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a part was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A path in the options; the field's name.
    Option(&'static str),
    /// The model folder.
    Folder(PathBuf),
    /// The transformer's own file, which holds further parts; that file.
    AllInOne(PathBuf),
    /// An environment variable; its name.
    Env(&'static str),
    /// The hub cache; the repository.
    HubCache(&'static str),
    /// Downloaded by this call; the repository.
    Download(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "option {name}"),
            Self::Folder(path) => write!(f, "model folder {}", path.display()),
            Self::AllInOne(path) => write!(f, "all-in-one file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::HubCache(repo) => write!(f, "hub cache of {repo}"),
            Self::Download(repo) => write!(f, "downloaded from {repo}"),
        }
    }
}

/// A path (or several that belong together) and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T = PathBuf> {
    /// What was found. For weights: a safetensors or GGUF file (of a split one the first part), or the `*.safetensors.index.json` of
    /// shards beside it.
    pub files: T,
    /// Where.
    pub source: Source,
}

/// The vocabulary of T5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum T5TokenizerFiles {
    /// A SentencePiece model, `spiece.model`: what the official repository has.
    SentencePiece(PathBuf),
    /// A `tokenizer.json`.
    Json(PathBuf),
}

impl T5TokenizerFiles {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::SentencePiece(path) | Self::Json(path) => path,
        }
    }
}

/// The vocabulary of CLIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipTokenizerFiles {
    /// A `tokenizer.json`.
    Json(PathBuf),
    /// The older pair of files.
    VocabMerges {
        /// `vocab.json`: token -> id.
        vocab: PathBuf,
        /// `merges.txt`: the pairs that byte-pair encoding joins, in order.
        merges: PathBuf,
    },
}

impl ClipTokenizerFiles {
    /// The file, or the first of the two.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json(path) | Self::VocabMerges { vocab: path, .. } => path,
        }
    }
}

/// The files of a text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEncoderFiles<T> {
    /// Weights: a safetensors file or an index of shards.
    pub weights: Located,
    /// The `config.json` beside the weights (beside the vocabulary, for weights in an all-in-one file), if there is one.
    pub config: Option<PathBuf>,
    /// The vocabulary.
    pub tokenizer: Located<T>,
}

/// All files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// The model that the files were chosen for: as asked, else as the file names say.
    pub model_type: ModelType,
    /// The diffusion transformer.
    pub dit: Located,
    /// The autoencoder.
    pub ae: Located,
    /// T5.
    pub t5: TextEncoderFiles<T5TokenizerFiles>,
    /// CLIP.
    pub clip: TextEncoderFiles<ClipTokenizerFiles>,
    /// UNO's LoRA; `None` if [`CheckpointOptions::use_lora`](super::CheckpointOptions::use_lora) is off.
    pub lora: Option<Located>,
}

impl CheckpointFiles {
    /// Every part with its file and where that was found, for showing to a person.
    pub fn parts(&self) -> Vec<(Part, &Path, &Source)> {
        fn entry(part: Part, located: &Located) -> (Part, &Path, &Source) {
            (part, &located.files, &located.source)
        }
        let mut parts = vec![
            entry(Part::Dit, &self.dit),
            entry(Part::Autoencoder, &self.ae),
            entry(Part::T5, &self.t5.weights),
            (Part::T5Tokenizer, self.t5.tokenizer.files.path(), &self.t5.tokenizer.source),
            entry(Part::Clip, &self.clip.weights),
            (Part::ClipTokenizer, self.clip.tokenizer.files.path(), &self.clip.tokenizer.source),
        ];
        parts.extend(self.lora.as_ref().map(|lora| entry(Part::Lora, lora)));
        parts
    }
}
