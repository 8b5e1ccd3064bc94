//! Writing checkpoint files tensor by tensor, as safetensors or GGUF; a file appears under its name only when it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::StorageDtype;
use crate::error::{Error, Result};

/// What the header of a file says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// Its name.
    pub name: String,
    /// Its format.
    pub dtype: StorageDtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorHeader {
    fn byte_len(&self) -> Option<usize> {
        let numbers = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let whole_blocks = self.shape.last().is_none_or(|d| d.is_multiple_of(self.dtype.block_len()));
        self.dtype.bytes_of(numbers).filter(|_| whole_blocks)
    }
}

/// Bytes that GGUF aligns tensors to.
const ALIGNMENT: usize = 32;

/// Writes a checkpoint to `path`: GGUF if its name ends so, else safetensors. `bytes(i)` gives the data of tensor i, in order.
///
/// `metadata` are texts for the header. The data goes to a temporary file beside `path`, which takes its name at the end.
///
/// # Errors
///
/// A name twice, a format that the file cannot hold, data of another length than its header says, and what `bytes` or the
/// disk return. `path` is then as before.
pub fn write(
    path: &Path,
    tensors: &[TensorHeader],
    metadata: &BTreeMap<String, String>,
    mut bytes: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut lengths = Vec::new();
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let length = tensor.byte_len().filter(|_| names.insert(&tensor.name)).ok_or_else(|| {
            let TensorHeader { name, dtype, shape } = tensor;
            Error::format(
                path,
                format!("cannot hold {name} as {dtype} {shape:?}: twice the same name, or no whole blocks"),
            )
        })?;
        lengths.push(length);
    }
    let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let (header, alignment) = if is_gguf {
        (gguf_header(path, tensors, &lengths, metadata)?, ALIGNMENT)
    } else {
        (safetensors_header(path, tensors, &lengths, metadata)?, 1)
    };
    let temporary = Temporary::beside(path);
    let io = |e| Error::write(path)(e);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary.0).map_err(io)?);
    file.write_all(&header).map_err(io)?;
    for (i, &length) in lengths.iter().enumerate() {
        let data = bytes(i)?;
        if data.len() != length {
            let (got, name) = (data.len(), &tensors[i].name);
            return Err(Error::format(
                path,
                format!("{name}: {got} bytes were given, its header says {length}"),
            ));
        }
        file.write_all(&data).map_err(io)?;
        let padding = length.next_multiple_of(alignment) - length;
        file.write_all(&[0; ALIGNMENT][..padding]).map_err(io)?;
    }
    file.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
    std::fs::rename(&temporary.0, path).map_err(io)
}

/// A file that is removed if it is still there in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self(path.with_file_name(format!(".{name}.{}.part", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the renaming there is nothing left to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn safetensors_header(
    path: &Path,
    tensors: &[TensorHeader],
    lengths: &[usize],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut start = 0usize;
    for (tensor, length) in tensors.iter().zip(lengths) {
        let dtype = match tensor.dtype {
            StorageDtype::Ggml(kind) => {
                let reason = format!("safetensors has no {kind}; name the file *.gguf");
                return Err(Error::format(path, reason));
            }
            dtype => dtype.to_string(),
        };
        let end = start + length;
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

fn gguf_header(
    path: &Path,
    tensors: &[TensorHeader],
    lengths: &[usize],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    let string = |header: &mut Vec<u8>, text: &str| {
        header.extend((text.len() as u64).to_le_bytes());
        header.extend(text.as_bytes());
    };
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        string(&mut header, key);
        header.extend(8u32.to_le_bytes());
        string(&mut header, value);
    }
    let mut offset = 0usize;
    for (tensor, length) in tensors.iter().zip(lengths) {
        let kind: u32 = match tensor.dtype {
            StorageDtype::F32 => 0,
            StorageDtype::F16 => 1,
            StorageDtype::F64 => 28,
            StorageDtype::BF16 => 30,
            StorageDtype::Ggml(kind) => kind.id(),
            other => {
                return Err(Error::format(path, format!("GGUF has no {other}; name the file *.safetensors")));
            }
        };
        string(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|d| header.extend((*d as u64).to_le_bytes()));
        header.extend(kind.to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += length.next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Checkpoint;
    use crate::weights::ggml::GgmlType;

    fn header(name: &str, dtype: StorageDtype, shape: &[usize]) -> TensorHeader {
        TensorHeader { name: name.into(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn what_is_written_is_read_again_from_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<f32> = (0..64).map(|i| i as f32 / 4.0 - 8.0).collect();
        for (name, dtypes) in [
            ("a.safetensors", [StorageDtype::F32, StorageDtype::F8E4M3]),
            ("a.gguf", [StorageDtype::BF16, StorageDtype::Ggml(GgmlType::Q8_0)]),
        ] {
            let path = folder.path().join(name);
            let tensors = [header("x", dtypes[0], &[3]), header("y", dtypes[1], &[2, 32])];
            let data =
                |i: usize| Ok(tensors[i].dtype.pack(if i == 0 { &numbers[..3] } else { &numbers }).unwrap());
            write(&path, &tensors, &BTreeMap::from([("general.name".into(), "z".into())]), data).unwrap();
            let read = Checkpoint::open(&path).unwrap();
            assert_eq!(read.tensors()["x"].to_f32(), [-8., -7.75, -7.5]);
            assert_eq!(read.tensors()["y"].shape(), [2, 32]);
            let expanded = read.tensors()["y"].to_f32();
            assert!(expanded.iter().zip(&numbers).all(|(a, b)| (a - b).abs() < 0.3), "{expanded:?}");
        }
    }

    #[test]
    fn a_failure_leaves_the_file_that_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, "before").unwrap();
        let one = [header("x", StorageDtype::F32, &[3])];
        let none = BTreeMap::new();
        assert!(write(&path, &one, &none, |_| Ok(vec![0; 11])).is_err());
        assert!(write(&path, &[one[0].clone(), one[0].clone()], &none, |_| Ok(vec![0; 12])).is_err());
        let blocks = [header("x", StorageDtype::Ggml(GgmlType::Q8_0), &[32])];
        assert!(write(&path, &blocks, &none, |_| Ok(vec![0; 34])).unwrap_err().to_string().contains("gguf"));
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
