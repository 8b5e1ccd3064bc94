//! The autoencoder against the official implementation.

mod common;

use common::*;
use uno_core::traits::LatentCodec;
use uno_core::vae::AutoEncoder;
use uno_core::weights::Checkpoint;

#[test]
fn moments_latents_and_pictures_agree() {
    for (file, set) in each("cases/ae.safetensors") {
        let cases = Cases::open(&file);
        for options in storages() {
            let checkpoint = Checkpoint::open(set.join("model/ae.safetensors")).unwrap();
            let ae = AutoEncoder::load(&checkpoint, &options).unwrap();
            let image = cases.tensor::<4>("image");
            for (what, got, wanted) in [
                ("moments", ae.moments(image.clone()).unwrap(), "moments"),
                ("latent (mean)", ae.encode(image, None).unwrap(), "latent_mode"),
                ("decoded picture", ae.decode(cases.tensor("z")).unwrap(), "decoded"),
            ] {
                let error = relative_error(&values(got), &cases.values(wanted));
                check(&set, &format!("autoencoder: {what}"), error, COMPONENT);
            }
        }
    }
}
