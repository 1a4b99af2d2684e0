//! The walk against burn's operators and autodiff.

use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::lab::Compute;
use crate::lab::device::Device;
use crate::lab::network::plan::At;
use crate::lab::network::{Activation, Architecture, Dropout, Network, Norm, Normalisation, Pass, Statistics};

/// How far two numbers may be apart, for numbers about 1.
const TOLERANCE: f32 = 1e-5;

fn networks() -> Vec<(Architecture, [usize; 3])> {
    let convnet = |side, norm, activation| Architecture::Convnet {
        channels: vec![5, 6],
        side,
        norm,
        hidden: vec![7],
        activation,
    };
    let mut networks = vec![
        (Architecture::Cnn { channels: [3, 4], hidden: 5 }, [3, 9, 11]),
        (Architecture::MlLeaks, [3, 14, 13]),
        (convnet(1, Norm::None, Activation::Tanh), [2, 8, 6]),
        (convnet(7, Norm::Batch, Activation::Tanh), [1, 5, 9]),
    ];
    for norm in [Norm::None, Norm::Batch, Norm::Group] {
        networks.push((convnet(5, norm, Activation::Relu), [3, 8, 8]));
        networks.push((Architecture::Densenet { depth: 10, growth: 4, compression: 0.5, norm }, [3, 9, 8]));
        networks.push((Architecture::Resnet { blocks: vec![1, 1, 1], width: 4, norm }, [3, 9, 10]));
        networks.push((Architecture::Resnet9 { width: 4, norm }, [3, 16, 16]));
    }
    networks
}

fn network(architecture: &Architecture, shape: [usize; 3]) -> Network {
    let by_value = Normalisation {
        mean: (0..shape.iter().product::<usize>()).map(|value| value as f32 * 1e-3).collect(),
        deviation: vec![0.5; shape.iter().product()],
    };
    let by_channel = Normalisation { mean: vec![0.4; shape[0]], deviation: vec![0.3; shape[0]] };
    let constants = if shape[0] == 2 { by_value } else { by_channel };
    let plan = architecture.plan(&shape, 3, Some(&constants)).unwrap();
    Network::init(Arc::new(plan), 3, &Device::Cpu.open().unwrap().training())
}

/// Rows enough for several tiles and shares, the last of each not full.
fn rows(network: &Network, n_rows: usize) -> Tensor<Compute, 2> {
    let n_features = network.plan().row_shape().iter().product::<usize>();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let values: Vec<f32> = (0..n_rows * n_features).map(|_| rng.random_range(0.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, [n_rows, n_features]), network.device())
}

fn values<const D: usize>(tensor: Tensor<Compute, D>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

/// Logits, gradients in the order of the plan, statistics.
type Outcome = (Vec<f32>, Vec<Vec<f32>>, Vec<Vec<f32>>);

fn step(network: &Network, n_rows: usize, dropout: Dropout, by_walk: bool) -> Outcome {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut pass = Pass { dropout, rng: &mut rng, statistics: vec![], hook: None };
    let loss = |logits: Tensor<Compute, 2>| logits.powi_scalar(2).sum() / n_rows as f32;
    let rows = rows(network, n_rows);
    let (logits, gradients) = if by_walk {
        let recorded = network.record(rows, &mut pass);
        assert!(format!("{recorded:?}").contains("tape: Some"), "the walk was not taken");
        let logits = recorded.logits();
        (logits.clone(), recorded.gradients(network, loss(logits).backward()))
    } else {
        let logits = network.forward_training(rows, &mut pass);
        (logits.clone(), GradientsParams::from_grads(loss(logits).backward(), network.weights()))
    };
    let weights = network.weights();
    let of = |at: At| match at {
        At::Kernel(id) => Some(values(gradients.get::<Compute, 4>(weights.kernels[id].id).unwrap())),
        At::Matrix(id) => Some(values(gradients.get::<Compute, 2>(weights.matrices[id].id).unwrap())),
        At::Vector(id) => Some(values(gradients.get::<Compute, 1>(weights.vectors[id].id).unwrap())),
        At::Running(_) => None,
    };
    let by_weights = network.plan().parameters().iter().filter_map(|parameter| of(parameter.at)).collect();
    let statistics =
        pass.statistics.into_iter().flat_map(|Statistics { mean, variance }| [values(mean.1), values(variance.1)]);
    (values(logits.inner()), by_weights, statistics.collect())
}

#[track_caller]
fn assert_alike(what: &str, one: &[Vec<f32>], other: &[Vec<f32>]) {
    assert_eq!(one.len(), other.len(), "{what}");
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        assert_eq!(one.len(), other.len(), "{what} {at}");
        let largest = other.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
        for (place, (one, other)) in one.iter().zip(other).enumerate() {
            assert!((one - other).abs() <= TOLERANCE * largest, "{what} {at}[{place}]: {one}, burn has {other}");
        }
    }
}

#[test]
fn a_step_is_the_one_of_burns_operators() {
    for (architecture, shape) in networks() {
        let network = network(&architecture, shape);
        for (n_rows, dropout) in [(1, Dropout::default()), (19, Dropout { input: 0.25, hidden: 0.5 })] {
            let (walk, burn) = (step(&network, n_rows, dropout, true), step(&network, n_rows, dropout, false));
            let what = |part: &str| format!("{architecture}, {n_rows} rows: {part}");
            assert_alike(&what("logits"), &[walk.0], &[burn.0]);
            assert_alike(&what("gradient"), &walk.1, &burn.1);
            assert_alike(&what("statistics"), &walk.2, &burn.2);
        }
    }
}

#[test]
fn every_value_of_an_evaluation_is_the_one_of_burns_operators() {
    for (architecture, shape) in networks() {
        let training = network(&architecture, shape);
        let device = Device::Cpu.open().unwrap().evaluation();
        let weights = burn::module::AutodiffModule::valid(training.weights());
        let network = Network::with(training.plan().clone(), weights, device);
        let rows = rows(&training, 7).inner();
        let array = ndarray::Array2::from_shape_vec((7, shape.iter().product()), values(rows.clone())).unwrap();
        let array = array.into_shape_with_order(vec![7, shape[0], shape[1], shape[2]]).unwrap();
        for at in (0..network.plan().steps().len()).step_by(3) {
            let walk = network.value(array.clone(), at).unwrap().into_raw_vec_and_offset().0;
            let burn = values(network.run(rows.clone(), at, None));
            assert_alike(&format!("{architecture}: step"), &[walk], &[burn]);
        }
        assert!(network.value(array, network.plan().steps().len()).is_err());
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (architecture, shape) in networks() {
        let network = network(&architecture, shape);
        let with = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| step(&network, 19, Dropout { input: 0.0, hidden: 0.5 }, true))
        };
        assert!(with(1) == with(3), "{architecture}");
    }
}

#[test]
fn a_number_that_is_none_is_not_hidden() {
    for (architecture, shape) in networks() {
        let network = network(&architecture, shape);
        let mut rows = values(rows(&network, 2));
        let place = (shape[1] / 4 * 2) * shape[2] + shape[2] / 4 * 2;
        rows[place] = f32::NAN;
        let n_features = rows.len() / 2;
        let rows = Tensor::from_data(TensorData::new(rows, [2, n_features]), network.device());
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let mut pass = Pass { dropout: Dropout::default(), rng: &mut rng, statistics: vec![], hook: None };
        let logits = values(network.record(rows, &mut pass).logits());
        assert!(logits[..3].iter().all(|logit| logit.is_nan()), "{architecture}: {logits:?}");
    }
}
