//! Writes small models for tests, so that no foreign one needs to be carried.

use std::collections::BTreeMap;

use super::charsmap::{HAS_LEAF, LEAF};

/// A protobuf message under construction.
#[derive(Clone, Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn varint(mut self, number: u64, value: u64) -> Self {
        self.raw_varint(number << 3);
        self.raw_varint(value);
        self
    }

    pub(crate) fn bytes(mut self, number: u64, value: &[u8]) -> Self {
        self.raw_varint(number << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub(crate) fn float(mut self, number: u64, value: f32) -> Self {
        self.raw_varint(number << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }
}

pub(crate) const NORMAL: u64 = 1;
pub(crate) const UNKNOWN: u64 = 2;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;
pub(crate) const BYTE: u64 = 6;

/// The three pieces that T5's vocabulary begins with.
pub(crate) const T5_FIRST: [(&str, f32, u64); 3] =
    [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)];

pub(crate) fn piece(text: &str, score: f32, kind: u64) -> Message {
    Message::default().bytes(1, text.as_bytes()).float(2, score).varint(3, kind)
}

/// A `ModelProto` of the given pieces.
pub(crate) fn model(pieces: &[(&str, f32, u64)], trainer: Message, normalizer: Message) -> Vec<u8> {
    let pieces = pieces
        .iter()
        .fold(Message::default(), |proto, (text, score, kind)| proto.bytes(1, &piece(text, *score, *kind).0));
    pieces.bytes(2, &trainer.0).bytes(3, &normalizer.0).0
}

/// T5's first pieces, then `words`.
pub(crate) fn t5(words: &[(&str, f32)], rules: &[(&str, &str)]) -> Vec<u8> {
    let words = words.iter().map(|(text, score)| (*text, *score, NORMAL));
    let pieces: Vec<_> = T5_FIRST.into_iter().chain(words).collect();
    model(&pieces, Message::default(), Message::default().bytes(2, &charsmap(rules)))
}

/// A character map from sequences to replacements. Each state of the trie gets 256 places of its own, which is
/// wasteful but needs no search for free ones.
pub(crate) fn charsmap(rules: &[(&str, &str)]) -> Vec<u8> {
    #[derive(Default)]
    struct State {
        next: BTreeMap<u8, usize>,
        value: Option<usize>,
    }
    if rules.is_empty() {
        return Vec::new();
    }
    let (mut states, mut texts) = (vec![State::default()], Vec::new());
    for (from, to) in rules {
        let mut at = 0;
        for byte in from.bytes() {
            let fresh = states.len();
            at = *states[at].next.entry(byte).or_insert(fresh);
            if at == fresh {
                states.push(State::default());
            }
        }
        states[at].value = Some(texts.len());
        texts.extend(to.bytes().chain([0]));
    }
    let base = |state: usize| (state as u32 + 1) << 8;
    let mut units = vec![0_u32; base(states.len()) as usize];
    units[0] = base(0) << 10;
    for (state, content) in states.iter().enumerate() {
        if let Some(value) = content.value {
            units[base(state) as usize] = value as u32 | LEAF;
        }
        for (byte, next) in &content.next {
            let place = base(state) | u32::from(*byte);
            let ends = if states[*next].value.is_some() { HAS_LEAF } else { 0 };
            units[place as usize] = (place ^ base(*next)) << 10 | ends | u32::from(*byte);
        }
    }
    let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    [&(trie.len() as u32).to_le_bytes(), trie.as_slice(), &texts].concat()
}
