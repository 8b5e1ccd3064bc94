//! Any bytes as a tokenizer file, and any text through what was loaded.
//!
//! Input: one byte that chooses the kind of file, one byte n, n bytes of text, then the file; `vocab.json` and `merges.txt`
//! have a zero byte between them.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use uno_core::text::{ClipTokenizer, Encoding, T5Tokenizer};

/// Special tokens, accents, ligatures, joined emoji, controls and many spaces.
const TEXT: &str = "A  photo\tof </s><pad> <extra_id_7>\u{fb01}ne caf\u{e9}e\u{301} \u{1f469}\u{200d}\u{1f680}\0\u{2581}\u{fffd} \
                    <|endoftext|>isn't 12 \u{732b}\n";

fn check(encoding: &Encoding, max_len: usize, vocab_size: usize) {
    assert_eq!(encoding.ids.len(), max_len);
    assert!(encoding.len <= max_len);
    assert!(encoding.ids.iter().all(|id| (*id as usize) < vocab_size), "{:?} of {vocab_size}", encoding.ids);
}

fn t5(tokenizer: &T5Tokenizer, text: &str) {
    for (text, max_len) in [(TEXT, 512), (text, 1), (text, 77)] {
        // With a length of at least 1 every text has tokens.
        let encoding = tokenizer.encode(text, max_len).expect("any text encodes");
        check(&encoding, max_len, tokenizer.vocab_size());
    }
    assert!(tokenizer.encode(text, 0).is_err());
}

fn clip(tokenizer: &ClipTokenizer, text: &str) {
    for (text, max_len) in [(TEXT, 77), (text, 2), (text, 77)] {
        // The `tokenizers` crate may refuse a text, so an error is no finding.
        if let Ok(encoding) = tokenizer.encode(text, max_len) {
            check(&encoding, max_len, tokenizer.vocab_size());
        }
    }
    assert!(tokenizer.encode(text, 1).is_err());
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let [kind, length, rest @ ..] = data else { return Corpus::Reject };
    let Some((text, file)) = rest.split_at_checked(usize::from(*length)) else { return Corpus::Reject };
    let text = String::from_utf8_lossy(text);
    match kind % 4 {
        0 => {
            if let Ok(tokenizer) = T5Tokenizer::from_spiece_bytes("x", file) {
                t5(&tokenizer, &text);
            }
        }
        1 => {
            if let Ok(tokenizer) = T5Tokenizer::from_tokenizer_json_bytes("x", file) {
                t5(&tokenizer, &text);
            }
        }
        2 => {
            if let Ok(tokenizer) = ClipTokenizer::from_tokenizer_json_bytes("x", file) {
                clip(&tokenizer, &text);
            }
        }
        _ => {
            let mut parts = file.splitn(2, |byte| *byte == 0);
            let (vocab, merges) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if let Ok(tokenizer) = ClipTokenizer::from_vocab_merges_bytes("x", vocab, merges) {
                clip(&tokenizer, &text);
            }
        }
    }
    Corpus::Keep
});
