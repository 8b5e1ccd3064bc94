//! The bytes of a `spiece.model`: a protobuf message, of which the fields that segmentation needs are read.

use super::{Charsmap, Kind, MAX_PIECES, Piece, Rules, Unigram, too_many_pieces};

/// The parts of `sentencepiece_model.proto` that segmentation needs, as stored.
#[derive(Debug)]
pub(super) struct ModelProto {
    pieces: Vec<Piece>,
    model_type: u64,
    rules: Rules,
    charsmap: Vec<u8>,
}

impl ModelProto {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut proto =
            Self { pieces: Vec::new(), model_type: 1, rules: Rules::default(), charsmap: Vec::new() };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(piece)) => {
                    if proto.pieces.len() >= MAX_PIECES {
                        return Err(too_many_pieces());
                    }
                    let id = proto.pieces.len();
                    proto.pieces.push(Self::piece(piece).map_err(|reason| format!("piece {id}: {reason}"))?);
                }
                (2, Value::Bytes(spec)) => {
                    let mut fields = Fields(spec);
                    while let Some((number, value)) = fields.next()? {
                        match (number, value) {
                            (3, Value::Varint(v)) => proto.model_type = v,
                            (24, Value::Varint(v)) => proto.rules.whitespace_as_suffix = v != 0,
                            (35, Value::Varint(v)) => proto.rules.byte_fallback = v != 0,
                            (3 | 24 | 35, _) => {
                                return Err(format!("field {number} of trainer_spec is of a wrong type"));
                            }
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(spec)) => {
                    let mut fields = Fields(spec);
                    while let Some((number, value)) = fields.next()? {
                        match (number, value) {
                            (2, Value::Bytes(map)) => proto.charsmap = map.to_vec(),
                            (3, Value::Varint(v)) => proto.rules.add_dummy_prefix = v != 0,
                            (4, Value::Varint(v)) => proto.rules.remove_extra_whitespaces = v != 0,
                            (5, Value::Varint(v)) => proto.rules.escape_whitespaces = v != 0,
                            (2..=5, _) => {
                                return Err(format!("field {number} of normalizer_spec is of a wrong type"));
                            }
                            _ => {}
                        }
                    }
                }
                (1..=3, _) => return Err(format!("field {number} is of a wrong type")),
                _ => {}
            }
        }
        Ok(proto)
    }

    fn piece(bytes: &[u8]) -> Result<Piece, String> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(text)) => {
                    piece.text = std::str::from_utf8(text).map_err(|_| "its text is not UTF-8")?.to_owned();
                }
                (2, Value::Fixed32(bytes)) => piece.score = f64::from(f32::from_le_bytes(bytes)),
                (3, Value::Varint(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        other => return Err(format!("its type is {other}, wanted 1 to 6")),
                    }
                }
                (1..=3, _) => return Err(format!("field {number} is of a wrong type")),
                _ => {}
            }
        }
        Ok(piece)
    }

    pub(super) fn into_unigram(self) -> Result<Unigram, String> {
        if self.model_type != 1 {
            let name = match self.model_type {
                2 => "BPE",
                3 => "word",
                4 => "character",
                _ => "unheard-of",
            };
            return Err(format!("its model type is {} ({name}), wanted 1 (unigram)", self.model_type));
        }
        Unigram::new(self.pieces, Charsmap::parse(&self.charsmap)?, self.rules)
    }
}

/// A value in the protobuf wire format.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Reads the fields of one protobuf message one by one.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Number and value of the next field, `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(bytes.try_into().map_err(|_| "a number is cut off")?)
            }
            other => return Err(format!("a field has the wire type {other}, which is not in use")),
        };
        match key >> 3 {
            number @ 1..=0x1fff_ffff => Ok(Some((number, value))),
            number => Err(format!("a field has the number {number}, which is not allowed")),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let cut = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let Some((taken, rest)) = cut else {
            return Err(format!(
                "a field claims {length} bytes, {} are left (cut off or damaged)",
                self.0.len()
            ));
        };
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("a number is cut off")?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has more than 64 bits".into())
    }
}
