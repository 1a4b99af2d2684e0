//! Every kind of layer, its gradient and every optimizer against PyTorch: `tests/golden/lab/*.safetensors`, which
//! `make.py` beside them completes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use ndarray::{Array2, ArrayD};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sordino::data::{DataSource, Dataset, PartSizes, Split};
use sordino::lab::Compute;
use sordino::lab::autodiff;
use sordino::lab::device::Device;
use sordino::lab::network::plan::At;
use sordino::lab::network::{Activation, Architecture, Dropout, Network, Norm, Pass, Weights};
use sordino::lab::recipe::{OptimizerKind, Recipe};
use sordino::lab::train::{Outcome, Task, Trainer};

/// How far a number may be from PyTorch's, which computed in f64, for numbers about 1.
const TOLERANCE: f64 = 1e-5;

const N_CLASSES: usize = 3;
const SEED: u64 = 17;

fn cases() -> Vec<(&'static str, Architecture, [usize; 3])> {
    let densenet = |norm| Architecture::Densenet { depth: 10, growth: 4, compression: 0.5, norm };
    let convnet =
        |norm, activation| Architecture::Convnet { channels: vec![3, 5], side: 3, norm, hidden: vec![6], activation };
    let resnet = |norm| Architecture::Resnet { blocks: vec![1, 2], width: 4, norm };
    vec![
        ("fcn", Architecture::Mlp { hidden: vec![9, 7], activation: Activation::Tanh }, [1, 4, 4]),
        ("mlp", Architecture::Mlp { hidden: vec![8], activation: Activation::Relu }, [1, 4, 4]),
        ("cnn", Architecture::Cnn { channels: [3, 4], hidden: 5 }, [1, 9, 9]),
        ("convnet_batch", convnet(Norm::Batch, Activation::Tanh), [1, 9, 9]),
        ("convnet_group", convnet(Norm::Group, Activation::Relu), [1, 9, 9]),
        ("densenet_batch", densenet(Norm::Batch), [1, 9, 9]),
        ("densenet_group", densenet(Norm::Group), [1, 9, 9]),
        ("resnet_batch", resnet(Norm::Batch), [1, 9, 9]),
        ("resnet_group", resnet(Norm::Group), [1, 9, 9]),
        ("resnet9_batch", Architecture::Resnet9 { width: 2, norm: Norm::Batch }, [1, 16, 16]),
    ]
}

fn recipes(network: &Architecture, n_rows: usize) -> Vec<(&'static str, Recipe)> {
    let plain = Recipe { batch_size: n_rows, weight_decay: 5e-3, ..Recipe::plain(network.clone(), 2, SEED) };
    let sgd = OptimizerKind::Sgd { momentum: 0.9 };
    vec![("sgd", Recipe { optimizer: sgd, learning_rate: 0.05, ..plain.clone() }), ("adam", plain)]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lab")
}

/// A file of expectations.
struct Golden {
    arrays: HashMap<String, (Vec<usize>, Vec<f32>)>,
    rows: (Vec<usize>, Vec<u8>),
    labels: Vec<u8>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let floats =
            |view: &TensorView<'_>| view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (all, bytes): (Vec<_>, Vec<_>) =
            file.tensors().into_iter().partition(|(_, view)| view.dtype() == Dtype::F32);
        let arrays = all.iter().map(|(name, view)| (name.clone(), (view.shape().to_vec(), floats(view)))).collect();
        let bytes: HashMap<_, _> = bytes.iter().map(|(name, view)| (name.as_str(), view)).collect();
        let (rows, labels) = (bytes["rows"], bytes["labels"]);
        Self { arrays, rows: (rows.shape().to_vec(), rows.data().to_vec()), labels: labels.data().to_vec() }
    }

    fn array(&self, name: &str) -> &[f32] {
        &self.arrays.get(name).unwrap_or_else(|| panic!("the file holds {name}: run make.py")).1
    }

    /// The gradients of one of the network's arrays; `None` for a running statistic.
    fn gradients(&self, name: &str) -> Option<&[f32]> {
        self.arrays.get(&format!("gradient.{name}")).map(|array| array.1.as_slice())
    }

    /// The rows as a dataset.
    fn dataset(&self, dir: &Path) -> (DataSource, Dataset) {
        let (shape, values) = &self.rows;
        let row = values.len() / shape[0];
        let split = (shape[0] - 1) * row;
        let images = |name: &str, values: &[u8]| {
            let mut bytes = vec![0, 0, 8, 3];
            for size in [values.len() / row, shape[2], shape[3]] {
                bytes.extend(u32::try_from(size).unwrap().to_be_bytes());
            }
            fs::write(dir.join(name), [&bytes, values].concat()).unwrap();
        };
        images("train-images-idx3-ubyte", &values[..split]);
        images("t10k-images-idx3-ubyte", &values[split..]);
        let labels = |name: &str, labels: &[u8]| {
            let n_labels = u32::try_from(labels.len()).unwrap().to_be_bytes();
            fs::write(dir.join(name), [&[0, 0, 8, 1], n_labels.as_slice(), labels].concat()).unwrap();
        };
        labels("train-labels-idx1-ubyte", &self.labels[..shape[0] - 1]);
        labels("t10k-labels-idx1-ubyte", &self.labels[shape[0] - 1..]);
        let source: DataSource = format!("idx:{}", dir.display()).parse().unwrap();
        let dataset = Dataset::load(&source).unwrap();
        (source, dataset)
    }
}

fn name(at: At) -> String {
    Weights::<Compute>::name(at)
}

#[track_caller]
fn assert_alike(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (got, expected) = (f64::from(*got), f64::from(*expected));
        let apart = (got - expected).abs();
        assert!(apart <= TOLERANCE * expected.abs().max(1.0), "{what}[{place}]: {got}, PyTorch has {expected}");
    }
}

/// Whether a number's gradient is nothing but rounding; running statistics have none.
fn is_noise(gradients: Option<&[f32]>, place: usize) -> bool {
    gradients.is_some_and(|gradients| gradients[place].abs() < 1e-7)
}

fn initial(architecture: &Architecture, shape: &[usize], training: bool) -> Network {
    let device = Device::Cpu.open().unwrap();
    let device = if training { device.training() } else { device.evaluation() };
    Network::init(Arc::new(architecture.plan(shape, N_CLASSES, None).unwrap()), SEED, &device)
}

#[test]
fn weights_begin_as_when_the_files_were_written() {
    for (case, architecture, shape) in cases() {
        let (golden, network) = (Golden::read(case), initial(&architecture, &shape, false));
        for parameter in network.plan().parameters() {
            let array = name(parameter.at);
            let expected = golden.array(&format!("initial.{array}"));
            assert_eq!(network.weights().plain(parameter.at).values, expected, "{case}: {array} is drawn otherwise");
        }
    }
}

/// The mean cross-entropy of a batch.
fn mean_loss(logits: Tensor<Compute, 2>, labels: &[u8]) -> Tensor<Compute, 1> {
    let mut targets = Array2::<f32>::zeros((labels.len(), N_CLASSES));
    labels.iter().enumerate().for_each(|(row, &label)| targets[[row, usize::from(label)]] = 1.0);
    let targets = TensorData::new(targets.into_raw_vec_and_offset().0, [labels.len(), N_CLASSES]);
    let targets = Tensor::from_data(targets, &logits.device());
    let losses = (burn::tensor::activation::log_softmax(logits, 1) * targets).sum_dim(1).neg();
    losses.mean()
}

#[test]
fn logits_and_gradients_are_pytorchs() {
    for (case, architecture, shape) in cases() {
        let (golden, network) = (Golden::read(case), initial(&architecture, &shape, true));
        let n_rows = golden.labels.len();
        let rows: Vec<f32> = golden.rows.1.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let rows = Tensor::from_data(TensorData::new(rows, [n_rows, shape.iter().product()]), network.device());
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut pass =
            Pass { dropout: Dropout::default(), rngs: std::slice::from_mut(&mut rng), statistics: vec![], hook: None };
        let alone = autodiff::one_at_a_time();
        let logits = network.forward_training(rows, &mut pass);
        let loss = mean_loss(logits.clone(), &golden.labels);
        let gradients = GradientsParams::from_grads(loss.backward(), network.weights());
        drop(alone);
        assert_alike(&format!("{case}: logits"), &values(logits.inner()), golden.array("logits"));
        let weights = network.weights();
        for parameter in network.plan().parameters() {
            let got = match parameter.at {
                At::Kernel(id) => gradients.get::<Compute, 4>(weights.kernels[id].id).map(values),
                At::Matrix(id) => gradients.get::<Compute, 2>(weights.matrices[id].id).map(values),
                At::Vector(id) => gradients.get::<Compute, 1>(weights.vectors[id].id).map(values),
                At::Running(_) => continue,
            };
            let array = format!("gradient.{}", name(parameter.at));
            assert_alike(&format!("{case}: {array}"), &got.unwrap(), golden.array(&array));
        }
    }
}

fn values<const D: usize>(tensor: Tensor<Compute, D>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

#[test]
fn two_steps_of_each_optimizer_end_where_pytorchs_do() {
    for (case, architecture, _) in cases() {
        let (golden, dir) = (Golden::read(case), tempfile::tempdir().unwrap());
        let (source, dataset) = golden.dataset(dir.path());
        let n_rows = golden.labels.len();
        let sizes = PartSizes { train: n_rows, ..PartSizes::default() };
        let split = Split::draw(&source, &dataset, sizes, 1).unwrap();
        for (title, recipe) in recipes(&architecture, n_rows) {
            let task = Task::of_split(&dataset, &split).unwrap();
            let mut trainer = Trainer::new(task, recipe, &Device::Cpu.open().unwrap()).unwrap();
            assert_eq!(trainer.run(&AtomicBool::new(false), &mut ()).unwrap(), Outcome::Finished);
            let network = trainer.network();
            for parameter in network.plan().parameters() {
                let array = format!("{title}.{}", name(parameter.at));
                let mut got = network.weights().plain(parameter.at).values;
                let gradients = golden.gradients(&name(parameter.at));
                // Adam makes a whole step of the noise of a gradient that is 0 on paper: such numbers are not compared.
                for (place, got) in
                    got.iter_mut().enumerate().filter(|(place, _)| title == "adam" && is_noise(gradients, *place))
                {
                    *got = golden.array(&array)[place];
                }
                assert_alike(&format!("{case}: {array}"), &got, golden.array(&array));
            }
            let all: Vec<usize> = (0..n_rows).collect();
            let logits: ArrayD<f32> = network.logits(dataset.batch(&all)).into_dyn();
            let array = format!("{title}.logits");
            assert_alike(&format!("{case}: {array}"), logits.as_slice().unwrap(), golden.array(&array));
        }
    }
}

/// The first half of each file, in the folder that `SORDINO_GOLDEN` names: to be run when a case is added or weights are
/// drawn otherwise, before `make.py`.
#[test]
#[ignore = "writes files: run by name"]
fn write_the_beginnings() {
    let folder =
        PathBuf::from(std::env::var_os("SORDINO_GOLDEN").expect("SORDINO_GOLDEN names the folder to write to"));
    for (case, architecture, shape) in cases() {
        let network = initial(&architecture, &shape, false);
        let mut rng = ChaCha8Rng::seed_from_u64(23);
        let n_rows = 8;
        let rows: Vec<u8> = (0..n_rows * shape.iter().product::<usize>()).map(|_| rng.random()).collect();
        let labels: Vec<u8> = (0..n_rows).map(|row| u8::try_from(row % N_CLASSES).unwrap()).collect();
        let mut arrays = vec![
            ("rows".to_owned(), Dtype::U8, [&[n_rows], shape.as_slice()].concat(), rows),
            ("labels".to_owned(), Dtype::U8, vec![n_rows], labels),
            ("n_classes".to_owned(), Dtype::U8, vec![1], vec![u8::try_from(N_CLASSES).unwrap()]),
        ];
        for parameter in network.plan().parameters() {
            let plain = network.weights().plain(parameter.at);
            let bytes = plain.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            arrays.push((format!("initial.{}", name(parameter.at)), Dtype::F32, plain.shape, bytes));
        }
        let views = arrays
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        let recipes: HashMap<&str, Recipe> = recipes(&architecture, n_rows).into_iter().collect();
        let metadata = HashMap::from([("recipes".to_owned(), serde_json::to_string(&recipes).unwrap())]);
        let file = safetensors::serialize(views, Some(metadata)).unwrap();
        fs::write(folder.join(format!("{case}.safetensors")), file).unwrap();
    }
}
