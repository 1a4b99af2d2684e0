//! Differential privacy, seen from outside: the accountant's command and what a private training leaves behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn sordino(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
    command.current_dir(dir).args(line.split(' ')).output().unwrap()
}

fn write_table(dir: &Path) {
    let mut text = String::from("label,a,b,c\n");
    for row in 0..120 {
        let label = row % 2;
        text += &format!("\"{label}\",{},{},{}\n", label + row % 3, row % 7, 1 - label);
    }
    fs::write(dir.join("table.csv"), text).unwrap();
}

const TRAIN: &str = "train --data csv:table.csv --out m.onnx --network mlp --hidden 6 --train-rows 80 --test-rows 40 \
                     --batch-size 8 --epochs 2 --dp-clip 1";

#[test]
fn the_accountant_answers_in_words_and_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let line = "accountant --noise-multiplier 1 --sampling-rate 1/1234 --epochs 200 --delta 1/157859";
    let words = String::from_utf8(sordino(dir.path(), line).stdout).unwrap();
    assert!(words.contains("2.3759") && words.contains("one training run"), "{words}");
    let answer: Value = serde_json::from_slice(&sordino(dir.path(), &format!("{line} --json")).stdout).unwrap();
    assert_eq!(answer["steps"], 246_800);
    assert!((answer["epsilon"].as_f64().unwrap() - 2.375_857).abs() < 1e-6);
    let line = "accountant --target-epsilon 4 --rows 50000 --batch-size 64 --epochs 100 --json";
    let answer: Value = serde_json::from_slice(&sordino(dir.path(), line).stdout).unwrap();
    let epsilon = answer["epsilon"].as_f64().unwrap();
    assert!(epsilon <= 4.0 && epsilon > 3.999, "{answer}");
    let refused = sordino(dir.path(), "accountant --target-epsilon 0.01 --rows 1000 --batch-size 10 --epochs 1");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("no noise gives epsilon"));
}

#[test]
fn a_private_training_records_what_it_spent_and_what_that_means() {
    let dir = tempfile::tempdir().unwrap();
    write_table(dir.path());
    let output = sordino(dir.path(), &format!("{TRAIN} --dp-target-epsilon 3"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&fs::read(dir.path().join("m.json")).unwrap()).unwrap();
    let privacy = &record["privacy"];
    let epsilon = privacy["epsilon"].as_f64().unwrap();
    assert!(epsilon <= 3.0 && epsilon > 2.99, "{privacy}");
    assert_eq!((&privacy["steps"], &privacy["delta"]), (&Value::from(20), &Value::from(1.0 / 80.0)));
    assert_eq!((&privacy["secret_noise"], &privacy["sampling"]), (&Value::from(false), &Value::from("poisson")));
    let card = fs::read_to_string(dir.path().join("m.md")).unwrap();
    assert!(card.contains("differentially private") && card.contains("drawn from the seed"), "{card}");
    assert!(!card.contains("gives no differential privacy"), "{card}");
}

#[test]
fn a_secret_stays_out_of_every_file() {
    let dir = tempfile::tempdir().unwrap();
    write_table(dir.path());
    let secret = "a secret of more than thirty-two bytes for a test";
    fs::write(dir.path().join("key"), secret).unwrap();
    let output = sordino(dir.path(), &format!("{TRAIN} --dp-noise-multiplier 1 --dp-secret key"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["m.json", "m.md", "m.onnx"] {
        let bytes = fs::read(dir.path().join(file)).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{file}");
    }
    let record: Value = serde_json::from_slice(&fs::read(dir.path().join("m.json")).unwrap()).unwrap();
    assert_eq!(record["privacy"]["secret_noise"], true);
    // Its recipe asks for the secret again, before anything is read or written.
    let again = "train --data csv:table.csv --out again.onnx --train-rows 80 --recipe m.json";
    let refused = sordino(dir.path(), again);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("--dp-secret: the recipe draws its noise"), "{message}");
    assert!(!dir.path().join("again.checkpoint").exists());
    let given = sordino(dir.path(), &format!("{again} --dp-secret key"));
    assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
    fs::write(dir.path().join("key"), "short").unwrap();
    let refused = sordino(dir.path(), &format!("{TRAIN} --dp-noise-multiplier 1 --dp-secret key"));
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("at least 32 bytes"));
}
