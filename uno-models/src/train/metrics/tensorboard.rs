//! Event files of TensorBoard: records with a length and two checksums (TensorFlow `record_writer.h`), each a protocol buffer
//! (`event.proto`, `summary.proto`). Scalars need so few fields that they are written by hand.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// An event file that scalars are appended to.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates `events.out.tfevents.{seconds}.{process}.{number}.uno-rs` in `folder`, for steps after `done`. TensorBoard reads all
    /// such files of a folder together; from older ones it leaves out what comes after that step.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(folder: &Path, done: u64) -> Result<Self> {
        let stamp = now().as_secs();
        // Several files of one process in the same second get numbers.
        for number in 0.. {
            let name = format!("events.out.tfevents.{stamp}.{}.{number}.uno-rs", std::process::id());
            let path = folder.join(name);
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = Self { path, file };
                    // Field 3: file_version.
                    events.record(|event| bytes(event, 3, b"brain.Event:2"))?;
                    // Fields 2 and 7: step, session_log { status: START }.
                    events.record(|event| {
                        event.push(2 << 3);
                        varint(event, done + 1);
                        bytes(event, 7, &[1 << 3, 1]);
                    })?;
                    return Ok(events);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::write(&path)(e)),
            }
        }
        Err(Error::format(folder, "holds too many event files; move them away"))
    }

    /// Appends named numbers of one step.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, x) in values {
            // Summary.Value: tag = 1, simple_value = 2 (float).
            let mut value = Vec::new();
            bytes(&mut value, 1, tag.as_bytes());
            value.push(2 << 3 | 5);
            value.extend((x as f32).to_le_bytes());
            bytes(&mut summary, 1, &value);
        }
        self.record(|event| {
            // Event: step = 2, summary = 5.
            event.push(2 << 3);
            varint(event, step);
            bytes(event, 5, &summary);
        })
    }

    /// Appends an event with the time and what `fill` adds.
    fn record(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        // Event: wall_time = 1 (double).
        let mut event = vec![1 << 3 | 1];
        event.extend(now().as_secs_f64().to_le_bytes());
        fill(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked(crc32c(&length)).to_le_bytes());
        record.extend(&event);
        record.extend(masked(crc32c(&event)).to_le_bytes());
        self.file.write_all(&record).map_err(Error::write(&self.path))
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field.
fn bytes(out: &mut Vec<u8>, field: u8, data: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, data.len() as u64);
    out.extend(data);
}

/// CRC-32C (Castagnoli), bit by bit: records are short.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// The checksum as TFRecord stores it, so that a checksum over checksums stays sound.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn records_hold_their_lengths_checksums_and_values() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 0).unwrap();
        let other = EventFile::create(folder.path(), 0).unwrap();
        assert_ne!(events.path, other.path);
        events.scalars(300, [("loss", 0.5)]).unwrap();
        let data = std::fs::read(&events.path).unwrap();
        let mut at = 0;
        let mut records = Vec::new();
        while at < data.len() {
            let length = u64::from_le_bytes(data[at..at + 8].try_into().unwrap()) as usize;
            let event = &data[at + 12..at + 12 + length];
            let check = |from: &[u8], stored: &[u8]| {
                assert_eq!(masked(crc32c(from)).to_le_bytes(), stored);
            };
            check(&data[at..at + 8], &data[at + 8..at + 12]);
            check(event, &data[at + 12 + length..at + 16 + length]);
            records.push(event.to_vec());
            at += 16 + length;
        }
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        // step 300 as a varint, then summary { value { tag "loss", 0.5 } }.
        let tail = [&[16, 0xac, 2, 42, 13, 10, 11, 10, 4][..], b"loss", &[21, 0, 0, 0, 63]].concat();
        assert!(records[2].ends_with(&tail), "{:?}", records[2]);
    }
}
