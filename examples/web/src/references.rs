//! Reference pictures that were uploaded: files named by the SHA-256 of what is in them, for as long as they are of use.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use uno_models::output::write_atomically;
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;

use crate::disk::Trouble;
use crate::error::{ApiError, Result};
use crate::folder::sync;
use crate::job::{Reference, hex, is_hex, now};
use crate::png::encode_png;
use crate::store::{Store, StoreError};

/// Most pixels of an upload: a photo of 64 megapixels takes 200 MB while it is decoded.
const MAX_PIXELS: u64 = 1 << 26;
/// How many are decoded at the same time.
const DECODERS: usize = 2;
/// How long a reference that no job has is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How often those are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// The references of one data folder.
pub struct References {
    folder: PathBuf,
    store: Arc<Store>,
    options: DecodeOptions,
    decoders: Semaphore,
    /// Held while files come or go, so that file and record of a reference are there together.
    files: Mutex<()>,
}

impl References {
    /// Those in the store's folder; uploads of up to so many bytes are taken.
    pub fn new(store: Arc<Store>, max_bytes: u64) -> Self {
        let mut options = DecodeOptions::default();
        (options.max_pixels, options.max_bytes) = (MAX_PIXELS, max_bytes);
        let folder = store.folder().references();
        Self { folder, store, options, decoders: Semaphore::new(DECODERS), files: Mutex::default() }
    }

    /// Takes the bytes of a picture file.
    ///
    /// # Errors
    ///
    /// What is no picture, a damaged one, or one with too many pixels; a disk that cannot be written to.
    pub async fn add(self: &Arc<Self>, bytes: Bytes) -> Result<Reference> {
        if let Some(unwritable) = self.store.disk().unwritable() {
            return Err(unwritable.into());
        }
        let this = self.clone();
        self.decoding(move || this.add_blocking(&bytes)).await
    }

    fn add_blocking(&self, bytes: &[u8]) -> Result<Reference> {
        let picture = Picture::from_bytes("in the body", bytes, &self.options)?;
        let (width, height) = picture.size();
        let reference = Reference { id: hex(&Sha256::digest(bytes)), width, height };
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(&reference.id);
        let is_new = !holds_its_name(&path, &reference.id).unwrap_or(false);
        if is_new {
            self.put_aside(&reference.id)?;
            let written = write_atomically(&path, |file| file.write_all(bytes)).and_then(|()| {
                // What the client is told is here survives a failure of the machine.
                sync(&path).map_err(|source| uno_models::Error::Write { path: path.clone(), source })
            });
            written.map_err(|error| match Trouble::of_write(&error) {
                Some(trouble) => self.store.disk().note(trouble).into(),
                None => ApiError::internal(error),
            })?;
        }
        if let Err(error) = self.store.insert_reference(&reference) {
            // Written just now, under this lock: nobody else has it.
            if is_new {
                remove(&path);
            }
            return Err(error.into());
        }
        Ok(reference)
    }

    /// Moves away what has the name of a reference and is something else.
    fn put_aside(&self, id: &str) -> Result<()> {
        let name = Path::new("references").join(id);
        let moved =
            self.store.folder().put_aside(&[name], "it is not what its name says, and that was uploaded");
        moved.map(drop).map_err(|error| match Trouble::of_io(&error) {
            Some(trouble) => self.store.disk().note(trouble).into(),
            None => ApiError::internal(error),
        })
    }

    /// The record of a reference, which counts as used now.
    ///
    /// # Errors
    ///
    /// 404 if there is none of that name; the name may be anything.
    pub fn find(&self, id: &str) -> Result<Reference> {
        // Only what was made by `add` is ever part of a path.
        let known = if is_hex(id, 64) { self.store.use_reference(id)? } else { None };
        known.ok_or_else(|| ApiError::not_found("no such reference; upload it again"))
    }

    /// The file of a reference that [`find`](Self::find) or [`add`](Self::add) has given.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Reads a reference that was found.
    ///
    /// # Errors
    ///
    /// A file that is gone or damaged.
    pub fn open(&self, reference: &Reference) -> uno_models::Result<Picture> {
        Picture::open(self.path(&reference.id), &self.options)
    }

    /// A reference as PNG, upright; or, with a longer side, as the model sees it.
    ///
    /// # Errors
    ///
    /// One so elongated that nothing is left of it.
    pub async fn png(self: &Arc<Self>, reference: Reference, long_side: Option<u32>) -> Result<Vec<u8>> {
        let this = self.clone();
        self.decoding(move || {
            let picture = this.open(&reference).map_err(ApiError::internal)?;
            match long_side {
                None => encode_png(&picture.to_rgb()).map_err(ApiError::internal),
                Some(side) => encode_png(&preprocess_ref(&picture, side)?).map_err(ApiError::internal),
            }
        })
        .await
    }

    /// Runs `f` on a thread that may block, at most a few at the same time.
    async fn decoding<T: Send + 'static>(&self, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let _permit = self.decoders.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(f).await.map_err(ApiError::internal)?
    }

    /// Width and height of a file of this name whose content is that of its name; for what no record says.
    ///
    /// # Errors
    ///
    /// There is none, it holds something else, or is no picture.
    pub fn size_of(&self, id: &str) -> anyhow::Result<(u32, u32)> {
        let path = self.path(id);
        ensure!(
            is_hex(id, 64) && holds_its_name(&path, id)?,
            "{}: is not what its name says",
            path.display()
        );
        Ok(Picture::open(&path, &self.options)?.size())
    }

    /// Removes references that were of no use for a day: uploads that no job has, and no picture that is found in the folder.
    pub fn sweep(&self) {
        self.sweep_before(now() - KEPT.as_secs_f64());
    }

    pub fn sweep_before(&self, before: f64) {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        let mut forget = || {
            let wanted = self.store.strays().wanted.clone();
            for id in self.store.idle_references(before)?.iter().filter(|id| !wanted.contains(*id)) {
                if self.store.forget_reference(id, before)? {
                    removed += usize::from(self.remove_own(id));
                }
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = forget() {
            warn!("references cannot be looked through: {error}");
        }
        if removed > 0 {
            info!(count = removed, "references that no job has were removed");
        }
    }

    /// Removes the file of a reference, if it holds what was uploaded; whether it is gone.
    fn remove_own(&self, id: &str) -> bool {
        let path = self.path(id);
        match holds_its_name(&path, id) {
            Ok(true) => remove(&path),
            Ok(false) => {
                warn!("{}: left as it is, since it is not what was uploaded", path.display());
                false
            }
            Err(error) => {
                warn!("{} cannot be read: {error}", path.display());
                false
            }
        }
    }
}

/// Whether a file is named by the SHA-256 of what is in it, as references are.
fn holds_its_name(path: &Path, id: &str) -> std::io::Result<bool> {
    let mut hash = Sha256::new();
    std::io::copy(&mut fs::File::open(path)?, &mut hash)?;
    Ok(hex(&hash.finalize()) == id && path.symlink_metadata()?.is_file())
}

/// Removes references that are of no use any more, for as long as the program runs.
pub async fn sweep_for_ever(references: Arc<References>) {
    loop {
        let this = references.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || this.sweep()).await {
            warn!("references cannot be looked through: {error}");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Whether the file is gone.
fn remove(path: &Path) -> bool {
    let removed = fs::remove_file(path);
    if let Err(error) = &removed {
        warn!("{} cannot be removed: {error}", path.display());
    }
    removed.is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use image::RgbImage;

    use super::*;

    fn references(folder: &Path) -> (Arc<Store>, Arc<References>) {
        let store = Arc::new(Store::open(folder, false).unwrap());
        (store.clone(), Arc::new(References::new(store, 1 << 20)))
    }

    fn png(width: u32, height: u32) -> Bytes {
        encode_png(&RgbImage::from_pixel(width, height, image::Rgb([1, 2, 3]))).unwrap().into()
    }

    #[tokio::test]
    async fn the_same_file_has_the_same_name_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let (_, references) = references(folder.path());
        let one = references.add(png(40, 30)).await.unwrap();
        assert_eq!((one.width, one.height), (40, 30));
        assert_eq!(references.add(png(40, 30)).await.unwrap(), one);
        assert_ne!(references.add(png(40, 31)).await.unwrap().id, one.id);
        assert_eq!(references.find(&one.id).unwrap(), one);
        let whole = image::load_from_memory(&references.png(one.clone(), None).await.unwrap()).unwrap();
        assert_eq!((whole.width(), whole.height()), (40, 30));
        let seen = image::load_from_memory(&references.png(one, Some(64)).await.unwrap()).unwrap();
        assert_eq!((seen.width(), seen.height()), (64, 48));
    }

    #[tokio::test]
    async fn names_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let (_, references) = references(folder.path());
        let one = references.add(png(16, 16)).await.unwrap();
        let upper = one.id.to_uppercase();
        let deeper = format!("{}/", one.id);
        for id in [
            "",
            ".",
            "..",
            "../uno-web.sqlite",
            "/etc/passwd",
            "%2e%2e",
            "a\0b",
            &upper,
            &deeper,
            &one.id[1..],
        ] {
            assert_eq!(references.find(id).unwrap_err().status(), StatusCode::NOT_FOUND, "{id:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_picture_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (_, references) = references(folder.path());
        let cut = png(40, 30).slice(..60);
        let mut jpeg = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
        RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8; 3])).write_with_encoder(encoder).unwrap();
        jpeg.truncate(jpeg.len() * 3 / 4);
        for (bytes, words) in [
            (Bytes::new(), "empty"),
            (Bytes::from_static(b"<svg/>"), "SVG"),
            (Bytes::from_static(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "HEIC"),
            (cut, "damaged"),
            (jpeg.into(), "cut short"),
        ] {
            let error = references.add(bytes).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            assert!(error.message().contains(words), "{}", error.message());
        }
        assert!(!folder.path().join("references").exists());
    }

    #[tokio::test]
    async fn elongated_pictures_are_refused_where_they_are_scaled() {
        let folder = tempfile::tempdir().unwrap();
        let (_, references) = references(folder.path());
        let thin = references.add(png(1000, 1)).await.unwrap();
        let error = references.png(thin, Some(128)).await.unwrap_err();
        assert!(error.message().contains("elongated"), "{}", error.message());
    }

    #[tokio::test]
    async fn only_what_was_uploaded_and_is_of_no_use_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (store, references) = references(folder.path());
        let (idle, changed) =
            (references.add(png(16, 16)).await.unwrap(), references.add(png(16, 17)).await.unwrap());
        fs::write(references.path(&changed.id), "something else by now").unwrap();
        let others = ["thesis.pdf".to_owned(), "half-written".to_owned(), "0".repeat(64)];
        for name in &others {
            fs::write(references.path(name), "mine").unwrap();
        }
        references.sweep();
        assert!(references.open(&idle).is_ok(), "it is of today");
        references.sweep_before(f64::MAX);
        assert!(!references.path(&idle.id).exists());
        assert_eq!(store.use_reference(&idle.id).unwrap(), None);
        assert!(references.path(&changed.id).exists(), "it is not what was uploaded");
        assert_eq!(references.add(png(16, 17)).await.unwrap(), changed);
        assert!(references.open(&changed).is_ok(), "what was in its place is in the quarantine");
        for name in &others {
            assert_eq!(fs::read_to_string(references.path(name)).unwrap(), "mine");
        }
    }

    #[tokio::test]
    async fn nothing_is_taken_while_the_disk_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (store, references) = references(folder.path());
        let one = references.add(png(16, 16)).await.unwrap();
        store.disk().note(Trouble::Full);
        let error = references.add(png(16, 17)).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::INSUFFICIENT_STORAGE);
        assert!(error.message().contains(" free"), "{}", error.message());
        assert_eq!(references.find(&one.id).unwrap(), one, "what is there can be read");
    }
}
