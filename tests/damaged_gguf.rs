//! GGUF files that are cut short, changed or lie: an error that says what is wrong, and never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/raw_files.rs"]
mod raw_files;

use std::collections::BTreeMap;
use std::path::Path;

use common::device;
use proptest::prelude::*;
use raw_files::{ARRAY, F32, Gguf, GgufTensor, Q8_0, STRING, U32, U64, gguf_entry, gguf_string};
use uno_core::flux::Flux;
use uno_core::weights::{Checkpoint, LoadOptions, StorageDtype, TensorHeader, write};

const NAME: &str = "folder/flux1-dev-Q8_0.gguf";

/// The message with which a file is refused; it names the file.
#[track_caller]
fn refusal(bytes: Vec<u8>) -> String {
    match Checkpoint::from_bytes(NAME, bytes.into()) {
        Ok(opened) => panic!("it was opened: {:?}", opened.tensors()),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(NAME), "{message}");
            message
        }
    }
}

/// Fails unless the file is refused with all of `words`.
#[track_caller]
fn refused(lie: &str, file: &Gguf, words: &[&str]) {
    let message = refusal(file.bytes());
    println!("{lie}: {message}");
    for word in words {
        assert!(message.contains(word), "{lie}: {word:?} is not in: {message}");
    }
}

/// The sound file with a change.
fn changed(change: impl FnOnce(&mut Gguf)) -> Gguf {
    let mut file = Gguf::sound();
    change(&mut file);
    file
}

#[test]
fn the_file_is_sound_before_it_is_damaged() {
    let checkpoint = Checkpoint::from_bytes(NAME, Gguf::sound().bytes().into()).unwrap();
    let (bias, weight) = (&checkpoint.tensors()["a.bias"], &checkpoint.tensors()["a.weight"]);
    assert_eq!((bias.shape(), weight.shape()), (&[32][..], &[2, 64][..]));
    assert_eq!(bias.to_f32()[..3], [0.0, 1.0, 2.0]);
    assert_eq!(weight.to_f32()[..3], [-16.0, -15.0, -14.0]);
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let whole = Gguf::sound().bytes();
    for length in 0..whole.len() {
        let message = refusal(whole[..length].to_vec());
        let remedy = ["load it anew", "safetensors"].iter().any(|words| message.contains(words));
        assert!(remedy, "{length} bytes: {message}");
    }
}

#[test]
fn another_version_or_byte_order_is_named_with_what_is_wanted() {
    for version in [0, 1, 4, 1000, u32::MAX] {
        let words = [&format!("version {version};")[..], "wanted 2 or 3"];
        refused("version", &changed(|file| file.version = version), &words);
    }
    refused(
        "byte order",
        &changed(|file| file.version = 3u32.swap_bytes()),
        &["big-endian", "wanted little"],
    );
    // The first four bytes decide whether it is GGUF at all.
    let message = refusal(changed(|file| file.magic = *b"GGUG").bytes());
    assert!(message.contains("safetensors"), "{message}");
}

#[test]
fn counts_that_lie_are_refused() {
    for count in [3, 4, 1000, 1 << 32, 1 << 60, u64::MAX] {
        // One or two too many: the data itself is then taken for a tensor's description, and can say anything.
        let words: &[&str] = if count < 5 { &[] } else { &["number of tensors", "load it anew"] };
        refused("tensors", &changed(|file| file.tensor_count = Some(count)), words);
        refused("metadata", &changed(|file| file.metadata_count = Some(count)), &[]);
    }
    // One tensor fewer than there are is a sound file of another model, whose loader then misses it. One entry fewer: what
    // follows is taken for something else.
    refused("one metadata entry too few", &changed(|file| file.metadata_count = Some(1)), &[]);
    refused("no metadata", &changed(|file| file.metadata_count = Some(0)), &[]);
}

#[test]
fn lengths_of_strings_that_lie_are_refused() {
    for length in [5, 7, 64, 1 << 16, (1 << 16) + 1, 1 << 40, u64::MAX - 7, u64::MAX] {
        refused("tensor name", &changed(|file| file.tensors[0].name_len = Some(length)), &[]);
        let mut key = gguf_entry("general.name", U32, &[0; 4]);
        key[..8].copy_from_slice(&length.to_le_bytes());
        refused("key", &changed(|file| file.metadata[0] = key), &[]);
        let text = [&length.to_le_bytes()[..], b"flux"].concat();
        refused("text", &changed(|file| file.metadata[0] = gguf_entry("a", STRING, &text)), &[]);
    }
    let no_text = vec![0xff, 0xfe, 0x80];
    refused("name", &changed(|file| file.tensors[0].name = no_text), &["tensor name", "UTF-8"]);
}

#[test]
fn metadata_that_lies_is_refused() {
    let with = |kind: u32, value: &[u8]| changed(|file| file.metadata[1] = gguf_entry("x", kind, value));
    for kind in [13, 14, 255, u32::MAX] {
        refused("type", &with(kind, &[0; 4]), &[&format!("type {kind}"), "GGUF does not know"]);
        let array = [&kind.to_le_bytes()[..], &1u64.to_le_bytes(), &[0; 8]].concat();
        refused("type of an array", &with(ARRAY, &array), &[&format!("type {kind}")]);
    }
    for kind in 0..=12u32 {
        for count in [1 << 20, 1 << 40, 1 << 61, u64::MAX / 2, u64::MAX] {
            let array = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
            refused(&format!("{count} of type {kind}"), &with(ARRAY, &array), &["load it anew"]);
        }
    }
    // Arrays in arrays in arrays: no stack is deep enough for what a file can say.
    let one_inside = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    refused("depth", &with(ARRAY, &one_inside.repeat(100_000)), &["deep"]);
}

#[test]
fn an_alignment_that_lies_is_refused() {
    let with = |kind: u32, value: &[u8]| {
        changed(|file| file.metadata[1] = gguf_entry("general.alignment", kind, value))
    };
    for alignment in [0u32, 3, 33, 1 << 21, 1 << 31, u32::MAX] {
        refused(
            &format!("alignment {alignment}"),
            &with(U32, &alignment.to_le_bytes()),
            &["alignment", "power of two"],
        );
    }
    refused("alignment 2^63", &with(U64, &(1u64 << 63).to_le_bytes()), &["alignment", "power of two"]);
    refused("alignment in words", &with(STRING, &gguf_string("32")), &["alignment", "power of two"]);
    // A sound one that the file does not keep to moves all tensors beyond its end, or off their places.
    refused("alignment 4096", &with(U32, &4096u32.to_le_bytes()), &[]);
}

#[test]
fn dimensions_that_lie_are_refused() {
    for count in [3, 5, 1000, u32::MAX] {
        refused("number", &changed(|file| file.tensors[1].dim_count = Some(count)), &[]);
    }
    refused("number", &changed(|file| file.tensors[0].dim_count = Some(5)), &["a.bias", "5", "at most 4"]);
    for (dims, words) in [
        // Larger than the file.
        (&[64, 3][..], &["a.weight", "load it anew"][..]),
        (&[64, 1 << 40], &["a.weight", "load it anew"]),
        // The product overflows.
        (&[u64::MAX, 2], &["a.weight"]),
        (&[1 << 32, 1 << 32], &["a.weight", "does not fit together"]),
        (&[1 << 62, 4, 4, 4], &["a.weight", "does not fit together"]),
        // The product of numbers does not, that of bytes does.
        (&[1 << 63], &["a.weight"]),
        // Rows are no whole blocks.
        (&[63, 2], &["a.weight", "does not fit together"]),
        (&[2, 64], &["a.weight", "does not fit together"]),
    ] {
        refused(&format!("{dims:?}"), &changed(|file| file.tensors[1].dims = dims.to_vec()), words);
    }
}

#[test]
fn absurd_dimensions_without_numbers_do_no_harm() {
    for dims in [&[0, 1 << 63, 2, 1 << 63][..], &[1 << 63, 2, 0], &[1 << 63, 2, 1 << 63, 0], &[64, 0]] {
        load_all(changed(|file| file.tensors[1].dims = dims.to_vec()).bytes());
    }
}

#[test]
fn a_type_that_is_not_read_is_named_with_those_that_are() {
    for (kind, name) in [
        (4, "4"),
        (5, "5"),
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (20, "IQ4_NL"),
        (23, "IQ4_XS"),
        (26, "integer"),
        (34, "TQ1_0"),
        (39, "MXFP4"),
        (40, "40"),
        (u32::MAX, "4294967295"),
    ] {
        let file = changed(|file| file.tensors[1].kind = kind);
        refused("type", &file, &["a.weight", &format!("type {kind}"), name, "Q4_K"]);
    }
    // A type of other blocks: there is not enough data, or the rows do not fit.
    for kind in [0, 12] {
        refused("type", &changed(|file| file.tensors[1].kind = kind), &["a.weight"]);
    }
}

#[test]
fn offsets_that_lie_are_refused() {
    for (offset, words) in [
        (1, &["a.weight", "offset 1,", "does not fit together"][..]),
        (129, &["a.weight", "does not fit together"]),
        (160, &["a.weight", "load it anew"]),
        (1 << 40, &["a.weight", "load it anew"]),
        (u64::MAX - 31, &["a.weight", "does not fit together"]),
        (u64::MAX, &["a.weight", "does not fit together"]),
    ] {
        refused(&format!("offset {offset}"), &changed(|file| file.tensors[1].offset = offset), words);
    }
}

#[test]
fn tensors_that_lie_over_each_other_are_refused() {
    for offset in [0, 32, 96] {
        let file = changed(|file| file.tensors[1].offset = offset);
        refused(&format!("offset {offset}"), &file, &["a.weight", "a.bias"]);
    }
}

#[test]
fn a_name_twice_is_refused() {
    let twice = changed(|file| file.tensors.push(GgufTensor::new("a.bias", &[32], F32, 0)));
    refused("name", &twice, &["a.bias", "twice"]);
    let both = changed(|file| file.tensors[1].name = b"a.bias".to_vec());
    refused("name", &both, &["a.bias", "twice"]);
}

#[test]
fn an_original_shape_that_lies_is_refused() {
    let with = |dims: &[i32]| {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
        let array = [&5u32.to_le_bytes()[..], &(dims.len() as u64).to_le_bytes(), &dims_bytes].concat();
        changed(|file| file.metadata[1] = gguf_entry("comfy.gguf.orig_shape.a.bias", ARRAY, &array))
    };
    for dims in [&[33][..], &[4, 9], &[0], &[i32::MAX; 8]] {
        refused(&format!("{dims:?}"), &with(dims), &["a.bias", "original shape"]);
    }
    // A true one is followed.
    let checkpoint = Checkpoint::from_bytes(NAME, with(&[2, 4, 4]).bytes().into()).unwrap();
    assert_eq!(checkpoint.tensors()["a.bias"].shape(), [2, 4, 4]);
}

/// The transformer of the small model with Q8_0 matrices, as a GGUF file.
fn transformer() -> Vec<u8> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets/tiny");
    let checkpoint = Checkpoint::open(model.join("flux1-dev.safetensors")).unwrap();
    let q8: StorageDtype = "q8_0".parse().unwrap();
    let headers: Vec<TensorHeader> = checkpoint
        .tensors()
        .iter()
        .map(|(name, tensor)| {
            let fits = tensor.shape().len() == 2 && tensor.shape()[1].is_multiple_of(32);
            let dtype = if fits { q8 } else { StorageDtype::F32 };
            TensorHeader { name: name.clone(), dtype, shape: tensor.shape().to_vec() }
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dit.gguf");
    let metadata = BTreeMap::from([("general.architecture".to_owned(), "flux".to_owned())]);
    write(&path, &headers, &metadata, |i| {
        Ok(headers[i].dtype.pack(&checkpoint.tensors()[&headers[i].name].to_f32()).unwrap())
    })
    .unwrap();
    std::fs::read(&path).unwrap()
}

/// First byte of the data.
fn header_length(file: &[u8]) -> usize {
    let sound = Checkpoint::from_bytes(NAME, file.to_vec().into()).unwrap();
    file.len() - sound.tensors().values().map(|t| t.byte_len().next_multiple_of(32)).sum::<usize>()
}

#[test]
fn a_transformer_cut_in_its_data_is_refused() {
    let whole = transformer();
    let header = header_length(&whole);
    let data = whole.len() - header;
    for length in [header, header + 1, header + data / 3, header + data / 2, whole.len() - 33] {
        let message = refusal(whole[..length].to_vec());
        assert!(message.contains("cut short") && message.contains("load it anew"), "{message}");
    }
}

/// Loads what can be opened; whatever a file says, there may only be an error.
fn load_all(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes(NAME, bytes.into()) else { return };
    let _ = Flux::load(&checkpoint, &LoadOptions::new(&device())).map(drop);
    for tensor in checkpoint.tensors().values() {
        assert!(tensor.to_f32().len() == tensor.len());
        assert!(tensor.slice_rows(0..1).is_none_or(|row| row.to_f32().len() == row.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_some_bytes_of_a_small_header_brings_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = Gguf::sound().bytes();
        let header = Gguf::sound().header().len();
        for (at, byte) in changes {
            file[at.index(header)] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        load_all(file);
    }

    #[test]
    fn nothing_that_follows_the_magic_brings_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        load_all([&b"GGUF\x03\0\0\0"[..], &bytes].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_transformer_with_a_damaged_header_is_refused_or_loaded(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        static SOUND: std::sync::LazyLock<(Vec<u8>, usize)> = std::sync::LazyLock::new(|| {
            let file = transformer();
            let header = header_length(&file);
            (file, header)
        });
        let mut file = SOUND.0.clone();
        for (at, byte) in changes {
            file[at.index(SOUND.1)] = byte;
        }
        load_all(file);
    }
}

#[test]
fn the_program_refuses_damaged_gguf_files_and_writes_nothing() {
    let desk = common::program::Desk::with_model();
    let whole = transformer();
    desk.put("cut.gguf", &whole[..whole.len() / 2]);
    desk.put("other.gguf", changed(|file| file.tensors[1].kind = 23).bytes());
    desk.put("small.gguf", Gguf::sound().bytes());
    let mut nan = whole.clone();
    let at = header_length(&whole) + 4;
    nan[at..at + 4].fill(0xff);
    desk.put("nan.gguf", nan);
    for (file, words) in [
        ("cut.gguf", &["cut short", "load it anew"][..]),
        ("other.gguf", &["IQ4_XS", "Q4_K"]),
        ("small.gguf", &["img_in.weight"]),
        ("nan.gguf", &["not finite", "load the files anew"]),
    ] {
        let words: Vec<&str> = words.iter().copied().chain([file]).collect();
        desk.run(&format!("--model model --dit {file}")).refused(&desk, &words);
    }
}

#[test]
fn kinds_of_gguf_types_have_the_numbers_of_ggml() {
    assert_eq!("q8_0".parse::<uno_core::weights::ggml::GgmlType>().unwrap().id(), Q8_0);
}
