//! Whole generations against the official implementation: latents, pixels, and the picture.

mod common;

use burn::tensor::FloatDType;
use common::*;
use uno_core::noise::NoiseSource;
use uno_core::traits::Silent;
use uno_models::checkpoint::{CheckpointOptions, Environment, discover};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::request::{NoiseDtype, Sample};
use uno_models::{Request, UnoPipeline};

fn pipeline(set: &std::path::Path, adjust: impl FnOnce(&mut PipelineOptions)) -> UnoPipeline {
    let mut files = CheckpointOptions::in_folder(set.join("model"));
    files.environment = Environment::empty();
    files.use_lora = set.join("model/dit_lora.safetensors").exists();
    let source = ModelSource::open(&discover(&files, &()).unwrap()).unwrap();
    let mut options = PipelineOptions::new(&device());
    adjust(&mut options);
    load(&source, &options, &Silent).unwrap()
}

/// Every `cases/pipe_*.safetensors` of a set, as the request that it tells.
fn requests(set: &std::path::Path) -> Vec<(std::path::PathBuf, Cases, Request)> {
    let mut files: Vec<_> = std::fs::read_dir(set.join("cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("pipe_"))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    let read = |file: std::path::PathBuf| {
        let cases = Cases::open(&file);
        let mut request = Request::new(cases.meta::<String>("prompt"))
            .with_size(cases.meta("width"), cases.meta("height"))
            .with_steps(cases.meta("steps"))
            .with_seed(cases.meta("seed"));
        request.guidance = cases.meta("guidance");
        request.pe = cases.meta::<String>("pe").parse().unwrap();
        request.ref_size = Some(cases.meta("ref_long_side"));
        (request.noise, request.noise_dtype) = (NoiseSource::TorchCpu, NoiseDtype::F32);
        let references: Vec<String> = serde_json::from_str(&cases.meta::<String>("refs")).unwrap();
        for reference in references {
            let mut options = DecodeOptions::default();
            options.apply_exif_orientation = false;
            let path = set.join("preprocess").join(reference);
            request.references.push(Picture::open(path, &options).unwrap());
        }
        (file, cases, request)
    };
    files.into_iter().map(read).collect()
}

fn levels(got: &image::RgbImage, wanted: &image::RgbImage) -> f64 {
    assert_eq!(got.dimensions(), wanted.dimensions());
    got.as_raw().iter().zip(wanted.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b))).fold(0.0, f64::max)
}

#[test]
fn generations_agree_with_the_official_ones() {
    for set in sets() {
        for merge in [false, true] {
            let pipeline = pipeline(&set, |options| options.merge_lora = merge.into());
            for (file, cases, request) in requests(&set) {
                let name = file.file_stem().unwrap().to_string_lossy().into_owned();
                let name = if merge { format!("{name}, LoRA merged") } else { name };
                let generation = pipeline.generate(&request, &Silent).unwrap();
                let [_, _, h, w] = generation.latents.dims();
                let wanted = uno_core::latents::unpack(cases.tensor("latent_packed"), [h, w]).unwrap();
                let error = relative_error(&values(generation.latents), &values(wanted));
                // JPEG references differ by some levels already (see parity_preprocess).
                let jpeg = cases.meta::<String>("refs").contains(".jp");
                check(&set, &format!("{name}: final latent"), error, if jpeg { 1e-2 } else { COMPONENT });
                let wanted = image::open(file.with_extension("png")).unwrap().into_rgb8();
                let error = levels(&generation.pictures[0].picture, &wanted);
                check(&set, &format!("{name}: picture, largest difference in levels of 255"), error, 2.0);
            }
        }
    }
}

#[test]
fn a_picture_is_the_same_twice_and_in_a_batch_and_alone() {
    for set in sets() {
        let pipeline = pipeline(&set, |_| ());
        for (file, _, request) in requests(&set) {
            let alone = pipeline.generate(&request, &Silent).unwrap().pictures.remove(0).picture;
            let again = pipeline.generate(&request, &Silent).unwrap().pictures.remove(0).picture;
            let mut batch = request.clone();
            batch.samples.insert(0, Sample { prompt: "something else".into(), seed: 99 });
            batch.samples.push(Sample { prompt: String::new(), seed: 3 });
            let batch = pipeline.generate(&batch, &Silent).unwrap().pictures.remove(1).picture;
            assert!(alone == again, "{}: differs when repeated", file.display());
            assert!(
                alone == batch,
                "{}: differs in a batch by {} levels",
                file.display(),
                levels(&alone, &batch)
            );
            println!("{}: the same twice and in a batch of three", file.display());
        }
    }
}

#[test]
fn a_picture_is_the_same_on_one_thread_and_on_two() {
    for set in sets() {
        let pipeline = pipeline(&set, |_| ());
        for (file, _, request) in requests(&set) {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| pipeline.generate(&request, &Silent).unwrap().pictures.remove(0).picture)
            };
            assert!(on(1) == on(2), "{}", file.display());
            println!("{}: the same on 1 and 2 threads", file.display());
        }
    }
}

#[test]
fn the_autoencoder_is_f32_and_the_transformer_may_be_bf16() {
    for set in sets() {
        let exact = pipeline(&set, |_| ());
        let rounded = pipeline(&set, |options| options.dtype = FloatDType::BF16);
        for (file, _, request) in requests(&set) {
            let [a, b] = [&exact, &rounded].map(|p| values(p.generate(&request, &Silent).unwrap().latents));
            let error = relative_error(&b, &a);
            println!("{}: bf16 against f32: error {error:.1e}", file.display());
            // bf16 has 8 bits; the random weights make more of its errors over the steps.
            assert!(error > 0.0 && error < 0.5, "{error}");
        }
    }
}
