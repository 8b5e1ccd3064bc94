//! SentencePiece unigram models: text normalization and segmentation; the readers of their files are beside.
//!
//! After google/sentencepiece 0.2: `sentencepiece_model.proto`, `normalizer.cc`, `model_interface.cc` and
//! `unigram_model.cc` (Kudo and Richardson, arXiv 1808.06226; Kudo, arXiv 1804.10959). The `tokenizers` crate is not
//! used here: its `Precompiled` normalizer works on grapheme clusters and so loses combining marks that SentencePiece
//! keeps, and its double-array reader panics on damaged data.
//!
//! One thing differs from the C++ code. It adds scores in f32, so that of two segmentations with equal scores (`00|0`
//! and `0|00`) the one wins that rounding happens to favour, which depends on the words before and on sentencepiece's
//! version. Here sums are f64, where such ties are exact and the first one found wins, as in `tokenizers` and so in
//! transformers from version 5 on, which made the golden data.

mod charsmap;
mod model_proto;
#[cfg(test)]
pub(super) mod testing;

use std::cmp::Ordering;
use std::path::Path;

pub(super) use charsmap::Charsmap;
use model_proto::ModelProto;

use crate::error::{Error, Result};

/// U+2581, which stands for a space inside pieces.
const SPACE: &[u8] = "\u{2581}".as_bytes();
/// What sentencepiece replaces a byte with that is no UTF-8.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
/// How much worse than the worst piece a character without a piece is.
const UNKNOWN_PENALTY: f64 = 10.0;
/// The largest vocabularies in use have 256,000 pieces.
const MAX_PIECES: usize = 1 << 20;
/// Trained models stay below 64 bytes. Without a limit a piece per prefix of a long text makes segmentation quadratic.
const MAX_PIECE_BYTES: usize = 1024;

/// What a piece is; the numbers are those of the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Found in text.
    Normal,
    /// Stands for all characters that no piece covers.
    Unknown,
    /// Never found in text (`</s>`, `<pad>`).
    Control,
    /// Found in text before anything else, and not normalized.
    UserDefined,
    /// Has an id, but is not found in text.
    Unused,
    /// Stands for one byte of a character that no piece covers.
    Byte,
}

/// One entry of the vocabulary; its id is its place.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f64,
    pub(super) kind: Kind,
}

/// How text is prepared and what is done with unknown characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Put a space before the first word.
    pub(super) add_dummy_prefix: bool,
    /// Strip spaces at both ends and make one of several.
    pub(super) remove_extra_whitespaces: bool,
    /// Write spaces as U+2581.
    pub(super) escape_whitespaces: bool,
    /// The dummy prefix goes to the end instead.
    pub(super) whitespace_as_suffix: bool,
    /// Write unknown characters as pieces for their bytes.
    pub(super) byte_fallback: bool,
}

impl Default for Rules {
    /// What the file format says where a file says nothing; T5 uses the same.
    fn default() -> Self {
        Self {
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
            byte_fallback: false,
        }
    }
}

/// A piece that is looked for by its bytes.
#[derive(Clone, Debug)]
struct Entry {
    text: Box<[u8]>,
    id: u32,
    kind: Kind,
    score: f64,
}

/// A unigram model that is ready to segment text.
#[derive(Clone, Debug)]
pub(super) struct Unigram {
    /// Pieces that are found in text and unused ones, in order of their bytes.
    words: Vec<Entry>,
    /// All other pieces, in order of their bytes.
    reserved: Vec<Entry>,
    pieces: usize,
    unknown: u32,
    unknown_score: f64,
    has_user_defined: bool,
    charsmap: Charsmap,
    rules: Rules,
}

/// The best segmentation of the text up to one place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: usize,
    id: u32,
}

impl Unigram {
    /// Checks a vocabulary as sentencepiece does on loading, and more strictly: scores must be finite.
    ///
    /// # Errors
    ///
    /// What is wrong, without the file's name.
    pub(super) fn new(pieces: Vec<Piece>, charsmap: Charsmap, rules: Rules) -> Result<Self, String> {
        if pieces.is_empty() {
            return Err("holds no pieces".into());
        }
        if pieces.len() > MAX_PIECES {
            return Err(too_many_pieces());
        }
        let count = pieces.len();
        let (mut words, mut reserved) = (Vec::with_capacity(count), Vec::new());
        let mut unknown = None;
        let (mut lowest, mut highest) = (f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE));
        for (id, piece) in (0_u32..).zip(pieces) {
            if piece.text.is_empty() || piece.text.len() > MAX_PIECE_BYTES {
                let length = piece.text.len();
                return Err(format!("piece {id} has {length} bytes, wanted 1 to {MAX_PIECE_BYTES}"));
            }
            if !piece.score.is_finite() {
                return Err(format!("piece {id} has the score {}, wanted a finite number", piece.score));
            }
            match piece.kind {
                Kind::Unknown => {
                    if let Some(first) = unknown.replace(id) {
                        return Err(format!("pieces {first} and {id} both stand for unknown text"));
                    }
                }
                Kind::Normal => {
                    lowest = lowest.min(piece.score);
                    highest = highest.max(piece.score);
                }
                Kind::Byte if !rules.byte_fallback => {
                    return Err(format!("piece {id} stands for a byte, but byte fallback is off"));
                }
                _ => {}
            }
            let found_in_text = matches!(piece.kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
            let list = if found_in_text { &mut words } else { &mut reserved };
            let text = piece.text.into_bytes().into_boxed_slice();
            list.push(Entry { text, id, kind: piece.kind, score: piece.score });
        }
        let Some(unknown) = unknown else {
            return Err("no piece stands for unknown text".into());
        };
        for list in [&mut words, &mut reserved] {
            list.sort_unstable_by(|a, b| a.text.cmp(&b.text));
            for pair in list.windows(2) {
                if let [a, b] = pair
                    && a.text == b.text
                {
                    let text = String::from_utf8_lossy(&a.text);
                    return Err(format!(
                        "pieces {} and {} are both {text:?}",
                        a.id.min(b.id),
                        a.id.max(b.id)
                    ));
                }
            }
        }
        // A bonus by length makes user-defined pieces win over any segmentation into others.
        let mut has_user_defined = false;
        for entry in words.iter_mut().filter(|entry| entry.kind == Kind::UserDefined) {
            has_user_defined = true;
            entry.score = entry.text.len() as f64 * highest - 0.1;
        }
        let unknown_score = lowest - UNKNOWN_PENALTY;
        Ok(Self { words, reserved, pieces: count, unknown, unknown_score, has_user_defined, charsmap, rules })
    }

    /// Reads the bytes of a `spiece.model` file (a serialized `ModelProto`). `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] where the bytes are of another kind, damaged, or of a model that is not unigram.
    pub(super) fn from_model_proto(path: &Path, bytes: &[u8]) -> Result<Self> {
        let proto = ModelProto::parse(bytes).map_err(|reason| {
            Error::format(path, format!("not a SentencePiece model: {reason}; download spiece.model again"))
        })?;
        proto.into_unigram().map_err(|reason| {
            Error::format(
                path,
                format!("not a usable SentencePiece model: {reason}; T5 needs its own spiece.model"),
            )
        })
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.pieces
    }

    /// The id of the piece `text`, of whatever kind.
    pub(super) fn id_of(&self, text: &[u8]) -> Option<u32> {
        let find = |list: &[Entry]| {
            let place = list.binary_search_by(|entry| (*entry.text).cmp(text)).ok()?;
            list.get(place).map(|entry| entry.id)
        };
        find(&self.reserved).or_else(|| find(&self.words))
    }

    /// Appends the ids of `text`, without any special token.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let normalized = self.normalize(text.as_bytes());
        self.segment(&normalized, ids);
    }

    /// Calls `found` for each piece that `text` begins with, the shorter ones first.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(&Entry)) {
        // Entries are sorted, so those that share a prefix are neighbours: each further byte narrows the range.
        let mut range = self.words.as_slice();
        for (depth, byte) in text.iter().enumerate() {
            let compare = |entry: &Entry| entry.text.get(depth).map_or(Ordering::Less, |have| have.cmp(byte));
            let (_, rest) = range.split_at(range.partition_point(|entry| compare(entry).is_lt()));
            let (same, _) = rest.split_at(rest.partition_point(|entry| compare(entry).is_eq()));
            range = same;
            match range.first() {
                None => return,
                Some(entry) if entry.text.len() == depth + 1 => found(entry),
                Some(_) => {}
            }
        }
    }

    /// Viterbi search for the segmentation with the highest sum of scores.
    fn segment(&self, text: &[u8], ids: &mut Vec<u32>) {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        let mut start = 0;
        while let Some(rest) = text.get(start..).filter(|rest| !rest.is_empty()) {
            let before = best.get(start).copied().flatten().map_or(0.0, |node| node.score);
            let mut improve = |end: usize, score: f64, id: u32| {
                if let Some(node) = best.get_mut(end)
                    && node.is_none_or(|node| score > node.score)
                {
                    *node = Some(Best { score, start, id });
                }
            };
            let char_len = char_len(rest);
            let mut covered = false;
            self.prefixes(rest, |entry| {
                if entry.kind != Kind::Unused {
                    improve(start + entry.text.len(), before + entry.score, entry.id);
                    covered |= entry.text.len() == char_len;
                }
            });
            if !covered {
                improve(start + char_len, before + self.unknown_score, self.unknown);
            }
            start += char_len;
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while let Some(node) = best.get(end).copied().flatten() {
            path.push((node.start..end, node.id));
            end = node.start;
        }
        path.reverse();
        let mut path = path.into_iter().peekable();
        while let Some((mut span, id)) = path.next() {
            if id != self.unknown {
                ids.push(id);
                continue;
            }
            if self.rules.byte_fallback {
                ids.extend(
                    text.get(span)
                        .into_iter()
                        .flatten()
                        .map(|byte| self.id_of(format!("<0x{byte:02X}>").as_bytes()).unwrap_or(self.unknown)),
                );
                continue;
            }
            // Neighbouring unknown characters are one token. Its text may be that of a piece that is not found in text.
            while let Some((next, _)) = path.next_if(|(_, id)| *id == self.unknown) {
                span.end = next.end;
            }
            ids.push(text.get(span).and_then(|text| self.id_of(text)).unwrap_or(self.unknown));
        }
    }

    /// Applies the character map and the rules on spaces.
    fn normalize(&self, text: &[u8]) -> Vec<u8> {
        let Rules { add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, .. } = self.rules;
        let space: &[u8] = if escape_whitespaces { SPACE } else { b" " };
        let mut rest = text;
        if remove_extra_whitespaces {
            while let Some((b" ", after)) = self.normalize_prefix(rest) {
                rest = after;
            }
        }
        let mut out = Vec::with_capacity(rest.len() + rest.len() / 2 + SPACE.len());
        if rest.is_empty() {
            return out;
        }
        if add_dummy_prefix && !self.rules.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
        let mut after_space = remove_extra_whitespaces;
        while let Some((mut piece, after)) = self.normalize_prefix(rest) {
            if after_space {
                while let Some(stripped) = piece.strip_prefix(b" ") {
                    piece = stripped;
                }
            }
            for byte in piece {
                match byte {
                    b' ' => out.extend_from_slice(space),
                    byte => out.push(*byte),
                }
            }
            if !piece.is_empty() {
                after_space = remove_extra_whitespaces && piece.ends_with(b" ");
            }
            rest = after;
        }
        if remove_extra_whitespaces {
            while out.ends_with(space) {
                out.truncate(out.len() - space.len());
            }
        }
        if add_dummy_prefix && self.rules.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
        out
    }

    /// What the first characters of `text` become, and the rest of `text`; nothing at its end.
    fn normalize_prefix<'a>(&'a self, text: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if text.is_empty() {
            return None;
        }
        if self.has_user_defined {
            let mut longest = 0;
            self.prefixes(text, |entry| {
                if entry.kind == Kind::UserDefined {
                    longest = entry.text.len();
                }
            });
            if longest > 0 {
                return text.split_at_checked(longest);
            }
        }
        if let Some((length, replacement)) = self.charsmap.longest_match(text) {
            return text.get(length..).map(|rest| (replacement, rest));
        }
        match valid_char_len(text) {
            Some(length) => text.split_at_checked(length),
            None => text.get(1..).map(|rest| (REPLACEMENT, rest)),
        }
    }
}

/// Bytes of the first character by its first byte alone, at most all of `text`; 0 for an empty text.
fn char_len(text: &[u8]) -> usize {
    let wanted = match text.first() {
        None => 0,
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        Some(_) => 1,
    };
    wanted.min(text.len())
}

/// Bytes of the first character if it is valid UTF-8.
fn valid_char_len(text: &[u8]) -> Option<usize> {
    let length = char_len(text);
    text.get(..length).filter(|first| std::str::from_utf8(first).is_ok()).map(<[u8]>::len)
}

fn too_many_pieces() -> String {
    format!("holds more than {MAX_PIECES} pieces")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::charsmap::{LEAF, MAX_REPLACEMENT_BYTES};
    use super::testing::*;
    use super::*;

    fn load(bytes: &[u8]) -> Result<Unigram, String> {
        Unigram::from_model_proto(Path::new("spiece.model"), bytes).map_err(|e| e.to_string())
    }

    fn ids(model: &[u8], text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        load(model).unwrap().encode(text, &mut ids);
        ids
    }

    const WORDS: [(&str, f32); 10] = [
        ("▁", -2.0),  // 3
        ("a", -3.0),  // 4
        ("b", -3.0),  // 5
        ("ab", -4.0), // 6
        ("▁a", -3.5), // 7
        ("ba", -7.0), // 8
        ("é", -5.0),  // 9
        ("fi", -4.0), // 10
        ("f", -3.0),  // 11
        ("i", -3.0),  // 12
    ];

    #[test]
    fn the_segmentation_with_the_highest_sum_wins() {
        let model = t5(&WORDS, &[]);
        assert_eq!(ids(&model, "ab"), [3, 6], "▁ ab = -6, ▁a b = -6.5, ▁ a b = -8");
        assert_eq!(ids(&model, "abba"), [3, 6, 5, 4], "ba costs more than b a");
        assert_eq!(ids(&model, "a fib"), [7, 3, 10, 5]);
        assert_eq!(ids(&model, "aé"), [7, 9]);
        assert_eq!(ids(&model, ""), [0_u32; 0]);
    }

    #[test]
    fn of_equal_sums_the_one_with_the_shorter_beginning_wins_wherever_it_stands() {
        // Scores whose sums f32 cannot hold: there the winner would depend on what comes before.
        let model = t5(&[("▁", -2.1), ("0", -5.123_456), ("00", -9.473_21), ("x", -0.1)], &[]);
        assert_eq!(ids(&model, "000"), [3, 4, 5]);
        for before in 1..60 {
            let text = format!("{}000", "x".repeat(before));
            assert_eq!(ids(&model, &text)[before + 1..], [4, 5], "after {before} letters");
        }
    }

    #[test]
    fn unknown_characters_in_a_row_are_one_token() {
        let model = t5(&WORDS, &[]);
        assert_eq!(ids(&model, "a😀🎉猫b猫"), [7, 2, 5, 2]);
        assert_eq!(ids(&model, "猫 猫"), [3, 2, 3, 2]);
    }

    #[test]
    fn spaces_are_stripped_and_joined() {
        let model = t5(&WORDS, &[]);
        assert_eq!(ids(&model, "  a   b "), ids(&model, "a b"));
        assert_eq!(ids(&model, "   "), [0_u32; 0]);
        assert_eq!(ids(&model, "a▁"), [7], "a literal U+2581 at the end counts as a space");
        assert_eq!(ids(&model, "▁"), [0_u32; 0]);
    }

    #[test]
    fn the_rules_of_the_file_are_followed() {
        let pieces: Vec<_> =
            T5_FIRST.into_iter().chain(WORDS.map(|(text, score)| (text, score, NORMAL))).collect();
        let with = |trainer, normalizer| model(&pieces, trainer, normalizer);
        let plain = Message::default();
        assert_eq!(ids(&with(plain.clone(), plain.clone().varint(3, 0)), "ab a"), [6, 7], "no dummy prefix");
        assert_eq!(
            ids(&with(plain.clone(), plain.clone().varint(4, 0)), " a  b"),
            [3, 7, 3, 3, 5],
            "all spaces kept"
        );
        assert_eq!(
            ids(&with(plain.clone(), plain.clone().varint(5, 0)), "b a"),
            [2, 5, 2, 4],
            "spaces not escaped"
        );
        assert_eq!(ids(&with(plain.clone().varint(24, 1), plain.clone()), "b"), [5, 3], "space as suffix");
    }

    #[test]
    fn each_kind_of_piece_is_treated_as_its_kind() {
        let pieces: Vec<_> = T5_FIRST
            .into_iter()
            .chain([("▁", -2.0, NORMAL), ("a", -3.0, NORMAL), ("b", -3.0, NORMAL), ("ab", -4.0, NORMAL)])
            .chain([
                ("ba", -9.0, USER_DEFINED),
                ("猫", 0.0, UNUSED),
                ("é", 0.0, CONTROL),
                ("ﬁ", 0.0, USER_DEFINED),
            ])
            .collect();
        let normalizer = Message::default().bytes(2, &charsmap(&[("b", "a"), ("ﬁ", "a")]));
        let model = model(&pieces, Message::default(), normalizer);
        assert_eq!(ids(&model, "aba"), [3, 4, 7], "what the user defined is found first and not normalized");
        assert_eq!(ids(&model, "bﬁ"), [3, 4, 10]);
        assert_eq!(ids(&model, "a猫"), [3, 4, 8], "an unused piece keeps its id");
        assert_eq!(ids(&model, "a猫猫"), [3, 4, 2], "but is not found in text");
        assert_eq!(ids(&model, "é"), [3, 9]);
        assert_eq!(ids(&model, "a</s>"), [3, 4, 1], "unknown text that spells a piece is that piece");
        assert_eq!(ids(&model, "</s>?"), [3, 2], "and only then");
    }

    #[test]
    fn bytes_stand_for_unknown_characters_if_the_model_says_so() {
        let names: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        let bytes = names.iter().map(|name| (name.as_str(), 0.0, BYTE));
        let pieces: Vec<_> = T5_FIRST.into_iter().chain(bytes).chain([("▁", -2.0, NORMAL)]).collect();
        let model = model(&pieces, Message::default().varint(35, 1), Message::default());
        assert_eq!(ids(&model, "é"), [259, 3 + 0xc3, 3 + 0xa9]);
    }

    #[test]
    fn the_longest_rule_of_the_character_map_applies() {
        let rules = [("ﬁ", "fi"), ("e", "a"), ("e\u{301}", "é"), ("\t", " "), ("\u{ad}", ""), ("½", "a b")];
        let model = t5(&WORDS, &rules);
        assert_eq!(ids(&model, "ﬁ"), ids(&model, "fi"));
        assert_eq!(ids(&model, "ee\u{301}e"), ids(&model, "aéa"));
        assert_eq!(
            ids(&model, "\ta\t\u{ad}\tb\t"),
            ids(&model, "a b"),
            "what becomes nothing does not part spaces"
        );
        assert_eq!(ids(&model, "½"), ids(&model, "a b"));
        assert_eq!(ids(&model, "a\u{301}\u{301}"), [7, 2], "combining marks are never lost");
    }

    #[test]
    fn unknown_fields_are_skipped_and_later_ones_win() {
        let mut bytes = t5(&WORDS, &[]);
        let extra = Message::default().varint(99, 1 << 40).bytes(4, b"self test").float(77, 1.0);
        bytes.extend(&extra.0);
        bytes.extend([1 | 100 << 3 & 0x78, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ids(&bytes, "ab"), [3, 6]);
        let switched = Message(bytes).bytes(3, &Message::default().varint(3, 0).0).0;
        assert_eq!(ids(&switched, "ab"), [6]);
    }

    #[test]
    fn damaged_models_are_refused_with_the_reason() {
        let plain = Message::default;
        let of = |pieces: &[(&str, f32, u64)]| model(pieces, plain(), plain());
        let with = |extra: &[(&str, f32, u64)]| of(&[&T5_FIRST[..], extra].concat());
        let good = with(&[("a", -1.0, NORMAL)]);
        let long = "a".repeat(MAX_PIECE_BYTES + 1);
        let map = charsmap(&[("a", "b")]);
        let mapped = |map: &[u8]| model(&T5_FIRST, plain(), plain().bytes(2, map));
        let swollen = charsmap(&[("a", &"b".repeat(MAX_REPLACEMENT_BYTES + 1))]);
        let outside = [&4_u32.to_le_bytes()[..], &(LEAF | 5).to_le_bytes(), b"text\0"].concat();
        let mut many = Vec::new();
        for _ in 0..=MAX_PIECES {
            many.extend([1 << 3 | 2, 0]);
        }
        for (bytes, reason) in [
            (vec![], "no pieces"),
            (b"not a model".to_vec(), "wire type"),
            (good[..good.len() - 1].to_vec(), "cut off"),
            (good[..good.len() - 5].to_vec(), "claims"),
            (
                vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                "claims 18446744073709551615 bytes",
            ),
            (vec![0xff; 11], "more than 64 bits"),
            (vec![0x80], "cut off"),
            (vec![0, 0], "number 0"),
            (vec![3 << 3 | 5, 1, 2], "claims 4 bytes"),
            (plain().varint(1, 5).0, "field 1 is of a wrong type"),
            (plain().bytes(2, &plain().bytes(3, b"x").0).0, "field 3 of trainer_spec"),
            (plain().bytes(3, &plain().varint(2, 1).0).0, "field 2 of normalizer_spec"),
            (plain().bytes(1, &plain().varint(3, 9).0).0, "piece 0: its type is 9"),
            (plain().bytes(1, &plain().bytes(1, &[0xff]).0).0, "piece 0: its text is not UTF-8"),
            (many, "more than 1048576 pieces"),
            (with(&[("", -1.0, NORMAL)]), "piece 3 has 0 bytes"),
            (with(&[(&long, -1.0, NORMAL)]), "piece 3 has 1025 bytes"),
            (with(&[("a", f32::NAN, NORMAL)]), "piece 3 has the score NaN"),
            (with(&[("a", f32::NEG_INFINITY, NORMAL)]), "score -inf"),
            (
                with(&[("a", -1.0, NORMAL), ("b", -1.0, NORMAL), ("a", -2.0, UNUSED)]),
                "pieces 3 and 5 are both \"a\"",
            ),
            (with(&[("?", -1.0, UNKNOWN)]), "pieces 2 and 3 both stand for unknown text"),
            (of(&T5_FIRST[..2]), "no piece stands for unknown text"),
            (with(&[("<0x00>", 0.0, BYTE)]), "byte fallback is off"),
            (model(&T5_FIRST, plain().varint(3, 2), plain()), "model type is 2 (BPE), wanted 1 (unigram)"),
            (model(&T5_FIRST, plain().varint(3, 77), plain()), "model type is 77"),
            (mapped(&[1, 2]), "character map is cut off"),
            (mapped(&map[..1000]), "claims a table of"),
            (mapped(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3]), "claims a table of 4294967295"),
            (mapped(&outside), "points outside"),
            (mapped(&swollen), "a replacement of 257 bytes"),
        ] {
            let message = load(&bytes).map(|_| ()).unwrap_err();
            assert!(message.contains(reason), "wanted {reason:?}, got {message:?}");
            assert!(message.starts_with("spiece.model: "), "{message}");
        }
    }

    #[test]
    fn a_damaged_character_map_is_used_without_harm() {
        let map = charsmap(&[("ab", "x"), ("é", "e"), ("\0", " ")]);
        for place in 0..map.len() {
            for bit in [0, 3, 7] {
                let mut damaged = map.clone();
                damaged[place] ^= 1 << bit;
                if let Ok(model) =
                    load(&model(&T5_FIRST, Message::default(), Message::default().bytes(2, &damaged)))
                {
                    model.encode("ab é \0abéab", &mut Vec::new());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_model_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,40}") {
            if let Ok(model) = load(&bytes) {
                model.encode(&text, &mut Vec::new());
            }
        }

        #[test]
        fn any_change_to_a_model_leaves_a_model_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            text in "[abefi é猫\u{301}\u{ad}]{0,20}",
        ) {
            let mut bytes = t5(&WORDS, &[("ﬁ", "fi"), ("\u{ad}", "")]);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(model) = load(&bytes) {
                let mut ids = Vec::new();
                model.encode(&text, &mut ids);
                prop_assert!(ids.iter().all(|id| (*id as usize) < model.len()));
            }
        }

        #[test]
        fn every_text_has_ids_of_the_vocabulary(text in any::<String>()) {
            let ids = ids(&t5(&WORDS, &[("\t", " "), ("½", "a b")]), &text);
            prop_assert!(ids.iter().all(|id| (2..13).contains(id)));
        }
    }
}
