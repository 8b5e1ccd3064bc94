//! Picture files of every kind, and what only calls itself one.

use std::io::Cursor;

use image::ImageFormat;

use super::*;

fn open(bytes: &[u8]) -> crate::Result<Picture> {
    Picture::from_bytes("x", bytes, &DecodeOptions::default())
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(width: u32, height: u32, color: ::png::ColorType, depth: ::png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ::png::ColorType::Indexed {
        encoder.set_palette(vec![10, 20, 30, 200, 100, 0]);
        encoder.set_trns(vec![0, 255]);
    } else if color == ::png::ColorType::Rgb {
        encoder.set_trns(vec![0, 1, 0, 2, 0, 3]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

/// A chunk of a WebP.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let padding = &[0][..data.len() % 2];
    [name, &(data.len() as u32).to_le_bytes()[..], data, padding].concat()
}

/// A WebP animation of one frame of 2x2 pixels with an alpha channel; its colours are said to be 0x2.
fn webp_without_colours() -> Vec<u8> {
    let size = [1, 0, 0, 1, 0, 0];
    // A key frame that is shown, with a first partition of 8 bytes.
    let tag = 1u32 << 4 | 8 << 5;
    let colours = [&tag.to_le_bytes()[..3], &[0x9d, 0x01, 0x2a, 0, 0, 2, 0], &[0; 8]];
    let frame = [&[0; 6][..], &size, &[0; 4], &chunk(b"ALPH", &[0; 5]), &chunk(b"VP8 ", &colours.concat())];
    let chunks = [
        chunk(b"VP8X", &[&[0x12, 0, 0, 0][..], &size].concat()),
        chunk(b"ANIM", &[0; 6]),
        chunk(b"ANMF", &frame.concat()),
    ];
    chunk(b"RIFF", &[&b"WEBP"[..], &chunks.concat()].concat())
}

#[test]
fn an_animation_whose_frame_has_no_colours_is_an_error_and_no_panic() {
    let error = open(&webp_without_colours()).unwrap_err().to_string();
    assert!(error.contains("WebP") && error.contains("damaged"), "{error}");
}

#[test]
fn a_webp_that_claims_more_exif_than_it_has_is_refused() {
    let plain = encoded(&DynamicImage::ImageRgb8(RgbImage::new(2, 2)), ImageFormat::WebP);
    let with_exif = |exif: &[u8]| {
        let flags = chunk(b"VP8X", &[8, 0, 0, 0, 1, 0, 0, 1, 0, 0]);
        chunk(b"RIFF", &[b"WEBP", &flags[..], &plain[12..], exif].concat())
    };
    let exif = chunk(b"EXIF", b"MM\0*\0\0\0\x08\0\0");
    assert_eq!(open(&with_exif(&exif)).unwrap().size(), (2, 2));
    assert_eq!(open(&[&with_exif(&exif), &b"more"[..]].concat()).unwrap().size(), (2, 2));
    for claimed in [11, 1 << 31, u32::MAX] {
        let lie = [&b"EXIF"[..], &claimed.to_le_bytes(), &exif[8..]].concat();
        assert!(open(&with_exif(&lie)).unwrap_err().to_string().contains("cut off"), "{claimed} bytes");
    }
}

#[test]
fn every_format_is_told_by_its_contents() {
    let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(20, 10, image::Rgb([200, 10, 30])));
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::Tiff,
    ] {
        let picture = open(&encoded(&image, format)).unwrap();
        assert_eq!(picture.size(), (20, 10), "{format:?}");
        assert_eq!(picture.is_nearest(), format == ImageFormat::Gif, "{format:?}");
    }
}

#[test]
fn palettes_are_known_and_their_transparency_is_dropped() {
    let picture = open(&png(3, 1, ::png::ColorType::Indexed, ::png::BitDepth::One, &[0b0100_0000])).unwrap();
    assert!(picture.is_nearest());
    assert_eq!(picture.pixels().as_rgb8().unwrap().as_raw(), &[10, 20, 30, 200, 100, 0, 10, 20, 30]);
}

#[test]
fn indices_beyond_the_palette_are_black() {
    let picture = open(&png(2, 1, ::png::ColorType::Indexed, ::png::BitDepth::Eight, &[1, 9])).unwrap();
    assert_eq!(picture.pixels().as_rgb8().unwrap().as_raw(), &[200, 100, 0, 0, 0, 0]);
}

#[test]
fn a_transparent_colour_is_no_alpha_channel() {
    let picture =
        open(&png(2, 1, ::png::ColorType::Rgb, ::png::BitDepth::Eight, &[1, 2, 3, 4, 5, 6])).unwrap();
    assert_eq!(picture.pixels().as_rgb8().unwrap().as_raw(), &[1, 2, 3, 4, 5, 6]);
}

#[test]
fn one_bit_and_sixteen_bits_become_eight() {
    let one = open(&png(3, 1, ::png::ColorType::Grayscale, ::png::BitDepth::One, &[0b1010_0000])).unwrap();
    assert!(one.is_nearest());
    assert_eq!(one.pixels().as_luma8().unwrap().as_raw(), &[255, 0, 255]);
    let four = open(&png(2, 1, ::png::ColorType::Grayscale, ::png::BitDepth::Four, &[0x3f])).unwrap();
    assert_eq!(four.pixels().to_luma8().as_raw(), &[51, 255]);
    let sixteen =
        open(&png(2, 1, ::png::ColorType::Grayscale, ::png::BitDepth::Sixteen, &[1, 255, 128, 0])).unwrap();
    assert_eq!(sixteen.pixels().to_luma8().as_raw(), &[1, 128]);
    let rgb =
        open(&png(1, 1, ::png::ColorType::Rgb, ::png::BitDepth::Sixteen, &[9, 255, 8, 255, 7, 255])).unwrap();
    assert_eq!(rgb.pixels().to_rgb8().as_raw(), &[9, 8, 7]);
}

#[test]
fn what_is_no_picture_is_refused() {
    assert!(open(b"").unwrap_err().to_string().contains("empty"));
    assert!(open(b"<html>").unwrap_err().to_string().contains("web page"));
    assert!(open(b"text").unwrap_err().to_string().contains("begins with \"text\""));
    assert!(open(&[0; 100]).is_err());
    let good = encoded(&DynamicImage::new_rgb8(64, 64), ImageFormat::Png);
    assert!(open(&good[..good.len() / 2]).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn too_wide_pictures_and_bombs_are_refused_by_their_header() {
    let wide = encoded(&DynamicImage::new_luma8(30_000, 1), ImageFormat::Png);
    assert!(open(&wide).unwrap_err().to_string().contains("30000x1"));
    // A PNG header that claims 20,000 x 20,000, with next to nothing behind it.
    let mut bomb = encoded(&DynamicImage::new_luma8(16, 16), ImageFormat::Png);
    bomb[16..20].copy_from_slice(&20_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&20_000u32.to_be_bytes());
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(open(&bomb).unwrap_err().to_string().contains("400000000 pixels"));
    let small = DecodeOptions { max_bytes: 10, ..DecodeOptions::default() };
    assert!(Picture::from_bytes("x", &[0; 11], &small).is_err());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[test]
fn exif_orientation_is_honoured_unless_turned_off() {
    // TIFF block with one entry: tag 0x0112 (orientation), short, 6 = rotate by 90 degrees.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    let mut bytes = Vec::new();
    let mut info = ::png::Info::with_size(20, 10);
    info.color_type = ::png::ColorType::Rgb;
    info.exif_metadata = Some(exif.into());
    let encoder = ::png::Encoder::with_info(&mut bytes, info).unwrap();
    encoder.write_header().unwrap().write_image_data(&[0; 600]).unwrap();
    assert_eq!(open(&bytes).unwrap().size(), (10, 20));
    let raw = DecodeOptions { apply_exif_orientation: false, ..DecodeOptions::default() };
    assert_eq!(Picture::from_bytes("x", &bytes, &raw).unwrap().size(), (20, 10));
}
