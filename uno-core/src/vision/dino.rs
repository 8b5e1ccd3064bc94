//! DINO and DINOv2: image encoders trained without labels.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::vit::{Vit, VitConfig};
use super::{ImageEncoder, Preprocessing};
use crate::error::Result;
use crate::text::ClipActivation;
use crate::weights::{Checkpoint, LoadOptions, layout, load};

/// A DINO or DINOv2 encoder; the vector of a picture is the normed class token, as DreamBooth's DINO score takes it.
#[derive(Module, Debug)]
pub struct Dino {
    vit: Vit,
    #[module(skip)]
    preprocessing: Preprocessing,
}

impl Dino {
    /// Loads an encoder in the layout of timm or of transformers. `config_json` are the bytes of its `config.json`; without,
    /// heads are 64 wide.
    ///
    /// # Errors
    ///
    /// Dimensions that do not fit together, and tensors that are missing, left over or of another shape.
    pub fn load(checkpoint: &Checkpoint, config_json: Option<&[u8]>, options: &LoadOptions) -> Result<Self> {
        let checkpoint = &*checkpoint.arranged(layout::dino);
        let config = VitConfig::detect(checkpoint, "", config_json, (ClipActivation::Gelu, 1e-6))?;
        // DINOv2's token for hidden patches, and heads for training or classes.
        let ignore = |key: &str| {
            key == "mask_token"
                || key == "embeddings.mask_token"
                || ["pooler.", "head."].iter().any(|prefix| key.starts_with(prefix))
        };
        let vit = load(checkpoint, "a DINO image encoder", options, ignore, |w| Ok(Vit::load(w, &config)))?;
        // Smaller encoders, for tests, see smaller pictures.
        let trained = config.grid * config.patch_size;
        let crop = Preprocessing::IMAGENET.crop.min(trained);
        Ok(Self { vit, preprocessing: Preprocessing::IMAGENET.with_crop(crop) })
    }

    /// Dimensions.
    pub fn config(&self) -> &VitConfig {
        self.vit.config()
    }
}

impl ImageEncoder for Dino {
    fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Sides may be any multiples of the patch: positions are interpolated.
    fn encode(&self, pictures: Tensor<4>) -> Result<Tensor<2>> {
        self.vit.forward(pictures)
    }

    fn device(&self) -> Device {
        self.vit.device()
    }
}
