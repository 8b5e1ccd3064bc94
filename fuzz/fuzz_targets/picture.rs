//! Any bytes as a reference picture: decoded, then scaled and cropped as the pipeline does it.
//!
//! The last bytes also choose the options, so that seeds and findings are plain picture files.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;

/// Parts of the paths of the decoders' sources.
const DECODERS: [&str; 8] =
    ["/image-webp-", "/image-0.", "/png-", "/gif-", "/tiff-", "/zune-", "/fdeflate-", "/weezl-"];

fuzz_target!(init: {
    // A decoder's panic is caught and becomes an error, so it is no finding. libFuzzer's hook would end the program before.
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map_or("", |location| location.file());
        if !DECODERS.iter().any(|part| place.contains(part)) {
            abort(info);
        }
    }));
}, |data: &[u8]| -> Corpus {
    let [.., flags, low, high] = *data else { return Corpus::Reject };
    let mut options = DecodeOptions::default();
    options.apply_exif_orientation = flags & 1 == 0;
    options.max_side = 2048;
    options.max_pixels = 1 << 20;
    let Ok(picture) = Picture::from_bytes("x", data, &options) else { return Corpus::Keep };
    let (width, height) = picture.size();
    assert!(width > 0 && height > 0 && width.max(height) <= options.max_side, "{picture:?}");
    assert!(u64::from(width) * u64::from(height) <= options.max_pixels, "{picture:?}");
    let long_side = 16 + u32::from(u16::from_le_bytes([low, high])) % 497;
    if let Ok(out) = preprocess_ref(&picture, long_side) {
        let (width, height) = out.dimensions();
        assert!(width > 0 && height > 0 && width % 16 == 0 && height % 16 == 0, "{width}x{height}");
        assert!(width.max(height) <= long_side, "{width}x{height} of {long_side}");
    }
    Corpus::Keep
});
