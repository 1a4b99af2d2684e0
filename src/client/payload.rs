//! The requests that a load is made of: random tensors of the shape that the endpoint's own metadata asks for.
//!
//! Values are uniform in `[0, 1)` for floating-point inputs and small integers for the others, drawn from a seeded
//! generator: two runs with one seed send the same bytes.

use std::str::FromStr;

use half::{bf16, f16};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use prost::Message as _;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ClientError;
use super::http::{Call, INFERENCE_HEADER_LENGTH, Reply};
use crate::protocol::grpc::SERVICE;
use crate::protocol::grpc::messages::model_infer_request::InferInputTensor;
use crate::protocol::grpc::messages::{ModelInferRequest, ModelMetadataRequest, ModelMetadataResponse};
use crate::tensor::DType;

/// Largest body that is made up.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// How tensors travel, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// gRPC, values as raw bytes.
    Grpc,
    /// Numbers as text.
    Json,
    /// The binary tensor extension: a JSON header, then little-endian values.
    Binary,
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "binary" => Ok(Self::Binary),
            "grpc" => Ok(Self::Grpc),
            other => Err(format!("expected json, binary or grpc, got {other:?}")),
        }
    }
}

/// What a model asks for, as its metadata says.
#[derive(Debug, Clone)]
pub struct ModelInputs {
    inputs: Vec<Input>,
}

#[derive(Debug, Clone)]
struct Input {
    name: String,
    dtype: DType,
    /// Without the batch dimension.
    row_shape: Vec<usize>,
}

#[derive(Deserialize)]
struct Metadata {
    inputs: Vec<MetadataInput>,
}

#[derive(Deserialize)]
struct MetadataInput {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

/// What to ask for what a model takes, in the encoding that it will be asked in.
///
/// # Errors
///
/// [`ClientError::BadUrl`] where `model` cannot stand in a path, which `path` begins.
pub fn metadata_call(path: &str, model: &str, encoding: Encoding) -> Result<Call, ClientError> {
    if encoding == Encoding::Grpc {
        let message = ModelMetadataRequest { name: model.to_owned(), version: String::new() };
        return Call::grpc(&format!("/{SERVICE}/ModelMetadata"), &message.encode_to_vec());
    }
    Call::get(&format!("{path}/v2/models/{model}"))
}

/// Where a model's inferences are asked for in an encoding, below `path`.
#[must_use]
pub fn infer_path(path: &str, model: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Grpc => format!("/{SERVICE}/ModelInfer"),
        Encoding::Json | Encoding::Binary => format!("{path}/v2/models/{model}/infer"),
    }
}

impl ModelInputs {
    /// Reads the answer to [`metadata_call`].
    ///
    /// # Errors
    ///
    /// As [`Self::from_metadata`].
    pub fn from_answer(reply: &Reply, encoding: Encoding) -> Result<Self, ClientError> {
        if encoding != Encoding::Grpc {
            return Self::from_metadata(reply);
        }
        let metadata = ModelMetadataResponse::decode(reply.body.clone())
            .map_err(|_| ClientError::Metadata("expected the message of the model's inputs".to_owned()))?;
        let input = |input: crate::protocol::grpc::messages::model_metadata_response::TensorMetadata| MetadataInput {
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
        };
        Self::of(metadata.inputs.into_iter().map(input).collect())
    }

    /// Reads the answer to `GET /v2/models/{model}`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Metadata`] when it is not such an answer, when a dimension other than the first is free, or
    /// when an element type cannot be made up (`BYTES`, half precision).
    pub fn from_metadata(reply: &Reply) -> Result<Self, ClientError> {
        let metadata: Metadata = serde_json::from_slice(&reply.body)
            .map_err(|error| ClientError::Metadata(format!("expected the model's inputs: {error}")))?;
        Self::of(metadata.inputs)
    }

    fn of(inputs: Vec<MetadataInput>) -> Result<Self, ClientError> {
        let inputs = inputs.into_iter().map(Input::new).collect::<Result<Vec<_>, _>>()?;
        if inputs.is_empty() {
            return Err(ClientError::Metadata("expected one input or more, got none".to_owned()));
        }
        Ok(Self { inputs })
    }

    /// Makes `n_calls` requests of `n_rows` rows each to `model`, for an endpoint whose paths begin with `path`.
    ///
    /// Under [`Encoding::Binary`] the outputs are asked for in binary too, under [`Encoding::Json`] they are not.
    ///
    /// # Errors
    ///
    /// [`ClientError::Metadata`] when a request would be longer than 64 MiB, or an input of half precision had to
    /// travel as JSON, which the protocol does not have.
    pub fn calls(
        &self,
        (path, model): (&str, &str),
        encoding: Encoding,
        n_rows: usize,
        n_calls: usize,
        seed: u64,
    ) -> Result<Vec<Call>, ClientError> {
        let n_bytes = self.inputs.iter().try_fold(0_usize, |sum, input| sum.checked_add(input.n_bytes(n_rows)?));
        if n_bytes.is_none_or(|n| n > MAX_BODY_BYTES / 4) {
            return Err(ClientError::Metadata(format!("{n_rows} rows make a request too long to send")));
        }
        let half = self.inputs.iter().find(|input| matches!(input.dtype, DType::F16 | DType::Bf16));
        if let (Encoding::Json, Some(input)) = (encoding, half) {
            let Input { name, dtype, .. } = input;
            return Err(ClientError::Metadata(format!("input {name:?} of type {dtype} travels as binary data alone")));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let path = infer_path(path, model, encoding);
        let call = |_| match encoding {
            Encoding::Grpc => Call::grpc(&path, &self.message(model, n_rows, &mut rng).encode_to_vec()),
            Encoding::Json | Encoding::Binary => self.call(&path, encoding, n_rows, &mut rng),
        };
        (0..n_calls).map(call).collect()
    }

    fn message(&self, model: &str, n_rows: usize, rng: &mut ChaCha8Rng) -> ModelInferRequest {
        let mut message = ModelInferRequest { model_name: model.to_owned(), ..ModelInferRequest::default() };
        for input in &self.inputs {
            let shape = input.shape(n_rows);
            let mut bytes = Vec::new();
            (0..shape.iter().product()).for_each(|_| input.value(rng).append_to(&mut bytes));
            message.raw_input_contents.push(Bytes::from(bytes));
            message.inputs.push(InferInputTensor {
                name: input.name.clone(),
                datatype: input.dtype.oip_name().to_owned(),
                shape: shape.iter().map(|&dim| dim as i64).collect(),
                ..InferInputTensor::default()
            });
        }
        message
    }

    fn call(&self, path: &str, encoding: Encoding, n_rows: usize, rng: &mut ChaCha8Rng) -> Result<Call, ClientError> {
        let mut tail = Vec::new();
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let shape = input.shape(n_rows);
            let mut tensor = json!({ "name": input.name, "shape": shape, "datatype": input.dtype.oip_name() });
            let n_values: usize = shape.iter().product();
            if encoding == Encoding::Binary {
                let from = tail.len();
                (0..n_values).for_each(|_| input.value(rng).append_to(&mut tail));
                tensor["parameters"] = json!({ "binary_data_size": tail.len() - from });
            } else {
                tensor["data"] = (0..n_values).map(|_| input.value(rng).json()).collect();
            }
            inputs.push(tensor);
        }
        let mut request = json!({ "inputs": inputs });
        if encoding == Encoding::Binary {
            request["parameters"] = json!({ "binary_data_output": true });
        }
        let mut headers = media_type(encoding);
        let mut body = request.to_string().into_bytes();
        if encoding == Encoding::Binary {
            headers.insert(INFERENCE_HEADER_LENGTH.clone(), HeaderValue::from(body.len()));
            body.extend(tail);
        }
        Call::post(path, headers, Bytes::from(body))
    }
}

/// A call of `path` with bytes that somebody else wrote: a body over REST, a message over gRPC. `headers` come before
/// those that the encoding brings, and are none of gRPC's.
///
/// # Errors
///
/// [`ClientError::BadUrl`] if `path` is not the path of a URL.
pub fn given_call(path: &str, encoding: Encoding, headers: &HeaderMap, body: Bytes) -> Result<Call, ClientError> {
    if encoding == Encoding::Grpc {
        return Call::grpc(path, &body);
    }
    let mut all = media_type(encoding);
    all.extend(headers.clone());
    Call::post(path, all, body)
}

fn media_type(encoding: Encoding) -> HeaderMap {
    let text = if encoding == Encoding::Binary { "application/octet-stream" } else { "application/json" };
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))])
}

impl Input {
    fn new(input: MetadataInput) -> Result<Self, ClientError> {
        let MetadataInput { name, datatype, shape } = input;
        let refuse = |what: String| ClientError::Metadata(format!("input {name:?}: {what}"));
        let dtype = DType::from_oip_name(&datatype)
            .filter(|dtype| *dtype != DType::Bytes)
            .ok_or_else(|| refuse(format!("values of type {datatype} cannot be made up")))?;
        let (batch, row) = shape.split_first().ok_or_else(|| refuse("expected a batch dimension, got none".into()))?;
        if *batch != -1 {
            return Err(refuse(format!("expected a free batch dimension (-1), got {batch}")));
        }
        let row_shape = row
            .iter()
            .map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim > 0))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| refuse(format!("expected fixed dimensions after the first, got {shape:?}")))?;
        Ok(Self { name, dtype, row_shape })
    }

    fn shape(&self, n_rows: usize) -> Vec<usize> {
        std::iter::once(n_rows).chain(self.row_shape.iter().copied()).collect()
    }

    /// Bytes of `n_rows` rows in binary form; `None` when the number does not fit.
    fn n_bytes(&self, n_rows: usize) -> Option<usize> {
        self.row_shape.iter().try_fold(n_rows.checked_mul(self.dtype.size()?)?, |n, dim| n.checked_mul(*dim))
    }

    fn value(&self, rng: &mut ChaCha8Rng) -> Scalar {
        match self.dtype {
            DType::Bool => Scalar::Bool(rng.random()),
            DType::F32 => Scalar::F32(rng.random()),
            DType::F64 => Scalar::F64(rng.random()),
            DType::F16 => Scalar::Half(f16::from_f32(rng.random()).to_bits()),
            DType::Bf16 => Scalar::Half(bf16::from_f32(rng.random()).to_bits()),
            other => Scalar::Int(rng.random_range(0..100), other.size().unwrap_or(1)),
        }
    }
}

/// A made-up value; an integer carries its width in bytes.
enum Scalar {
    Bool(bool),
    F32(f32),
    F64(f64),
    /// The bits of a number of half the width: never in JSON.
    Half(u16),
    Int(i64, usize),
}

impl Scalar {
    fn json(&self) -> Value {
        match *self {
            Self::Bool(value) => json!(value),
            // The shortest text that reads back as this f32.
            Self::F32(value) => value.to_string().parse::<serde_json::Number>().map_or(Value::Null, Value::Number),
            Self::F64(value) => json!(value),
            Self::Int(value, _) => json!(value),
            Self::Half(_) => Value::Null,
        }
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        match *self {
            Self::F32(value) => bytes.extend(value.to_le_bytes()),
            Self::F64(value) => bytes.extend(value.to_le_bytes()),
            Self::Half(bits) => bytes.extend(bits.to_le_bytes()),
            Self::Bool(value) => bytes.push(u8::from(value)),
            Self::Int(value, width) => bytes.extend(&value.to_le_bytes()[..width]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Reply {
        Reply { status: 200, headers: HeaderMap::new(), body: Bytes::from(body.to_owned()) }
    }

    fn image() -> ModelInputs {
        let body = r#"{"name":"m","inputs":[{"name":"image","datatype":"FP32","shape":[-1,1,2,2]}],"outputs":[]}"#;
        ModelInputs::from_metadata(&reply(body)).expect("good metadata")
    }

    #[test]
    fn one_seed_makes_the_same_bytes() {
        for encoding in [Encoding::Json, Encoding::Binary, Encoding::Grpc] {
            let text = |seed| format!("{:?}", image().calls(("", "m"), encoding, 3, 2, seed).expect("calls"));
            assert_eq!(text(1), text(1));
            assert_ne!(text(1), text(2));
        }
    }

    #[test]
    fn a_binary_body_is_a_header_of_the_stated_length_and_then_the_values() {
        let calls = image().calls(("", "m"), Encoding::Binary, 3, 1, 7).expect("calls");
        let Call { headers, body, .. } = &calls[0];
        let length: usize = headers[&INFERENCE_HEADER_LENGTH].to_str().expect("text").parse().expect("a number");
        let header: Value = serde_json::from_slice(&body[..length]).expect("JSON");
        assert_eq!(header["inputs"][0]["shape"], json!([3, 1, 2, 2]));
        assert_eq!(header["inputs"][0]["parameters"]["binary_data_size"], json!(48));
        assert_eq!(body.len() - length, 48);
    }

    #[test]
    fn a_json_body_holds_as_many_numbers_as_the_shape_says() {
        let calls = image().calls(("", "m"), Encoding::Json, 3, 1, 7).expect("calls");
        let body: Value = serde_json::from_slice(&calls[0].body).expect("JSON");
        let data = body["inputs"][0]["data"].as_array().expect("an array");
        assert_eq!(data.len(), 12);
        assert!(data.iter().all(|value| value.as_f64().is_some_and(|v| (0.0..1.0).contains(&v))));
    }

    #[test]
    fn metadata_that_cannot_be_met_is_refused() {
        let inputs = |text: &str| ModelInputs::from_metadata(&reply(&format!(r#"{{"inputs":{text}}}"#)));
        for text in [
            "[]",
            "7",
            r#"[{"name":"a","datatype":"BYTES","shape":[-1,1]}]"#,
            r#"[{"name":"a","datatype":"FP32","shape":[]}]"#,
            r#"[{"name":"a","datatype":"FP32","shape":[1,4]}]"#,
            r#"[{"name":"a","datatype":"FP32","shape":[-1,-1]}]"#,
            r#"[{"name":"a","datatype":"FP32","shape":[-1,0]}]"#,
        ] {
            assert!(matches!(inputs(text), Err(ClientError::Metadata(_))), "{text}");
        }
        let huge = inputs(r#"[{"name":"a","datatype":"FP32","shape":[-1,9223372036854775807]}]"#).expect("read");
        assert!(huge.calls(("", "m"), Encoding::Binary, 2, 1, 0).is_err());
    }

    #[test]
    fn a_message_holds_the_values_that_a_binary_body_holds() {
        let binary = image().calls(("", "m"), Encoding::Binary, 3, 1, 7).expect("calls");
        let grpc = image().calls(("", "m"), Encoding::Grpc, 3, 1, 7).expect("calls");
        let message = ModelInferRequest::decode(grpc[0].body.slice(5..)).expect("a message");
        assert_eq!((message.model_name.as_str(), &message.inputs[0].shape[..]), ("m", &[3, 1, 2, 2][..]));
        let values = &binary[0].body[binary[0].body.len() - 48..];
        assert_eq!(message.raw_input_contents, [Bytes::copy_from_slice(values)]);
        assert_eq!(
            u32::from_be_bytes(grpc[0].body[1..5].try_into().expect("4 bytes")) as usize,
            grpc[0].body_len() - 5
        );
    }

    #[test]
    fn given_bytes_go_out_as_they_are() {
        let headers = HeaderMap::from_iter([(INFERENCE_HEADER_LENGTH.clone(), HeaderValue::from(7))]);
        let call =
            given_call("/v1/models/m:predict", Encoding::Json, &headers, Bytes::from_static(b"{}")).expect("a call");
        assert_eq!((&call.body[..], call.headers[CONTENT_TYPE].as_bytes()), (&b"{}"[..], &b"application/json"[..]));
        assert_eq!(call.headers[&INFERENCE_HEADER_LENGTH], "7");
        let own = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
        let call = given_call("/x", Encoding::Binary, &own, Bytes::new()).expect("a call");
        assert_eq!(call.headers.get_all(CONTENT_TYPE).iter().collect::<Vec<_>>(), ["text/plain"]);
        let call = given_call("/s/M", Encoding::Grpc, &headers, Bytes::from_static(b"abc")).expect("a call");
        assert_eq!(&call.body[..], b"\0\0\0\0\x03abc");
        assert!(given_call("x", Encoding::Json, &headers, Bytes::new()).is_err());
    }

    #[test]
    fn integers_and_booleans_keep_their_width() {
        let body = r#"{"inputs":[{"name":"a","datatype":"UINT16","shape":[-1,3]},
                                 {"name":"b","datatype":"BOOL","shape":[-1,5]}]}"#;
        let model = ModelInputs::from_metadata(&reply(body)).expect("good metadata");
        let calls = model.calls(("", "m"), Encoding::Binary, 2, 1, 0).expect("calls");
        let text = String::from_utf8_lossy(&calls[0].body).into_owned();
        assert!(text.contains(r#""binary_data_size":12"#) && text.contains(r#""binary_data_size":10"#), "{text}");
    }
}
