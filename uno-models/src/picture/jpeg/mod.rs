//! JPEG: decoders fill what is missing at the end with grey and say nothing, so it is looked for before.

mod bits;
mod frame;
mod scan;
mod segments;

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, Limits};

use self::bits::Huffman;
use self::frame::{Frame, Scan};
use self::scan::{NotZero, Tables, Walked, walk};
use self::segments::{APP1, DHT, DRI, EOI, Next, SOS, next};
use super::header::Header;
use super::kind::Kind;
use super::{Fault, Result};

/// Most scans that are walked through; the decoder takes no more either. Encoders write about 10.
const MAX_SCANS: usize = 100;

/// Dimensions and orientation, from what comes before the picture data.
pub(super) fn header(bytes: &[u8]) -> Result<Header> {
    let (mut orientation, mut frame, mut at) = (None, None, 2);
    let scan = loop {
        match next(bytes, at) {
            Next::Segment { marker: SOS, payload, .. } => {
                break frame.as_ref().and_then(|frame| Scan::read(payload, frame));
            }
            Next::Segment { marker: EOI, .. } | Next::Damaged => break None,
            Next::Ends => return Err(cut_short("its header is not complete")),
            Next::Segment { marker, payload, end } => {
                if marker == APP1 && orientation.is_none() {
                    orientation = payload.strip_prefix(b"Exif\0\0").and_then(Orientation::from_exif_chunk);
                } else if segments::is_frame(marker) && frame.is_none() {
                    frame = Frame::read(marker, payload);
                }
                at = end;
            }
        }
    };
    let frame = frame.ok_or_else(|| Fault::damaged(Kind::Jpeg, "it has no frame header"))?;
    let misplaced = scan
        .filter(|scan| frame.misplaces(scan))
        .map(|_| "with subsampled colours in scans of their own".into());
    if let Some(kind) = frame.unreadable().or(misplaced) {
        return Err(Fault::unreadable(format!("is a JPEG {kind}"), "save it as a plain 8-bit JPEG or PNG"));
    }
    let (width, height) = (frame.width, frame.height);
    Ok(Header { width, height, orientation: orientation.unwrap_or(Orientation::NoTransforms) })
}

/// The pixels of a JPEG whose dimensions are within the limits.
pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<DynamicImage> {
    let mut decoder = JpegDecoder::new(Cursor::new(stream(bytes)?))?;
    decoder.set_limits(limits)?;
    Ok(DynamicImage::from_decoder(decoder)?)
}

/// The picture without what follows it: from its first marker to its end marker.
///
/// # Errors
///
/// A JPEG that ends before its picture data does. The end marker is what shows that it does not, together with a walk through the
/// data: the rest of a file may have been filled up, with zeros or with an end marker. Without an end marker, as some cameras write
/// it, a JPEG is taken if its last bit is the file's last as well, and every coefficient has come.
pub(super) fn stream(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    let (mut frame, mut tables, mut not_zero) = (None, Tables::default(), NotZero::default());
    let (mut received, mut scans, mut at) = (Received::default(), 0, 2);
    // Whether the last scan ended where the file does.
    let mut ends_with_scan = false;
    loop {
        match next(bytes, at) {
            Next::Segment { marker: EOI, end, .. } => {
                return match &frame {
                    Some(frame) if !received.has_all_components(frame) => {
                        Err(cut_short("it lacks scans of some of its channels"))
                    }
                    _ => Ok(Cow::Borrowed(&bytes[..end])),
                };
            }
            Next::Segment { marker: SOS, payload, end } => {
                received.is_unknown |=
                    frame.as_ref().is_some_and(|frame: &Frame| frame.unreadable().is_some());
                scans += 1;
                at = end;
                let Some((frame, scan)) = frame.as_ref().and_then(|f| Some((f, Scan::read(payload, f)?)))
                else {
                    received.is_unknown = true;
                    continue;
                };
                let walked = if scans > MAX_SCANS || received.is_unknown {
                    Walked::Unknown
                } else {
                    walk(bytes, at, frame, &scan, &tables, &mut not_zero)
                };
                match walked {
                    Walked::Whole { at: place, used_up } => {
                        ends_with_scan = used_up && bytes[place..].iter().all(|fill| *fill == 0xff);
                        at = place;
                    }
                    // Encoders were seen that drop the last bits before the end marker; decoders take zeros for them.
                    Walked::Short { at: place, done, total }
                        if done > 0 && done + 1 == total && bytes.len() > place + 1 =>
                    {
                        at = place
                    }
                    Walked::Short { done, total, .. } => {
                        return Err(cut_short(&format!("scan {scans} has {done} of {total} blocks")));
                    }
                    Walked::Unknown => received.is_unknown = true,
                }
                received.add(&scan);
            }
            Next::Segment { marker, payload, end } => {
                match marker {
                    DHT => {
                        let sound = Huffman::read(payload, |class, number, table| {
                            let tables = if class == 0 { &mut tables.dc } else { &mut tables.ac };
                            tables[number] = Some(table);
                        });
                        received.is_unknown |= !sound;
                    }
                    DRI => {
                        let interval = payload.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
                        tables.restart_interval = u64::from(interval);
                    }
                    _ if segments::is_frame(marker) && frame.is_none() => {
                        frame = Frame::read(marker, payload)
                    }
                    _ => {}
                }
                at = end;
            }
            Next::Ends => {
                let is_whole = frame.as_ref().is_some_and(|frame| received.is_everything(frame));
                return if is_whole && ends_with_scan {
                    let end = bytes.iter().rposition(|fill| *fill != 0xff).map_or(0, |last| last + 1);
                    Ok(Cow::Owned([&bytes[..end], &[0xff, EOI]].concat()))
                } else {
                    Err(cut_short("it has no end marker"))
                };
            }
            // The decoder says what is wrong.
            Next::Damaged => return Ok(Cow::Borrowed(bytes)),
        }
    }
}

fn cut_short(why: &str) -> Fault {
    Fault::Reason(format!("is a JPEG that is cut short ({why}); load it anew"))
}

/// What scans have brought.
#[derive(Default)]
struct Received {
    /// Of each component the lowest bit of each coefficient that came.
    low: Vec<[Option<u8>; 64]>,
    /// Whether something was not understood.
    is_unknown: bool,
}

impl Received {
    fn add(&mut self, scan: &Scan) {
        for (component, ..) in &scan.components {
            if self.low.len() <= *component {
                self.low.resize(component + 1, [None; 64]);
            }
            self.low[*component][scan.band.0..=scan.band.1].fill(Some(scan.low));
        }
    }

    fn of<'a>(&'a self, frame: &'a Frame) -> impl Iterator<Item = [Option<u8>; 64]> + 'a {
        (0..frame.components.len()).map(|i| self.low.get(i).copied().unwrap_or([None; 64]))
    }

    /// Whether there is something of each component.
    fn has_all_components(&self, frame: &Frame) -> bool {
        self.is_unknown || self.of(frame).all(|low| low[0].is_some())
    }

    /// Whether all bits of all coefficients are there.
    fn is_everything(&self, frame: &Frame) -> bool {
        !self.is_unknown && self.of(frame).all(|low| low.iter().all(|bit| *bit == Some(0)))
    }
}
