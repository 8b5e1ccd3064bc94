//! Results on disk: PNG with its settings inside, and the same settings in a JSON file beside it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uno_core::approximation::Approximation;
use uno_core::noise::NoiseSource;
use uno_core::sampling::SequenceLength;
use uno_core::weights::Checkpoint;

use crate::components::{ModelSource, PipelineOptions};
use crate::error::{Error, Result};
use crate::request::{NoiseDtype, Request, Sample};
use crate::text_file;
use crate::unope::UnoPe;

/// Keyword of the PNG text chunk that holds [`Settings`] as JSON.
pub const KEYWORD: &str = "uno";
/// Version of the form of [`Settings`].
const FORM: u32 = 1;
/// Largest settings that are read, in bytes.
const MAX_SETTINGS: u64 = 1 << 20;

/// Everything that it takes to make a picture again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// Version of this form.
    pub form: u32,
    /// Program and version that made the picture.
    pub software: String,
    /// Prompt.
    pub prompt: String,
    /// The seed that was used: of this picture, not of its batch.
    pub seed: u64,
    /// Width in pixels, as made.
    pub width: usize,
    /// Height in pixels, as made.
    pub height: usize,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// Guidance.
    pub guidance: f32,
    /// Placement of references.
    pub pe: UnoPe,
    /// Longer side of references, as used.
    pub ref_size: u32,
    /// The references, in order.
    pub references: Vec<ReferenceRecord>,
    /// Source of the noise; `None` for given latents.
    pub noise: Option<NoiseSource>,
    /// File that the noise was given in.
    pub noise_file: Option<FileRecord>,
    /// Format that the noise was drawn in.
    pub noise_dtype: NoiseDtype,
    /// Sequence length rule of the schedule.
    pub sequence_length: SequenceLength,
    /// Whether the schedule was shifted.
    pub shift: bool,
    /// Seed of the references' latents; `None` for their mean.
    pub reference_seed: Option<u64>,
    /// What was approximated between steps to save time.
    #[serde(default, flatten)]
    pub approximation: Approximation,
    /// Whether the transformer multiplied in 8-bit integers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub int8: bool,
    /// Whether EXIF orientation of references was honoured.
    pub exif_orientation: bool,
    /// Number format of the transformer.
    pub dtype: String,
    /// Device that computed it.
    pub device: String,
    /// Factor on UNO's LoRA; `None` without one.
    pub lora_scale: Option<f64>,
    /// Whether the LoRA was merged.
    pub lora_merged: bool,
    /// Factors on further LoRAs, the parts `add_lora.0`, `add_lora.1` ... of the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_lora_scales: Vec<f64>,
    /// Kind of model, as the official `--model_type`; `embedded` for the one inside the program.
    pub model_type: String,
    /// The model's files.
    pub model: Vec<ModelRecord>,
}

/// A reference picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// The file and its hash.
    #[serde(flatten)]
    pub file: FileRecord,
    /// Width as the model saw it.
    pub width: u32,
    /// Height as the model saw it.
    pub height: u32,
}

/// A file and what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

impl FileRecord {
    /// Hashes a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut hash = Sha256::new();
        let mut file = File::open(path).map_err(Error::read(path))?;
        std::io::copy(&mut file, &mut hash).map_err(Error::read(path))?;
        let sha256 = hex(&hash.finalize());
        let path = std::path::absolute(path).map_err(Error::read(path))?;
        Ok(Self { path, sha256 })
    }

    /// The record of bytes in memory.
    pub(crate) fn of_bytes(name: impl Into<PathBuf>, bytes: &[u8]) -> Self {
        Self { path: name.into(), sha256: hex(&Sha256::digest(bytes)) }
    }

    /// Fails if the file no longer holds what it held.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or that has changed.
    pub fn verify(&self) -> Result<()> {
        let now = Self::of(&self.path)?;
        if now.sha256 == self.sha256 {
            return Ok(());
        }
        Err(Error::format(
            &self.path,
            format!(
                "has changed since the picture was made: its SHA-256 is {}, was {}",
                now.sha256, self.sha256
            ),
        ))
    }
}

/// A file of the model: a checkpoint, a vocabulary, or CLIP's `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Which part.
    pub part: String,
    /// Its file.
    pub path: PathBuf,
    /// [`uno_core::weights::Checkpoint::fingerprint`]; of small files the SHA-256.
    pub fingerprint: String,
}

/// What computes: the model's files, and how they are used.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Kind of model.
    pub model_type: String,
    /// The model's files.
    pub files: Vec<ModelRecord>,
    /// Device, by the name it was opened with.
    pub device: String,
    /// Number format of the transformer: `F32`, `F16` or `BF16`.
    pub dtype: String,
    /// Factor on UNO's LoRA; `None` without one.
    pub lora_scale: Option<f64>,
    /// Whether the LoRA is merged.
    pub lora_merged: bool,
    /// Factors on further LoRAs, in order.
    pub add_lora_scales: Vec<f64>,
    /// Whether the transformer multiplies in 8-bit integers.
    pub int8: bool,
}

impl ModelInfo {
    /// Describes a pipeline that is loaded from `source` with `options` on the device of the name `device`.
    pub fn new(source: &ModelSource, options: &PipelineOptions, device: &str) -> Self {
        let record = |(part, checkpoint): (String, &Checkpoint)| {
            let path = checkpoint.path();
            // The embedded model lies in no folder.
            let absolute = if path.exists() { std::path::absolute(path).ok() } else { None };
            ModelRecord {
                part,
                path: absolute.unwrap_or_else(|| path.to_path_buf()),
                fingerprint: checkpoint.fingerprint().to_owned(),
            }
        };
        let small = source.text.files.iter().map(|(part, file)| ModelRecord {
            part: (*part).to_owned(),
            path: file.path.clone(),
            fingerprint: file.sha256.clone(),
        });
        Self {
            model_type: source.model_type.clone(),
            files: source.checkpoints().into_iter().map(record).chain(small).collect(),
            device: device.to_owned(),
            dtype: format!("{:?}", options.dtype),
            lora_scale: source.lora.as_ref().map(|_| options.lora_scale),
            lora_merged: options.merge_lora.is_merged(),
            add_lora_scales: source.more_loras.iter().map(|(_, scale)| *scale).collect(),
            int8: options.int8,
        }
    }
}

impl Settings {
    /// The settings of one sample of a request; model, device and files are filled in by the program.
    pub fn new(request: &Request, sample: &Sample, [width, height]: [usize; 2]) -> Self {
        Self {
            form: FORM,
            software: concat!("uno-rs ", env!("CARGO_PKG_VERSION")).into(),
            prompt: sample.prompt.clone(),
            seed: sample.seed,
            width,
            height,
            num_steps: request.num_steps,
            guidance: request.guidance,
            pe: request.pe,
            ref_size: request.long_side(),
            references: Vec::new(),
            noise: request.latents.is_none().then_some(request.noise),
            noise_file: None,
            noise_dtype: request.noise_dtype,
            sequence_length: request.sequence_length,
            shift: request.shift,
            reference_seed: request.reference_seed,
            approximation: request.approximation,
            int8: false,
            exif_orientation: true,
            dtype: String::new(),
            device: String::new(),
            lora_scale: None,
            lora_merged: false,
            add_lora_scales: Vec::new(),
            model_type: String::new(),
            model: Vec::new(),
        }
    }

    /// The same with what is known of model and computation.
    pub fn with_model(mut self, model: &ModelInfo) -> Self {
        let model = model.clone();
        (self.model_type, self.model) = (model.model_type, model.files);
        (self.device, self.dtype) = (model.device, model.dtype);
        (self.lora_scale, self.lora_merged) = (model.lora_scale, model.lora_merged);
        (self.add_lora_scales, self.int8) = (model.add_lora_scales, model.int8);
        self
    }

    /// Reads settings from a PNG that was made with them, or from its JSON file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, holds no settings, or settings of another form.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::read(path))?;
        let is_png = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        let json = if is_png {
            settings_chunk(path, file)?
        } else {
            text_file::read(path, MAX_SETTINGS, "settings")?
        };
        let settings: Self = serde_json::from_str(&json).map_err(|e| {
            Error::format(path, format!("holds no settings of a picture made by uno-rs: {e}"))
        })?;
        if settings.form != FORM {
            let got = settings.form;
            return Err(Error::format(
                path,
                format!("settings of form {got}, wanted {FORM}; use the version that made it"),
            ));
        }
        Ok(settings)
    }

    fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|e| Error::request("settings", e, "values that JSON can hold"))
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn settings_chunk(path: &Path, file: File) -> Result<String> {
    let broken = |e: png::DecodingError| Error::format(path, format!("is no sound PNG: {e}"));
    let mut decoder =
        png::Decoder::new_with_limits(std::io::BufReader::new(file), png::Limits { bytes: 64 << 20 });
    decoder.set_ignore_text_chunk(false);
    let reader = decoder.read_info().map_err(broken)?;
    let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == KEYWORD);
    let missing = || {
        Error::format(
            path,
            "holds no settings: it was not made by uno-rs, or a program stripped them; try its .json file",
        )
    };
    chunk.ok_or_else(missing)?.get_text().map_err(broken)
}

/// Writes `picture` as PNG to `path`, with `settings` in its text chunks and EXIF, and as JSON to the same path with the
/// extension `json`. Folders are made as needed. Both files appear complete or not at all.
///
/// # Errors
///
/// A folder that cannot be written to.
pub fn save(path: &Path, picture: &RgbImage, settings: &Settings) -> Result<()> {
    let json = settings.to_json()?;
    write_atomically(path, |file| {
        encode_png(file, picture, settings, &json).map_err(|e| match e {
            png::EncodingError::IoError(e) => e,
            other => std::io::Error::other(other),
        })
    })?;
    write_atomically(&path.with_extension("json"), |file| file.write_all(json.as_bytes()))
}

/// Writes a file beside its place, then moves it there.
///
/// # Errors
///
/// What `write` returns; a folder that cannot be made or written to.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(Error::write(folder))?;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; results get the permissions that the user's new files have.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(Error::write(path))?;
    let mut buffered = BufWriter::new(file.as_file_mut());
    write(&mut buffered).and_then(|()| buffered.flush()).map_err(Error::write(path))?;
    drop(buffered);
    file.persist(path).map_err(|e| Error::Write { path: path.to_path_buf(), source: e.error })?;
    Ok(())
}

fn encode_png(
    out: &mut dyn Write,
    picture: &RgbImage,
    settings: &Settings,
    json: &str,
) -> Result<(), png::EncodingError> {
    let mut info = png::Info::with_size(picture.width(), picture.height());
    info.color_type = png::ColorType::Rgb;
    info.bit_depth = png::BitDepth::Eight;
    info.exif_metadata = Some(exif(&settings.prompt, &settings.software, json).into());
    let mut encoder = png::Encoder::with_info(out, info)?;
    encoder.add_itxt_chunk("Description".into(), settings.prompt.clone())?;
    encoder.add_itxt_chunk("Software".into(), settings.software.clone())?;
    encoder.add_itxt_chunk(KEYWORD.into(), json.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_raw())?;
    writer.finish()
}

/// An EXIF block (TIFF, little-endian, one directory): ImageDescription, Software and UserComment.
fn exif(description: &str, software: &str, comment: &str) -> Vec<u8> {
    const ASCII: u16 = 2;
    const LONG: u16 = 4;
    const UNDEFINED: u16 = 7;
    /// Places the values that do not fit an entry behind the directories.
    fn directory(start: usize, entries: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut heap_start = start + 2 + 12 * entries.len() + 4;
        let (mut table, mut heap) = ((entries.len() as u16).to_le_bytes().to_vec(), Vec::new());
        for (tag, kind, value) in entries {
            table.extend(tag.to_le_bytes());
            table.extend(kind.to_le_bytes());
            let count = if *kind == LONG { value.len() / 4 } else { value.len() };
            table.extend((count as u32).to_le_bytes());
            if value.len() <= 4 {
                table.extend(value);
                table.extend(vec![0; 4 - value.len()]);
            } else {
                table.extend((heap_start as u32).to_le_bytes());
                heap.extend(value);
                heap.extend(vec![0; value.len() % 2]);
                heap_start += value.len() + value.len() % 2;
            }
        }
        table.extend([0; 4]);
        table.extend(heap);
        table
    }
    let text = |s: &str| [s.as_bytes(), b"\0"].concat();
    let user_comment =
        [b"UNICODE\0".to_vec(), comment.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
    let first = |exif_ifd: usize| {
        let entries = [
            (0x010e, ASCII, text(description)),
            (0x0131, ASCII, text(software)),
            (0x8769, LONG, (exif_ifd as u32).to_le_bytes().to_vec()),
        ];
        directory(8, &entries)
    };
    let exif_ifd = 8 + first(0).len();
    let mut block = b"II*\0\x08\0\0\0".to_vec();
    block.extend(first(exif_ifd));
    block.extend(directory(exif_ifd, &[(0x9286, UNDEFINED, user_comment)]));
    block
}

/// Pictures side by side on black, top-aligned: the official `--concat_refs`.
pub fn concat_horizontally(pictures: &[&RgbImage]) -> RgbImage {
    let width = pictures.iter().map(|p| p.width()).sum();
    let height = pictures.iter().map(|p| p.height()).max().unwrap_or(0);
    let mut joined = RgbImage::new(width, height);
    let mut x = 0;
    for picture in pictures {
        image::imageops::replace(&mut joined, *picture, x, 0);
        x += i64::from(picture.width());
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let request = Request::new("../é \"quoted\" 猫").with_seed(u64::MAX);
        Settings::new(&request, &request.samples[0], [32, 16])
    }

    #[test]
    fn settings_come_back_from_the_png_and_from_the_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/0_0.png");
        save(&path, &RgbImage::new(32, 16), &settings()).unwrap();
        assert_eq!(Settings::read(&path).unwrap(), settings());
        assert_eq!(Settings::read(path.with_extension("json")).unwrap(), settings());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn other_decoders_read_the_picture_and_its_exif() {
        use image::ImageDecoder;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8 * 30, y as u8 * 60, 7]));
        save(&path, &picture, &settings()).unwrap();
        let bytes = std::io::Cursor::new(std::fs::read(&path).unwrap());
        let mut decoder = image::codecs::png::PngDecoder::new(bytes).unwrap();
        let exif = decoder.exif_metadata().unwrap().unwrap();
        assert!(exif.starts_with(b"II*\0") && exif.windows(8).any(|w| w == b"UNICODE\0"));
        assert_eq!(image::open(&path).unwrap().into_rgb8(), picture);
    }

    #[test]
    fn a_png_of_someone_else_holds_no_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        RgbImage::new(2, 2).save(&path).unwrap();
        assert!(Settings::read(&path).unwrap_err().to_string().contains("no settings"));
        std::fs::write(&path, b"not a png").unwrap();
        assert!(Settings::read(&path).is_err());
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        std::fs::write(&path, b"good").unwrap();
        assert!(write_atomically(&path, |_| Err(std::io::Error::other("full"))).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_reference_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ref.png");
        std::fs::write(&path, b"one").unwrap();
        let record = FileRecord::of(&path).unwrap();
        record.verify().unwrap();
        std::fs::write(&path, b"two").unwrap();
        assert!(record.verify().unwrap_err().to_string().contains("has changed"));
    }
}
