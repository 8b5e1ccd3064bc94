//! What the autoencoder takes at its real widths, on random weights: `cargo test --release --test vae_memory -- --ignored --nocapture`.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use uno_core::traits::LatentCodec;
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions};

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap() * 1024
}

/// The most bytes that were held while `work` ran.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    // "5" sets the peak back to what is held now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    drop(work());
    status("VmHWM:")
}

/// Names and shapes of FLUX's autoencoder.
fn main_shapes() -> Vec<(String, Vec<usize>)> {
    const CHANNELS: [usize; 4] = [128, 256, 512, 512];
    let mut shapes = Vec::new();
    let mut conv = |name: String, output: usize, input: usize, k: usize| {
        shapes.push((format!("{name}.weight"), vec![output, input, k, k]));
        shapes.push((format!("{name}.bias"), vec![output]));
    };
    let mut norms = Vec::new();
    let mut norm = |name: String, channels: usize| norms.push((name, channels));
    let mut block = |conv: &mut dyn FnMut(String, usize, usize, usize), name: String, input, output| {
        norm(format!("{name}.norm1"), input);
        norm(format!("{name}.norm2"), output);
        conv(format!("{name}.conv1"), output, input, 3);
        conv(format!("{name}.conv2"), output, output, 3);
        if input != output {
            conv(format!("{name}.nin_shortcut"), output, input, 1);
        }
    };
    let mut input = 128;
    for (level, output) in CHANNELS.into_iter().enumerate() {
        for i in 0..2 {
            block(&mut conv, format!("encoder.down.{level}.block.{i}"), input, output);
            input = output;
        }
        if level < 3 {
            conv(format!("encoder.down.{level}.downsample.conv"), output, output, 3);
        }
    }
    for (level, output) in CHANNELS.into_iter().enumerate().rev() {
        for i in 0..3 {
            block(&mut conv, format!("decoder.up.{level}.block.{i}"), input, output);
            input = output;
        }
        if level > 0 {
            conv(format!("decoder.up.{level}.upsample.conv"), output, output, 3);
        }
    }
    for half in ["encoder", "decoder"] {
        block(&mut conv, format!("{half}.mid.block_1"), 512, 512);
        block(&mut conv, format!("{half}.mid.block_2"), 512, 512);
        for part in ["q", "k", "v", "proj_out"] {
            conv(format!("{half}.mid.attn_1.{part}"), 512, 512, 1);
        }
    }
    conv("encoder.conv_in".into(), 128, 3, 3);
    conv("encoder.conv_out".into(), 32, 512, 3);
    conv("decoder.conv_in".into(), 512, 16, 3);
    conv("decoder.conv_out".into(), 3, 128, 3);
    for (name, channels) in [
        ("encoder.mid.attn_1.norm", 512),
        ("decoder.mid.attn_1.norm", 512),
        ("encoder.norm_out", 512),
        ("decoder.norm_out", 128),
    ] {
        norms.push((name.into(), channels));
    }
    for (name, channels) in norms {
        shapes.push((format!("{name}.weight"), vec![channels]));
        shapes.push((format!("{name}.bias"), vec![channels]));
    }
    shapes
}

/// The FLUX autoencoder with random weights that keep numbers near 1. The file is written bit by bit, so that nothing but
/// the weights is in memory afterwards.
fn real_widths(device: &Device) -> AutoEncoder {
    let shapes = main_shapes();
    let (mut header, mut end) = (String::new(), 0);
    for (name, shape) in &shapes {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header += &format!(r#","{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#);
    }
    header.replace_range(..1, "{");
    header += "}";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ae.safetensors");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    for (name, shape) in shapes {
        let fan_in: usize = shape.get(1..).unwrap_or_default().iter().product();
        for _ in 0..shape.iter().product() {
            let number = match shape.len() {
                1 if name.contains("norm") && name.ends_with("weight") => 1.0 + 0.1 * random(),
                1 => 0.1 * random(),
                _ => random() * (3.0 / fan_in as f32).sqrt(),
            };
            file.write_all(&number.to_le_bytes()).unwrap();
        }
    }
    drop(file);
    AutoEncoder::load(&Checkpoint::open(&path).unwrap(), &LoadOptions::new(device)).unwrap()
}

#[test]
#[ignore = "minutes, and gigabytes at the larger sizes"]
fn the_peak_is_what_is_predicted() {
    let device = Device::flex();
    let ae = real_widths(&device);
    // Weights, threads and what they keep are there from now on.
    let random = |shape| Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device);
    ae.decode(random([1, 16, 4, 4])).unwrap();
    ae.encode(random([1, 3, 32, 32]), None).unwrap();
    let held = status("VmRSS:");
    println!("{} MiB resident, {} of them of files", held >> 20, status("RssFile:") >> 20);
    let sizes = std::env::var("UNO_VAE_SIZES").unwrap_or("256,512,768,1024".into());
    let mut wrong = Vec::new();
    for size in sizes.split(',').map(|size| size.parse::<usize>().unwrap()) {
        let config = ae.config();
        let mut compare = |what: &str, predicted: usize, work: &dyn Fn() -> Tensor<4>| {
            let start = Instant::now();
            let measured = peak(work).saturating_sub(held);
            let ratio = predicted as f64 / measured as f64;
            println!(
                "{what} {size}: {} MiB in {:.1?}, predicted {} MiB ({ratio:.2})",
                measured >> 20,
                start.elapsed(),
                predicted >> 20
            );
            if !(0.9..=1.1).contains(&ratio) {
                wrong.push(format!("{what} {size}: {ratio:.2}"));
            }
        };
        compare("decode", config.decode_peak_bytes(size, size), &|| {
            ae.decode(random([1, 16, size / 8, size / 8])).unwrap()
        });
        compare("encode", config.encode_peak_bytes(size, size), &|| {
            ae.encode(random([1, 3, size, size]), None).unwrap()
        });
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
