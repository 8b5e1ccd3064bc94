//! cargo bench --bench storage_error
//!
//! How far each storage of the transformer's matrices is from f32: in its output, and in the picture. Prints the table of
//! docs/memory.md. The transformer is a random one of width 512 (4 heads of 128, 2 double and 4 single blocks); everything else
//! is the embedded model's.

use std::collections::BTreeMap;

use burn::tensor::{Distribution, Tensor};
use uno_core::tensor_to_vec;
use uno_core::traits::Silent;
use uno_core::weights::{Checkpoint, StorageDtype, StoredTensor};
use uno_models::Request;
use uno_models::checkpoint::embedded;
use uno_models::components::{ModelSource, PipelineOptions, load};

type Error = Box<dyn std::error::Error>;
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const HIDDEN: usize = 512;
const MLP: usize = 4 * HIDDEN;
const HEAD: usize = 128;

/// Names and shapes of a transformer that fits the embedded text encoders and autoencoder.
fn shapes(source: &ModelSource) -> Vec<(String, Vec<usize>)> {
    let inputs = |name: &str| source.dit.shape(name).map_or(0, |shape| shape[1]);
    let mut layers = vec![
        ("img_in".to_owned(), HIDDEN, inputs("img_in.weight")),
        ("txt_in".to_owned(), HIDDEN, inputs("txt_in.weight")),
        ("final_layer.linear".to_owned(), inputs("img_in.weight"), HIDDEN),
        ("final_layer.adaLN_modulation.1".to_owned(), 2 * HIDDEN, HIDDEN),
    ];
    for (embedder, input) in
        [("time_in", 256), ("guidance_in", 256), ("vector_in", inputs("vector_in.in_layer.weight"))]
    {
        layers.push((format!("{embedder}.in_layer"), HIDDEN, input));
        layers.push((format!("{embedder}.out_layer"), HIDDEN, HIDDEN));
    }
    let mut norms = Vec::new();
    for (i, stream) in (0..2).flat_map(|i| [(i, "img"), (i, "txt")]) {
        let name = |layer: &str| format!("double_blocks.{i}.{stream}_{layer}");
        layers.push((name("mod.lin"), 6 * HIDDEN, HIDDEN));
        layers.push((name("attn.qkv"), 3 * HIDDEN, HIDDEN));
        layers.push((name("attn.proj"), HIDDEN, HIDDEN));
        layers.push((name("mlp.0"), MLP, HIDDEN));
        layers.push((name("mlp.2"), HIDDEN, MLP));
        norms.extend([name("attn.norm.query_norm.scale"), name("attn.norm.key_norm.scale")]);
    }
    for i in 0..4 {
        let name = |layer: &str| format!("single_blocks.{i}.{layer}");
        layers.push((name("modulation.lin"), 3 * HIDDEN, HIDDEN));
        layers.push((name("linear1"), 3 * HIDDEN + MLP, HIDDEN));
        layers.push((name("linear2"), HIDDEN, HIDDEN + MLP));
        norms.extend([name("norm.query_norm.scale"), name("norm.key_norm.scale")]);
    }
    let mut shapes: Vec<_> = norms.into_iter().map(|name| (name, vec![HEAD])).collect();
    for (name, outputs, inputs) in layers {
        shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
        shapes.push((format!("{name}.bias"), vec![outputs]));
    }
    shapes
}

/// The transformer with the matrices of its blocks in `storage`, and the bits that such a number takes.
fn stored(tensors: &Tensors, storage: StorageDtype, scaled: bool) -> Result<(Checkpoint, f64), Error> {
    let (mut bytes, mut numbers) = (0, 0);
    let mut all = Vec::new();
    for (name, (shape, values)) in tensors {
        let tensor = if shape.len() == 2 && name.contains("_blocks.") {
            // The largest e4m3 number is 448.
            let scale = match scaled {
                true => values.iter().fold(0f32, |most, x| most.max(x.abs())) / 448.0,
                false => 1.0,
            };
            let values: Vec<f32> = values.iter().map(|x| x / scale).collect();
            let packed = storage.pack(&values).ok_or("cannot be packed")?;
            (bytes, numbers) = (bytes + packed.len(), numbers + values.len());
            let tensor = StoredTensor::new(storage, shape.clone(), packed.into()).ok_or("does not fit")?;
            if scaled { tensor.scaled(&[scale]).ok_or("cannot be scaled")? } else { tensor }
        } else {
            StoredTensor::from_f32(shape.clone(), values).ok_or("does not fit")?
        };
        all.push((name.clone(), tensor));
    }
    Ok((Checkpoint::from_tensors("random", all), 8.0 * bytes as f64 / numbers as f64))
}

/// Output of the transformer at the first step, and the picture after four.
fn results(source: &ModelSource, noise: &Tensor<4>) -> Result<(Vec<f32>, Vec<u8>), Error> {
    let pipeline = load(source, &PipelineOptions::new(&noise.device()), &Silent)?;
    let request = |steps| {
        let mut request = Request::new("a robot beside a teapot").with_size(256, 256).with_steps(steps);
        request.latents = Some(noise.clone());
        request
    };
    // One step goes from time 1 to 0: the latent is the noise less the output.
    let latents = pipeline.generate_latents(&request(1), &Silent)?.latents;
    let picture = pipeline.generate(&request(4), &Silent)?.pictures.remove(0).picture;
    Ok((tensor_to_vec(noise.clone() - latents)?, picture.into_raw()))
}

/// Euclidean length.
fn length(numbers: impl Iterator<Item = f32>) -> f64 {
    numbers.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

fn main() -> Result<(), Error> {
    let device = uno_core::device::open("cpu")?;
    device.seed(3407);
    let mut source = embedded()?;
    source.lora = None;
    let mut tensors = Tensors::new();
    for (name, shape) in shapes(&source) {
        let (mean, std) = match shape[..] {
            [_, inputs] => (0.0, 1.0 / (inputs as f64).sqrt()),
            _ if name.ends_with("scale") => (1.0, 0.05),
            _ => (0.0, 0.02),
        };
        let count: usize = shape.iter().product();
        let values = Tensor::<1>::random([count], Distribution::Normal(mean, std), &device);
        tensors.insert(name, (shape, tensor_to_vec(values)?));
    }
    source.dit = stored(&tensors, StorageDtype::F32, false)?.0;
    let noise = Tensor::random([1, 16, 32, 32], Distribution::Normal(0.0, 1.0), &device);
    let (wanted, wanted_picture) = results(&source, &noise)?;
    println!(
        "| storage | bits per number | output of the transformer, relative error | picture, mean difference of 255 | PSNR, dB |"
    );
    println!("|---|---|---|---|---|");
    for (label, storage, scaled) in [
        ("f32", "f32", false),
        ("bf16", "bf16", false),
        ("f16", "f16", false),
        ("e4m3, no scale", "fp8", false),
        ("e4m3, a scale per matrix", "fp8", true),
        ("Q8_0", "q8_0", false),
        ("Q6_K", "q6_k", false),
        ("Q5_K", "q5_k", false),
        ("Q5_1", "q5_1", false),
        ("Q5_0", "q5_0", false),
        ("Q4_K", "q4_k", false),
        ("Q4_1", "q4_1", false),
        ("Q4_0", "q4_0", false),
        ("Q3_K", "q3_k", false),
        ("Q2_K", "q2_k", false),
    ] {
        let (checkpoint, bits) = stored(&tensors, storage.parse()?, scaled)?;
        source.dit = checkpoint;
        let (output, picture) = results(&source, &noise)?;
        let levels = picture.iter().zip(&wanted_picture).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let count = picture.len() as f64;
        let mean = levels.clone().sum::<f64>() / count;
        let mse = levels.map(|d| d * d).sum::<f64>() / count;
        let psnr =
            if mse > 0.0 { format!("{:.1}", 10.0 * (255.0 * 255.0 / mse).log10()) } else { "same".into() };
        let error = length(output.iter().zip(&wanted).map(|(a, b)| a - b)) / length(wanted.iter().copied());
        println!("| {label} | {bits:.2} | {error:.1e} | {mean:.2} | {psnr} |");
    }
    Ok(())
}
