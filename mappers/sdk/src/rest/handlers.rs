//! The paths of the REST API.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value as JsonValue, json};

use crate::definition::Definition;
use crate::engine::{Plant, read_now, write_now};
use crate::error::CommandError;
use crate::metrics::Metrics;
use crate::{DeviceKey, Fault, Quality, Value};

/// Longest body: a value, with room for base64.
pub(super) const MAX_BODY_BYTES: usize = 128 * 1024;
/// How long a request may take from its headers to its answer; KubeEdge's.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a device may take, so that there is still time to answer.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(8);
/// Echoed, so that callers find their requests.
const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");
/// What a message about a write says, as KubeEdge's mappers do.
const WRITTEN: &str = "Write data to device successfully.";

/// Whether and how writing is possible.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writes {
    /// At all: those who can reach us are known.
    pub(super) allowed: bool,
    /// By KubeEdge's GET path.
    pub(super) by_get: bool,
}

#[derive(Clone)]
struct Shared {
    plant: Arc<dyn Plant>,
    metrics: Metrics,
    writes: Writes,
}

type Answer = Result<Json<JsonValue>, Refusal>;

pub(super) fn router(plant: Arc<dyn Plant>, metrics: Metrics, writes: Writes) -> Router {
    let shared = Shared { plant, metrics, writes };
    Router::new()
        .route("/api/v1/ping", get(ping))
        .route("/api/v1/device/{namespace}/{name}/{property}", get(read).put(write))
        .route("/api/v1/devicemethod/{namespace}/{name}", get(methods))
        .route("/api/v1/devicemethod/{namespace}/{name}/{method}/{property}/{data}", get(write_by_get))
        .route("/api/v1/meta/model/{namespace}/{name}", get(model))
        .route("/api/v1/database/{namespace}/{name}", get(database))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(shared.clone(), around))
        .with_state(shared)
}

/// Around each request: counted, within its time, and with its correlation echoed.
async fn around(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    shared.metrics.rest_requests.inc();
    let correlation = request.headers().get(&CORRELATION).cloned();
    let mut response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    };
    if let Some(correlation) = correlation {
        response.headers_mut().insert(CORRELATION, correlation);
    }
    response
}

async fn ping() -> Json<JsonValue> {
    answer(json!({ "Message": "This is v1 API, the server is running normally." }))
}

async fn read(
    State(shared): State<Shared>,
    Path((namespace, name, property)): Path<(String, String, String)>,
) -> Answer {
    let key = DeviceKey::new(&namespace, &name);
    let wanted = [property];
    let (definition, samples) = read_now(shared.plant.as_ref(), &key, &wanted, DEVICE_TIMEOUT).await?;
    let [property] = wanted;
    let (index, sample) = samples.into_iter().next().ok_or(CommandError::UnknownProperty(property))?;
    let property = definition.properties.get(index).ok_or_else(|| CommandError::UnknownProperty(index.to_string()))?;
    if sample.quality == Quality::Bad {
        return Err(CommandError::Failed(Fault::Refused(sample.problem)).into());
    }
    let value = sample.value.map(|value| value.cast(property.data_type)).transpose().map_err(CommandError::from)?;
    let read_at = sample.source_time.unwrap_or_else(SystemTime::now).duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(answer(json!({ "Data": {
        "DeviceName": name,
        "PropertyName": property.name,
        "Namespace": namespace,
        "Value": value.as_ref().map(Value::to_text).unwrap_or_default(),
        "Type": property.data_type.name(),
        "TimeStamp": i64::try_from(read_at.as_millis()).unwrap_or(i64::MAX),
    }})))
}

async fn write(
    State(shared): State<Shared>,
    Path((namespace, name, property)): Path<(String, String, String)>,
    Json(value): Json<JsonValue>,
) -> Answer {
    let text = match value {
        JsonValue::String(text) => text,
        JsonValue::Number(number) => number.to_string(),
        JsonValue::Bool(bool) => bool.to_string(),
        JsonValue::Null | JsonValue::Array(_) | JsonValue::Object(_) => {
            return Err(Refusal(StatusCode::BAD_REQUEST, "the body must be a JSON string, number or boolean".into()));
        }
    };
    write_text(&shared, &namespace, &name, &property, &text).await
}

async fn write_by_get(
    State(shared): State<Shared>,
    Path((namespace, name, method, property, data)): Path<(String, String, String, String, String)>,
) -> Answer {
    if !shared.writes.by_get {
        let words = format!("GET does not write: PUT /api/v1/device/{namespace}/{name}/{property}");
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, words));
    }
    let definition = known(&shared, &namespace, &name)?;
    let of_method = definition.methods.iter().find(|known| known.name == method);
    if !of_method.is_some_and(|method| method.properties.contains(&property)) {
        let words = format!("the device has no method {method:?} with the property {property:?}");
        return Err(Refusal(StatusCode::NOT_FOUND, words));
    }
    write_text(&shared, &namespace, &name, &property, &data).await
}

async fn write_text(shared: &Shared, namespace: &str, name: &str, property: &str, text: &str) -> Answer {
    if !shared.writes.allowed {
        let words = "writing needs a client certificate: rest.ca_file, or rest.anonymous_writes";
        return Err(Refusal(StatusCode::FORBIDDEN, words.to_owned()));
    }
    let key = DeviceKey::new(namespace, name);
    write_now(shared.plant.as_ref(), &key, property, text, DEVICE_TIMEOUT).await?;
    Ok(answer(json!({ "Message": WRITTEN })))
}

async fn methods(State(shared): State<Shared>, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let definition = known(&shared, &namespace, &name)?;
    let methods = definition.methods.iter().map(|method| {
        let parameters = method.properties.iter().filter_map(|property| {
            let property = definition.properties.get(definition.position(property)?)?;
            Some(json!({ "PropertyName": property.name, "ValueType": property.data_type.name() }))
        });
        let path = format!("/api/v1/devicemethod/{namespace}/{name}/{}/{{propertyName}}/{{data}}", method.name);
        json!({ "Name": method.name, "Path": path, "Parameters": parameters.collect::<Vec<_>>() })
    });
    Ok(answer(json!({ "Data": { "Methods": methods.collect::<Vec<_>>() } })))
}

async fn model(State(shared): State<Shared>, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let definition = known(&shared, &namespace, &name)?;
    let properties = definition.properties.iter().map(|property| {
        json!({
            "name": property.name,
            "dataType": property.data_type.name(),
            "description": property.description,
            "accessMode": if property.writable { "ReadWrite" } else { "ReadOnly" },
            "minimum": property.minimum,
            "maximum": property.maximum,
            "unit": property.unit,
        })
    });
    let properties: Vec<_> = properties.collect();
    // Mappers before 1.15 had the model's fields beside the others.
    let model = json!({ "name": definition.model, "properties": properties });
    Ok(answer(json!({ "Data": model, "name": definition.model, "properties": properties })))
}

async fn database(State(shared): State<Shared>, Path((namespace, name)): Path<(String, String)>) -> Answer {
    known(&shared, &namespace, &name)?;
    let words = "The database is not enabled. Please configure mapper and try again";
    Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, words.to_owned()))
}

fn known(shared: &Shared, namespace: &str, name: &str) -> Result<Arc<Definition>, Refusal> {
    let key = DeviceKey::new(namespace, name);
    let definition = shared.plant.definition(&key);
    definition.ok_or_else(|| CommandError::UnknownDevice(key).into())
}

/// The fields that all answers have, and more.
fn answer(more: JsonValue) -> Json<JsonValue> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut body = json!({ "apiVersion": "v1", "statusCode": 200, "timeStamp": now });
    if let (JsonValue::Object(body), JsonValue::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    Json(body)
}

/// An error as text.
struct Refusal(StatusCode, String);

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        let status = match &error {
            CommandError::UnknownDevice(_) | CommandError::UnknownProperty(_) => StatusCode::NOT_FOUND,
            CommandError::Value(crate::ValueError::ReadOnly) => StatusCode::METHOD_NOT_ALLOWED,
            CommandError::Value(_) => StatusCode::BAD_REQUEST,
            CommandError::Busy => StatusCode::TOO_MANY_REQUESTS,
            CommandError::Offline(_) => StatusCode::SERVICE_UNAVAILABLE,
            // What KubeEdge's mappers answer to everything.
            CommandError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            CommandError::Late => StatusCode::GATEWAY_TIMEOUT,
        };
        Self(status, error.to_string())
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // Names that somebody asked for and words of devices are in it: it stays one line.
        let line = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        (self.0, self.1.chars().map(line).collect::<String>()).into_response()
    }
}
