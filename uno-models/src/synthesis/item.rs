//! One pair on its way: a file that grows with each stage, so that work goes on where it was stopped.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::detection::Area;
use super::judgement::Judgement;
use super::seam::Seam;
use super::taxonomy::DiptychPlan;
use crate::error::{Error, Result};
use crate::output::write_atomically;

/// The stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Two panels in one picture, by the text-to-image base.
    Diptych,
    /// Cut at the seam.
    Split,
    /// DINOv2: are the panels alike?
    Similarity,
    /// A vision-language model: is it the same subject?
    Judgement,
    /// Where the second subject is.
    Detection,
    /// The second subject in another scene, by the stage-1 model.
    Regeneration,
    /// DINOv2: is it like the cut-out?
    SecondSimilarity,
    /// A vision-language model: is the second subject the same?
    SecondJudgement,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Diptych,
        Self::Split,
        Self::Similarity,
        Self::Judgement,
        Self::Detection,
        Self::Regeneration,
        Self::SecondSimilarity,
        Self::SecondJudgement,
    ];
    /// Those that make pairs with one reference.
    pub const FIRST: [Self; 4] = [Self::Diptych, Self::Split, Self::Similarity, Self::Judgement];

    /// Its name in files and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diptych => "diptych",
            Self::Split => "split",
            Self::Similarity => "similarity",
            Self::Judgement => "judgement",
            Self::Detection => "detection",
            Self::Regeneration => "regeneration",
            Self::SecondSimilarity => "second_similarity",
            Self::SecondJudgement => "second_judgement",
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let stage = Self::ALL.into_iter().find(|stage| stage.name() == s);
        let names = Self::ALL.map(Self::name).join(", ");
        stage.ok_or_else(|| Error::request("stage", s, names))
    }
}

/// What a stage gave for an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome<T> {
    /// What it found or made; `None` where there was nothing to find.
    pub value: Option<T>,
    /// Why the item goes no further; `None` if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

impl<T> Outcome<T> {
    /// The item goes on.
    pub fn kept(value: T) -> Self {
        Self { value: Some(value), rejected: None }
    }

    /// The item ends here.
    pub fn rejected(value: Option<T>, reason: impl Into<String>) -> Self {
        Self { value, rejected: Some(reason.into()) }
    }
}

/// The panels of a diptych.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Panels {
    /// Where they meet.
    pub seam: Seam,
    /// Their files below the work's folder: the first, which becomes the reference, and the second, the target.
    pub files: [PathBuf; 2],
}

/// A pair on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its number, six digits.
    pub id: String,
    /// What is to be made.
    pub plan: DiptychPlan,
    /// The diptych's file below the work's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diptych: Option<Outcome<PathBuf>>,
    /// The panels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Outcome<Panels>>,
    /// DINOv2's cosine of the panels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Outcome<f64>>,
    /// What the vision-language model says of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Outcome<Judgement>>,
    /// The second subject in the second panel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Outcome<Area>>,
    /// The second subject in another scene: its file below the work's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regeneration: Option<Outcome<PathBuf>>,
    /// DINOv2's cosine of the cut-out and the regenerated picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_similarity: Option<Outcome<f64>>,
    /// What the vision-language model says of these two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_judgement: Option<Outcome<Judgement>>,
}

/// How far an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A stage is still to come.
    Waits(Stage),
    /// It was rejected.
    Rejected(Stage, String),
    /// All stages kept it.
    Done,
}

impl Item {
    /// A new one.
    pub fn new(index: usize, plan: DiptychPlan) -> Self {
        Self {
            id: format!("{index:06}"),
            plan,
            diptych: None,
            split: None,
            similarity: None,
            judgement: None,
            detection: None,
            regeneration: None,
            second_similarity: None,
            second_judgement: None,
        }
    }

    /// How a stage ended: `None` if it is still to come, else why the item was rejected, if it was.
    fn outcome(&self, stage: Stage) -> Option<Option<&str>> {
        fn of<T>(outcome: Option<&Outcome<T>>) -> Option<Option<&str>> {
            outcome.map(|outcome| outcome.rejected.as_deref())
        }
        match stage {
            Stage::Diptych => of(self.diptych.as_ref()),
            Stage::Split => of(self.split.as_ref()),
            Stage::Similarity => of(self.similarity.as_ref()),
            Stage::Judgement => of(self.judgement.as_ref()),
            Stage::Detection => of(self.detection.as_ref()),
            Stage::Regeneration => of(self.regeneration.as_ref()),
            Stage::SecondSimilarity => of(self.second_similarity.as_ref()),
            Stage::SecondJudgement => of(self.second_judgement.as_ref()),
        }
    }

    /// How far it is on the way of `stages`.
    pub fn status(&self, stages: &[Stage]) -> Status {
        for &stage in stages {
            match self.outcome(stage) {
                None => return Status::Waits(stage),
                Some(Some(reason)) => return Status::Rejected(stage, reason.to_owned()),
                Some(None) => {}
            }
        }
        Status::Done
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::read(path))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::format(path, format!("is no item of a synthesis: {e}; delete it to make it anew"))
        })
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| Ok(serde_json::to_writer_pretty(file, self)?))
    }
}
