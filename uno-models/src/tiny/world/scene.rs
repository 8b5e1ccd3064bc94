//! Where subjects are: backgrounds with a ground to stand on.

use super::canvas::{Canvas, Colour, Point, Pose, mix, smooth};
use super::draw::Draw;
use super::shapes::{convex, disc, ellipse, rounded};
use super::subject::named;

named! {
    /// Where subjects are.
    Scene {
        /// Sand, sea and sun.
        Beach = "on a beach",
        /// Grass and hills.
        Meadow = "in a meadow",
        /// Snow and firs.
        Snow = "in the snow",
        /// A street at night, with moon, stars and lit windows.
        Night = "in a city at night",
        /// A wooden table before a wall.
        Table = "on a wooden table",
        /// Dunes in the evening.
        Desert = "in the desert",
    }
}

/// The horizon, in sides from above.
const HORIZON: f32 = 0.52;

/// Draws a scene over the whole canvas; what varies in it (clouds, hills, stars) is drawn at random.
pub(super) fn draw(canvas: &mut Canvas, scene: Scene, random: &mut Draw) {
    let mut stage = Stage { canvas, random };
    match scene {
        Scene::Beach => beach(&mut stage),
        Scene::Meadow => meadow(&mut stage),
        Scene::Snow => snow(&mut stage),
        Scene::Night => night(&mut stage),
        Scene::Table => table(&mut stage),
        Scene::Desert => desert(&mut stage),
    }
}

/// Draws plain ground for a reference, a pale grey that varies.
pub(super) fn draw_plain(canvas: &mut Canvas, random: &mut Draw) {
    let shade = random.between(0.78, 0.93);
    let tint: Colour = std::array::from_fn(|_| shade + random.between(-0.02, 0.02));
    Stage { canvas, random }.cover(|[_, y]| mix(tint, tint.map(|x| x * 0.93), y));
}

struct Stage<'a> {
    canvas: &'a mut Canvas,
    random: &'a mut Draw,
}

impl Stage<'_> {
    /// Fills the canvas; points run from 0 to 1.
    fn cover(&mut self, colour: impl Fn(Point) -> Colour) {
        self.canvas.blend(&Pose::whole(), 1.1, |[x, y], _| (1.0, colour([(x + 1.0) / 2.0, (y + 1.0) / 2.0])));
    }

    /// Paints a shape; points run from 0 to 1.
    fn fill(&mut self, colour: Colour, shape: impl Fn(Point) -> f32) {
        self.canvas
            .paint(&Pose::whole(), 1.1, |[x, y]| (2.0 * shape([(x + 1.0) / 2.0, (y + 1.0) / 2.0]), colour));
    }

    /// Sky from `top` to `low` down to the horizon, ground from `far` to `near` below it.
    fn sky_and_ground(&mut self, [top, low]: [Colour; 2], [far, near]: [Colour; 2]) {
        self.cover(|[_, y]| mix(top, low, (y / HORIZON).min(1.0)));
        self.canvas.blend(&Pose::whole(), 1.1, |[_, y], pixel| {
            let y = (y + 1.0) / 2.0;
            let covered = (0.5 + 2.0 * (y - HORIZON) / pixel).clamp(0.0, 1.0);
            (covered, mix(far, near, ((y - HORIZON) / (1.0 - HORIZON)).clamp(0.0, 1.0)))
        });
    }

    /// A disc with a soft halo.
    fn glow(&mut self, centre: Point, radius: f32, colour: Colour) {
        self.canvas.blend(&Pose::whole(), 1.1, |[x, y], _| {
            let d = disc([(x + 1.0) / 2.0, (y + 1.0) / 2.0], centre, radius);
            (0.35 * (1.0 - smooth(0.0, 1.6 * radius, d)), colour)
        });
        self.fill(colour, |p| disc(p, centre, radius));
    }

    fn cloud(&mut self, colour: Colour) {
        let (x, y) = (self.random.between(0.1, 0.9), self.random.between(0.08, 0.26));
        let size = self.random.between(0.7, 1.1);
        self.fill(colour, move |p| {
            let puff = |dx: f32, dy: f32, r: f32| disc(p, [x + dx * size, y + dy * size], r * size);
            puff(-0.07, 0.01, 0.045).min(puff(0.0, -0.015, 0.06)).min(puff(0.075, 0.01, 0.04))
        });
    }

    /// A range of hills that rise `height` above the horizon.
    fn hills(&mut self, colour: Colour, height: f32, count: usize) {
        for i in 0..count {
            let x = (i as f32 + self.random.between(0.1, 0.9)) / count as f32;
            let (width, rise) =
                (self.random.between(0.9, 1.4) / count as f32, self.random.between(0.6, 1.0) * height);
            self.fill(colour, move |[px, py]| {
                ellipse([px, py], [x, HORIZON], [width, rise]).max(py - HORIZON - 0.004)
            });
        }
    }
}

fn beach(stage: &mut Stage<'_>) {
    stage.sky_and_ground([[0.42, 0.72, 0.94], [0.80, 0.92, 0.97]], [[0.93, 0.84, 0.62], [0.97, 0.89, 0.70]]);
    let sun = [stage.random.between(0.1, 0.9), stage.random.between(0.1, 0.2)];
    stage.glow(sun, 0.07, [1.0, 0.93, 0.55]);
    stage.cloud([0.97, 0.98, 1.0]);
    stage.fill([0.16, 0.56, 0.74], |[_, y]| (y - HORIZON - 0.08).max(0.40 - y));
    stage
        .fill([0.30, 0.70, 0.82], |[x, y]| (y - HORIZON - 0.075 - 0.012 * (x * 19.0).sin()).max(HORIZON - y));
    let phase = stage.random.between(0.0, 6.0);
    stage.fill([0.95, 0.98, 0.98], move |[x, y]| {
        (y - HORIZON - 0.085 - 0.012 * (x * 19.0 + phase).sin()).abs() - 0.011
    });
}

fn meadow(stage: &mut Stage<'_>) {
    stage.sky_and_ground([[0.48, 0.74, 0.95], [0.84, 0.93, 0.97]], [[0.46, 0.72, 0.32], [0.56, 0.80, 0.38]]);
    stage.cloud([0.98, 0.99, 1.0]);
    stage.cloud([0.98, 0.99, 1.0]);
    stage.hills([0.36, 0.62, 0.36], 0.14, 3);
    for _ in 0..9 {
        let place = [stage.random.between(0.02, 0.98), stage.random.between(0.62, 0.98)];
        let petals = [[0.98, 0.96, 0.92], [0.98, 0.80, 0.30], [0.92, 0.50, 0.62]][stage.random.below(3)];
        stage.fill(petals, |p| disc(p, place, 0.016));
    }
}

fn snow(stage: &mut Stage<'_>) {
    stage.sky_and_ground([[0.62, 0.72, 0.84], [0.86, 0.90, 0.95]], [[0.88, 0.92, 0.97], [0.97, 0.98, 1.0]]);
    for i in 0..5 {
        let x = 0.1 + 0.2 * i as f32 + stage.random.between(-0.07, 0.07);
        let (height, foot) = (stage.random.between(0.2, 0.34), HORIZON + stage.random.between(0.0, 0.04));
        stage.fill([0.36, 0.26, 0.22], move |p| rounded(p, [x, foot], [0.012, 0.03], 0.0));
        for layer in 0..3 {
            let (low, half) = (foot - 0.02 - 0.27 * height * layer as f32, 0.085 - 0.02 * layer as f32);
            let tip = low - 0.46 * height;
            stage.fill([0.16, 0.40, 0.36], move |p| convex(p, [[x, tip], [x + half, low], [x - half, low]]));
            stage.fill([0.93, 0.96, 0.99], move |p| {
                convex(
                    p,
                    [[x, tip], [x + 0.4 * half, tip + 0.18 * height], [x - 0.4 * half, tip + 0.18 * height]],
                )
            });
        }
    }
    for _ in 0..16 {
        let place = [stage.random.unit(), stage.random.unit()];
        stage.fill([1.0, 1.0, 1.0], |p| disc(p, place, 0.009));
    }
}

fn night(stage: &mut Stage<'_>) {
    stage.sky_and_ground([[0.07, 0.09, 0.24], [0.24, 0.22, 0.44]], [[0.24, 0.25, 0.36], [0.32, 0.33, 0.44]]);
    for _ in 0..14 {
        let (place, size) =
            ([stage.random.unit(), stage.random.between(0.02, 0.34)], stage.random.between(0.005, 0.010));
        stage.fill([0.96, 0.95, 0.84], move |p| disc(p, place, size));
    }
    let moon = [stage.random.between(0.15, 0.85), stage.random.between(0.10, 0.18)];
    stage.glow(moon, 0.07, [0.97, 0.95, 0.82]);
    for i in 0..6 {
        let x = (i as f32 + 0.5) / 6.0 + stage.random.between(-0.02, 0.02);
        let (half, top) = (stage.random.between(0.06, 0.09), stage.random.between(0.24, 0.42));
        let shade = stage.random.between(0.85, 1.15);
        stage.fill([0.13 * shade, 0.14 * shade, 0.27 * shade], move |[px, py]| {
            ((px - x).abs() - half).max(top - py).max(py - HORIZON)
        });
        for window in 0..6 {
            let lit = stage.random.chance(0.55);
            let place =
                [x + if window % 2 == 0 { -0.03 } else { 0.03 }, top + 0.035 + 0.055 * (window / 2) as f32];
            if lit && place[1] < HORIZON - 0.03 {
                stage.fill([0.98, 0.82, 0.42], move |p| rounded(p, place, [0.014, 0.016], 0.0));
            }
        }
    }
    stage.fill([0.44, 0.44, 0.54], |[_, y]| (y - HORIZON - 0.012).abs() - 0.012);
}

fn table(stage: &mut Stage<'_>) {
    let wall = [[0.86, 0.80, 0.72], [0.72, 0.80, 0.78], [0.84, 0.76, 0.78]][stage.random.below(3)];
    let lit = wall.map(|x| (x * 1.07f32).min(1.0));
    stage.sky_and_ground([lit, wall], [[0.58, 0.38, 0.24], [0.70, 0.48, 0.31]]);
    let left = stage.random.chance(0.5);
    let x = if left { stage.random.between(0.14, 0.26) } else { stage.random.between(0.74, 0.86) };
    stage.fill([0.97, 0.95, 0.90], move |p| rounded(p, [x, 0.2], [0.13, 0.15], 0.01));
    stage.fill([0.60, 0.81, 0.93], move |p| rounded(p, [x, 0.2], [0.11, 0.13], 0.0));
    stage.fill([0.97, 0.95, 0.90], move |[px, py]| {
        ((px - x).abs() - 0.008)
            .min((py - 0.2).abs() - 0.008)
            .max((px - x).abs() - 0.12)
            .max((py - 0.2).abs() - 0.14)
    });
    for board in 1..4 {
        let y = HORIZON + 0.03 + 0.04 * (board * board) as f32;
        stage.fill([0.48, 0.31, 0.20], move |[_, py]| (py - y).abs() - 0.004);
    }
    stage.fill([0.45, 0.29, 0.19], |[_, y]| (y - HORIZON).abs() - 0.009);
}

fn desert(stage: &mut Stage<'_>) {
    stage.sky_and_ground([[0.93, 0.50, 0.34], [0.99, 0.80, 0.50]], [[0.84, 0.52, 0.30], [0.91, 0.63, 0.38]]);
    let sun = [stage.random.between(0.15, 0.85), stage.random.between(0.30, 0.42)];
    stage.glow(sun, 0.09, [1.0, 0.90, 0.62]);
    stage.hills([0.76, 0.43, 0.27], 0.12, 3);
    let left = stage.random.chance(0.5);
    let x = if left { stage.random.between(0.06, 0.2) } else { stage.random.between(0.8, 0.94) };
    let green = [0.26, 0.46, 0.32];
    stage.fill(green, move |p| {
        let trunk = rounded(p, [x, 0.46], [0.026, 0.15], 0.026);
        let arm = |side: f32| {
            let level = rounded(p, [x + side * 0.045, 0.47], [0.05, 0.018], 0.018);
            level.min(rounded(p, [x + side * 0.08, 0.425], [0.018, 0.06], 0.018))
        };
        trunk.min(arm(-1.0)).min(arm(1.0))
    });
    for i in 0..3 {
        let (y, phase) = (0.66 + 0.11 * i as f32, stage.random.between(0.0, 6.0));
        stage.fill([0.80, 0.50, 0.30], move |[px, py]| {
            (py - y - 0.014 * (px * 9.0 + phase).sin()).abs() - 0.005
        });
    }
}
