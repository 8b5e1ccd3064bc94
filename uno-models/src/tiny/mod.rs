//! uno-tiny: a small model that is really subject-driven, trained from scratch on pictures of a [`world`] made by rules.

pub mod autoencoder;
pub mod base;
pub mod data;
pub mod evaluation;
pub mod fresh;
pub mod guidance;
pub mod names;
pub mod trainer;
pub mod world;
