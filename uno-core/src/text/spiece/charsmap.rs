//! The character map of a SentencePiece model: what each sequence of characters is replaced by before segmentation.

/// NFKC makes at most 18 characters of one. Without a limit a few characters of a prompt could become gigabytes.
pub(super) const MAX_REPLACEMENT_BYTES: usize = 256;

/// A map from character sequences to their replacements (`precompiled_charsmap`): NFKC and more, compiled to a
/// double-array trie in the form of darts-clone.
#[derive(Clone, Debug, Default)]
pub(in crate::text) struct Charsmap {
    units: Vec<u32>,
    /// Replacements, each ended by a zero byte.
    texts: Vec<u8>,
}

impl Charsmap {
    /// Reads size, trie and replacements; no bytes at all are a map that changes nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes.
    pub(in crate::text) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or("its character map is cut off")?;
        let size = u32::from_le_bytes(*size);
        let cut =
            usize::try_from(size).ok().filter(|size| size % 4 == 0).and_then(|at| rest.split_at_checked(at));
        let Some((trie, texts)) = cut else {
            let length = rest.len();
            return Err(format!("its character map has {length} bytes but claims a table of {size}"));
        };
        let units: Vec<u32> = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let inside =
            |unit: &u32| unit & LEAF == 0 || usize::try_from(unit & !LEAF).is_ok_and(|at| at < texts.len());
        if !units.iter().all(inside) {
            return Err("its character map points outside of itself".into());
        }
        if let Some(long) = texts.split(|byte| *byte == 0).find(|text| text.len() > MAX_REPLACEMENT_BYTES) {
            let length = long.len();
            return Err(format!(
                "its character map has a replacement of {length} bytes, wanted at most {MAX_REPLACEMENT_BYTES}"
            ));
        }
        Ok(Self { units, texts: texts.to_vec() })
    }

    /// Length and replacement of the longest sequence in the map that `text` begins with.
    pub(super) fn longest_match(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let mut at = unit_offset(*self.units.first()?);
        let mut longest = None;
        for (place, byte) in text.iter().enumerate() {
            at ^= u32::from(*byte);
            // A place outside of the table can only come from a damaged one; there is no match there.
            let Some(unit) = self.unit(at).filter(|unit| unit & (LEAF | 0xff) == u32::from(*byte)) else {
                break;
            };
            at ^= unit_offset(unit);
            if unit & HAS_LEAF != 0 {
                longest = Some((place + 1, at));
            }
        }
        let (length, at) = longest?;
        let start = usize::try_from(self.unit(at)? & !LEAF).ok()?;
        let text = self.texts.get(start..)?;
        Some((length, text.split(|byte| *byte == 0).next().unwrap_or_default()))
    }

    fn unit(&self, at: u32) -> Option<u32> {
        self.units.get(usize::try_from(at).ok()?).copied()
    }
}

/// Marks a unit that holds a value instead of a transition.
pub(super) const LEAF: u32 = 1 << 31;
/// Marks a unit after which a sequence may end.
pub(super) const HAS_LEAF: u32 = 1 << 8;

/// Where the transitions after `unit` are, relative to it.
fn unit_offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}
