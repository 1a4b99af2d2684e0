//! How the values of all rows lie: in memory, a byte or an `f32` each, or in files that are read as rows are asked for.

use sha2::{Digest, Sha256};

use super::DataError;
use super::stored::Stored;

/// The values of all rows, one row after the other.
pub(super) enum Rows {
    /// Pixels: a batch holds them divided by 255.
    Pixels(Vec<u8>),
    /// Numbers, as they are.
    Numbers(Numbers),
    /// Pixels or numbers that stay in their files.
    Stored(Stored),
}

impl Rows {
    /// Appends the values of one row of `width` values.
    ///
    /// # Panics
    ///
    /// When the row is not among the rows.
    pub(super) fn read(&self, row: usize, width: usize, into: &mut Vec<f32>) -> Result<(), DataError> {
        let range = row * width..(row + 1) * width;
        match self {
            Self::Pixels(pixels) => into.extend(pixels[range].iter().map(|&p| f32::from(p) / 255.0)),
            Self::Numbers(Numbers::Bytes(bytes)) => into.extend(bytes[range].iter().map(|&byte| f32::from(byte))),
            Self::Numbers(Numbers::Floats(numbers)) => into.extend_from_slice(&numbers[range]),
            Self::Stored(stored) => stored.read(row, into)?,
        }
        Ok(())
    }

    /// Adds the values to a digest: pixels as bytes, numbers as little-endian `f32`, however they lie.
    pub(super) fn hash(&self, hash: &mut Sha256) -> Result<(), DataError> {
        match self {
            Self::Pixels(pixels) => hash.update(pixels),
            Self::Numbers(Numbers::Bytes(bytes)) => {
                let numbers =
                    |bytes: &[u8]| bytes.iter().flat_map(|&b| f32::from(b).to_le_bytes()).collect::<Vec<u8>>();
                bytes.chunks(1 << 16).for_each(|bytes| hash.update(numbers(bytes)));
            }
            Self::Numbers(Numbers::Floats(numbers)) => {
                numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
            }
            Self::Stored(stored) => stored.hash(hash)?,
        }
        Ok(())
    }

    /// Whether the values are pixels.
    pub(super) fn are_pixels(&self) -> bool {
        match self {
            Self::Pixels(_) => true,
            Self::Numbers(_) => false,
            Self::Stored(stored) => stored.are_pixels(),
        }
    }
}

/// Numbers in memory: a byte each while all are whole and at most 255, as the 0 and 1 of the published sets are.
pub(super) enum Numbers {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

impl Default for Numbers {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Numbers {
    pub(super) fn push(&mut self, number: f32) {
        match self {
            Self::Floats(numbers) => numbers.push(number),
            Self::Bytes(bytes) => match as_byte(number) {
                Some(byte) => bytes.push(byte),
                None => {
                    let mut numbers: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte)).collect();
                    numbers.push(number);
                    *self = Self::Floats(numbers);
                }
            },
        }
    }

    pub(super) fn extend(&mut self, numbers: &[f32]) {
        numbers.iter().for_each(|&number| self.push(number));
    }
}

/// The byte that stands for this number, bit for bit (so not for -0.0).
pub(super) fn as_byte(number: f32) -> Option<u8> {
    let byte = number as u8;
    (f32::from(byte).to_bits() == number.to_bits()).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &Rows) -> Vec<u8> {
        let mut hash = Sha256::new();
        rows.hash(&mut hash).unwrap();
        hash.finalize().to_vec()
    }

    #[test]
    fn small_whole_numbers_take_a_byte_and_read_and_hash_as_floats() {
        for numbers in [vec![0.0, 1.0, 255.0, 7.0], vec![0.0, 1.0, 256.0, 7.0], vec![1.0, -0.0], vec![0.5, 2.0]] {
            let mut built = Numbers::default();
            built.extend(&numbers);
            let small =
                numbers.iter().all(|number| [0.0, 1.0, 255.0, 7.0].contains(number) && number.is_sign_positive());
            assert_eq!(matches!(built, Numbers::Bytes(_)), small, "{numbers:?}");
            let (built, plain) = (Rows::Numbers(built), Rows::Numbers(Numbers::Floats(numbers.clone())));
            let mut read = Vec::new();
            (0..numbers.len()).for_each(|row| built.read(row, 1, &mut read).unwrap());
            assert!(read.iter().zip(&numbers).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert_eq!(digest(&built), digest(&plain));
        }
    }
}
