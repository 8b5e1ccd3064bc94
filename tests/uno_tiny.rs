//! The model inside the programs is subject-driven: on looks that it was not trained on, judged by the renderer.

use burn::tensor::Device;
use image::RgbImage;
use uno_core::image::Pixels;
use uno_core::traits::Silent;
use uno_models::UnoPipeline;
use uno_models::checkpoint::embedded;
use uno_models::components::{PipelineOptions, load};
use uno_models::picture::Picture;
use uno_models::tiny::data::{Pair, pair};
use uno_models::tiny::evaluation::{Judge, Scores};

const SIDE: usize = 128;
/// Another seed than that of docs/training.md, so other samples.
const SEED: u64 = 77;

/// The picture of a sample, with the references of `given`, or none.
fn draw(pipeline: &UnoPipeline, wanted: &Pair, given: Option<&Pair>) -> Pixels {
    let mut request = pipeline.request(wanted.prompt.clone()).with_steps(12);
    for view in given.iter().flat_map(|pair| &pair.references) {
        let Pixels { width, height, rgb } = view.render(SIDE);
        let rgb = RgbImage::from_raw(width as u32, height as u32, rgb).unwrap();
        request = request.with_reference(Picture::from_rgb("view", rgb));
    }
    let picture = pipeline.generate(&request, &Silent).unwrap().pictures.remove(0).picture;
    Pixels { width: SIDE, height: SIDE, rgb: picture.into_raw() }
}

#[test]
fn subjects_look_as_their_references_show_them_and_scenes_as_the_prompt_says() {
    let pipeline = load(&embedded().unwrap(), &PipelineOptions::new(&Device::flex()), &Silent).unwrap();
    let judge = Judge::new();
    for (subjects, least) in [(1, 0.6), (2, 0.4)] {
        let pairs: Vec<Pair> = (0..10).map(|i| pair(SEED, i, subjects, true)).collect();
        let share = |given: &dyn Fn(usize) -> Option<usize>| {
            let scores: Vec<Scores> = pairs
                .iter()
                .enumerate()
                .map(|(i, wanted)| {
                    let picture = draw(&pipeline, wanted, given(i).map(|i| &pairs[i]));
                    judge.judge(&picture, &wanted.composition, SEED)
                })
                .collect();
            let right = scores.iter().flat_map(|s| &s.is_right).filter(|right| **right).count();
            let scenes = scores.iter().filter(|s| s.scene).count();
            (right as f64 / (10 * subjects) as f64, scenes as f64 / 10.0)
        };
        let (own, scenes) = share(&Some);
        let (others, _) = share(&|i| Some((i + 1) % 10));
        let (none, _) = share(&|_| None);
        println!("{subjects}: own {own}, others {others}, none {none}, scenes {scenes}");
        assert!(own >= least, "{subjects} subjects: {own} with their own references");
        assert!(others <= 0.3 && none <= 0.3, "{subjects} subjects: {others} with others', {none} without");
        assert!(scenes >= 0.8, "{subjects} subjects: {scenes}");
    }
}
