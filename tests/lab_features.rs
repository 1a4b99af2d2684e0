//! A model with a second output of features, served: the features never leave.

use std::sync::Arc;

use ndarray::ArrayD;
use sordino::artifact::ModelDigest;
use sordino::defence::{Defence, DefenceConfig, Method};
use sordino::engine::tract::TractEngine;
use sordino::engine::{Engine, LoadOptions};
use sordino::lab::device::Device;
use sordino::lab::network::{Activation, Architecture, Network};
use sordino::lab::onnx::{Export, FEATURES, export};
use sordino::pipeline::{Identity, Pipeline};
use sordino::server::Config;

use super::http_support::Server;

const CLASSES: [&str; 3] = ["cat", "dog", "fox"];

fn network() -> Network {
    let mlp = Architecture::Mlp { hidden: vec![5], activation: Activation::Tanh };
    let plan = Arc::new(mlp.plan(&[4], 3, None).unwrap());
    Network::init(plan, 1, &Device::Cpu.open().unwrap().evaluation())
}

fn serve(model: &[u8]) -> Server {
    let engine = TractEngine::load(model, &LoadOptions::default()).unwrap();
    assert_eq!(engine.spec().other_outputs, [FEATURES]);
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, engine.spec().score_kind, 3).unwrap();
    let labels = CLASSES.map(str::to_owned).to_vec();
    let identity = Identity { name: "clf".to_owned(), version: "1".to_owned(), labels, model: ModelDigest::of(model) };
    let pipeline = Arc::new(Pipeline::new(Arc::new(engine), defence, identity).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Server::of(runtime, pipeline, Config::default())
}

fn body(output: Option<&str>) -> String {
    let outputs = output.map_or(String::new(), |name| format!(r#","outputs":[{{"name":"{name}"}}]"#));
    let input = r#"{"name":"features","datatype":"FP32","shape":[1,4],"data":[0.5,-0.25,1.0,0.125]}"#;
    format!(r#"{{"inputs":[{input}]{outputs}}}"#)
}

#[test]
fn features_beside_the_scores_are_neither_described_nor_answered() {
    let network = network();
    let model = export(&network, &CLASSES.map(str::to_owned), Export { features: true, ..Export::default() });
    let server = serve(&model);
    let description = server.connect().get("/v2/models/clf").text();
    assert!(!description.contains(FEATURES), "{description}");
    let asked = server.connect().infer(&body(Some(FEATURES)));
    assert_eq!(asked.status, 400, "{}", asked.text());
    // No number of the features is in what is answered, however it is asked.
    let row = ArrayD::from_shape_vec(vec![1, 4], vec![0.5, -0.25, 1.0, 0.125]).unwrap();
    let features = network.features(row);
    for request in [body(None), body(Some("probabilities")), body(Some("logits"))] {
        let reply = server.connect().infer(&request);
        let text = reply.text();
        for outputs in reply.json().get("outputs").and_then(|outputs| outputs.as_array()).into_iter().flatten() {
            assert_ne!(outputs["name"], FEATURES, "{text}");
            for value in outputs["data"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_f64) {
                let is_feature = features.iter().any(|&feature| (f64::from(feature) - value).abs() < 1e-6);
                assert!(!is_feature, "{text}");
            }
        }
    }
    assert_eq!(server.connect().infer(&body(None)).status, 200);
}
