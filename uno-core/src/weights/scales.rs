//! Scales that lie beside 8-bit weights under the names found in the wild.
//!
//! ComfyUI's "scaled fp8" keeps `X.scale_weight` beside `X.weight` (and a marker `scaled_fp8`); newer files and NVIDIA's call it
//! `X.weight_scale`, with one number for the matrix or one per row. The weight is `stored * scale`. Scales of activations
//! (`scale_input`, `input_scale`) only matter to kernels that compute in 8 bits, and are left out.
//!
//! What belongs to weights that are not read (integers, scales of blocks) stays as it is: [`foreign`](super::foreign) names it where
//! such weights are wanted, and not where a file only holds them beside others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::Dtype;

use super::{StorageDtype, StoredTensor};

/// Names after the layer's own, of a scale of its weight.
pub(super) const WEIGHT_SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];
/// Names after the layer's own, of a scale of its input.
const INPUT_SCALES: [&str; 2] = [".scale_input", ".input_scale"];
/// A marker of the whole file.
const MARKER: &str = "scaled_fp8";
/// A description of one layer's format, JSON in bytes.
pub(super) const DESCRIPTION: &str = ".comfy_quant";
/// Most bytes of one; those in the wild have some dozens.
const MAX_DESCRIPTION: usize = 4096;
/// Formats in such descriptions that are read.
const READ: [&str; 2] = ["float8_e4m3fn", "float8_e5m2"];

/// Joins scales with the weights that they belong to. The error is a reason without the file's name.
pub(super) fn apply(
    mut tensors: BTreeMap<String, StoredTensor>,
) -> Result<BTreeMap<String, StoredTensor>, String> {
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in names {
        if let Some(layer) = name.strip_suffix(DESCRIPTION) {
            let is_read =
                tensors.get(&name).and_then(description).is_some_and(|d| READ.iter().any(|r| d.contains(r)));
            if is_read && !is_foreign(&tensors, layer) {
                tensors.remove(&name);
            }
        } else if name == MARKER || name.ends_with(&format!(".{MARKER}")) {
            tensors.remove(&name);
        } else if let Some(layer) = INPUT_SCALES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
            // Only beside a weight; else the name is of something unknown, and the loader says so.
            if tensors.contains_key(&format!("{layer}.weight")) {
                tensors.remove(&name);
            }
        } else if let Some(layer) = WEIGHT_SCALES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
            if is_foreign(&tensors, layer) {
                continue;
            }
            let weight = format!("{layer}.weight");
            let Some((tensor, scale)) = tensors.get(&weight).zip(tensors.get(&name)) else { continue };
            // One number, or a column of one per row.
            let rows = tensor.shape().first().copied().unwrap_or(0);
            let small = scale.len() == 1 || scale.len() == rows && scale.shape().first() == Some(&rows);
            if !scale.is_read() {
                return Err(format!("holds {name} of format {} for {weight}; wanted F32", scale.dtype()));
            }
            let numbers = if small { scale.to_f32() } else { Vec::new() };
            if !matches!(tensor.dtype(), StorageDtype::F8E4M3 | StorageDtype::F8E5M2) {
                return Err(format!("holds {name}, a scale for 8-bit weights, but {weight} is {tensor}"));
            }
            if numbers.is_empty() && tensor.is_header_only() {
                tensors.remove(&name);
                continue;
            }
            if let Some(wrong) = numbers.iter().find(|x| !x.is_finite() || **x <= 0.0) {
                return Err(format!("holds {wrong} in {name}; wanted a positive number; load the file anew"));
            }
            let Some(scaled) = tensor.scaled(&numbers) else {
                return Err(format!(
                    "holds {name} of {:?} for {weight} of {:?}; wanted one number, or one per row",
                    scale.shape(),
                    tensor.shape()
                ));
            };
            tensors.insert(weight, scaled);
            tensors.remove(&name);
        }
    }
    Ok(tensors)
}

/// The text of a description, if it is of a sane length.
pub(super) fn description(tensor: &StoredTensor) -> Option<Cow<'_, str>> {
    let bytes = tensor.any_bytes().filter(|bytes| bytes.len() <= MAX_DESCRIPTION);
    bytes.map(String::from_utf8_lossy)
}

/// Whether the layer is stored in a way that is not read.
fn is_foreign(tensors: &BTreeMap<String, StoredTensor>, layer: &str) -> bool {
    let has = |ending: &str| tensors.contains_key(&format!("{layer}{ending}"));
    let is_integer = |ending: &str| {
        let tensor = tensors.get(&format!("{layer}{ending}"));
        tensor.is_some_and(|t| matches!(t.dtype(), StorageDtype::Other(Dtype::I8 | Dtype::U8)))
    };
    let described = || tensors.get(&format!("{layer}{DESCRIPTION}")).map(description);
    has(".weight_scale_inv")
        || has(".weight_scale_2")
        || is_integer(".weight")
        || WEIGHT_SCALES.iter().any(|ending| is_integer(ending))
        || described().is_some_and(|d| !d.is_some_and(|d| READ.iter().any(|read| d.contains(read))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(entries: &[(&str, StorageDtype, &[usize], &[u8])]) -> BTreeMap<String, StoredTensor> {
        let tensor = |d, s: &[usize], b: &[u8]| StoredTensor::new(d, s.to_vec(), b.to_vec().into()).unwrap();
        entries.iter().map(|&(n, d, s, b)| (n.to_owned(), tensor(d, s, b))).collect()
    }

    // 0x38 is 1, 0x40 is 2.
    const WEIGHT: (&str, StorageDtype, &[usize], &[u8]) =
        ("a.weight", StorageDtype::F8E4M3, &[2, 2], &[0x38, 0x40, 0x38, 0x40]);

    #[test]
    fn one_scale_or_one_per_row_multiplies_the_weight_and_its_companions_go() {
        for name in ["a.scale_weight", "a.weight_scale"] {
            let two = 2f32.to_le_bytes();
            let all = tensors(&[
                WEIGHT,
                (name, StorageDtype::F32, &[], &two),
                ("a.scale_input", StorageDtype::F32, &[1], &two),
                ("scaled_fp8", StorageDtype::F8E4M3, &[2], &[0, 0]),
            ]);
            let applied = apply(all).unwrap();
            assert_eq!(applied.keys().collect::<Vec<_>>(), ["a.weight"]);
            assert_eq!(applied["a.weight"].to_f32(), [2., 4., 2., 4.]);
        }
        let rows = [2f32.to_le_bytes(), 3f32.to_le_bytes()].concat();
        let applied =
            apply(tensors(&[WEIGHT, ("a.weight_scale", StorageDtype::F32, &[2, 1], &rows)])).unwrap();
        assert_eq!(applied["a.weight"].to_f32(), [2., 4., 3., 6.]);
    }

    #[test]
    fn scales_that_do_not_fit_are_refused_and_orphans_kept() {
        let three = [0u8; 12];
        let nan = f32::NAN.to_le_bytes();
        for (name, shape, bytes, words) in
            [("a.weight_scale", &[3][..], &three[..], "one per row"), ("a.weight_scale", &[], &nan, "NaN")]
        {
            let reason = apply(tensors(&[WEIGHT, (name, StorageDtype::F32, shape, bytes)])).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
        let orphan = apply(tensors(&[("b.weight_scale", StorageDtype::F32, &[], &nan)])).unwrap();
        assert!(orphan.contains_key("b.weight_scale"));
        let wide = tensors(&[
            ("a.weight", StorageDtype::BF16, &[1], &[0, 0]),
            ("a.weight_scale", StorageDtype::F32, &[], &nan),
        ]);
        assert!(apply(wide).unwrap_err().contains("BF16"));
    }
}
