//! Pictures that are not there yet: made by a model, if one is named.

use std::path::{Path, PathBuf};

use anyhow::Result;
use uno_core::device::Opened;
use uno_core::traits::Silent;
use uno_models::UnoPipeline;
use uno_models::checkpoint::{CheckpointOptions, discover, embedded};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::eval::Entry;
use uno_models::memory::{Budget, Geometry, Plan};
use uno_models::output::{FileRecord, ModelInfo, ReferenceRecord, Settings, save};
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;

/// How missing pictures are made. `generate --eval_json_path` has more to choose from.
#[derive(clap::Args, Debug)]
pub struct Missing {
    /// Makes missing pictures with the model in this folder
    #[arg(long, value_name = "DIR", help_heading = "Missing pictures")]
    model: Option<PathBuf>,
    /// Makes missing pictures with the small model inside the program
    #[arg(long, conflicts_with = "model", help_heading = "Missing pictures")]
    embedded: bool,
    /// Width and height in pixels [default: what the model was made for]
    #[arg(long, num_args = 2, value_names = ["WIDTH", "HEIGHT"], help_heading = "Missing pictures")]
    size: Option<Vec<usize>>,
    /// Steps of the sampler
    #[arg(long, default_value_t = 25, help_heading = "Missing pictures")]
    num_steps: usize,
    /// Seed of each prompt's first picture; those after have the next ones
    #[arg(long, default_value_t = 3407, help_heading = "Missing pictures")]
    seed: u64,
    /// Most memory to use: a size such as 6GiB, auto, or least
    #[arg(long, default_value_t = Budget::Auto, value_name = "SIZE", help_heading = "Missing pictures")]
    memory: Budget,
}

/// A model, ready.
pub struct Generator<'a> {
    arguments: &'a Missing,
    pipeline: UnoPipeline,
    info: ModelInfo,
}

impl Missing {
    /// Loads the model, if one is named.
    pub fn open(&self, device: &Opened) -> Result<Option<Generator<'_>>> {
        let source = match &self.model {
            Some(folder) => ModelSource::open(&discover(&CheckpointOptions::in_folder(folder), &())?)?,
            None if self.embedded => embedded()?,
            None => return Ok(None),
        };
        let side = source.defaults().side;
        let (width, height) = match self.size.as_deref() {
            Some(&[width, height]) => (width, height),
            _ => (side, side),
        };
        let mut options = PipelineOptions::suited_to(device);
        // Room for three references as large as they are taken at most.
        let reference = source.defaults().long_side(1) as usize;
        let geometry = Geometry::new(width, height).with_references(vec![(reference, reference); 3]);
        Plan::make(&source, &options, &geometry, self.memory)?.apply(&mut options);
        let pipeline = load(&source, &options, &Silent)?;
        let info = ModelInfo::new(&source, &options, device);
        Ok(Some(Generator { arguments: self, pipeline, info }))
    }
}

impl Generator<'_> {
    /// Makes picture `j` of a prompt, as `generate --eval_json_path` would.
    pub fn make(&self, entry: &Entry, per_prompt: usize, j: usize, path: &Path) -> uno_models::Result<()> {
        let open = |path: &PathBuf| Picture::open(path, &DecodeOptions::default());
        let mut request = self.pipeline.request(&entry.prompt).with_steps(self.arguments.num_steps);
        if let Some(&[width, height]) = self.arguments.size.as_deref() {
            request = request.with_size(width, height);
        }
        request.references = entry.image_paths.iter().map(open).collect::<Result<_, _>>()?;
        let mut request = request.with_seed(self.arguments.seed).with_images_per_prompt(per_prompt)?;
        request.samples = request.samples.drain(j..=j).collect();
        let generated = self.pipeline.generate(&request, &Silent)?.pictures.remove(0);
        let (width, height) = (generated.picture.width() as usize, generated.picture.height() as usize);
        let mut settings =
            Settings::new(&request, &request.samples[0], [width, height]).with_model(&self.info);
        for (path, picture) in entry.image_paths.iter().zip(&request.references) {
            let (width, height) = preprocess_ref(picture, request.long_side())?.dimensions();
            settings.references.push(ReferenceRecord { file: FileRecord::of(path)?, width, height });
        }
        settings.exif_orientation = DecodeOptions::default().apply_exif_orientation;
        save(path, &generated.picture, &settings)
    }
}
