//! Number formats that tensors are stored in, and their expansion to f32.

use std::fmt;

use burn::tensor::{DType, FloatDType};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::ggml::{self, GgmlType};
use crate::error::{Error, Result};

/// How the numbers of a tensor are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageDtype {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 8-bit float with 4 exponent and 3 mantissa bits, no infinities (`torch.float8_e4m3fn`).
    F8E4M3,
    /// 8-bit float with 5 exponent and 2 mantissa bits (`torch.float8_e5m2`): the upper half of an f16.
    F8E5M2,
    /// 64-bit IEEE float.
    F64,
    /// One of the block formats of GGUF files.
    Ggml(GgmlType),
    /// Any other format, which no weight may have (integers, booleans, packed 4-bit types ...).
    Other(safetensors::Dtype),
}

impl StorageDtype {
    /// Whether tensors of this format can be read.
    pub fn is_read(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Numbers in a block, which is the smallest part that can be read by itself; 1 for plain formats.
    pub fn block_len(self) -> usize {
        match self {
            Self::Ggml(kind) => kind.block_len(),
            _ => 1,
        }
    }

    /// Bytes of `numbers` numbers; `None` for formats that are not read, a part of a block, or more than memory can hold.
    pub fn bytes_of(self, numbers: usize) -> Option<usize> {
        let size = match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::Ggml(kind) if numbers.is_multiple_of(kind.block_len()) => {
                return (numbers / kind.block_len()).checked_mul(kind.block_bytes());
            }
            Self::Ggml(_) | Self::Other(_) => return None,
        };
        numbers.checked_mul(size)
    }

    /// Expands little-endian numbers into `out` on this thread; `false` if the lengths do not fit or the format is not read.
    pub fn expand(self, bytes: &[u8], out: &mut [f32]) -> bool {
        fn run<const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
            for (value, number) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
                *value = f(*number);
            }
        }
        if self.bytes_of(out.len()) != Some(bytes.len()) {
            return false;
        }
        match self {
            Self::F64 => run(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => run(bytes, out, f32::from_le_bytes),
            Self::F16 => expand_f16(bytes, out),
            Self::BF16 => run(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            Self::F8E4M3 => run(bytes, out, |[code]| E4M3[usize::from(code)]),
            Self::F8E5M2 => run(bytes, out, |[code]| f16::from_bits(u16::from(code) << 8).to_f32()),
            Self::Ggml(kind) => return ggml::expand(kind, bytes, out),
            Self::Other(_) => return false,
        }
        true
    }

    /// The numbers in this format, each rounded to the nearest; `None` for formats that are not written or a part of a block.
    pub fn pack(self, numbers: &[f32]) -> Option<Vec<u8>> {
        fn run<const N: usize>(numbers: &[f32], f: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
            numbers.iter().flat_map(|&x| f(x)).collect()
        }
        Some(match self {
            Self::F64 => run(numbers, |x| f64::from(x).to_le_bytes()),
            Self::F32 => run(numbers, f32::to_le_bytes),
            Self::F16 => run(numbers, |x| f16::from_f32(x).to_le_bytes()),
            Self::BF16 => run(numbers, |x| half::bf16::from_f32(x).to_le_bytes()),
            Self::F8E4M3 => run(numbers, |x| [f32_to_e4m3(x)]),
            Self::Ggml(kind) => return ggml::pack(kind, numbers),
            Self::F8E5M2 | Self::Other(_) => return None,
        })
    }

    /// Burn's name for the same format, where burn computes in it.
    pub(crate) fn burn(self) -> Option<DType> {
        match self {
            Self::F64 => Some(DType::F64),
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            Self::F8E4M3 | Self::F8E5M2 | Self::Ggml(_) | Self::Other(_) => None,
        }
    }
}

impl std::str::FromStr for StorageDtype {
    type Err = Error;

    /// `f32`, `f16`, `bf16`, `fp8` (or `e4m3`), or a name of GGUF (`q8_0`, `q4_k` ...), in any case.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "f32" | "fp32" => Ok(Self::F32),
            "f16" | "fp16" => Ok(Self::F16),
            "bf16" => Ok(Self::BF16),
            "fp8" | "e4m3" | "f8_e4m3" | "fp8_e4m3fn" => Ok(Self::F8E4M3),
            _ => text.parse().map(Self::Ggml).map_err(|_| {
                let known =
                    "f32, f16, bf16, fp8, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k or q6_k";
                Error::invalid("storage", text, known)
            }),
        }
    }
}

impl From<safetensors::Dtype> for StorageDtype {
    fn from(dtype: safetensors::Dtype) -> Self {
        match dtype {
            safetensors::Dtype::F64 => Self::F64,
            safetensors::Dtype::F32 => Self::F32,
            safetensors::Dtype::F16 => Self::F16,
            safetensors::Dtype::BF16 => Self::BF16,
            safetensors::Dtype::F8_E4M3 => Self::F8E4M3,
            safetensors::Dtype::F8_E5M2 => Self::F8E5M2,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for StorageDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F64 => f.write_str("F64"),
            Self::F32 => f.write_str("F32"),
            Self::F16 => f.write_str("F16"),
            Self::BF16 => f.write_str("BF16"),
            Self::F8E4M3 => f.write_str("F8_E4M3"),
            Self::F8E5M2 => f.write_str("F8_E5M2"),
            Self::Ggml(kind) => write!(f, "{kind}"),
            Self::Other(dtype) => write!(f, "{dtype:?}"),
        }
    }
}

/// Value of one `float8_e4m3fn` code: sign, 4 exponent bits (bias 7), 3 mantissa bits.
///
/// There are no infinities; `0x7f` and `0xff` are NaN. (OCP "8-bit Floating Point Specification", table 1.)
pub const fn e4m3_to_f32(code: u8) -> f32 {
    let sign = (code as u32 & 0x80) << 24;
    let exponent = (code >> 3) as u32 & 0xf;
    let mantissa = (code & 7) as u32;
    let bits = match (exponent, mantissa) {
        (15, 7) => 0x7fc0_0000,
        // Subnormal: mantissa * 2^-9, which every f32 holds exactly.
        (0, m) => return if sign != 0 { -(m as f32) / 512.0 } else { m as f32 / 512.0 },
        (e, m) => (e + 120) << 23 | m << 20,
    };
    f32::from_bits(sign | bits)
}

/// The `float8_e4m3fn` code nearest to `x`, ties to even, as PyTorch's cast: what rounds beyond 448 becomes NaN.
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 24) & 0x80) as u8;
    let magnitude = x.abs();
    // 464 is the middle between 448 and the next step, 480, which is the code of NaN; the tie goes to the even 448.
    if magnitude.is_nan() || magnitude > 464.0 {
        return sign | 0x7f;
    }
    if magnitude < 0.015_625 {
        // Subnormal: steps of 2^-9. The product is exact, and 8 steps are the smallest normal number's code.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

const E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3_to_f32(code as u8);
        code += 1;
    }
    table
};

/// Half precision through the processor's own conversion, which works on slices.
fn expand_f16(bytes: &[u8], out: &mut [f32]) {
    const AT_ONCE: usize = 64;
    for (out, bytes) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(2 * AT_ONCE)) {
        let mut halves = [f16::ZERO; AT_ONCE];
        for (half, number) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*number);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

/// `e4m3_to_f32(f32_to_e4m3(x))` without branches, so that a loop of it runs many numbers at a time.
pub(crate) fn round_to_e4m3(x: f32) -> f32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let normal = (magnitude + 0x7_ffff + ((magnitude >> 20) & 1)) & 0xfff0_0000;
    // Adding 2^14 to a number below 2^-6 leaves it with steps of 2^-9, rounded to even.
    let subnormal = (f32::from_bits(magnitude) + 16_384.0 - 16_384.0).to_bits();
    let rounded = if magnitude < 0x3c80_0000 { subnormal } else { normal };
    // 0x43e80000 is 464.
    let rounded = if magnitude > 0x43e8_0000 { 0x7fc0_0000 } else { rounded };
    f32::from_bits(rounded | (bits & 0x8000_0000))
}

/// Bytes per number of a dtype that is computed in.
pub(crate) fn float_bytes(dtype: FloatDType) -> usize {
    DType::from(dtype).size()
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_without_branches_is_the_cast_there_and_back() {
        let mut bits = 0x1234_5678u32;
        for _ in 0..2_000_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            let (got, wanted) = (round_to_e4m3(x), e4m3_to_f32(f32_to_e4m3(x)));
            assert!(
                got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan(),
                "{x}: {got} {wanted}"
            );
        }
    }

    #[test]
    fn e4m3_codes_have_the_values_of_the_specification() {
        assert_eq!(e4m3_to_f32(0x00), 0.0);
        assert!(e4m3_to_f32(0x80).is_sign_negative() && e4m3_to_f32(0x80) == 0.0);
        assert_eq!(e4m3_to_f32(0x01), 2f32.powi(-9));
        assert_eq!(e4m3_to_f32(0x07), 7.0 * 2f32.powi(-9));
        assert_eq!(e4m3_to_f32(0x08), 2f32.powi(-6));
        assert_eq!(e4m3_to_f32(0x38), 1.0);
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert_eq!(e4m3_to_f32(0xfe), -448.0);
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn e4m3_codes_grow_monotonically_up_to_the_largest() {
        for code in 0..0x7e {
            assert!(e4m3_to_f32(code) < e4m3_to_f32(code + 1), "{code:#x}");
        }
    }

    #[test]
    fn every_e4m3_value_is_cast_back_to_its_code() {
        for code in 0..=255u8 {
            let value = e4m3_to_f32(code);
            assert!(
                f32_to_e4m3(value) == code || value.is_nan() && f32_to_e4m3(value) & 0x7f == 0x7f,
                "{code:#x}"
            );
        }
    }

    #[test]
    fn casting_to_e4m3_rounds_to_the_nearest_and_ties_to_even() {
        for code in 0..0x7eu8 {
            let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
            let middle = (low + high) / 2.0;
            assert_eq!(
                f32_to_e4m3(middle),
                if code % 2 == 0 { code } else { code + 1 },
                "tie above {code:#x}"
            );
            assert_eq!(f32_to_e4m3(middle.next_down()), code);
            assert_eq!(f32_to_e4m3(middle.next_up()), code + 1);
            assert_eq!(f32_to_e4m3(-middle.next_up()), 0x80 | (code + 1));
        }
        for (x, code) in
            [(448.0, 0x7e), (464.0, 0x7e), (464.1, 0x7f), (f32::INFINITY, 0x7f), (1e-30, 0), (-1e-30, 0x80)]
        {
            assert_eq!(f32_to_e4m3(x), code, "{x}");
        }
    }

    #[test]
    fn every_format_expands_to_the_same_number() {
        let cases: [(StorageDtype, &[u8]); 6] = [
            (StorageDtype::F64, &1.5f64.to_le_bytes()),
            (StorageDtype::F32, &1.5f32.to_le_bytes()),
            (StorageDtype::F16, &f16::from_f32(1.5).to_le_bytes()),
            (StorageDtype::BF16, &bf16::from_f32(1.5).to_le_bytes()),
            (StorageDtype::F8E4M3, &[0x3c]),
            (StorageDtype::F8E5M2, &[0x3e]),
        ];
        for (dtype, bytes) in cases {
            let mut number = [0.0];
            assert!(dtype.expand(bytes, &mut number) && number == [1.5], "{dtype}");
            assert!(!dtype.expand(&bytes[1..], &mut number), "{dtype}");
        }
    }
}
