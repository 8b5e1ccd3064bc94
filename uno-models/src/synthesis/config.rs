//! The file that says all of a synthesis.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::endpoint::EndpointConfig;
use super::item::Stage;
use super::taxonomy::{TEMPLATE, has_companion};
use crate::error::{Error, Result};
use crate::text_file;

/// Most diptychs of one synthesis.
const MAX_COUNT: usize = 10_000_000;
/// Largest configuration that is read; real ones have some kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// A synthesis. Paths are relative to the file; docs/synthesis.md lists the keys.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynthesisConfig {
    /// Folder of the work and its results.
    pub output: PathBuf,
    /// Which random numbers.
    #[serde(default)]
    pub seed: u64,
    /// Diptychs to make.
    pub count: usize,
    /// The taxonomy's file; where there is none and `classes` are named, the endpoint `vlm` is asked for one.
    pub taxonomy: PathBuf,
    /// Classes to ask for subjects of.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Device of all models.
    #[serde(default = "cpu")]
    pub device: String,
    /// The model's files.
    pub model: ModelFiles,
    /// Diptychs.
    #[serde(default)]
    pub diptych: DiptychConfig,
    /// The cut.
    #[serde(default)]
    pub split: SplitConfig,
    /// DINOv2's filter; without it no pair is filtered by it, and the report says so.
    #[serde(default)]
    pub similarity: Option<SimilarityConfig>,
    /// The vision-language model's filter; without it likewise.
    #[serde(default)]
    pub judgement: Option<JudgementConfig>,
    /// How second subjects are found; without it there is no second stage of data.
    #[serde(default)]
    pub detection: Option<DetectionConfig>,
    /// How they are made anew.
    #[serde(default)]
    pub regeneration: RegenerationConfig,
}

fn cpu() -> String {
    "cpu".into()
}

/// Where the base model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFiles {
    /// Its folder.
    pub dir: PathBuf,
    /// LoRA of stage 1, for regeneration.
    #[serde(default)]
    pub lora: Option<PathBuf>,
}

/// How diptychs are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiptychConfig {
    /// Sizes (width, height) of diptychs that lie side by side; one is drawn for each.
    pub side_by_side: Vec<[usize; 2]>,
    /// Sizes of stacked ones.
    pub stacked: Vec<[usize; 2]>,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// Guidance.
    pub guidance: f32,
    /// Words of the prompt; see [`TEMPLATE`]. Without `{companion}` in it the second panel has the subject alone, for stage 1.
    pub template: String,
}

impl Default for DiptychConfig {
    /// The paper's sizes.
    fn default() -> Self {
        Self {
            side_by_side: vec![[1024, 1024], [1024, 768]],
            stacked: vec![[1024, 1024], [768, 1024]],
            num_steps: 25,
            guidance: 4.0,
            template: TEMPLATE.into(),
        }
    }
}

/// Which seams are believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Least step of brightness across the weakest eighth of it, 0 to 255.
    pub min_strength: f32,
    /// Least ratio to the lines beside it.
    pub min_contrast: f32,
    /// Pixels that are left out on each side of it.
    pub margin: u32,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { min_strength: 4.0, min_contrast: 2.0, margin: 2 }
    }
}

/// DINOv2's filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimilarityConfig {
    /// DINOv2's weights or folder.
    pub dinov2: PathBuf,
    /// Least cosine of a pair that is kept.
    pub threshold: f64,
}

/// The vision-language model's filter.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgementConfig {
    /// Where the model is.
    pub endpoint: EndpointConfig,
    /// Least mean score, 0 to 4: the paper keeps 4.0, the data card suggests 3.5.
    #[serde(default = "best")]
    pub min_score: f64,
    /// Questions that are asked at the same time.
    #[serde(default = "workers")]
    pub workers: usize,
}

fn best() -> f64 {
    4.0
}

fn workers() -> usize {
    4
}

/// How second subjects are found: by an endpoint, or from a file of boxes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionConfig {
    /// Where the detector is.
    #[serde(default)]
    pub endpoint: Option<EndpointConfig>,
    /// Boxes by the items' numbers.
    #[serde(default)]
    pub boxes: Option<PathBuf>,
    /// Least and largest share of the picture that a box covers.
    #[serde(default = "shares")]
    pub share: [f64; 2],
    /// Room that is left around a box when it is cut out, as a share of its width and height on each side.
    #[serde(default)]
    pub margin: f64,
    /// Questions that are asked at the same time.
    #[serde(default = "workers")]
    pub workers: usize,
}

fn shares() -> [f64; 2] {
    [0.02, 0.7]
}

/// How second subjects are made anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegenerationConfig {
    /// Width and height.
    pub size: [usize; 2],
    /// Longer side that the cut-out is scaled to; by default what suits the model.
    pub ref_size: Option<u32>,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// Guidance.
    pub guidance: f32,
    /// Words of the prompt: `{name}` and `{scene}` are replaced.
    pub template: String,
}

impl Default for RegenerationConfig {
    fn default() -> Self {
        Self {
            size: [512, 512],
            ref_size: None,
            num_steps: 25,
            guidance: 4.0,
            template: "{name} {scene}".into(),
        }
    }
}

impl SynthesisConfig {
    /// Reads one, TOML or JSON.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; keys that are unknown or missing; values that cannot be worked with.
    pub fn read(path: &Path) -> Result<Self> {
        let text = text_file::read(path, MAX_BYTES, "a configuration")?;
        let is_json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let parsed: Result<Self, String> = if is_json {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            toml::from_str(&text).map_err(|e| e.to_string())
        };
        let mut config = parsed.map_err(|e| {
            Error::format(
                path,
                format!("is no configuration of a synthesis: {e}; docs/synthesis.md lists all keys"),
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in config.paths_mut() {
            *path = folder.join(&path);
        }
        config.validate()?;
        Ok(config)
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let Self { output, taxonomy, model, similarity, detection, .. } = self;
        let dinov2 = similarity.as_mut().map(|similarity| &mut similarity.dinov2);
        let boxes = detection.as_mut().and_then(|detection| detection.boxes.as_mut());
        [output, taxonomy, &mut model.dir]
            .into_iter()
            .chain(&mut model.lora)
            .chain(dinov2)
            .chain(boxes)
            .collect()
    }

    /// That it can be worked with.
    ///
    /// # Errors
    ///
    /// The first value that cannot.
    pub fn validate(&self) -> Result<()> {
        if self.count == 0 || self.count > MAX_COUNT {
            return Err(Error::request("count", self.count, format!("1 to {MAX_COUNT}")));
        }
        for (name, sizes) in
            [("diptych.side_by_side", &self.diptych.side_by_side), ("diptych.stacked", &self.diptych.stacked)]
        {
            if sizes.is_empty() {
                return Err(Error::request(name, "no size", "at least one [width, height]"));
            }
        }
        if let Some(SimilarityConfig { threshold, .. }) = self.similarity
            && !(-1.0..=1.0).contains(&threshold)
        {
            return Err(Error::request("similarity.threshold", threshold, "a cosine, -1 to 1"));
        }
        if let Some(JudgementConfig { min_score, workers, .. }) = self.judgement {
            if !(0.0..=4.0).contains(&min_score) {
                return Err(Error::request("judgement.min_score", min_score, "0 to 4"));
            }
            check_workers("judgement.workers", workers)?;
        }
        if let Some(detection) = &self.detection {
            check_workers("detection.workers", detection.workers)?;
            if detection.endpoint.is_some() == detection.boxes.is_some() {
                return Err(Error::request("detection", "both or neither", "an endpoint or a file of boxes"));
            }
            let [least, most] = detection.share;
            if !(0.0 <= least && least < most && most <= 1.0) {
                return Err(Error::request(
                    "detection.share",
                    format!("[{least}, {most}]"),
                    "0 <= least < most <= 1",
                ));
            }
            if !(0.0..=1.0).contains(&detection.margin) {
                return Err(Error::request("detection.margin", detection.margin, "0 to 1"));
            }
            if !has_companion(&self.diptych.template) {
                let got = format!("no {{companion}}: {}", self.diptych.template);
                return Err(Error::request("diptych.template", got, "one, since it is to be detected"));
            }
            if self.model.lora.is_none() {
                return Err(Error::request(
                    "model.lora",
                    "none",
                    "the LoRA of stage 1, since second subjects are detected",
                ));
            }
        }
        Ok(())
    }

    /// The stages that it asks for.
    pub fn stages(&self) -> Vec<Stage> {
        let asked = |stage: &Stage| match stage {
            Stage::Diptych | Stage::Split => true,
            Stage::Similarity => self.similarity.is_some(),
            Stage::Judgement => self.judgement.is_some(),
            Stage::Detection | Stage::Regeneration => self.detection.is_some(),
            Stage::SecondSimilarity => self.detection.is_some() && self.similarity.is_some(),
            Stage::SecondJudgement => self.detection.is_some() && self.judgement.is_some(),
        };
        Stage::ALL.into_iter().filter(asked).collect()
    }
}

fn check_workers(name: &str, workers: usize) -> Result<()> {
    if workers == 0 || workers > 256 {
        return Err(Error::request(name, workers, "1 to 256"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SynthesisConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("synthesis.toml");
        std::fs::write(&path, text).unwrap();
        SynthesisConfig::read(&path)
    }

    const LEAST: &str = "output = \"out\"\ncount = 3\ntaxonomy = \"t.json\"\nmodel = { dir = \"m\" }\n";

    #[test]
    fn the_stages_are_those_that_have_what_they_need() {
        assert_eq!(read(LEAST).unwrap().stages(), [Stage::Diptych, Stage::Split]);
        let all = "output = \"out\"\ncount = 3\ntaxonomy = \"t.json\"\nmodel = { dir = \"m\", lora = \"l\" }\n\
                   similarity = { dinov2 = \"d\", threshold = 0.5 }\ndetection = { boxes = \"b.json\" }\n\
                   judgement = { endpoint = { url = \"http://x/v1\", model = \"m\" } }\n";
        assert_eq!(read(all).unwrap().stages(), Stage::ALL);
    }

    #[test]
    fn what_cannot_be_worked_with_is_refused_by_name() {
        for (more, wanted) in [
            ("colour = 1", "colour"),
            ("similarity = { dinov2 = \"d\", threshold = 2.0 }", "similarity.threshold"),
            (
                "judgement = { endpoint = { url = \"http://x\", model = \"m\" }, min_score = 5.0 }",
                "judgement.min_score",
            ),
            (
                "judgement = { endpoint = { url = \"http://x\", model = \"m\" }, workers = 0 }",
                "judgement.workers",
            ),
            ("detection = {}", "detection"),
            ("detection = { boxes = \"b\" }", "model.lora"),
            ("detection = { boxes = \"b\", share = [0.5, 0.1] }", "detection.share"),
            ("detection = { boxes = \"b\", margin = -0.1 }", "detection.margin"),
            ("detection = { boxes = \"b\" }\ndiptych = { template = \"{subject}\" }", "diptych.template"),
            ("diptych = { stacked = [] }", "diptych.stacked"),
        ] {
            let error = read(&format!("{LEAST}{more}\n")).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(read(&LEAST.replace("count = 3", "count = 0")).is_err());
    }
}
