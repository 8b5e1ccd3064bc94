//! Directories of a TIFF: tags with their values, classic and BigTIFF, in both byte orders.

/// Most directories that are looked at; scans of books have some hundreds of pages, and the first is the one that counts.
const MAX_DIRECTORIES: usize = 64;

pub(super) const NEW_SUBFILE_TYPE: u16 = 254;
pub(super) const WIDTH: u16 = 256;
pub(super) const HEIGHT: u16 = 257;
pub(super) const BITS: u16 = 258;
pub(super) const COMPRESSION: u16 = 259;
pub(super) const PHOTOMETRIC: u16 = 262;
pub(super) const FILL_ORDER: u16 = 266;
pub(super) const MAKE: u16 = 271;
pub(super) const STRIP_OFFSETS: u16 = 273;
pub(super) const ORIENTATION: u16 = 274;
pub(super) const SAMPLES: u16 = 277;
pub(super) const STRIP_BYTES: u16 = 279;
pub(super) const PLANES: u16 = 284;
pub(super) const PREDICTOR: u16 = 317;
pub(super) const COLOUR_MAP: u16 = 320;
pub(super) const TILE_OFFSETS: u16 = 324;
pub(super) const TILE_BYTES: u16 = 325;
pub(super) const SUB_DIRECTORIES: u16 = 330;
pub(super) const EXTRA_SAMPLES: u16 = 338;
pub(super) const SAMPLE_FORMAT: u16 = 339;
const JPEG_TABLES: u16 = 347;
const SUBSAMPLING: u16 = 530;
pub(super) const DNG_VERSION: u16 = 50706;

/// A file, with how its numbers are written.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    /// Places of 8 bytes in place of 4.
    is_big: bool,
}

/// A tag of a directory.
struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where its values lie in the file.
    at: usize,
}

/// A directory: what is said of one picture.
pub(super) struct Directory<'a> {
    file: File<'a>,
    entries: Vec<Entry>,
    next: u64,
}

impl<'a> File<'a> {
    /// `None` if it does not begin as a TIFF.
    pub(super) fn open(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..2)? {
            b"MM" => true,
            b"II" => false,
            _ => return None,
        };
        let mut file = Self { bytes, big_endian, is_big: false };
        file.is_big = match file.number(2, 2)? {
            42 => false,
            43 => true,
            _ => return None,
        };
        Some(file)
    }

    /// The number of so many bytes at a place.
    fn number(&self, at: usize, size: usize) -> Option<u64> {
        let digits = self.bytes.get(at..at.checked_add(size)?)?;
        let add = |number, digit: &u8| number << 8 | u64::from(*digit);
        Some(if self.big_endian { digits.iter().fold(0, add) } else { digits.iter().rev().fold(0, add) })
    }

    /// The first directory; `None` if the file ends before it.
    pub(super) fn first(&self) -> Option<Directory<'a>> {
        self.directory(if self.is_big { self.number(8, 8)? } else { self.number(4, 4)? })
    }

    fn directory(&self, at: u64) -> Option<Directory<'a>> {
        let (count_size, entry_size, place_size) = if self.is_big { (8, 20, 8) } else { (2, 12, 4) };
        let at = usize::try_from(at).ok()?;
        let count = usize::try_from(self.number(at, count_size)?).ok()?;
        let start = at.checked_add(count_size)?;
        let end = count.checked_mul(entry_size)?.checked_add(start).filter(|end| *end <= self.bytes.len())?;
        let mut entries = Vec::with_capacity(count);
        for entry in (start..end).step_by(entry_size) {
            let (tag, kind) = (self.number(entry, 2)? as u16, self.number(entry + 2, 2)? as u16);
            let count = self.number(entry + 4, place_size)?;
            let inside = entry + 4 + place_size;
            // Values that fit lie in the entry itself.
            let fits = count.checked_mul(size_of(kind) as u64).is_some_and(|size| size <= place_size as u64);
            let at = if fits { inside } else { usize::try_from(self.number(inside, place_size)?).ok()? };
            entries.push(Entry { tag, kind, count, at });
        }
        Some(Directory { file: *self, entries, next: self.number(end, place_size).unwrap_or(0) })
    }

    /// The first directory, those that follow it, and those below them; `None` if there is no first one.
    pub(super) fn directories(&self) -> Option<Vec<Directory<'a>>> {
        let mut found = vec![self.first()?];
        let mut seen = Vec::new();
        let mut i = 0;
        while i < found.len() && found.len() < MAX_DIRECTORIES {
            let mut places = found[i].numbers(SUB_DIRECTORIES, MAX_DIRECTORIES);
            places.push(found[i].next);
            for place in places.into_iter().filter(|place| *place > 0) {
                // They may lead back.
                if !seen.contains(&place) {
                    seen.push(place);
                    found.extend(self.directory(place));
                }
            }
            i += 1;
        }
        Some(found)
    }
}

/// Bytes of a value of a type; 0 for unknown ones.
fn size_of(kind: u16) -> usize {
    match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 0,
    }
}

impl Directory<'_> {
    fn entry(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    /// The numbers of a tag, at most so many; none if it is not there, is no number, or lies outside of the file.
    pub(super) fn numbers(&self, tag: u16, most: usize) -> Vec<u64> {
        let Some(entry) = self.entry(tag).filter(|entry| matches!(entry.kind, 1 | 3 | 4 | 7 | 13 | 16 | 18))
        else {
            return Vec::new();
        };
        let size = size_of(entry.kind);
        let count = usize::try_from(entry.count).unwrap_or(usize::MAX).min(most);
        (0..count)
            .map_while(|i| self.file.number(entry.at.checked_add(i.checked_mul(size)?)?, size))
            .collect()
    }

    /// The first number of a tag.
    pub(super) fn number(&self, tag: u16) -> Option<u64> {
        self.numbers(tag, 1).first().copied()
    }

    /// The place of a tag's first number in the file, and its bytes.
    pub(super) fn place(&self, tag: u16) -> Option<(usize, usize)> {
        self.entry(tag).map(|entry| (entry.at, size_of(entry.kind)))
    }

    /// The text of a tag, up to 64 bytes of it.
    pub(super) fn text(&self, tag: u16) -> String {
        let entry = self.entry(tag).filter(|entry| entry.kind == 2);
        let bytes = entry.and_then(|e| self.file.bytes.get(e.at..)?.get(..(e.count.min(64)) as usize));
        let text = bytes.unwrap_or(&[]).split(|byte| *byte == 0).next().unwrap_or(&[]);
        String::from_utf8_lossy(text).trim().to_owned()
    }

    /// A tag with more values than a sound file has, of those that describe the samples, and how many it has. The decoder takes 32
    /// bytes or more for each.
    pub(super) fn excessive(&self) -> Option<(u16, u64)> {
        let most = |tag| match tag {
            STRIP_OFFSETS | STRIP_BYTES | TILE_OFFSETS | TILE_BYTES => 1 << 20,
            JPEG_TABLES => 1 << 16,
            NEW_SUBFILE_TYPE..=SUB_DIRECTORIES | EXTRA_SAMPLES | SAMPLE_FORMAT | SUBSAMPLING => 1 << 12,
            _ => u64::MAX,
        };
        // The palette of 16 bits; texts; tables of transfer functions and halftones, which are not looked at.
        let is_free = |entry: &&Entry| !matches!(entry.tag, COLOUR_MAP | 301) && entry.kind != 2;
        let entry = self.entries.iter().filter(is_free).find(|entry| entry.count > most(entry.tag))?;
        Some((entry.tag, entry.count))
    }

    pub(super) fn has(&self, tag: u16) -> bool {
        self.entry(tag).is_some()
    }

    /// Width times height.
    pub(super) fn area(&self) -> u64 {
        self.number(WIDTH).unwrap_or(0).saturating_mul(self.number(HEIGHT).unwrap_or(0))
    }

    /// Whether its numbers are written with the upper byte first.
    pub(super) fn is_big_endian(&self) -> bool {
        self.file.big_endian
    }
}
