//! What a report tells about the run: the command line, the commit, the machine; and what the record of a training claims.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::audit::report::{Claim, Figure};
use crate::cli::origin::{Commit, Machine};

/// The command line as it was typed, of the program its name alone and of absolute paths the last part alone: a
/// report never tells about the machine that it was made on.
pub(super) fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| {
        let word = shortened(&word);
        if word.contains(' ') { format!("'{word}'") } else { word }
    });
    std::iter::once("sordino".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word of the command line: `/a/b`, `csv:/a/b`, `--data=/a/b` without `/a/`. A URL stays as it is.
fn shortened(word: &str) -> String {
    if word.contains("://") {
        return word.to_owned();
    }
    let start = if word.starts_with('/') { Some(0) } else { [":/", "=/"].iter().filter_map(|at| word.find(at)).min() };
    let Some(start) = start else { return word.to_owned() };
    let (prefix, path) = word.split_at(if start == 0 { 0 } else { start + 1 });
    format!("{prefix}{}", file_name(Path::new(path)))
}

/// The last part of a path, which is all that a report holds of one.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The commit that this program was built from.
pub(super) fn commit() -> Figure<String> {
    Figure::or(Commit::of_build().map(|commit| commit.to_string()), "not built in a checkout of the source")
}

/// The machine in words: processor, cores, operating system.
pub(super) fn machine() -> String {
    Machine::here().to_string()
}

/// The privacy that the run record of a training claims.
///
/// # Errors
/// When it cannot be read, claims nothing, or claims what is no (ε, δ).
pub(super) fn claim(path: &Path) -> anyhow::Result<Claim> {
    #[derive(Deserialize)]
    struct Record {
        privacy: Option<Claim>,
    }
    let shown = path.display();
    let record: Record =
        serde_json::from_slice(&super::read(path)?).with_context(|| format!("{shown}: not a run record"))?;
    let claim = record.privacy.with_context(|| format!("{shown}: the record claims no privacy"))?;
    let Claim { epsilon, delta } = claim;
    let holds = epsilon >= 0.0 && (0.0..1.0).contains(&delta);
    ensure!(holds, "{shown}: expected a claim of an ε of 0 or more and a δ of 0 to 1, got ε = {epsilon}, δ = {delta}");
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_command_line_holds_no_absolute_path() {
        for (typed, shown) in [
            ("/a/b/m.onnx", "m.onnx"),
            ("csv:/a/b", "csv:b"),
            ("--data=csv:/a/b", "--data=csv:b"),
            ("--model=/a/m.onnx", "--model=m.onnx"),
            ("target/m.onnx", "target/m.onnx"),
            ("http://127.0.0.1:8000/v2", "http://127.0.0.1:8000/v2"),
            ("--seed", "--seed"),
        ] {
            assert_eq!(shortened(typed), shown);
        }
    }
}
