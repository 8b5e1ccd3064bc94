//! What this process really takes, as the operating system counts it.

/// Bytes of memory that the process holds now (resident set size); `None` where the system does not tell.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most bytes that the process held since it began or since [`reset_peak`]; `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// Lets [`peak`] count from now on; without effect where the system cannot do it.
pub fn reset_peak() {
    // "5" resets the high-water mark (proc(5)). Where it is refused, the older peak stands, which is no lie either.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// A line of `/proc/self/status`, which counts in KiB.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_shows_in_what_is_counted() {
        reset_peak();
        let large = std::hint::black_box(vec![1u8; 64 << 20]);
        // Other tests run beside this one, so that only what must be there can be asserted.
        let (peak, resident) = (peak().unwrap(), resident().unwrap());
        assert!(peak >= 64 << 20 && resident >= 64 << 20, "{peak} and {resident} for {}", large.len());
    }
}
