//! Pictures of the world: subjects in a scene, and single subjects on plain ground as references.

use std::f32::consts::PI;

use uno_core::image::Pixels;

use super::canvas::{Canvas, Point, Pose};
use super::draw::Draw;
use super::figures;
use super::scene::{self, Scene};
use super::subject::{Subject, named};

named! {
    /// How two subjects of a picture lie.
    Relation {
        /// The first to the left of the second.
        LeftOf = "to the left of",
        /// The first to the right of the second.
        RightOf = "to the right of",
        /// The first on top of the second.
        OnTopOf = "on top of",
    }
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    /// Where it is.
    pub scene: Scene,
    /// One to three subjects; three stand in a row, left to right.
    pub subjects: Vec<Subject>,
    /// How two subjects lie; nothing for one or three.
    pub relation: Relation,
    /// Decides what the caption does not say: places, sizes, what varies in the scene.
    pub seed: u64,
}

/// Chances of one, two and three subjects in a random composition.
const COUNTS: [f32; 3] = [0.2, 0.45, 0.35];

impl Composition {
    /// A random composition of `count` subjects, whose looks are held out or not.
    pub fn draw(draw: &mut Draw, count: usize, held_out: bool) -> Self {
        Self {
            scene: Scene::ALL[draw.below(Scene::ALL.len())],
            subjects: Subject::draw_many(draw, count, held_out),
            relation: Relation::ALL[draw.below(Relation::ALL.len())],
            seed: draw.bits(),
        }
    }

    /// A random composition of one to three subjects, none held out.
    pub fn draw_any(draw: &mut Draw) -> Self {
        let number = draw.unit();
        let count = 1 + usize::from(number > COUNTS[0]) + usize::from(number > COUNTS[0] + COUNTS[1]);
        Self::draw(draw, count, false)
    }

    /// The picture, `side` pixels wide and high.
    pub fn render(&self, side: usize) -> Pixels {
        let mut draw = Draw::new(self.seed);
        let mut canvas = Canvas::new(side, [0.0; 3]);
        let poses = self.poses(&mut draw);
        scene::draw(&mut canvas, self.scene, &mut draw);
        let is_dark = self.scene == Scene::Night;
        let order: &[usize] = match (self.subjects.len(), self.relation) {
            (2, Relation::OnTopOf) => &[1, 0],
            _ => &[0, 1, 2],
        };
        for &i in order {
            let (Some(&subject), Some(pose)) = (self.subjects.get(i), poses.get(i)) else { continue };
            let stands_on_ground =
                !(self.subjects.len() == 2 && self.relation == Relation::OnTopOf && i == 0);
            if stands_on_ground {
                figures::shadow(&mut canvas, pose, if is_dark { 0.55 } else { 0.38 });
            }
            figures::draw(&mut canvas, subject, pose);
        }
        canvas.to_pixels()
    }

    /// How much of each square of a grid of `side` x `side` lies within reach of a subject, row by row, from 0 to 1.
    pub fn covered(&self, side: usize) -> Vec<f32> {
        let poses = self.poses(&mut Draw::new(self.seed));
        let overlap = |centre: f32, half: f32, i: usize| {
            let (start, end) = (i as f32 / side as f32, (i + 1) as f32 / side as f32);
            ((end.min(centre + half) - start.max(centre - half)) * side as f32).max(0.0)
        };
        let square = |i: usize| {
            let of = |pose: &Pose| {
                let [x, y] = pose.centre;
                overlap(x, pose.half, i % side) * overlap(y, pose.half, i / side)
            };
            poses.iter().map(of).sum::<f32>().min(1.0)
        };
        (0..side * side).map(square).collect()
    }

    /// Where each subject stands. Little of it is left to chance and all face the same way, unlike in references: a small model
    /// learns outlines that it meets in the same places.
    fn poses(&self, draw: &mut Draw) -> Vec<Pose> {
        let mut place = |x: f32, ground: f32, half: f32| {
            let (x, ground) = (x + draw.between(-0.01, 0.01), ground + draw.between(-0.01, 0.01));
            let half = half * draw.between(0.98, 1.02);
            Pose::upright([x, ground - half], half)
        };
        match (self.subjects.len(), self.relation) {
            (0 | 1, _) => vec![place(0.5, 0.9, 0.33)],
            (2, Relation::LeftOf) => vec![place(0.26, 0.88, 0.235), place(0.74, 0.88, 0.235)],
            (2, Relation::RightOf) => vec![place(0.74, 0.88, 0.235), place(0.26, 0.88, 0.235)],
            (2, Relation::OnTopOf) => {
                let under = place(0.5, 0.95, 0.24);
                let mut over = place(0.5, 0.95, 0.21);
                over.centre =
                    [under.centre[0] + 0.02, under.centre[1] - 0.93 * under.half - 0.95 * over.half];
                vec![over, under]
            }
            _ => [0.18, 0.5, 0.82].map(|x| place(x, 0.88, 0.16)).to_vec(),
        }
    }
}

/// A subject alone on plain ground, in a pose of its own: what is given as a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceView {
    /// Whom it shows.
    pub subject: Subject,
    /// Decides its pose and the ground.
    pub seed: u64,
}

impl ReferenceView {
    /// The picture, `side` pixels wide and high.
    pub fn render(&self, side: usize) -> Pixels {
        let mut draw = Draw::new(self.seed);
        let mut canvas = Canvas::new(side, [0.0; 3]);
        scene::draw_plain(&mut canvas, &mut draw);
        let half = draw.between(0.32, 0.38);
        let centre: Point = [0.5 + draw.between(-0.04, 0.04), 0.5 + draw.between(-0.04, 0.04)];
        let (tilt, mirrored) = (draw.between(-PI / 9.0, PI / 9.0), draw.chance(0.5));
        figures::draw(&mut canvas, self.subject, &Pose { centre, half, tilt, mirrored });
        canvas.to_pixels()
    }
}

/// A subject without anything around it: colours, and how much of each pixel it covers.
#[derive(Debug, Clone, PartialEq)]
pub struct CutOut {
    /// Pixels per side.
    pub side: usize,
    /// Red, green and blue in [0, 1] of each pixel, row by row; only where it is covered.
    pub colours: Vec<[f32; 3]>,
    /// From 0 to 1.
    pub covered: Vec<f32>,
}

/// An upright subject in the middle of `side` x `side` pixels, that reaches `half` pixels from its centre (and parts a little
/// further).
pub fn cut_out(subject: Subject, half: f32, mirrored: bool, side: usize) -> CutOut {
    let pose = Pose { mirrored, ..Pose::upright([0.5, 0.5], half / side as f32) };
    let on = |ground: f32| {
        let mut canvas = Canvas::new(side, [ground; 3]);
        figures::draw(&mut canvas, subject, &pose);
        canvas.into_colours()
    };
    let (black, white) = (on(0.0), on(1.0));
    // What shows of the ground is what the two differ in.
    let covered: Vec<f32> =
        black.iter().zip(&white).map(|(b, w)| (1.0 - (w[0] - b[0])).clamp(0.0, 1.0)).collect();
    let colours = black.iter().zip(&covered).map(|(b, c)| b.map(|x| x / c.max(1e-3))).collect();
    CutOut { side, colours, covered }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_picture_and_another_another() {
        let composition = Composition::draw(&mut Draw::new(9), 2, false);
        let again = Composition { seed: composition.seed ^ 1, ..composition.clone() };
        assert_eq!(composition.render(64), composition.render(64));
        assert_ne!(composition.render(64), again.render(64));
    }

    #[test]
    fn subjects_stay_inside_and_lie_as_the_relation_says() {
        for seed in 0..200 {
            let mut draw = Draw::new(seed);
            let count = 1 + seed as usize % 3;
            let composition = Composition::draw(&mut draw, count, false);
            let poses = composition.poses(&mut draw);
            assert_eq!(poses.len(), count);
            for Pose { centre: [x, y], half, .. } in &poses {
                assert!(
                    x - half > 0.0 && x + half < 1.0 && y - half > -0.05 && y + half < 1.0,
                    "{x} {y} {half}"
                );
            }
            let [x, y] = [0, 1]
                .map(|axis| poses.first().zip(poses.get(1)).map(|(a, b)| a.centre[axis] - b.centre[axis]));
            let (Some(x), Some(y)) = (x, y) else { continue };
            match composition.relation {
                _ if count == 3 => assert!(x < 0.0),
                Relation::LeftOf => assert!(x < -0.3),
                Relation::RightOf => assert!(x > 0.3),
                Relation::OnTopOf => assert!(y < -0.3 && x.abs() < 0.1),
            }
        }
    }

    #[test]
    fn squares_are_covered_where_subjects_are() {
        let relation = Relation::LeftOf;
        let composition = Composition { relation, ..Composition::draw(&mut Draw::new(3), 2, false) };
        let covered = composition.covered(8);
        assert_eq!(covered.len(), 64);
        // The sky, and the middle of each of two.
        assert!(covered[..8].iter().all(|&c| c == 0.0));
        assert!(covered[5 * 8 + 2] > 0.95 && covered[5 * 8 + 5] > 0.95);
        let (area, square) = (covered.iter().sum::<f32>() / 64.0, 2.0 * (2.0 * 0.235_f32).powi(2));
        assert!((area - square).abs() < 0.03, "{area} is not {square}");
    }

    #[test]
    fn a_reference_view_does_not_show_the_subject_as_the_scene_does() {
        let subject = Subject::draw(&mut Draw::new(2), false);
        let views = [1, 2].map(|seed| ReferenceView { subject, seed }.render(48));
        assert_ne!(views[0], views[1]);
    }
}
