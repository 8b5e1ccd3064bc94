//! How each kind of subject is drawn, in coordinates from -1 to 1 (y down); it stands on y = 1.

use super::canvas::{Canvas, Colour, Point, Pose, mix, smooth};
use super::shapes::{convex, disc, ellipse, line, ring, rounded, without};
use super::subject::{Kind, Look, Subject};

const DARK: Colour = [0.14, 0.14, 0.18];
const LIGHT: Colour = [0.99, 0.99, 0.97];
const GLASS: Colour = [0.72, 0.88, 0.96];
const WARM: Colour = [0.98, 0.72, 0.20];

/// How far beyond its half size a subject may reach (handles, fins, tilted corners).
const REACH: f32 = 1.5;

/// Draws a subject.
pub(super) fn draw(canvas: &mut Canvas, subject: Subject, pose: &Pose) {
    let mut pen = Pen { canvas, pose, look: subject.look };
    match subject.kind {
        Kind::Mug => mug(&mut pen),
        Kind::Ball => ball(&mut pen),
        Kind::Robot => robot(&mut pen),
        Kind::Bird => bird(&mut pen),
        Kind::Car => car(&mut pen),
        Kind::House => house(&mut pen),
        Kind::Fish => fish(&mut pen),
        Kind::Teapot => teapot(&mut pen),
    }
}

/// Draws the shadow that a subject casts on the ground it stands on.
pub(super) fn shadow(canvas: &mut Canvas, pose: &Pose, depth: f32) {
    let ground = Pose {
        centre: [pose.centre[0] + 0.12 * pose.half, pose.centre[1] + 0.97 * pose.half],
        tilt: 0.0,
        ..*pose
    };
    canvas.blend(&ground, 1.4, |p, _| {
        let d = ellipse(p, [0.0, 0.0], [1.0, 0.2]);
        (depth * (1.0 - smooth(-0.2, 0.12, d)), [0.06, 0.07, 0.14])
    });
}

/// A subject's parts on their way to the canvas.
struct Pen<'a> {
    canvas: &'a mut Canvas,
    pose: &'a Pose,
    look: Look,
}

impl Pen<'_> {
    /// A part of one colour.
    fn flat(&mut self, colour: Colour, shape: impl Fn(Point) -> f32) {
        self.canvas.paint(self.pose, REACH, |p| (shape(p), colour));
    }

    /// A part in the second colour, a little shaded.
    fn part(&mut self, shape: impl Fn(Point) -> f32) {
        let colour = self.look.second.colour();
        self.canvas.paint(self.pose, REACH, |p| {
            let d = shape(p);
            (d, shaded(colour, p, d, 0.5))
        });
    }

    /// The body: first colour and pattern, shaded.
    fn body(&mut self, shape: impl Fn(Point) -> f32) {
        let look = self.look;
        self.canvas.blend(self.pose, REACH, |p, pixel| {
            let d = shape(p);
            let covered = (0.5 - d / pixel).clamp(0.0, 1.0);
            // Nothing is worked out for what is not seen.
            let colour = if covered > 0.0 { shaded(look.body(p, pixel), p, d, 1.0) } else { DARK };
            (covered, colour)
        });
    }

    /// A soft light spot.
    fn gleam(&mut self, centre: Point, size: Point, strength: f32) {
        self.canvas.blend(self.pose, REACH, |p, _| {
            (strength * (1.0 - smooth(-size[0].min(size[1]), 0.0, ellipse(p, centre, size))), LIGHT)
        });
    }

    /// An eye.
    fn eye(&mut self, centre: Point, radius: f32) {
        self.flat(LIGHT, |p| disc(p, centre, radius));
        self.flat(DARK, |p| disc(p, [centre[0] + 0.25 * radius, centre[1]], 0.55 * radius));
    }
}

/// Light from the upper left, and a darker edge that lifts the shape off its ground.
fn shaded(colour: Colour, [x, y]: Point, distance: f32, strength: f32) -> Colour {
    let light = 1.0 - 0.16 * strength * (0.5 + 0.35 * x + 0.45 * y);
    let edge = 1.0 - 0.30 * (1.0 - smooth(0.0, 0.14, -distance));
    mix([0.03, 0.04, 0.10], colour, (light * edge).min(1.0))
}

fn mug(pen: &mut Pen<'_>) {
    pen.part(|p| ring(p, [0.66, 0.1], 0.34, 0.18));
    pen.body(|p| rounded(p, [-0.08, 0.1], [0.68, 0.9], 0.22));
    pen.flat(mix(DARK, pen.look.first.colour(), 0.35), |p| ellipse(p, [-0.08, -0.74], [0.56, 0.13]));
    pen.gleam([-0.5, 0.05], [0.12, 0.5], 0.35);
}

fn ball(pen: &mut Pen<'_>) {
    pen.body(|p| disc(p, [0.0, 0.05], 0.95));
    // A band and a cap, so that the second colour is on a plain ball too.
    pen.part(|p| disc(p, [0.0, 0.05], 0.95).max(disc(p, [0.0, -1.15], 0.62)));
    pen.gleam([-0.4, -0.35], [0.22, 0.18], 0.5);
}

fn robot(pen: &mut Pen<'_>) {
    pen.part(|p| line(p, [0.0, -0.7], [0.0, -0.98], 0.09).min(disc(p, [0.0, -1.0], 0.12)));
    pen.part(|p| line(p, [-0.74, 0.1], [-0.82, 0.5], 0.22).min(line(p, [0.74, 0.1], [0.82, 0.5], 0.22)));
    pen.part(|p| {
        rounded(p, [-0.3, 0.87], [0.17, 0.14], 0.05).min(rounded(p, [0.3, 0.87], [0.17, 0.14], 0.05))
    });
    pen.body(|p| rounded(p, [0.0, 0.3], [0.62, 0.5], 0.1));
    pen.part(|p| rounded(p, [0.0, -0.5], [0.52, 0.32], 0.12));
    pen.flat(DARK, |p| rounded(p, [0.0, -0.5], [0.40, 0.19], 0.1));
    pen.flat(GLASS, |p| disc(p, [-0.17, -0.5], 0.1).min(disc(p, [0.17, -0.5], 0.1)));
    pen.gleam([-0.4, 0.1], [0.12, 0.24], 0.3);
}

fn bird(pen: &mut Pen<'_>) {
    pen.flat(WARM, |p| {
        line(p, [-0.12, 0.7], [-0.12, 0.97], 0.08).min(line(p, [0.18, 0.7], [0.18, 0.97], 0.08))
    });
    pen.part(|p| convex(p, [[-1.05, -0.12], [-0.5, -0.05], [-0.4, 0.4], [-0.7, 0.45]]));
    pen.body(|p| ellipse(p, [0.0, 0.15], [0.74, 0.62]).min(disc(p, [0.42, -0.48], 0.42)));
    pen.flat(WARM, |p| convex(p, [[0.78, -0.62], [1.12, -0.42], [0.78, -0.3]]));
    pen.part(|p| without(ellipse(p, [-0.16, 0.2], [0.44, 0.32]), ellipse(p, [-0.2, -0.12], [0.7, 0.26])));
    pen.eye([0.52, -0.56], 0.14);
    pen.gleam([0.25, -0.68], [0.14, 0.1], 0.35);
}

fn car(pen: &mut Pen<'_>) {
    pen.part(|p| convex(p, [[-0.42, -0.42], [0.28, -0.42], [0.62, 0.2], [-0.72, 0.2]]) - 0.06);
    pen.flat(GLASS, |p| {
        let back = convex(p, [[-0.36, -0.32], [-0.08, -0.32], [-0.08, 0.12], [-0.56, 0.12]]);
        back.min(convex(p, [[0.04, -0.32], [0.24, -0.32], [0.48, 0.12], [0.04, 0.12]]))
    });
    pen.body(|p| rounded(p, [0.0, 0.42], [1.08, 0.34], 0.2));
    for x in [-0.56, 0.56] {
        pen.flat(DARK, |p| disc(p, [x, 0.74], 0.27));
        pen.part(|p| disc(p, [x, 0.74], 0.14));
    }
    pen.flat(WARM, |p| ellipse(p, [1.0, 0.32], [0.08, 0.1]));
    pen.gleam([-0.4, 0.22], [0.5, 0.06], 0.3);
}

fn house(pen: &mut Pen<'_>) {
    pen.part(|p| rounded(p, [0.48, -0.62], [0.13, 0.3], 0.02));
    pen.body(|p| rounded(p, [0.0, 0.42], [0.78, 0.58], 0.03));
    pen.part(|p| convex(p, [[0.0, -0.98], [1.02, -0.1], [-1.02, -0.1]]) - 0.03);
    pen.flat(DARK, |p| rounded(p, [0.28, 0.66], [0.19, 0.34], 0.04));
    pen.flat(LIGHT, |p| rounded(p, [-0.34, 0.4], [0.26, 0.24], 0.03));
    pen.flat(GLASS, |p| {
        rounded(p, [-0.46, 0.4], [0.1, 0.19], 0.01).min(rounded(p, [-0.22, 0.4], [0.1, 0.19], 0.01))
    });
    pen.flat(WARM, |p| disc(p, [0.4, 0.68], 0.04));
}

fn fish(pen: &mut Pen<'_>) {
    pen.part(|p| convex(p, [[-1.1, -0.42], [-0.5, 0.1], [-0.5, 0.3], [-1.1, 0.78]]));
    pen.part(|p| convex(p, [[-0.3, -0.62], [0.3, -0.5], [0.3, -0.2], [-0.3, -0.2]]));
    pen.body(|p| ellipse(p, [0.12, 0.2], [0.86, 0.62]));
    pen.part(|p| ellipse(p, [0.0, 0.34], [0.24, 0.13]));
    pen.eye([0.58, 0.06], 0.15);
    pen.flat(DARK, |p| line(p, [0.74, 0.4], [0.9, 0.34], 0.05));
    pen.gleam([0.2, -0.14], [0.36, 0.1], 0.35);
}

fn teapot(pen: &mut Pen<'_>) {
    pen.part(|p| ring(p, [-0.78, 0.14], 0.34, 0.16));
    pen.part(|p| line(p, [0.5, 0.5], [0.98, -0.18], 0.24));
    pen.body(|p| ellipse(p, [0.0, 0.28], [0.78, 0.70]));
    pen.part(|p| ellipse(p, [0.0, -0.36], [0.46, 0.18]));
    pen.part(|p| disc(p, [0.0, -0.62], 0.14));
    pen.part(|p| rounded(p, [0.0, 0.93], [0.42, 0.07], 0.05));
    pen.gleam([-0.36, 0.02], [0.16, 0.26], 0.35);
}

#[cfg(test)]
mod tests {
    use super::super::draw::Draw;
    use super::*;

    #[test]
    fn every_kind_fills_a_good_part_of_its_place_and_no_two_look_alike() {
        let look = Look::draw(&mut Draw::new(1), false);
        let drawn = |&kind: &Kind| {
            let mut canvas = Canvas::new(48, [0.5; 3]);
            draw(&mut canvas, Subject { kind, look }, &Pose::upright([0.5, 0.5], 0.32));
            canvas.to_pixels().rgb
        };
        let pictures: Vec<Vec<u8>> = Kind::ALL.iter().map(drawn).collect();
        for (i, picture) in pictures.iter().enumerate() {
            let painted = picture.chunks(3).filter(|p| p.iter().any(|&x| x != 128)).count();
            assert!((400..1700).contains(&painted), "{:?}: {painted} pixels", Kind::ALL[i]);
            assert!(pictures[..i].iter().all(|other| other != picture));
        }
    }
}
