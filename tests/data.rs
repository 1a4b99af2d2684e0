//! Rows and splits, seen from outside: what the commands write, and that the others take it.

use std::fs;
use std::path::Path;
use std::process::Command;

use sordino::data::{DataSource, Dataset, Groups, Memory, Part, Split};

/// Runs the program in `dir`; the answer is whether it went well, and what it said.
fn sordino(dir: &Path, words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sordino")).args(words).current_dir(dir).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn source(words: &str) -> DataSource {
    words.parse().unwrap()
}

#[test]
fn every_machine_makes_the_same_look_alike_and_draws_the_same_split() {
    let dir = tempfile::tempdir().unwrap();
    let words =
        ["split", "--data", "purchase-look-alike:2000:3", "--train", "50%", "--test", "500", "--shadow", "rest"];
    let options = ["--stratified", "--group-near-duplicates", "--seed", "11", "--out", "s.json"];
    let (is_well, said) = sordino(dir.path(), &[&words[..], &options].concat());
    assert!(is_well, "{said}");
    assert!(said.starts_with("purchase-look-alike:2000:3\n"), "whatever is said of it says look-alike: {said}");
    assert!(said.contains("train 1000, validation 0, calibration 0, test 500, shadow 500; in no part 0"), "{said}");
    let split = Split::read(&dir.path().join("s.json")).unwrap();
    assert_eq!(split.dataset_digest(), "7092c81bfc8344c0afd8b82e222a96b818e47507141c9c61d6ad8448a491b086");
    assert_eq!(split.digest(), "77ce657ceff8e5cf8981bb53b2d4a6a17346a05b30931fe3f1a9e6981083ea49");
}

#[test]
fn rows_are_taken_out_of_the_train_part_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let data = ["--data", "purchase-look-alike:1500"];
    let (is_well, said) = sordino(
        dir.path(),
        &[&["split"], &data[..], &["--train", "1400", "--test", "100", "--out", "a.json"]].concat(),
    );
    assert!(is_well, "{said}");
    let before = Split::read(&dir.path().join("a.json")).unwrap();
    let [first, second] = [0, 7].map(|at| before.part(Part::Train)[at]);
    fs::write(dir.path().join("rows.txt"), format!("# vulnerable\n{first}\n{second}\n")).unwrap();
    let without = ["--split", "a.json", "--without", "rows.txt", "--out"];
    let (is_well, said) = sordino(dir.path(), &[&["split"], &data[..], &without, &["b.json"]].concat());
    assert!(is_well && said.contains("2 rows taken out of the train part"), "{said}");
    let after = Split::read(&dir.path().join("b.json")).unwrap();
    assert_eq!(after.part(Part::Train).len(), 1398);
    assert!(!after.part(Part::Train).contains(&first) && after.removed().contains(&second));
    for input in ["a.json", "rows.txt"] {
        let (is_well, said) = sordino(dir.path(), &[&["split"], &data[..], &without, &[input]].concat());
        assert!(!is_well && said.contains("is an input"), "{said}");
    }
    fs::write(dir.path().join("rows.txt"), format!("{}\n", before.part(Part::Test)[0])).unwrap();
    let (is_well, said) = sordino(dir.path(), &[&["split"], &data[..], &without, &["c.json"]].concat());
    assert!(!is_well && said.contains("expected rows of the part train"), "{said}");
}

#[test]
fn converted_rows_are_the_same_rows_and_may_stay_in_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["data", "convert", "--data", "purchase-look-alike:1000", "--values", "u8", "--out", "arrays"];
    let (is_well, said) = sordino(dir.path(), &words);
    assert!(is_well && said.contains("purchase-look-alike:1000:0: 1000 rows of shape [600], 100 classes"), "{said}");
    let made = Dataset::load(&source("purchase-look-alike:1000")).unwrap();
    let arrays = source(&format!("npy:{}", dir.path().join("arrays").display()));
    for memory in [Memory::NONE, Memory::default()] {
        let read = Dataset::load_within(&arrays, memory).unwrap();
        assert_eq!((read.digest(), read.class_names()), (made.digest(), made.class_names()));
        assert_eq!(read.batch(&[999, 0]), made.batch(&[999, 0]));
        assert_eq!(Groups::find(&read, None).unwrap(), Groups::find(&made, None).unwrap());
    }
    let words = ["data", "convert", "--data", "npy:arrays", "--out", "arrays"];
    let (is_well, said) = sordino(dir.path(), &words);
    assert!(!is_well && said.contains("is an input"), "{said}");
}

#[test]
fn an_unknown_source_is_told_with_all_forms() {
    let dir = tempfile::tempdir().unwrap();
    let (is_well, said) = sordino(dir.path(), &["split", "--data", "cifar100:x", "--train", "5", "--out", "s.json"]);
    assert!(!is_well);
    for form in ["cifar10:DIR", "parquet:FILE[,label=COLUMN]", "npz:FILE[,x=NAME][,y=NAME]", "purchase-look-alike"] {
        assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(form), "{form}: {said}");
    }
}
