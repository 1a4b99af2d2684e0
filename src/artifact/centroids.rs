//! The centroid file: everything a defence is fitted to, as safetensors.
//!
//! | tensor | type, shape | what |
//! | --- | --- | --- |
//! | `centroids` | F32 `(n_classes, n_classes)` | row `k`: mean logits of the training rows of class `k` (R3) |
//! | `distance_quantiles` | F32 `(n_classes, 101)` | quantiles 0, .01, …, 1 of the cosine distance `1 − cos(z, c_k)` of the training rows of true class `k` (R4's gate, R9) |
//! | `inlier_logits` | F32 `(n, n_classes)` | training rows that are predicted as their class (R9) |
//! | `inlier_labels` | I64 `(n)` | their class |
//! | `inlier_distances` | F32 `(n)` | their cosine distance to its centroid |
//!
//! The metadata of the container holds one key, `sordino`, with [`CentroidMetadata`] as JSON. The file tells
//! about training rows (the inlier rows are their logits): treat it like the model, not like documentation.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::Array2;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use super::{ArtifactError, ModelDigest};
use crate::defence::{Bank, Centroids, DistanceQuantiles, Fitted, N_QUANTILES, ScoreKind};

/// The format's name, first field of the metadata.
pub const FORMAT: &str = "sordino.centroids";

/// The version that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The metadata key under which [`CentroidMetadata`] lies.
const METADATA_KEY: &str = "sordino";

/// What a centroid file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CentroidMetadata {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// SHA-256 of the model's bytes.
    pub model_sha256: ModelDigest,
    /// The kind of scores that the model ends in; the values here are logits `z` of R2.
    pub score_kind: ScoreKind,
    /// Class names by index.
    pub labels: Vec<String>,
    /// Training rows per true class.
    pub rows_per_class: Vec<u64>,
    /// Classes whose centroid is made of correctly predicted rows only (R3's fallback).
    pub fallback_classes: Vec<String>,
    /// Where the rows came from, in the user's words.
    pub data: DataOrigin,
    /// The version of Sordino that wrote it.
    pub written_by: String,
}

/// The rows that an artifact was fitted to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataOrigin {
    /// The data source as named by the user, without the path before its last part.
    pub source: String,
    /// SHA-256 of the data's content.
    pub digest: String,
    /// Which rows: digest of the split and the part's name; none: all rows.
    pub split: Option<String>,
    /// Number of rows.
    pub n_rows: u64,
}

/// A centroid file, checked.
#[derive(Debug, Clone)]
pub struct CentroidFile {
    /// What it says of itself.
    pub metadata: CentroidMetadata,
    /// What the defence is fitted to.
    pub fitted: Arc<Fitted>,
}

/// Writes a centroid file. The same values give the same bytes.
///
/// # Errors
/// [`ArtifactError`] when the container or the metadata cannot be written.
pub fn write(file: &CentroidFile) -> Result<Vec<u8>, ArtifactError> {
    let fitted = &file.fitted;
    let (n, n_inliers) = (fitted.n_classes(), fitted.bank().n_rows());
    let labels: Vec<u8> = fitted.bank().labels().iter().flat_map(|&label| i64::from(label).to_le_bytes()).collect();
    let parts = [
        ("centroids", Dtype::F32, vec![n, n], f32_bytes(fitted.centroids().values().iter())),
        ("distance_quantiles", Dtype::F32, vec![n, N_QUANTILES], f32_bytes(fitted.quantiles().values().iter())),
        ("inlier_distances", Dtype::F32, vec![n_inliers], f32_bytes(fitted.bank().distances().iter())),
        ("inlier_labels", Dtype::I64, vec![n_inliers], labels),
        ("inlier_logits", Dtype::F32, vec![n_inliers, n], f32_bytes(fitted.bank().logits().iter())),
    ];
    let container = |error: safetensors::SafeTensorError| ArtifactError::Container(error.to_string());
    let views = parts
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(container)?;
    let metadata = serde_json::to_string(&file.metadata).map_err(|error| ArtifactError::Metadata(error.to_string()))?;
    serialize(views, Some(HashMap::from([(METADATA_KEY.to_owned(), metadata)]))).map_err(container)
}

/// Reads and checks a centroid file.
///
/// # Errors
/// [`ArtifactError`] for bytes that are no such file, another format version, tensors of other shapes or types,
/// and values that break R3 or R9. Never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> Result<CentroidFile, ArtifactError> {
    let container = |error: safetensors::SafeTensorError| ArtifactError::Container(error.to_string());
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
    let metadata = header
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(METADATA_KEY))
        .ok_or_else(|| ArtifactError::Metadata(format!("expected the key '{METADATA_KEY}', it is missing")))?;
    let metadata = read_metadata(metadata)?;
    let n = metadata.labels.len();
    let centroids = Centroids::new(matrix(&tensors, "centroids", (Some(n), n))?, &metadata.labels)?;
    let quantiles = DistanceQuantiles::new(matrix(&tensors, "distance_quantiles", (Some(n), N_QUANTILES))?, n)?;
    let logits = matrix(&tensors, "inlier_logits", (None, n))?;
    let labels = labels(&tensors, logits.nrows())?;
    let distances = floats(&tensors, "inlier_distances", |shape| shape == [logits.nrows()], "F32 [n]")?.1;
    let bank = Bank::new(logits, labels, distances)?;
    let fitted = Fitted::new(metadata.score_kind, metadata.labels.clone(), centroids, quantiles, bank)?;
    Ok(CentroidFile { metadata, fitted: Arc::new(fitted) })
}

fn read_metadata(text: &str) -> Result<CentroidMetadata, ArtifactError> {
    #[derive(Deserialize)]
    struct Stamp {
        format: String,
        format_version: u32,
    }
    let wrong = |error: serde_json::Error| ArtifactError::Metadata(error.to_string());
    let stamp: Stamp = serde_json::from_str(text).map_err(wrong)?;
    if stamp.format != FORMAT || stamp.format_version != FORMAT_VERSION {
        return Err(ArtifactError::Format {
            expected: format!("{FORMAT} version {FORMAT_VERSION}"),
            got: format!("'{}' version {}", stamp.format.escape_debug(), stamp.format_version),
        });
    }
    serde_json::from_str(text).map_err(wrong)
}

fn f32_bytes<'a>(values: impl Iterator<Item = &'a f32>) -> Vec<u8> {
    values.flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor of the file, when its type and shape are as expected.
fn tensor<'a>(
    tensors: &SafeTensors<'a>,
    name: &'static str,
    dtype: Dtype,
    fits: impl Fn(&[usize]) -> bool,
    expected: &str,
) -> Result<TensorView<'a>, ArtifactError> {
    let wrong = |got: String| ArtifactError::Tensor { name, expected: expected.to_owned(), got };
    let view = tensors.tensor(name).map_err(|_| wrong("no such tensor".to_owned()))?;
    if view.dtype() != dtype || !fits(view.shape()) {
        return Err(wrong(format!("{:?} {:?}", view.dtype(), view.shape())));
    }
    Ok(view)
}

fn floats(
    tensors: &SafeTensors<'_>,
    name: &'static str,
    fits: impl Fn(&[usize]) -> bool,
    expected: &str,
) -> Result<(Vec<usize>, Vec<f32>), ArtifactError> {
    let view = tensor(tensors, name, Dtype::F32, fits, expected)?;
    let (chunks, _) = view.data().as_chunks::<4>();
    Ok((view.shape().to_vec(), chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

/// A matrix with so many rows (`None`: any number) and columns.
fn matrix(
    tensors: &SafeTensors<'_>,
    name: &'static str,
    (n_rows, n_columns): (Option<usize>, usize),
) -> Result<Array2<f32>, ArtifactError> {
    let fits =
        |shape: &[usize]| matches!(*shape, [rows, columns] if n_rows.is_none_or(|n| n == rows) && columns == n_columns);
    let expected = format!("F32 [{}, {n_columns}]", n_rows.map_or_else(|| "n".to_owned(), |n| n.to_string()));
    let (shape, values) = floats(tensors, name, fits, &expected)?;
    Array2::from_shape_vec((shape[0], shape[1]), values).map_err(|error| ArtifactError::Tensor {
        name,
        expected,
        got: error.to_string(),
    })
}

fn labels(tensors: &SafeTensors<'_>, n_rows: usize) -> Result<Vec<u32>, ArtifactError> {
    let name = "inlier_labels";
    let view = tensor(tensors, name, Dtype::I64, |shape| shape == [n_rows], &format!("I64 [{n_rows}]"))?;
    let (chunks, _) = view.data().as_chunks::<8>();
    chunks.iter().map(|bytes| u32::try_from(i64::from_le_bytes(*bytes))).collect::<Result<_, _>>().map_err(|_| {
        ArtifactError::Tensor { name, expected: "class indices".into(), got: "a number out of range".into() }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> CentroidFile {
        let labels = vec!["cat".to_owned(), "fox".to_owned()];
        let centroids = Centroids::new(ndarray::array![[2.0, -1.0], [0.0, 3.0]], &labels).unwrap();
        let quantiles = DistanceQuantiles::new(Array2::from_elem((2, N_QUANTILES), 0.25), 2).unwrap();
        let bank = Bank::new(ndarray::array![[5.0, 1.0]], vec![0], vec![0.125]).unwrap();
        let fitted = Fitted::new(ScoreKind::Logits, labels.clone(), centroids, quantiles, bank).unwrap();
        let data = DataOrigin { source: "x.csv".into(), digest: "00".into(), split: None, n_rows: 9 };
        let metadata = CentroidMetadata {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            model_sha256: ModelDigest::of(b"model"),
            score_kind: ScoreKind::Logits,
            labels,
            rows_per_class: vec![4, 5],
            fallback_classes: vec![],
            data,
            written_by: "test".into(),
        };
        CentroidFile { metadata, fitted: Arc::new(fitted) }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = write(&file()).unwrap();
        let back = read(&bytes).unwrap();
        assert_eq!(back.metadata, file().metadata);
        assert!(*back.fitted == *file().fitted);
        assert_eq!(write(&back).unwrap(), bytes);
    }

    #[test]
    fn another_format_or_version_is_refused() {
        for change in [("version\\\":1", "version\\\":2"), (FORMAT, "sordino.centroidz")] {
            let mut bytes = write(&file()).unwrap();
            let at = bytes.windows(change.0.len()).position(|part| part == change.0.as_bytes()).unwrap();
            bytes[at..at + change.1.len()].copy_from_slice(change.1.as_bytes());
            assert!(matches!(read(&bytes), Err(ArtifactError::Format { .. })), "{change:?}");
        }
    }

    #[test]
    fn values_that_break_a_rule_are_refused() {
        let mut bytes = write(&file()).unwrap();
        let data = bytes.len() - SafeTensors::read_metadata(&bytes).unwrap().1.data_len();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let start = data + header.info("centroids").unwrap().data_offsets.0;
        bytes[start..start + 4].copy_from_slice(&(-5.0_f32).to_le_bytes());
        let error = read(&bytes).unwrap_err();
        assert!(error.to_string().contains("cat"), "{error}");
        bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(read(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..3000, value in any::<u8>(), cut in 0_usize..3000) {
            let mut bytes = write(&file()).unwrap();
            let n = bytes.len();
            bytes[at % n] = value;
            let _ = read(&bytes);
            bytes.truncate(cut % n);
            prop_assert!(read(&bytes).is_err());
        }
    }
}
