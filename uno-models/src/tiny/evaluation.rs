//! How well pictures of the world keep their subjects and follow their prompts, measured with the renderer alone.
//!
//! A subject is looked for by sliding cut-outs of it over the picture; the distance is the mean squared difference of colours
//! where the cut-out covers. Identity: the right look is nearer than each of 15 other looks of the same kind (chance is 1/16).
//! Prompt: the scene whose mean picture is nearest is the right one, and the subjects lie as the relation says.

use rayon::prelude::*;
use uno_core::image::Pixels;

use super::world::{Composition, CutOut, Draw, Look, Relation, Scene, Subject, cut_out};

/// Pixels per side at which pictures are compared.
const SIDE: usize = 48;
/// Looks that the right one is compared with.
pub const OTHERS: usize = 15;
/// Pictures that a scene's mean is taken over.
const MEAN_OF: usize = 24;

/// A picture, smaller.
struct Small(Vec<[f32; 3]>);

impl Small {
    /// Mean colours of the pixels that fall into each place.
    fn of(picture: &Pixels) -> Self {
        let mut sums = vec![[0.0f32; 4]; SIDE * SIDE];
        for (i, rgb) in picture.rgb.chunks_exact(3).enumerate() {
            let (x, y) =
                (i % picture.width * SIDE / picture.width, i / picture.width * SIDE / picture.height);
            let sum = &mut sums[y * SIDE + x];
            (0..3).for_each(|c| sum[c] += f32::from(rgb[c]) / 255.0);
            sum[3] += 1.0;
        }
        Self(sums.iter().map(|[r, g, b, count]| [r, g, b].map(|x| x / count.max(1.0))).collect())
    }

    fn distance(&self, other: &Self) -> f32 {
        let square = |(a, b): (&[f32; 3], &[f32; 3])| (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f32>();
        self.0.iter().zip(&other.0).map(square).sum()
    }
}

/// Where a subject was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Mean squared difference of colours.
    pub distance: f32,
    /// Centre, in sides of the picture.
    pub centre: [f32; 2],
    /// Half its size, in sides of the picture.
    pub half: f32,
}

impl Found {
    /// The box around it in pixels of a picture, with a little room: left, top, right, bottom.
    pub fn area(&self, width: u32, height: u32) -> [u32; 4] {
        let edge = |centre: f32, sign: f32, length: u32| {
            ((centre + sign * 1.15 * self.half) * length as f32).round().clamp(0.0, length as f32) as u32
        };
        let [x, y] = self.centre;
        [edge(x, -1.0, width), edge(y, -1.0, height), edge(x, 1.0, width), edge(y, 1.0, height)]
    }
}

/// The best place of a cut-out whose centre stays inside.
fn slide(picture: &Small, cut: &CutOut, half: f32) -> Found {
    let points: Vec<(i32, i32, [f32; 3], f32)> = (0..cut.side * cut.side)
        .filter(|&i| cut.covered[i] > 0.1)
        .map(|i| {
            let middle = cut.side as i32 / 2;
            let (x, y) = ((i % cut.side) as i32 - middle, (i / cut.side) as i32 - middle);
            (x, y, cut.colours[i], cut.covered[i])
        })
        .collect();
    let total: f32 = points.iter().map(|point| point.3).sum();
    let mut best = Found { distance: f32::INFINITY, centre: [0.5; 2], half: half / SIDE as f32 };
    let reach = half as i32;
    for cy in reach..SIDE as i32 - reach + 2 {
        for cx in reach - 1..SIDE as i32 - reach + 2 {
            let mut sum = 0.0;
            for &(dx, dy, colour, weight) in &points {
                let (x, y) = (cx + dx, cy + dy);
                if x < 0 || y < 0 || x >= SIDE as i32 || y >= SIDE as i32 {
                    // Beyond the picture nothing is known.
                    sum += 0.1 * weight;
                    continue;
                }
                let there = picture.0[y as usize * SIDE + x as usize];
                sum += weight * (0..3).map(|c| (there[c] - colour[c]).powi(2)).sum::<f32>();
            }
            if sum / total < best.distance {
                best.distance = sum / total;
                best.centre = [cx, cy].map(|x| x as f32 / SIDE as f32);
            }
        }
    }
    best
}

/// Sizes that subjects have in pictures of so many.
fn halves(count: usize) -> &'static [f32] {
    match count {
        0 | 1 => &[0.31, 0.33, 0.35],
        2 => &[0.21, 0.225, 0.24, 0.26],
        _ => &[0.15, 0.16, 0.17],
    }
}

/// Looks for a subject, among sizes that are usual in pictures of `count`.
fn find(picture: &Small, subject: Subject, count: usize) -> Found {
    let tries = halves(count).iter().flat_map(|&half| [(half, false), (half, true)]);
    let found = tries.map(|(half, mirrored)| {
        let half = half * SIDE as f32;
        let side = 2 * (1.4 * half).ceil() as usize + 1;
        slide(picture, &cut_out(subject, half, mirrored, side), half)
    });
    let nearest = found.min_by(|a, b| a.distance.total_cmp(&b.distance));
    nearest.unwrap_or(Found { distance: f32::INFINITY, centre: [0.5; 2], half: 0.0 })
}

/// Where a subject is most likely in a picture of `count` subjects.
pub fn locate(picture: &Pixels, subject: Subject, count: usize) -> Found {
    find(&Small::of(picture), subject, count)
}

/// What one picture shows of what it should.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// For each subject: how many of the other looks are further away than the right one, as a share; 1 is best, chance 1/2.
    pub rank: Vec<f32>,
    /// For each subject: whether the right look is nearest of all.
    pub is_right: Vec<bool>,
    /// For each subject: the distance of the right look.
    pub distance: Vec<f32>,
    /// Whether the scene is the one asked for.
    pub scene: bool,
    /// Whether the subjects lie as asked for; nothing for one subject.
    pub relation: Option<bool>,
}

/// The judge: mean pictures of the scenes.
pub struct Judge {
    scenes: Vec<(Scene, Small)>,
}

impl Judge {
    /// Renders what it compares with.
    pub fn new() -> Self {
        let mean = |&scene: &Scene| {
            let pictures: Vec<Small> = (0..MEAN_OF)
                .into_par_iter()
                .map(|i| {
                    let mut draw = Draw::stream(0x6a75, scene as u64, i as u64);
                    let composition = Composition::draw(&mut draw, 1 + i % 3, false);
                    Small::of(&Composition { scene, ..composition }.render(2 * SIDE))
                })
                .collect();
            let mean = |place: usize| {
                let sum = |c: usize| pictures.iter().map(|p| p.0[place][c]).sum::<f32>() / MEAN_OF as f32;
                [sum(0), sum(1), sum(2)]
            };
            (scene, Small((0..SIDE * SIDE).map(mean).collect()))
        };
        Self { scenes: Scene::ALL.iter().map(mean).collect() }
    }

    /// Judges a picture that should show `wanted`. The same `seed` compares with the same other looks.
    pub fn judge(&self, picture: &Pixels, wanted: &Composition, seed: u64) -> Scores {
        let picture = Small::of(picture);
        let count = wanted.subjects.len();
        let nearest =
            self.scenes.iter().min_by(|a, b| picture.distance(&a.1).total_cmp(&picture.distance(&b.1)));
        let found: Vec<(Found, Vec<f32>)> = wanted
            .subjects
            .iter()
            .enumerate()
            .map(|(i, &subject)| {
                let mut draw = Draw::stream(seed, 0x6c6f, i as u64);
                let others: Vec<Look> = others(subject.look, &mut draw);
                let distance = |&look: &Look| find(&picture, Subject { look, ..subject }, count).distance;
                (find(&picture, subject, count), others.par_iter().map(distance).collect())
            })
            .collect();
        let further =
            |(right, others): &(Found, Vec<f32>)| others.iter().filter(|d| **d > right.distance).count();
        Scores {
            rank: found.iter().map(|found| further(found) as f32 / OTHERS as f32).collect(),
            is_right: found.iter().map(|found| further(found) == OTHERS).collect(),
            distance: found.iter().map(|(right, _)| right.distance).collect(),
            scene: nearest.is_some_and(|(scene, _)| *scene == wanted.scene),
            relation: (count > 1).then(|| {
                let places: Vec<Found> = found.iter().map(|(right, _)| *right).collect();
                lies_as(&places, wanted.relation)
            }),
        }
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

/// Looks to compare with, all different from `right` and each other.
fn others(right: Look, draw: &mut Draw) -> Vec<Look> {
    let mut all: Vec<Look> = Look::all().filter(|look| *look != right).collect();
    draw.shuffle(&mut all);
    all.truncate(OTHERS);
    all
}

/// Whether subjects lie as a relation says; three stand in a row.
fn lies_as(places: &[Found], relation: Relation) -> bool {
    match places {
        [a, b] => match relation {
            Relation::LeftOf => a.centre[0] < b.centre[0] - 0.15,
            Relation::RightOf => a.centre[0] > b.centre[0] + 0.15,
            Relation::OnTopOf => a.centre[1] < b.centre[1] - 0.15,
        },
        _ => places.windows(2).all(|pair| pair[0].centre[0] < pair[1].centre[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::pair;
    use super::*;

    #[test]
    fn rendered_pictures_are_judged_right_and_others_wrong() {
        let judge = Judge::new();
        let (mut right, mut wrong, mut scenes, mut relations) = (0, 0, 0, 0);
        let count = 12;
        for i in 0..count {
            let wanted = pair(5, i, 1 + i % 2, true).composition;
            let scores = judge.judge(&wanted.render(96), &wanted, 1);
            right += usize::from(scores.is_right[0]);
            scenes += usize::from(scores.scene);
            relations += usize::from(scores.relation.unwrap_or(true));
            // The same scene with subjects of other looks.
            let mut other = wanted.clone();
            other
                .subjects
                .iter_mut()
                .for_each(|subject| subject.look = Look::draw(&mut Draw::new(i as u64), false));
            wrong += usize::from(judge.judge(&other.render(96), &wanted, 1).is_right[0]);
        }
        assert!(right >= 10 && scenes >= 11 && relations >= 10, "{right} {scenes} {relations}");
        assert!(wrong <= 3, "{wrong}");
    }
}
