//! Text files that people write themselves: configurations and lists. They may begin with a byte order mark, as some editors on
//! Windows write one; text in another encoding than UTF-8 is named.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// The mark of UTF-8.
const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Reads a file of at most `most` bytes, less its byte order mark; `what` says what it is to be, as in "a prompt list".
///
/// # Errors
///
/// A file that cannot be read, is longer, or is no UTF-8.
pub(crate) fn read(path: &Path, most: u64, what: &str) -> Result<String> {
    let file = File::open(path).map_err(Error::read(path))?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::read(path))?;
    if bytes.len() as u64 > most {
        let length = std::fs::metadata(path).map_or(most, |metadata| metadata.len());
        return Err(Error::format(path, format!("has {length} bytes; wanted {what} of at most {most}")));
    }
    decode(bytes).map_err(|reason| Error::format(path, reason))
}

/// The text of a file in memory, less its byte order mark. The error is a reason without the file's name.
pub(crate) fn decode(mut bytes: Vec<u8>) -> Result<String, String> {
    check_encoding(&bytes)?;
    if bytes.starts_with(&MARK) {
        bytes.drain(..MARK.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!(
            "is no UTF-8 text: byte {at} is {:#04x}; save it as UTF-8",
            e.as_bytes().get(at).unwrap_or(&0)
        )
    })
}

/// Opens a file to be read bit by bit, from after its byte order mark on.
///
/// # Errors
///
/// A file that cannot be read, or is in another encoding that shows at its beginning.
pub(crate) fn open(path: &Path) -> Result<impl BufRead + use<>> {
    let mut file = File::open(path).map_err(Error::read(path))?;
    let mut start = Vec::new();
    file.by_ref().take(4).read_to_end(&mut start).map_err(Error::read(path))?;
    check_encoding(&start).map_err(|reason| Error::format(path, reason))?;
    if start.starts_with(&MARK) {
        start.drain(..MARK.len());
    }
    Ok(BufReader::with_capacity(1 << 20, std::io::Cursor::new(start).chain(file)))
}

/// Names the encodings that are not UTF-8 and show in the first bytes.
fn check_encoding(bytes: &[u8]) -> Result<(), String> {
    let encoding = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => "UTF-32",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16",
        // Without a mark: a first letter of ASCII with a zero before or behind it.
        [0, letter, ..] | [letter, 0, ..] if letter.is_ascii() && *letter != 0 => "UTF-16",
        _ => return Ok(()),
    };
    Err(format!("is text in {encoding}, as some editors and PowerShell's `>` write it; save it as UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_skipped_and_text_without_one_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (bytes, text) in
            [(&b"\xef\xbb\xbf[1]"[..], "[1]"), (b"[1]", "[1]"), (b"", ""), (b"\xef\xbb\xbf", ""), (b"x", "x")]
        {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path, 100, "a list").unwrap(), text);
            let mut streamed = String::new();
            open(&path).unwrap().read_to_string(&mut streamed).unwrap();
            assert_eq!(streamed, text);
        }
    }

    #[test]
    fn other_encodings_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let utf16 = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
        let little: Vec<u8> = utf16("\u{feff}[1]").into_iter().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = utf16("\u{feff}[1]").into_iter().flat_map(u16::to_be_bytes).collect();
        for (bytes, words) in [
            (&little[..], "UTF-16"),
            (&big, "UTF-16"),
            (&little[2..], "UTF-16"),
            (&big[2..], "UTF-16"),
            (b"\xff\xfe\0\0[\0\0\0", "UTF-32"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let both = [read(&path, 100, "a list").err(), open(&path).err()];
            for error in both {
                let text = error.unwrap().to_string();
                assert!(text.contains(words) && text.contains("save it as UTF-8"), "{text}");
            }
        }
        assert!(decode(b"caf\xe9".to_vec()).unwrap_err().contains("byte 3 is 0xe9"));
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, "[1, 2]").unwrap();
        assert!(
            read(&path, 5, "a list")
                .unwrap_err()
                .to_string()
                .contains("has 6 bytes; wanted a list of at most 5")
        );
        assert!(read(&path, 6, "a list").is_ok());
    }
}
