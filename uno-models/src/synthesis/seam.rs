//! The seam of a diptych: the straight line across the middle where two pictures meet.

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// How the two panels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// The first is left, the second right.
    SideBySide,
    /// The first is above the second.
    Stacked,
}

/// A line across a diptych.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seam {
    /// Where it meets the first edge (top, or left), in pixels from the other axis' origin.
    pub start: f32,
    /// Where it meets the opposite edge.
    pub end: f32,
    /// Mean step of brightness across it, 0 to 255.
    pub strength: f32,
    /// Mean step across lines beside it: a seam stands out against these.
    pub background: f32,
}

/// Part of the length, about the middle, in which a seam is looked for.
const BAND: f32 = 0.2;
/// Most that a line may lean, as a part of the side that it crosses.
const LEAN: f32 = 0.02;
/// Shares of a line that must show a step: a seam goes all the way, an object's edge does not.
const PIECES: usize = 8;

/// The strongest line within [`BAND`]: a Hough transform that is restricted to lines that nearly follow the axis. `None` for
/// pictures of fewer than 16 pixels a side.
///
/// A line's strength is the least over eight pieces of it, so that an object's edge does not pass for a seam.
pub(super) fn find(picture: &RgbImage, layout: Layout) -> Option<Seam> {
    // `along` runs with the line, `across` over it.
    let (across, along) = match layout {
        Layout::SideBySide => (picture.width() as usize, picture.height() as usize),
        Layout::Stacked => (picture.height() as usize, picture.width() as usize),
    };
    if across < 16 || along < 16 {
        return None;
    }
    let grey = |across: usize, along: usize| -> f32 {
        let (x, y) = match layout {
            Layout::SideBySide => (across, along),
            Layout::Stacked => (along, across),
        };
        let [r, g, b] = picture.get_pixel(x as u32, y as u32).0.map(f32::from);
        0.299 * r + 0.587 * g + 0.114 * b
    };
    // Steps of brightness over two pixels: a seam may be blurred.
    let step = |place: usize, line: usize| (grey(place + 1, line) - grey(place - 1, line)).abs();
    let (first, last) =
        ((across as f32 * (0.5 - BAND / 2.0)) as usize, (across as f32 * (0.5 + BAND / 2.0)) as usize);
    let (first, last) = (first.max(2), last.min(across - 3));
    let lean = (along as f32 * LEAN) as isize;
    let piece = along.div_ceil(PIECES);
    let strength = |start: usize, end: usize| -> f32 {
        let mut sums = [0.0_f32; PIECES];
        for line in 0..along {
            let share = line as f32 / (along - 1) as f32;
            let place = (start as f32 + (end as f32 - start as f32) * share).round() as usize;
            sums[line / piece] += step(place, line);
        }
        let lengths = (0..PIECES).map(|k| piece.min(along.saturating_sub(k * piece)));
        sums.iter()
            .zip(lengths)
            .filter(|(_, n)| *n > 0)
            .map(|(sum, n)| sum / n as f32)
            .fold(f32::MAX, f32::min)
    };
    let mut best: Option<Seam> = None;
    let mut all = Vec::new();
    for start in first..=last {
        for shift in -lean..=lean {
            let Some(end) = start.checked_add_signed(shift).filter(|end| (first..=last).contains(end)) else {
                continue;
            };
            let strength = strength(start, end);
            if shift == 0 {
                all.push((start, strength));
            }
            if best.is_none_or(|best| strength > best.strength) {
                best = Some(Seam { start: start as f32, end: end as f32, strength, background: 0.0 });
            }
        }
    }
    let mut best = best?;
    // Beside the seam itself.
    let beside = all.iter().filter(|(place, _)| (*place as f32 - best.start).abs() > 3.0).map(|(_, s)| *s);
    let (sum, count) = beside.fold((0.0, 0), |(sum, count), s| (sum + s, count + 1));
    best.background = sum / count.max(1) as f32;
    Some(best)
}

/// The two panels beside a seam, without the pixels that it touches (`margin` beyond its reach), as large as both allow.
pub(super) fn split(picture: &RgbImage, layout: Layout, seam: &Seam, margin: u32) -> Option<[RgbImage; 2]> {
    let length = match layout {
        Layout::SideBySide => picture.width(),
        Layout::Stacked => picture.height(),
    };
    let before = (seam.start.min(seam.end).floor().max(0.0) as u32).checked_sub(margin)?;
    let after = (seam.start.max(seam.end).ceil() as u32).checked_add(1 + margin)?;
    if before == 0 || after >= length {
        return None;
    }
    let piece = |from: u32, to: u32| match layout {
        Layout::SideBySide => {
            image::imageops::crop_imm(picture, from, 0, to - from, picture.height()).to_image()
        }
        Layout::Stacked => image::imageops::crop_imm(picture, 0, from, picture.width(), to - from).to_image(),
    };
    Some([piece(0, before), piece(after, length)])
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// Two gradients that meet at a line that leans, with a dark disc over a part of one.
    fn diptych(layout: Layout, start: f32, end: f32, contrast: f32) -> RgbImage {
        let (width, height) = match layout {
            Layout::SideBySide => (200, 120),
            Layout::Stacked => (120, 200),
        };
        RgbImage::from_fn(width, height, |x, y| {
            let (across, along, length) = match layout {
                Layout::SideBySide => (x as f32, y as f32, 120.0),
                Layout::Stacked => (y as f32, x as f32, 120.0),
            };
            let seam = start + (end - start) * along / (length - 1.0);
            let mut grey = 90.0 + 0.2 * across + if across > seam { contrast } else { 0.0 };
            if (across - 92.0).hypot(along - 60.0) < 14.0 {
                grey -= 60.0;
            }
            Rgb([grey as u8; 3])
        })
    }

    #[test]
    fn a_seam_is_found_where_it_is_though_it_leans_and_an_edge_is_stronger() {
        for layout in [Layout::SideBySide, Layout::Stacked] {
            for (start, end) in [(100.0, 100.0), (103.0, 101.0), (91.0, 92.0)] {
                let picture = diptych(layout, start, end, 30.0);
                let seam = find(&picture, layout).unwrap();
                assert!(
                    (seam.start - start).abs() <= 1.5 && (seam.end - end).abs() <= 1.5,
                    "{layout:?} {seam:?}"
                );
                assert!(seam.strength > 15.0 && seam.strength > 4.0 * seam.background, "{seam:?}");
                let [first, second] = split(&picture, layout, &seam, 1).unwrap();
                let total = match layout {
                    Layout::SideBySide => first.width() + second.width(),
                    Layout::Stacked => first.height() + second.height(),
                };
                assert!((192..=198).contains(&total), "{total}");
            }
        }
    }

    #[test]
    fn a_single_picture_has_no_seam_that_stands_out_and_small_ones_none_at_all() {
        let seam = find(&diptych(Layout::SideBySide, 100.0, 100.0, 0.0), Layout::SideBySide).unwrap();
        assert!(seam.strength < 5.0, "{seam:?}");
        for (width, height) in [(0, 0), (1, 1), (15, 100), (100, 15)] {
            assert_eq!(find(&RgbImage::new(width, height), Layout::SideBySide), None);
        }
        let at_the_border = Seam { start: 0.0, end: 0.0, strength: 1.0, background: 0.0 };
        assert!(split(&RgbImage::new(20, 20), Layout::Stacked, &at_the_border, 1).is_none());
    }
}
