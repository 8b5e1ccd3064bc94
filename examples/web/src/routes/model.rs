//! The model: what it is, what it takes, and how it is fitted into memory.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Query;
use crate::app::{Shared, blocking};
use crate::body::Json;
use crate::error::{ApiError, Result};
use crate::job::LoraScale;
use crate::model::ModelDefaults;
use crate::plan::{self, PlanAnswer, PlanQuery};
use crate::settings::Limits;

pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(model)).routes(routes!(plan))
}

/// What is served.
#[derive(Serialize, ToSchema)]
struct ModelAnswer {
    /// Its name: `uno-tiny`, `flux-dev`, `flux-dev-fp8` or `flux-schnell`.
    name: String,
    /// Where it computes.
    device: String,
    /// Number format of transformer and text encoders.
    dtype: String,
    /// The settings that it was made for.
    defaults: ModelDefaults,
    /// What is accepted.
    limits: Limits,
    /// Further LoRAs, with the factors that are used where a job names none.
    loras: Vec<LoraScale>,
    /// The memory that jobs may choose.
    memory: Vec<String>,
    /// What a user should know of it.
    #[schema(required = true)]
    notice: Option<String>,
}

/// The model, its defaults and limits.
#[utoipa::path(get, path = "/api/model", tag = "model", responses((status = 200, description = "The model", body = ModelAnswer)))]
async fn model(State(app): State<Shared>) -> Json<ModelAnswer> {
    let model = &app.model;
    Json(ModelAnswer {
        name: model.name().to_owned(),
        device: model.device().to_string(),
        dtype: model.dtype().to_owned(),
        defaults: model.defaults().clone(),
        limits: app.limits.clone(),
        loras: model.loras().to_vec(),
        memory: model.memory_choices(),
        notice: model.notice().map(str::to_owned),
    })
}

/// What is to be made; what is left out is the model's default.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Width in pixels, a multiple of 16.
    #[param(minimum = 16, multiple_of = 16)]
    width: Option<usize>,
    /// Height in pixels, a multiple of 16.
    #[param(minimum = 16, multiple_of = 16)]
    height: Option<usize>,
    /// How many references.
    #[param(minimum = 0)]
    references: Option<usize>,
    /// One of those that `GET /api/model` lists.
    memory: Option<String>,
}

/// How the model is fitted into memory.
#[utoipa::path(
    get, path = "/api/plan", tag = "model", params(Wanted),
    responses((status = 200, description = "The plan", body = PlanAnswer)),
)]
async fn plan(State(app): State<Shared>, Query(wanted): Query<Wanted>) -> Result<Json<PlanAnswer>> {
    let defaults = app.model.defaults();
    let query = PlanQuery {
        width: wanted.width.unwrap_or(defaults.width),
        height: wanted.height.unwrap_or(defaults.height),
        references: wanted.references.unwrap_or(0),
        memory: wanted.memory.unwrap_or_else(|| defaults.memory.clone()),
    };
    app.limits.check_size(query.width, query.height)?;
    if query.references > app.limits.references {
        return Err(ApiError::field(
            "references",
            query.references,
            format!("at most {}", app.limits.references),
        ));
    }
    if !app.model.memory_choices().contains(&query.memory) {
        let wanted = format!("one of {}", app.model.memory_choices().join(", "));
        let got: String = query.memory.chars().take(80).collect();
        return Err(ApiError::field("memory", format_args!("{got:?}"), wanted));
    }
    blocking(move || plan::plan(&app.model, query).map_err(ApiError::internal)).await.map(Json)
}
