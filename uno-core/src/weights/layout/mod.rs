//! Checkpoint layouts other than ours: which tensors of a file make up each of our tensors.
//!
//! Everything here works on names and shapes alone. A table of name patterns per model says where a foreign tensor
//! goes; [`Arrangement`] is the answer for one file, and reading the data that way is the caller's work.
//!
//! Nothing is lost on the way: a tensor that no table knows keeps its name, and so does one that cannot be used (a part
//! of a joined matrix whose other parts are missing, say). The strict loader then reports it as unknown. The one exception
//! is a file that holds several models: their tensors are left out of each other's arrangements.

mod autoencoder;
mod flux;
mod pattern;
mod text;
#[cfg(feature = "vision")]
mod vision;

use std::collections::BTreeMap;

pub use autoencoder::autoencoder;
pub(crate) use flux::LINEARS;
pub use flux::flux;
pub(crate) use pattern::{fill, matches};
pub use text::{clip, t5};
#[cfg(feature = "vision")]
pub(crate) use vision::clip_of_openai;
#[cfg(feature = "vision")]
pub use vision::{clip_vision, dino};

/// How one of our tensors is made from tensors of the file, named here as the file names them.
///
/// The shapes in the file allow it: parts to join are of equal rank and equal but for dimension 0, halves exist, and a
/// matrix for [`Recipe::AsKernel`] is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// The tensor as it is.
    Take(String),
    /// The tensors one after another along dimension 0.
    JoinRows(Vec<String>),
    /// The second half of dimension 0, then the first.
    SwapHalves(String),
    /// A matrix `[A, B]` as a kernel `[A, B, 1, 1]`.
    AsKernel(String),
}

impl Recipe {
    /// Names in the file of all tensors that the recipe uses, in order.
    pub fn sources(&self) -> &[String] {
        match self {
            Self::Take(name) | Self::SwapHalves(name) | Self::AsKernel(name) => std::slice::from_ref(name),
            Self::JoinRows(names) => names,
        }
    }
}

/// How a file in another layout is read as one of our models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// The layout, in words for people.
    pub layout: &'static str,
    /// Our name of each tensor, and what it is made from. Tensors that mean nothing to us are here too, under the names
    /// they have in the file, less the part's prefix.
    pub recipes: BTreeMap<String, Recipe>,
}

/// What becomes of a foreign tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is ours as it is.
    Whole,
    /// It is this part, counted from 0, of so many that make up ours along dimension 0.
    Part(usize, usize),
    /// It is ours with the halves of dimension 0 exchanged.
    Swapped,
    /// It is ours, but it may lack the two kernel dimensions.
    Kernel,
}

/// What a model's layouts have in common.
struct Model {
    /// Prefixes that its tensors may have in a file with several models, or from the object that they were saved from.
    prefixes: &'static [&'static str],
    /// Beginnings of names, after the prefix, by which the model is recognized, in any layout.
    markers: &'static [&'static str],
    /// The layout in which names must be translated, in words for people.
    foreign: &'static str,
}

/// Beginnings of the names of whole models in files that hold several.
const MODELS: [&str; 6] = [
    "model.diffusion_model.",
    "text_encoders.",
    "vae.",
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
];

/// Whether a file with these tensors holds several models.
pub(super) fn holds_several<'a>(mut names: impl Iterator<Item = &'a String>) -> bool {
    let model = |name: &String| MODELS.iter().position(|prefix| name.starts_with(prefix));
    let first = names.find_map(model);
    first.is_some_and(|first| names.filter_map(model).any(|other| other != first))
}

/// A tensor of the file that is, or may be, one of the wanted model.
#[derive(Clone, Copy)]
struct Tensor<'a> {
    /// Name in the file.
    full: &'a str,
    /// Name less the prefix.
    name: &'a str,
    shape: &'a [usize],
    /// Whether it had the prefix.
    inside: bool,
}

/// Arranges those of `names` that belong to `model`; `place` translates a name (without prefix), or says `None` to a
/// name that is ours, or unknown.
///
/// `None` if the file has no such model, or if all its tensors have our names already.
fn arrange(
    model: &Model,
    names: &[(String, Vec<usize>)],
    place: impl Fn(&str) -> Option<(String, Use)>,
) -> Option<Arrangement> {
    let prefix = prefix_of(model, names)?;
    let tensors: Vec<_> = names.iter().filter_map(|(name, shape)| pick(model, prefix, name, shape)).collect();
    let mut recipes = Recipes::default();
    // Names that are not translated come first: where two tensors claim a name, the one that has it keeps it.
    let (mut inside, mut outside, mut placed) = (Vec::new(), Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for tensor in &tensors {
        match place(tensor.name) {
            Some((ours, how)) if tensor.inside => placed.entry(ours).or_default().push((how, tensor)),
            _ if tensor.inside => inside.push(tensor),
            _ => outside.push(tensor),
        }
    }
    let foreign = !placed.is_empty();
    inside.into_iter().for_each(|tensor| recipes.keep(tensor));
    for (ours, sources) in placed {
        match recipe(&sources) {
            Some(recipe) if !recipes.0.contains_key(&ours) => {
                recipes.0.insert(ours, recipe);
            }
            _ => outside.extend(sources.into_iter().map(|(_, tensor)| tensor)),
        }
    }
    outside.into_iter().for_each(|tensor| recipes.keep(tensor));
    let recipes = recipes.0;
    let is_ours = |(ours, recipe): (&String, &Recipe)| matches!(recipe, Recipe::Take(name) if name == ours);
    if recipes.len() == names.len() && recipes.iter().all(is_ours) {
        return None;
    }
    let layout = match (foreign, tensors.len() < names.len()) {
        (true, _) => model.foreign,
        (false, true) => "ComfyUI all-in-one",
        (false, false) => "original names below a prefix",
    };
    Some(Arrangement { layout, recipes })
}

/// The prefix below which most of the model's tensors are; the empty one stands for none.
fn prefix_of(model: &Model, names: &[(String, Vec<usize>)]) -> Option<&'static str> {
    let count = |prefix: &str| {
        let rests = names.iter().filter_map(|(name, _)| name.strip_prefix(prefix));
        rests.filter(|rest| model.markers.iter().any(|marker| rest.starts_with(marker))).count()
    };
    // The last one wins a draw: no prefix wins over any.
    let prefixes = model.prefixes.iter().copied().chain(std::iter::once(""));
    let best = prefixes.map(|prefix| (count(prefix), prefix)).max_by_key(|(count, _)| *count);
    best.filter(|(count, _)| *count > 0).map(|(_, prefix)| prefix)
}

/// The tensor if it is not another model's.
fn pick<'a>(model: &Model, prefix: &str, full: &'a str, shape: &'a [usize]) -> Option<Tensor<'a>> {
    let inside = |name| Some(Tensor { full, name, shape, inside: true });
    if let Some(name) = full.strip_prefix(prefix).filter(|_| !prefix.is_empty()) {
        return inside(name);
    }
    // ComfyUI wraps text encoders in an object with a parameter of its own beside the `transformer`.
    let wrapper = prefix.strip_suffix("transformer.").unwrap_or_default();
    if let Some(name) = full.strip_prefix(wrapper).filter(|_| !wrapper.is_empty()) {
        return inside(name);
    }
    let other = |prefixes: &[&str]| prefixes.iter().any(|prefix| full.starts_with(prefix));
    if other(&MODELS) && !other(model.prefixes) {
        return None;
    }
    Some(Tensor { full, name: full, shape, inside: prefix.is_empty() })
}

/// The recipe for a tensor made from `sources`, if they are complete and their shapes allow it.
fn recipe(sources: &[(Use, &Tensor<'_>)]) -> Option<Recipe> {
    let [(how, first), ..] = sources else { return None };
    let name = || first.full.to_owned();
    match how {
        Use::Part(_, count) => {
            let mut parts: Vec<_> = sources.to_vec();
            parts.sort_by_key(|(how, _)| if let Use::Part(i, _) = how { *i } else { usize::MAX });
            let complete = parts.iter().map(|(how, _)| *how).eq((0..*count).map(|i| Use::Part(i, *count)));
            let (_, rest) = first.shape.split_first()?;
            let fit = parts.iter().all(|(_, part)| part.shape.split_first().is_some_and(|(_, r)| r == rest));
            let rows = parts.iter().try_fold(0usize, |sum, (_, part)| sum.checked_add(*part.shape.first()?));
            (complete && fit && rows.is_some())
                .then(|| Recipe::JoinRows(parts.iter().map(|(_, part)| part.full.to_owned()).collect()))
        }
        // Two tensors for one place: neither is the right one.
        _ if sources.len() > 1 => None,
        Use::Swapped => first.shape.first().filter(|rows| *rows % 2 == 0).map(|_| Recipe::SwapHalves(name())),
        Use::Kernel if first.shape.len() == 2 => Some(Recipe::AsKernel(name())),
        Use::Whole | Use::Kernel => Some(Recipe::Take(name())),
    }
}

/// Recipes under construction.
#[derive(Default)]
struct Recipes(BTreeMap<String, Recipe>);

impl Recipes {
    /// Takes the tensor under its own name, less the prefix if that is free.
    fn keep(&mut self, tensor: &Tensor<'_>) {
        let mut name = tensor.name.to_owned();
        if self.0.contains_key(&name) {
            name = tensor.full.to_owned();
        }
        // Where even that is taken, any other name will do: it is only for the report of unknown tensors.
        while self.0.contains_key(&name) {
            name.push_str(" (once more)");
        }
        self.0.insert(name, Recipe::Take(tensor.full.to_owned()));
    }
}

/// Splits `a.b.weight` into `a.b` and `weight`, if it ends in `weight` or `bias`.
fn stem(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, end)| ["weight", "bias"].contains(end))
}

#[cfg(test)]
mod tests;
