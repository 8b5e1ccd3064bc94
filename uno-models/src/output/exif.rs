//! Settings in EXIF: the block that pictures carry, and the way back from one, in a JPEG as in a PNG.

use std::io::Read;

/// Largest block that a JPEG holds: one segment, less its length and its name.
pub(super) const MAX_IN_JPEG: usize = 65_535 - 2 - NAME.len();

/// What a segment of a JPEG with EXIF begins with.
const NAME: &[u8] = b"Exif\0\0";

const DESCRIPTION: u16 = 0x010e;
const SOFTWARE: u16 = 0x0131;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

const ASCII: u16 = 2;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

/// A block (TIFF, little-endian, one directory) with ImageDescription, Software and UserComment.
pub(super) fn block(description: &str, software: &str, comment: &str) -> Vec<u8> {
    /// Places the values that do not fit an entry behind the directories.
    fn directory(start: usize, entries: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut heap_start = start + 2 + 12 * entries.len() + 4;
        let (mut table, mut heap) = ((entries.len() as u16).to_le_bytes().to_vec(), Vec::new());
        for (tag, kind, value) in entries {
            table.extend(tag.to_le_bytes());
            table.extend(kind.to_le_bytes());
            let count = if *kind == LONG { value.len() / 4 } else { value.len() };
            table.extend((count as u32).to_le_bytes());
            if value.len() <= 4 {
                table.extend(value);
                table.extend(vec![0; 4 - value.len()]);
            } else {
                table.extend((heap_start as u32).to_le_bytes());
                heap.extend(value);
                heap.extend(vec![0; value.len() % 2]);
                heap_start += value.len() + value.len() % 2;
            }
        }
        table.extend([0; 4]);
        table.extend(heap);
        table
    }
    let text = |s: &str| [s.as_bytes(), b"\0"].concat();
    let user_comment =
        [b"UNICODE\0".to_vec(), comment.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
    let first = |exif_ifd: usize| {
        let entries = [
            (DESCRIPTION, ASCII, text(description)),
            (SOFTWARE, ASCII, text(software)),
            (EXIF_DIRECTORY, LONG, (exif_ifd as u32).to_le_bytes().to_vec()),
        ];
        directory(8, &entries)
    };
    let exif_ifd = 8 + first(0).len();
    let mut block = b"II*\0\x08\0\0\0".to_vec();
    block.extend(first(exif_ifd));
    block.extend(directory(exif_ifd, &[(USER_COMMENT, UNDEFINED, user_comment)]));
    block
}

/// The UserComment of a block, of either byte order (programs that change EXIF may turn it).
pub(super) fn comment(block: &[u8]) -> Option<String> {
    let tiff = match block.get(..4)? {
        b"II*\0" => Tiff { block, is_little: true },
        b"MM\0*" => Tiff { block, is_little: false },
        _ => return None,
    };
    let directory = tiff.find(tiff.long(4)?, EXIF_DIRECTORY)?;
    let entry = tiff.find(tiff.long(directory + 8)?, USER_COMMENT)?;
    let (length, start) = (tiff.long(entry + 4)?, tiff.long(entry + 8)?);
    let (code, text) = block.get(start..start.checked_add(length)?)?.split_at_checked(8)?;
    match code {
        b"UNICODE\0" => {
            let units = text.as_chunks::<2>().0.iter().map(|&pair| match tiff.is_little {
                true => u16::from_le_bytes(pair),
                false => u16::from_be_bytes(pair),
            });
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        b"ASCII\0\0\0" => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    }
}

/// Numbers in a block; `None` for what lies beyond its end.
struct Tiff<'a> {
    block: &'a [u8],
    is_little: bool,
}

impl Tiff<'_> {
    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.block.get(at..)?.first_chunk::<2>()?;
        Some(if self.is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<usize> {
        let bytes = *self.block.get(at..)?.first_chunk::<4>()?;
        Some(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize)
    }

    /// Where the entry of `tag` is, in the directory at `directory`.
    fn find(&self, directory: usize, tag: u16) -> Option<usize> {
        let entries = usize::from(self.short(directory)?);
        (0..entries).map(|i| directory + 2 + 12 * i).find(|at| self.short(*at) == Some(tag))
    }
}

/// The EXIF block of a JPEG, from its segments before the picture; nothing else of it is read.
pub(super) fn of_jpeg(jpeg: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut start = [0; 2];
    jpeg.read_exact(&mut start)?;
    loop {
        let mut marker = [0; 4];
        jpeg.read_exact(&mut marker)?;
        let [0xff, kind, high, low] = marker else { return Ok(None) };
        // The picture begins, or ends.
        if matches!(kind, 0xd9 | 0xda) {
            return Ok(None);
        }
        let length = usize::from(u16::from_be_bytes([high, low])).saturating_sub(2);
        let mut segment = vec![0; length];
        jpeg.read_exact(&mut segment)?;
        if let (0xe1, Some(block)) = (kind, segment.strip_prefix(NAME)) {
            return Ok(Some(block.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let block = block("a \u{732b}", "uno-rs", "{\"prompt\": \"\u{732b}\u{1f916}\"}");
        assert_eq!(comment(&block).unwrap(), "{\"prompt\": \"\u{732b}\u{1f916}\"}");
    }

    #[test]
    fn the_other_byte_order_is_read_too() {
        let entry = |tag: u16, kind: u16, count: u32, value: u32| {
            [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &count.to_be_bytes(), &value.to_be_bytes()].concat()
        };
        let mut block = b"MM\0*\0\0\0\x08\0\x01".to_vec();
        block.extend(entry(EXIF_DIRECTORY, LONG, 1, 26));
        block.extend([0; 4]);
        block.extend([0, 1]);
        block.extend(entry(USER_COMMENT, UNDEFINED, 12, 44));
        block.extend([0; 4]);
        block.extend(b"UNICODE\0\0{\0}");
        assert_eq!(comment(&block).unwrap(), "{}");
    }

    #[test]
    fn blocks_that_are_cut_or_lie_hold_nothing_and_end() {
        let sound = block("a", "b", "{}");
        for length in 0..sound.len() {
            assert_eq!(comment(&sound[..length]), None, "{length} bytes");
        }
        for place in 0..sound.len() {
            let mut changed = sound.clone();
            changed[place] ^= 0xff;
            let _ = comment(&changed);
        }
    }
}
