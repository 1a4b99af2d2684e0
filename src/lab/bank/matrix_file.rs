//! The inclusion matrix as a file that other tools read: safetensors.
//!
//! | tensor | type, shape | what |
//! | --- | --- | --- |
//! | `rows` | I64 `(n_rows)` | the rows of the pool, by their numbers in the dataset |
//! | `bits` | U8 `(n_models, ⌈n_rows / 8⌉)` | row `i` of the pool trains the model where bit `i mod 8` (lowest first) of byte `i / 8` is set: `numpy.unpackbits(bits, axis=1, bitorder="little")` |
//! | `counts` | U8 `(n_models, n_rows)` | in place of `bits` where rows may repeat (bootstrap, boosting): how often |
//!
//! The metadata of the container holds one key, `sordino`, with format, version, design and seed as JSON. The matrix says who
//! was in whose training set: treat it like the training data.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};
use ndarray::Array2;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::inclusion::{Design, Inclusion, MAX_CELLS};
use crate::data::hex;

/// The format's name.
pub const FORMAT: &str = "sordino.inclusion";
/// The version that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The metadata key.
const METADATA_KEY: &str = "sordino";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    format: String,
    format_version: u32,
    design: Design,
    seed: u64,
}

/// The bytes of the file. The same matrix gives the same bytes.
///
/// # Errors
///
/// When the container cannot be written.
pub fn write(matrix: &Inclusion) -> anyhow::Result<Vec<u8>> {
    let metadata = Metadata {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        design: matrix.design(),
        seed: matrix.seed(),
    };
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&metadata)?)]);
    let rows: Vec<i64> = matrix.rows().iter().map(|&row| i64::try_from(row)).collect::<Result<_, _>>()?;
    let rows: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    let (n_models, n_rows) = matrix.counts().dim();
    let cells: Vec<u8> = match matrix.design() {
        design if design.repeats() => matrix.counts().iter().copied().collect(),
        _ => matrix.counts().rows().into_iter().flat_map(|row| pack(&row.to_vec())).collect(),
    };
    let (name, width) = cells_of(matrix.design(), n_rows);
    let tensors = [
        (name, TensorView::new(Dtype::U8, vec![n_models, width], &cells)?),
        ("rows", TensorView::new(Dtype::I64, vec![n_rows], &rows)?),
    ];
    Ok(serialize(tensors, Some(metadata))?)
}

/// Reads and checks the bytes of the file: shapes, the design's numbers, and what the design promises of the rows.
///
/// # Errors
///
/// With what was expected and what came. Never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> anyhow::Result<Inclusion> {
    let (_, header) = SafeTensors::read_metadata(bytes).context("expected an inclusion matrix (safetensors)")?;
    let tensors = SafeTensors::deserialize(bytes).context("expected an inclusion matrix (safetensors)")?;
    let metadata = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
    let metadata = read_metadata(metadata.context("expected the metadata key 'sordino', it is missing")?)?;
    let n_models = metadata.design.n_models()?;
    let rows = tensors.tensor("rows").context("tensor 'rows'")?;
    let &[n_rows] = rows.shape() else { bail!("tensor 'rows': expected one dimension, got {:?}", rows.shape()) };
    ensure!(rows.dtype() == Dtype::I64, "tensor 'rows': expected I64, got {:?}", rows.dtype());
    ensure!(
        n_models.checked_mul(n_rows).is_some_and(|cells| cells <= MAX_CELLS),
        "expected at most {MAX_CELLS} cells (models times rows), got {n_models} models and {n_rows} rows"
    );
    let (chunks, _) = rows.data().as_chunks::<8>();
    let rows = chunks.iter().map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)));
    let rows: Vec<usize> = rows.collect::<Result<_, _>>().map_err(|_| anyhow::anyhow!("a row number is negative"))?;
    let (name, width) = cells_of(metadata.design, n_rows);
    let cells = tensors.tensor(name).with_context(|| format!("tensor '{name}'"))?;
    ensure!(
        cells.dtype() == Dtype::U8 && cells.shape() == [n_models, width],
        "tensor '{name}': expected U8 [{n_models}, {width}], got {:?} {:?}",
        cells.dtype(),
        cells.shape()
    );
    let counts = match metadata.design {
        design if design.repeats() => cells.data().to_vec(),
        _ => {
            let mut counts = Vec::with_capacity(n_models * n_rows);
            for model in cells.data().chunks_exact(width.max(1)) {
                counts.extend(unpack(model, n_rows)?);
            }
            counts
        }
    };
    let counts = Array2::from_shape_vec((n_models, n_rows), counts).context("an inclusion matrix without rows")?;
    Ok(Inclusion::from_parts(metadata.design, metadata.seed, rows, counts)?)
}

/// SHA-256 (hex) of [`write()`]'s bytes.
///
/// # Errors
///
/// As [`write()`].
pub fn digest(matrix: &Inclusion) -> anyhow::Result<String> {
    Ok(hex(&Sha256::digest(write(matrix)?)))
}

/// Name and width of the tensor that holds the cells.
fn cells_of(design: Design, n_rows: usize) -> (&'static str, usize) {
    match design {
        design if design.repeats() => ("counts", n_rows),
        _ => ("bits", n_rows.div_ceil(8)),
    }
}

fn read_metadata(text: &str) -> anyhow::Result<Metadata> {
    #[derive(Deserialize)]
    struct Stamp {
        format: String,
        format_version: u32,
    }
    let stamp: Stamp = serde_json::from_str(text).context("the metadata of an inclusion matrix")?;
    if stamp.format != FORMAT || stamp.format_version != FORMAT_VERSION {
        let (format, version) = (stamp.format.escape_debug(), stamp.format_version);
        bail!("expected format {FORMAT} version {FORMAT_VERSION}, got {format} version {version}");
    }
    serde_json::from_str(text).context("the metadata of an inclusion matrix")
}

fn pack(counts: &[u8]) -> Vec<u8> {
    let byte = |eight: &[u8]| eight.iter().enumerate().fold(0, |byte, (bit, &count)| byte | (count << bit));
    counts.chunks(8).map(byte).collect()
}

fn unpack(bytes: &[u8], n_rows: usize) -> anyhow::Result<Vec<u8>> {
    let mut bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).map(move |bit| (byte >> bit) & 1)).collect();
    ensure!(bits.iter().skip(n_rows).all(|&bit| bit == 0), "expected zeros after the last row's bit, got others");
    bits.truncate(n_rows);
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::inclusion::Pool;
    use super::*;

    fn matrix(design: Design, n_rows: usize) -> Inclusion {
        let rows: Vec<usize> = (0..n_rows).map(|row| 3 * row).collect();
        Inclusion::draw(design, &Pool::new(&rows).unwrap(), 11).unwrap()
    }

    fn all() -> [Inclusion; 6] {
        [
            matrix(Design::Share { models: 5, share: 0.6 }, 21),
            matrix(Design::Folds { folds: 5, leave: 2 }, 24),
            matrix(Design::Balanced { models: 6, of: 3 }, 30),
            matrix(Design::Bootstrap { models: 3 }, 17),
            matrix(Design::Shards { shards: 4, slices: 2 }, 19),
            matrix(Design::Whole { models: 2 }, 8),
        ]
    }

    #[test]
    fn a_matrix_comes_back_as_it_was_and_takes_a_bit_a_cell() {
        for matrix in all() {
            let bytes = write(&matrix).unwrap();
            assert_eq!(read(&bytes).unwrap(), matrix);
            assert_eq!(write(&read(&bytes).unwrap()).unwrap(), bytes);
        }
        let large = write(&matrix(Design::Share { models: 24, share: 0.5 }, 4000)).unwrap();
        assert!(large.len() < 4000 * 8 + 24 * 500 + 400, "{}", large.len());
    }

    #[test]
    fn another_version_and_another_format_are_refused() {
        let bytes = write(&all()[0]).unwrap();
        for (from, to, expected) in [
            ("sordino.inclusion", "sordino.exclusion", "got sordino.exclusion version 1"),
            (r#"format_version\":1"#, r#"format_version\":9"#, "version 1, got sordino.inclusion version 9"),
            (r#"\"seed\":11"#, r#"\"sord\":11"#, "the metadata of an inclusion matrix"),
            (r#"\"models\":5"#, r#"\"models\":4"#, "tensor 'bits': expected U8 [4, 3], got U8 [5, 3]"),
            (r#"\"rows\""#, r#"\"rows\""#, ""),
        ] {
            let at = bytes.windows(from.len()).position(|part| part == from.as_bytes());
            let Some(at) = at else { continue };
            let mut changed = bytes.clone();
            changed[at..at + to.len()].copy_from_slice(to.as_bytes());
            let message = read(&changed).map_or_else(|error| format!("{error:#}"), |_| String::new());
            assert!(message.contains(expected), "{from}: {message}");
        }
    }

    #[test]
    fn a_flipped_bit_that_breaks_the_design_is_seen() {
        let matrix = matrix(Design::Balanced { models: 6, of: 3 }, 30);
        let bytes = write(&matrix).unwrap();
        let (length, _) = bytes.split_at(8);
        let start = 8 + usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        let cells = bytes[start..].windows(8).position(|part| part == 3i64.to_le_bytes()).unwrap();
        let place = if cells < 24 { bytes.len() - 1 } else { start };
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        let message = format!("{:#}", read(&changed).unwrap_err());
        assert!(message.contains("expected each row in 3 models") || message.contains("expected zeros"), "{message}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes).is_err());
        }

        #[test]
        fn no_change_of_a_byte_makes_the_reader_panic(which in 0usize..6, at: prop::sample::Index, to: u8) {
            let mut bytes = write(&all()[which]).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(matrix) = read(&bytes) {
                prop_assert!(matrix.n_models() > 0);
            }
        }
    }
}
