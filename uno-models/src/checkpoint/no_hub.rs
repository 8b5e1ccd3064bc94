//! Stands for `hub` where the cargo feature `hub` is off.

use std::path::PathBuf;

use super::cache::HubCache;
use super::environment::Environment;
use super::options::HubOptions;
use super::presets::HubPart;
use super::progress::Progress;
use crate::error::{Error, Result};

/// What `discover` says of it.
pub(super) const AVAILABLE: bool = false;

/// Never made.
pub(super) struct Hub<'a>(std::marker::PhantomData<&'a dyn Progress>);

impl<'a> Hub<'a> {
    pub(super) fn new(_: &HubOptions, _: &Environment, _: HubCache, _: &'a dyn Progress) -> Result<Self> {
        Err(Error::checkpoint("hub", "this program was built without the cargo feature `hub`"))
    }

    pub(super) fn fetch(&mut self, preset: &HubPart) -> Result<PathBuf> {
        Err(Error::checkpoint(preset.part.name(), "this program was built without the cargo feature `hub`"))
    }
}
