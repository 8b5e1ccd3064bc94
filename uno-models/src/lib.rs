#![doc = include_str!("../README.md")]

mod error;
pub mod unope;

pub use error::{Error, Result};
