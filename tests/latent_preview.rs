//! What latents look like without the decoder, with the codec of the small model inside the programs.

use burn::tensor::{Device, Tensor};
use uno_core::image::Pixels;
use uno_core::preview::LatentPreview;
use uno_core::traits::LatentCodec;
use uno_models::checkpoint::embedded;
use uno_models::components::{PipelineOptions, load_autoencoder};

/// Mean colours of squares of `factor` pixels a side, row by row.
fn means(picture: &Pixels, factor: usize) -> Vec<f64> {
    let (columns, rows) = (picture.width / factor, picture.height / factor);
    let value = |x: usize, y: usize, c: usize| f64::from(picture.rgb[3 * (y * picture.width + x) + c]);
    let mean = |column: usize, row: usize, c: usize| {
        let pixels =
            (0..factor * factor).map(|i| value(column * factor + i % factor, row * factor + i / factor, c));
        pixels.sum::<f64>() / (factor * factor) as f64
    };
    let all = (0..rows).flat_map(|row| (0..columns).map(move |column| (column, row)));
    all.flat_map(|(column, row)| [0, 1, 2].map(|c| mean(column, row, c))).collect()
}

/// Root of the mean square.
fn rms(differences: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = differences.fold((0.0, 0), |(sum, n), x| (sum + x * x, n + 1));
    (sum / f64::from(count.max(1))).sqrt()
}

#[test]
fn previews_have_the_colours_of_pictures_that_were_not_fitted() {
    let device = Device::flex();
    let source = embedded().unwrap();
    let codec = load_autoencoder(&source, &PipelineOptions::new(&device)).unwrap();
    let preview = LatentPreview::fit(&codec, &device).unwrap();
    for name in ["mug", "robot", "car", "house"] {
        let picture = image::open(format!("examples/assets/{name}.png")).unwrap().into_rgb8();
        let picture = Pixels {
            width: picture.width() as usize,
            height: picture.height() as usize,
            rgb: picture.into_raw(),
        };
        let wanted = means(&picture, codec.downsampling());
        let latent = codec.encode(picture.to_tensor(&device).unwrap(), None).unwrap();
        let decoded = Pixels::from_tensor(codec.decode(latent.clone()).unwrap()).unwrap().remove(0);
        let shown = preview.picture(latent).unwrap();
        assert_eq!(shown.rgb.len(), wanted.len());
        let mean = wanted.iter().sum::<f64>() / wanted.len() as f64;
        let error = rms(shown.rgb.iter().zip(&wanted).map(|(a, b)| f64::from(*a) - b));
        let contrast = rms(wanted.iter().map(|b| b - mean));
        let decoded = rms(means(&decoded, codec.downsampling()).iter().zip(&wanted).map(|(a, b)| a - b));
        println!("{name}: error {error:.1}, of the decoder {decoded:.1}; contrast {contrast:.1}");
        if decoded > 0.4 * contrast {
            // Random weights, in place of the trained ones, keep no colours that could be shown.
            continue;
        }
        assert!(error < 0.6 * contrast, "{name}: error {error:.1} of 255, contrast {contrast:.1}");
    }
}

#[test]
fn a_latent_that_is_no_latent_of_the_codec_is_refused() {
    let device = Device::flex();
    let source = embedded().unwrap();
    let codec = load_autoencoder(&source, &PipelineOptions::new(&device)).unwrap();
    let preview = LatentPreview::fit(&codec, &device).unwrap();
    assert!(preview.picture(Tensor::zeros([1, codec.channels() + 1, 4, 4], &device)).is_err());
}
