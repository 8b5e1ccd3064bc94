//! What a subject is: its kind, two colours and a pattern.

use super::canvas::{Colour, Point, mix};
use super::draw::Draw;

/// A list of names that each stand for themselves in captions.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$item,)*];

            /// The word for it in captions.
            pub fn word(self) -> &'static str {
                match self { $(Self::$item => $word,)* }
            }
        }
    };
}
pub(super) use named;

named! {
    /// What a subject is.
    Kind {
        /// A mug with a handle.
        Mug = "mug",
        /// A ball.
        Ball = "ball",
        /// A robot.
        Robot = "robot",
        /// A bird.
        Bird = "bird",
        /// A car.
        Car = "car",
        /// A house.
        House = "house",
        /// A fish.
        Fish = "fish",
        /// A teapot.
        Teapot = "teapot",
    }
}

named! {
    /// The colours of subjects.
    Hue {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// White.
        White = "white",
        /// Black.
        Black = "black",
    }
}

named! {
    /// What is drawn on a subject's body in its second colour.
    Pattern {
        /// Nothing; only the parts have the second colour.
        Plain = "plain",
        /// Level stripes.
        Stripes = "stripes",
        /// Dots.
        Dots = "dots",
        /// A chessboard.
        Checks = "checks",
    }
}

impl Hue {
    /// The colour.
    pub fn colour(self) -> Colour {
        match self {
            Self::Red => [0.87, 0.20, 0.22],
            Self::Orange => [0.96, 0.53, 0.16],
            Self::Yellow => [0.98, 0.82, 0.24],
            Self::Green => [0.20, 0.62, 0.36],
            Self::Blue => [0.18, 0.42, 0.84],
            Self::Purple => [0.53, 0.30, 0.76],
            Self::White => [0.96, 0.95, 0.92],
            Self::Black => [0.16, 0.17, 0.21],
        }
    }
}

/// How far apart stripes, dots and checks are, in half sizes of the subject.
const PERIOD: f32 = 0.75;

impl Pattern {
    /// How much of the second colour is at a point; `pixel` is a pixel's size there.
    fn at(self, [x, y]: Point, pixel: f32) -> f32 {
        // Distances to the nearest edge, positive where the second colour is.
        let wave = |t: f32| {
            let t = (t / PERIOD).rem_euclid(1.0);
            (0.25 - (t - 0.5).abs()) * PERIOD
        };
        let distance = match self {
            Self::Plain => return 0.0,
            Self::Stripes => wave(y + 0.1),
            Self::Checks => {
                let (a, b) = (wave(x + 0.125), wave(y + 0.125));
                a.abs().min(b.abs()) * (a * b).signum()
            }
            Self::Dots => {
                let row = ((y + 0.2) / (PERIOD * 0.8)).floor();
                let cy = (y + 0.2) - (row + 0.5) * PERIOD * 0.8;
                let shifted = x + if row.rem_euclid(2.0) < 0.5 { 0.0 } else { PERIOD / 2.0 };
                let cx = (shifted / PERIOD).rem_euclid(1.0) - 0.5;
                0.24 * PERIOD - (cx * PERIOD).hypot(cy)
            }
        };
        (0.5 + distance / pixel).clamp(0.0, 1.0)
    }
}

/// The looks of a subject: what is the same for it in every picture, and what its kind does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Look {
    /// The body's colour.
    pub first: Hue,
    /// The pattern's and the parts' colour, another than the first.
    pub second: Hue,
    /// The pattern on the body.
    pub pattern: Pattern,
}

/// One look in this many is held out.
const HELD_OUT: u64 = 6;

impl Look {
    /// All looks.
    pub fn all() -> impl Iterator<Item = Self> {
        let pairs = Hue::ALL.iter().flat_map(|&first| Hue::ALL.iter().map(move |&second| (first, second)));
        pairs.filter(|(first, second)| first != second).flat_map(|(first, second)| {
            Pattern::ALL.iter().map(move |&pattern| Self { first, second, pattern })
        })
    }

    /// Whether the look is kept out of all training, for evaluation: a sixth of them, spread by a hash. Each of its colours and
    /// its pattern is seen in training, the three together on no subject at all.
    pub fn is_held_out(self) -> bool {
        let number = (self.first as u64 * 8 + self.second as u64) * 4 + self.pattern as u64;
        Draw::stream(0x6865_6c64, 0, number).bits().is_multiple_of(HELD_OUT)
    }

    /// A random look, held out or not.
    pub fn draw(draw: &mut Draw, held_out: bool) -> Self {
        loop {
            let pick = |draw: &mut Draw| Hue::ALL[draw.below(Hue::ALL.len())];
            let (first, second) = (pick(draw), pick(draw));
            let look = Self { first, second, pattern: Pattern::ALL[draw.below(Pattern::ALL.len())] };
            if first != second && look.is_held_out() == held_out {
                return look;
            }
        }
    }

    /// The body's colour at a point of the subject.
    pub(super) fn body(self, p: Point, pixel: f32) -> Colour {
        mix(self.first.colour(), self.second.colour(), self.pattern.at(p, pixel))
    }
}

/// A subject: what its caption names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// What it is.
    pub kind: Kind,
    /// Its looks.
    pub look: Look,
}

impl Subject {
    /// A random subject whose look is held out or not.
    pub fn draw(draw: &mut Draw, held_out: bool) -> Self {
        Self { kind: Kind::ALL[draw.below(Kind::ALL.len())], look: Look::draw(draw, held_out) }
    }

    /// `count` random subjects of kinds that all differ.
    pub fn draw_many(draw: &mut Draw, count: usize, held_out: bool) -> Vec<Self> {
        let mut kinds = Kind::ALL.to_vec();
        draw.shuffle(&mut kinds);
        kinds.into_iter().take(count).map(|kind| Self { kind, look: Look::draw(draw, held_out) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_a_sixth_of_the_looks_is_held_out_and_every_part_of_them_is_seen_elsewhere() {
        let (held_out, seen): (Vec<Look>, Vec<Look>) = Look::all().partition(|look| look.is_held_out());
        assert_eq!(held_out.len() + seen.len(), 8 * 7 * 4);
        assert!((25..50).contains(&held_out.len()), "{}", held_out.len());
        for look in held_out {
            assert!(seen.iter().any(|s| (s.first, s.pattern) == (look.first, look.pattern)));
            assert!(seen.iter().any(|s| (s.second, s.pattern) == (look.second, look.pattern)));
        }
    }

    #[test]
    fn subjects_of_one_picture_are_of_different_kinds() {
        let subjects = Subject::draw_many(&mut Draw::new(5), 3, false);
        assert!(subjects[0].kind != subjects[1].kind && subjects[1].kind != subjects[2].kind);
        assert!(subjects.iter().all(|s| !s.look.is_held_out()));
    }

    #[test]
    fn each_pattern_covers_a_good_part_of_the_body() {
        for &pattern in &Pattern::ALL[1..] {
            let points = (0..10_000).map(|i| [(i % 100) as f32 / 50.0 - 1.0, (i / 100) as f32 / 50.0 - 1.0]);
            let share = points.map(|p| pattern.at(p, 0.01)).sum::<f32>() / 10_000.0;
            assert!((0.15..0.6).contains(&share), "{pattern:?} {share}");
        }
    }
}
