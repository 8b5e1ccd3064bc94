//! Downloads of a model, said in the log.

use tracing::info;
use uno_models::checkpoint::{HubPart, Progress};

/// Downloads, said in the log.
pub struct Downloads;

impl Progress for Downloads {
    fn plan(&self, parts: &[HubPart]) -> bool {
        for part in parts {
            info!(
                "download {}: {} bytes of {}; {}, {}",
                part.part, part.bytes, part.repo, part.licence.name, part.licence.url
            );
        }
        true
    }

    fn starting(&self, part: &HubPart, file: &str, bytes: u64) {
        info!("downloading {}/{file} ({bytes} bytes)", part.repo);
    }

    fn finished(&self, _: &HubPart, file: &str) {
        info!("{file} is complete");
    }

    fn note(&self, message: &str) {
        info!("{message}");
    }
}
