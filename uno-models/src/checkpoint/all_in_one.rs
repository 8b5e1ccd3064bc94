//! All-in-one checkpoints: one file that holds a transformer and other parts beside it, as ComfyUI saves models.

use std::path::{Path, PathBuf};

use uno_core::weights::{Checkpoint, layout};

use super::files::Part;

/// The parts that such a file holds, in order; none if it holds less than a transformer and one other. Its header is read, and no
/// tensor. A file that cannot be opened has none here: the error comes when it is opened for its own sake.
pub(super) fn parts_in(path: &Path) -> Vec<Part> {
    let Ok(checkpoint) = Checkpoint::open(path) else { return Vec::new() };
    let has = |arranged: &Checkpoint, key: &str| arranged.tensors().contains_key(key);
    let parts = [
        (Part::Dit, has(&checkpoint.arranged(layout::flux), "img_in.weight")),
        (Part::Autoencoder, has(&checkpoint.arranged(layout::autoencoder), "encoder.conv_in.weight")),
        (Part::T5, has(&checkpoint.arranged(layout::t5), "encoder.final_layer_norm.weight")),
        (Part::Clip, has(&checkpoint.arranged(layout::clip), "text_model.final_layer_norm.weight")),
    ];
    let parts: Vec<Part> =
        parts.into_iter().filter(|(_, is_there)| *is_there).map(|(part, _)| part).collect();
    if parts.first() == Some(&Part::Dit) && parts.len() > 1 { parts } else { Vec::new() }
}

/// Those of `names` in `folder` that are all-in-one checkpoints.
pub(super) fn among(folder: &Path, names: &[String]) -> Vec<PathBuf> {
    names.iter().map(|name| folder.join(name)).filter(|path| !parts_in(path).is_empty()).collect()
}
