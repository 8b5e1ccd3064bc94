//! T5's tokenizer, from SentencePiece files and `tokenizer.json`.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::Encoding;
use super::file::{TokenizerJson, check_special, read, refuse_other_kinds, section, shown};
use crate::error::{Error, Result};
use crate::text::spiece::{Charsmap, Kind, Piece, Rules, Unigram};

/// How many `<extra_id_N>` tokens transformers puts behind the pieces of a `spiece.model`.
const EXTRA_IDS: u32 = 100;

const END: &str = "</s>";
const PAD: &str = "<pad>";
const UNKNOWN: &str = "<unk>";

/// A token that is found in a text as it is written, before anything else happens to the text.
#[derive(Clone, Debug)]
struct SpecialToken {
    text: String,
    id: u32,
}

/// T5's tokenizer: a SentencePiece unigram model, `</s>` at the end, padding with `<pad>`.
///
/// `</s>`, `<pad>`, `<unk>` and `<extra_id_0>` to `<extra_id_99>` are recognized in a text and stand for their ids.
#[derive(Clone, Debug)]
pub struct T5Tokenizer {
    model: Unigram,
    special: Vec<SpecialToken>,
    /// The characters that special tokens begin with; nearly always only `<`.
    special_starts: Vec<char>,
    end: u32,
    pad: u32,
    vocab_size: usize,
}

impl T5Tokenizer {
    /// Reads `spiece.model`, or `tokenizer.json` if there is no such file, from a folder (`tokenizer_2` in the layout of
    /// diffusers).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Format`] if there is neither file, or if what is there cannot be used.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let (spiece, json) = (dir.join("spiece.model"), dir.join("tokenizer.json"));
        match (spiece.exists(), json.exists()) {
            (true, _) => Self::from_spiece(spiece),
            (false, true) => Self::from_tokenizer_json(json),
            (false, false) => {
                Err(Error::format(dir, "holds no T5 tokenizer; wanted spiece.model or tokenizer.json"))
            }
        }
    }

    /// Reads a SentencePiece model (`spiece.model`, what xlabs-ai/xflux_text_encoders and google/t5-v1_1-xxl ship).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is no SentencePiece unigram model with the
    /// pieces `</s>` and `<pad>`.
    pub fn from_spiece(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::spiece(path, &read(path)?)
    }

    /// As [`from_spiece`](Self::from_spiece), from bytes; `name` stands in messages.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] as for [`from_spiece`](Self::from_spiece).
    pub fn from_spiece_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::spiece(Path::new(name), bytes)
    }

    /// Takes the vocabulary from a `tokenizer.json` of a T5 model.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it does not hold a unigram model made from a
    /// `spiece.model`, with `</s>` and `<pad>`.
    pub fn from_tokenizer_json(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::json(path, &read(path)?)
    }

    /// As [`from_tokenizer_json`](Self::from_tokenizer_json), from bytes; `name` stands in messages.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] as for [`from_tokenizer_json`](Self::from_tokenizer_json).
    pub fn from_tokenizer_json_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::json(Path::new(name), bytes)
    }

    /// Token ids of `text`, `[max_len]`. The end token is always there, also where the text is cut; a text that itself
    /// ends in `</s>` gets no second one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `max_len` is 0.
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Encoding> {
        let Some(room) = max_len.checked_sub(1) else {
            return Err(Error::invalid("max_len of the T5 tokens", max_len, "at least 1, for the end token"));
        };
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((before, token, after)) = self.split_at_special(rest) {
            self.model.encode(before, &mut ids);
            ids.push(token.id);
            rest = after;
        }
        self.model.encode(rest, &mut ids);
        let dropped = Encoding::cut(&mut ids, room);
        if ids.last() != Some(&self.end) {
            ids.push(self.end);
        }
        Ok(Encoding::padded(ids, dropped, max_len, self.pad))
    }

    /// All ids are below this: the pieces and, for a `spiece.model`, the 100 `<extra_id_N>` tokens behind them (32,100
    /// for the real T5, which embeds 32,128). A text without `<extra_id_N>` in it never has an id beyond the pieces.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Splits `text` around the first special token in it, the longest one if several begin at the same place.
    fn split_at_special<'a>(&self, text: &'a str) -> Option<(&'a str, &SpecialToken, &'a str)> {
        text.char_indices().filter(|(_, c)| self.special_starts.contains(c)).find_map(|(at, _)| {
            let (before, here) = text.split_at_checked(at)?;
            let matching = self.special.iter().filter(|token| here.starts_with(&token.text));
            let token = matching.max_by_key(|token| token.text.len())?;
            Some((before, token, here.strip_prefix(token.text.as_str())?))
        })
    }

    fn spiece(path: &Path, bytes: &[u8]) -> Result<Self> {
        refuse_other_kinds(path, bytes)?;
        if bytes.first() == Some(&b'{') {
            return Err(Error::format(path, "is JSON, not a SentencePiece model; is it a tokenizer.json?"));
        }
        let model = Unigram::from_model_proto(path, bytes)?;
        let named = [PAD, END, UNKNOWN].into_iter().filter_map(|text| {
            let id = model.id_of(text.as_bytes())?;
            Some(SpecialToken { text: text.to_owned(), id })
        });
        let pieces = u32::try_from(model.len()).unwrap_or(u32::MAX);
        // Counted backwards: <extra_id_0> is the last token.
        let extra = (0..EXTRA_IDS).map(|n| SpecialToken {
            text: format!("<extra_id_{n}>"),
            id: pieces.saturating_add(EXTRA_IDS - 1 - n),
        });
        let special = named.chain(extra).collect();
        Self::new(path, model, special)
    }

    fn json(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = TokenizerJson::read(path, bytes)?;
        let unusable = |reason: String| {
            Error::format(
                path,
                format!("{reason}; wanted the tokenizer.json of a T5 model, or use its spiece.model"),
            )
        };
        if file.model.kind() != "Unigram" {
            return Err(unusable(format!("holds a {} model, not a unigram model", file.model.kind())));
        }
        let model: UnigramJson = section(path, bytes)?;
        let charsmap =
            file.normalizer.as_ref().map_or(Ok(Vec::new()), precompiled_charsmap).map_err(unusable)?;
        let charsmap = Charsmap::parse(&charsmap).map_err(unusable)?;
        let special: HashSet<&str> = file
            .added_tokens
            .iter()
            .filter(|token| token.special)
            .map(|token| token.content.as_str())
            .collect();
        let pieces = (0_usize..).zip(model.vocab).map(|(id, (text, score))| {
            let kind = match () {
                () if Some(id) == model.unk_id => Kind::Unknown,
                () if special.contains(text.as_str()) => Kind::Control,
                () if model.byte_fallback && is_byte_piece(&text) => Kind::Byte,
                () => Kind::Normal,
            };
            Piece { text, score, kind }
        });
        let rules = Rules { byte_fallback: model.byte_fallback, ..Rules::default() };
        let model = Unigram::new(pieces.collect(), charsmap, rules).map_err(unusable)?;
        let special =
            file.added_tokens.into_iter().map(|token| SpecialToken { text: token.content, id: token.id });
        Self::new(path, model, special.collect())
    }

    fn new(path: &Path, model: Unigram, special: Vec<SpecialToken>) -> Result<Self> {
        check_special(path, special.iter().map(|token| (token.text.as_str(), token.id)))?;
        let find = |text: &str| {
            let id = model.id_of(text.as_bytes());
            id.ok_or_else(|| {
                Error::format(path, format!("has no piece {text}; wanted the spiece.model of a T5 model"))
            })
        };
        let (end, pad) = (find(END)?, find(PAD)?);
        let highest = special.iter().map(|token| token.id as usize + 1).max().unwrap_or(0);
        let vocab_size = highest.max(model.len());
        let mut special_starts: Vec<char> =
            special.iter().filter_map(|token| token.text.chars().next()).collect();
        special_starts.sort_unstable();
        special_starts.dedup();
        Ok(Self { model, special, special_starts, end, pad, vocab_size })
    }
}

#[derive(Deserialize)]
struct UnigramJson {
    vocab: Vec<(String, f64)>,
    unk_id: Option<usize>,
    #[serde(default)]
    byte_fallback: bool,
}

/// The character map inside a normalizer of a `tokenizer.json`.
fn precompiled_charsmap(normalizer: &serde_json::Value) -> Result<Vec<u8>, String> {
    let kind = normalizer.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
    match kind {
        "Precompiled" => {
            let text = normalizer.get("precompiled_charsmap").and_then(serde_json::Value::as_str);
            text.and_then(decode_base64).ok_or_else(|| "its character map is not base64".into())
        }
        // What stands beside the map in converted files (Strip, Replace) only handles spaces.
        "Sequence" => {
            let steps = normalizer.get("normalizers").and_then(serde_json::Value::as_array);
            let is_map =
                |step: &&serde_json::Value| step.get("type").is_some_and(|kind| kind == "Precompiled");
            let step = steps.into_iter().flatten().find(is_map);
            precompiled_charsmap(step.ok_or("its normalizer has no character map (Precompiled)")?)
        }
        other => Err(format!("its normalizer is {}, not a character map (Precompiled)", shown(other))),
    }
}

/// Standard base64 with padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for c in group {
            let value = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let missing = 4 - group.len();
        if missing == 3 {
            return None;
        }
        let [_, decoded @ ..] = (bits << (6 * missing)).to_be_bytes();
        bytes.extend(decoded.into_iter().take(3 - missing));
    }
    Some(bytes)
}

fn is_byte_piece(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
pub(super) mod testing {
    use serde_json::{Value, json};

    use super::T5Tokenizer;
    use crate::text::spiece::testing;

    pub(crate) const WORDS: [(&str, f32); 6] =
        [("▁", -2.0), ("a", -3.0), ("b", -3.5), ("▁a", -4.0), ("fi", -5.0), ("e\u{301}", -3.0)];
    const RULES: [(&str, &str); 3] = [("ﬁ", "fi"), ("\t", " "), ("é", "e\u{301}")];
    pub(crate) const PIECES: u32 = 9;

    pub(crate) fn t5() -> T5Tokenizer {
        T5Tokenizer::from_spiece_bytes("spiece.model", &testing::t5(&WORDS, &RULES)).unwrap()
    }

    pub(crate) fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let group = |group: &[u8]| {
            let bits = [0, 1, 2].map(|i| u32::from(group.get(i).copied().unwrap_or(0)));
            let bits = bits[0] << 16 | bits[1] << 8 | bits[2];
            let digit = |i: usize| DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char;
            (0..4).map(|i| if i > group.len() { '=' } else { digit(i) }).collect::<String>()
        };
        bytes.chunks(3).map(group).collect()
    }

    /// The same vocabulary as [`t5`] in the form that transformers saves.
    pub(crate) fn t5_json() -> Value {
        let first = testing::T5_FIRST.map(|(text, score, _)| (text, score));
        let vocab = [&first[..], &WORDS].concat();
        let extra: Vec<_> = (0..100).rev().map(|n| format!("<extra_id_{n}>")).collect();
        let added = first.iter().map(|(text, _)| *text).zip(0..);
        let added = added.chain(extra.iter().map(String::as_str).zip(PIECES..));
        let added: Vec<_> =
            added.map(|(text, id)| json!({"id": id, "content": text, "special": true})).collect();
        json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": base64(&testing::charsmap(&RULES))},
                {"type": "Strip", "strip_left": false, "strip_right": true},
            ]},
            "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::testing::{PIECES, base64, t5, t5_json};
    use super::*;
    use crate::text::spiece::testing;

    const TEXTS: [&str; 12] = [
        "",
        " ",
        "a",
        "ab ﬁ\ta",
        "é e\u{301} \u{301}",
        "<extra_id_0>a<extra_id_99> </s> b",
        "a <unk><pad>",
        "a</s>",
        "<extra_id_100>",
        "a</s",
        "猫猫 a",
        "\0\u{85}\u{feff}",
    ];

    fn t5_from(json: &Value) -> Result<T5Tokenizer> {
        T5Tokenizer::from_tokenizer_json_bytes("tokenizer.json", json.to_string().as_bytes())
    }

    #[test]
    fn t5_tokens_end_with_the_end_token_and_are_padded() {
        let encoding = t5().encode("ab ﬁ", 8).unwrap();
        assert_eq!(encoding, Encoding { ids: vec![6, 5, 3, 7, 1, 0, 0, 0], len: 5, dropped: 0 });
        assert_eq!(t5().encode("", 3).unwrap(), Encoding { ids: vec![1, 0, 0], len: 1, dropped: 0 });
    }

    #[test]
    fn t5_tokens_that_do_not_fit_are_dropped_but_not_the_end_token() {
        let encoding = t5().encode("a a a a", 3).unwrap();
        assert_eq!(encoding, Encoding { ids: vec![6, 6, 1], len: 3, dropped: 2 });
        assert_eq!(t5().encode("a a", 3).unwrap(), Encoding { ids: vec![6, 6, 1], len: 3, dropped: 0 });
        assert_eq!(t5().encode("a", 1).unwrap(), Encoding { ids: vec![1], len: 1, dropped: 1 });
        assert!(matches!(t5().encode("a", 0), Err(Error::Invalid { .. })));
    }

    #[test]
    fn t5_special_tokens_in_a_text_stand_for_their_ids() {
        let ids = |text: &str| {
            let encoding = t5().encode(text, 16).unwrap();
            encoding.ids[..encoding.len].to_vec()
        };
        let last = PIECES + 99;
        assert_eq!(ids("a<extra_id_0>a"), [6, last, 6, 1]);
        assert_eq!(ids("<extra_id_99> <extra_id_1>b"), [PIECES, last - 1, 3, 5, 1]);
        assert_eq!(ids("a <unk><pad>"), [6, 2, 0, 1]);
        assert_eq!(ids("a</s>"), [6, 1], "no second end token");
        assert_eq!(ids("</s>a"), [1, 6, 1]);
        assert_eq!(ids("<extra_id_100>"), [3, 2, 4, 2, 1], "there is no such token");
    }

    #[test]
    fn the_t5_vocabulary_counts_the_sentinels() {
        assert_eq!(t5().vocab_size(), PIECES as usize + 100);
        assert_eq!(t5_from(&t5_json()).unwrap().vocab_size(), PIECES as usize + 100);
    }

    #[test]
    fn t5_from_tokenizer_json_gives_the_ids_of_the_sentencepiece_model() {
        let (model, mut file) = (t5(), t5_json());
        let same = |file: &Value| {
            let json = t5_from(file).unwrap();
            for text in TEXTS {
                assert_eq!(json.encode(text, 20).unwrap(), model.encode(text, 20).unwrap(), "{text:?}");
            }
        };
        same(&file);
        file["normalizer"] = file["normalizer"]["normalizers"][0].take();
        same(&file);
        file["model"].as_object_mut().unwrap().remove("type");
        same(&file);
    }

    #[test]
    fn a_tokenizer_json_that_is_not_of_t5_is_refused_with_the_reason() {
        let good = t5_json();
        let changed = |pointer: &str, value: Value| {
            let mut file = good.clone();
            *file.pointer_mut(pointer).unwrap() = value;
            t5_from(&file).unwrap_err().to_string()
        };
        for (pointer, value, reason) in [
            ("/model/type", json!("WordPiece"), "WordPiece model, not a unigram model"),
            ("/model/vocab", json!([["<unk>", 0.0]]), "no piece stands for unknown text"),
            ("/model/vocab", json!({"a": 1}), "damaged"),
            ("/model/vocab/4", json!(["a", 1e300]), "has no piece"),
            ("/model/vocab/0", json!(["<PAD>", 0.0]), "has no piece <pad>"),
            ("/model/vocab/5", json!(["a", -3.0]), "pieces 4 and 5 are both"),
            ("/model/unk_id", json!(null), "no piece stands for unknown text"),
            ("/model/unk_id", json!(500), "no piece stands for unknown text"),
            ("/model/unk_id", json!(-1), "damaged"),
            ("/model", json!(null), "not a tokenizer.json"),
            ("/normalizer", json!({"type": "NFKC"}), "its normalizer is \"NFKC\""),
            ("/normalizer", json!({"type": "Sequence", "normalizers": []}), "no character map"),
            ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "?"}), "not base64"),
            (
                "/normalizer",
                json!({"type": "Precompiled", "precompiled_charsmap": "AAAA/w=="}),
                "claims a table",
            ),
            ("/added_tokens/0/content", json!(""), "added token 0 has no text"),
            ("/added_tokens/0/id", json!(4_000_000_000_u32), "has the id 4000000000"),
            ("/added_tokens/0/id", json!(-1), "not a tokenizer.json"),
            ("/added_tokens", json!(vec![json!({"id": 1, "content": "x"}); 5000]), "5000 added tokens"),
        ] {
            if reason == "has no piece" {
                // Scores beyond f32 are fine as long as they are finite.
                let mut file = good.clone();
                *file.pointer_mut(pointer).unwrap() = value;
                assert!(t5_from(&file).is_ok());
                continue;
            }
            let message = changed(pointer, value);
            assert!(message.contains(reason), "{pointer}: wanted {reason:?}, got {message:?}");
            assert!(message.starts_with("tokenizer.json: "), "{message}");
        }
    }

    #[test]
    fn a_sentencepiece_model_without_the_tokens_of_t5_is_refused() {
        let bytes =
            testing::model(&[("<unk>", 0.0, testing::UNKNOWN)], Default::default(), Default::default());
        let message = T5Tokenizer::from_spiece_bytes("x/spiece.model", &bytes).unwrap_err().to_string();
        assert!(message.starts_with("x/spiece.model: has no piece </s>"), "{message}");
    }

    #[test]
    fn base64_is_decoded() {
        for length in 0..50_u8 {
            let bytes: Vec<u8> = (0..length).map(|i| i.wrapping_mul(37)).collect();
            assert_eq!(decode_base64(&base64(&bytes)).as_deref(), Some(bytes.as_slice()));
        }
        for wrong in ["A", "AAAAA", "A B=", "Ä"] {
            assert_eq!(decode_base64(wrong), None, "{wrong}");
        }
    }
}
