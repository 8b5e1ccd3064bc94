//! A picture that shapes are painted on, with smooth edges.
//!
//! Shapes are signed distances (negative inside, in the units of their place). A pixel at distance d from an edge is covered
//! by about 1/2 - d / pixel, so that one evaluation per pixel gives a smooth edge.

use uno_core::image::Pixels;

/// Red, green and blue in `[0, 1]`.
pub(super) type Colour = [f32; 3];

/// A point: x to the right, y down.
pub(super) type Point = [f32; 2];

/// `a` at 0, `b` at 1.
pub(super) fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// From 0 at `from` to 1 at `to`, smoothly.
pub(super) fn smooth(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Where something is drawn: its centre and half its size in picture sides, its tilt (radians, clockwise) and whether it is
/// mirrored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    /// Centre, in sides of the picture.
    pub(super) centre: Point,
    /// Half its size, in sides of the picture.
    pub(super) half: f32,
    /// Radians, clockwise.
    pub(super) tilt: f32,
    /// Left and right swapped.
    pub(super) mirrored: bool,
}

impl Pose {
    /// Upright and not mirrored.
    pub(super) fn upright(centre: Point, half: f32) -> Self {
        Self { centre, half, tilt: 0.0, mirrored: false }
    }

    /// The whole picture, from -1 to 1.
    pub(super) fn whole() -> Self {
        Self::upright([0.5, 0.5], 0.5)
    }
}

/// A square picture in the making.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Canvas {
    side: usize,
    pixels: Vec<Colour>,
}

impl Canvas {
    /// `side` x `side` pixels of one colour.
    pub(super) fn new(side: usize, colour: Colour) -> Self {
        Self { side, pixels: vec![colour; side * side] }
    }

    /// Paints at `pose` what lies within `reach` of its centre: `paint` says for a point (in the pose's own coordinates, in
    /// which it spans -1 to 1) its distance to the shape's edge, and the colour there.
    pub(super) fn paint(&mut self, pose: &Pose, reach: f32, paint: impl Fn(Point) -> (f32, Colour)) {
        self.blend(pose, reach, |p, pixel| {
            let (distance, colour) = paint(p);
            ((0.5 - distance / pixel).clamp(0.0, 1.0), colour)
        });
    }

    /// As [`paint`](Self::paint), with how much of a point is covered in place of a distance. `cover` is also given the size of
    /// a pixel in the pose's own coordinates.
    pub(super) fn blend(&mut self, pose: &Pose, reach: f32, cover: impl Fn(Point, f32) -> (f32, Colour)) {
        let side = self.side as f32;
        let (sin, cos) = pose.tilt.sin_cos();
        let [first_x, last_x, first_y, last_y] = {
            let range = |centre: f32| {
                let (low, high) =
                    ((centre - reach * pose.half) * side - 1.0, (centre + reach * pose.half) * side + 1.0);
                [low.max(0.0) as usize, (high.max(0.0) as usize).min(self.side)]
            };
            let ([a, b], [c, d]) = (range(pose.centre[0]), range(pose.centre[1]));
            [a, b, c, d]
        };
        let pixel = 1.0 / (side * pose.half);
        for row in first_y..last_y {
            for column in first_x..last_x {
                let dx = ((column as f32 + 0.5) / side - pose.centre[0]) / pose.half;
                let dy = ((row as f32 + 0.5) / side - pose.centre[1]) / pose.half;
                let x = cos * dx + sin * dy;
                let local = [if pose.mirrored { -x } else { x }, cos * dy - sin * dx];
                let (covered, colour) = cover(local, pixel);
                if covered > 0.0 {
                    let under = &mut self.pixels[row * self.side + column];
                    *under = mix(*under, colour, covered);
                }
            }
        }
    }

    /// The pixels, row by row.
    pub(super) fn into_colours(self) -> Vec<Colour> {
        self.pixels
    }

    /// The picture in 8 bits.
    pub(super) fn to_pixels(&self) -> Pixels {
        let byte = |x: &f32| (x.clamp(0.0, 1.0) * 255.0).round() as u8;
        Pixels { width: self.side, height: self.side, rgb: self.pixels.iter().flatten().map(byte).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disc_covers_its_area_and_its_edge_is_smooth() {
        let mut canvas = Canvas::new(64, [0.0; 3]);
        let disc = |[x, y]: Point| (x.hypot(y) - 1.0, [1.0; 3]);
        canvas.paint(&Pose::upright([0.5, 0.5], 0.3), 1.1, disc);
        let covered: f32 = canvas.pixels.iter().map(|p| p[0]).sum();
        let wanted = std::f32::consts::PI * (0.3f32 * 64.0).powi(2);
        assert!((covered / wanted - 1.0).abs() < 0.01, "{covered} for {wanted}");
        assert!(canvas.pixels.iter().any(|p| p[0] > 0.2 && p[0] < 0.8));
    }

    #[test]
    fn what_lies_beyond_the_picture_is_cut_off() {
        let mut canvas = Canvas::new(8, [0.0; 3]);
        for centre in [[-3.0, 0.5], [0.5, 9.0], [0.0, 0.0]] {
            canvas.paint(&Pose::upright(centre, 0.2), 1.5, |[x, y]| (x.hypot(y) - 1.0, [1.0; 3]));
        }
        assert!(canvas.pixels[0][0] > 0.5 && canvas.pixels[63] == [0.0; 3]);
    }

    #[test]
    fn a_mirrored_pose_swaps_left_and_right_and_a_tilt_turns_clockwise() {
        let bright = |pose: Pose| {
            let mut canvas = Canvas::new(16, [0.0; 3]);
            canvas.paint(&pose, 1.5, |[x, y]| ((x - 0.5).hypot(y) - 0.2, [1.0; 3]));
            let brightest =
                (0..256).max_by(|&a, &b| canvas.pixels[a][0].total_cmp(&canvas.pixels[b][0])).unwrap();
            [brightest % 16, brightest / 16]
        };
        let [x, _] = bright(Pose::whole());
        let [mirrored, _] = bright(Pose { mirrored: true, ..Pose::whole() });
        let [_, y] = bright(Pose { tilt: std::f32::consts::FRAC_PI_2, ..Pose::whole() });
        assert!(x > 10 && mirrored < 5 && y > 10, "{x} {mirrored} {y}");
    }
}
