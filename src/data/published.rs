//! The sets that papers on membership inference use, in the forms in which they are published: Purchase100,
//! Texas100 and Location30.

use std::path::{Path, PathBuf};

use super::gather::Take;
use super::table::{self, Column};
use super::values::{Numbers, Rows};
use super::{Classes, DataError, Dataset, Memory, Place, npy};

/// One of the sets. Classes are numbered from 1, features are 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// 600 features, 100 classes.
    Purchase100,
    /// 6,169 features, 100 classes.
    Texas100,
    /// 446 features, 30 classes.
    Location30,
}

/// The files of a folder in which features and labels lie apart, as Texas100 is published.
const FEATURES_FILE: &str = "feats";
const LABELS_FILE: &str = "labels";

impl Published {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Purchase100, Self::Texas100, Self::Location30];

    /// The word that names it in a source.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Purchase100 => "purchase100",
            Self::Texas100 => "texas100",
            Self::Location30 => "location30",
        }
    }

    /// Features of a row.
    #[must_use]
    pub fn n_features(self) -> usize {
        match self {
            Self::Purchase100 => 600,
            Self::Texas100 => 6_169,
            Self::Location30 => 446,
        }
    }

    /// Classes; their names are the numbers from 1 to this.
    #[must_use]
    pub fn n_classes(self) -> usize {
        match self {
            Self::Purchase100 | Self::Texas100 => 100,
            Self::Location30 => 30,
        }
    }

    fn classes(self) -> Classes {
        Classes::named((1..=self.n_classes()).map(|label| label.to_string()).collect())
    }

    /// Loads the set from a table (the label first), from a folder with `feats` and `labels`, or from an `.npz`
    /// archive with `features` and one-hot `labels`.
    pub(super) fn load(self, path: &Path, memory: Memory) -> Result<Dataset, DataError> {
        if path.extension().is_some_and(|ending| ending == "npz") {
            let data = npy::load_archive(path, None, None, Some(self.classes()), memory)?;
            if data.row_shape() != [self.n_features()] {
                let expected = format!("rows of {} features", self.n_features());
                return Err(DataError::bad_file(path, expected, format!("shape {:?}", data.row_shape())));
            }
            return Ok(data);
        }
        let (mut labels, mut numbers) = (Vec::new(), Numbers::default());
        if path.is_dir() {
            let file = find(path, LABELS_FILE);
            // One number a line: no label, and the number is the label.
            table::scan_file(&file, Column::None, &mut |place, _, fields| {
                labels.push(self.label(&file, place, &fields[0].to_string())?);
                Ok(())
            })?;
            let file = find(path, FEATURES_FILE);
            let mut n_rows = 0;
            table::scan_file(&file, Column::None, &mut |place, _, features| {
                n_rows += 1;
                self.push(&file, place, features, &mut numbers)
            })?;
            if n_rows != labels.len() {
                let expected = format!("{} rows, one a label", labels.len());
                return Err(DataError::bad_file(&file, expected, format!("{n_rows}")));
            }
        } else {
            let take: &mut Take<'_> = &mut |place, label, features| {
                labels.push(self.label(path, place, label)?);
                self.push(path, place, features, &mut numbers)
            };
            table::scan_file(path, Column::First, take)?;
        }
        if labels.is_empty() {
            return Err(DataError::bad_file(path, "rows", "none"));
        }
        Dataset::checked(vec![self.n_features()], self.classes(), labels, Rows::Numbers(numbers))
    }

    fn label(self, path: &Path, place: Place, word: &str) -> Result<u32, DataError> {
        let label = word.trim().parse::<u32>().ok().filter(|label| (1..=self.n_classes() as u32).contains(label));
        label.map(|label| label - 1).ok_or_else(|| {
            DataError::bad_row(path, place, format!("a label from 1 to {}", self.n_classes()), "something else")
        })
    }

    fn push(self, path: &Path, place: Place, features: &[f32], numbers: &mut Numbers) -> Result<(), DataError> {
        if features.len() != self.n_features() {
            let expected = format!("{} features", self.n_features());
            return Err(DataError::bad_row(path, place, expected, features.len().to_string()));
        }
        numbers.extend(features);
        Ok(())
    }

    /// The files that are read from `path`.
    pub(super) fn files(path: &Path) -> Vec<PathBuf> {
        if path.is_dir() { vec![find(path, LABELS_FILE), find(path, FEATURES_FILE)] } else { vec![path.to_owned()] }
    }
}

/// `dir/stem`, or `dir/stem.gz` where that is what there is.
fn find(dir: &Path, stem: &str) -> PathBuf {
    let (plain, packed) = (dir.join(stem), dir.join(format!("{stem}.gz")));
    if !plain.exists() && packed.exists() { packed } else { plain }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn row(n: usize, seed: usize) -> String {
        (0..n).map(|at| if (at * 7 + seed).is_multiple_of(3) { "1" } else { "0" }).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn tables_as_published_are_read_quoted_or_not() {
        let dir = tempfile::tempdir().unwrap();
        for set in Published::ALL {
            let n = set.n_features();
            let path = dir.path().join(set.name());
            fs::write(&path, format!("\"{}\",{}\n2,{}\n", set.n_classes(), row(n, 0), row(n, 1))).unwrap();
            let data = set.load(&path, Memory::default()).unwrap();
            assert_eq!((data.n_rows(), data.n_classes(), data.row_shape()), (2, set.n_classes(), [n].as_slice()));
            assert_eq!(data.labels(), [set.n_classes() as u32 - 1, 1]);
            assert_eq!(data.class_names()[0], "1");
            assert_eq!(data.batch(&[1]).iter().copied().take(4).collect::<Vec<_>>(), [0.0, 0.0, 1.0, 0.0]);
        }
    }

    #[test]
    fn features_and_labels_may_lie_apart() {
        let dir = tempfile::tempdir().unwrap();
        let set = Published::Texas100;
        fs::write(dir.path().join("feats"), format!("{}\n{}\n", row(6_169, 0), row(6_169, 1))).unwrap();
        fs::write(dir.path().join("labels"), "100\n3\n").unwrap();
        let data = set.load(dir.path(), Memory::default()).unwrap();
        assert_eq!((data.labels(), data.row_shape()), ([99, 2].as_slice(), [6_169].as_slice()));
        fs::write(dir.path().join("labels"), "100\n3\n4\n").unwrap();
        let error = set.load(dir.path(), Memory::default()).unwrap_err().to_string();
        assert!(error.ends_with("feats: expected 3 rows, one a label, got 2"), "{error}");
    }

    #[test]
    fn labels_and_widths_of_other_sets_are_refused_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let load = |text: String| {
            fs::write(&path, text).unwrap();
            Published::Purchase100.load(&path, Memory::default()).unwrap_err().to_string()
        };
        let good = row(600, 0);
        assert!(
            load(format!("1,{good}\n0,{good}\n"))
                .ends_with("line 2: expected a label from 1 to 100, got something else")
        );
        assert!(load(format!("cat,{good}\n")).contains("line 1: expected a label from 1 to 100"));
        assert!(load(format!("1,{}\n", row(599, 0))).ends_with("line 1: expected 600 features, got 599"));
        assert!(load(String::new()).ends_with("expected rows, got none"));
    }
}
