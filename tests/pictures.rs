//! Picture files as people have them: unusual ones as Pillow reads them, those that are not whole, and those of other kinds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use uno_models::picture::{DecodeOptions, Picture, refuse_partial, unreadable};
use uno_models::preprocess::preprocess_ref;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/pillow")
}

fn open(bytes: &[u8]) -> Result<Picture, String> {
    Picture::from_bytes("x", bytes, &DecodeOptions::default()).map_err(|e| e.to_string())
}

/// A JPEG of the fixtures.
fn jpeg(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).unwrap()
}

const JPEGS: [&str; 5] =
    ["baseline.jpg", "progressive.jpg", "restarts.jpg", "progressive_restarts.jpg", "grey.jpg"];

#[test]
fn unusual_tiffs_and_gifs_are_as_pillow_reads_them() {
    #[derive(Deserialize)]
    struct Case {
        input: String,
        long_side: u32,
        output: String,
    }
    // Pillow, and with it the official code, ignores EXIF orientation.
    let mut options = DecodeOptions::default();
    options.apply_exif_orientation = false;
    let folder = fixtures();
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let picture = Picture::open(folder.join(&case.input), &options).unwrap();
        assert_eq!(Picture::size_of_file(folder.join(&case.input), &options).unwrap(), picture.size());
        let got = preprocess_ref(&picture, case.long_side).unwrap();
        let wanted = image::open(folder.join(&case.output)).unwrap().into_rgb8();
        assert!(got == wanted, "{} at {}", case.input, case.long_side);
    }
}

// JPEG

#[test]
fn a_jpeg_is_refused_at_every_length_at_which_it_is_not_whole() {
    for name in JPEGS {
        let whole = jpeg(name);
        let pixels = open(&whole).unwrap().to_rgb();
        refuse_partial(name, &whole).unwrap();
        let near_the_end = whole.len() - 40..whole.len() - 2;
        for length in (4..whole.len() - 40).step_by(7).chain(near_the_end) {
            let cut = &whole[..length];
            let error = open(cut).unwrap_err();
            assert!(
                error.contains("cut short") && error.contains("load it anew"),
                "{name}, {length}: {error}"
            );
            assert_eq!(refuse_partial("x", cut).unwrap_err().to_string(), error);
        }
        // The end marker alone is no loss: all data is there, and that is certain.
        for length in [whole.len() - 2, whole.len() - 1] {
            assert!(open(&whole[..length]).unwrap().to_rgb() == pixels, "{name}, {length}");
        }
    }
}

#[test]
fn a_jpeg_that_is_cut_short_is_refused_whatever_was_put_at_its_end() {
    for name in JPEGS {
        let whole = jpeg(name);
        for parts in 3..10 {
            let cut = &whole[..whole.len() * parts / 10];
            let with_end = [cut, &[0xff, 0xd9]].concat();
            let filled = [cut, &vec![0; whole.len() - cut.len()]].concat();
            let filled_far = [cut, &vec![0; 100_000]].concat();
            // Where a scan of a progressive JPEG ends, what came by then is a coarser picture, and whole.
            let is_cut =
                |bytes: &[u8]| open(bytes).is_err_and(|e| e.contains("cut short") || e.contains("damaged"));
            assert!(is_cut(&with_end), "{name}: {parts} of 10 and an end marker");
            assert!(is_cut(&filled) && is_cut(&filled_far), "{name}: {parts} of 10, filled up with zeros");
        }
    }
}

#[test]
fn bytes_behind_a_jpeg_and_within_its_segments_are_no_matter() {
    for name in JPEGS {
        let whole = jpeg(name);
        let pixels = open(&whole).unwrap().to_rgb();
        let data_end = whole.len() - 2;
        let video = [b"\0\0\0\x18ftypmp42".as_slice(), &vec![0x5a; 3 << 20]].concat();
        // An application segment with a JPEG in it, as EXIF has previews.
        let preview =
            [&[0xff, 0xe1][..], &((whole.len() + 8) as u16).to_be_bytes(), b"Exif\0\0", &whole].concat();
        for (what, bytes) in [
            ("zeros", [&whole[..], &vec![0; 3 << 20]].concat()),
            ("a second picture", [&whole[..], &whole].concat()),
            ("a video", [&whole[..], &video].concat()),
            ("fill bytes", [&[0xff, 0xd8, 0xff, 0xff], &whole[2..data_end], &[0xff; 5], &[0xd9]].concat()),
            ("rubbish before the end marker", [&whole[..data_end], &[0, 0x5a, 1], &[0xff, 0xd9]].concat()),
            ("a preview", [&whole[..2], &preview, &whole[2..]].concat()),
        ] {
            let picture = open(&bytes).unwrap_or_else(|e| panic!("{name} with {what}: {e}"));
            assert!(picture.to_rgb() == pixels, "{name} with {what}");
            refuse_partial(name, &bytes).unwrap();
        }
        // The end marker of the preview is not that of the picture.
        let cut = [&whole[..2], &preview, &whole[2..data_end / 2]].concat();
        assert!(open(&cut).unwrap_err().contains("cut short"));
        // The picture is cut short, the one behind it is not.
        let second = [&whole[..2], &preview, &whole[2..data_end / 2], &whole].concat();
        assert!(open(&second).unwrap_err().contains("cut short"), "{name}");
    }
}

#[test]
fn kinds_of_jpegs_that_are_not_read_are_named() {
    let whole = jpeg("baseline.jpg");
    let frame = whole.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[frame + at] = byte;
        bytes
    };
    let mut without_height = with(5, 0);
    without_height[frame + 6] = 0;
    for (bytes, words) in [
        (with(1, 0xc9), "arithmetic coding"),
        (with(1, 0xca), "arithmetic coding"),
        (with(1, 0xc3), "lossless"),
        (with(1, 0xc5), "hierarchical"),
        (with(4, 12), "12 bits per channel"),
        (without_height, "without a height"),
        // The second channel finer than the first.
        (with(14, 0x42), "subsampling"),
        (with(11, 0x31), "subsampling"),
    ] {
        let error = open(&bytes).unwrap_err();
        assert!(error.contains(words) && error.contains("not read; save it"), "{words}: {error}");
    }
    // A scan of one channel of three, of which the decoder would put the blocks in wrong places.
    let scan = whole.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
    let mut alone = whole[..scan].to_vec();
    alone.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 0xff, 0xd9]);
    assert!(open(&alone).unwrap_err().contains("scans of their own"));
}

#[test]
fn the_size_of_a_jpeg_is_told_from_its_header_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jpg");
    let whole = jpeg("baseline.jpg");
    let size = open(&whole).unwrap().size();
    std::fs::write(&path, &whole[..whole.len() * 9 / 10]).unwrap();
    assert_eq!(Picture::size_of_file(&path, &DecodeOptions::default()).unwrap(), size);
    // Half a megabyte of application segments before it.
    let segment = [&[0xff, 0xe3, 0xff, 0xff][..], &[7; 65533]].concat();
    std::fs::write(&path, [&whole[..2], &segment.repeat(8), &whole[2..]].concat()).unwrap();
    assert_eq!(Picture::size_of_file(&path, &DecodeOptions::default()).unwrap(), size);
}

// TIFF

/// An entry of a directory: tag, type (3: 16 bits, 4: 32 bits, 2: text), number of values, value or its place.
type Entry = (u16, u16, u32, u32);

/// A TIFF of directories in a chain, each at its place.
fn tiff(directories: &[(u32, &[Entry])], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..4].copy_from_slice(b"II*\0");
    bytes[4..8].copy_from_slice(&directories[0].0.to_le_bytes());
    for (i, (place, entries)) in directories.iter().enumerate() {
        let mut directory = (entries.len() as u16).to_le_bytes().to_vec();
        for (tag, kind, count, value) in *entries {
            directory.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            directory.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        }
        directory.extend(directories.get(i + 1).map_or(0, |next| next.0).to_le_bytes());
        bytes[*place as usize..][..directory.len()].copy_from_slice(&directory);
    }
    bytes
}

/// Entries of a grey picture of 16x16 whose data begins at 1000.
fn grey() -> Vec<Entry> {
    let tags =
        [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 1000), (277, 1), (278, 16), (279, 256)];
    tags.into_iter().map(|(tag, value)| (tag, 4, 1, value)).collect()
}

#[test]
fn a_raw_photo_is_not_taken_for_its_preview() {
    let plain = tiff(&[(8, &grey())], 1256);
    assert_eq!(open(&plain).unwrap().size(), (16, 16));
    let with = |more: &[Entry]| [grey(), more.to_vec()].concat();
    let sensor = [(256, 4, 1, 6000), (257, 4, 1, 4000), (262, 3, 1, 32803)];
    let large = [(256, 4, 1, 6000), (257, 4, 1, 4000), (262, 3, 1, 2)];
    // A DNG: the version, a smaller picture first, and the sensor's samples below it.
    let dng = tiff(&[(8, &with(&[(254, 4, 1, 1), (50706, 1, 4, 0x0401)]))], 1256);
    // A NEF: the same without a version, and the make.
    let mut nef = tiff(&[(8, &with(&[(254, 4, 1, 1), (271, 2, 18, 600), (330, 4, 1, 500)]))], 1256);
    nef[600..617].copy_from_slice(b"NIKON CORPORATION");
    nef[500..502].copy_from_slice(&[3, 0]);
    let below = tiff(&[(8, &sensor)], 100);
    nef[502..538].copy_from_slice(&below[10..46]);
    let mut cr2 = plain.clone();
    cr2.splice(8..8, *b"CR\x02\0\0\0\0\0");
    cr2[4] = 16;
    for (bytes, name) in [
        (dng, "DNG"),
        (nef, "NEF"),
        (cr2, "CR2"),
        (tiff(&[(8, &grey()), (300, &sensor)], 1256), "samples of its sensor"),
        (b"IIRO\x08\0\0\0".to_vec(), "raw photo"),
        (b"IIU\0\x18\0\0\0".to_vec(), "raw photo"),
        (b"FUJIFILMCCD-RAW 0201".to_vec(), "raw photo"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom".to_vec(), "CR3"),
    ] {
        let error = open(&bytes).unwrap_err();
        assert!(
            error.contains(name) && error.contains("raw photo") && error.contains("darktable"),
            "{error}"
        );
    }
    let error = refuse_partial("x", &tiff(&[(8, &with(&[(50706, 1, 4, 0x0401)]))], 1256)).unwrap_err();
    assert!(error.to_string().contains("DNG"));
    // A smaller copy first, without being a raw photo.
    let reduced = tiff(&[(8, &with(&[(254, 4, 1, 1)])), (300, &large)], 1256);
    let error = open(&reduced).unwrap_err();
    assert!(error.contains("smaller copy") && error.contains("6000x4000"), "{error}");
    // Said of the only picture, or of one that is not smaller, it is no matter; nor are pages.
    assert!(open(&tiff(&[(8, &with(&[(254, 4, 1, 1)]))], 1256)).is_ok());
    assert!(open(&tiff(&[(8, &grey()), (300, &large)], 1256)).is_ok());
    // Directories that lead back to each other come to an end.
    assert!(open(&tiff(&[(8, &with(&[(330, 4, 1, 8)])), (300, &grey()), (8, &grey())], 1256)).is_ok());
}

#[test]
fn kinds_of_tiffs_that_are_not_read_are_named() {
    let with = |tag: u16, value: u32| {
        let mut entries = grey();
        match entries.iter_mut().find(|entry| entry.0 == tag) {
            Some(entry) => entry.3 = value,
            None => entries.push((tag, 3, 1, value)),
        }
        entries.sort();
        tiff(&[(8, &entries)], 1256)
    };
    for (bytes, words) in [
        (with(258, 32), "grey colours, 1 sample of 32 bits"),
        (with(339, 3), "floating-point"),
        (with(339, 2), "signed"),
        (with(259, 34925), "LZMA compression"),
        (with(259, 3), "fax compression"),
        (with(259, 6), "old-style JPEG"),
        (with(259, 50000), "Zstandard"),
        (with(262, 8), "L*a*b*"),
        (with(262, 4), "mask"),
    ] {
        let error = open(&bytes).unwrap_err();
        assert!(error.contains(words) && error.contains("not read; save it as PNG"), "{words}: {error}");
    }
    assert!(open(&with(262, 3)).unwrap_err().contains("lacks its palette"));
    // Cut short.
    assert!(open(&tiff(&[(8, &grey())], 1256)[..1200]).is_err());
}

// Other kinds

#[test]
fn files_of_other_kinds_are_named_with_what_to_do() {
    let ftyp = |brands: &[u8; 4]| [b"\0\0\0\x14ftyp", &brands[..], b"\0\0\0\0mif1"].concat();
    let at = |place: usize, word: &[u8]| [&vec![0; place], word].concat();
    let magick = "magick";
    for (bytes, name, remedy) in [
        (ftyp(b"heic"), "HEIC", "PNG or JPEG"),
        (ftyp(b"heix"), "HEIC", "heif-convert"),
        (ftyp(b"mif1"), "HEIF", magick),
        (ftyp(b"avif"), "AVIF", "PNG or JPEG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf".to_vec(), "AVIF", magick),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic".to_vec(), "HEIC", magick),
        (b"\xff\x0a\x00\x10".to_vec(), "JPEG XL", "djxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n".to_vec(), "JPEG XL", "djxl"),
        (b"\0\0\0\x0cjP  \r\n\x87\n".to_vec(), "JPEG 2000", magick),
        (b"\xff\x4f\xff\x51\0".to_vec(), "JPEG 2000", magick),
        (b"8BPS\0\x01".to_vec(), "Photoshop", "export"),
        (b"gimp xcf v011".to_vec(), "GIMP", "export"),
        (b"%PDF-1.7".to_vec(), "PDF", "pdftoppm"),
        (b"%!PS-Adobe-3.0 EPSF".to_vec(), "PostScript", "pdftoppm"),
        (b"\0\0\x01\0\x01\0\x10\x10".to_vec(), "ICO", magick),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec(), "SVG", "inkscape"),
        (b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n<!-- drawn -->\n<svg/>".to_vec(), "SVG", "inkscape"),
        (b"<!DOCTYPE html><html><svg/></html>".to_vec(), "web page", "anew"),
        (b"\r\n<HTML><head>".to_vec(), "web page", "anew"),
        (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>".to_vec(), "XML", "anew"),
        (b"\0\0\0\x18ftypisom\0\0\x02\0isommp41".to_vec(), "video", "ffmpeg"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ".to_vec(), "video", "ffmpeg"),
        (b"\0\0\0\x08wide\0\0".to_vec(), "video", "ffmpeg"),
        (b"\x1a\x45\xdf\xa3\x01".to_vec(), "WebM", "ffmpeg"),
        (b"RIFF\x10\0\0\0AVI LIST".to_vec(), "AVI", "ffmpeg"),
        (b"PK\x03\x04\x14".to_vec(), "ZIP", "unpack"),
        (b"\x1f\x8b\x08".to_vec(), "gzip", "unpack"),
        (b"P6\n2 2\n255\n".to_vec(), "PNM", magick),
        (at(128, b"DICM"), "DICOM", magick),
        (b"\0\x05\x16\x07\0\x02\0\0".to_vec(), "AppleDouble", "without ._"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS", "git lfs pull"),
    ] {
        let error = open(&bytes).unwrap_err();
        assert!(error.contains(name) && error.contains("which is not read; "), "{name}: {error}");
        assert!(error.contains(remedy), "{name}: {error}");
        assert!(!error.contains("damaged"), "{name}: {error}");
        assert!(error.ends_with(&unreadable(&bytes).unwrap()), "{name}");
    }
    assert!(open(b"this is a text").unwrap_err().contains("wanted PNG, JPEG, WebP, BMP, GIF or TIFF"));
    assert!(unreadable(&jpeg("baseline.jpg")).is_none());
}
