//! The part that writes reference pictures to try the model with: one subject of each kind, of looks that it was not trained on.

use std::path::PathBuf;

use anyhow::Result;
use image::ColorType;
use uno_models::tiny::world::{Draw, Kind, Look, ReferenceView, Subject};

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder for {kind}.png
    #[arg(long, default_value = "examples/assets")]
    folder: PathBuf,
    /// Pixels per side
    #[arg(long, default_value_t = 512)]
    side: usize,
}

impl Arguments {
    pub fn run(&self, seed: u64) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        for (i, &kind) in Kind::ALL.iter().enumerate() {
            // Of sixty streams the one in which subjects that stand together in the examples are easiest to tell apart.
            let mut draw = Draw::stream(seed, 420, i as u64);
            let subject = Subject { kind, look: Look::draw(&mut draw, true) };
            let picture = ReferenceView { subject, seed: draw.bits() }.render(self.side);
            let path = self.folder.join(format!("{}.png", kind.word()));
            let (width, height) = (picture.width as u32, picture.height as u32);
            image::save_buffer(&path, &picture.rgb, width, height, ColorType::Rgb8)?;
            println!("{}: {:?}", path.display(), subject.look);
        }
        Ok(())
    }
}
