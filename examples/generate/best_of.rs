//! `--best_of`: several pictures are made, and the one that shows its least convincing subject best is kept.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use image::RgbImage;
use serde::{Deserialize, Serialize};
use uno_models::eval::{EncoderRecord, Found, SubjectFinder, least};
use uno_models::output::write_atomically;
use uno_models::picture::Picture;

/// Why a picture was kept; beside it on disk.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The encoder that judged.
    pub dino: EncoderRecord,
    /// Seed of the picture that was kept.
    pub chosen: u64,
    /// All that were made, in the order of their seeds.
    pub candidates: Vec<Candidate>,
}

/// A picture that was made.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its seed.
    pub seed: u64,
    /// The least of its subjects' scores.
    pub score: f64,
    /// Each subject, in the order of the references.
    pub subjects: Vec<Found>,
}

/// Judges pictures.
pub struct Judge(SubjectFinder);

impl Judge {
    pub fn open(dino: &Path, device: &Device) -> Result<Self> {
        Ok(Self(SubjectFinder::open(dino, device)?))
    }

    /// Which of `pictures` (each with its seed) shows the references best, and why.
    pub fn choose(&self, references: &[Picture], pictures: &[(u64, RgbImage)]) -> Result<(usize, Choice)> {
        let subjects = references
            .iter()
            .map(|reference| Ok(vec![self.0.vector(reference)?]))
            .collect::<Result<Vec<_>>>()?;
        let judge = |(seed, picture): &(u64, RgbImage)| {
            let subjects = self.0.find(&Picture::from_rgb("candidate", picture.clone()), &subjects)?;
            Ok(Candidate { seed: *seed, score: least(&subjects).unwrap_or_default(), subjects })
        };
        let candidates = pictures.iter().map(judge).collect::<Result<Vec<_>>>()?;
        // The first of equals.
        let best =
            (0..candidates.len()).rev().max_by(|&a, &b| candidates[a].score.total_cmp(&candidates[b].score));
        let best = best.context("no pictures to choose from")?;
        let choice = Choice { dino: self.0.record().clone(), chosen: candidates[best].seed, candidates };
        Ok((best, choice))
    }

    /// Whether `picture` was chosen by this judge among these seeds.
    pub fn has_chosen(&self, picture: &Path, seeds: &[u64]) -> bool {
        let choice = std::fs::read(Choice::file(picture)).ok();
        let choice = choice.and_then(|bytes| serde_json::from_slice::<Choice>(&bytes).ok());
        choice.is_some_and(|choice| {
            choice.dino == *self.0.record()
                && choice.candidates.iter().map(|c| c.seed).eq(seeds.iter().copied())
        })
    }
}

impl Choice {
    /// The file of a picture's choice.
    fn file(picture: &Path) -> std::path::PathBuf {
        picture.with_extension("best_of.json")
    }

    /// That a choice can be written without taking the place of a file that is none.
    pub fn check_replaceable(picture: &Path) -> Result<()> {
        let file = Self::file(picture);
        let read = || serde_json::from_slice::<Self>(&std::fs::read(&file).ok()?).ok();
        ensure!(
            file.symlink_metadata().is_err() || read().is_some(),
            "{}: is there already and holds no choice of --best_of, so it is not replaced; move it away, save under another name, or \
             give --overwrite",
            file.display()
        );
        Ok(())
    }

    pub fn write(&self, picture: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        Ok(write_atomically(&Self::file(picture), |file| file.write_all(&json))?)
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scores = |candidate: &Candidate| {
            candidate.subjects.iter().map(|found| format!("{:.3}", found.score)).collect::<Vec<_>>().join(" ")
        };
        write!(
            f,
            "seed {} is kept, its least subject is the best of {}:",
            self.chosen,
            self.candidates.len()
        )?;
        for candidate in &self.candidates {
            write!(f, " {} ({})", candidate.seed, scores(candidate))?;
        }
        Ok(())
    }
}
