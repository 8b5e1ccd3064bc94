//! 8-bit floats against torch, to the bit: the meaning of each code, and the cast of the official `flux-dev-fp8`, which has no
//! scale.
//!
//! `tests/reference/make_fp8.py` wrote the fixture, with the torch that the official code asks for (2.4.0) and with a new one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use burn::tensor::FloatDType;
use common::{device, values};
use safetensors::SafeTensors;
use uno_core::weights::{
    Checkpoint, StorageDtype, StoredTensor, TensorHeader, e4m3_to_f32, f32_to_e4m3, write,
};

/// The release that the official code asks for; it is the one that is followed.
const OFFICIAL: &str = "2.4.0";
/// A release that gives 448 where the older one gives NaN.
const NEW: &str = "2.15.0";

struct Fixture(Vec<u8>);

impl Fixture {
    fn open() -> Self {
        Self(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fp8.safetensors")).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

/// Every number of bf16, in the order of its bits, as a file holds it.
fn all_of_bf16() -> StoredTensor {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    StoredTensor::new(StorageDtype::BF16, vec![256, 256], bytes.into()).unwrap()
}

/// The same number in all its bits, the sign of zero included; one NaN is as good as another.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[track_caller]
fn all_same(what: &str, got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!(same(*got, *wanted), "{what}, number {i}: got {got:e}, wanted {wanted:e}");
    }
}

#[track_caller]
fn same_codes(what: &str, got: &[u8], wanted: &[u8], numbers: &[f32]) {
    assert_eq!((got.len(), wanted.len()), (numbers.len(), numbers.len()), "{what}");
    for ((got, wanted), number) in got.iter().zip(wanted).zip(numbers) {
        let both_nan = got & 0x7f == 0x7f && wanted & 0x7f == 0x7f;
        assert!(got == wanted || both_nan, "{what}, {number:e}: got {got:#04x}, torch gives {wanted:#04x}");
    }
}

#[test]
fn every_code_means_what_it_means_to_torch() {
    let fixture = Fixture::open();
    let all: Vec<u8> = (0..=255).collect();
    for (name, dtype) in [("e4m3.values", StorageDtype::F8E4M3), ("e5m2.values", StorageDtype::F8E5M2)] {
        let wanted = fixture.numbers(name);
        let stored = StoredTensor::new(dtype, vec![16, 16], all.clone().into()).unwrap();
        all_same(name, &stored.to_f32(), &wanted);
        let mut expanded = vec![0.0; 256];
        assert!(dtype.expand(&all, &mut expanded));
        all_same(name, &expanded, &wanted);
        all_same(name, &values(stored.to_tensor::<2>(&device(), FloatDType::F32)), &wanted);
    }
    let one_by_one: Vec<f32> = all.iter().map(|code| e4m3_to_f32(*code)).collect();
    all_same("e4m3_to_f32", &one_by_one, &fixture.numbers("e4m3.values"));
    // In the format that the official code computes with, they are the same numbers.
    let bf16 = StoredTensor::new(StorageDtype::BF16, vec![256], fixture.bytes("e4m3.bf16").into()).unwrap();
    all_same("bf16", &bf16.to_f32(), &one_by_one);
}

#[test]
fn the_cast_gives_the_codes_of_torch_for_ordinary_subnormal_huge_and_no_numbers() {
    let fixture = Fixture::open();
    let numbers = fixture.numbers("f32");
    let wanted = fixture.bytes(&format!("{OFFICIAL}/f32.codes"));
    // The fixture holds what it is for.
    let holds = |f: &dyn Fn(f32) -> bool| numbers.iter().any(|x| f(*x));
    assert!(numbers.len() > 4000 && holds(&f32::is_nan) && holds(&|x| x == f32::NEG_INFINITY));
    assert!(holds(&|x| x.is_subnormal()) && holds(&|x| x.to_bits() == 1 << 31) && holds(&|x| x == 464.0));
    let codes: Vec<u8> = numbers.iter().map(|x| f32_to_e4m3(*x)).collect();
    same_codes("f32_to_e4m3", &codes, &wanted, &numbers);
    same_codes("pack", &StorageDtype::F8E4M3.pack(&numbers).unwrap(), &wanted, &numbers);
    let stored = StoredTensor::from_f32(vec![numbers.len() / 4, 4], &numbers).unwrap();
    let cast = stored.to_e4m3();
    assert_eq!(cast.dtype(), StorageDtype::F8E4M3);
    same_codes("to_e4m3", cast.bytes().unwrap(), &wanted, &numbers);
    let meant: Vec<f32> = wanted.iter().map(|code| e4m3_to_f32(*code)).collect();
    all_same("to_e4m3", &cast.to_f32(), &meant);
    all_same("rounded_to_e4m3", &stored.rounded_to_e4m3().to_f32(), &meant);
    all_same("both", &stored.rounded_to_e4m3().to_e4m3().to_f32(), &meant);
}

#[test]
fn weights_in_bf16_are_cast_as_the_official_mode_casts_them() {
    let fixture = Fixture::open();
    let (bf16, wanted) = (all_of_bf16(), fixture.bytes(&format!("{OFFICIAL}/bf16.codes")));
    let numbers = bf16.to_f32();
    same_codes("to_e4m3", bf16.to_e4m3().bytes().unwrap(), &wanted, &numbers);
    let meant: Vec<f32> = wanted.iter().map(|code| e4m3_to_f32(*code)).collect();
    all_same("rounded_to_e4m3", &bf16.rounded_to_e4m3().to_f32(), &meant);
    // Every tensor of a checkpoint, vectors too.
    let vector = bf16.reshaped(vec![1 << 16]).unwrap();
    let checkpoint = Checkpoint::from_tensors("model", [("m".into(), bf16), ("v".into(), vector)]);
    for cast in [checkpoint.to_e4m3(), checkpoint.rounded_to_e4m3()] {
        for tensor in cast.tensors().values() {
            all_same("checkpoint", &tensor.to_f32(), &meant);
        }
        // Computed with in bf16, which holds all of e4m3.
        let matrix = cast.tensors()["m"].to_tensor::<2>(&device(), FloatDType::BF16);
        all_same("bf16", &values(matrix.cast(FloatDType::F32)), &meant);
    }
}

#[test]
fn codes_go_through_a_file_unchanged() {
    let fixture = Fixture::open();
    let (numbers, wanted) = (fixture.numbers("f32"), fixture.bytes(&format!("{OFFICIAL}/f32.codes")));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let header =
        |name: &str, dtype| TensorHeader { name: name.to_owned(), dtype, shape: vec![numbers.len() / 4, 4] };
    let headers = [header("fp8", StorageDtype::F8E4M3), header("f32", StorageDtype::F32)];
    write(&path, &headers, &BTreeMap::new(), |i| Ok(headers[i].dtype.pack(&numbers).unwrap())).unwrap();
    // safetensors' own reader calls the format by the name that torch loads.
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("fp8").unwrap().dtype(), safetensors::Dtype::F8_E4M3);
    same_codes("file", file.tensor("fp8").unwrap().data(), &wanted, &numbers);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let stored = &checkpoint.tensors()["fp8"];
    assert_eq!(stored.dtype(), StorageDtype::F8E4M3);
    let meant: Vec<f32> = wanted.iter().map(|code| e4m3_to_f32(*code)).collect();
    all_same("from the file", &stored.to_f32(), &meant);
    all_same("cast on the way", &checkpoint.rounded_to_e4m3().tensors()["f32"].to_f32(), &meant);
    // What is e4m3 already stays as it is, in place.
    assert_eq!(stored.to_e4m3().bytes().unwrap().as_ptr(), stored.bytes().unwrap().as_ptr());
    let nan = numbers.iter().filter(|x| x.is_nan() || x.abs() > 464.0).count();
    assert_eq!(checkpoint.non_finite().iter().find(|(name, _)| name == "fp8").unwrap().1, nan);
}

#[test]
fn releases_of_torch_differ_beyond_464_alone_and_the_official_one_is_followed() {
    let fixture = Fixture::open();
    let bf16 = all_of_bf16().to_f32();
    for (name, numbers) in [("f32.codes", fixture.numbers("f32")), ("bf16.codes", bf16)] {
        let [old, new] = [OFFICIAL, NEW].map(|release| fixture.bytes(&format!("{release}/{name}")));
        for ((old, new), number) in old.iter().zip(&new).zip(&numbers) {
            if number.abs() > 464.0 {
                let sign = ((number.to_bits() >> 24) & 0x80) as u8;
                assert_eq!((old & 0x7f, *new), (0x7f, sign | 0x7e), "{number:e}");
            } else {
                assert!(old == new || number.is_nan(), "{number:e}: {old:#04x} and {new:#04x}");
            }
        }
    }
}
