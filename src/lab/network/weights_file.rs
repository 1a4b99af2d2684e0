//! A network on disk: its weights by name, and enough words to build it again without a recipe or rows.
//!
//! A safetensors file. Its arrays are those of [`Weights::name`], all `f32` and row-major, and where the network
//! normalises its rows `normalise.mean` and `normalise.deviation`; the metadata holds one key, `sordino`, with
//! [`About`] as JSON. Bytes from anywhere may be read: what does not fit in every array, shape and number is refused.

use std::collections::HashMap;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use super::plan::{At, Op, Plan};
use super::{Architecture, Network, NetworkError, Normalisation, Plain, Weights};
use crate::lab::Compute;

/// The format that a file names.
pub const FORMAT: &str = "sordino.weights";
/// The version of that format.
pub const FORMAT_VERSION: u32 = 1;

const METADATA_KEY: &str = "sordino";
const MEAN: &str = "normalise.mean";
const DEVIATION: &str = "normalise.deviation";

/// No row has more values than this, and no file more classes.
const MAX_VALUES: usize = 1 << 24;

/// What a file says about its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The network.
    pub architecture: Architecture,
    /// Shape of a row.
    pub row_shape: Vec<usize>,
    /// Names of the classes, in the order of the logits.
    pub labels: Vec<String>,
    /// SHA-256 (hex) of the recipe, [`crate::lab::recipe::Recipe::digest`].
    pub recipe: String,
    /// The epoch behind which these weights were, counted from 1; absent for a network that is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<usize>,
}

/// The metadata as it lies in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    format_version: u32,
    about: About,
}

/// Why bytes are no network.
#[derive(Debug, thiserror::Error)]
pub enum WeightsFileError {
    /// The container is damaged, or none.
    #[error("expected a safetensors file with weights: {0}")]
    Container(SafeTensorError),
    /// The metadata is missing or not of this format.
    #[error("expected the metadata of format {FORMAT} version {FORMAT_VERSION}: {0}")]
    Metadata(String),
    /// The words describe no network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// An array is missing, or of another type or shape.
    #[error("array {name}: expected {expected}, got {got}")]
    Array {
        /// Its name.
        name: String,
        /// What was expected.
        expected: String,
        /// What there is.
        got: String,
    },
    /// A number that no network has.
    #[error("array {name}: expected {expected}")]
    Number {
        /// The array.
        name: String,
        /// What each number is to be.
        expected: &'static str,
    },
}

impl Network {
    /// The bytes of a file of weights.
    ///
    /// # Errors
    ///
    /// When the words do not describe this network, or a weight is not finite.
    pub fn to_safetensors(&self, about: &About) -> Result<Vec<u8>, WeightsFileError> {
        let mut arrays: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut push = |name: String, Plain { shape, values }: Plain| {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(WeightsFileError::Number { name, expected: "finite numbers" });
            }
            arrays.push((name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
            Ok(())
        };
        for parameter in self.plan().parameters() {
            push(Weights::<Compute>::name(parameter.at), self.weights().plain(parameter.at))?;
        }
        for step in self.plan().steps() {
            if let Op::Normalise { mean, deviation } = &step.op {
                for (name, values) in [(MEAN, mean), (DEVIATION, deviation)] {
                    push(name.to_owned(), Plain { shape: vec![values.len()], values: values.clone() })?;
                }
            }
        }
        let views =
            arrays.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(WeightsFileError::Container)?;
        let header = Header { format: FORMAT.to_owned(), format_version: FORMAT_VERSION, about: about.clone() };
        let header = serde_json::to_string(&header).map_err(|error| WeightsFileError::Metadata(error.to_string()))?;
        serialize(views, Some(HashMap::from([(METADATA_KEY.to_owned(), header)]))).map_err(WeightsFileError::Container)
    }

    /// The network of a file of weights, for evaluation on a device, and what the file says about it.
    ///
    /// # Errors
    ///
    /// [`WeightsFileError`] for everything that does not fit.
    pub fn from_safetensors(bytes: &[u8], device: &burn::DispatchDevice) -> Result<(Self, About), WeightsFileError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(WeightsFileError::Container)?;
        let about = read_about(bytes)?;
        let normalisation = match (tensors.tensor(MEAN), tensors.tensor(DEVIATION)) {
            (Err(_), Err(_)) => None,
            _ => Some(read_normalisation(&tensors)?),
        };
        let plan = about.architecture.plan(&about.row_shape, about.labels.len(), normalisation.as_ref())?;
        let n_expected = plan.parameters().len() + if normalisation.is_some() { 2 } else { 0 };
        if tensors.len() != n_expected {
            return Err(WeightsFileError::Array {
                name: "all".to_owned(),
                expected: format!("{n_expected} of them for {}", about.architecture),
                got: tensors.len().to_string(),
            });
        }
        let mut arrays = read_arrays(&tensors, &plan)?.into_iter();
        let weights = Weights::fill(&plan, device, |_| arrays.next().expect("one array a parameter was read"));
        Ok((Self::with(Arc::new(plan), weights, device.clone()), about))
    }
}

fn read_about(bytes: &[u8]) -> Result<About, WeightsFileError> {
    let wrong = |what: String| WeightsFileError::Metadata(what);
    let (_, container) = SafeTensors::read_metadata(bytes).map_err(WeightsFileError::Container)?;
    let text = container.metadata().as_ref().and_then(|keys| keys.get(METADATA_KEY));
    let text = text.ok_or_else(|| wrong(format!("there is no key {METADATA_KEY}")))?;
    let Header { format, format_version, about } =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if (format.as_str(), format_version) != (FORMAT, FORMAT_VERSION) {
        return Err(wrong(format!("got {format} version {format_version}")));
    }
    let n_values = about.row_shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let known = matches!(about.row_shape.len(), 1 | 3) && n_values.is_some_and(|n| (1..=MAX_VALUES).contains(&n));
    if !known {
        return Err(wrong(format!("expected rows of 1 to {MAX_VALUES} values in one or three dimensions")));
    }
    if about.labels.len() < 2 || about.labels.len() > MAX_VALUES {
        return Err(wrong(format!("expected at least two labels, got {}", about.labels.len())));
    }
    Ok(about)
}

fn read_normalisation(tensors: &SafeTensors<'_>) -> Result<Normalisation, WeightsFileError> {
    let list = |name| {
        let shape = tensors.tensor(name).map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
        read_array(tensors, name, &[shape.first().copied().unwrap_or(0)])
    };
    let (mean, deviation) = (list(MEAN)?, list(DEVIATION)?);
    if deviation.contains(&0.0) {
        return Err(WeightsFileError::Number { name: DEVIATION.to_owned(), expected: "no zeros" });
    }
    Ok(Normalisation { mean, deviation })
}

fn read_arrays(tensors: &SafeTensors<'_>, plan: &Plan) -> Result<Vec<Plain>, WeightsFileError> {
    let read = |parameter: &super::plan::Parameter| {
        let name = Weights::<Compute>::name(parameter.at);
        let values = read_array(tensors, &name, &parameter.shape)?;
        if matches!(parameter.at, At::Running(id) if id % 2 == 1) && values.iter().any(|value| *value < 0.0) {
            return Err(WeightsFileError::Number { name, expected: "variances of 0 or more" });
        }
        Ok(Plain { shape: parameter.shape.clone(), values })
    };
    plan.parameters().iter().map(read).collect()
}

fn read_array(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsFileError> {
    let expected = || format!("f32 numbers in the shape {shape:?}");
    let wrong = |got: String| WeightsFileError::Array { name: name.to_owned(), expected: expected(), got };
    let tensor = tensors.tensor(name).map_err(|_| wrong("none".to_owned()))?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        return Err(wrong(format!("{:?} in the shape {:?}", tensor.dtype(), tensor.shape())));
    }
    let values: Vec<f32> = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(WeightsFileError::Number { name: name.to_owned(), expected: "finite numbers" });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use ndarray::ArrayD;
    use proptest::prelude::*;

    use super::*;
    use crate::lab::device::Device;
    use crate::lab::network::{Activation, Norm};

    fn device() -> burn::DispatchDevice {
        Device::Cpu.open().unwrap().evaluation()
    }

    fn about(architecture: Architecture, row_shape: &[usize]) -> About {
        let labels = (0..3).map(|class| format!("class {class}")).collect();
        About { architecture, row_shape: row_shape.to_vec(), labels, recipe: "ab".to_owned(), epoch: Some(5) }
    }

    fn network(about: &About, normalisation: Option<Normalisation>) -> Network {
        let plan = about.architecture.plan(&about.row_shape, 3, normalisation.as_ref()).unwrap();
        Network::init(Arc::new(plan), 9, &device())
    }

    fn small() -> (About, Vec<u8>) {
        let architecture = Architecture::Convnet {
            channels: vec![2],
            side: 3,
            norm: Norm::Batch,
            hidden: vec![3],
            activation: Activation::Relu,
        };
        let about = about(architecture, &[1, 4, 4]);
        let normalisation = Normalisation { mean: vec![0.5], deviation: vec![0.25] };
        let bytes = network(&about, Some(normalisation)).to_safetensors(&about).unwrap();
        (about, bytes)
    }

    #[test]
    fn a_network_is_the_same_after_a_file() {
        let mlp = Architecture::Mlp { hidden: vec![5], activation: Activation::Tanh };
        for (architecture, row_shape, n_means) in [
            (mlp.clone(), vec![6], Some(6)),
            (mlp, vec![6], None),
            (Architecture::MlLeaks, vec![3, 16, 16], Some(768)),
            (
                Architecture::Densenet { depth: 10, growth: 2, compression: 0.5, norm: Norm::Batch },
                vec![3, 8, 8],
                Some(3),
            ),
        ] {
            let about = about(architecture, &row_shape);
            let normalisation = n_means
                .map(|n| Normalisation { mean: (0..n).map(|i| i as f32 / 7.0).collect(), deviation: vec![0.3; n] });
            let network = network(&about, normalisation);
            let bytes = network.to_safetensors(&about).unwrap();
            assert!(bytes == network.to_safetensors(&about).unwrap(), "the same network gave other bytes");
            let (read, said) = Network::from_safetensors(&bytes, &device()).unwrap();
            assert_eq!((&said, read.plan()), (&about, network.plan()));
            let n_values: usize = row_shape.iter().product();
            let shape = [vec![2], row_shape].concat();
            let rows = ArrayD::from_shape_vec(shape, (0..2 * n_values).map(|i| i as f32 / 99.0).collect()).unwrap();
            assert_eq!(read.logits(rows.clone()), network.logits(rows));
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let (about, bytes) = small();
        let refusal = |bytes: &[u8]| Network::from_safetensors(bytes, &device()).err().unwrap().to_string();
        assert!(refusal(b"").contains("expected a safetensors file"));
        let replaced = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
            let at = 8 + text.find(from).unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            bytes
        };
        assert!(refusal(&replaced("sordino.weights", "sordino.centrod")).contains("got sordino.centrod version 1"));
        assert!(refusal(&replaced("\"vectors.2\"", "\"vectors.9\"")).contains("array vectors.2: expected f32"));
        assert!(refusal(&replaced("[2,1,3,3]", "[1,2,3,3]")).contains("array kernels.0"));
        let mut other = about.clone();
        other.architecture = Architecture::Cnn { channels: [2, 2], hidden: 3 };
        let wrong = network(&about, None).to_safetensors(&other).unwrap();
        assert!(refusal(&wrong).contains("of them for cnn"), "{}", refusal(&wrong));
    }

    #[test]
    fn numbers_that_no_network_has_are_refused_on_both_ways() {
        let (about, bytes) = small();
        let last = bytes.len() - 4;
        let mut damaged = bytes;
        damaged[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Network::from_safetensors(&damaged, &device()).err().unwrap().to_string().contains("finite numbers"));
        let normalisation = Normalisation { mean: vec![f32::NAN], deviation: vec![1.0] };
        assert!(about.architecture.plan(&about.row_shape, 3, Some(&normalisation)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_bytes_make_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let (_, mut bytes) = small();
            // The header, where most of what is checked lies, twice as often as the rest.
            let place = at.index(bytes.len());
            bytes[place] = byte;
            let _ = Network::from_safetensors(&bytes, &device());
            let _ = Network::from_safetensors(&bytes[..cut.index(bytes.len())], &device());
        }

        #[test]
        fn no_words_make_it_panic(row_shape in prop::collection::vec(any::<usize>(), 0..5), depth in any::<usize>(), growth in any::<usize>()) {
            let (mut about, bytes) = small();
            about.row_shape = row_shape;
            about.architecture = Architecture::Densenet { depth, growth, compression: 0.5, norm: Norm::Group };
            let header = Header { format: FORMAT.to_owned(), format_version: FORMAT_VERSION, about };
            let metadata = HashMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&header).unwrap())]);
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let bytes = serialize(tensors.tensors(), Some(metadata)).unwrap();
            prop_assert!(Network::from_safetensors(&bytes, &device()).is_err());
        }
    }
}
