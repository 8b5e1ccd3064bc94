//! What small files that claim much take: nothing is inflated, or held, that is not needed. A program of its own, since it measures
//! the memory of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use uno_models::output::Settings;
use uno_models::picture::{DecodeOptions, Picture, refuse_partial};

/// What profiles and texts inflate to.
const BOMB: usize = 256 << 20;
/// What opening any of the files may take beyond the file itself.
const MOST: usize = 32 << 20;

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap() * 1024
}

/// By how much the most bytes held exceed those held before, while `work` runs.
fn growth(work: impl FnOnce()) -> usize {
    // "5" sets the peak back to what is held now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    work();
    status("VmHWM:").saturating_sub(before)
}

/// A zlib stream that inflates to so many letters A (zeros would not show: decoders leave untouched what is zero already): one of
/// them, then copies of 258, 13 bits each.
fn bomb_of(count: usize) -> Vec<u8> {
    let (mut bytes, mut held, mut bits) = (vec![0x78, 0x9c], 0u64, 0);
    // Codes of the fixed table, with their first bit first.
    let mut put = |value: u64, count: u32, bytes: &mut Vec<u8>| {
        held |= value << bits;
        bits += count;
        while bits >= 8 {
            bytes.push(held as u8);
            (held, bits) = (held >> 8, bits - 8);
        }
    };
    let reversed = |code: u64, count: u32| code.reverse_bits() >> (64 - count);
    put(0b011, 3, &mut bytes);
    put(reversed(0b0011_0000 + u64::from(b'A'), 8), 8, &mut bytes);
    for _ in 0..count / 258 {
        put(reversed(0b1100_0101, 8), 13, &mut bytes);
    }
    put(0, 7 + 7, &mut bytes);
    // Adler-32 of that many.
    let (count, letter) = ((count / 258 * 258 + 1) as u64, u64::from(b'A'));
    let (a, b) = (1 + letter * count, count + letter * (count * (count + 1) / 2));
    bytes.extend(((b % 65521 << 16 | a % 65521) as u32).to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> =
        (0..256u32).map(|i| (0..8).fold(i, |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))).collect();
    !bytes.iter().fold(!0, |crc: u32, byte| table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// A PNG of 2x2 grey pixels with a chunk.
fn png(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    // A stored block of two rows.
    let pixels = [0x78, 1, 1, 6, 0, 0xf9, 0xff, 0, 9, 9, 0, 9, 9, 0x00, 0x72, 0x00, 0x25];
    let header = [0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0];
    for (name, data) in [(b"IHDR", &header[..]), (name, data), (b"IDAT", &pixels), (b"IEND", &[])] {
        let body = [name, data].concat();
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(&body);
        png.extend(crc32(&body).to_be_bytes());
    }
    png
}

/// A TIFF of 2x2 grey pixels with a tag of so many bytes.
fn tiff(tag: u16, count: u32) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    let mut entries = vec![
        (256, 4, 1, 2),
        (257, 4, 1, 2),
        (258, 4, 1, 8),
        (259, 4, 1, 1),
        (262, 4, 1, 1),
        (273, 4, 1, 200),
    ];
    entries.extend([(277, 4, 1, 1), (278, 4, 1, 2), (279, 4, 1, 4), (tag, 1, count, 300)]);
    entries.sort();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend([tag.to_le_bytes(), u16::to_le_bytes(kind)].concat());
        bytes.extend([u32::to_le_bytes(count), u32::to_le_bytes(value)].concat());
    }
    bytes.resize(300 + count as usize, 0);
    bytes
}

#[test]
fn a_small_file_takes_little_memory_whatever_it_claims() {
    let bomb = bomb_of(BOMB);
    assert!(bomb.len() < 2 << 20);
    let compressed_text = |keyword: &str, flags: &[u8]| [keyword.as_bytes(), b"\0", flags, &bomb].concat();
    let jpeg =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures/pillow/baseline.jpg"))
            .unwrap();
    let segment = [&[0xff, 0xe2, 0xff, 0xff][..], b"ICC_PROFILE\0\x01\x20", &[0; 65519]].concat();
    let sub_blocks = [&[255][..], &[7; 255]].concat().repeat(8000);
    let gif =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures/pillow/small_frame.gif"))
            .unwrap();
    let icc = [&b"!\xff\x0bICCRGBG1012"[..], &sub_blocks, &[0]].concat();
    let webp = {
        let mut plain = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(2, 2).write_to(&mut plain, image::ImageFormat::WebP).unwrap();
        let chunk =
            |name: &[u8; 4], data: &[u8]| [name, &(data.len() as u32).to_le_bytes()[..], data].concat();
        let flags = chunk(b"VP8X", &[0x2c, 0, 0, 0, 1, 0, 0, 1, 0, 0]);
        let extras =
            [chunk(b"EXIF", &bomb[..bomb.len() / 2 * 2]), chunk(b"XMP ", &bomb[..bomb.len() / 2 * 2])]
                .concat();
        let profile = chunk(b"ICCP", &bomb[..bomb.len() / 2 * 2]);
        chunk(b"RIFF", &[b"WEBP", &flags[..], &profile, &plain.into_inner()[12..], &extras].concat())
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("profile.png", png(b"iCCP", &compressed_text("x", &[0]))),
        ("text.png", png(b"zTXt", &compressed_text("x", &[0]))),
        ("international.png", png(b"iTXt", &compressed_text("XML:com.adobe.xmp", &[1, 0, 0, 0]))),
        ("exif.png", png(b"eXIf", &bomb)),
        ("profile.jpg", [&jpeg[..2], &segment.repeat(32), &jpeg[2..]].concat()),
        ("profile.gif", [&gif[..13 + 48], &icc, &gif[13 + 48..]].concat()),
        ("all.webp", webp),
        ("profile.tif", tiff(34675, 2 << 20)),
        ("orientation.tif", tiff(274, 2 << 20)),
        ("samples.tif", tiff(339, 2 << 20)),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let options = DecodeOptions::default();
        for (what, grown) in [
            ("opened", growth(|| drop(Picture::open(&path, &options)))),
            ("its size", growth(|| drop(Picture::size_of_file(&path, &options)))),
            ("looked at", growth(|| drop(refuse_partial(name, &bytes)))),
        ] {
            println!("{name}, {} bytes, {what}: {grown} bytes", bytes.len());
            assert!(grown < MOST, "{name}, {what}: {grown} bytes");
        }
        // What can be shown is shown; but no picture has that many orientations or number formats.
        let is_sound = !["orientation.tif", "samples.tif"].contains(&name);
        assert_eq!(Picture::open(&path, &options).is_ok(), is_sound, "{name}");
    }
    for (name, chunk) in [
        ("settings.png", png(b"iTXt", &compressed_text("uno", &[1, 0, 0, 0]))),
        ("profile_of_settings.png", png(b"iCCP", &compressed_text("x", &[0]))),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, chunk).unwrap();
        let grown = growth(|| assert!(Settings::read(&path).is_err()));
        println!("{name}: {grown} bytes");
        assert!(grown < MOST, "{name}: {grown} bytes");
    }
}
