//! What a caller hears of a download, and how it can stop one.

use super::presets::HubPart;

/// Hears of downloads. Every method has a default, so `&()` is a silent one.
///
/// The methods are called from the thread that called [`discover`](super::discover).
pub trait Progress {
    /// Called once, before anything is asked of the hub, with all parts that are to be downloaded (with their sizes and
    /// licences). Returning `false` refuses, and `discover` fails without having used the network.
    fn plan(&self, parts: &[HubPart]) -> bool {
        let _ = parts;
        true
    }

    /// A file's download begins, or goes on where an earlier one stopped.
    fn starting(&self, part: &HubPart, file: &str, bytes: u64) {
        let _ = (part, file, bytes);
    }

    /// `done` of `total` bytes of `file` are on disk.
    fn advanced(&self, part: &HubPart, file: &str, done: u64, total: u64) {
        let _ = (part, file, done, total);
    }

    /// The file is complete, checked, and in the cache.
    fn finished(&self, part: &HubPart, file: &str) {
        let _ = (part, file);
    }

    /// Something a person may want to know: a retry, a wait for another process.
    fn note(&self, message: &str) {
        let _ = message;
    }

    /// Asked between blocks of data: `true` stops the download. What has arrived is kept, and the next call goes on from it.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}
