//! Making a picture again: its settings, and the files that it was made from, wherever they are now.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, FloatDType};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use uno_core::weights::Checkpoint;
use uno_models::Request;
use uno_models::checkpoint::{CheckpointOptions, EMBEDDED};
use uno_models::components::{PipelineOptions, VaeTiling};
use uno_models::output::{FileRecord, ModelInfo, ModelRecord, Settings};
use uno_models::request::Sample;

use super::arguments::{AddedLora, Arguments, read_noise};

/// Options that mean something beside --from. All others are in the settings of the picture.
const TAKEN: [&str; 23] = [
    "from",
    "save_path",
    "overwrite",
    "concat_refs",
    "image_paths",
    "noise",
    "model",
    "dit",
    "ae",
    "t5",
    "clip",
    "t5_tokenizer",
    "clip_tokenizer",
    "lora",
    "lora_scale",
    "add_lora",
    "download",
    "offline",
    "device",
    "memory",
    "offload",
    "threads",
    "json",
];

/// A picture that is made again.
pub struct Again {
    /// Its settings.
    settings: Settings,
    picture: PathBuf,
}

/// The request that made it, and its files as they were found.
pub struct Repeated {
    pub request: Request,
    pub references: Vec<PathBuf>,
    pub exif_orientation: bool,
    pub noise_file: Option<FileRecord>,
}

impl Again {
    /// Reads the settings in a picture or its JSON file.
    ///
    /// # Errors
    ///
    /// A file without settings; options in `matches` that the settings answer already.
    pub fn read(picture: &Path, matches: &ArgMatches) -> Result<Self> {
        let settings = Settings::read_with_folders(picture)?;
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let mut ignored: Vec<String> = Vec::new();
        for option in Arguments::command().get_arguments() {
            let id = option.get_id().as_str();
            if given(id) && !TAKEN.contains(&id) {
                ignored.push(format!("--{id}"));
            }
        }
        ensure!(
            ignored.is_empty(),
            "{} beside --from: the settings in {} hold, and are all that the picture is made with; leave it out, or give --prompt \
             and the other options in place of --from",
            ignored.join(", "),
            picture.display()
        );
        if let (true, Some(given)) = (given("lora_scale"), matches.get_one::<f64>("lora_scale")) {
            let recorded = settings.lora_scale.unwrap_or(0.0);
            ensure!(
                *given == recorded,
                "--lora_scale: got {given}, the picture was made with {recorded}, which holds; leave it out"
            );
        }
        if let VaeTiling::Tiles(0) = settings.vae_tiling {
            bail!("{}: vae_tile: got 0, wanted 1 latent or more", picture.display());
        }
        let is_drawn = given("noise") && settings.noise_file.is_none();
        ensure!(
            !is_drawn,
            "--noise: the picture was made with drawn noise, which its settings tell; leave it out"
        );
        Ok(Self { settings, picture: picture.to_path_buf() })
    }

    /// Whether it was made with the small model inside the program.
    pub fn is_embedded(&self) -> bool {
        self.settings.model_type == EMBEDDED
    }

    /// The request that made it. References and noise are found among those that are given, where they were, or beside the picture.
    ///
    /// # Errors
    ///
    /// A file that is not found, and a given one that is none of them.
    pub fn request(&self, arguments: &Arguments, device: &Device) -> Result<Repeated> {
        let settings = &self.settings;
        let mut request = Request::new(&settings.prompt);
        request.samples = vec![Sample { prompt: settings.prompt.clone(), seed: settings.seed }];
        (request.width, request.height) = (settings.width, settings.height);
        request.num_steps = settings.num_steps;
        request.guidance = settings.guidance;
        request.pe = settings.pe;
        request.ref_size = Some(settings.ref_size);
        request.noise = settings.noise.unwrap_or_default();
        request.noise_dtype = settings.noise_dtype;
        request.sequence_length = settings.sequence_length;
        request.shift = settings.shift;
        request.reference_seed = settings.reference_seed;
        request.approximation = settings.approximation;
        let records: Vec<_> = settings.references.iter().map(|reference| &reference.file).collect();
        let references = self.find_all("reference", "image_paths", &records, &arguments.image_paths)?;
        let given: Vec<_> = arguments.noise.file().map(Path::to_path_buf).into_iter().collect();
        let noise: Vec<_> = settings.noise_file.iter().collect();
        let noise = self.find_all("noise", "noise", &noise, &given)?.pop();
        if let Some(noise) = &noise {
            request.latents = Some(read_noise(noise, device)?);
        }
        Ok(Repeated {
            request,
            references,
            exif_orientation: settings.exif_orientation,
            noise_file: noise.map(FileRecord::of).transpose()?,
        })
    }

    /// The files of `records`, by their SHA-256.
    fn find_all(
        &self,
        what: &str,
        option: &str,
        records: &[&FileRecord],
        given: &[PathBuf],
    ) -> Result<Vec<PathBuf>> {
        let given = given.iter().map(|path| Ok((path, FileRecord::of(path)?))).collect::<Result<Vec<_>>>()?;
        for (path, now) in &given {
            ensure!(
                records.iter().any(|record| record.sha256 == now.sha256),
                "--{option}: {} (SHA-256 {}) is no {what} of {}, which was made with {}",
                path.display(),
                now.sha256,
                self.picture.display(),
                listed(records.iter().map(|record| (record.path.as_path(), record.sha256.as_str())))
            );
        }
        let find = |record: &&FileRecord| {
            if let Some((path, _)) = given.iter().find(|(_, now)| now.sha256 == record.sha256) {
                return Ok(PathBuf::from(path));
            }
            let mut tried = Vec::new();
            for place in self.places(&record.path) {
                match FileRecord::of(&place) {
                    Ok(now) if now.sha256 == record.sha256 => return Ok(place),
                    Ok(now) => {
                        tried.push(format!("{} has changed (SHA-256 {})", place.display(), now.sha256));
                    }
                    Err(error) => tried.push(error.to_string()),
                }
            }
            bail!(
                "the {what} {} (SHA-256 {}) is not found: {}; give it with --{option}, wherever it is now",
                name(&record.path),
                record.sha256,
                tried.join("; ")
            )
        };
        records.iter().map(find).collect()
    }

    /// Where a recorded file may be: where it was, if that is known, and beside the picture.
    fn places(&self, recorded: &Path) -> Vec<PathBuf> {
        let has_folder = recorded.parent().is_some_and(|folder| !folder.as_os_str().is_empty());
        let beside = self.picture.with_file_name(name(recorded));
        let beside = std::path::absolute(&beside).unwrap_or(beside);
        let was = has_folder.then(|| recorded.to_path_buf()).filter(|was| *was != beside);
        was.into_iter().chain(std::iter::once(beside)).collect()
    }

    /// Where to look for the model: as the options say, else where its files were, or beside the picture.
    ///
    /// # Errors
    ///
    /// Options for another model than the picture's.
    pub fn checkpoint_options(&self, mut options: CheckpointOptions) -> Result<CheckpointOptions> {
        let given = [
            ("model", &options.model_dir),
            ("dit", &options.dit),
            ("ae", &options.ae),
            ("t5", &options.t5),
            ("clip", &options.clip),
            ("t5_tokenizer", &options.t5_tokenizer),
            ("clip_tokenizer", &options.clip_tokenizer),
            ("lora", &options.lora),
        ];
        if let (true, Some((option, _))) = (self.is_embedded(), given.iter().find(|(_, path)| path.is_some()))
        {
            bail!("--{option}: the picture was made with the small model inside the program; leave it out");
        }
        options.use_lora = self.settings.lora_scale.is_some();
        ensure!(
            options.use_lora || options.lora.is_none(),
            "--lora: the picture was made without UNO's LoRA; leave it out"
        );
        if self.is_embedded() {
            return Ok(options);
        }
        options.model_type = Some(self.settings.model_type.parse()?);
        if options.model_dir.is_some() {
            return Ok(options);
        }
        // Vocabularies beside weights that are named go first.
        if options.t5.is_none() && options.t5_tokenizer.is_none() {
            options.t5_tokenizer = self.small_file("t5_tokenizer");
        }
        if options.clip.is_none() && options.clip_tokenizer.is_none() {
            let vocab = || Some(self.small_file("clip_vocab")?.parent()?.to_path_buf());
            options.clip_tokenizer = self.small_file("clip_tokenizer").or_else(vocab);
        }
        for (part, path) in [
            ("dit", &mut options.dit),
            ("ae", &mut options.ae),
            ("t5", &mut options.t5),
            ("clip", &mut options.clip),
            ("lora", &mut options.lora),
        ] {
            if path.is_none() {
                *path = self.weights(part);
            }
        }
        Ok(options)
    }

    fn record(&self, part: &str) -> Option<&ModelRecord> {
        self.settings.model.iter().find(|record| record.part == part)
    }

    /// The file of a part with the recorded fingerprint; else where it was, for what is there now to be named.
    fn weights(&self, part: &str) -> Option<PathBuf> {
        let record = self.record(part)?;
        let places = self.places(&record.path);
        let open = |place: &Path| match part {
            "lora" => uno_core::lora::open(place),
            _ => Checkpoint::open(place),
        };
        let same = |place: &&PathBuf| open(place).is_ok_and(|c| c.fingerprint() == record.fingerprint);
        let found = places.iter().find(same).cloned();
        found.or_else(|| places.into_iter().find(|place| *place == record.path))
    }

    /// The vocabulary of a part, if it is still the same.
    fn small_file(&self, part: &str) -> Option<PathBuf> {
        let record = self.record(part)?;
        let same = |place: &PathBuf| FileRecord::of(place).is_ok_and(|now| now.sha256 == record.fingerprint);
        self.places(&record.path).into_iter().find(same)
    }

    /// What the picture was made with, for errors about files that are not found.
    pub fn files(&self) -> String {
        let files = self.settings.model.iter().map(|r| (r.path.as_path(), r.fingerprint.as_str()));
        format!(
            "{} was made with {}; name them with --model, --dit ...",
            self.picture.display(),
            listed(files)
        )
    }

    /// The picture's further LoRAs with their recorded factors, found by their fingerprints among those that are given, where they
    /// were, or beside the picture.
    ///
    /// # Errors
    ///
    /// One that is not found, a given one that is none of them, and a given factor that is not the recorded one.
    pub fn loras(&self, given: &[AddedLora]) -> Result<Vec<(Checkpoint, f64)>> {
        let mut recorded = Vec::new();
        for (i, &scale) in self.settings.add_lora_scales.iter().enumerate() {
            let record = self.record(&format!("add_lora.{i}"));
            let record = record.with_context(|| {
                format!("{}: add_lora_scales names a LoRA {i} that model lacks", self.picture.display())
            })?;
            recorded.push((record, scale));
        }
        let mut found: Vec<Option<Checkpoint>> = vec![None; recorded.len()];
        let opened = given.iter().map(|lora| Ok((lora, uno_core::lora::open(&lora.path)?)));
        let mut opened = opened.collect::<Result<Vec<_>>>()?;
        // Those with a factor first: the others take what is left.
        opened.sort_by_key(|(lora, _)| lora.scale.is_none());
        for (lora, checkpoint) in &opened {
            let path = lora.path.display();
            let is_it = |i: &usize| recorded[*i].0.fingerprint == checkpoint.fingerprint();
            let same: Vec<usize> = (0..recorded.len()).filter(is_it).collect();
            ensure!(
                !same.is_empty(),
                "--add_lora {path} (fingerprint {}): is none of the picture's LoRAs, which are {}",
                checkpoint.fingerprint(),
                listed(recorded.iter().map(|(r, _)| (r.path.as_path(), r.fingerprint.as_str())))
            );
            let suits = |i: &&usize| lora.scale.is_none_or(|scale| scale == recorded[**i].1);
            let scales: Vec<_> = same.iter().map(|&i| recorded[i].1.to_string()).collect();
            let suiting: Vec<_> = same.iter().filter(suits).collect();
            ensure!(
                !suiting.is_empty(),
                "--add_lora {path}: got the factor {}, the picture was made with {}, which holds; leave it out",
                lora.scale.unwrap_or(1.0),
                scales.join(" and ")
            );
            let Some(&&free) = suiting.iter().find(|i| found[***i].is_none()) else {
                bail!(
                    "--add_lora {path}: is given more often than the picture was made with it ({} times, by {})",
                    same.len(),
                    scales.join(" and ")
                );
            };
            found[free] = Some(checkpoint.clone());
        }
        let loras = recorded.iter().zip(found).map(|((record, scale), found)| {
            let given = || opened.iter().find(|(_, c)| c.fingerprint() == record.fingerprint);
            let checkpoint = match found.or_else(|| Some(given()?.1.clone())) {
                Some(checkpoint) => checkpoint,
                None => self.lora(record)?,
            };
            Ok((checkpoint, *scale))
        });
        loras.collect()
    }

    /// A LoRA that was not given.
    fn lora(&self, record: &ModelRecord) -> Result<Checkpoint> {
        let mut tried = Vec::new();
        for place in self.places(&record.path) {
            match uno_core::lora::open(&place) {
                Ok(checkpoint) if checkpoint.fingerprint() == record.fingerprint => return Ok(checkpoint),
                Ok(other) => {
                    tried.push(format!(
                        "{} is another file (fingerprint {})",
                        place.display(),
                        other.fingerprint()
                    ));
                }
                Err(error) => tried.push(error.to_string()),
            }
        }
        bail!(
            "{}: the LoRA {} (fingerprint {}) is not found: {}; give it with --add_lora, wherever it is now",
            record.part,
            name(&record.path),
            record.fingerprint,
            tried.join("; ")
        )
    }

    /// Lets a pipeline compute as it did for the picture.
    ///
    /// # Errors
    ///
    /// A number format that this version does not know.
    pub fn apply(&self, options: &mut PipelineOptions) -> Result<()> {
        let settings = &self.settings;
        options.dtype = match settings.dtype.as_str() {
            "F32" => FloatDType::F32,
            "F16" => FloatDType::F16,
            "BF16" => FloatDType::BF16,
            other => bail!("the picture was computed in {other:?}, which this version does not know"),
        };
        options.lora_scale = settings.lora_scale.unwrap_or(0.0);
        options.merge_lora = settings.lora_merged.into();
        options.int8 = settings.int8;
        options.vae_tiling = settings.vae_tiling;
        Ok(())
    }

    /// What to say if the autoencoder is going to work in tiles of this side and the settings do not tell that it did.
    pub fn doubt(&self, tile: Option<usize>) -> Option<String> {
        tile.filter(|_| self.settings.vae_tiling.is_auto()).map(|tile| {
            format!(
                "note: the settings of {} are of a version that did not record whether the autoencoder worked in tiles; now it works \
                 in tiles of {tile} latents, which may make another picture",
                self.picture.display()
            )
        })
    }

    /// That the model is the one that made the picture.
    ///
    /// # Errors
    ///
    /// The first file that is another one.
    pub fn check_model(&self, now: &ModelInfo) -> Result<()> {
        for record in &self.settings.model {
            let same = now.files.iter().find(|file| file.part == record.part);
            if same.is_some_and(|file| file.fingerprint == record.fingerprint) {
                continue;
            }
            let (part, file, fingerprint) = (&record.part, record.path.display(), &record.fingerprint);
            if self.is_embedded() {
                bail!(
                    "{part}: the picture was made with the model inside {} ({file}, fingerprint {fingerprint}); the one inside \
                     this version is another",
                    self.settings.software
                );
            }
            let option = match part.as_str() {
                "clip_vocab" | "clip_merges" => "clip_tokenizer",
                "clip_config" => "clip",
                part => part,
            };
            let found = same.map_or("none is found now".to_owned(), |found| {
                format!("{} is another one (fingerprint {})", found.path.display(), found.fingerprint)
            });
            bail!(
                "{part}: the picture was made with {file} (fingerprint {fingerprint}); {found}; name the original with --model \
                 or --{option}"
            );
        }
        Ok(())
    }
}

/// The name of a file of whatever system.
fn name(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or_default().to_owned()
}

fn listed<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> String {
    let files: Vec<_> = files.map(|(path, hash)| format!("{} ({hash})", name(path))).collect();
    if files.is_empty() { "none".to_owned() } else { files.join(", ") }
}
