//! Answers that are kept in a file while they come, so that an audit goes on where it stopped.
//!
//! A line of JSON says what was asked of whom; then blocks follow, each of a batch: the number of rows (u32), their
//! numbers in the data set (u64 each), the values (f64 each), and the SHA-256 over the line and all of the block
//! before it; little-endian. A block that is cut off at the end is asked anew; one that was changed is an error.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const DIGEST_BYTES: usize = 32;
const FORMAT: &str = "sordino.answers";

/// What was asked of whom: answers to another question are not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Always `sordino.answers`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Path of the model at its endpoint.
    pub model: String,
    /// SHA-256 of the metadata that the model gave.
    pub metadata_digest: String,
    /// The output that is read.
    pub output: String,
    /// SHA-256 of the data set.
    pub dataset_digest: String,
    /// Values in each answer.
    pub n_values: usize,
}

impl Question {
    /// A question in the present format.
    #[must_use]
    pub fn new(
        model: String,
        metadata_digest: String,
        output: String,
        dataset_digest: String,
        n_values: usize,
    ) -> Self {
        Self { format: FORMAT.to_owned(), version: 1, model, metadata_digest, output, dataset_digest, n_values }
    }
}

/// Why kept answers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file could not be read or written.
    #[error("cannot use {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The file is none of answers.
    #[error("{} is not a file of kept answers: it is left as it is", path.display())]
    OtherFile {
        /// The file.
        path: PathBuf,
    },
    /// The answers are to another question.
    #[error(
        "the answers in {} are of another {what}: remove the file, or name another with --answers",
        path.display()
    )]
    OtherQuestion {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A block was changed.
    #[error("the answers in {} were changed after {n_rows} rows: remove the file, and ask again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Rows before the block.
        n_rows: usize,
    },
}

/// A file of answers, open to be added to.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: File,
    head: Vec<u8>,
    n_values: usize,
}

impl Kept {
    /// Opens or makes the file, and gives the answers that it holds by row.
    ///
    /// # Errors
    /// [`KeptError`]; the file is left as it is then.
    pub fn open(path: &Path, question: &Question) -> Result<(Self, HashMap<usize, Vec<f64>>), KeptError> {
        let io = |error| KeptError::Io { path: path.to_owned(), error };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let mut head = serde_json::to_vec(question).map_err(|error| io(error.into()))?;
        head.push(b'\n');
        let n_values = question.n_values;
        if bytes.is_empty() {
            file.write_all(&head).map_err(io)?;
            return Ok((Self { path: path.to_owned(), file, head, n_values }, HashMap::new()));
        }
        same_question(path, &bytes, question)?;
        let (answers, n_bytes) = blocks(path, &bytes, &head, n_values)?;
        file.set_len(n_bytes as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok((Self { path: path.to_owned(), file, head, n_values }, answers))
    }

    /// Adds the answers to `rows`, `n_values` each, and sees them onto the disk.
    ///
    /// # Errors
    /// [`KeptError::Io`].
    pub fn add(&mut self, rows: &[usize], values: &[f64]) -> Result<(), KeptError> {
        debug_assert_eq!(values.len(), rows.len() * self.n_values);
        let mut block = (rows.len() as u32).to_le_bytes().to_vec();
        rows.iter().for_each(|&row| block.extend((row as u64).to_le_bytes()));
        values.iter().for_each(|value| block.extend(value.to_le_bytes()));
        let digest = digest(&self.head, &block);
        block.extend(digest);
        let written = self.file.write_all(&block).and_then(|()| self.file.sync_data());
        written.map_err(|error| KeptError::Io { path: self.path.clone(), error })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn digest(head: &[u8], block: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(head);
    hasher.update(block);
    hasher.finalize().into()
}

fn same_question(path: &Path, bytes: &[u8], question: &Question) -> Result<(), KeptError> {
    let other_file = || KeptError::OtherFile { path: path.to_owned() };
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let found: Question = serde_json::from_slice(line).map_err(|_| other_file())?;
    if found.format != FORMAT {
        return Err(other_file());
    }
    let differs = [
        ("version of the format", found.version != question.version),
        ("model", found.model != question.model),
        ("state of the model (its metadata differ)", found.metadata_digest != question.metadata_digest),
        ("output", found.output != question.output || found.n_values != question.n_values),
        ("data set", found.dataset_digest != question.dataset_digest),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(KeptError::OtherQuestion { path: path.to_owned(), what }),
        None => Ok(()),
    }
}

/// The answers of all whole blocks, and where the last of them ends.
fn blocks(
    path: &Path,
    bytes: &[u8],
    head: &[u8],
    n_values: usize,
) -> Result<(HashMap<usize, Vec<f64>>, usize), KeptError> {
    let mut answers = HashMap::new();
    let mut at = head.len();
    while let Some(count) = bytes.get(at..at + 4) {
        let n_rows = u32::from_le_bytes([count[0], count[1], count[2], count[3]]) as usize;
        let n_bytes = n_rows.saturating_mul(8 + 8 * n_values).saturating_add(4);
        let Some(block) = bytes.get(at..at.saturating_add(n_bytes)) else { break };
        let end = at + n_bytes;
        let Some(stated) = bytes.get(end..end + DIGEST_BYTES) else { break };
        if stated != digest(head, block) {
            return Err(KeptError::Changed { path: path.to_owned(), n_rows: answers.len() });
        }
        let eights: Vec<[u8; 8]> = block[4..].as_chunks().0.to_vec();
        let (rows, values) = eights.split_at(n_rows);
        for (row, values) in rows.iter().zip(values.chunks_exact(n_values.max(1))) {
            let values = values.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
            answers.insert(u64::from_le_bytes(*row) as usize, values);
        }
        at = end + DIGEST_BYTES;
    }
    Ok((answers, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(model: &str) -> Question {
        Question::new(model.to_owned(), "m".to_owned(), "p".to_owned(), "d".to_owned(), 2)
    }

    #[test]
    fn what_was_kept_is_there_again_and_a_cut_block_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.answers");
        let (mut kept, before) = Kept::open(&path, &question("m")).unwrap();
        assert!(before.is_empty());
        kept.add(&[7, 3], &[0.25, 0.75, 1.0, 0.0]).unwrap();
        kept.add(&[4], &[0.5, 0.5]).unwrap();
        drop(kept);
        let whole = std::fs::read(&path).unwrap();
        let (_, answers) = Kept::open(&path, &question("m")).unwrap();
        assert_eq!(answers, HashMap::from([(7, vec![0.25, 0.75]), (3, vec![1.0, 0.0]), (4, vec![0.5, 0.5])]));
        // Wherever it is cut, the whole blocks before stay, and it can be added to.
        for end in whole.len() - 40..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let (mut kept, answers) = Kept::open(&path, &question("m")).unwrap();
            assert_eq!(answers.len(), 2, "{end}");
            kept.add(&[4], &[0.5, 0.5]).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn other_questions_and_changed_answers_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.answers");
        let (mut kept, _) = Kept::open(&path, &question("m")).unwrap();
        kept.add(&[7], &[0.25, 0.75]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let refused = Kept::open(&path, &question("other")).unwrap_err().to_string();
        assert!(refused.contains("another model") && refused.contains("--answers"), "{refused}");
        let mut changed = whole.clone();
        let place = changed.len() - 40;
        changed[place] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert!(matches!(Kept::open(&path, &question("m")), Err(KeptError::Changed { n_rows: 0, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), changed);
        std::fs::write(&path, "my thesis").unwrap();
        assert!(matches!(Kept::open(&path, &question("m")), Err(KeptError::OtherFile { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"my thesis");
    }
}
