//! Windows of memory-mapped files, which can be read ahead and let go of.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// Bytes that several tensors share, and the file mapping that they are a part of, if there is one.
#[derive(Clone)]
pub(super) struct Window {
    bytes: bytes::Bytes,
    map: Option<Arc<Mmap>>,
}

struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<bytes::Bytes> for Window {
    fn from(bytes: bytes::Bytes) -> Self {
        Self { bytes, map: None }
    }
}

impl From<Mmap> for Window {
    fn from(map: Mmap) -> Self {
        let map = Arc::new(map);
        Self { bytes: bytes::Bytes::from_owner(Shared(map.clone())), map: Some(map) }
    }
}

impl Window {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn shared(&self) -> &bytes::Bytes {
        &self.bytes
    }

    /// A part of the window; `None` beyond it.
    pub(super) fn slice(&self, range: Range<usize>) -> Option<Self> {
        (range.start <= range.end && range.end <= self.bytes.len())
            .then(|| Self { bytes: self.bytes.slice(range), map: self.map.clone() })
    }

    /// Where the window lies in its mapping.
    #[cfg(unix)]
    fn place(&self) -> Option<(&Mmap, usize)> {
        let map = self.map.as_deref()?;
        Some((map, (self.bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize)?))
    }

    /// Asks the system to read the bytes into its file cache; an answer is not waited for.
    pub(super) fn prefetch(&self) {
        #[cfg(unix)]
        if let Some((map, offset)) = self.place() {
            // Advice that is not taken costs time, not correctness.
            let _ = map.advise_range(memmap2::Advice::WillNeed, offset, self.bytes.len());
        }
    }

    /// Lets go of the pages; they stay in the system's file cache while it has room for them.
    pub(super) fn release(&self) {
        #[cfg(unix)]
        if let Some((map, offset)) = self.place() {
            // SAFETY: the mapping is shared and read-only. Pages dropped from it are read from the file again with the same
            // content; that other tensors may share the first or last page does no harm.
            #[allow(unsafe_code)]
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, self.bytes.len())
            };
        }
    }
}
