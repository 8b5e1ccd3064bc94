//! Weight files written byte by byte, so that any part of them can lie. Included by the programs that test damaged files.
#![allow(dead_code)] // each test program uses a part of it

use safetensors::Dtype;

use crate::common::program::{RawTensor, Tensors};

/// A safetensors file of this header, whatever it says, and this data.
pub fn safetensors(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// A tensor of f32 numbers.
pub fn f32s(shape: &[usize], numbers: impl IntoIterator<Item = f32>) -> RawTensor {
    let data: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
    RawTensor { dtype: Dtype::F32, shape: shape.to_vec(), data }
}

/// A matrix of small numbers that are not all the same.
pub fn matrix(rows: usize, columns: usize) -> RawTensor {
    f32s(&[rows, columns], (0..rows * columns).map(|i| (i % 13) as f32 / 100.0 - 0.06))
}

/// A tensor of another format, zero in all its bytes.
pub fn zeros(dtype: Dtype, shape: &[usize]) -> RawTensor {
    let bits: usize = shape.iter().product::<usize>() * dtype.bitsize();
    RawTensor { dtype, shape: shape.to_vec(), data: vec![0; bits / 8] }
}

/// The tensors of a file by name.
pub fn tensors<const N: usize>(entries: [(&str, RawTensor); N]) -> Tensors {
    entries.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

/// The tensors of a sound safetensors file.
pub fn read_tensors(bytes: &[u8]) -> Tensors {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let tensor = |view: safetensors::tensor::TensorView<'_>| RawTensor {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        data: view.data().to_vec(),
    };
    file.iter().map(|(name, view)| (name.to_owned(), tensor(view))).collect()
}

/// A string as GGUF writes it.
pub fn gguf_string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// One tensor as a GGUF header describes it, dimensions innermost first.
#[derive(Clone)]
pub struct GgufTensor {
    pub name: Vec<u8>,
    /// What the header says of the name's length; the truth if it says nothing else.
    pub name_len: Option<u64>,
    pub dims: Vec<u64>,
    /// What the header says of the number of dimensions.
    pub dim_count: Option<u32>,
    pub kind: u32,
    pub offset: u64,
}

impl GgufTensor {
    pub fn new(name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            name_len: None,
            dims: dims.to_vec(),
            dim_count: None,
            kind,
            offset,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.name_len.unwrap_or(self.name.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&self.name);
        bytes.extend(self.dim_count.unwrap_or(self.dims.len() as u32).to_le_bytes());
        self.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.offset.to_le_bytes());
        bytes
    }
}

/// A GGUF file in parts, each of which may lie.
#[derive(Clone)]
pub struct Gguf {
    pub magic: [u8; 4],
    pub version: u32,
    /// What the header says of the number of tensors.
    pub tensor_count: Option<u64>,
    /// What the header says of the number of metadata entries.
    pub metadata_count: Option<u64>,
    /// Each entry as its bytes: key, type, value.
    pub metadata: Vec<Vec<u8>>,
    pub tensors: Vec<GgufTensor>,
    pub data: Vec<u8>,
}

/// One metadata entry: key, type, value.
pub fn gguf_entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&gguf_string(key)[..], &kind.to_le_bytes(), value].concat()
}

/// Numbers of the types of metadata and tensors.
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U32: u32 = 4;
pub const U64: u32 = 10;
pub const F32: u32 = 0;
pub const Q8_0: u32 = 8;

impl Gguf {
    /// A sound file of a vector in f32 (32 numbers) and a matrix in Q8_0 (2 rows of 64).
    pub fn sound() -> Self {
        // Q8_0: an f16 scale of 1 and 32 numbers from -16 to 15.
        let block: Vec<u8> = [0x00, 0x3c].into_iter().chain((0..32).map(|i| (i - 16) as u8)).collect();
        let mut data: Vec<u8> = (0..32).flat_map(|i| (i as f32).to_le_bytes()).collect();
        data.extend(block.repeat(4));
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            metadata_count: None,
            metadata: vec![
                gguf_entry("general.architecture", STRING, &gguf_string("flux")),
                gguf_entry("general.file_type", U32, &7u32.to_le_bytes()),
            ],
            tensors: vec![
                GgufTensor::new("a.bias", &[32], F32, 0),
                GgufTensor::new("a.weight", &[64, 2], Q8_0, 128),
            ],
            data,
        }
    }

    /// The bytes before the data, aligned.
    pub fn header(&self) -> Vec<u8> {
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.metadata_count.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        self.metadata.iter().for_each(|entry| file.extend(entry));
        self.tensors.iter().for_each(|tensor| file.extend(tensor.bytes()));
        file.resize(file.len().next_multiple_of(32), 0);
        file
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.header(), self.data.clone()].concat()
    }
}
