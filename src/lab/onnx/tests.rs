//! Exported graphs against burn, on tract and through the engine that serves them.

use std::sync::Arc;
use std::time::Instant;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tract_onnx::pb::NodeProto;

use super::*;
use crate::defence::offline;
use crate::engine::tract::TractEngine;
use crate::engine::{Engine as _, LoadOptions};
use crate::lab::network::plan::At;
use crate::lab::network::{Activation, Architecture, Norm, Normalisation, Weights};
use crate::tensor::Inputs;

fn names(n_classes: usize) -> Vec<String> {
    (0..n_classes).map(|class| format!("class {class}")).collect()
}

/// A network whose scales, shifts and statistics are not those of the beginning, so that none can be left out unseen.
fn network(architecture: &Architecture, row_shape: &[usize], n_classes: usize) -> Network {
    let device = crate::lab::device::Device::Cpu.open().unwrap().evaluation();
    let n_channels = row_shape[0];
    let constants = Normalisation { mean: vec![0.4; n_channels], deviation: vec![0.25; n_channels] };
    let plan = Arc::new(architecture.plan(row_shape, n_classes, Some(&constants)).unwrap());
    let drawn = Network::init(plan.clone(), 5, &device);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let weights = Weights::fill(&plan, &device, |parameter| {
        let mut plain = drawn.weights().plain(parameter.at);
        match parameter.at {
            At::Vector(_) => plain.values.iter_mut().for_each(|value| *value += rng.random_range(-0.2..0.2)),
            At::Running(id) if id % 2 == 0 => {
                plain.values.iter_mut().for_each(|mean| *mean = rng.random_range(-0.3..0.3))
            }
            At::Running(_) => plain.values.iter_mut().for_each(|variance| *variance = rng.random_range(0.5..1.5)),
            At::Kernel(_) | At::Matrix(_) => {}
        }
        plain
    });
    Network::with(plan, weights, device)
}

fn rows(n_rows: usize, row_shape: &[usize]) -> ArrayD<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let shape: Vec<usize> = std::iter::once(n_rows).chain(row_shape.iter().copied()).collect();
    ArrayD::from_shape_simple_fn(shape, || rng.random_range(0.0..1.0))
}

/// One small network of each kind, with rows that it takes.
fn small_networks() -> Vec<(Architecture, Vec<usize>)> {
    let images = vec![3, 16, 16];
    let densenet = |norm| Architecture::Densenet { depth: 10, growth: 4, compression: 0.5, norm };
    let convnet = |norm| Architecture::Convnet {
        channels: vec![4, 6],
        side: 3,
        norm,
        hidden: vec![5],
        activation: Activation::Tanh,
    };
    let mut networks = vec![
        (Architecture::Cnn { channels: [2, 3], hidden: 4 }, images.clone()),
        (Architecture::MlLeaks, images.clone()),
        (Architecture::Mlp { hidden: vec![6, 5], activation: Activation::Tanh }, vec![9]),
        (Architecture::Mlp { hidden: vec![], activation: Activation::Relu }, images.clone()),
    ];
    for norm in [Norm::None, Norm::Batch, Norm::Group] {
        networks.push((densenet(norm), images.clone()));
        networks.push((convnet(norm), images.clone()));
        networks.push((Architecture::Resnet { blocks: vec![1, 1], width: 4, norm }, images.clone()));
        networks.push((Architecture::Resnet9 { width: 4, norm }, images.clone()));
    }
    networks
}

fn decode(bytes: &[u8]) -> (ModelProto, Vec<NodeProto>) {
    let model = ModelProto::decode(bytes).unwrap();
    let nodes = model.graph.clone().unwrap().node;
    (model, nodes)
}

fn count(nodes: &[NodeProto], operator: &str) -> usize {
    nodes.iter().filter(|node| node.op_type == operator).count()
}

#[test]
fn the_last_operator_is_gemm_and_gives_the_logits() {
    let mlp = Architecture::Mlp { hidden: vec![], activation: Activation::Relu };
    let device = crate::lab::device::Device::Cpu.open().unwrap().evaluation();
    let network = Network::init(Arc::new(mlp.plan(&[4], 2, None).unwrap()), 1, &device);
    let bytes = export(&network, &["a".to_owned(), "b".to_owned()], Export::default());
    let (model, nodes) = decode(&bytes);
    let last = nodes.last().unwrap();
    assert_eq!((last.op_type.as_str(), last.output.as_slice()), ("Gemm", [OUTPUT.to_owned()].as_slice()));
    assert_eq!(model.metadata_props[0].value, r#"["a","b"]"#);
    assert_eq!(model.opset_import[0].version, OPSET);
    let graph = model.graph.unwrap();
    assert_eq!(graph.input[0].name, "features");
    assert_eq!(graph.initializer.len(), 2);
}

#[test]
fn every_network_runs_alike_in_burn_and_in_tract_folded_or_not() {
    for (architecture, row_shape) in small_networks() {
        let network = network(&architecture, &row_shape, 3);
        let rows = rows(3, &row_shape);
        let logits = network.logits(rows.clone());
        for fold_batch_norm in [false, true] {
            let model = export(&network, &names(3), Export { features: false, fold_batch_norm });
            let off = disagreement(&model, &rows, &logits).unwrap();
            assert!(off < 1e-5, "{architecture}, folded {fold_batch_norm}: {off}");
        }
    }
}

#[test]
fn only_a_batch_norm_right_behind_a_convolution_of_its_own_is_folded() {
    let shape = [3, 16, 16];
    let folded = Export { features: false, fold_batch_norm: true };
    let resnet = Architecture::Resnet { blocks: vec![1, 1], width: 4, norm: Norm::Batch };
    let (_, nodes) = decode(&export(&network(&resnet, &shape, 3), &names(3), folded));
    assert_eq!((count(&nodes, "BatchNormalization"), count(&nodes, "Conv")), (0, 6));
    // Of a bottleneck's two norms one follows a concatenation; those of transitions and of the end do, too.
    let densenet = Architecture::Densenet { depth: 10, growth: 4, compression: 0.5, norm: Norm::Batch };
    let (_, nodes) = decode(&export(&network(&densenet, &shape, 3), &names(3), folded));
    assert_eq!((count(&nodes, "BatchNormalization"), count(&nodes, "Conv")), (6, 9));
    let (_, nodes) = decode(&export(&network(&densenet, &shape, 3), &names(3), Export::default()));
    assert_eq!((count(&nodes, "BatchNormalization"), count(&nodes, "Conv")), (9, 9));
}

#[test]
fn the_features_are_a_second_output_and_are_never_the_scores() {
    for (architecture, row_shape) in small_networks() {
        let network = network(&architecture, &row_shape, 3);
        let rows = rows(2, &row_shape);
        let bytes = export(&network, &names(3), Export { features: true, fold_batch_norm: true });
        let features = run(&bytes, &rows, FEATURES).unwrap();
        let off = distance(&features, &network.features(rows.clone())).unwrap();
        assert!(off < 1e-5, "{architecture}: {off}");
        let engine = TractEngine::load(&bytes, &LoadOptions::default()).unwrap();
        let spec = engine.spec();
        assert_eq!((spec.score_output.as_str(), spec.n_classes), (OUTPUT, 3), "{architecture}");
        assert_eq!(spec.other_outputs, [FEATURES]);
        assert!(spec.how_decided.contains("the model's metadata"), "{}", spec.how_decided);
        let scores = engine.infer(&Inputs::from_f32(&spec.inputs[0], rows.clone()).unwrap()).unwrap();
        let (scores, logits) = (offline::logits(scores), network.logits(rows));
        assert!(scores.iter().zip(&logits).all(|(a, b)| (a - b).abs() < 1e-5), "{architecture}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_no_agreement() {
    let model = export(
        &network(&Architecture::Mlp { hidden: vec![], activation: Activation::Relu }, &[4], 2),
        &names(2),
        Export::default(),
    );
    let rows = rows(1, &[4]);
    assert!(disagreement(&model, &rows, &ndarray::array![[f32::NAN, 0.0]]).is_err());
    assert!(disagreement(&model, &rows, &ndarray::array![[0.0, 0.0, 0.0]]).is_err());
}

/// The papers' networks at their own sizes: tens of seconds of tract's optimiser, and files for another runtime in the
/// folder that `SORDINO_EXPORTS` names.
#[test]
#[ignore = "slow: run by name"]
fn full_sizes_run_alike_in_burn_and_in_tract() {
    let folder = std::env::var_os("SORDINO_EXPORTS").map(std::path::PathBuf::from);
    for (name, architecture, row_shape, n_classes) in [
        ("fcn", Architecture::fcn(), vec![600], 100),
        ("ml_leaks", Architecture::MlLeaks, vec![3, 32, 32], 10),
        ("cnn", Architecture::Cnn { channels: [32, 64], hidden: 128 }, vec![3, 32, 32], 10),
        ("resnet9", Architecture::resnet9(), vec![3, 32, 32], 10),
        ("resnet18", Architecture::resnet18(), vec![3, 32, 32], 10),
        ("resnet18_group", Architecture::resnet18().with_norm(Norm::Group), vec![3, 32, 32], 10),
        ("densenet", Architecture::densenet(), vec![3, 32, 32], 10),
        ("densenet_group", Architecture::densenet().with_norm(Norm::Group), vec![3, 32, 32], 10),
    ] {
        let network = network(&architecture, &row_shape, n_classes);
        let rows = rows(4, &row_shape);
        let logits = network.logits(rows.clone());
        let largest = logits.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
        for fold_batch_norm in [false, true] {
            let model = export(&network, &names(n_classes), Export { features: true, fold_batch_norm });
            let started = Instant::now();
            let engine = TractEngine::load(&model, &LoadOptions::default()).unwrap();
            let loaded = started.elapsed();
            let inputs = Inputs::from_f32(&engine.spec().inputs[0], rows.clone()).unwrap();
            let started = Instant::now();
            let scores = offline::logits(engine.infer(&inputs).unwrap()).into_dyn();
            let ran = started.elapsed();
            let off = distance(&scores, &logits).unwrap() / largest;
            println!("{name}, folded {fold_batch_norm}: off by {off:.1e}, load {loaded:?}, 4 rows {ran:?}");
            assert!(off < 1e-4, "{name}, folded {fold_batch_norm}: {off}");
            if let Some(folder) = &folder {
                let file = format!("{name}{}", if fold_batch_norm { ".folded" } else { "" });
                std::fs::write(folder.join(format!("{file}.onnx")), &model).unwrap();
                let bytes = |values: &mut dyn Iterator<Item = &f32>| -> Vec<u8> {
                    values.flat_map(|v| v.to_le_bytes()).collect()
                };
                std::fs::write(folder.join(format!("{file}.rows")), bytes(&mut rows.iter())).unwrap();
                std::fs::write(folder.join(format!("{file}.logits")), bytes(&mut logits.iter())).unwrap();
            }
        }
    }
}
