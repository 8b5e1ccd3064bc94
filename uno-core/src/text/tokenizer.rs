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

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::spiece::{Charsmap, Kind, Piece, Rules, Unigram};
use crate::error::{Error, Result};

/// The largest tokenizer file in use (a `tokenizer.json` with 256,000 entries) has 34 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The largest known list (T5's 103) is far below. Each token is looked for at each place of a prompt.
const MAX_SPECIAL_TOKENS: usize = 4096;
/// How many `<extra_id_N>` tokens transformers puts behind the pieces of a `spiece.model`.
const EXTRA_IDS: u32 = 100;

const T5_END: &str = "</s>";
const T5_PAD: &str = "<pad>";
const T5_UNKNOWN: &str = "<unk>";
const CLIP_START: &str = "<|startoftext|>";
const CLIP_END: &str = "<|endoftext|>";
/// Marks the last piece of a word in CLIP's vocabulary.
const CLIP_WORD_END: &str = "</w>";
/// How transformers' `CLIPTokenizer` cuts text into words.
const CLIP_WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

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
        let named = [T5_PAD, T5_END, T5_UNKNOWN].into_iter().filter_map(|text| {
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
        let (end, pad) = (find(T5_END)?, find(T5_PAD)?);
        let highest = special.iter().map(|token| token.id as usize + 1).max().unwrap_or(0);
        let vocab_size = highest.max(model.len());
        let mut special_starts: Vec<char> =
            special.iter().filter_map(|token| token.text.chars().next()).collect();
        special_starts.sort_unstable();
        special_starts.dedup();
        Ok(Self { model, special, special_starts, end, pad, vocab_size })
    }
}

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
        let vocab: ClipVocab = serde_json::from_slice(vocab).map_err(|e| {
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
        if model.end_of_word_suffix.as_deref() != Some(CLIP_WORD_END) {
            let suffix = model.end_of_word_suffix.as_deref().map_or("nothing".to_owned(), shown);
            return Err(unusable(format!("marks ends of words with {suffix}, not with {CLIP_WORD_END}")));
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
        let (start, end) = (find(CLIP_START)?, find(CLIP_END)?);
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
        special.extend([CLIP_START, CLIP_END].map(str::to_owned));
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
            .unk_token(CLIP_END.to_owned())
            .end_of_word_suffix(CLIP_WORD_END.to_owned())
            .build()?;
        let mut tokenizer = Tokenizer::new(bpe);
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
        let steps = vec![NFC.into(), spaces.into(), Lowercase.into()];
        tokenizer.with_normalizer(Some(NormalizerSequence::new(steps)))?;
        let words =
            Split::new(SplitPattern::Regex(CLIP_WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
        let bytes = ByteLevel::default().add_prefix_space(false);
        tokenizer.with_pre_tokenizer(Some(PreTokenizerSequence::new(vec![words.into(), bytes.into()])));
        tokenizer.add_special_tokens(special.into_iter().map(|text| AddedToken::from(text, true)))?;
        Ok(tokenizer)
    }
}

/// The parts of a `tokenizer.json` that both kinds of model have.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    #[serde(default)]
    normalizer: Option<serde_json::Value>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// What tells the kinds of model apart; old files do not name theirs.
#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    merges: Option<IgnoredAny>,
    unk_id: Option<IgnoredAny>,
}

impl ModelJson {
    fn kind(&self) -> &str {
        match (&self.kind, &self.merges, &self.unk_id) {
            (Some(kind), ..) => kind,
            (None, Some(_), _) => "BPE",
            (None, None, Some(_)) => "Unigram",
            (None, None, None) => "nameless",
        }
    }
}

#[derive(Deserialize)]
struct UnigramJson {
    vocab: Vec<(String, f64)>,
    unk_id: Option<usize>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
struct BpeJson {
    vocab: ClipVocab,
    merges: Vec<MergeJson>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Text(String),
    Pair(String, String),
}

impl TokenizerJson {
    fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        refuse_other_kinds(path, bytes)?;
        let file: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::format(path, format!("not a tokenizer.json: {e}; download it again")))?;
        check_special(path, file.added_tokens.iter().map(|token| (token.content.as_str(), token.id)))?;
        Ok(file)
    }
}

/// The `model` of a `tokenizer.json`, once its kind is known.
fn section<'a, T: Deserialize<'a>>(path: &Path, bytes: &'a [u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct File<T> {
        model: T,
    }
    let file: File<T> = serde_json::from_slice(bytes)
        .map_err(|e| Error::format(path, format!("the model in this tokenizer.json is damaged: {e}")))?;
    Ok(file.model)
}

/// A vocabulary as a JSON object; serde_json itself would let the last of two equal tokens win without a word.
struct ClipVocab(HashMap<String, u32>);

impl<'de> Deserialize<'de> for ClipVocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = ClipVocab;

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
                Ok(ClipVocab(vocab))
            }
        }
        deserializer.deserialize_map(Entries)
    }
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

/// Tokens that stand for themselves must be few and not empty, with ids that a vocabulary can have.
fn check_special<'a>(path: &Path, tokens: impl ExactSizeIterator<Item = (&'a str, u32)>) -> Result<()> {
    let count = tokens.len();
    if count > MAX_SPECIAL_TOKENS {
        return Err(Error::format(
            path,
            format!("has {count} added tokens, wanted at most {MAX_SPECIAL_TOKENS}"),
        ));
    }
    for (text, id) in tokens {
        if text.is_empty() {
            return Err(Error::format(path, format!("the added token {id} has no text")));
        }
        if id > 1 << 24 {
            return Err(Error::format(path, format!("the added token {} has the id {id}", shown(text))));
        }
    }
    Ok(())
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

/// `text` in quotes, escaped and not too long for a message.
fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}

/// Reads a tokenizer file, which must not be larger than any tokenizer is.
fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES >> 20;
        return Err(Error::format(path, format!("is larger than {limit} MiB, which no tokenizer file is")));
    }
    Ok(bytes)
}

/// Names what people have in place of a tokenizer file by accident.
fn refuse_other_kinds(path: &Path, bytes: &[u8]) -> Result<()> {
    let reason = match bytes {
        [] => "is empty; download it again",
        [b'v', ..] if bytes.starts_with(b"version https://git-lfs") => {
            "is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository, or download the file"
        }
        [0x80, 2..=5, ..] => "is a Python pickle, which is never loaded here; wanted a tokenizer file",
        [b'P', b'K', 3, 4, ..] => "is a zip archive (a PyTorch checkpoint?); wanted a tokenizer file",
        [b'<', ..] if bytes.starts_with(b"<!DOCTYPE") || bytes.starts_with(b"<html") => {
            "is a web page, from a download that failed; download the file again"
        }
        _ => return Ok(()),
    };
    Err(Error::format(path, reason))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::spiece::testing;
    use super::*;

    const WORDS: [(&str, f32); 6] =
        [("▁", -2.0), ("a", -3.0), ("b", -3.5), ("▁a", -4.0), ("fi", -5.0), ("e\u{301}", -3.0)];
    const RULES: [(&str, &str); 3] = [("ﬁ", "fi"), ("\t", " "), ("é", "e\u{301}")];
    const PIECES: u32 = 9;

    fn t5() -> T5Tokenizer {
        T5Tokenizer::from_spiece_bytes("spiece.model", &testing::t5(&WORDS, &RULES)).unwrap()
    }

    fn base64(bytes: &[u8]) -> String {
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
    fn t5_json() -> Value {
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

    fn t5_from(json: &Value) -> Result<T5Tokenizer> {
        T5Tokenizer::from_tokenizer_json_bytes("tokenizer.json", json.to_string().as_bytes())
    }

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

    /// Letters with and without the mark of a word's end, some merges, start and end token, in this order.
    fn clip_vocab() -> (Vec<String>, Vec<&'static str>) {
        let letters = || "abcdehinot'!Ã©Ġ0".chars().map(String::from);
        let merges = vec!["a b", "ab c</w>", "t h", "th e</w>", "n o", "' t</w>"];
        let merged = merges.iter().map(|merge| merge.replace(' ', ""));
        let special = [CLIP_START, CLIP_END].map(str::to_owned);
        let ends = letters().map(|letter| letter + CLIP_WORD_END);
        (letters().chain(ends).chain(merged).chain(special).collect(), merges)
    }

    fn clip_files() -> (Value, String) {
        let (vocab, merges) = clip_vocab();
        let vocab: Value =
            vocab.into_iter().zip(0..).map(|(token, id): (_, u32)| (token, json!(id))).collect();
        (vocab, format!("#version: 0.2\n{}\n", merges.join("\n")))
    }

    fn clip_pair(vocab: &str, merges: &str) -> Result<ClipTokenizer> {
        ClipTokenizer::from_vocab_merges_bytes("clip", vocab.as_bytes(), merges.as_bytes())
    }

    fn clip() -> ClipTokenizer {
        let (vocab, merges) = clip_files();
        clip_pair(&vocab.to_string(), &merges).unwrap()
    }

    /// The same as [`clip`] in the form that transformers saves.
    fn clip_json() -> Value {
        let (vocab, _) = clip_files();
        let merges: Vec<Vec<&str>> = clip_vocab().1.iter().map(|merge| merge.split(' ').collect()).collect();
        let special =
            [CLIP_START, CLIP_END].map(|text| json!({"id": vocab[text], "content": text, "special": true}));
        json!({
            "added_tokens": special,
            "padding": {"strategy": {"Fixed": 77}},
            "normalizer": {"type": "Lowercase"},
            "model": {"type": "BPE", "end_of_word_suffix": CLIP_WORD_END, "vocab": vocab, "merges": merges},
        })
    }

    fn clip_from(json: &Value) -> Result<ClipTokenizer> {
        ClipTokenizer::from_tokenizer_json_bytes("tokenizer.json", json.to_string().as_bytes())
    }

    /// The tokens of `text` in words, without start, end and padding.
    fn clip_tokens(tokenizer: &ClipTokenizer, text: &str) -> Vec<String> {
        let vocab = clip_vocab().0;
        let encoding = tokenizer.encode(text, 64).unwrap();
        assert_eq!(encoding.ids.len(), 64);
        assert_eq!(vocab[encoding.ids[0] as usize], CLIP_START);
        assert!(encoding.ids[encoding.len - 1..].iter().all(|id| vocab[*id as usize] == CLIP_END));
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
        assert_eq!(tokens("a<|endoftext|>a"), ["a</w>", CLIP_END, "a</w>"]);
        assert_eq!(tokens("<|startoftext|>"), [CLIP_START]);
        assert_eq!(
            tokens("z"),
            [CLIP_END],
            "what is not in the vocabulary is the end token, as in CLIPTokenizer"
        );
    }

    #[test]
    fn clip_tokens_that_do_not_fit_are_dropped_but_not_the_end_token() {
        let (start, end) = (38, 39);
        assert_eq!(clip_vocab().0[start as usize], CLIP_START);
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
        let (start, end) =
            (file["model"]["vocab"][CLIP_START].take(), file["model"]["vocab"][CLIP_END].take());
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
