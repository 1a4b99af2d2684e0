//! Who was trained on what: the inclusion matrix of a bank of models, read for the audit.
//!
//! The lab draws the matrix and writes it (`inclusion.safetensors`); here only what an attack needs of it is read, from
//! bytes that may be damaged or hostile: every length is checked before memory is asked for.
//!
//! | tensor | type, shape | what |
//! | --- | --- | --- |
//! | `rows` | I64 `(n_rows)` | the rows of the pool, by their numbers in the data set |
//! | `bits` | U8 `(n_models, ⌈n_rows / 8⌉)` | row `i` trains the model where bit `i mod 8` (lowest first) of byte `i / 8` is set |
//! | `counts` | U8 `(n_models, n_rows)` | in place of `bits` where rows may repeat: how often |

use std::collections::HashSet;

use ndarray::Array2;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

/// No matrix is larger: models times rows.
pub const MAX_CELLS: usize = 1 << 30;

/// Which rows of a pool train which models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionMatrix {
    /// The rows of the pool, by their numbers in the data set; none twice.
    pub rows: Vec<usize>,
    /// Shape (n_models, n_rows): whether the model was trained on the row.
    pub trained: Array2<bool>,
}

/// Why bytes are no inclusion matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InclusionError {
    /// The container cannot be read.
    #[error("expected an inclusion matrix (safetensors): {what}")]
    Container {
        /// What its reader said.
        what: String,
    },
    /// The metadata does not say that this is one.
    #[error("expected the format sordino.inclusion, version 1, in the metadata key 'sordino', got {got}")]
    Format {
        /// What it says.
        got: String,
    },
    /// A tensor is missing, or of another type or shape.
    #[error("tensor '{name}': expected {expected}, got {got}")]
    Tensor {
        /// Its name.
        name: &'static str,
        /// What was expected.
        expected: String,
        /// What came.
        got: String,
    },
    /// A row's number is negative, or stands twice.
    #[error("tensor 'rows': place {place} holds a number that is negative or stands twice")]
    Row {
        /// Place in the tensor.
        place: usize,
    },
}

#[derive(serde::Deserialize)]
struct Metadata {
    format: String,
    format_version: u32,
}

impl InclusionMatrix {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// [`InclusionError`]. Never panics, whatever the bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, InclusionError> {
        let container = |error: safetensors::SafeTensorError| InclusionError::Container { what: error.to_string() };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
        let written = header.metadata().as_ref().and_then(|entries| entries.get("sordino").cloned());
        let metadata = written.as_deref().and_then(|text| serde_json::from_str::<Metadata>(text).ok());
        match metadata {
            Some(metadata) if metadata.format == "sordino.inclusion" && metadata.format_version == 1 => {}
            Some(other) => {
                let got = format!(
                    "{:?}, version {}",
                    other.format.chars().take(40).collect::<String>(),
                    other.format_version
                );
                return Err(InclusionError::Format { got });
            }
            None => return Err(InclusionError::Format { got: "none that can be read".to_owned() }),
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
        let rows = rows(&tensors)?;
        let trained = match tensors.tensor("counts") {
            Ok(_) => cells(&tensors, "counts", rows.len(), rows.len(), |model, row| model[row] > 0)?,
            Err(_) => {
                let width = rows.len().div_ceil(8);
                cells(&tensors, "bits", width, rows.len(), |model, row| model[row / 8] >> (row % 8) & 1 == 1)?
            }
        };
        Ok(Self { rows, trained })
    }

    /// Number of models.
    #[must_use]
    pub fn n_models(&self) -> usize {
        self.trained.nrows()
    }
}

fn rows(tensors: &SafeTensors<'_>) -> Result<Vec<usize>, InclusionError> {
    let wrong = |got: String| InclusionError::Tensor { name: "rows", expected: "I64 [n_rows]".to_owned(), got };
    let tensor = tensors.tensor("rows").map_err(|_| wrong("nothing".to_owned()))?;
    if tensor.dtype() != Dtype::I64 || tensor.shape().len() != 1 {
        return Err(wrong(format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
    }
    let (numbers, _) = tensor.data().as_chunks::<8>();
    let mut seen = HashSet::with_capacity(numbers.len());
    let number = |(place, bytes): (usize, &[u8; 8])| {
        let row = usize::try_from(i64::from_le_bytes(*bytes)).map_err(|_| InclusionError::Row { place })?;
        if seen.insert(row) { Ok(row) } else { Err(InclusionError::Row { place }) }
    };
    numbers.iter().enumerate().map(number).collect()
}

/// The matrix from a tensor of `width` bytes a model.
fn cells(
    tensors: &SafeTensors<'_>,
    name: &'static str,
    width: usize,
    n_rows: usize,
    trained: impl Fn(&[u8], usize) -> bool,
) -> Result<Array2<bool>, InclusionError> {
    let wrong = |got: String| InclusionError::Tensor { name, expected: format!("U8 [n_models, {width}]"), got };
    let tensor = tensors.tensor(name).map_err(|_| wrong("nothing".to_owned()))?;
    let &[n_models, got_width] = tensor.shape() else { return Err(wrong(format!("{:?}", tensor.shape()))) };
    let fits = n_models.checked_mul(n_rows).is_some_and(|cells| cells <= MAX_CELLS);
    if tensor.dtype() != Dtype::U8 || got_width != width || width == 0 || !fits {
        return Err(wrong(format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
    }
    let models: Vec<&[u8]> = tensor.data().chunks_exact(width).collect();
    Ok(Array2::from_shape_fn((n_models, n_rows), |(model, row)| trained(models[model], row)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::serialize;
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(name: &str, shape: [usize; 2], cells: &[u8], rows: &[i64], format: &str) -> Vec<u8> {
        let metadata = format!(r#"{{"format":"{format}","format_version":1,"design":{{}},"seed":7}}"#);
        let rows_bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        let tensors = [
            (name, TensorView::new(Dtype::U8, shape.to_vec(), cells).unwrap()),
            ("rows", TensorView::new(Dtype::I64, vec![rows.len()], &rows_bytes).unwrap()),
        ];
        serialize(tensors, Some(HashMap::from([("sordino".to_owned(), metadata)]))).unwrap()
    }

    const ROWS: [i64; 9] = [3, 5, 7, 11, 13, 17, 19, 23, 29];

    #[test]
    fn bits_are_read_from_the_lowest() {
        let bytes = file("bits", [2, 2], &[0b0000_0101, 1, 0b1000_0000, 0], &ROWS, "sordino.inclusion");
        let matrix = InclusionMatrix::read(&bytes).unwrap();
        assert_eq!((matrix.n_models(), matrix.rows[8]), (2, 29));
        let of = |model: usize| (0..9).filter(|&row| matrix.trained[(model, row)]).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![0, 2, 8], vec![7]));
    }

    #[test]
    fn a_row_that_repeats_was_trained_on() {
        let bytes = file("counts", [1, 3], &[0, 2, 1], &ROWS[..3], "sordino.inclusion");
        assert_eq!(InclusionMatrix::read(&bytes).unwrap().trained.row(0).to_vec(), vec![false, true, true]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_was_expected() {
        let error = |bytes: &[u8]| InclusionMatrix::read(bytes).unwrap_err().to_string();
        assert!(error(b"no such thing").contains("expected an inclusion matrix"));
        let other = file("bits", [1, 2], &[0, 0], &ROWS, "something.else");
        assert!(error(&other).contains("\"something.else\""));
        let narrow = file("bits", [1, 1], &[0], &ROWS, "sordino.inclusion");
        assert!(error(&narrow).contains("expected U8 [n_models, 2], got U8 [1, 1]"));
        let twice = file("bits", [1, 1], &[0], &[4, 4], "sordino.inclusion");
        assert!(error(&twice).contains("place 1"));
        let negative = file("bits", [1, 1], &[0], &[-4], "sordino.inclusion");
        assert!(error(&negative).contains("place 0"));
    }
}
