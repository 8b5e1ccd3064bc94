//! The rank and alpha of LoRAs whose tensors do not tell them: PEFT's configuration, in the file's header or beside it.
//!
//! diffusers and SimpleTuner write it into the header's metadata as `lora_adapter_metadata` (JSON; names begin with the part of
//! the model: `transformer.lora_alpha`), PEFT into an `adapter_config.json` beside `adapter_model.safetensors`. A layer counts
//! `alpha / rank` times, or `alpha / sqrt(rank)` with `use_rslora`, and patterns give single layers other ranks and alphas
//! (PEFT's `LoraConfig` and `get_pattern_key`).
//!
//! kohya's `ss_network_alpha` and `ss_network_dim` are not taken: sd-scripts writes an alpha tensor for each layer, reads nothing
//! else, and counts a layer without one once. Its own conversion to ComfyUI's keys multiplies alpha into the weights and leaves
//! that metadata as it was.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::file::ADAPTER_CONFIG;
use crate::lora_keys::Component;
use crate::weights::Checkpoint;

/// The entry of the header that diffusers writes.
const HEADER: &str = "lora_adapter_metadata";
/// Most bytes of JSON that are read; with patterns for all layers of FLUX it has some 50 kB.
const MAX_BYTES: usize = 1 << 20;
/// Most patterns, and the most bytes of one; FLUX and its text encoders have some 750 linear layers.
const MAX_PATTERNS: usize = 4096;
const MAX_PATTERN_BYTES: usize = 1000;
/// Most bytes that a compiled pattern may take.
const MAX_COMPILED_BYTES: usize = 1 << 18;

/// What makes an adapter more than a sum, with what each is, in words.
const MORE_THAN_A_SUM: [(&str, &str); 11] = [
    ("use_dora", "it is a DoRA"),
    ("use_qalora", "it is a QA-LoRA"),
    ("use_bdlora", "its matrices are block-diagonal"),
    ("bias", "it trains biases of the model too"),
    ("lora_bias", "its matrices have biases"),
    ("modules_to_save", "it replaces whole layers too"),
    ("trainable_token_indices", "it trains embeddings of tokens too"),
    ("layer_replication", "it repeats layers of the model"),
    ("alora_invocation_tokens", "it acts on a part of the tokens only"),
    ("arrow_config", "it chooses among several adapters"),
    ("megatron_config", "it is for Megatron's layers"),
];

/// Ways of beginning that leave the base model's weights as they are.
const INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Rank and alpha of one part of the model.
#[derive(Debug)]
pub(super) struct Config {
    /// What names in messages begin with: `adapter_config.json: `, `lora_adapter_metadata: transformer.`.
    source: String,
    rank: usize,
    alpha: f64,
    ranks: Vec<Pattern<usize>>,
    alphas: Vec<Pattern<f64>>,
    by_root: bool,
}

/// What the layers are given whose names fit.
#[derive(Debug)]
struct Pattern<T> {
    text: String,
    names: Regex,
    value: T,
}

impl Config {
    /// The configuration of a part of the model, if the file or its folder has one. The header's goes before the one beside it.
    ///
    /// # Errors
    ///
    /// What cannot be used, named as it stands there.
    pub(super) fn of(checkpoint: &Checkpoint, component: Component) -> Result<Option<Self>, String> {
        let prefix = match component {
            Component::Transformer => "transformer.",
            Component::Clip => "text_encoder.",
            Component::T5 => "text_encoder_2.",
        };
        if let Some(all) = fields(checkpoint, HEADER)? {
            let inside = |(name, value): (&String, &Value)| {
                Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))
            };
            let of_part: Map<String, Value> = all.iter().filter_map(inside).collect();
            if !of_part.is_empty() {
                return Self::new(format!("{HEADER}: {prefix}"), &of_part).map(Some);
            }
            // The adapter of one model, as diffusers' `save_lora_adapter` writes it.
            if ["r", "lora_alpha", "peft_type"].iter().any(|name| all.contains_key(*name)) {
                return Self::new(format!("{HEADER}: "), &all).map(Some);
            }
        }
        let beside = fields(checkpoint, ADAPTER_CONFIG)?;
        beside.map(|fields| Self::new(format!("{ADAPTER_CONFIG}: "), &fields)).transpose()
    }

    fn new(source: String, fields: &Map<String, Value>) -> Result<Self, String> {
        let wrong = |name: &str, wanted: &str| {
            let got = fields.get(name).map_or_else(|| "missing".to_owned(), Value::to_string);
            format!("{source}{name} is {}; wanted {wanted}", shortened(&got))
        };
        let kind = fields.get("peft_type").filter(|kind| !kind.is_null());
        if kind.is_some_and(|kind| kind.as_str() != Some("LORA")) {
            return Err(wrong("peft_type", "LORA: other kinds of adapters are not read"));
        }
        for (name, what) in MORE_THAN_A_SUM {
            if fields.get(name).is_some_and(|value| !is_off(value)) {
                return Err(wrong(name, &format!("none: {what}, and only plain LoRAs are read")));
            }
        }
        match fields.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(init)) if INITS.contains(&init.as_str()) => {}
            Some(_) => {
                let wanted = "true, gaussian, eva or orthogonal: others change the base model's weights as well; save the adapter \
                              anew with PEFT's path_initial_model_for_weight_conversion";
                return Err(wrong("init_lora_weights", wanted));
            }
        }
        let by_root = match fields.get("use_rslora") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(by_root)) => *by_root,
            Some(_) => return Err(wrong("use_rslora", "true or false")),
        };
        let rank = fields.get("r").and_then(rank_of).ok_or_else(|| wrong("r", RANK))?;
        let alpha = fields.get("lora_alpha").and_then(alpha_of).ok_or_else(|| wrong("lora_alpha", ALPHA))?;
        Ok(Self {
            rank,
            alpha,
            by_root,
            ranks: patterns(&source, "rank_pattern", fields, rank_of, RANK)?,
            alphas: patterns(&source, "alpha_pattern", fields, alpha_of, ALPHA)?,
            source,
        })
    }

    /// How many times the product of a layer's matrices counts. `module` is the layer's name as the trainer had it, `rank` that of
    /// the matrices.
    ///
    /// # Errors
    ///
    /// A rank that the matrices do not have; patterns that contradict each other.
    pub(super) fn factor(&self, module: &str, rank: usize) -> Result<f64, String> {
        let source = &self.source;
        let fitting: Vec<_> = self.ranks.iter().filter(|pattern| pattern.names.is_match(module)).collect();
        let told = match fitting.iter().find(|pattern| pattern.value == rank).or(fitting.first()) {
            Some(pattern) => (pattern.value, format!("rank_pattern {:?}", pattern.text)),
            None => (self.rank, "r".to_owned()),
        };
        if told.0 != rank {
            return Err(format!(
                "{source}{} says that {module} has rank {}, its tensors have {rank}; the two are of different files",
                told.1, told.0
            ));
        }
        let mut fitting = self.alphas.iter().filter(|pattern| pattern.names.is_match(module));
        let first = fitting.next();
        let alpha = first.map_or(self.alpha, |pattern| pattern.value);
        // PEFT takes the first in an order that files do not keep.
        if let (Some(first), Some(other)) = (first, fitting.find(|pattern| pattern.value != alpha)) {
            return Err(format!(
                "{source}alpha_pattern gives {module} {alpha} by {:?} and {} by {:?}; wanted one of the two, or alpha tensors",
                first.text, other.value, other.text
            ));
        }
        let rank = rank as f64;
        Ok(alpha / if self.by_root { rank.sqrt() } else { rank })
    }
}

/// The entries of the JSON object in the metadata `name`.
fn fields(checkpoint: &Checkpoint, name: &str) -> Result<Option<Map<String, Value>>, String> {
    let Some(text) = checkpoint.metadata().get(name) else { return Ok(None) };
    if text.len() > MAX_BYTES {
        return Err(format!("{name} has {} bytes; wanted at most {MAX_BYTES}", text.len()));
    }
    // Windows' editors put a byte order mark before it.
    let fields = serde_json::from_str(text.trim_start_matches('\u{feff}'));
    fields.map(Some).map_err(|e| {
        format!(
            "{name} cannot be used: {e}; wanted a JSON object, in which all numbers are finite (NaN is none)"
        )
    })
}

const RANK: &str = "a whole number from 1";
const ALPHA: &str = "a finite number";

fn rank_of(value: &Value) -> Option<usize> {
    value.as_u64().filter(|rank| *rank > 0).and_then(|rank| rank.try_into().ok())
}

fn alpha_of(value: &Value) -> Option<f64> {
    value.as_f64().filter(|alpha| alpha.is_finite())
}

/// Whether an option is not used.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The patterns of an entry. Each is a regular expression for the end of a name, from a dot on.
fn patterns<T>(
    source: &str,
    entry: &str,
    fields: &Map<String, Value>,
    read: impl Fn(&Value) -> Option<T>,
    wanted: &str,
) -> Result<Vec<Pattern<T>>, String> {
    let all = match fields.get(entry) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(all)) if all.len() <= MAX_PATTERNS => all,
        Some(Value::Object(all)) => {
            return Err(format!("{source}{entry} has {} patterns; wanted at most {MAX_PATTERNS}", all.len()));
        }
        Some(other) => {
            let got = shortened(&other.to_string());
            return Err(format!("{source}{entry} is {got}; wanted patterns of names, each with {wanted}"));
        }
    };
    let pattern = |(text, value): (&String, &Value)| {
        let value = read(value).ok_or_else(|| {
            let got = shortened(&value.to_string());
            format!("{source}{entry} gives {:?} {got}; wanted {wanted}", shortened(text))
        })?;
        let compiled = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build().ok();
        // By itself first: inside of parentheses some that are broken would not be.
        let names = Some(text)
            .filter(|text| text.len() <= MAX_PATTERN_BYTES && compiled(text).is_some())
            .and_then(|text| compiled(&format!(r"^(?:.*\.)?(?:{text})$")));
        let names = names.ok_or_else(|| {
            format!(
                "{source}{entry} has the pattern {:?}, which cannot be matched here; wanted a name, or a regular expression without \
                 look-around and back-references",
                shortened(text)
            )
        })?;
        Ok(Pattern { text: text.clone(), names, value })
    };
    all.iter().map(pattern).collect()
}

/// Text of a file as a message can hold it.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The configurations of a file's parts, each read when a layer needs it: that of a file whose tensors tell alpha is not looked at.
pub(super) struct Configs<'a> {
    checkpoint: &'a Checkpoint,
    read: BTreeMap<Component, Option<Config>>,
}

impl<'a> Configs<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, read: BTreeMap::new() }
    }

    /// How many times the product of the matrices of a layer without an alpha tensor counts.
    ///
    /// # Errors
    ///
    /// As [`Config::of`] and [`Config::factor`].
    pub(super) fn factor(&mut self, component: Component, module: &str, rank: usize) -> Result<f64, String> {
        if !self.read.contains_key(&component) {
            self.read.insert(component, Config::of(self.checkpoint, component)?);
        }
        match self.read.get(&component) {
            Some(Some(config)) => config.factor(module, rank),
            _ => Ok(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(name: &str, json: &str) -> Checkpoint {
        Checkpoint::from_tensors("x", []).with_metadata(name, json.to_owned())
    }

    fn factor(json: &str, module: &str, rank: usize) -> Result<f64, String> {
        Configs::new(&beside(ADAPTER_CONFIG, json)).factor(Component::Transformer, module, rank)
    }

    #[test]
    fn alpha_counts_by_the_rank_or_by_its_root() {
        assert_eq!(factor(r#"{"r": 4, "lora_alpha": 2}"#, "a.to_q", 4), Ok(0.5));
        assert_eq!(factor(r#"{"r": 4, "lora_alpha": 6.0, "use_rslora": true}"#, "a.to_q", 4), Ok(3.0));
        assert_eq!(factor("\u{feff}{\"r\": 4, \"lora_alpha\": 0, \"use_dora\": null}", "a.to_q", 4), Ok(0.0));
        let none = Checkpoint::from_tensors("x", []);
        assert_eq!(Configs::new(&none).factor(Component::Clip, "a", 4), Ok(1.0));
    }

    #[test]
    fn patterns_are_regular_expressions_for_the_end_of_a_name() {
        for (pattern, fits) in [
            ("transformer_blocks.1.to_q", true),
            ("to_q", true),
            ("o_q", false),
            ("blocks.1.to_q", false),
            ("blocks.1", false),
            (r"^transformer_blocks\\.1\\.to_q", true),
            ("^blocks.1.to_q", false),
            (r"transformer_blocks\\.\\d+\\.to_[qk]", true),
            ("to_k|to_q", true),
            (".*_q", true),
        ] {
            let json = format!(r#"{{"r": 4, "lora_alpha": 4, "alpha_pattern": {{"{pattern}": 2}}}}"#);
            let wanted = if fits { 0.5 } else { 1.0 };
            assert_eq!(factor(&json, "transformer_blocks.1.to_q", 4), Ok(wanted), "{pattern}");
            let json = format!(r#"{{"r": 9, "lora_alpha": 4, "rank_pattern": {{"{pattern}": 4}}}}"#);
            assert_eq!(factor(&json, "transformer_blocks.1.to_q", 4).is_ok(), fits, "{pattern}");
        }
    }

    #[test]
    fn patterns_that_contradict_each_other_are_told_apart_by_the_tensors_or_refused() {
        let json = r#"{"r": 8, "lora_alpha": 4, "rank_pattern": {"to_q": 2, "a.to_q": 4}}"#;
        assert_eq!((factor(json, "a.to_q", 4), factor(json, "b.to_q", 2)), (Ok(1.0), Ok(2.0)));
        let json = r#"{"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_q": 2, "a.to_q": 3}}"#;
        let error = factor(json, "a.to_q", 4).unwrap_err();
        assert!(error.contains("alpha_pattern gives a.to_q 3 by \"a.to_q\" and 2 by \"to_q\""), "{error}");
        assert_eq!(factor(json, "b.to_q", 4), Ok(0.5));
    }

    #[test]
    fn the_header_has_a_configuration_for_each_part() {
        let json = r#"{"transformer.r": 4, "transformer.lora_alpha": 2, "text_encoder.r": 2, "text_encoder.lora_alpha": 6}"#;
        let file =
            beside(HEADER, json).with_metadata(ADAPTER_CONFIG, r#"{"r": 4, "lora_alpha": 16}"#.to_owned());
        let mut configs = Configs::new(&file);
        assert_eq!(configs.factor(Component::Transformer, "a", 4), Ok(0.5));
        assert_eq!(configs.factor(Component::Clip, "a", 2), Ok(3.0));
        assert_eq!(configs.factor(Component::T5, "a", 4), Ok(4.0));
        // That of a single model, and one that says nothing.
        let plain = beside(HEADER, r#"{"r": 4, "lora_alpha": 8, "peft_type": "LORA"}"#);
        assert_eq!(Configs::new(&plain).factor(Component::Transformer, "a", 4), Ok(2.0));
        assert_eq!(Configs::new(&beside(HEADER, "{}")).factor(Component::Transformer, "a", 4), Ok(1.0));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let with = |more: &str| format!(r#"{{"r": 4, "lora_alpha": 4, {more}}}"#);
        for (json, words) in [
            ("", "cannot be used"),
            ("[]", "wanted a JSON object"),
            (r#"{"r": 4, "lora_alpha": NaN}"#, "NaN is none"),
            (r#"{"r": 4, "lora_alpha": 1e999}"#, "cannot be used"),
            (r#"{"r": 4}"#, "lora_alpha is missing"),
            (r#"{"lora_alpha": 4}"#, "r is missing"),
            (r#"{"r": 0, "lora_alpha": 4}"#, "r is 0; wanted a whole number from 1"),
            (r#"{"r": -4, "lora_alpha": 4}"#, "r is -4"),
            (r#"{"r": 4.5, "lora_alpha": 4}"#, "r is 4.5"),
            (r#"{"r": "4", "lora_alpha": 4}"#, r#"r is "4""#),
            (r#"{"r": 4, "lora_alpha": "4"}"#, r#"lora_alpha is "4"; wanted a finite number"#),
            (r#"{"r": 8, "lora_alpha": 4}"#, "r says that a.to_q has rank 8, its tensors have 4"),
            (&with(r#""use_rslora": 1"#), "use_rslora is 1; wanted true or false"),
            (&with(r#""use_dora": true"#), "use_dora is true; wanted none: it is a DoRA"),
            (&with(r#""bias": "lora_only""#), r#"bias is "lora_only"; wanted none"#),
            (&with(r#""modules_to_save": ["proj_out"]"#), "it replaces whole layers too"),
            (&with(r#""peft_type": "LOHA""#), r#"peft_type is "LOHA"; wanted LORA"#),
            (&with(r#""init_lora_weights": "pissa_niter_4""#), "change the base model's weights"),
            (&with(r#""rank_pattern": {"to_q": 5}"#), r#"rank_pattern "to_q" says that a.to_q has rank 5"#),
            (&with(r#""rank_pattern": {"to_k": 0}"#), r#"rank_pattern gives "to_k" 0"#),
            (&with(r#""rank_pattern": [1]"#), "rank_pattern is [1]"),
            (&with(r#""alpha_pattern": {"to_k": null}"#), r#"alpha_pattern gives "to_k" null"#),
            (&with(r#""alpha_pattern": {"(?=a)to_k": 1}"#), "cannot be matched here"),
            (&with(r#""alpha_pattern": {"(a{1000}){1000}": 1}"#), "cannot be matched here"),
            (&with(r#""alpha_pattern": {")(": 1}"#), "cannot be matched here"),
        ] {
            let error = factor(json, "a.to_q", 4).expect_err(json);
            assert!(error.contains(ADAPTER_CONFIG) && error.contains(words), "{json}: {error}");
        }
        let huge = format!(r#"{{"r": 4, "lora_alpha": 4}}{}"#, " ".repeat(MAX_BYTES));
        assert!(factor(&huge, "a", 4).unwrap_err().contains("wanted at most"));
    }
}
