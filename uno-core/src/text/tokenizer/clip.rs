//! CLIP's tokenizer, from `vocab.json` with `merges.txt` and from `tokenizer.json`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::Encoding;
use super::file::{TokenizerJson, read, refuse_other_kinds, section, shown};
use crate::error::{Error, Result};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Marks the last piece of a word in the vocabulary.
const WORD_END: &str = "</w>";
/// How transformers' `CLIPTokenizer` cuts text into words.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's tokenizer: byte-level BPE on lower-cased words, between `<|startoftext|>` and `<|endoftext|>`, padding with
/// `<|endoftext|>`.
///
/// Both special tokens are recognized in a text and stand for their ids.
#[derive(Clone)]
pub struct ClipTokenizer {
    inner: Tokenizer,
    start: u32,
    end: u32,
    vocab_size: usize,
}

impl fmt::Debug for ClipTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end, vocab_size, .. } = self;
        write!(f, "ClipTokenizer {{ start: {start}, end: {end}, vocab_size: {vocab_size} }}")
    }
}

impl ClipTokenizer {
    /// Reads `vocab.json` and `merges.txt`, or `tokenizer.json` if one of them is missing, from a folder.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Format`] if there is neither, or if what is there cannot be used.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let [vocab, merges, json] = ["vocab.json", "merges.txt", "tokenizer.json"].map(|name| dir.join(name));
        if vocab.exists() && merges.exists() {
            return Self::from_vocab_merges(vocab, merges);
        }
        if json.exists() {
            return Self::from_tokenizer_json(json);
        }
        Err(Error::format(
            dir,
            "holds no CLIP tokenizer; wanted vocab.json and merges.txt, or tokenizer.json",
        ))
    }

    /// Reads the pair `vocab.json` (token to id) and `merges.txt` (one pair per line, the most frequent first).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if ids repeat or leave holes, a special token is
    /// missing, or a merge names tokens that the vocabulary lacks.
    pub fn from_vocab_merges(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self> {
        let (vocab, merges) = (vocab.as_ref(), merges.as_ref());
        Self::pair(vocab, &read(vocab)?, merges, &read(merges)?)
    }

    /// As [`from_vocab_merges`](Self::from_vocab_merges), from bytes; in messages the files are in a folder `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] as for [`from_vocab_merges`](Self::from_vocab_merges).
    pub fn from_vocab_merges_bytes(name: &str, vocab: &[u8], merges: &[u8]) -> Result<Self> {
        let [vocab_path, merges_path] =
            ["vocab.json", "merges.txt"].map(|file| PathBuf::from(name).join(file));
        Self::pair(&vocab_path, vocab, &merges_path, merges)
    }

    /// Takes vocabulary and merges from a `tokenizer.json` of a CLIP model.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it does not hold a BPE model with `</w>` at the
    /// ends of words, or for the reasons of [`from_vocab_merges`](Self::from_vocab_merges).
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

    /// Token ids of `text`, `[max_len]`. Start and end token are always there, also where the text is cut.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `max_len` is below 2, [`Error::Tokenizer`] if the `tokenizers` crate refuses the text.
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Encoding> {
        let Some(room) = max_len.checked_sub(2) else {
            return Err(Error::invalid(
                "max_len of the CLIP tokens",
                max_len,
                "at least 2, for start and end token",
            ));
        };
        let encoding =
            self.inner.encode_fast(text, false).map_err(|e| Error::Tokenizer(format!("CLIP: {e}")))?;
        let mut content = encoding.get_ids().to_vec();
        let dropped = Encoding::cut(&mut content, room);
        let mut ids = Vec::with_capacity(max_len);
        ids.push(self.start);
        ids.append(&mut content);
        ids.push(self.end);
        Ok(Encoding::padded(ids, dropped, max_len, self.end))
    }

    /// Number of tokens; all ids are below this (49,408 for the real CLIP).
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn pair(vocab_path: &Path, vocab: &[u8], merges_path: &Path, merges: &[u8]) -> Result<Self> {
        refuse_other_kinds(vocab_path, vocab)?;
        refuse_other_kinds(merges_path, merges)?;
        let vocab: Vocabulary = serde_json::from_slice(vocab).map_err(|e| {
            Error::format(vocab_path, format!("not a vocabulary (a JSON object from token to id): {e}"))
        })?;
        let merges = std::str::from_utf8(merges).map_err(|e| {
            Error::format(merges_path, format!("not a list of merges: {e}; download it again"))
        })?;
        let mut pairs = Vec::new();
        for (line, text) in (1..).zip(merges.lines()) {
            if text.starts_with("#version") || text.is_empty() {
                continue;
            }
            let pair = split_pair(text).ok_or_else(|| {
                let text = shown(text);
                Error::format(
                    merges_path,
                    format!("line {line} is {text}, wanted two tokens and one space between them"),
                )
            })?;
            pairs.push((format!("line {line}"), pair));
        }
        Self::new(vocab_path, vocab.0, merges_path, pairs, Vec::new())
    }

    fn json(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file = TokenizerJson::read(path, bytes)?;
        let unusable = |reason: String| {
            let wanted = "wanted the tokenizer.json of a CLIP model, or use its vocab.json and merges.txt";
            Error::format(path, format!("{reason}; {wanted}"))
        };
        if file.model.kind() != "BPE" {
            return Err(unusable(format!("holds a {} model, not a BPE model", file.model.kind())));
        }
        let model: BpeJson = section(path, bytes)?;
        if model.end_of_word_suffix.as_deref() != Some(WORD_END) {
            let suffix = model.end_of_word_suffix.as_deref().map_or("nothing".to_owned(), shown);
            return Err(unusable(format!("marks ends of words with {suffix}, not with {WORD_END}")));
        }
        let mut vocab = model.vocab.0;
        let mut special = Vec::with_capacity(file.added_tokens.len());
        // They may also stand in the vocabulary, or only here.
        for token in file.added_tokens {
            if *vocab.entry(token.content.clone()).or_insert(token.id) != token.id {
                return Err(unusable(format!("gives {} two ids", shown(&token.content))));
            }
            special.push(token.content);
        }
        let mut pairs = Vec::with_capacity(model.merges.len());
        for (number, merge) in (1..).zip(model.merges) {
            let pair = match merge {
                MergeJson::Pair(a, b) => Some((a, b)),
                MergeJson::Text(text) => split_pair(&text),
            };
            let place = format!("merge {number}");
            let pair = pair
                .ok_or_else(|| unusable(format!("{place} is not two tokens and one space between them")))?;
            pairs.push((place, pair));
        }
        Self::new(path, vocab, path, pairs, special)
    }

    /// `merges` are pairs with a name for messages; `special` are tokens besides start and end that stand for themselves.
    fn new(
        vocab_path: &Path,
        vocab: HashMap<String, u32>,
        merges_path: &Path,
        merges: Vec<(String, (String, String))>,
        mut special: Vec<String>,
    ) -> Result<Self> {
        let vocab_size = vocab.len();
        check_ids(&vocab).map_err(|reason| Error::format(vocab_path, reason))?;
        let find = |text: &str| {
            let wanted = "wanted the vocabulary of a CLIP model";
            vocab
                .get(text)
                .copied()
                .ok_or_else(|| Error::format(vocab_path, format!("has no token {text}; {wanted}")))
        };
        let (start, end) = (find(START)?, find(END)?);
        // Checked here, because BPE's own builder panics on a merge longer than all tokens.
        let mut seen = HashSet::with_capacity(merges.len());
        let mut pairs = Vec::with_capacity(merges.len());
        for (place, (a, b)) in merges {
            let known = |text: &str| {
                vocab.get(text).copied().ok_or_else(|| {
                    let reason =
                        format!("{place} needs the token {}, which the vocabulary lacks", shown(text));
                    Error::format(merges_path, format!("{reason}; are the two of the same model?"))
                })
            };
            let pair = (known(&a)?, known(&b)?);
            known(&format!("{a}{b}"))?;
            if !seen.insert(pair) {
                return Err(Error::format(merges_path, format!("{place} is there a second time")));
            }
            pairs.push((a, b));
        }
        let broken = |e| Error::Tokenizer(format!("CLIP: {}: {e}", vocab_path.display()));
        special.extend([START, END].map(str::to_owned));
        let inner = Self::build(vocab.into_iter().collect(), pairs, special).map_err(broken)?;
        Ok(Self { inner, start, end, vocab_size })
    }

    /// The steps of transformers' `CLIPTokenizer` (version 5).
    fn build(
        vocab: Vocab,
        merges: Vec<(String, String)>,
        special: Vec<String>,
    ) -> tokenizers::Result<Tokenizer> {
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(END.to_owned())
            .end_of_word_suffix(WORD_END.to_owned())
            .build()?;
        let mut tokenizer = Tokenizer::new(bpe);
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
        let steps = vec![NFC.into(), spaces.into(), Lowercase.into()];
        tokenizer.with_normalizer(Some(NormalizerSequence::new(steps)))?;
        let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
        let bytes = ByteLevel::default().add_prefix_space(false);
        tokenizer.with_pre_tokenizer(Some(PreTokenizerSequence::new(vec![words.into(), bytes.into()])));
        tokenizer.add_special_tokens(special.into_iter().map(|text| AddedToken::from(text, true)))?;
        Ok(tokenizer)
    }
}

#[derive(Deserialize)]
struct BpeJson {
    vocab: Vocabulary,
    merges: Vec<MergeJson>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Text(String),
    Pair(String, String),
}

/// A vocabulary as a JSON object; serde_json itself would let the last of two equal tokens win without a word.
struct Vocabulary(HashMap<String, u32>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut vocab = HashMap::new();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    if vocab.contains_key(&token) {
                        return Err(A::Error::custom(format!("the token {} is there twice", shown(&token))));
                    }
                    vocab.insert(token, id);
                }
                Ok(Vocabulary(vocab))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The ids of a vocabulary with n tokens must be 0 to n - 1, since they are rows of the embedding.
fn check_ids(vocab: &HashMap<String, u32>) -> Result<(), String> {
    let mut tokens: Vec<Option<&str>> = vec![None; vocab.len()];
    for (token, id) in vocab {
        let place = usize::try_from(*id).ok().and_then(|place| tokens.get_mut(place));
        let Some(place) = place else {
            return Err(format!(
                "the token {} has the id {id}, but there are only {} tokens",
                shown(token),
                vocab.len()
            ));
        };
        if let Some(other) = place.replace(token) {
            return Err(format!("the tokens {} and {} both have the id {id}", shown(token), shown(other)));
        }
    }
    Ok(())
}

fn split_pair(text: &str) -> Option<(String, String)> {
    let (a, b) = text.split_once(' ')?;
    (!a.is_empty() && !b.is_empty() && !b.contains(' ')).then(|| (a.to_owned(), b.to_owned()))
}

#[cfg(test)]
pub(super) mod testing {
    use serde_json::{Value, json};

    use super::{ClipTokenizer, END, START, WORD_END};
    use crate::error::Result;

    /// Letters with and without the mark of a word's end, some merges, start and end token, in this order.
    pub(crate) fn clip_vocab() -> (Vec<String>, Vec<&'static str>) {
        let letters = || "abcdehinot'!Ã©Ġ0".chars().map(String::from);
        let merges = vec!["a b", "ab c</w>", "t h", "th e</w>", "n o", "' t</w>"];
        let merged = merges.iter().map(|merge| merge.replace(' ', ""));
        let special = [START, END].map(str::to_owned);
        let ends = letters().map(|letter| letter + WORD_END);
        (letters().chain(ends).chain(merged).chain(special).collect(), merges)
    }

    pub(crate) fn clip_files() -> (Value, String) {
        let (vocab, merges) = clip_vocab();
        let vocab: Value =
            vocab.into_iter().zip(0..).map(|(token, id): (_, u32)| (token, json!(id))).collect();
        (vocab, format!("#version: 0.2\n{}\n", merges.join("\n")))
    }

    pub(crate) fn clip_pair(vocab: &str, merges: &str) -> Result<ClipTokenizer> {
        ClipTokenizer::from_vocab_merges_bytes("clip", vocab.as_bytes(), merges.as_bytes())
    }

    pub(crate) fn clip() -> ClipTokenizer {
        let (vocab, merges) = clip_files();
        clip_pair(&vocab.to_string(), &merges).unwrap()
    }

    /// The same as [`clip`] in the form that transformers saves.
    pub(crate) fn clip_json() -> Value {
        let (vocab, _) = clip_files();
        let merges: Vec<Vec<&str>> = clip_vocab().1.iter().map(|merge| merge.split(' ').collect()).collect();
        let special = [START, END].map(|text| json!({"id": vocab[text], "content": text, "special": true}));
        json!({
            "added_tokens": special,
            "padding": {"strategy": {"Fixed": 77}},
            "normalizer": {"type": "Lowercase"},
            "model": {"type": "BPE", "end_of_word_suffix": WORD_END, "vocab": vocab, "merges": merges},
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::testing::{clip, clip_files, clip_json, clip_pair, clip_vocab};
    use super::*;

    fn clip_from(json: &Value) -> Result<ClipTokenizer> {
        ClipTokenizer::from_tokenizer_json_bytes("tokenizer.json", json.to_string().as_bytes())
    }

    /// The tokens of `text` in words, without start, end and padding.
    fn clip_tokens(tokenizer: &ClipTokenizer, text: &str) -> Vec<String> {
        let vocab = clip_vocab().0;
        let encoding = tokenizer.encode(text, 64).unwrap();
        assert_eq!(encoding.ids.len(), 64);
        assert_eq!(vocab[encoding.ids[0] as usize], START);
        assert!(encoding.ids[encoding.len - 1..].iter().all(|id| vocab[*id as usize] == END));
        encoding.ids[1..encoding.len - 1].iter().map(|id| vocab[*id as usize].clone()).collect()
    }

    #[test]
    fn clip_words_are_merged_by_the_order_of_the_merges() {
        let tokens = |text| clip_tokens(&clip(), text);
        assert_eq!(tokens("abc the no"), ["abc</w>", "the</w>", "n", "o</w>"]);
        assert_eq!(tokens(" ABC\t\n The "), ["abc</w>", "the</w>"], "case and spaces make no difference");
        assert_eq!(tokens("don't!!"), ["d", "o", "n</w>", "'t</w>", "!", "!</w>"]);
        assert_eq!(tokens("00"), ["0</w>", "0</w>"], "digits stand alone");
        assert_eq!(tokens("é"), ["Ã", "©</w>"], "letters beyond ASCII are bytes");
        assert_eq!(tokens("e\u{301}"), tokens("é"), "composed first");
        assert_eq!(tokens(""), [""; 0]);
    }

    #[test]
    fn clip_special_tokens_in_a_text_stand_for_their_ids() {
        let tokens = |text| clip_tokens(&clip(), text);
        assert_eq!(tokens("a<|endoftext|>a"), ["a</w>", END, "a</w>"]);
        assert_eq!(tokens("<|startoftext|>"), [START]);
        assert_eq!(tokens("z"), [END], "what is not in the vocabulary is the end token, as in CLIPTokenizer");
    }

    #[test]
    fn clip_tokens_that_do_not_fit_are_dropped_but_not_the_end_token() {
        let (start, end) = (38, 39);
        assert_eq!(clip_vocab().0[start as usize], START);
        let clip = clip();
        let encoding = clip.encode("the the the", 4).unwrap();
        let the = encoding.ids[1];
        assert_eq!(encoding, Encoding { ids: vec![start, the, the, end], len: 4, dropped: 1 });
        let encoding = clip.encode("the", 5).unwrap();
        assert_eq!(encoding, Encoding { ids: vec![start, the, end, end, end], len: 3, dropped: 0 });
        assert_eq!(clip.encode("the", 2).unwrap(), Encoding { ids: vec![start, end], len: 2, dropped: 1 });
        assert!(matches!(clip.encode("the", 1), Err(Error::Invalid { .. })));
        assert_eq!(clip.vocab_size(), 40);
    }

    #[test]
    fn clip_from_tokenizer_json_gives_the_ids_of_vocab_and_merges() {
        let (pair, mut file) = (clip(), clip_json());
        let texts = ["", "abc the no", "DON'T é z", "a<|endoftext|> <|startoftext|>"];
        for merges in [file["model"]["merges"].clone(), json!(clip_vocab().1)] {
            file["model"]["merges"] = merges;
            let json = clip_from(&file).unwrap();
            for text in texts {
                assert_eq!(json.encode(text, 20).unwrap(), pair.encode(text, 20).unwrap(), "{text:?}");
            }
        }
        // Added tokens need not be in the vocabulary too, and there may be more of them.
        let (start, end) = (file["model"]["vocab"][START].take(), file["model"]["vocab"][END].take());
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|_, id| !id.is_null());
        assert!(start.is_number() && end.is_number());
        file["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(json!({"id": 40, "content": "<toy>", "special": false}));
        let json = clip_from(&file).unwrap();
        assert_eq!(json.vocab_size(), 41);
        assert_eq!(json.encode("the<toy>", 4).unwrap().ids[2], 40);
        assert_eq!(json.encode("the no", 6).unwrap(), pair.encode("the no", 6).unwrap());
    }

    #[test]
    fn vocabularies_and_merges_that_lie_are_refused_with_the_reason() {
        let (vocab, merges) = clip_files();
        let with = |token: &str, id: Value| {
            let mut vocab = vocab.clone();
            vocab[token] = id;
            vocab.to_string()
        };
        let twice = vocab.to_string().replacen('{', "{\"a\":0,", 1);
        let renamed = vocab.to_string().replace("endoftext", "end");
        for (vocab, reason) in [
            ("[]".to_owned(), "an object from token to id"),
            ("{\"a\"".to_owned(), "not a vocabulary"),
            ("{}".to_owned(), "has no token <|startoftext|>"),
            (renamed, "has no token <|endoftext|>"),
            (with("a", json!(1)), "both have the id 1"),
            (with("a", json!(40)), "\"a\" has the id 40, but there are only 40 tokens"),
            (with("a", json!(u32::MAX)), "has the id 4294967295"),
            (with("a", json!(-1)), "not a vocabulary"),
            (with("a", json!(0.5)), "not a vocabulary"),
            (with("a", json!("0")), "not a vocabulary"),
            (with("new", json!(99)), "\"new\" has the id 99"),
            (twice, "\"a\" is there twice"),
        ] {
            let message = clip_pair(&vocab, &merges).unwrap_err().to_string();
            assert!(message.contains(reason), "wanted {reason:?}, got {message:?}");
            assert!(message.starts_with("clip/vocab.json: "), "{message}");
        }
        let vocab = vocab.to_string();
        for (more, reason) in [
            ("abc", "line 8 is \"abc\", wanted two tokens"),
            ("a b c", "line 8 is \"a b c\""),
            ("a  b", "line 8"),
            (" a", "line 8"),
            ("a zz", "line 8 needs the token \"zz\""),
            ("b a", "line 8 needs the token \"ba\""),
            ("abc</w> the</w>", "line 8 needs the token \"abc</w>the</w>\""),
            ("a b", "line 8 is there a second time"),
        ] {
            let message = clip_pair(&vocab, &format!("{merges}{more}\n")).unwrap_err().to_string();
            assert!(message.contains(reason), "wanted {reason:?}, got {message:?}");
            assert!(message.starts_with("clip/merges.txt: "), "{message}");
        }
        let message = ClipTokenizer::from_vocab_merges_bytes("clip", vocab.as_bytes(), b"\xff")
            .unwrap_err()
            .to_string();
        assert!(message.contains("not a list of merges"), "{message}");
        assert!(clip_pair(&vocab, &merges.replace('\n', "\r\n")).is_ok(), "line ends of Windows");
        assert!(clip_pair(&vocab, "#version: 0.2\n").is_ok(), "no merges at all");
    }

    #[test]
    fn a_tokenizer_json_that_is_not_of_clip_is_refused_with_the_reason() {
        let good = clip_json();
        for (pointer, value, reason) in [
            ("/model/type", json!("Unigram"), "holds a Unigram model, not a BPE model"),
            ("/model/end_of_word_suffix", json!(null), "marks ends of words with nothing"),
            ("/model/end_of_word_suffix", json!("_"), "marks ends of words with \"_\""),
            ("/model/merges/0", json!(["a", "zz"]), "merge 1 needs the token \"zz\""),
            ("/model/merges/0", json!("ab"), "merge 1 is not two tokens"),
            ("/model/merges/0", json!(5), "damaged"),
            ("/model/vocab/a", json!(1), "both have the id 1"),
            ("/added_tokens/0/id", json!(3), "\"<|startoftext|>\" two ids"),
            ("/added_tokens/0", json!({"id": 900, "content": "x"}), "\"x\" has the id 900"),
        ] {
            let mut file = good.clone();
            *file.pointer_mut(pointer).unwrap() = value;
            let message = clip_from(&file).unwrap_err().to_string();
            assert!(message.contains(reason), "{pointer}: wanted {reason:?}, got {message:?}");
        }
    }
}
