//! The program from the command line, for tests of several commands.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program in a folder with these words.
pub(crate) fn sordino(dir: &Path, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sordino")).args(words.split_whitespace()).current_dir(dir).output().unwrap()
}

/// What it prints, where it succeeds.
pub(crate) fn done(dir: &Path, words: &str) -> String {
    let output = sordino(dir, words);
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it says, where it fails.
pub(crate) fn refused(dir: &Path, words: &str) -> String {
    let output = sordino(dir, words);
    assert!(!output.status.success(), "{words}");
    String::from_utf8(output.stderr).unwrap()
}
