//! The segments of a JPEG: markers, each with its payload.

pub(super) const DHT: u8 = 0xc4;
pub(super) const EOI: u8 = 0xd9;
pub(super) const SOS: u8 = 0xda;
pub(super) const DRI: u8 = 0xdd;
pub(super) const APP1: u8 = 0xe1;

/// Whether it is the marker of a frame header, of whatever process. 0xc4, 0xc8 and 0xcc lie in the same range and are others.
pub(super) fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, DHT | 0xc8 | 0xcc)
}

/// What follows a place in the file.
pub(super) enum Next<'a> {
    /// A marker with what its length says belongs to it; `end` is the place behind.
    Segment { marker: u8, payload: &'a [u8], end: usize },
    /// The file ends before there is a whole segment.
    Ends,
    /// A segment says that it is shorter than its own length.
    Damaged,
}

/// The next segment from `at` on. What lies before it is passed over: fill bytes, picture data, rubbish; restart markers too, which
/// belong to picture data.
pub(super) fn next(bytes: &[u8], mut at: usize) -> Next<'_> {
    loop {
        while bytes.get(at).is_some_and(|byte| *byte != 0xff) {
            at += 1;
        }
        while bytes.get(at) == Some(&0xff) {
            at += 1;
        }
        let Some(&marker) = bytes.get(at) else { return Next::Ends };
        at += 1;
        match marker {
            EOI => return Next::Segment { marker, payload: &[], end: at },
            // The known ones that have a length; others occur only within damaged picture data.
            0xc0..=0xcf | SOS..=0xef | 0xf7 | 0xfe => {
                let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()) else {
                    return Next::Ends;
                };
                let length = usize::from(u16::from_be_bytes(*length));
                if length < 2 {
                    return Next::Damaged;
                }
                let end = at + length;
                return match bytes.get(at + 2..end) {
                    Some(payload) => Next::Segment { marker, payload, end },
                    None => Next::Ends,
                };
            }
            _ => {}
        }
    }
}
