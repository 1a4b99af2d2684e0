//! Stamps the commit of the source into the build, for the records that `train` and `audit` leave.
//!
//! Sets `SORDINO_BUILD_COMMIT` (40 digits, or nothing) and `SORDINO_BUILD_DIRTY` (`true` or `false`). Without git, or
//! in sources that are not the root of a working tree (a tarball, a container), the commit is empty; the build never
//! fails for it.

use std::path::Path;
use std::process::Command;

/// What decides the binary. Only changes here make a build dirty, and a change to any of them stamps anew.
const SOURCES: [&str; 7] =
    ["build.rs", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "models", "centroids"];

fn main() {
    for path in SOURCES.into_iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    // A source tree inside of somebody else's repository is not of that repository's commit.
    let is_root = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let commit = git(&["rev-parse", "--verify", "HEAD"]).filter(|_| is_root).unwrap_or_default();
    let mut changes = vec!["status", "--porcelain", "--untracked-files=no", "--"];
    changes.extend(SOURCES);
    let dirty = !commit.is_empty() && git(&changes).is_none_or(|text| !text.is_empty());
    if !commit.is_empty() {
        watch_the_head();
    }
    println!("cargo::rustc-env=SORDINO_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=SORDINO_BUILD_DIRTY={dirty}");
}

/// Names the files that change when another commit is checked out or made, of a linked working tree too.
fn watch_the_head() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    // A packed branch has no file of its own until its next commit, which makes one in this folder.
    let names = ["HEAD", branch.as_deref().unwrap_or("HEAD"), "packed-refs", "refs/heads"];
    let path = |name: &str| git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
    let found: Vec<String> = names[..2].iter().filter_map(|name| path(name)).collect();
    let fallback = names[2..].iter().filter_map(|name| path(name)).filter(|_| found.len() < 2);
    for path in found.iter().cloned().chain(fallback) {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git says, where there is one and it succeeds.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("--no-optional-locks")
        .args(words)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
