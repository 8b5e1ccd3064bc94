//! Text encoders: T5 for one state per token, CLIP for one per prompt, and both together as FLUX takes them.

mod clip;
mod spiece;
mod t5;
pub mod tokenizer;

use burn::tensor::Tensor;

pub use clip::{ClipActivation, ClipTextConfig, ClipTextEncoder};
pub use t5::{T5Config, T5Encoder};
pub use tokenizer::{ClipTokenizer, Encoding, T5Tokenizer};

use crate::error::{Error, Result};
use crate::sampling::check_finite;
use crate::traits::{TextEncoder, TextEncoding, Truncation};

/// T5 and CLIP with their tokenizers: FLUX's text encoder.
#[derive(Debug)]
pub struct FluxTextEncoder {
    t5: T5Encoder,
    t5_tokenizer: T5Tokenizer,
    clip: ClipTextEncoder,
    clip_tokenizer: ClipTokenizer,
    t5_length: usize,
}

/// Tokens per prompt that FLUX.1-dev and UNO give to T5.
pub const T5_LENGTH: usize = 512;

impl FluxTextEncoder {
    /// Joins the parts; prompts are padded or cut to `t5_length` T5 tokens ([`T5_LENGTH`] for UNO).
    ///
    /// # Errors
    ///
    /// A tokenizer with more tokens than its encoder has embeddings: the two are of different models.
    pub fn new(
        t5: T5Encoder,
        t5_tokenizer: T5Tokenizer,
        clip: ClipTextEncoder,
        clip_tokenizer: ClipTokenizer,
        t5_length: usize,
    ) -> Result<Self> {
        for (name, tokens, embeddings) in [
            ("T5", t5_tokenizer.vocab_size(), t5.config().vocab_size),
            ("CLIP", clip_tokenizer.vocab_size(), clip.config().vocab_size),
        ] {
            // T5's tokenizer counts 100 sentinel tokens that small models have no embeddings for; see `check_ids`.
            if tokens > embeddings.saturating_add(100) {
                return Err(Error::Tokenizer(format!(
                    "the {name} tokenizer has {tokens} tokens, its encoder embeds {embeddings}; they are of different models"
                )));
            }
        }
        if t5_length < 2 {
            return Err(Error::invalid("T5 length", t5_length, "at least 2 tokens"));
        }
        Ok(Self { t5, t5_tokenizer, clip, clip_tokenizer, t5_length })
    }

    /// The T5 encoder.
    pub fn t5(&self) -> &T5Encoder {
        &self.t5
    }

    /// The CLIP encoder.
    pub fn clip(&self) -> &ClipTextEncoder {
        &self.clip
    }

    /// The T5 tokenizer.
    pub fn t5_tokenizer(&self) -> &T5Tokenizer {
        &self.t5_tokenizer
    }

    /// The CLIP tokenizer.
    pub fn clip_tokenizer(&self) -> &ClipTokenizer {
        &self.clip_tokenizer
    }
}

impl TextEncoder for FluxTextEncoder {
    fn encode(&self, prompts: &[String]) -> Result<TextEncoding> {
        if prompts.is_empty() {
            return Err(Error::invalid("prompts", 0, "at least one"));
        }
        let mut encodings: Vec<(Tensor<3>, Tensor<2>)> = Vec::with_capacity(prompts.len());
        let mut truncated = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let t5 = self.t5_tokenizer.encode(prompt, self.t5_length)?;
            let clip = self.clip_tokenizer.encode(prompt, self.clip.config().max_position_embeddings)?;
            for (encoder, encoding) in [("T5", &t5), ("CLIP", &clip)] {
                if encoding.dropped > 0 {
                    truncated.push(Truncation {
                        prompt: i,
                        encoder,
                        kept: encoding.len,
                        dropped: encoding.dropped,
                    });
                }
            }
            // The same prompt again costs nothing.
            let known = prompts[..i].iter().position(|p| p == prompt).and_then(|j| encodings.get(j).cloned());
            encodings.push(match known {
                Some(known) => known,
                None => (self.t5.forward(&t5.ids)?, self.clip.forward(&clip.ids)?),
            });
        }
        let (txt, vec): (Vec<_>, Vec<_>) = encodings.into_iter().unzip();
        let (txt, vec) = (Tensor::cat(txt, 0), Tensor::cat(vec, 0));
        let remedy = "its weights are damaged, of another model, or overflow in this number format (try f32)";
        check_finite("the output of the T5 encoder", &txt, remedy)?;
        check_finite("the output of the CLIP encoder", &vec, remedy)?;
        Ok(TextEncoding { txt, vec, truncated })
    }
}
