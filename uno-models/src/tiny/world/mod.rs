//! A small world of pictures made by rules: subjects of eight kinds with two colours and a pattern, in six scenes, with captions
//! and with reference views; flat illustrations with soft shading. What a seed gives is always the same.

mod canvas;
pub mod caption;
mod draw;
mod figures;
mod picture;
mod scene;
mod shapes;
mod subject;

pub use draw::Draw;
pub use picture::{Composition, CutOut, ReferenceView, Relation, cut_out};
pub use scene::Scene;
pub use subject::{Hue, Kind, Look, Pattern, Subject};
