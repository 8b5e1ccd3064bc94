//! DreamBench's scores of a picture: DINO and CLIP-I say how alike picture and references are, CLIP-T how well the prompt fits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use uno_core::text::ClipTokenizer;
use uno_core::vision::{Clip, ImageEncoder, cosine};
use uno_core::weights::LoadOptions;

use super::subjects::{CROPS, EncoderRecord, Found, SubjectFinder, folder_of, least, mean, open, rgb};
use crate::error::{Error, Result};
use crate::picture::{DecodeOptions, Picture};

/// Where the encoders are.
#[derive(Debug, Clone, Default)]
pub struct ScorerFiles {
    /// DINO's weights, or the folder with them and their `config.json`: ViT-S/16 for DreamBench's DINO score.
    pub dino: PathBuf,
    /// CLIP's weights, or the folder with them, `config.json` and vocabulary: ViT-B/32 for CLIP-I and CLIP-T.
    pub clip: PathBuf,
    /// CLIP's vocabulary, where it is not beside the weights.
    pub clip_tokenizer: Option<PathBuf>,
}

/// Which pictures of a subject a generated one is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Views {
    /// The reference that was given.
    #[default]
    Given,
    /// All pictures in the reference's folder: DreamBench's folders hold four to six of each subject.
    Folder,
}

impl std::str::FromStr for Views {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "given" => Ok(Self::Given),
            "folder" => Ok(Self::Folder),
            _ => Err(Error::request("views", s, "given or folder")),
        }
    }
}

/// Everything that scores depend on beside pictures and prompts. Results with differing protocols are not to be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Version of this form and of the computation.
    pub form: u32,
    /// DINO: cosine of normed class tokens.
    pub dino: EncoderRecord,
    /// CLIP: cosine of projected vectors.
    pub clip: EncoderRecord,
    /// Factor on CLIP-T: 1 is the plain cosine.
    pub clip_t_scale: f64,
    /// What a picture is compared with.
    pub views: Views,
    /// How cosines become one number, in words.
    pub averaging: String,
    /// Whether pictures are turned as their EXIF orientation says.
    pub exif_orientation: bool,
    /// Cut-outs for subject scores: shares of the shorter side, and how many along each axis.
    pub crops: Vec<(f64, usize)>,
}

/// The scores of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureScores {
    /// Mean over subjects; `None` without references.
    pub dino: Option<f64>,
    /// Mean over subjects; `None` without references.
    pub clip_i: Option<f64>,
    /// Cosine of picture and prompt.
    pub clip_t: f64,
    /// The least of the subjects' scores on cut-outs; `None` without references.
    pub subject: Option<f64>,
    /// Each subject.
    pub subjects: Vec<SubjectScores>,
    /// Whether the prompt was longer than CLIP takes, and cut for CLIP-T.
    pub prompt_is_cut: bool,
}

/// How alike a picture and a subject are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectScores {
    /// The reference.
    pub reference: PathBuf,
    /// Pictures of the subject that were compared with.
    pub views: usize,
    /// DINO's cosine, mean over the views.
    pub dino: f64,
    /// CLIP's cosine, mean over the views.
    pub clip_i: f64,
    /// Where it is found, and how surely.
    pub found: Found,
}

/// Vectors of a picture by both encoders.
#[derive(Debug)]
struct Vectors {
    dino: Vec<f32>,
    clip: Vec<f32>,
}

/// Computes scores; remembers the references that it has seen.
#[derive(Debug)]
pub struct Scorer {
    finder: SubjectFinder,
    clip: Clip,
    tokenizer: ClipTokenizer,
    protocol: Protocol,
    references: Mutex<BTreeMap<PathBuf, Arc<Vectors>>>,
}

impl Scorer {
    /// Loads both encoders in f32.
    ///
    /// # Errors
    ///
    /// Files that are missing, damaged, or of other models.
    pub fn open(files: &ScorerFiles, views: Views, device: &Device) -> Result<Self> {
        let finder = SubjectFinder::open(&files.dino, device)?;
        let (checkpoint, config) = open("CLIP for scores (--clip)", &files.clip)?;
        let clip = Clip::load(&checkpoint, config.as_deref(), &LoadOptions::new(device))?;
        let vocabulary = files.clip_tokenizer.as_deref().unwrap_or_else(|| folder_of(&files.clip));
        let protocol = Protocol {
            form: 1,
            dino: finder.record().clone(),
            clip: EncoderRecord::new(&checkpoint, clip.config(), clip.preprocessing()),
            clip_t_scale: 1.0,
            views,
            averaging: "a subject: mean over its views; a picture: mean over its subjects; a set: mean over its pictures, \
                        each prompt with the same number; intervals by bootstrap over prompts"
                .into(),
            exif_orientation: DecodeOptions::default().apply_exif_orientation,
            crops: CROPS.to_vec(),
        };
        let tokenizer = ClipTokenizer::from_dir(vocabulary)?;
        Ok(Self { finder, clip, tokenizer, protocol, references: Mutex::default() })
    }

    /// What its scores depend on.
    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// The scores of a picture that was made for `prompt` with the subjects in `references`.
    ///
    /// # Errors
    ///
    /// References that are no pictures; pictures that the encoders cannot take.
    pub fn score(&self, picture: &Picture, prompt: &str, references: &[PathBuf]) -> Result<PictureScores> {
        let whole = self.vectors(picture)?;
        let (text, prompt_is_cut) = self.clip.embed_text(&self.tokenizer, prompt)?;
        let views = references.iter().map(|path| self.views_of(path)).collect::<Result<Vec<_>>>()?;
        let dino = |views: &Vec<Arc<Vectors>>| views.iter().map(|view| view.dino.clone()).collect();
        let found = self.finder.find(picture, &views.iter().map(dino).collect::<Vec<_>>())?;
        let subjects: Vec<SubjectScores> = references
            .iter()
            .zip(views.iter().zip(&found))
            .map(|(reference, (views, &found))| SubjectScores {
                reference: reference.clone(),
                views: views.len(),
                dino: mean(views.iter().map(|view| cosine(&whole.dino, &view.dino))),
                clip_i: mean(views.iter().map(|view| cosine(&whole.clip, &view.clip))),
                found,
            })
            .collect();
        let over =
            |f: fn(&SubjectScores) -> f64| (!subjects.is_empty()).then(|| mean(subjects.iter().map(f)));
        Ok(PictureScores {
            dino: over(|s| s.dino),
            clip_i: over(|s| s.clip_i),
            clip_t: cosine(&whole.clip, &text) * self.protocol.clip_t_scale,
            subject: least(&found),
            subjects,
            prompt_is_cut,
        })
    }

    fn vectors(&self, picture: &Picture) -> Result<Vectors> {
        Ok(Vectors { dino: self.finder.vector(picture)?, clip: self.clip.embed(&[rgb(picture)])?.concat() })
    }

    /// The pictures of the subject of `reference`.
    fn views_of(&self, reference: &Path) -> Result<Vec<Arc<Vectors>>> {
        match self.protocol.views {
            Views::Given => Ok(vec![self.reference(reference)?]),
            Views::Folder => {
                let folder = folder_of(reference);
                let entries = std::fs::read_dir(folder).map_err(Error::read(folder))?;
                let mut paths = entries
                    .map(|entry| Ok(entry.map_err(Error::read(folder))?.path()))
                    .collect::<Result<Vec<PathBuf>>>()?;
                paths.retain(|path| is_picture(path) || path == reference);
                // The sum of floats depends on the order.
                paths.sort();
                paths.iter().map(|path| self.reference(path)).collect()
            }
        }
    }

    fn reference(&self, path: &Path) -> Result<Arc<Vectors>> {
        let known = || self.references.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vectors) = known().get(path) {
            return Ok(vectors.clone());
        }
        let vectors = Arc::new(self.vectors(&Picture::open(path, &DecodeOptions::default())?)?);
        known().insert(path.to_path_buf(), vectors.clone());
        Ok(vectors)
    }
}

/// The extensions of pictures in a subject's folder; other files (lists, licences) are left alone.
fn is_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"].contains(&extension.as_str())
}
