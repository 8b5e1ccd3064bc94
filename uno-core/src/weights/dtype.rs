//! Number formats that tensors are stored in, and their expansion to f32.

use std::fmt;

use burn::tensor::{DType, FloatDType};
use half::{bf16, f16};
use rayon::prelude::*;

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
    /// 64-bit IEEE float.
    F64,
    /// Any other format, which no weight may have (integers, booleans, packed 4-bit types ...).
    Other(safetensors::Dtype),
}

impl StorageDtype {
    /// Bytes per number; `None` for formats that are not read.
    pub fn bytes(self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
            Self::F8E4M3 => Some(1),
            Self::Other(_) => None,
        }
    }

    /// Burn's name for the same format, where burn computes in it.
    pub(crate) fn burn(self) -> Option<DType> {
        match self {
            Self::F64 => Some(DType::F64),
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            Self::F8E4M3 | Self::Other(_) => None,
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

/// Below this many numbers the threads cost more than they bring.
const PARALLEL_CHUNK: usize = 1 << 16;

/// Expands stored little-endian numbers to f32; `bytes` holds a whole number of them.
///
/// Returns `None` for formats that are not read.
pub(crate) fn expand_to_f32(dtype: StorageDtype, bytes: &[u8]) -> Option<Vec<f32>> {
    fn run<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
        let (numbers, _) = bytes.as_chunks::<N>();
        let mut out = vec![0.0f32; numbers.len()];
        out.par_chunks_mut(PARALLEL_CHUNK).zip(numbers.par_chunks(PARALLEL_CHUNK)).for_each(
            |(out, numbers)| {
                for (value, number) in out.iter_mut().zip(numbers) {
                    *value = f(*number);
                }
            },
        );
        out
    }
    Some(match dtype {
        StorageDtype::F64 => run(bytes, |b| f64::from_le_bytes(b) as f32),
        StorageDtype::F32 => run(bytes, f32::from_le_bytes),
        StorageDtype::F16 => run(bytes, |b| f16::from_le_bytes(b).to_f32()),
        StorageDtype::BF16 => run(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        StorageDtype::F8E4M3 => run(bytes, |[code]| E4M3[usize::from(code)]),
        StorageDtype::Other(_) => return None,
    })
}

/// Bytes per number of a dtype that is computed in.
pub(crate) fn float_bytes(dtype: FloatDType) -> usize {
    DType::from(dtype).size()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let cases: [(StorageDtype, &[u8]); 5] = [
            (StorageDtype::F64, &1.5f64.to_le_bytes()),
            (StorageDtype::F32, &1.5f32.to_le_bytes()),
            (StorageDtype::F16, &f16::from_f32(1.5).to_le_bytes()),
            (StorageDtype::BF16, &bf16::from_f32(1.5).to_le_bytes()),
            (StorageDtype::F8E4M3, &[0x3c]),
        ];
        for (dtype, bytes) in cases {
            assert_eq!(expand_to_f32(dtype, bytes).unwrap(), [1.5], "{dtype}");
        }
    }
}
