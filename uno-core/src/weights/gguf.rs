//! Headers of GGUF files, versions 2 and 3 (ggml's `docs/gguf.md`): names, shapes and places of tensors.
//!
//! Every length in the file is checked against what is left of it before anything is done with it.

use std::collections::{BTreeMap, HashMap};

use super::StorageDtype;
use super::ggml::GgmlType;

/// One tensor: format, dimensions outermost first, and the range of its bytes in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: StorageDtype,
    pub(super) shape: Vec<usize>,
    pub(super) range: std::ops::Range<usize>,
}

/// What a header holds.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, Entry>,
    /// First byte after the header.
    pub(super) data_start: usize,
    /// What it says of the whole, if the file is a part of one.
    pub(super) split: Option<Split>,
}

/// What a part of a split file says of the whole (`gguf-split`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Which part this is, from 0.
    pub(super) number: u64,
    /// How many parts there are.
    pub(super) count: u64,
    /// How many tensors all parts have together.
    pub(super) tensors: Option<u64>,
}

/// Longest name of a tensor or a metadata key; ggml itself allows 64 and 65535 bytes.
const MAX_NAME: usize = 1 << 16;
/// Most bytes of a header; one with a vocabulary of 256,000 tokens and its merges has some 10 MB.
const MAX_HEADER: usize = 100 << 20;
/// Most tensors; FLUX has 780.
const MAX_TENSORS: usize = 1 << 16;
/// Most entries of metadata; files in the wild have some dozens.
const MAX_METADATA: usize = 1 << 16;
/// Most strings of an array: vocabularies and merges of language models reach some 500,000.
const MAX_STRINGS: usize = 1 << 22;
/// Dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;
/// Arrays inside arrays; none are known in the wild.
const MAX_DEPTH: usize = 4;
/// Name before the original shape of a tensor that was flattened for want of dimensions (ComfyUI-GGUF's `convert.py`).
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Whether a file is a GGUF file by its first bytes.
pub(super) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}

/// Reads the header of a whole file. The error is a reason without the file's name.
pub(super) fn read(file: &[u8]) -> Result<Header, String> {
    let mut reader = Reader { file, at: 4 };
    let version = reader.u32("version")?;
    if !(2..=3).contains(&version) {
        return Err(match version.swap_bytes() {
            2..=3 => "is a GGUF file for big-endian machines; wanted little-endian".to_owned(),
            _ => format!("is GGUF version {version}; wanted 2 or 3"),
        });
    }
    let tensor_count = reader.count("number of tensors", 24, MAX_TENSORS)?;
    let metadata_count = reader.count("number of metadata entries", 13, MAX_METADATA)?;
    let mut alignment = 32usize;
    let mut shapes = HashMap::new();
    let mut split = Split::default();
    for _ in 0..metadata_count {
        let key = reader.name("metadata key")?;
        match (key.as_str(), reader.value(0)?) {
            ("general.alignment", Value::Unsigned(n)) if n.is_power_of_two() && n <= 1 << 20 => {
                alignment = n as usize;
            }
            ("general.alignment", other) => {
                return Err(format!("asks for an alignment of {other:?}; wanted a power of two"));
            }
            ("split.no", Value::Unsigned(n)) => split.number = n,
            ("split.count", Value::Unsigned(n)) => split.count = n,
            ("split.tensors.count", Value::Unsigned(n)) => split.tensors = Some(n),
            (key, Value::Shape(shape)) if key.starts_with(ORIGINAL_SHAPE) => {
                shapes.insert(key[ORIGINAL_SHAPE.len()..].to_owned(), shape);
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for _ in 0..tensor_count {
        let name = reader.name("tensor name")?;
        let dims = reader.u32("number of dimensions")?;
        if dims > MAX_DIMS {
            return Err(format!("tensor {name} claims {dims} dimensions; wanted at most {MAX_DIMS}"));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(reader.size("dimension")?);
        }
        // GGUF lists the innermost dimension first.
        shape.reverse();
        let kind = reader.u32("tensor type")?;
        let offset = reader.size("tensor offset")?;
        found.push((name, shape, kind, offset));
    }
    let data_start = reader.at.checked_next_multiple_of(alignment).ok_or("has a header of absurd length")?;
    let mut tensors = BTreeMap::new();
    for (name, mut shape, kind, offset) in found {
        let dtype = dtype(kind).ok_or_else(|| {
            format!("tensor {name} is of ggml type {kind} ({}), which is not read; {READ}", type_name(kind))
        })?;
        let numbers = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let rows_fit = shape.last().is_none_or(|last| last.is_multiple_of(dtype.block_len()));
        let length = numbers.filter(|_| rows_fit).and_then(|n| dtype.bytes_of(n));
        let start = data_start.checked_add(offset).filter(|start| start.is_multiple_of(alignment));
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(format!(
                "tensor {name} claims {dtype} {shape:?} at offset {offset}, which does not fit together"
            ));
        };
        if end > file.len() {
            return Err(format!(
                "is cut short: tensor {name} ends at byte {end}, the file at {}; load it anew",
                file.len()
            ));
        }
        if let Some(original) = shapes.remove(&name) {
            if original.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != numbers {
                return Err(format!("tensor {name} of {shape:?} claims {original:?} as its original shape"));
            }
            shape = original;
        }
        if tensors.insert(name.clone(), Entry { dtype, shape, range: start..end }).is_some() {
            return Err(format!("names tensor {name} twice"));
        }
    }
    // Two tensors in one place are a lie too, which would show only in the picture.
    let mut places: Vec<_> = tensors.iter().filter(|(_, entry)| !entry.range.is_empty()).collect();
    places.sort_by_key(|(_, entry)| entry.range.start);
    for pair in places.windows(2) {
        if let [(first, before), (second, after)] = pair
            && after.range.start < before.range.end
        {
            return Err(format!("has tensors {first} and {second} in the same place; load it anew"));
        }
    }
    // Every tensor is followed by zeros up to the alignment, the last one too, though not in every program's files.
    let end = places.last().map_or(data_start, |(_, entry)| entry.range.end);
    if end.checked_next_multiple_of(alignment).is_some_and(|end| end < file.len()) && !tensors.is_empty() {
        return Err(longer(end, file.len()));
    }
    let split = (split.count > 1).then_some(split);
    Ok(Header { tensors, data_start: data_start.min(file.len()), split })
}

/// That a file of `length` bytes goes on after `end`, where its header says that it is over.
pub(super) fn longer(end: usize, length: usize) -> String {
    format!(
        "is longer than its header says by {} bytes: its tensors end at byte {end}, the file at {length}; something was appended to \
         it, or a download went wrong: load it anew",
        length - end
    )
}

const READ: &str =
    "read are F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K and Q6_K";

fn dtype(kind: u32) -> Option<StorageDtype> {
    match kind {
        0 => Some(StorageDtype::F32),
        1 => Some(StorageDtype::F16),
        28 => Some(StorageDtype::F64),
        30 => Some(StorageDtype::BF16),
        _ => GgmlType::from_id(kind).map(StorageDtype::Ggml),
    }
}

/// Names of types that are met but not read (`ggml.h`).
fn type_name(kind: u32) -> &'static str {
    match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "an integer type",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    }
}

/// The metadata that matters here.
#[derive(Debug)]
enum Value {
    Unsigned(u64),
    Shape(Vec<usize>),
    Other,
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.file.len());
        if end.is_some_and(|end| end > MAX_HEADER) {
            return Err(format!(
                "has a header of more than {MAX_HEADER} bytes, up to its {what}; wanted at most that; load it anew"
            ));
        }
        let end = end.ok_or_else(|| {
            format!(
                "is cut short or lies: its {what} needs {count} bytes at byte {}, and the file has {}; load it anew",
                self.at,
                self.file.len()
            )
        })?;
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        self.take(N, what)?.try_into().map_err(|_| format!("has no {what}"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn size(&mut self, what: &str) -> Result<usize, String> {
        let n = self.u64(what)?;
        usize::try_from(n).map_err(|_| format!("has a {what} of {n}, which is beyond this machine"))
    }

    /// A count of things of which each takes at least `least` bytes: more than the file can hold is a lie, and so is more
    /// than `most`.
    fn count(&mut self, what: &str, least: usize, most: usize) -> Result<usize, String> {
        let n = self.size(what)?;
        if n > most {
            return Err(format!("claims {n} as {what}; wanted at most {most}; load it anew"));
        }
        match n.checked_mul(least) {
            Some(bytes) if bytes <= self.file.len() - self.at => Ok(n),
            _ => Err(format!(
                "is cut short or lies: it claims {n} as {what}, and has {} bytes left; load it anew",
                self.file.len() - self.at
            )),
        }
    }

    fn name(&mut self, what: &str) -> Result<String, String> {
        let length = self.size(what)?;
        if length > MAX_NAME {
            return Err(format!("has a {what} of {length} bytes; wanted at most {MAX_NAME}"));
        }
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("has a {what} that is no UTF-8"))
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        const WHAT: &str = "metadata value";
        let kind = self.u32(WHAT)?;
        match kind {
            8 => {
                let length = self.size(WHAT)?;
                self.take(length, WHAT)?;
                Ok(Value::Other)
            }
            9 => self.array_value(depth),
            4 => Ok(Value::Unsigned(u64::from(self.u32(WHAT)?))),
            10 => Ok(Value::Unsigned(self.u64(WHAT)?)),
            // The numbers of a split file are written as u16 and i32.
            2 => Ok(Value::Unsigned(u64::from(u16::from_le_bytes(self.array(WHAT)?)))),
            5 => {
                let n = i32::from_le_bytes(self.array(WHAT)?);
                Ok(u64::try_from(n).map_or(Value::Other, Value::Unsigned))
            }
            _ => {
                self.take(scalar_bytes(kind)?, WHAT)?;
                Ok(Value::Other)
            }
        }
    }

    fn array_value(&mut self, depth: usize) -> Result<Value, String> {
        const WHAT: &str = "metadata array";
        if depth >= MAX_DEPTH {
            return Err(format!("has arrays in arrays more than {MAX_DEPTH} deep"));
        }
        let kind = self.u32(WHAT)?;
        match kind {
            8 => {
                for _ in 0..self.count(WHAT, 8, MAX_STRINGS)? {
                    let length = self.size(WHAT)?;
                    self.take(length, WHAT)?;
                }
            }
            9 => {
                for _ in 0..self.count(WHAT, 12, MAX_METADATA)? {
                    self.array_value(depth + 1)?;
                }
            }
            // Dimensions are written as i32.
            4 | 5 => {
                let count = self.count(WHAT, 4, MAX_HEADER)?;
                let items = self.take(4 * count, WHAT)?.as_chunks::<4>().0;
                if count <= 8 {
                    let dims = items.iter().map(|d| usize::try_from(i32::from_le_bytes(*d)).ok());
                    return Ok(dims.collect::<Option<_>>().map_or(Value::Other, Value::Shape));
                }
            }
            _ => {
                let size = scalar_bytes(kind)?;
                let count = self.count(WHAT, size, MAX_HEADER)?;
                self.take(count * size, WHAT)?;
            }
        }
        Ok(Value::Other)
    }
}

fn scalar_bytes(kind: u32) -> Result<usize, String> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(format!("has metadata of type {kind}, which GGUF does not know")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A file with one metadata string and one tensor of `kind` and `dims` (innermost first) at `offset`.
    fn file(dims: &[u64], kind: u32, offset: u64, data: usize) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(string("general.architecture"));
        file.extend(8u32.to_le_bytes());
        file.extend(string("flux"));
        file.extend(string("a.weight"));
        file.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| file.extend(d.to_le_bytes()));
        file.extend(kind.to_le_bytes());
        file.extend(offset.to_le_bytes());
        file.resize(file.len().next_multiple_of(32), 0);
        file.resize(file.len() + data, 1);
        file
    }

    #[test]
    fn a_sound_file_is_read_with_its_dimensions_turned_round() {
        let header = read(&file(&[64, 2], 8, 0, 136)).unwrap();
        let tensor = &header.tensors["a.weight"];
        assert_eq!(tensor.shape, [2, 64]);
        assert_eq!(tensor.range, header.data_start..header.data_start + 136);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(&[64, 2], 8, 0, 136);
        for length in 4..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn lies_are_refused() {
        for (dims, kind, offset, words) in [
            (&[64, 2][..], 8, 32, "cut short"),
            (&[64, 2], 8, 1, "does not fit together"),
            (&[64, 2], 8, u64::MAX, "does not fit together"),
            (&[33, 2], 8, 0, "does not fit together"),
            (&[u64::MAX, u64::MAX], 0, 0, "does not fit together"),
            (&[1 << 40], 0, 0, "cut short"),
            (&[1, 1, 1, 1, 1], 0, 0, "5 dimensions"),
            (&[64, 2], 16, 0, "IQ2_XXS"),
            (&[64, 2], 999, 0, "unknown"),
        ] {
            let reason = read(&file(dims, kind, offset, 136)).unwrap_err();
            assert!(reason.contains(words), "{dims:?} {kind} {offset}: {reason}");
        }
    }

    #[test]
    fn any_single_damaged_byte_of_the_header_is_survived() {
        let whole = file(&[64, 2], 8, 0, 136);
        for at in 4..whole.len() - 136 {
            for value in [0, 1, 9, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = read(&damaged);
            }
        }
    }
}
