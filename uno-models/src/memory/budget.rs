//! How much memory may be used.

use std::fmt;
use std::str::FromStr;

use super::gib;
use crate::error::Error;

/// A bound on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Budget {
    /// Nine tenths of what the system has free, a container's limit included.
    #[default]
    Auto,
    /// This many bytes.
    Bytes(u64),
    /// As little as goes without approximation: everything is streamed.
    Least,
}

impl Budget {
    /// The bound in bytes, and in words where it comes from.
    pub fn resolve(self) -> (u64, String) {
        match self {
            Self::Bytes(bytes) => (bytes, "as given".to_owned()),
            Self::Least => (u64::MAX, "as little as possible".to_owned()),
            Self::Auto => {
                let mut system = sysinfo::System::new();
                system.refresh_memory();
                let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
                let free = system.available_memory().min(limit);
                // Where the system tells nothing, nothing is bounded.
                let free = if free == 0 { u64::MAX } else { free };
                (free / 10 * 9, format!("nine tenths of the {} that are free", gib(free)))
            }
        }
    }
}

impl FromStr for Budget {
    type Err = Error;

    /// `auto`, `least`, or a number with a unit: `6GiB`, `6G`, `6GB`, `800MiB`, `6.5 GiB`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::request("memory", text, "auto, least, or a size such as 6GiB, 6GB or 800MiB");
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "auto" => return Ok(Self::Auto),
            "least" => return Ok(Self::Least),
            _ => {}
        }
        let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(end);
        let unit: f64 = match unit.trim() {
            "g" | "gib" => 1_073_741_824.0,
            "gb" => 1e9,
            "m" | "mib" => 1_048_576.0,
            "mb" => 1e6,
            _ => return Err(refuse()),
        };
        let bytes = number.parse::<f64>().map_err(|_| refuse())? * unit;
        if bytes.is_finite() && (1.0..1e15).contains(&bytes) {
            Ok(Self::Bytes(bytes as u64))
        } else {
            Err(refuse())
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Least => f.write_str("least"),
            Self::Bytes(bytes) => f.write_str(&gib(*bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("6GiB", 6 << 30),
            ("6g", 6 << 30),
            ("6 GB", 6_000_000_000),
            ("800MiB", 800 << 20),
            ("1.5G", 3 << 29),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), Budget::Bytes(bytes), "{text}");
        }
        assert_eq!("AUTO".parse::<Budget>().unwrap(), Budget::Auto);
        for text in ["", "6", "GiB", "-6GiB", "6TiBs", "nan", "1e3G", "0GiB", "6 apples", "1.2.3G"] {
            assert!(text.parse::<Budget>().unwrap_err().to_string().contains("6GiB"), "{text}");
        }
    }

    #[test]
    fn auto_finds_some_memory() {
        let (bytes, words) = Budget::Auto.resolve();
        assert!(bytes > 0 && words.contains("GiB"));
    }
}
