//! The model inside the programs is subject-driven: looks that it has never seen come from the references.

use burn::tensor::Device;
use image::RgbImage;
use uno_core::image::Pixels;
use uno_core::traits::Silent;
use uno_models::UnoPipeline;
use uno_models::checkpoint::embedded;
use uno_models::components::{PipelineOptions, load};
use uno_models::picture::Picture;
use uno_models::tiny::autoencoder::SIDE;
use uno_models::tiny::data::{Pair, pair};
use uno_models::tiny::evaluation::{Judge, Scores};
use uno_models::tiny::world::ReferenceView;

const SEED: u64 = 77;

/// The scores of a picture of `wanted`, made with the references of `given`.
fn judged(pipeline: &UnoPipeline, judge: &Judge, wanted: &Pair, given: &Pair) -> Scores {
    let reference = |view: &ReferenceView| {
        let rgb = RgbImage::from_raw(SIDE as u32, SIDE as u32, view.render(SIDE).rgb).unwrap();
        Picture::from_rgb("reference", rgb)
    };
    let mut request = pipeline.request(&wanted.prompt).with_steps(12).with_seed(SEED);
    request.references = given.references.iter().map(reference).collect();
    let made = pipeline.generate(&request, &Silent).unwrap().pictures.remove(0).picture;
    let (width, height) = (made.width() as usize, made.height() as usize);
    judge.judge(&Pixels { width, height, rgb: made.into_raw() }, &wanted.composition, SEED)
}

/// Means over held-out samples with so many subjects: of the rank with their own references and with those of another, and of
/// the share of pictures with the right scene.
fn means(pipeline: &UnoPipeline, subjects: usize, count: usize) -> [f32; 3] {
    let judge = Judge::new();
    let pairs: Vec<Pair> = (0..count).map(|i| pair(SEED, i, subjects, true)).collect();
    let with = |shift: usize| -> Vec<Scores> {
        let given = |i: usize| &pairs[(i + shift) % count];
        pairs.iter().enumerate().map(|(i, wanted)| judged(pipeline, &judge, wanted, given(i))).collect()
    };
    let rank = |scores: &[Scores]| {
        let ranks: Vec<f32> = scores.iter().flat_map(|s| s.rank.iter().copied()).collect();
        ranks.iter().sum::<f32>() / ranks.len() as f32
    };
    let (own, others) = (with(0), with(1));
    let scenes = own.iter().filter(|s| s.scene).count() as f32 / count as f32;
    println!(
        "{subjects} subjects: rank {:.3} own, {:.3} others'; scene {scenes:.3}",
        rank(&own),
        rank(&others)
    );
    [rank(&own), rank(&others), scenes]
}

#[test]
fn held_out_looks_come_from_the_references_and_scenes_from_the_prompt() {
    let pipeline = load(&embedded().unwrap(), &PipelineOptions::new(&Device::flex()), &Silent).unwrap();
    for (subjects, count) in [(1, 8), (2, 6)] {
        let [own, others, scenes] = means(&pipeline, subjects, count);
        assert!(own > 0.8, "{subjects} subjects: rank {own}, where chance is 0.5");
        assert!(
            own > others + 0.15,
            "{subjects} subjects: {own} with their own references, {others} with others'"
        );
        assert!(scenes > 0.8, "{subjects} subjects: {scenes} of scenes");
    }
}
