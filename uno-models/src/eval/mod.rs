//! Evaluation: prompt lists that are generated in one go, and scores that others can reproduce.

mod dreambench;
#[cfg(feature = "vision")]
mod evaluation;
#[cfg(feature = "vision")]
mod html;
#[cfg(feature = "vision")]
mod provenance;
#[cfg(feature = "vision")]
mod scores;
#[cfg(feature = "vision")]
mod statistics;
#[cfg(feature = "vision")]
mod subjects;

pub use dreambench::{Entry, Shard, read_prompts};
#[cfg(feature = "vision")]
pub use evaluation::{
    Evaluation, EvaluationEvent, Generate, Made, Means, PromptReport, Report, ScoredPicture,
};
#[cfg(feature = "vision")]
pub use scores::{PictureScores, Protocol, Scorer, ScorerFiles, SubjectScores, Views};
#[cfg(feature = "vision")]
pub use statistics::{Mean, RESAMPLES};
#[cfg(feature = "vision")]
pub use subjects::{EncoderRecord, Found, SubjectFinder, least};
