//! Token ids for T5 and CLIP, equal to those that transformers 5 gives for the golden prompts.
//!
//! The official pipeline calls `T5Tokenizer` and `CLIPTokenizer` with `truncation=True, padding="max_length"`, and so do
//! [`T5Tokenizer::encode`] and [`ClipTokenizer::encode`]. A tokenizer file contributes its vocabulary; the rules are
//! those of T5 and CLIP, whichever file the vocabulary comes from, as in transformers 5. A `tokenizer.json` therefore
//! gives the same ids as the older files of the same model.
//!
//! transformers 4, which the official code asks for, differs: its `CLIPTokenizer` is written in Python and puts spaces
//! around Chinese characters, drops control and format characters (the joiners in emoji among them) and, where ftfy is
//! installed, straightens quotes and ligatures. The golden data has none of this.
//!
//! All files count as untrusted: they are limited in size and checked before use.

mod clip;
mod file;
mod t5;

pub use clip::ClipTokenizer;
pub use t5::T5Tokenizer;

/// The tokens of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, `[max_len]`: the text's own and special tokens, then padding.
    pub ids: Vec<u32>,
    /// Number of tokens before the padding, special tokens included.
    pub len: usize,
    /// Number of tokens that did not fit and were cut off at the end; 0 if the text is whole.
    pub dropped: usize,
}

impl Encoding {
    /// Keeps the first `room` of `ids`; returns how many were dropped.
    fn cut(ids: &mut Vec<u32>, room: usize) -> usize {
        let dropped = ids.len().saturating_sub(room);
        ids.truncate(room);
        dropped
    }

    fn padded(mut ids: Vec<u32>, dropped: usize, max_len: usize, pad: u32) -> Self {
        let len = ids.len();
        ids.resize(max_len, pad);
        Self { ids, len, dropped }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::clip::testing::{clip, clip_files, clip_json};
    use super::file::MAX_FILE_BYTES;
    use super::t5::testing::{WORDS, t5, t5_json};
    use super::*;
    use crate::error::Error;
    use crate::text::spiece::testing;

    #[test]
    fn other_files_in_place_of_a_tokenizer_are_named() {
        for (bytes, reason) in [
            (&b""[..], "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 791656\n", "git lfs pull"),
            (b"\x80\x02}q\x00.", "pickle"),
            (b"PK\x03\x04rest", "zip archive"),
            (b"<!DOCTYPE html><title>404</title>", "web page"),
        ] {
            for error in [
                T5Tokenizer::from_spiece_bytes("f", bytes).unwrap_err(),
                T5Tokenizer::from_tokenizer_json_bytes("f", bytes).unwrap_err(),
                ClipTokenizer::from_tokenizer_json_bytes("f", bytes).unwrap_err(),
                ClipTokenizer::from_vocab_merges_bytes("f", bytes, b"").unwrap_err(),
                ClipTokenizer::from_vocab_merges_bytes("f", b"{}", bytes).unwrap_err(),
            ] {
                assert!(matches!(error, Error::Format { .. }), "{error}");
                assert!(error.to_string().contains(reason), "wanted {reason:?}, got {error}");
            }
        }
        let error = T5Tokenizer::from_spiece_bytes("f", t5_json().to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains("is it a tokenizer.json?"), "{error}");
    }

    #[test]
    fn folders_are_searched_for_the_exact_files_first() {
        let dir = tempfile::tempdir().unwrap();
        let (t5_dir, clip_dir) = (dir.path().join("t5"), dir.path().join("clip"));
        for dir in [&t5_dir, &clip_dir] {
            fs::create_dir(dir).unwrap();
        }
        let missing = T5Tokenizer::from_dir(&t5_dir).unwrap_err().to_string();
        assert!(missing.contains("wanted spiece.model or tokenizer.json"), "{missing}");
        let missing = ClipTokenizer::from_dir(&clip_dir).unwrap_err().to_string();
        assert!(missing.contains("wanted vocab.json and merges.txt, or tokenizer.json"), "{missing}");

        fs::write(t5_dir.join("tokenizer.json"), t5_json().to_string()).unwrap();
        fs::write(clip_dir.join("tokenizer.json"), clip_json().to_string()).unwrap();
        assert_eq!(
            T5Tokenizer::from_dir(&t5_dir).unwrap().encode("a", 4).unwrap(),
            t5().encode("a", 4).unwrap()
        );
        assert_eq!(ClipTokenizer::from_dir(&clip_dir).unwrap().vocab_size(), 40);

        let (vocab, merges) = clip_files();
        fs::write(t5_dir.join("spiece.model"), testing::t5(&WORDS[..2], &[])).unwrap();
        fs::write(clip_dir.join("vocab.json"), vocab.to_string()).unwrap();
        fs::write(clip_dir.join("merges.txt"), merges).unwrap();
        fs::write(clip_dir.join("tokenizer.json"), "broken").unwrap();
        assert_eq!(T5Tokenizer::from_dir(&t5_dir).unwrap().vocab_size(), 105);
        assert_eq!(ClipTokenizer::from_dir(&clip_dir).unwrap().vocab_size(), 40);
        assert!(matches!(T5Tokenizer::from_spiece(&t5_dir), Err(Error::Io { .. })), "a folder is no file");
        assert!(matches!(T5Tokenizer::from_spiece(t5_dir.join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_file_too_large_for_a_tokenizer_is_not_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_FILE_BYTES + 1).unwrap();
        let message = T5Tokenizer::from_spiece(file.path()).unwrap_err().to_string();
        assert!(message.contains("larger than 64 MiB"), "{message}");
    }

    proptest! {
        #[test]
        fn every_text_fits_whatever_the_length(text in any::<String>(), max_len in 2_usize..40) {
            let (t5, clip) = (t5(), clip());
            for (encoding, end) in [(t5.encode(&text, max_len).unwrap(), 1), (clip.encode(&text, max_len).unwrap(), 39)] {
                prop_assert_eq!(encoding.ids.len(), max_len);
                prop_assert!(encoding.len <= max_len);
                prop_assert_eq!(encoding.ids[encoding.len - 1], end);
                prop_assert!(encoding.dropped == 0 || encoding.len == max_len);
            }
        }

        #[test]
        fn any_change_to_a_file_leaves_a_tokenizer_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (vocab, merges) = clip_files();
            let mut files = [t5_json().to_string(), clip_json().to_string(), vocab.to_string(), merges].map(String::into_bytes);
            for file in &mut files {
                for (place, byte) in &changes {
                    let place = place.index(file.len());
                    file[place] = *byte;
                }
            }
            let [t5, clip, vocab, merges] = files;
            if let Ok(t5) = T5Tokenizer::from_tokenizer_json_bytes("f", &t5) {
                t5.encode("a ﬁ é", 8).unwrap();
            }
            for clip in [
                ClipTokenizer::from_tokenizer_json_bytes("f", &clip),
                ClipTokenizer::from_vocab_merges_bytes("f", &vocab, clip_files().1.as_bytes()),
                ClipTokenizer::from_vocab_merges_bytes("f", clip_files().0.to_string().as_bytes(), &merges),
            ].into_iter().flatten() {
                clip.encode("the abc", 8).unwrap();
            }
        }
    }
}
