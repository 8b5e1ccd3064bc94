//! Signed distances of simple shapes, negative inside (after Inigo Quilez, "2D distance functions").

use super::canvas::Point;

/// A disc.
pub(super) fn disc([x, y]: Point, [cx, cy]: Point, radius: f32) -> f32 {
    (x - cx).hypot(y - cy) - radius
}

/// A ring of the given thickness around a circle.
pub(super) fn ring(p: Point, centre: Point, radius: f32, thickness: f32) -> f32 {
    disc(p, centre, radius).abs() - thickness / 2.0
}

/// An ellipse; away from its edge the distance is approximate.
pub(super) fn ellipse([x, y]: Point, [cx, cy]: Point, [a, b]: Point) -> f32 {
    let (x, y) = (x - cx, y - cy);
    let k = (x / a).hypot(y / b);
    let gradient = (x / (a * a)).hypot(y / (b * b));
    if gradient < 1e-6 { -a.min(b) } else { k * (k - 1.0) / gradient }
}

/// A box with rounded corners.
pub(super) fn rounded([x, y]: Point, [cx, cy]: Point, [w, h]: Point, radius: f32) -> f32 {
    let (dx, dy) = ((x - cx).abs() - w + radius, (y - cy).abs() - h + radius);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius
}

/// A line with round ends.
pub(super) fn line([x, y]: Point, [ax, ay]: Point, [bx, by]: Point, thickness: f32) -> f32 {
    let (px, py, dx, dy) = (x - ax, y - ay, bx - ax, by - ay);
    let t = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    (px - dx * t).hypot(py - dy * t) - thickness / 2.0
}

/// A convex polygon, its corners in clockwise order as seen (y down); beyond corners the distance is too small.
pub(super) fn convex<const N: usize>([x, y]: Point, corners: [Point; N]) -> f32 {
    let side = |i: usize| {
        let ([ax, ay], [bx, by]) = (corners[i], corners[(i + 1) % N]);
        let (dx, dy) = (bx - ax, by - ay);
        ((x - ax) * dy - (y - ay) * dx) / dx.hypot(dy)
    };
    (0..N).map(side).fold(f32::NEG_INFINITY, f32::max)
}

/// What lies in one shape and not in the other.
pub(super) fn without(shape: f32, other: f32) -> f32 {
    shape.max(-other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_negative_inside_and_grow_outwards() {
        let shapes: [fn(Point) -> f32; 5] = [
            |p| disc(p, [0.0, 0.0], 0.5),
            |p| ellipse(p, [0.0, 0.0], [0.5, 0.5]),
            |p| rounded(p, [0.0, 0.0], [0.5, 0.5], 0.1),
            |p| line(p, [0.0, -0.3], [0.0, 0.3], 1.0),
            |p| convex(p, [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]),
        ];
        for shape in shapes {
            assert!(shape([0.0, 0.0]) < -0.4);
            assert!((shape([0.75, 0.0]) - 0.25).abs() < 0.13, "{}", shape([0.75, 0.0]));
            assert!(shape([0.5, 0.0]).abs() < 1e-4);
        }
    }

    #[test]
    fn a_ring_is_hollow() {
        let at = |x| ring([x, 0.0], [0.0, 0.0], 0.5, 0.2);
        assert!(at(0.0) > 0.3 && at(0.5) < -0.05 && at(0.8) > 0.1);
    }
}
