//! Lists of prompts and samples: JSON lists, and JSON lines in files named `*.jsonl`. Known spellings of keys are taken, likely
//! misspellings are errors, so that no reference is left out in silence, and other keys that may have been meant are remarked on.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::spelling::{edit_distance, letters};
use crate::text_file;

/// The text of the picture.
const PROMPT: &str = "prompt";
/// References: a list of paths.
const MANY: &str = "image_paths";
/// One reference, as the official training data has it.
const ONE: &str = "image_path";
/// The picture that is to be learned.
const TARGET: &str = "image_tgt_path";
const KNOWN: [&str; 4] = [PROMPT, MANY, ONE, TARGET];

/// Keys of other programs and data sets, in letters only, and what is meant here.
const ELSEWHERE: [(&str, &[&str]); 5] = [
    (PROMPT, &["text", "caption", "captions", "instruction", "description"]),
    (
        MANY,
        &[
            "images",
            "imgs",
            "imgpaths",
            "imagespaths",
            "imagefiles",
            "pictures",
            "references",
            "refs",
            "refimages",
            "refimgs",
            "refpaths",
            "refimagepaths",
            "refimgpaths",
            "referenceimages",
            "referencepaths",
            "referenceimagepaths",
            "imagerefs",
            "imagereferences",
            "imagerefpaths",
            "inputimages",
            "inputpaths",
            "sourceimages",
            "subjectimages",
            "subjectpaths",
            "condimages",
            "conditionimages",
            "conditioningimages",
            "controlimages",
            "contextimages",
        ],
    ),
    (
        ONE,
        &[
            "image",
            "img",
            "imgpath",
            "imagefile",
            "picture",
            "reference",
            "ref",
            "refimage",
            "refimg",
            "refpath",
            "refimagepath",
            "referenceimage",
            "referencepath",
            "imageref",
            "imagereference",
            "imagerefpath",
            "inputimage",
            "inputpath",
            "sourceimage",
            "subjectimage",
            "subjectpath",
            "condimage",
            "conditionimage",
            "conditioningimage",
            "controlimage",
            "contextimage",
            "filename",
        ],
    ),
    (
        TARGET,
        &[
            "target",
            "tgt",
            "tgtpath",
            "tgtimage",
            "tgtimagepath",
            "imgtgtpath",
            "imagetgt",
            "targetpath",
            "targetimage",
            "targetimagepath",
            "imagetarget",
            "imagetargetpath",
            "outputimage",
            "gtimage",
            "imagegtpath",
            "groundtruth",
        ],
    ),
    // A whole form of its own.
    (
        "the labels of UNO-1M, which training reads with format = \"uno-1m\"",
        &["imgpath1", "imgpath2", "vlmfiltercot"],
    ),
];

/// Endings of names of pictures.
const PICTURES: [&str; 13] = [
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl",
    ".jfif",
];

/// Keys that a message names at most.
const SHOWN: usize = 10;

/// One entry, as far as it says something. Paths are as in the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) prompt: Option<String>,
    pub(crate) references: Vec<PathBuf>,
    pub(crate) target: Option<PathBuf>,
}

/// Keys and values of an entry, in order.
#[derive(Debug)]
pub(crate) struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, r#"an entry {{"{PROMPT}": "..."}}"#)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::<(String, Value)>::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.iter().any(|(other, _)| *other == key) {
                        return Err(A::Error::custom(format_args!("key {key:?} is there twice")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// What was noticed in a list and is no error: keys that are not used, with the first entry that has them and how many do.
#[derive(Debug, Default)]
pub(crate) struct Remarks(BTreeMap<String, (usize, usize)>);

impl Remarks {
    fn unused(&mut self, key: &str, entry: usize) {
        // A list whose keys are all different is not kept as a whole.
        if self.0.len() < 100 * SHOWN || self.0.contains_key(key) {
            self.0.entry(key.to_owned()).or_insert((entry, 0)).1 += 1;
        }
    }

    /// The remark on a list, if there is one.
    pub(crate) fn text(&self, path: &Path) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let keys = self.0.iter().take(SHOWN).map(|(key, (first, count))| match count {
            1 => format!("{key:?} (entry {first})"),
            n => format!("{key:?} (entry {first} and {} more)", n - 1),
        });
        let keys = keys.collect::<Vec<_>>().join(", ");
        let more = if self.0.len() > SHOWN { " and more" } else { "" };
        Some(format!(
            "{}: keys that are not used: {keys}{more}; references are read from {MANY:?} or {ONE:?}",
            path.display()
        ))
    }
}

impl Fields {
    /// What the entry says; `number` is its place in the list, from 0.
    ///
    /// # Errors
    ///
    /// A key that is likely a misspelling or another program's, two keys for the same, a value of another kind. The reason is without
    /// the entry's number.
    pub(crate) fn read(self, number: usize, remarks: &mut Remarks) -> Result<Listed, String> {
        let mut listed = Listed::default();
        let (mut one, mut many, mut unknown) = (None, None, Vec::new());
        let mut names_references = false;
        for (key, value) in self.0 {
            names_references |= key == ONE || key == MANY;
            match (key.as_str(), value) {
                // As if it were not there: so tables are exported.
                (PROMPT | ONE | MANY | TARGET, Value::Null) => {}
                (PROMPT, Value::String(text)) => listed.prompt = Some(text),
                (ONE, Value::String(path)) => one = Some(PathBuf::from(path)),
                (TARGET, Value::String(path)) => listed.target = Some(path.into()),
                (MANY, Value::Array(paths)) => many = Some(texts(paths)?),
                (PROMPT, other) => return Err(format!("{key:?} is {}; wanted a text", kind(&other))),
                (MANY, other) => {
                    return Err(format!(
                        "{key:?} is {}; wanted a list of paths, or {ONE:?} with one path",
                        kind(&other)
                    ));
                }
                (ONE, other) => {
                    return Err(format!(
                        "{key:?} is {}; wanted one path, or {MANY:?} with a list of them",
                        kind(&other)
                    ));
                }
                (TARGET, other) => return Err(format!("{key:?} is {}; wanted a path", kind(&other))),
                (_, value) => unknown.push((key, value)),
            }
        }
        for (key, _) in &unknown {
            match likely(key) {
                Some(meant) if KNOWN.contains(&meant) => {
                    return Err(format!("unknown key {key:?}; did you mean {meant:?}?"));
                }
                Some(form) => return Err(format!("unknown key {key:?}: it is of {form}")),
                None => {}
            }
        }
        listed.references = match (one, many) {
            (Some(_), Some(_)) => return Err(format!("has both {ONE} and {MANY}; wanted one of them")),
            (Some(one), None) => vec![one],
            (None, many) => many.unwrap_or_default(),
        };
        for (key, value) in unknown {
            let picture = picture_in(&value);
            match picture {
                Some(picture) if !names_references => {
                    return Err(format!(
                        "has no references, but the unknown key {key:?} with {picture:?}; references belong to {MANY:?} or {ONE:?}, and an \
                         entry without any says \"{MANY}\": []"
                    ));
                }
                Some(_) => remarks.unused(&key, number),
                None if !names_references => remarks.unused(&key, number),
                None => {}
            }
        }
        Ok(listed)
    }
}

/// A list of texts.
fn texts(values: Vec<Value>) -> Result<Vec<PathBuf>, String> {
    let text = |value| match value {
        Value::String(path) => Ok(PathBuf::from(path)),
        other => Err(format!("{MANY:?} holds {}; wanted paths", kind(&other))),
    };
    values.into_iter().map(text).collect()
}

/// What a value is, for people.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The known key that is meant by another, if that is likely.
fn likely(key: &str) -> Option<&'static str> {
    let letters_of = letters(key);
    let text: String = letters_of.iter().collect();
    let same = KNOWN.into_iter().find(|known| letters(known) == letters_of);
    let elsewhere =
        || ELSEWHERE.iter().find(|(_, keys)| keys.contains(&text.as_str())).map(|(meant, _)| *meant);
    let near = || {
        let distances = KNOWN.into_iter().map(|known| (edit_distance(&letters_of, &letters(known)), known));
        distances.filter(|(distance, known)| *distance <= known.len() / 4).min().map(|(_, known)| known)
    };
    same.or_else(elsewhere).or_else(near)
}

/// The name of a picture somewhere in a value.
fn picture_in(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => {
            let lower = text.to_ascii_lowercase();
            PICTURES.iter().any(|ending| lower.ends_with(ending)).then_some(text.as_str())
        }
        Value::Array(values) => values.iter().find_map(picture_in),
        Value::Object(values) => values.values().find_map(picture_in),
        _ => None,
    }
}

/// Goes through a list entry by entry, so that the text of a large one is never in memory as a whole. `what` says what the file is to
/// be, `wanted` in which form.
///
/// # Errors
///
/// A file that cannot be read, is no list, or whose entries are of another kind.
pub(crate) fn each_entry<T: for<'de> Deserialize<'de>>(
    path: &Path,
    [what, wanted]: [&str; 2],
    mut entry: impl FnMut(usize, T),
) -> Result<()> {
    let refuse = |reason: String| Error::format(path, format!("is no {what}: {reason}; wanted {wanted}"));
    let mut reader = text_file::open(path)?;
    let first = first_letter(&mut reader).map_err(Error::read(path))?;
    let is_lines =
        path.extension().is_some_and(|e| ["jsonl", "ndjson"].iter().any(|name| e.eq_ignore_ascii_case(name)));
    if first == Some(b'{') && !is_lines {
        let reason = "it begins with an object, not with a list (if each line is an entry, these are JSON lines, which are read from \
                      files named *.jsonl)";
        return Err(refuse(reason.to_owned()));
    }
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    if first == Some(b'[') || !is_lines {
        let done =
            serde::Deserializer::deserialize_seq(&mut deserializer, Entries(entry, std::marker::PhantomData));
        return done.and_then(|()| deserializer.end()).map_err(|e| refuse(e.to_string()));
    }
    for (number, item) in deserializer.into_iter::<T>().enumerate() {
        entry(number, item.map_err(|e| refuse(format!("entry {number}: {e}")))?);
    }
    Ok(())
}

/// The first byte that is no white space, which stays to be read.
fn first_letter(reader: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let bytes = reader.fill_buf()?;
        let Some(first) = bytes.first().copied() else { return Ok(None) };
        if !first.is_ascii_whitespace() {
            return Ok(Some(first));
        }
        reader.consume(1);
    }
}

struct Entries<T, F>(F, std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut(usize, T)> Visitor<'de> for Entries<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(item) =
            list.next_element().map_err(|e| A::Error::custom(format_args!("entry {number}: {e}")))?
        {
            (self.0)(number, item);
            number += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(Listed, Option<String>), String> {
        let mut remarks = Remarks::default();
        let fields: Fields = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let listed = fields.read(3, &mut remarks)?;
        Ok((listed, remarks.text(Path::new("list.json"))))
    }

    #[test]
    fn both_official_spellings_of_references_are_taken() {
        for (json, count) in [
            (r#"{"prompt": "a", "image_path": "a.png"}"#, 1),
            (r#"{"prompt": "a", "image_paths": ["a.png", "b.png"]}"#, 2),
            (r#"{"prompt": "a", "image_paths": [], "id": 7}"#, 0),
            (r#"{"prompt": "a", "image_paths": null, "image_path": "a.png"}"#, 1),
            (r#"{"prompt": "a", "image_path": "a.png", "image_tgt_path": "t.png", "score": 3.5}"#, 1),
            (r#"{"prompt": "a"}"#, 0),
        ] {
            let (listed, remark) = read(json).unwrap();
            assert_eq!((listed.references.len(), remark), (count, None), "{json}");
        }
    }

    #[test]
    fn misspelt_keys_and_those_of_other_programs_are_refused_with_the_likely_one() {
        for (key, meant) in [
            ("image-paths", MANY),
            ("imagePaths", MANY),
            ("img_paths", MANY),
            ("imgae_paths", MANY),
            ("image_pathes", MANY),
            ("images_path", MANY),
            ("reference_images", MANY),
            ("refs", MANY),
            ("Image_Path", ONE),
            ("img_path", ONE),
            ("image", ONE),
            ("ref_image", ONE),
            ("target_image", TARGET),
            ("image_target_path", TARGET),
            ("promt", PROMPT),
            ("Prompt", PROMPT),
            ("caption", PROMPT),
            ("img_path1", "uno-1m"),
        ] {
            let reason = read(&format!(r#"{{"{key}": ["a.png"]}}"#)).unwrap_err();
            let both = reason.contains(&format!("{key:?}")) && reason.contains(meant);
            // One path and several are the same mistake.
            assert!(both || reason.contains(ONE) && meant == MANY, "{key}: {reason}");
        }
    }

    #[test]
    fn two_spellings_at_once_and_values_of_another_kind_are_refused() {
        for (json, words) in [
            (r#"{"image_path": "a.png", "image_paths": ["a.png"]}"#, "both"),
            (r#"{"image_path": "a.png", "img_paths": ["a.png"]}"#, "img_paths"),
            (r#"{"image_paths": ["a.png"], "image_paths": []}"#, "twice"),
            (r#"{"image_paths": "a.png"}"#, "wanted a list"),
            (r#"{"image_paths": [1]}"#, "a number"),
            (r#"{"image_path": ["a.png"]}"#, "wanted one path"),
            (r#"{"prompt": 1}"#, "wanted a text"),
            (r#"{"image_tgt_path": ["t.png"]}"#, "wanted a path"),
        ] {
            let reason = read(json).unwrap_err();
            assert!(reason.contains(words), "{json}: {reason}");
        }
    }

    #[test]
    fn other_keys_are_refused_where_they_may_hold_the_references_and_remarked_on_else() {
        let reason = read(r#"{"prompt": "a", "subject_b": {"file": "b.PNG"}}"#).unwrap_err();
        assert!(reason.contains("subject_b") && reason.contains("b.PNG"), "{reason}");
        let remark = read(r#"{"prompt": "a", "class": "cup"}"#).unwrap().1.unwrap();
        assert!(remark.contains(r#""class" (entry 3)"#) && remark.contains("list.json"), "{remark}");
        assert!(read(r#"{"image_path": "a.png", "mask": "m.png"}"#).unwrap().1.unwrap().contains("mask"));
        assert_eq!(read(r#"{"image_path": "a.png", "class": "cup"}"#).unwrap().1, None);
    }

    #[test]
    fn lists_and_json_lines_are_read_and_other_forms_named() {
        let folder = tempfile::tempdir().unwrap();
        let count = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let mut count = 0;
            each_entry(&path, ["list", "[...]"], |number, _: Fields| {
                assert_eq!(number, count);
                count += 1;
            })
            .map(|()| count)
            .map_err(|e| e.to_string())
        };
        assert_eq!(count("a.json", "\u{feff} [{}, {}]\n"), Ok(2));
        assert_eq!(count("a.jsonl", "\u{feff}{}\n\n{}\r\n{}"), Ok(3));
        assert_eq!(count("a.ndjson", "[{}]"), Ok(1));
        assert_eq!(count("a.jsonl", ""), Ok(0));
        assert!(count("a.json", "{}\n{}").unwrap_err().contains("*.jsonl"));
        assert!(count("a.jsonl", "{}\n{\"a\":").unwrap_err().contains("entry 1"));
        assert!(count("a.json", "[{}, 1]").unwrap_err().contains("entry 1"));
        assert!(count("a.json", "[] x").is_err());
        assert!(count("a.json", "").is_err());
    }
}
