//! cargo run --release --example custom_component -- custom.png
//!
//! Every part of a generation is a trait, and this puts in parts of its own: a text encoder that remembers prompts, a velocity
//! model with a negative prompt, a codec that shows latents without decoding them, and observers that watch and stop.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

use burn::tensor::Tensor;
use uno_core::traits::{
    Conditioning, Event, LatentCodec, TextEncoder, TextEncoding, VelocityInput, VelocityModel,
};
use uno_core::{Error, Result, device};
use uno_models::checkpoint::embedded;
use uno_models::components::{PipelineOptions, load_autoencoder, load_text_encoder, load_transformer};
use uno_models::{Request, UnoPipeline};

/// Encodes each prompt once in its life.
struct Remembering<T> {
    inner: T,
    known: Mutex<HashMap<String, TextEncoding>>,
}

impl<T: TextEncoder> TextEncoder for Remembering<T> {
    fn encode(&self, prompts: &[String]) -> Result<TextEncoding> {
        let mut known =
            self.known.lock().map_err(|_| Error::component("text encoder", "an earlier call panicked"))?;
        let mut encodings = Vec::new();
        for prompt in prompts {
            if !known.contains_key(prompt) {
                known.insert(prompt.clone(), self.inner.encode(std::slice::from_ref(prompt))?);
            }
            encodings.extend(known.get(prompt).cloned());
        }
        let truncated = encodings.iter().flat_map(|e| e.truncated.clone()).collect();
        let (txt, vec) = encodings.into_iter().map(|e| (e.txt, e.vec)).unzip();
        Ok(TextEncoding { txt: Tensor::cat(txt, 0), vec: Tensor::cat(vec, 0), truncated })
    }
}

/// Classifier-free guidance: goes away from what a negative prompt describes. Costs a second evaluation per step.
struct WithNegativePrompt<M> {
    inner: M,
    negative: TextEncoding,
    scale: f32,
}

impl<M: VelocityModel> VelocityModel for WithNegativePrompt<M> {
    fn velocity(&self, input: VelocityInput<'_>) -> Result<Tensor<3>> {
        let [batch, tokens, features] = input.conditioning.txt.dims();
        let [_, pooled] = input.conditioning.vec.dims();
        let negative = Conditioning {
            txt: self.negative.txt.clone().expand([batch, tokens, features]),
            vec: self.negative.vec.clone().expand([batch, pooled]),
            ..input.conditioning.clone()
        };
        let away = self.inner.velocity(VelocityInput { conditioning: &negative, ..input.clone() })?;
        let towards = self.inner.velocity(input)?;
        Ok(away.clone() + (towards - away) * self.scale)
    }

    fn in_channels(&self) -> usize {
        self.inner.in_channels()
    }
}

/// Shows three latent channels as red, green and blue: a look at a latent that costs nothing.
struct LatentColours<C>(C);

impl<C: LatentCodec> LatentCodec for LatentColours<C> {
    fn encode(&self, pictures: Tensor<4>, seed: Option<u64>) -> Result<Tensor<4>> {
        self.0.encode(pictures, seed)
    }

    fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>> {
        let [batch, _, h, w] = latents.dims();
        let f = self.downsampling();
        let colours = latents.narrow(1, 0, 3).mul_scalar(0.4);
        Ok(colours.reshape([batch * 3, h, 1, w, 1]).expand([batch * 3, h, f, w, f]).reshape([
            batch,
            3,
            h * f,
            w * f,
        ]))
    }

    fn channels(&self) -> usize {
        self.0.channels()
    }

    fn downsampling(&self) -> usize {
        self.0.downsampling()
    }
}

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "custom.png".into());
    let device = device::open("cpu")?;
    let options = PipelineOptions::new(&device);
    let source = embedded()?;

    let text = load_text_encoder(&source, &options)?;
    // The prompt that says nothing: what is common to all pictures.
    let negative = text.encode(&[String::new()])?;
    let text = Remembering { inner: text, known: Mutex::default() };
    let model = WithNegativePrompt { inner: load_transformer(&source, &options)?, negative, scale: 2.0 };
    let codec = LatentColours(load_autoencoder(&source, &options)?);
    let pipeline = UnoPipeline::new(text, codec, model, &device, options.dtype);

    let watch = |event: &Event<'_>| {
        if let Event::Step { step, total, seconds, .. } = event {
            eprintln!("step {step}/{total}: {seconds:.2} s");
        }
        ControlFlow::Continue(())
    };
    let request = Request::with_defaults("a red teapot with white dots on a wooden table", source.defaults());
    let generation = pipeline.generate(&request, &watch)?;
    generation.pictures[0].picture.save(&path)?;

    // An observer that asks to stop after the second step is obeyed.
    let stop = |event: &Event<'_>| match event {
        Event::Step { step: 2, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let stopped = pipeline.generate(&request, &stop).map(|_| ());
    println!("{path} is written; the second run ended with: {stopped:?}");
    Ok(())
}
