//! How the model is fitted into memory, as it is told to who asks.

use anyhow::Result;
use serde::Serialize;
use uno_models::memory::Geometry;
use utoipa::ToSchema;

use crate::model::Model;

/// A size whose plan is asked for.
#[derive(Debug)]
pub struct PlanQuery {
    pub width: usize,
    pub height: usize,
    pub references: usize,
    pub memory: String,
}

/// How the model is fitted into memory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanAnswer {
    /// What was asked for.
    pub memory: String,
    /// The bound in bytes; null if there is none.
    #[schema(required = true)]
    pub budget_bytes: Option<u64>,
    /// Bytes that are expected at the most; null if it does not fit.
    #[schema(required = true)]
    pub peak_bytes: Option<u64>,
    /// Whether it fits.
    pub fits: bool,
    /// The whole plan, or why there is none, for people.
    pub text: String,
}

/// How the model is fitted into memory for a size, with square references, which are the largest.
///
/// # Errors
///
/// A memory that is no choice. (That it does not fit is an answer.)
pub fn plan(model: &Model, query: PlanQuery) -> Result<PlanAnswer> {
    let selection = model.usual_selection(&query.memory)?;
    let side = model.long_side(query.references) as usize;
    let references = vec![(side, side); query.references];
    let geometry = Geometry::new(query.width, query.height).with_references(references);
    let (memory, budget_bytes) = (query.memory, selection.limit());
    match model.plan(&selection, &geometry) {
        Ok(plan) => Ok(PlanAnswer {
            memory,
            budget_bytes,
            peak_bytes: Some(plan.peak()),
            fits: budget_bytes.is_none_or(|limit| plan.peak() <= limit),
            text: plan.to_string(),
        }),
        Err(uno_models::Error::Request { field, got, wanted }) => {
            let text = format!("{field}: got {got}, wanted {wanted}");
            Ok(PlanAnswer { memory, budget_bytes, peak_bytes: None, fits: false, text })
        }
        Err(error) => Err(error.into()),
    }
}
