//! The repositories on the Hugging Face hub that hold each part, with sizes and licences.
//!
//! Sizes are those of the files in 2025; they are for showing before a download. The hub tells the exact ones.

use super::files::{ModelType, Part};

/// The terms of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Licence {
    /// Its name.
    pub name: &'static str,
    /// Where its text, or the statement that it applies, can be read.
    pub url: &'static str,
}

/// Whether, and for what, a file of a repository is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It must be there.
    Required,
    /// It is taken if it is there.
    Optional,
    /// It must be there, and so must the shards that it names.
    Index,
}

/// A file of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Its name in the repository.
    pub name: &'static str,
    /// Whether it is wanted.
    pub need: Need,
}

/// The files of one part on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubPart {
    /// The part.
    pub part: Part,
    /// The repository, `owner/name`.
    pub repo: &'static str,
    /// Its files, small ones first.
    pub files: &'static [HubFile],
    /// About how many bytes they have together, shards included.
    pub bytes: u64,
    /// Their terms.
    pub licence: Licence,
    /// Whether the hub hands the files only to accounts that have accepted the licence.
    pub gated: bool,
}

impl HubPart {
    /// Where the parts of `model_type` are downloaded from.
    pub fn of(part: Part, model_type: ModelType) -> Self {
        let schnell = model_type == ModelType::FluxSchnell;
        match part {
            Part::Dit if schnell => FLUX_SCHNELL,
            Part::Dit => FLUX_DEV,
            Part::Autoencoder if schnell => Self { part, files: AE_FILES, bytes: AE_BYTES, ..FLUX_SCHNELL },
            Part::Autoencoder => Self { part, files: AE_FILES, bytes: AE_BYTES, ..FLUX_DEV },
            Part::T5 => T5,
            Part::T5Tokenizer => Self { part, files: T5_WORDS, bytes: 791_656, ..T5 },
            Part::Clip => CLIP,
            Part::ClipTokenizer => Self { part, files: CLIP_WORDS, bytes: 2_224_003, ..CLIP },
            Part::Lora => LORA,
        }
    }

    /// The repository's page, where a gated repository's licence is accepted.
    pub fn page(&self) -> String {
        format!("https://huggingface.co/{}", self.repo)
    }

    /// Its most important file.
    pub fn main_file(&self) -> &'static str {
        self.files.iter().rev().find(|f| f.need != Need::Optional).map_or("", |f| f.name)
    }

    /// The files to tell people about, and where they are.
    pub(super) fn wanted(&self) -> String {
        let shards = self.files.iter().any(|f| f.need == Need::Index);
        format!("{}{} from {}", self.main_file(), if shards { " and its shards" } else { "" }, self.page())
    }
}

const fn required(name: &'static str) -> HubFile {
    HubFile { name, need: Need::Required }
}

const CONFIG: HubFile = HubFile { name: "config.json", need: Need::Optional };
const AE_FILES: &[HubFile] = &[required("ae.safetensors")];
const T5_WORDS: &[HubFile] = &[required("spiece.model")];
const CLIP_WORDS: &[HubFile] = &[required("tokenizer.json")];
const AE_BYTES: u64 = 335_304_388;

const FLUX_DEV: HubPart = HubPart {
    part: Part::Dit,
    repo: "black-forest-labs/FLUX.1-dev",
    files: &[required("flux1-dev.safetensors")],
    bytes: 23_802_932_552,
    licence: Licence {
        name: "FLUX.1-dev Non-Commercial License",
        url: "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    },
    gated: true,
};

const FLUX_SCHNELL: HubPart = HubPart {
    part: Part::Dit,
    repo: "black-forest-labs/FLUX.1-schnell",
    files: &[required("flux1-schnell.safetensors")],
    bytes: 23_782_506_688,
    licence: Licence {
        name: "Apache License 2.0",
        url: "https://huggingface.co/black-forest-labs/FLUX.1-schnell",
    },
    // Free, but at times the hub asks to accept terms for it too; the hub's own answer says so then.
    gated: false,
};

const T5: HubPart = HubPart {
    part: Part::T5,
    repo: "xlabs-ai/xflux_text_encoders",
    files: &[CONFIG, HubFile { name: "model.safetensors.index.json", need: Need::Index }],
    bytes: 9_524_648_000,
    licence: Licence {
        name: "Apache License 2.0",
        url: "https://huggingface.co/XLabs-AI/xflux_text_encoders",
    },
    gated: false,
};

const CLIP: HubPart = HubPart {
    part: Part::Clip,
    repo: "openai/clip-vit-large-patch14",
    files: &[CONFIG, required("model.safetensors")],
    bytes: 1_710_540_580,
    licence: Licence { name: "MIT License", url: "https://github.com/openai/CLIP/blob/main/LICENSE" },
    gated: false,
};

const LORA: HubPart = HubPart {
    part: Part::Lora,
    repo: "bytedance-research/UNO",
    files: &[required("dit_lora.safetensors")],
    bytes: 1_912_641_000,
    licence: Licence {
        name: "Apache License 2.0 (together with FLUX.1-dev, that model's licence holds too)",
        url: "https://huggingface.co/bytedance-research/UNO",
    },
    gated: false,
};

/// Bytes for people: `23.8 GB`.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_every_model_has_a_repository_a_file_and_a_licence() {
        let mut total = 0;
        for model_type in ModelType::ALL {
            for part in Part::ALL {
                let preset = HubPart::of(part, model_type);
                assert_eq!(preset.part, part);
                assert_eq!(preset.repo.split('/').count(), 2, "{part}");
                assert!(!preset.main_file().is_empty(), "{part}");
                assert!(preset.bytes > 0 && preset.licence.url.starts_with("https://"), "{part}");
                total += if model_type == ModelType::FluxDev { preset.bytes } else { 0 };
            }
        }
        assert_eq!(human_bytes(total), "37.3 GB", "the official README says 37 GB");
        assert!(HubPart::of(Part::Autoencoder, ModelType::FluxDevFp8).gated);
        assert!(!HubPart::of(Part::Autoencoder, ModelType::FluxSchnell).gated);
    }

    #[test]
    fn bytes_are_shown_in_decimal_units() {
        assert_eq!(human_bytes(7), "7 bytes");
        assert_eq!(human_bytes(791_656), "791.7 kB");
        assert_eq!(human_bytes(23_802_932_552), "23.8 GB");
    }
}
