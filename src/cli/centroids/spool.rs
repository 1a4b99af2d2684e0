//! The logits of all rows between the two passes: in memory while they are few, then in a file without a name.

use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::Context as _;
use tempfile::SpooledTempFile;

/// Bytes that stay in memory: ImageNet's 1.3 million rows of 1,000 logits do not, those of CIFAR or Purchase100 do.
const IN_MEMORY: usize = 64 << 20;

/// Logits of rows of one width, written once in order. Nothing of it outlives the process: the file that it may
/// need has no name (Linux), or is deleted as soon as it is made.
pub(super) struct Spool {
    file: BufWriter<SpooledTempFile>,
    n_classes: usize,
}

impl Spool {
    /// An empty spool, whose file would lie in `dir`.
    pub(super) fn new(dir: &Path, n_classes: usize) -> Self {
        Self::with_memory(dir, n_classes, IN_MEMORY)
    }

    fn with_memory(dir: &Path, n_classes: usize, in_memory: usize) -> Self {
        Self { file: BufWriter::new(tempfile::spooled_tempfile_in(in_memory, dir)), n_classes }
    }

    /// Appends one row.
    pub(super) fn push(&mut self, logits: &[f32]) -> anyhow::Result<()> {
        logits.iter().try_for_each(|logit| self.file.write_all(&logit.to_le_bytes())).context(FULL)
    }

    /// Ends the writing.
    pub(super) fn finish(self) -> anyhow::Result<SpooledRows> {
        let file = self.file.into_inner().map_err(|error| error.into_error()).context(FULL)?;
        Ok(SpooledRows { file, n_classes: self.n_classes })
    }
}

const FULL: &str = "cannot keep the rows' logits between the passes beside the output";

/// A spool that is read.
pub(super) struct SpooledRows {
    file: SpooledTempFile,
    n_classes: usize,
}

impl SpooledRows {
    /// Hands over every row, in order.
    pub(super) fn for_each(&mut self, mut take: impl FnMut(usize, &[f32]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let length = self.file.seek(SeekFrom::End(0)).context(LOST)?;
        self.file.rewind().context(LOST)?;
        let n_rows = usize::try_from(length / self.row_bytes()).context(LOST)?;
        let (mut bytes, mut logits) = (vec![0; 4 * self.n_classes], Vec::new());
        let mut reader = BufReader::with_capacity(1 << 18, &mut self.file);
        for row in 0..n_rows {
            reader.read_exact(&mut bytes).context(LOST)?;
            decode(&bytes, &mut logits);
            take(row, &logits)?;
        }
        Ok(())
    }

    /// One row.
    pub(super) fn row(&mut self, row: u64) -> anyhow::Result<Vec<f32>> {
        let (mut bytes, mut logits) = (vec![0; 4 * self.n_classes], Vec::new());
        self.file.seek(SeekFrom::Start(row * self.row_bytes())).context(LOST)?;
        self.file.read_exact(&mut bytes).context(LOST)?;
        decode(&bytes, &mut logits);
        Ok(logits)
    }

    fn row_bytes(&self) -> u64 {
        4 * self.n_classes.max(1) as u64
    }
}

const LOST: &str = "cannot read back the rows' logits";

fn decode(bytes: &[u8], logits: &mut Vec<f32>) {
    let number = |chunk: &[u8]| f32::from_le_bytes(chunk.try_into().unwrap_or_default());
    logits.clear();
    logits.extend(bytes.chunks_exact(4).map(number));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: usize) -> [f32; 3] {
        [row as f32, -0.5 * row as f32, f32::MIN_POSITIVE]
    }

    #[test]
    fn rows_come_back_bit_for_bit_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for in_memory in [0, 100, 1 << 20] {
            let mut spool = Spool::with_memory(dir.path(), 3, in_memory);
            (0..500).for_each(|place| spool.push(&row(place)).unwrap());
            let mut rows = spool.finish().unwrap();
            for place in [499, 0, 250] {
                assert_eq!(rows.row(place as u64).unwrap(), row(place));
            }
            for _ in 0..2 {
                let mut n = 0;
                rows.for_each(|place, logits| {
                    assert_eq!((place, logits), (n, &row(n)[..]));
                    n += 1;
                    Ok(())
                })
                .unwrap();
                assert_eq!(n, 500);
            }
            assert!(rows.row(500).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file is left");
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error() {
        let mut spool = Spool::with_memory(Path::new("no/such/folder"), 3, 0);
        let outcome = (0..10_000).try_for_each(|place| spool.push(&row(place))).and_then(|()| spool.finish().map(drop));
        assert!(outcome.unwrap_err().to_string().contains("beside the output"));
    }
}
