//! Random draws that are the same everywhere for a seed: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).

/// A stream of random draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw(u64);

impl Draw {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for `purpose` and `index` below `seed`: draws in one do not move the others.
    pub fn stream(seed: u64, purpose: u64, index: u64) -> Self {
        let mut draw = Self(seed);
        for part in [purpose, index] {
            draw = Self(draw.bits() ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
        }
        draw
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A number in `0..count` (0 if there is none).
    pub fn below(&mut self, count: usize) -> usize {
        // The bias of the remainder is below 2^-50 for the counts in use.
        (self.bits() % (count.max(1) as u64)) as usize
    }

    /// Whether something of that probability happens.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Two independent normal numbers (Box and Muller).
    pub fn normal_pair(&mut self) -> [f32; 2] {
        let radius = (-2.0 * f64::from(1.0 - self.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(self.unit());
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    }

    /// `count` independent normal numbers.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(count + 1);
        while numbers.len() < count {
            numbers.extend(self.normal_pair());
        }
        numbers.truncate(count);
        numbers
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_splitmix64() {
        // The reference values of the published C code for seed 1234567.
        let mut draw = Draw::new(1_234_567);
        assert_eq!([draw.bits(), draw.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let numbers = Draw::new(3).normals(20_001);
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        let square = numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32;
        assert!(numbers.len() == 20_001 && mean.abs() < 0.03 && (square - 1.0).abs() < 0.03);
    }

    #[test]
    fn streams_of_neighbouring_numbers_differ() {
        let first = |purpose, index| Draw::stream(7, purpose, index).bits();
        let all = [first(0, 0), first(0, 1), first(1, 0), first(1, 1)];
        assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
    }
}
