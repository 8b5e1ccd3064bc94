//! Pictures of the world as the transformer is trained on them: packed latents, made once and kept in a file.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sha2::{Digest, Sha256};
use uno_core::image::Pixels;
use uno_core::latents::pack;
use uno_core::traits::LatentCodec;
use uno_core::weights::{Checkpoint, StorageDtype, TensorHeader};

use super::world::caption::{Detail, of_picture, of_subject};
use super::world::{Composition, Draw, ReferenceView, Relation, Scene, Subject};
use crate::error::{Error, Result};
use crate::train::shares::Shares;

/// Features of a packed token.
pub const FEATURES: usize = 64;

/// Packed latents of many pictures of the same size.
#[derive(Debug, Clone)]
pub struct Latents {
    /// Tokens of one picture.
    pub tokens: usize,
    /// `[pictures, tokens, FEATURES]`.
    numbers: Vec<f32>,
}

/// Pictures that are encoded at a time.
const SHARES: usize = 2;
const NAME: &str = "latents";

impl Latents {
    /// Encodes the pictures `0..count` of `render` on `device`, or reads what an earlier run left in `path`.
    ///
    /// # Errors
    ///
    /// What the codec returns; a file that cannot be read or written.
    pub fn of(
        path: &Path,
        codec: &dyn LatentCodec,
        count: usize,
        device: &Device,
        render: impl Fn(usize) -> Pixels + Sync,
    ) -> Result<Self> {
        if path.exists() {
            return Self::read(path);
        }
        // Each picture on its share of the cores: pictures are small.
        let encoded = Shares::new(SHARES)?.run(|share| -> Result<Vec<_>> {
            let one = |i: usize| {
                let packed = pack(codec.encode(render(i).to_tensor(device)?, None)?)?;
                Ok((packed.dims()[1], uno_core::tensor_to_vec(packed)?))
            };
            (share..count).step_by(SHARES).map(one).collect()
        })?;
        let tokens = encoded.first().and_then(|share| share.first()).map_or(0, |(tokens, _)| *tokens);
        let numbers: Vec<f32> =
            (0..count).flat_map(|i| encoded[i % SHARES][i / SHARES].1.iter().copied()).collect();
        let header = TensorHeader {
            name: NAME.into(),
            dtype: StorageDtype::F16,
            shape: vec![count, tokens, FEATURES],
        };
        uno_core::weights::write(path, &[header], &BTreeMap::new(), |_| {
            let packed = StorageDtype::F16.pack(&numbers);
            packed.ok_or_else(|| uno_core::Error::invalid("latents", "values beyond f16", "numbers near 1"))
        })?;
        // Read back, so that a run that goes on sees the same rounded numbers.
        Self::read(path)
    }

    fn read(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let stored =
            checkpoint.tensors().get(NAME).filter(|t| t.shape().len() == 3 && t.shape()[2] == FEATURES);
        let stored = stored.ok_or_else(|| Error::format(path, "holds no latents [pictures, tokens, 64]"))?;
        Ok(Self { tokens: stored.shape()[1], numbers: stored.to_f32() })
    }

    /// Latents that are at hand, of `tokens` tokens each.
    pub fn of_numbers(tokens: usize, numbers: Vec<f32>) -> Self {
        Self { tokens, numbers }
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.numbers.len() / (self.tokens * FEATURES).max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Some pictures' latents, `[these, tokens, FEATURES]`.
    pub fn select(&self, which: &[usize], device: &Device) -> Tensor<3> {
        let size = self.tokens * FEATURES;
        let numbers: Vec<f32> =
            which.iter().flat_map(|&i| self.numbers[i * size..(i + 1) * size].iter().copied()).collect();
        Tensor::from_data(
            TensorData::new(numbers, [which.len(), self.tokens, FEATURES]),
            (device, DType::F32),
        )
    }

    /// Mean and standard deviation over all numbers.
    pub fn spread(&self) -> [f64; 2] {
        let count = self.numbers.len().max(1) as f64;
        let mean = self.numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let square = self.numbers.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        [mean, square.sqrt()]
    }
}

/// A sample of UNO's training: what the target shows, the prompt, which names kinds only, and a view of each subject.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What the target shows.
    pub composition: Composition,
    /// The prompt.
    pub prompt: String,
    /// References, in the order of the prompt.
    pub references: Vec<ReferenceView>,
}

/// Sample `index` with `count` subjects, whose looks are held out or not.
pub fn pair(seed: u64, index: usize, count: usize, held_out: bool) -> Pair {
    let mut draw = Draw::stream(seed, 201 + 2 * count as u64 + u64::from(held_out), index as u64);
    let composition = Composition::draw(&mut draw, count, held_out);
    let prompt = of_picture(&composition, Detail::KindOnly, &mut draw);
    let view = |&subject: &Subject| ReferenceView { subject, seed: draw.bits() };
    let references = composition.subjects.iter().map(view).collect();
    Pair { composition, prompt, references }
}

/// Two pictures of the same subject in one, the second with a companion: what FLUX.1-dev has seen in its data, and a synthesis
/// of pairs asks of its base (paper, section 3.2).
#[derive(Debug, Clone)]
pub struct Diptych {
    /// What the panels show.
    pub panels: [Composition; 2],
    /// Whether they lie one above the other, and not side by side.
    pub is_stacked: bool,
    /// The caption.
    pub caption: String,
}

/// Diptych `index` of one layout.
pub fn diptych(seed: u64, index: usize, is_stacked: bool) -> Diptych {
    let mut draw = Draw::stream(seed, 210 + u64::from(is_stacked), index as u64);
    // The caption only says "with", so that has to mean one place: of several, a small model paints a blot.
    let second = Composition { relation: Relation::LeftOf, ..Composition::draw(&mut draw, 2, false) };
    let mut first = Composition::draw(&mut draw, 1, false);
    first.subjects = second.subjects[..1].to_vec();
    while first.scene == second.scene {
        first.scene = Scene::ALL[draw.below(Scene::ALL.len())];
    }
    // Where the words do not say how a subject looks, only the other panel does: that is what makes a model look there.
    let detail = if draw.chance(0.5) { Detail::KindOnly } else { Detail::Looks };
    let [subject, companion] = [0, 1].map(|i| of_subject(second.subjects[i], detail));
    let caption = format!("{subject} {}, {} with {companion}", first.scene.word(), second.scene.word());
    Diptych { panels: [first, second], is_stacked, caption }
}

impl Diptych {
    /// How much of each token lies within reach of a subject, panels of `side` x `side` tokens.
    pub fn covered(&self, side: usize) -> Vec<f32> {
        let [first, second] = self.panels.each_ref().map(|panel| panel.covered(side));
        joined(&first, &second, side, self.is_stacked)
    }

    /// The picture, its panels `side` pixels wide and high.
    pub fn render(&self, side: usize) -> Pixels {
        let [first, second] = self.panels.each_ref().map(|panel| panel.render(side).rgb);
        let rgb = joined(&first, &second, 3 * side, self.is_stacked);
        let (width, height) = if self.is_stacked { (side, 2 * side) } else { (2 * side, side) };
        Pixels { width, height, rgb }
    }
}

/// Two panels with rows of `row` numbers as one: one above the other, or side by side.
fn joined<T: Copy>(first: &[T], second: &[T], row: usize, is_stacked: bool) -> Vec<T> {
    if is_stacked {
        return [first, second].concat();
    }
    let rows = first.chunks_exact(row).zip(second.chunks_exact(row));
    rows.flat_map(|(a, b)| [a, b].concat()).collect()
}

/// The composition and the caption of text-to-image training picture `index`.
pub fn scene(seed: u64, index: usize) -> (Composition, String) {
    let mut draw = Draw::stream(seed, 200, index as u64);
    let composition = Composition::draw_any(&mut draw);
    let caption = of_picture(&composition, Detail::Looks, &mut draw);
    (composition, caption)
}

/// Eight hexadecimal digits that change with the world: a hash of captions and pictures of each sort. What is drawn once and
/// kept in files carries it in its name, so that nothing is trained on pictures of an earlier world.
pub fn fingerprint() -> String {
    const EACH: usize = 16;
    const SIDE: usize = 32;
    let mut hash = Sha256::new();
    let mut add = |caption: &str, pictures: &[Pixels]| {
        hash.update(caption);
        pictures.iter().for_each(|picture| hash.update(&picture.rgb));
    };
    for i in 0..EACH {
        let (composition, caption) = scene(0, i);
        add(&caption, &[composition.render(SIDE)]);
        let diptych = diptych(0, i, i % 2 == 0);
        add(&diptych.caption, &[diptych.render(SIDE)]);
        let pair = pair(0, i, 1 + i % 3, false);
        let views: Vec<_> = pair.references.iter().map(|view| view.render(SIDE)).collect();
        add(&pair.prompt, &[&views[..], &[pair.composition.render(SIDE)]].concat());
    }
    hash.finalize()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panels_of_a_diptych_are_the_two_pictures_and_share_a_subject() {
        for (index, is_stacked) in [(0, false), (1, true), (2, false)] {
            let diptych = diptych(9, index, is_stacked);
            let [first, second] = &diptych.panels;
            assert_eq!(first.subjects[0], second.subjects[0]);
            assert_ne!(first.scene, second.scene);
            let picture = diptych.render(32);
            assert_eq!((picture.width, picture.height), if is_stacked { (32, 64) } else { (64, 32) });
            let (start, row) = if is_stacked { (32 * 32 * 3, 32 * 3) } else { (32 * 3, 64 * 3) };
            let panel: Vec<u8> =
                (0..32).flat_map(|y| picture.rgb[start + y * row..][..32 * 3].to_vec()).collect();
            assert_eq!(panel, second.render(32).rgb);

            let (covered, wanted) = (diptych.covered(2), second.covered(2));
            let panel = if is_stacked { [4, 5, 6, 7] } else { [2, 3, 6, 7] };
            assert_eq!(panel.map(|i| covered[i]).as_slice(), wanted);
        }
    }

    #[test]
    fn the_worlds_fingerprint_is_the_same_each_time_and_short_enough_for_a_name() {
        let digits = fingerprint();
        assert_eq!(digits, fingerprint());
        assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{digits}");
    }
}
