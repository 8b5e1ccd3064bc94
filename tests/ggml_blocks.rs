//! The GGML block codecs against the Python package `gguf`: expanding to the bit, packing of the simple types to the
//! byte, packing of the K types by its error.
//!
//! `tests/reference/make_ggml_blocks.py` wrote the fixture.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use safetensors::{Dtype, SafeTensors};
use uno_core::weights::ggml::{GgmlType, expand, pack};

/// The types whose packing `gguf` defines to the byte.
const SIMPLE: [GgmlType; 5] =
    [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0];

fn fixture() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ggml_blocks.safetensors")).unwrap()
}

fn bytes(tensors: &SafeTensors<'_>, name: &str) -> Vec<u8> {
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::U8, "{name}");
    tensor.data().to_vec()
}

fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Expands into a fresh vector of the right length.
fn expanded(kind: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / kind.block_bytes() * kind.block_len()];
    assert!(expand(kind, bytes, &mut out), "{kind}");
    out
}

/// Normally distributed numbers, the same on every run: the sum of twelve uniform ones.
fn normal_numbers(count: usize, size: f64) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..count).map(|_| (((0..12).map(|_| uniform()).sum::<f64>() - 6.0) * size) as f32).collect()
}

/// The root of the mean squared error of packing and expanding, relative to that of the numbers.
fn round_trip_error(kind: GgmlType, numbers: &[f32]) -> f64 {
    let back = expanded(kind, &pack(kind, numbers).unwrap());
    let squares = |x: f64| x * x;
    let error: f64 = numbers.iter().zip(&back).map(|(a, b)| squares(f64::from(a - b))).sum();
    let total: f64 = numbers.iter().map(|a| squares(f64::from(*a))).sum();
    (error / total).sqrt()
}

#[test]
fn names_and_numbers_lead_back_to_their_type() {
    let mut ids = HashSet::new();
    for kind in GgmlType::ALL {
        assert!(ids.insert(kind.id()), "{kind} shares its number");
        assert_eq!(GgmlType::from_id(kind.id()), Some(kind));
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(kind.to_string().to_lowercase().parse(), Ok(kind));
    }
    assert_eq!("q4_k".parse(), Ok(GgmlType::Q4K));
    assert_eq!(GgmlType::Q6K.to_string(), "Q6_K");
    assert_eq!(GgmlType::Q6K.id(), 14);
    // F32, F16, the types that GGML dropped, Q8_1, Q8_K, IQ2_XXS and nonsense.
    for id in [0, 1, 4, 5, 9, 15, 16, u32::MAX] {
        assert_eq!(GgmlType::from_id(id), None, "{id}");
    }
    for name in ["", " Q4_0", "Q4_0 ", "Q4K", "Q4_K_M", "Q8_1", "F16", "Ｑ4_0"] {
        let error = name.parse::<GgmlType>().unwrap_err().to_string();
        assert!(error.contains("Q8_0, Q2_K"), "{name:?}: {error}");
    }
}

#[test]
fn blocks_expand_to_the_bit_as_in_python() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for kind in GgmlType::ALL {
        let (blocks, expected) =
            (bytes(&tensors, &format!("{kind}.bytes")), numbers(&tensors, &format!("{kind}.values")));
        assert!(blocks.len() >= 16 * kind.block_bytes(), "{kind}: too few blocks");
        assert_eq!(blocks.len() / kind.block_bytes() * kind.block_len(), expected.len(), "{kind}");
        for (i, (got, want)) in expanded(kind, &blocks).iter().zip(&expected).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{kind}, number {i}: {got} for {want}");
        }
    }
}

#[test]
fn the_simple_types_pack_to_the_byte_as_in_python() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for kind in SIMPLE {
        let input = numbers(&tensors, &format!("{kind}.numbers"));
        let expected = bytes(&tensors, &format!("{kind}.packed"));
        let got = pack(kind, &input).unwrap();
        assert_eq!(got.len(), expected.len(), "{kind}");
        let blocks = got.chunks(kind.block_bytes()).zip(expected.chunks(kind.block_bytes()));
        for (i, (got, want)) in blocks.enumerate() {
            assert_eq!(got, want, "{kind}, block {i}: {:?}", &input[i * 32..][..32]);
        }
    }
}

#[test]
fn anything_but_whole_blocks_is_refused_and_leaves_the_output_alone() {
    for kind in GgmlType::ALL {
        let (size, count) = (kind.block_bytes(), kind.block_len());
        assert!(expand(kind, &[], &mut []), "{kind}: nothing is whole");
        assert_eq!(pack(kind, &[]), Some(Vec::new()), "{kind}: nothing is whole");
        for (bytes, numbers) in [
            (1, 0),
            (0, 1),
            (0, count),
            (size, 0),
            (size - 1, count),
            (size + 1, count),
            (size, count - 1),
            (size, count + 1),
            (size, 2 * count),
            (2 * size, count),
            (2 * size - 1, 2 * count),
            (2 * size, 2 * count + 1),
        ] {
            let mut out = vec![7.0; numbers];
            assert!(!expand(kind, &vec![1; bytes], &mut out), "{kind}: {bytes} bytes, {numbers} numbers");
            assert!(out.iter().all(|x| *x == 7.0), "{kind}: {bytes} bytes, {numbers} numbers");
        }
        for numbers in [1, count - 1, count + 1, 2 * count - 1, 3 * count + 5] {
            assert_eq!(pack(kind, &vec![1.0; numbers]), None, "{kind}: {numbers} numbers");
        }
    }
}

#[test]
fn every_block_is_read_on_its_own() {
    let file = fixture();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for kind in GgmlType::ALL {
        let blocks = bytes(&tensors, &format!("{kind}.bytes"));
        let one_by_one: Vec<u32> = blocks
            .chunks(kind.block_bytes())
            .flat_map(|block| expanded(kind, block))
            .map(f32::to_bits)
            .collect();
        let together: Vec<u32> = expanded(kind, &blocks).into_iter().map(f32::to_bits).collect();
        assert_eq!(one_by_one, together, "{kind}");
    }
}

#[test]
fn normal_numbers_come_back_within_the_bound_of_their_type() {
    for (kind, bound) in [
        (GgmlType::Q4_0, 0.09),
        (GgmlType::Q4_1, 0.082),
        (GgmlType::Q5_0, 0.045),
        (GgmlType::Q5_1, 0.04),
        (GgmlType::Q8_0, 0.006),
        (GgmlType::Q2K, 0.27),
        (GgmlType::Q3K, 0.15),
        (GgmlType::Q4K, 0.072),
        (GgmlType::Q5K, 0.036),
        (GgmlType::Q6K, 0.0175),
    ] {
        for size in [0.02, 1.0, 300.0] {
            let error = round_trip_error(kind, &normal_numbers(64 * 256, size));
            assert!(error < bound, "{kind} at {size}: {error}");
        }
    }
}

/// One step between a type's whole numbers, relative to the range they span.
fn coarsest_step(kind: GgmlType) -> f64 {
    match kind {
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4K => 1.0 / 15.0,
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5K => 1.0 / 31.0,
        GgmlType::Q8_0 => 1.0 / 127.0,
        GgmlType::Q2K => 1.0 / 3.0,
        GgmlType::Q3K => 1.0 / 7.0,
        GgmlType::Q6K => 1.0 / 63.0,
        other => panic!("{other} has no bound here"),
    }
}

#[test]
fn heavy_tails_offsets_and_lone_numbers_come_back_too() {
    let normal = normal_numbers(64 * 256, 1.0);
    let lone = normal.iter().enumerate().map(|(i, x)| if i % 64 == 9 { *x } else { 0.0 });
    let inputs = [
        ("cubes", normal.iter().map(|x| x * x * x).collect::<Vec<_>>()),
        ("all positive", normal.iter().map(|x| 4.0 + x * 0.5).collect()),
        ("all negative", normal.iter().map(|x| -4.0 - x * 0.5).collect()),
        ("one in 64", lone.collect()),
        ("constant", vec![0.75; 512]),
        ("negative constant", vec![-0.75; 512]),
    ];
    for kind in GgmlType::ALL {
        for (name, input) in &inputs {
            let error = round_trip_error(kind, input);
            assert!(error < 2.0 * coarsest_step(kind), "{kind}, {name}: {error}");
        }
    }
}

#[test]
fn the_k_types_keep_numbers_whose_scales_are_at_the_lower_end_of_f16() {
    let small = normal_numbers(64 * 256, 1e-5);
    for kind in GgmlType::ALL.into_iter().filter(|kind| kind.block_len() == 256) {
        let error = round_trip_error(kind, &small);
        assert!(error < coarsest_step(kind) * 1.5, "{kind}: {error}");
    }
}

#[test]
fn packing_what_a_k_block_expands_to_loses_little() {
    // Such numbers could be stored without loss; the search for their scales comes close.
    for kind in GgmlType::ALL.into_iter().filter(|kind| kind.block_len() == 256) {
        let once = expanded(kind, &pack(kind, &normal_numbers(16 * 256, 1.0)).unwrap());
        let error = round_trip_error(kind, &once);
        assert!(error < 0.25 * coarsest_step(kind), "{kind}: {error}");
    }
}

#[test]
fn zeros_come_back_as_zeros() {
    for kind in GgmlType::ALL {
        for zero in [0.0, -0.0] {
            let back = expanded(kind, &pack(kind, &[zero; 512]).unwrap());
            assert!(back.iter().all(|x| *x == 0.0), "{kind}");
        }
    }
}

#[test]
fn numbers_that_are_not_finite_do_not_panic_and_stay_visible() {
    for kind in GgmlType::ALL {
        for wild in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            for at in [vec![0], vec![17], vec![0, 31], (0..256).collect()] {
                let mut input = normal_numbers(3 * 256, 1.0);
                for i in at {
                    input[256 + i] = wild;
                }
                let back = expanded(kind, &pack(kind, &input).unwrap());
                let damaged = &back[256..256 + kind.block_len()];
                assert!(damaged.iter().any(|x| !x.is_finite()), "{kind}: {wild} went unseen");
                let (before, after) = (&back[..256], &back[512..]);
                assert!(before.iter().chain(after).all(|x| x.is_finite()), "{kind}: {wild} spread");
            }
        }
        for tiny in [f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::from_bits(1), 1e-30] {
            let back = expanded(kind, &pack(kind, &[tiny; 256]).unwrap());
            assert!(back.iter().all(|x| x.abs() < 1e-7), "{kind}: {tiny}");
        }
        for bits in [0x7c00_u16, 0xfc00, 0x7e00] {
            // All bytes equal to a scale that is not finite: nothing to compare, but nothing may panic.
            let [low, high] = bits.to_le_bytes();
            let block: Vec<u8> =
                (0..kind.block_bytes()).map(|i| if i % 2 == 0 { low } else { high }).collect();
            expanded(kind, &block);
        }
    }
}
