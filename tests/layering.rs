//! Who may name whom: the table of the house, held against the paths in `src`.
//!
//! Textual: it looks for `crate::room`, `super::` chains that climb out of a room, and the offline door. Paths made
//! by macros escape it; `lib.rs` re-exports nothing, so every path names its room.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms that it may name. A room names only rooms above its line.
const MAY_NAME: [(&str, &[&str]); 12] = [
    ("tensor", &[]),
    ("defence", &[]),
    ("artifact", &["defence", "tensor"]),
    ("protocol", &["defence", "tensor"]),
    ("data", &["tensor"]),
    ("engine", &["artifact", "defence", "protocol", "tensor"]),
    ("pipeline", &["artifact", "defence", "engine", "protocol", "tensor"]),
    ("client", &["artifact", "defence", "engine", "pipeline", "protocol", "tensor"]),
    ("server", &["artifact", "client", "defence", "engine", "pipeline", "protocol", "tensor"]),
    ("audit", &["artifact", "client", "data", "defence", "engine", "pipeline", "protocol", "tensor"]),
    ("lab", &["artifact", "audit", "client", "data", "defence", "engine", "pipeline", "protocol", "tensor"]),
    (
        "cli",
        &[
            "artifact", "audit", "client", "data", "defence", "engine", "lab", "pipeline", "protocol", "server",
            "tensor",
        ],
    ),
];

/// Who may open sealed scores, by `defence::offline`: never the server, the protocols or the pipeline.
const MAY_OPEN_SCORES: [&str; 2] = ["audit", "cli/centroids"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The path below `src`, its extension dropped, and the text without comments.
fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().with_extension("").to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
        (name, code.join("\n"))
    };
    paths.into_iter().map(read).collect()
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap()
}

/// Names right after `prefix`, `{a, b::c}` groups taken apart.
fn named_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let word = |text: &'a str| text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (position, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    names.push(word(&group[start..position]));
                    start = position + 1;
                }
                '}' if depth == 0 => {
                    names.push(word(&group[start..position]));
                    break;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn each_row_of_the_table_names_only_rows_above_it() {
    for (line, (room, may_name)) in MAY_NAME.iter().enumerate() {
        for named in *may_name {
            let above = MAY_NAME[..line].iter().any(|(above, _)| above == named);
            assert!(above, "'{room}' may name '{named}', which is not above it");
        }
    }
    assert!(!MAY_NAME.iter().any(|(room, named)| *room == "audit" && named.contains(&"server")));
    assert!(!MAY_NAME.iter().any(|(room, named)| *room == "lab" && named.contains(&"server")));
}

#[test]
fn every_folder_is_a_room_of_the_table() {
    let rooms: BTreeSet<&str> = MAY_NAME.iter().map(|(room, _)| *room).chain(["lib", "main"]).collect();
    for (file, _) in files() {
        assert!(rooms.contains(room(&file)), "src/{file}.rs is in no room of the table");
    }
}

#[test]
fn rooms_name_only_the_rooms_that_they_may() {
    let mut arrows = Vec::new();
    for (file, code) in files() {
        let Some((_, may_name)) = MAY_NAME.iter().find(|(name, _)| *name == room(&file)) else { continue };
        for named in named_after(&code, "crate::") {
            let is_room = MAY_NAME.iter().any(|(name, _)| *name == named);
            if is_room && named != room(&file) && !may_name.contains(&named) {
                arrows.push(format!("src/{file}.rs names crate::{named}"));
            }
        }
    }
    assert!(arrows.is_empty(), "arrows that the table does not hold:\n{}", arrows.join("\n"));
}

#[test]
fn no_chain_of_super_climbs_out_of_its_room() {
    for (file, code) in files() {
        let depth = file.split('/').count();
        let to_root = if file.ends_with("/mod") { depth - 1 } else { depth };
        // A `mod tests` inside of a file is one level deeper.
        let (own, tests) = code.split_once("mod tests {").unwrap_or((&code, ""));
        for (code, to_root) in [(own, to_root), (tests, to_root + 1)] {
            let chain = "super::".repeat(to_root);
            assert!(!code.contains(&chain), "src/{file}.rs climbs out of its room by {chain}");
        }
    }
}

#[test]
fn only_offline_code_opens_sealed_scores() {
    for (file, code) in files() {
        let is_test = file.ends_with("/tests") || file.contains("/tests/");
        let allowed =
            is_test || room(&file) == "defence" || MAY_OPEN_SCORES.iter().any(|place| file.starts_with(place));
        // The bare word is enough: an alias or a group would hide a path.
        let opens = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "offline");
        assert!(allowed || !opens, "src/{file}.rs opens sealed scores");
    }
}

#[test]
fn the_root_re_exports_nothing() {
    let (_, root) = files().into_iter().find(|(file, _)| file == "lib").unwrap();
    assert!(!root.contains("pub use"), "src/lib.rs re-exports: its paths would escape this test");
}

#[test]
fn the_scanner_sees_groups_and_nested_paths() {
    let code = "use crate::{defence::{Defended, Form}, tensor};\nfn f() { crate::server::run() } use crate::cli;";
    assert_eq!(named_after(code, "crate::"), ["defence", "tensor", "server", "cli"]);
    assert_eq!(named_after("my_crate::x; a::crate::y", "crate::"), Vec::<&str>::new());
}
