//! The stages over all items: each reads what waits for it, and writes each item as soon as it is done.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use image::RgbImage;
use serde_json::{Value, json};
use uno_core::device::Opened;
use uno_core::traits::Silent;
use uno_core::vision::cosine;

use super::config::{JudgementConfig, SynthesisConfig};
use super::detection::{self, Area};
use super::endpoint::Endpoint;
use super::item::{Item, Outcome, Panels, Stage, Status};
use super::judgement::{Judgement, judge};
use super::seam::{self, Layout};
use super::taxonomy::Taxonomy;
use crate::checkpoint::{CheckpointOptions, discover};
use crate::components::{ModelSource, PipelineOptions, load};
use crate::error::{EndpointFailure, Error, Result};
use crate::eval::{Shard, SubjectFinder};
use crate::output::{FileRecord, ModelInfo, Settings, save, write_atomically};
use crate::picture::{DecodeOptions, Picture};
use crate::pipeline::UnoPipeline;
use crate::request::Request;
use crate::train::random::{Draws, Purpose};

/// Items that may fail one after the other before an endpoint is taken for dead.
const IN_A_ROW: usize = 8;

/// What happens while a synthesis goes on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SynthesisEvent<'a> {
    /// A stage begins.
    Begins {
        /// Which.
        stage: Stage,
        /// Items that wait for it.
        items: usize,
    },
    /// An item has passed a stage, or was rejected.
    Advances {
        /// Which stage.
        stage: Stage,
        /// The item.
        item: &'a str,
        /// Items that are through.
        done: usize,
        /// Items in all.
        total: usize,
        /// Seconds left at the pace so far.
        seconds_left: f64,
    },
    /// An item could not be worked on; it still waits.
    Failed {
        /// The item.
        item: &'a str,
        /// Why.
        reason: &'a str,
    },
}

/// Watches a synthesis, and may stop it; items that are begun are ended.
pub type Watch<'a> = &'a (dyn Fn(SynthesisEvent<'_>) -> ControlFlow<()> + Sync);

/// A synthesis in its folder.
#[derive(Debug)]
pub struct Synthesis {
    config: SynthesisConfig,
    taxonomy: Taxonomy,
    device: Opened,
}

impl Synthesis {
    /// Opens the folder of a synthesis, or begins it. A taxonomy that is not there is asked of the endpoint.
    ///
    /// # Errors
    ///
    /// Files that are missing or damaged; a folder that was begun with other settings.
    pub fn open(config: SynthesisConfig) -> Result<Self> {
        config.validate()?;
        let device = uno_core::device::open_named(&config.device)?;
        if !config.taxonomy.exists() && !config.classes.is_empty() {
            ask_taxonomy(&config)?;
        }
        let taxonomy = Taxonomy::read(&config.taxonomy)?;
        let synthesis = Self { config, taxonomy, device };
        synthesis.check_manifest()?;
        Ok(synthesis)
    }

    /// What it was opened with.
    pub fn config(&self) -> &SynthesisConfig {
        &self.config
    }

    /// A file below the folder.
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.config.output.join(file)
    }

    /// What results depend on; written when the folder is begun, and compared when it is opened again.
    fn manifest(&self) -> Result<BTreeMap<&'static str, Value>> {
        let config = &self.config;
        let mut manifest = BTreeMap::from([
            ("software", json!(concat!("uno-rs ", env!("CARGO_PKG_VERSION")))),
            ("seed", json!(config.seed)),
            ("taxonomy", json!(FileRecord::of(&config.taxonomy)?.sha256)),
            ("diptych", json!(config.diptych)),
            ("split", json!(config.split)),
        ]);
        let fingerprints = |source: &ModelSource| -> BTreeMap<String, String> {
            source.checkpoints().into_iter().map(|(part, c)| (part, c.fingerprint().to_owned())).collect()
        };
        manifest.insert("model", json!(fingerprints(&self.source(false)?)));
        if let Some(similarity) = &config.similarity {
            let finder = SubjectFinder::open(&similarity.dinov2, &self.device.device)?;
            manifest.insert("similarity", json!([similarity.threshold, finder.record()]));
        }
        if let Some(JudgementConfig { endpoint, min_score, .. }) = &config.judgement {
            manifest.insert("judgement", json!([endpoint.model, min_score]));
        }
        if let Some(found) = &config.detection {
            let by = match (&found.endpoint, &found.boxes) {
                (Some(endpoint), _) => endpoint.model.clone(),
                (None, Some(boxes)) => FileRecord::of(boxes)?.sha256,
                (None, None) => String::new(),
            };
            manifest.insert("detection", json!([by, found.share, found.margin]));
            manifest.insert("regeneration", json!([config.regeneration, fingerprints(&self.source(true)?)]));
        }
        Ok(manifest)
    }

    fn check_manifest(&self) -> Result<()> {
        let path = self.path("manifest.json");
        let mut manifest: BTreeMap<String, Value> =
            self.manifest()?.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if path.exists() {
            let bytes = std::fs::read(&path).map_err(Error::read(&path))?;
            let before: BTreeMap<String, Value> = serde_json::from_slice(&bytes)
                .map_err(|e| Error::format(&path, format!("is no manifest of a synthesis: {e}")))?;
            for (key, value) in before {
                // Stages may be added later; what is there may not change.
                let now = manifest.entry(key.clone()).or_insert_with(|| value.clone());
                if *now != value {
                    return Err(Error::format(
                        &path,
                        format!(
                            "the work was begun with another {key}: {value}, now {now}; take another output folder"
                        ),
                    ));
                }
            }
        }
        let json = json!(manifest);
        write_atomically(&path, |file| Ok(serde_json::to_writer_pretty(file, &json)?))
    }

    fn item_path(&self, index: usize) -> PathBuf {
        self.path(format!("items/{index:06}.json"))
    }

    /// Item `index`: as it is on disk, or new.
    ///
    /// # Errors
    ///
    /// A file that is damaged.
    pub fn item(&self, index: usize) -> Result<Item> {
        let path = self.item_path(index);
        if path.exists() {
            return Item::read(&path);
        }
        let plan = self.taxonomy.plan(self.config.seed, index);
        let plan =
            plan.ok_or_else(|| Error::format(&self.config.taxonomy, "holds fewer than two subjects"))?;
        Ok(Item::new(index, plan))
    }

    /// All items.
    ///
    /// # Errors
    ///
    /// Files that are damaged.
    pub fn items(&self) -> Result<Vec<Item>> {
        (0..self.config.count).map(|index| self.item(index)).collect()
    }

    /// Does what waits, for the items of a share of the work: `stages`, as far as the configuration asks for them. Returns items
    /// that could not be worked on, with the reason; they still wait.
    ///
    /// # Errors
    ///
    /// What no repetition would mend: models that cannot be loaded, endpoints that refuse or do not answer;
    /// [`uno_core::Error::Cancelled`].
    pub fn run(&self, stages: &[Stage], shard: Shard, watch: Watch<'_>) -> Result<Vec<(String, String)>> {
        let asked = self.config.stages();
        let mut failed = Vec::new();
        for &stage in asked.iter().filter(|stage| stages.contains(stage)) {
            let mut waiting = Vec::new();
            for index in (0..self.config.count).filter(|index| shard.contains(*index, 0, 1)) {
                if self.item(index)?.status(&asked) == Status::Waits(stage) {
                    waiting.push(index);
                }
            }
            if waiting.is_empty() {
                continue;
            }
            if watch(SynthesisEvent::Begins { stage, items: waiting.len() }).is_break() {
                return Err(uno_core::Error::Cancelled { step: 0, total: waiting.len() }.into());
            }
            failed.extend(self.run_stage(stage, &waiting, watch)?);
        }
        Ok(failed)
    }

    fn run_stage(&self, stage: Stage, waiting: &[usize], watch: Watch<'_>) -> Result<Vec<(String, String)>> {
        let each = |workers: usize, work: &(dyn Fn(&mut Item) -> Result<()> + Sync)| {
            self.each(stage, waiting, workers, watch, work)
        };
        let config = &self.config;
        match stage {
            Stage::Diptych => {
                let maker = Maker::open(self, false)?;
                each(1, &|item| self.diptych(&maker, item))
            }
            Stage::Split => each(1, &|item| self.split(item)),
            Stage::Similarity | Stage::SecondSimilarity => {
                let similarity = config.similarity.as_ref().ok_or_else(|| missing("similarity"))?;
                let finder = SubjectFinder::open(&similarity.dinov2, &self.device.device)?;
                each(1, &|item| {
                    let outcome =
                        self.similarity(&finder, similarity.threshold, &self.compared(stage, item)?)?;
                    match stage {
                        Stage::Similarity => item.similarity = Some(outcome),
                        _ => item.second_similarity = Some(outcome),
                    }
                    Ok(())
                })
            }
            Stage::Judgement | Stage::SecondJudgement => {
                let judgement = config.judgement.as_ref().ok_or_else(|| missing("judgement"))?;
                let endpoint = Endpoint::new(judgement.endpoint.clone())?;
                each(judgement.workers, &|item| {
                    let [first, second] = self.compared(stage, item)?;
                    let subject = match stage {
                        Stage::Judgement => &item.plan.subject,
                        _ => &item.plan.companion,
                    };
                    let found = judge(&endpoint, subject, [&first, &second])?;
                    let outcome = judged(found, judgement.min_score);
                    match stage {
                        Stage::Judgement => item.judgement = Some(outcome),
                        _ => item.second_judgement = Some(outcome),
                    }
                    Ok(())
                })
            }
            Stage::Detection => {
                let found = config.detection.as_ref().ok_or_else(|| missing("detection"))?;
                let endpoint = found.endpoint.clone().map(Endpoint::new).transpose()?;
                let boxes = found.boxes.as_deref().map(detection::read_boxes).transpose()?;
                each(found.workers, &|item| {
                    let picture = self.panel(item, 1)?;
                    let area = match (&endpoint, &boxes) {
                        (Some(endpoint), _) => detection::ask(endpoint, &item.plan.companion, &picture)?,
                        (None, Some(boxes)) => boxes.get(&item.id).copied().flatten(),
                        (None, None) => None,
                    };
                    item.detection = Some(detected(area, &picture, found.share));
                    Ok(())
                })
            }
            Stage::Regeneration => {
                let maker = Maker::open(self, true)?;
                each(1, &|item| self.regeneration(&maker, item))
            }
        }
    }

    /// Works on items, several at a time, and writes each as soon as it is done.
    fn each(
        &self,
        stage: Stage,
        waiting: &[usize],
        workers: usize,
        watch: Watch<'_>,
        work: &(dyn Fn(&mut Item) -> Result<()> + Sync),
    ) -> Result<Vec<(String, String)>> {
        struct Progress {
            done: usize,
            in_a_row: usize,
            failed: Vec<(String, String)>,
            fatal: Option<Error>,
        }
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let progress = Mutex::new(Progress { done: 0, in_a_row: 0, failed: Vec::new(), fatal: None });
        let one = |index: usize| -> (String, Result<()>) {
            let id = format!("{index:06}");
            let worked = self.item(index).and_then(|mut item| {
                work(&mut item)?;
                item.write(&self.item_path(index))
            });
            (id, worked)
        };
        let worker = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(&index) = waiting.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let (id, worked) = one(index);
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                let told = match worked {
                    Ok(()) => {
                        progress.done += 1;
                        progress.in_a_row = 0;
                        let left = waiting.len() - progress.done;
                        watch(SynthesisEvent::Advances {
                            stage,
                            item: &id,
                            done: progress.done,
                            total: waiting.len(),
                            seconds_left: start.elapsed().as_secs_f64() / progress.done as f64 * left as f64,
                        })
                    }
                    // An answer that cannot be read is of this item, and shows that the endpoint lives.
                    Err(Error::Endpoint { reason, kind: EndpointFailure::Unreadable, .. }) => {
                        progress.in_a_row = 0;
                        let told = watch(SynthesisEvent::Failed { item: &id, reason: &reason });
                        progress.failed.push((id, reason));
                        told
                    }
                    Err(Error::Endpoint { reason, kind: EndpointFailure::Unreachable, .. })
                        if progress.in_a_row + 1 < IN_A_ROW =>
                    {
                        progress.in_a_row += 1;
                        let told = watch(SynthesisEvent::Failed { item: &id, reason: &reason });
                        progress.failed.push((id, reason));
                        told
                    }
                    Err(error) => {
                        progress.fatal.get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                        ControlFlow::Continue(())
                    }
                };
                if told.is_break() {
                    let cancelled = uno_core::Error::Cancelled { step: progress.done, total: waiting.len() };
                    progress.fatal.get_or_insert(cancelled.into());
                    stop.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers.min(waiting.len()) {
                scope.spawn(worker);
            }
            worker();
        });
        let progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match progress.fatal {
            Some(error) => Err(error),
            None => Ok(progress.failed),
        }
    }

    fn source(&self, with_lora: bool) -> Result<ModelSource> {
        let model = &self.config.model;
        let mut options = CheckpointOptions::in_folder(&model.dir);
        options.use_lora = with_lora;
        options.lora = model.lora.clone().filter(|_| with_lora);
        ModelSource::open(&discover(&options, &())?)
    }

    fn diptych(&self, maker: &Maker, item: &mut Item) -> Result<()> {
        let config = &self.config.diptych;
        let sizes = match item.plan.layout {
            Layout::SideBySide => &config.side_by_side,
            Layout::Stacked => &config.stacked,
        };
        let mut draws = Draws::new(item.plan.seed, Purpose::Other(9), 0);
        let [width, height] = sizes[draws.below(sizes.len())];
        let mut request = maker.pipeline.request(item.plan.prompt(&config.template)).with_size(width, height);
        (request.num_steps, request.guidance) = (config.num_steps, config.guidance);
        let file = PathBuf::from(format!("diptychs/{}.png", item.id));
        maker.make(&request.with_seed(item.plan.seed), &self.path(&file))?;
        item.diptych = Some(Outcome::kept(file));
        Ok(())
    }

    fn split(&self, item: &mut Item) -> Result<()> {
        let config = &self.config.split;
        let file = item.diptych.as_ref().and_then(|diptych| diptych.value.as_ref());
        let picture = self.picture(file.ok_or_else(|| lacks(item, "diptych"))?)?;
        let layout = item.plan.layout;
        let found = seam::find(&picture, layout);
        let panels =
            found.and_then(|seam| Some((seam, seam::split(&picture, layout, &seam, config.margin)?)));
        let Some((seam, panels)) = panels else {
            item.split = Some(Outcome::rejected(None, "no line across the middle"));
            return Ok(());
        };
        let files = [1, 2].map(|n| PathBuf::from(format!("panels/{}_{n}.png", item.id)));
        for (file, panel) in files.iter().zip(&panels) {
            save_png(&self.path(file), panel)?;
        }
        let value = Panels { seam, files };
        let is_seam =
            seam.strength >= config.min_strength && seam.strength >= config.min_contrast * seam.background;
        item.split = Some(match is_seam {
            true => Outcome::kept(value),
            false => Outcome::rejected(Some(value), "no seam stands out"),
        });
        Ok(())
    }

    /// The pictures that a filter compares.
    fn compared(&self, stage: Stage, item: &Item) -> Result<[RgbImage; 2]> {
        if matches!(stage, Stage::Similarity | Stage::Judgement) {
            return Ok([self.panel(item, 0)?, self.panel(item, 1)?]);
        }
        let made = item.regeneration.as_ref().and_then(|made| made.value.as_ref());
        Ok([self.cut_out(item)?, self.picture(made.ok_or_else(|| lacks(item, "regenerated picture"))?)?])
    }

    fn similarity(
        &self,
        finder: &SubjectFinder,
        threshold: f64,
        pictures: &[RgbImage; 2],
    ) -> Result<Outcome<f64>> {
        let [a, b] =
            pictures.each_ref().map(|picture| finder.vector(&Picture::from_rgb("panel", picture.clone())));
        let cosine = cosine(&a?, &b?);
        Ok(match cosine >= threshold {
            true => Outcome::kept(cosine),
            false => Outcome::rejected(Some(cosine), "the pictures are not alike enough"),
        })
    }

    fn regeneration(&self, maker: &Maker, item: &mut Item) -> Result<()> {
        let config = &self.config.regeneration;
        let cut_out = self.cut_out(item)?;
        save_png(&self.path(format!("cut_outs/{}.png", item.id)), &cut_out)?;
        // The scene of the first panel: another than the target's.
        let prompt = config.template.replace("{scene}", &item.plan.scenes[0]);
        let prompt = prompt.replace("{name}", &item.plan.companion_name);
        let [width, height] = config.size;
        let mut request = maker.pipeline.request(prompt).with_size(width, height).with_seed(item.plan.seed);
        (request.num_steps, request.guidance, request.ref_size) =
            (config.num_steps, config.guidance, config.ref_size);
        let request = request.with_reference(Picture::from_rgb("cut-out", cut_out));
        let file = PathBuf::from(format!("regenerated/{}.png", item.id));
        maker.make(&request, &self.path(&file))?;
        item.regeneration = Some(Outcome::kept(file));
        Ok(())
    }

    pub(super) fn picture(&self, file: &Path) -> Result<RgbImage> {
        let picture = Picture::open(self.path(file), &DecodeOptions::default())?;
        Ok(picture.to_rgb())
    }

    fn panel(&self, item: &Item, which: usize) -> Result<RgbImage> {
        let panels = item.split.as_ref().and_then(|split| split.value.as_ref());
        self.picture(&panels.ok_or_else(|| lacks(item, "panels"))?.files[which])
    }

    fn cut_out(&self, item: &Item) -> Result<RgbImage> {
        let area = item.detection.as_ref().and_then(|detection| detection.value);
        let area = area.ok_or_else(|| lacks(item, "box of the second subject"))?;
        let panel = self.panel(item, 1)?;
        let margin = self.config.detection.as_ref().map_or(0.0, |config| config.margin);
        Ok(area.with_margin(margin, panel.width(), panel.height()).cut(&panel))
    }
}

fn judged(judgement: Judgement, min_score: f64) -> Outcome<Judgement> {
    match judgement.score >= min_score {
        true => Outcome::kept(judgement),
        false => Outcome::rejected(Some(judgement), format!("scores less than {min_score}")),
    }
}

fn detected(area: Option<Area>, picture: &RgbImage, [least, most]: [f64; 2]) -> Outcome<Area> {
    let (width, height) = picture.dimensions();
    match area {
        None => Outcome::rejected(None, "the second subject is not there"),
        Some(area) => match area.check(width, height) {
            Err(reason) => Outcome::rejected(Some(area), format!("the box {reason}")),
            Ok(area) if (least..=most).contains(&area.share(width, height)) => Outcome::kept(area),
            Ok(area) => Outcome::rejected(Some(area), "the box is too small or too large"),
        },
    }
}

/// A loaded model.
struct Maker {
    pipeline: UnoPipeline,
    info: ModelInfo,
}

impl Maker {
    fn open(synthesis: &Synthesis, with_lora: bool) -> Result<Self> {
        let source = synthesis.source(with_lora)?;
        let options = PipelineOptions::suited_to(&synthesis.device);
        let info = ModelInfo::new(&source, &options, &synthesis.device);
        Ok(Self { pipeline: load(&source, &options, &Silent)?, info })
    }

    fn make(&self, request: &Request, path: &Path) -> Result<()> {
        let generated = self.pipeline.generate(request, &Silent)?;
        let (picture, sample) = match (generated.pictures.first(), request.samples.first()) {
            (Some(generated), Some(sample)) => (&generated.picture, sample),
            _ => return Err(Error::request("samples", 0, "one")),
        };
        let size = [picture.width() as usize, picture.height() as usize];
        save(path, picture, &Settings::new(request, sample, size).with_model(&self.info))
    }
}

fn ask_taxonomy(config: &SynthesisConfig) -> Result<()> {
    let judgement = config.judgement.as_ref().ok_or_else(|| {
        let reason = "is not there; write one, or name an endpoint (judgement) to ask for it";
        Error::format(&config.taxonomy, reason)
    })?;
    let endpoint = Endpoint::new(judgement.endpoint.clone())?;
    let classes = config.classes.iter().map(|class| Taxonomy::ask(&endpoint, class, 9, 6));
    let taxonomy = Taxonomy { classes: classes.collect::<Result<_>>()? };
    write_atomically(&config.taxonomy, |file| Ok(serde_json::to_writer_pretty(file, &taxonomy)?))
}

pub(super) fn save_png(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut png = std::io::Cursor::new(Vec::new());
    let name = || path.display().to_string();
    picture.write_to(&mut png, image::ImageFormat::Png).map_err(|e| Error::picture(name(), e.to_string()))?;
    write_atomically(path, |file| file.write_all(png.get_ref()))
}

fn lacks(item: &Item, what: &str) -> Error {
    Error::format(
        format!("items/{}.json", item.id),
        format!("has no {what}; delete the file to make the item anew"),
    )
}

fn missing(what: &str) -> Error {
    Error::request(what, "nothing", "the part of the configuration")
}
