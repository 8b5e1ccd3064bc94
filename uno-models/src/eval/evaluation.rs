//! A prompt list's pictures, scored one by one; what is scored stays on disk, so that a run goes on where it was stopped, and
//! several share the work.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::dreambench::{Entry, Shard};
use super::provenance;
use super::scores::{PictureScores, Protocol, Scorer};
use super::statistics::Mean;
use crate::error::{Error, Result};
use crate::output::{FileRecord, ModelRecord, Settings, write_atomically};
use crate::picture::{DecodeOptions, Picture};
use crate::request::MAX_PICTURES;

/// What is evaluated.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The prompt list.
    pub entries: Vec<Entry>,
    /// Folder with `{prompt}_{picture}.png`.
    pub pictures: PathBuf,
    /// Pictures per prompt; the paper takes four.
    pub per_prompt: usize,
    /// The share of the work.
    pub shard: Shard,
    /// Folder for scores and the result.
    pub out: PathBuf,
}

/// Makes a picture that is missing: of a prompt's number, a picture's number, at a path.
pub type Generate<'a> = &'a dyn Fn(usize, usize, &Path) -> Result<()>;

/// What happens while pictures are scored.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum EvaluationEvent {
    /// A picture is scored, or was already.
    Scored {
        /// Pictures of this share that are done.
        done: usize,
        /// Pictures of this share.
        total: usize,
        /// Seconds left at the pace so far; `None` before there is one.
        seconds_left: Option<f64>,
    },
}

/// The scores of a picture with what they belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredPicture {
    /// What the scores depend on.
    pub protocol: Protocol,
    /// The picture.
    pub picture: FileRecord,
    /// The prompt.
    pub prompt: String,
    /// The references.
    pub references: Vec<FileRecord>,
    /// The scores.
    pub scores: PictureScores,
    /// Whether the picture or one of its references is transparent somewhere, which the encoders do not see.
    #[serde(default)]
    pub alpha_dropped: bool,
}

/// Means of a set of pictures; those of subjects are `None` where there are no references.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// DINO.
    pub dino: Option<Mean>,
    /// CLIP-I.
    pub clip_i: Option<Mean>,
    /// CLIP-T.
    pub clip_t: Option<Mean>,
    /// The least subject score.
    pub subject: Option<Mean>,
}

/// How the pictures were made, as they say themselves. More than one value in a list means that they differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Pictures that say nothing of how they were made.
    pub unknown: usize,
    /// Width and height in pixels.
    pub size: Vec<[usize; 2]>,
    /// Steps of the sampler.
    pub num_steps: Vec<usize>,
    /// Guidance.
    pub guidance: Vec<f32>,
    /// Placement of references.
    pub pe: Vec<String>,
    /// Longer side of references.
    pub ref_size: Vec<u32>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// The models' files.
    pub model: Vec<ModelRecord>,
}

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Program and version.
    pub software: String,
    /// What scores depend on.
    pub protocol: Protocol,
    /// How the pictures were made.
    pub made: Made,
    /// Prompts.
    pub prompts: usize,
    /// Pictures per prompt.
    pub per_prompt: usize,
    /// Prompts that CLIP saw cut.
    pub cut_prompts: usize,
    /// What a reader of the scores should know, in words: what was cut or dropped, what differs, what is not scored.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Over all pictures.
    pub all: Means,
    /// By subject.
    pub by_subject: BTreeMap<String, Means>,
    /// By number of the prompt.
    pub by_prompt: Vec<PromptReport>,
}

/// A prompt with its pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptReport {
    /// The prompt.
    pub prompt: String,
    /// Its references.
    pub references: Vec<PathBuf>,
    /// Means over its pictures.
    pub means: Means,
    /// Its pictures with their scores.
    pub pictures: Vec<(PathBuf, PictureScores)>,
}

impl Evaluation {
    /// Scores what is missing of this share; makes pictures that are missing with `generate`, if it is given. Returns how many
    /// pictures of the whole list are scored now.
    ///
    /// # Errors
    ///
    /// Pictures that are missing and cannot be made, or that were made from another list, named before anything is scored; what
    /// scorer and generator return;
    /// [`uno_core::Error::Cancelled`].
    pub fn run(
        &self,
        scorer: &Scorer,
        generate: Option<Generate<'_>>,
        observer: &dyn Fn(EvaluationEvent) -> ControlFlow<()>,
    ) -> Result<usize> {
        self.validate()?;
        let mine: Vec<_> = self.all().filter(|&(i, j)| self.shard.contains(i, j, self.per_prompt)).collect();
        if generate.is_none() {
            self.check_pictures(&mine)?;
        }
        let there = mine.iter().map(|&(i, j)| (i, self.picture(i, j))).filter(|(_, path)| path.is_file());
        provenance::check(&self.entries, there, &self.pictures)?;
        let (start, mut worked) = (Instant::now(), 0);
        for (n, &(i, j)) in mine.iter().enumerate() {
            let path = self.picture(i, j);
            if let Some(generate) = generate.filter(|_| !path.is_file()) {
                generate(i, j, &path)?;
            }
            worked += usize::from(self.score(scorer, i, j)?);
            let pace = (worked > 0).then(|| start.elapsed().as_secs_f64() / worked as f64);
            let event = EvaluationEvent::Scored {
                done: n + 1,
                total: mine.len(),
                seconds_left: pace.map(|pace| pace * (mine.len() - n - 1) as f64),
            };
            if observer(event).is_break() {
                return Err(uno_core::Error::Cancelled { step: n + 1, total: mine.len() }.into());
            }
        }
        Ok(self.all().filter(|&(i, j)| self.scores_file(i, j).is_file()).count())
    }

    fn validate(&self) -> Result<()> {
        if self.per_prompt == 0 || self.per_prompt > MAX_PICTURES {
            return Err(Error::request(
                "pictures per prompt",
                self.per_prompt,
                format!("1 to {MAX_PICTURES}"),
            ));
        }
        Ok(())
    }

    /// Pictures of the whole list: numbers of prompt and picture.
    fn all(&self) -> impl Iterator<Item = (usize, usize)> {
        let per_prompt = self.per_prompt;
        (0..self.entries.len()).flat_map(move |i| (0..per_prompt).map(move |j| (i, j)))
    }

    /// How many pictures the whole list has.
    pub fn total(&self) -> usize {
        self.entries.len() * self.per_prompt
    }

    fn picture(&self, i: usize, j: usize) -> PathBuf {
        self.pictures.join(format!("{i}_{j}.png"))
    }

    fn scores_file(&self, i: usize, j: usize) -> PathBuf {
        self.out.join("scores").join(format!("{i}_{j}.json"))
    }

    fn check_pictures(&self, mine: &[(usize, usize)]) -> Result<()> {
        let missing: Vec<_> =
            mine.iter().map(|&(i, j)| self.picture(i, j)).filter(|path| !path.is_file()).collect();
        let Some(first) = missing.first() else { return Ok(()) };
        Err(Error::format(
            &self.pictures,
            format!(
                "holds {} of {} pictures; {} is the first that is missing; make them with `generate --eval_json_path LIST \
                 --num_images_per_prompt {} --save_path DIR`, or name a model here",
                mine.len() - missing.len(),
                mine.len(),
                first.file_name().unwrap_or_default().to_string_lossy(),
                self.per_prompt
            ),
        ))
    }

    /// Scores a picture, unless that was done with the same protocol, picture and references; says whether it was work.
    fn score(&self, scorer: &Scorer, i: usize, j: usize) -> Result<bool> {
        let Entry { prompt, image_paths } = &self.entries[i];
        let picture = FileRecord::of(self.picture(i, j))?;
        let references = image_paths.iter().map(FileRecord::of).collect::<Result<Vec<_>>>()?;
        let file = self.scores_file(i, j);
        if let Ok(bytes) = std::fs::read(&file) {
            let known = serde_json::from_slice::<ScoredPicture>(&bytes).ok().is_some_and(|known| {
                known.protocol == *scorer.protocol()
                    && known.picture.sha256 == picture.sha256
                    && known.prompt == *prompt
                    && known.references == references
            });
            if known {
                return Ok(false);
            }
        }
        let opened = Picture::open(self.picture(i, j), &DecodeOptions::default())?;
        let scores = scorer.score(&opened, prompt, image_paths)?;
        let scored = ScoredPicture {
            protocol: scorer.protocol().clone(),
            picture,
            prompt: prompt.clone(),
            references,
            scores,
            alpha_dropped: has_alpha(&opened) || Self::any_alpha(image_paths)?,
        };
        write_json(&file, &scored)?;
        Ok(true)
    }

    fn any_alpha(references: &[PathBuf]) -> Result<bool> {
        for path in references {
            if has_alpha(&Picture::open(path, &DecodeOptions::default())?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts together what all shares have scored.
    ///
    /// # Errors
    ///
    /// Scores that are missing, damaged, or of another protocol than the first.
    pub fn report(&self) -> Result<Report> {
        self.validate()?;
        let mut by_prompt = Vec::new();
        let mut by_subject: BTreeMap<String, Vec<Vec<PictureScores>>> = BTreeMap::new();
        let (mut protocol, mut made) = (None, Made::default());
        let (mut unknown, mut with_alpha) = (Vec::new(), 0);
        let by_folder = named_by_folder(&self.entries);
        for (i, Entry { prompt, image_paths }) in self.entries.iter().enumerate() {
            let mut pictures = Vec::new();
            for j in 0..self.per_prompt {
                let file = self.scores_file(i, j);
                let bytes = std::fs::read(&file).map_err(Error::read(&file))?;
                let scored: ScoredPicture = serde_json::from_slice(&bytes).map_err(|e| {
                    Error::format(&file, format!("holds no scores: {e}; delete it and run again"))
                })?;
                if *protocol.get_or_insert_with(|| scored.protocol.clone()) != scored.protocol {
                    return Err(Error::format(
                        &file,
                        "is of another protocol than 0_0.json; run all shares with the same",
                    ));
                }
                let settings = Settings::read(self.picture(i, j)).ok();
                if settings.is_none() {
                    unknown.push(format!("{i}_{j}.png"));
                }
                made.add(settings);
                with_alpha += usize::from(scored.alpha_dropped);
                pictures.push((self.picture(i, j), scored.scores));
            }
            let scores: Vec<PictureScores> = pictures.iter().map(|(_, scores)| scores.clone()).collect();
            for (k, reference) in image_paths.iter().enumerate() {
                let subject = subject_name(reference, by_folder);
                by_subject.entry(subject).or_default().push(scores.iter().map(|s| s.of_subject(k)).collect());
            }
            let means = Means::of(&[&scores]);
            by_prompt.push(PromptReport {
                prompt: prompt.clone(),
                references: image_paths.clone(),
                means,
                pictures,
            });
        }
        let groups: Vec<Vec<PictureScores>> = by_prompt
            .iter()
            .map(|prompt| prompt.pictures.iter().map(|(_, scores)| scores.clone()).collect())
            .collect();
        let cut_prompts = groups.iter().filter(|group| group.iter().any(|s| s.prompt_is_cut)).count();
        let made = made.sorted();
        let notes = self.notes(&made, &unknown, cut_prompts, with_alpha);
        let protocol = protocol.ok_or_else(|| Error::request("prompts", 0, "a list with prompts"))?;
        Ok(Report {
            software: concat!("uno-rs ", env!("CARGO_PKG_VERSION")).into(),
            protocol,
            made,
            prompts: self.entries.len(),
            per_prompt: self.per_prompt,
            cut_prompts,
            notes,
            all: Means::of(&groups.iter().collect::<Vec<_>>()),
            by_subject: by_subject
                .iter()
                .map(|(name, groups)| (name.clone(), Means::of(&groups.iter().collect::<Vec<_>>())))
                .collect(),
            by_prompt,
        })
    }
}

impl Evaluation {
    /// What a reader of the scores should know.
    fn notes(&self, made: &Made, unknown: &[String], cut_prompts: usize, with_alpha: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if cut_prompts > 0 {
            notes.push(format!(
                "CLIP takes 77 tokens: {cut_prompts} prompts are longer, and were cut for CLIP-T"
            ));
        }
        if with_alpha > 0 {
            notes.push(format!(
                "{with_alpha} pictures were compared with transparent images (or are transparent); the alpha channel was dropped"
            ));
        }
        if let [first, .., last] = made.size[..] {
            let ([w1, h1], [w2, h2], n) = (first, last, made.size.len());
            notes.push(format!("the pictures have {n} sizes, from {w1}x{h1} to {w2}x{h2}"));
        }
        if let Some(first) = unknown.first() {
            notes.push(format!(
                "{} pictures hold no settings ({first} is the first), so that nothing says whether they were made from this list",
                unknown.len()
            ));
        }
        let extra = provenance::extra(&self.pictures, self.entries.len(), self.per_prompt);
        if let Some(first) = extra.first() {
            notes.push(format!(
                "{} more pictures are in the folder ({first} is the first) that the list does not have; they are not scored",
                extra.len()
            ));
        }
        notes
    }
}

/// Whether the folders of references name the subjects, as in DreamBench (`dog6/02.jpg`): there are several, and no prompt has
/// two references from one. Otherwise the files do (`robot.png`).
fn named_by_folder(entries: &[Entry]) -> bool {
    let folders =
        |entry: &Entry| entry.image_paths.iter().map(|path| path.parent().map(Path::to_owned)).collect();
    let of_entries: Vec<BTreeSet<_>> = entries.iter().map(folders).collect();
    let apart = entries.iter().zip(&of_entries).all(|(entry, set)| set.len() == entry.image_paths.len());
    apart && of_entries.iter().flatten().collect::<BTreeSet<_>>().len() > 1
}

fn subject_name(reference: &Path, by_folder: bool) -> String {
    let name = if by_folder { reference.parent().and_then(Path::file_name) } else { reference.file_stem() };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

impl PictureScores {
    /// The scores of one subject alone, in the form of a picture's.
    fn of_subject(&self, k: usize) -> Self {
        let subject = self.subjects.get(k);
        Self {
            dino: subject.map(|s| s.dino),
            clip_i: subject.map(|s| s.clip_i),
            subject: subject.map(|s| s.found.score),
            subjects: subject.cloned().into_iter().collect(),
            ..self.clone()
        }
    }
}

impl Means {
    /// Over the pictures of prompts.
    fn of(prompts: &[&Vec<PictureScores>]) -> Self {
        let of = |f: fn(&PictureScores) -> Option<f64>| {
            let groups: Vec<Vec<f64>> =
                prompts.iter().map(|pictures| pictures.iter().filter_map(f).collect()).collect();
            // One prompt's pictures are all that is known of it.
            if prompts.len() == 1 { Mean::of(groups.concat()) } else { Mean::of_groups(&groups) }
        };
        Self {
            dino: of(|s| s.dino),
            clip_i: of(|s| s.clip_i),
            clip_t: of(|s| Some(s.clip_t)),
            subject: of(|s| s.subject),
        }
    }
}

impl Made {
    fn add(&mut self, settings: Option<Settings>) {
        fn put<T: PartialEq>(list: &mut Vec<T>, value: T) {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        // Older pictures name the model's files with their folders.
        let Some(settings) = settings.map(|settings| settings.without_folders()) else {
            self.unknown += 1;
            return;
        };
        put(&mut self.size, [settings.width, settings.height]);
        put(&mut self.num_steps, settings.num_steps);
        put(&mut self.guidance, settings.guidance);
        put(&mut self.pe, settings.pe.to_string());
        put(&mut self.ref_size, settings.ref_size);
        put(&mut self.seeds, settings.seed);
        settings.model.into_iter().for_each(|record| put(&mut self.model, record));
    }

    fn sorted(mut self) -> Self {
        self.size.sort_unstable();
        self.num_steps.sort_unstable();
        self.guidance.sort_by(f32::total_cmp);
        self.pe.sort();
        self.ref_size.sort_unstable();
        self.seeds.sort_unstable();
        self
    }
}

impl Report {
    /// Writes it as JSON, in place of an earlier report if there is one.
    ///
    /// # Errors
    ///
    /// [`check_replaceable`](Self::check_replaceable); a folder that cannot be written to.
    pub fn write(&self, path: &Path) -> Result<()> {
        Self::check_replaceable(path)?;
        write_json(path, self)
    }

    /// That a report, as JSON or as a page, can be written to `path` without taking the place of a file that is none.
    ///
    /// # Errors
    ///
    /// Such a file.
    pub fn check_replaceable(path: &Path) -> Result<()> {
        let is_ours = || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            // Of another version, too.
            let has = |json: &serde_json::Value| {
                ["protocol", "by_prompt"].iter().all(|key| json.get(key).is_some())
            };
            text.starts_with(super::html::HEAD) || serde_json::from_str(&text).is_ok_and(|json| has(&json))
        };
        if path.symlink_metadata().is_err() || is_ours() {
            return Ok(());
        }
        Err(Error::format(
            path,
            "is there already and is no report of an evaluation, so it is not replaced; move it away, or give another folder",
        ))
    }
}

/// Whether there is anything that the encoders do not see because it is transparent.
fn has_alpha(picture: &Picture) -> bool {
    let pixels = picture.pixels();
    pixels.color().has_alpha() && pixels.to_rgba8().pixels().any(|pixel| pixel[3] != u8::MAX)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_atomically(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_named_by_folders_of_views_and_else_by_files() {
        let names = |prompts: &[&[&str]]| {
            let entry = |paths: &&[&str]| Entry {
                prompt: String::new(),
                image_paths: paths.iter().map(PathBuf::from).collect(),
            };
            let entries: Vec<Entry> = prompts.iter().map(entry).collect();
            let by_folder = named_by_folder(&entries);
            let paths = entries.iter().flat_map(|entry| &entry.image_paths);
            paths.map(|path| subject_name(path, by_folder)).collect::<Vec<_>>()
        };
        assert_eq!(names(&[&["set/dog6/02.jpg"], &["set/can/00.jpg"]]), ["dog6", "can"]);
        assert_eq!(names(&[&["set/dog6/02.jpg", "set/can/00.jpg"]]), ["dog6", "can"]);
        assert_eq!(names(&[&["assets/robot.png"], &["assets/teapot.png"]]), ["robot", "teapot"]);
        assert_eq!(names(&[&["a/robot.png", "a/teapot.png"], &["b/car.png"]]), ["robot", "teapot", "car"]);
        assert_eq!(names(&[&[]]), [""; 0]);
    }
}
