//! Answers: JSON, and what went wrong as JSON.

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::daemon::Refusal;
use crate::failure::Failure;
use crate::ledger::LedgerError;
use crate::report::ReportError;

/// What went wrong: `{"error": {"message": ..., "hints": [...]}}`.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
    hints: Vec<String>,
}

#[derive(Serialize)]
struct Body<'p> {
    error: Words<'p>,
}

#[derive(Serialize)]
struct Words<'p> {
    message: &'p str,
    hints: &'p [String],
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hints: Vec::new() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let words = Words { message: &self.message, hints: &self.hints };
        (self.status, json(&Body { error: words })).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NoJob => StatusCode::NOT_FOUND,
            Refusal::Running | Refusal::NotRunning | Refusal::NotPartial => StatusCode::CONFLICT,
            Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { status, message: failure.message, hints: failure.hints }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        Failure::from(error).into()
    }
}

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Self {
        let status = match error {
            ReportError::NoRun { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, ..Failure::from(error).into() }
    }
}

/// Answers with a value.
pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Reads the body of an order; an empty one is `{}`.
pub(super) fn order<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    let bytes: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not what is expected: {error}"))
    })
}
