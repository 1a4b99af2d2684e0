//! A model behind the Open Inference Protocol, version 2, over REST: its metadata, and its answers to rows of numbers.
//!
//! Tensors travel as JSON, which every server of the protocol speaks. One connection, one call at a time; it is
//! opened anew after a failure. What the numbers of an answer mean is the caller's to know.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use ndarray::{Array2, ArrayD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ClientError;
use super::endpoint::Endpoint;
use super::http::{Call, Connection};

/// A tensor that a model takes or gives, as its metadata says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its element type, such as `FP32`.
    pub datatype: String,
    /// Its sizes, −1 for any; the first is the rows.
    #[serde(deserialize_with = "sizes")]
    pub shape: Vec<i64>,
}

/// Some servers write sizes as text.
fn sizes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<i64>, D::Error> {
    let values = Vec::<Value>::deserialize(from)?;
    let size = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    values.iter().map(size).collect::<Option<_>>().ok_or_else(|| serde::de::Error::custom("a size is no number"))
}

/// What a model says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ModelMetadata {
    /// Its name.
    pub name: String,
    /// What it runs on.
    #[serde(default, deserialize_with = "or_nothing")]
    pub platform: String,
    /// What it takes; nothing where the server does not know, as KServe's where a model's class does not tell.
    #[serde(default, deserialize_with = "or_nothing")]
    pub inputs: Vec<TensorMetadata>,
    /// What it gives; nothing likewise.
    #[serde(default, deserialize_with = "or_nothing")]
    pub outputs: Vec<TensorMetadata>,
}

/// Some servers write null for what they do not know.
fn or_nothing<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The numbers of one output: a row for each row that was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Shape (n_rows, n_values).
    pub values: Array2<f64>,
}

#[derive(Deserialize)]
struct InferReply {
    outputs: Vec<OutputReply>,
}

#[derive(Deserialize)]
struct OutputReply {
    name: String,
    #[serde(default)]
    data: Option<Value>,
}

/// One model of one endpoint.
#[derive(Debug)]
pub struct RemoteModel {
    endpoint: Endpoint,
    path: String,
    timeout: Duration,
    connection: Option<Connection>,
}

impl RemoteModel {
    /// A model by name; where the URL's path leads to one (`…/v2/models/NAME`), the name may be left out.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] where no model is named, or the name is none.
    pub fn new(endpoint: Endpoint, name: Option<&str>, timeout: Duration) -> Result<Self, ClientError> {
        let bad = |reason: &str| ClientError::BadUrl { url: endpoint.path().to_owned(), reason: reason.to_owned() };
        let path = match name {
            Some(name) if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c)) => {
                format!("{}/v2/models/{name}", endpoint.path())
            }
            Some(_) => return Err(bad("a model's name has letters, digits, - _ . and ~ alone")),
            None if endpoint.path().contains("/v2/models/") => endpoint.path().to_owned(),
            None => return Err(bad("it names no model: end it in /v2/models/NAME, or give the name apart")),
        };
        Ok(Self { endpoint, path, timeout, connection: None })
    }

    /// The path of the model.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the model says of itself, with the bytes in which it says so.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Metadata`] where the answer is none of the protocol's.
    pub async fn metadata(&mut self) -> Result<(ModelMetadata, Bytes), ClientError> {
        let call = Call::get(&self.path)?;
        let path = self.path.clone();
        let body = self.send(&call, &path).await?;
        let metadata = serde_json::from_slice(&body)
            .map_err(|error| ClientError::Metadata(format!("expected a model's inputs and outputs: {error}")))?;
        Ok((metadata, body))
    }

    /// Answers rows of shape `(n_rows, row shape…)` as the input `input`, by the output `output`.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Metadata`] where the answer is not as many rows of numbers.
    pub async fn infer(
        &mut self,
        input: &TensorMetadata,
        output: &str,
        rows: &ArrayD<f32>,
    ) -> Result<Numbers, ClientError> {
        let n_rows = rows.shape().first().copied().unwrap_or(0);
        let is_whole = input.datatype.starts_with("INT") || input.datatype.starts_with("UINT");
        let number = |&value: &f32| if is_whole { json!(value as i64) } else { shortest(value) };
        let request = json!({
            // Nothing needs it but KServe's server, which fails without.
            "id": "1",
            "inputs": [{
                "name": input.name,
                "datatype": input.datatype,
                "shape": rows.shape(),
                "data": rows.iter().map(number).collect::<Vec<Value>>(),
            }],
            "outputs": [{ "name": output }],
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = format!("{}/infer", self.path);
        let call = Call::post(&path, headers, Bytes::from(request.to_string()))?;
        let body = self.send(&call, &path).await?;
        numbers(&body, output, n_rows)
    }

    async fn send(&mut self, call: &Call, path: &str) -> Result<Bytes, ClientError> {
        let timeout = self.timeout;
        let exchange = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(&self.endpoint).await?,
            };
            let reply = connection.send(call).await?;
            // Only a connection that answered is used again.
            self.connection = Some(connection);
            Ok(reply.expect_ok(path)?.body)
        };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| ClientError::Timeout(timeout))?
    }
}

/// The shortest text that reads back as this f32.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
}

fn numbers(body: &[u8], output: &str, n_rows: usize) -> Result<Numbers, ClientError> {
    let wrong = |what: String| ClientError::Metadata(format!("output {output:?}: {what}"));
    let reply: InferReply =
        serde_json::from_slice(body).map_err(|_| wrong("the answer is not the protocol's".into()))?;
    let found = reply.outputs.into_iter().find(|found| found.name == output);
    let data = found.and_then(|found| found.data).ok_or_else(|| wrong("it is not in the answer".into()))?;
    let mut flat = Vec::new();
    if !flatten(&data, &mut flat) {
        return Err(wrong("expected numbers, got other values".into()));
    }
    if n_rows == 0 || flat.is_empty() || !flat.len().is_multiple_of(n_rows) {
        return Err(wrong(format!("expected numbers for {n_rows} rows, got {}", flat.len())));
    }
    let shape = (n_rows, flat.len() / n_rows);
    let values = Array2::from_shape_vec(shape, flat).map_err(|_| wrong("its sizes do not fit".into()))?;
    Ok(Numbers { values })
}

/// Numbers, nested or flat, in order; whether there is nothing else.
fn flatten(data: &Value, into: &mut Vec<f64>) -> bool {
    match data {
        Value::Array(items) => items.iter().all(|item| flatten(item, into)),
        Value::Bool(value) => {
            into.push(f64::from(u8::from(*value)));
            true
        }
        other => other.as_f64().map(|number| into.push(number)).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::Reach;

    #[test]
    fn answers_may_be_flat_or_nested() {
        let read = |data: &str, n_rows| {
            numbers(format!(r#"{{"outputs":[{{"name":"a","data":{data}}}]}}"#).as_bytes(), "a", n_rows)
        };
        let flat = read("[1, 2.5, 3, 4]", 2).unwrap();
        assert_eq!(flat, read("[[1, 2.5], [3, 4]]", 2).unwrap());
        assert_eq!(flat.values, ndarray::array![[1.0, 2.5], [3.0, 4.0]]);
        for bad in ["[1, 2, 3]", "[]", "[\"x\", 1]", "null", "{}"] {
            assert!(matches!(read(bad, 2), Err(ClientError::Metadata(_))), "{bad}");
        }
        assert!(numbers(br#"{"outputs":[]}"#, "a", 1).unwrap_err().to_string().contains("not in the answer"));
    }

    #[test]
    fn a_model_is_named_by_the_path_or_apart() {
        let model = |url: &str, name: Option<&str>| {
            let endpoint = Endpoint::parse(url, Reach::Loopback).unwrap();
            RemoteModel::new(endpoint, name, Duration::from_secs(1)).map(|model| model.path().to_owned())
        };
        assert_eq!(model("http://127.0.0.1:1/", Some("m")).unwrap(), "/v2/models/m");
        assert_eq!(model("http://127.0.0.1:1/v2/models/m/versions/2", None).unwrap(), "/v2/models/m/versions/2");
        assert!(model("http://127.0.0.1:1/", None).is_err());
        assert!(model("http://127.0.0.1:1/", Some("../x")).is_err());
    }

    #[test]
    fn sizes_may_be_text() {
        let read: TensorMetadata = serde_json::from_str(r#"{"name":"a","datatype":"FP32","shape":["-1", 3]}"#).unwrap();
        assert_eq!(read.shape, [-1, 3]);
        assert!(serde_json::from_str::<TensorMetadata>(r#"{"name":"a","datatype":"FP32","shape":["x"]}"#).is_err());
    }
}
