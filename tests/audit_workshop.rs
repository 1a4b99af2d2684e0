//! A workshop of small models, shadows and banks for tests of the audit's command, and how its reports are read.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::command_support::done;

/// Overlapping clusters, so that who is right about a training row has learned it by heart.
pub(crate) fn write_table(path: &Path, (n_rows, n_classes, n_columns): (usize, usize, usize), seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for row in 0..n_rows {
        let label = row % n_classes;
        write!(text, "{label}").unwrap();
        for column in 0..n_columns {
            let centre = if column % n_classes == label { 0.35 } else { 0.0 };
            write!(text, ",{:.3}", centre + rng.random_range(-1.0..1.0)).unwrap();
        }
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

pub(crate) const MLP: &str = "--network mlp --hidden 64 --learning-rate 0.01 --batch-size 32 --epochs 40";

/// A folder with an overfitted model `t` and its centroids, one of the same recipe and seed 2 (`u`), a shadow `s` of the
/// split's shadow rows, a shadow `o` of other data (3 classes, 12 columns), and a bank of 6 models.
pub(crate) fn workshop() -> &'static Path {
    static WORKSHOP: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = WORKSHOP.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        write_table(&dir.join("t.csv"), (900, 5, 20), 3);
        write_table(&dir.join("o.csv"), (500, 3, 12), 4);
        done(dir, "split --data csv:t.csv --train 150 --calibration 60 --test 150 --seed 1 --out t.split.json");
        done(dir, "split --data csv:o.csv --train 150 --test 150 --seed 2 --out o.split.json");
        done(dir, &format!("train --data csv:t.csv --split t.split.json {MLP} --seed 1 --out t.onnx"));
        done(dir, &format!("train --data csv:t.csv --split t.split.json {MLP} --seed 2 --out u.onnx"));
        done(dir, &format!("train --data csv:o.csv --split o.split.json {MLP} --seed 3 --out o.onnx"));
        for model in ["t", "u"] {
            let built = format!("--model {model}.onnx --data csv:t.csv --split t.split.json --out {model}.safetensors");
            done(dir, &format!("centroids build {built}"));
        }
        let plan = "shadows plan --out bank --data csv:t.csv --split t.split.json --recipe t.json --balanced 6";
        done(dir, &format!("{plan} --pool train,test"));
        done(dir, "shadows run bank --data csv:t.csv --jobs 2");
        let defence = "[defence]\nmethod = { reweight = { weight = 0.1 } }\n";
        std::fs::write(dir.join("served.toml"), defence).unwrap();
        let files = "[model]\npath = \"t.onnx\"\ncentroids = \"t.safetensors\"\n";
        std::fs::write(dir.join("serve.toml"), format!("{files}{defence}")).unwrap();
        home
    });
    made.path()
}

pub(crate) const TARGET: &str = "--data csv:t.csv --split t.split.json";
pub(crate) const QUICK: &str = "--quiet --permutations 50 --bootstrap 100";

/// Audits into `NAME.json` of the workshop, and reads it.
pub(crate) fn report(name: &str, words: &str) -> Value {
    let dir = workshop();
    done(dir, &format!("audit {words} {QUICK} --json {name}.json"));
    serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.json"))).unwrap()).unwrap()
}

pub(crate) fn system<'a>(report: &'a Value, name: &str) -> &'a Value {
    let systems = report["findings"]["systems"].as_array().unwrap();
    systems.iter().find(|found| found["name"] == name).unwrap_or_else(|| panic!("no system {name}"))
}

pub(crate) fn attack_names(system: &Value) -> Vec<&str> {
    system["attacks"].as_array().unwrap().iter().map(|found| found["attack"]["name"].as_str().unwrap()).collect()
}

pub(crate) fn value(estimate: &Value) -> f64 {
    estimate["value"].as_f64().unwrap()
}

pub(crate) fn adversaries<'a>(report: &'a Value, system: &str, number: u64) -> Vec<&'a Value> {
    let all = report["findings"]["ml_leaks"].as_array().unwrap();
    all.iter().filter(|one| one["system"] == system && one["adversary"] == number).collect()
}

/// A running server, ended with the test.
pub(crate) struct Served(Child, pub(crate) String);

impl Served {
    pub(crate) fn start(dir: &Path) -> Self {
        let words = "serve --config serve.toml --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_sordino"));
        command.args(words.split_whitespace()).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
        let name = line.split('\'').nth(1).unwrap();
        Self(child, format!("http://{address}/v2/models/{name}"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn npy(shape: &str, descr: &str, values: &[u8]) -> Vec<u8> {
    let line = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((line.len() as u16).to_le_bytes());
    bytes.extend(line.as_bytes());
    bytes.extend(values);
    bytes
}

/// 160 grey images of 8 × 8 pixels, lit a little more at the left or at the right.
pub(crate) fn write_images(dir: &Path) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for row in 0..160_usize {
        let label = row % 2;
        labels.push(label as u8);
        for place in 0..64 {
            let lit = (place % 8 < 4) == (label == 0);
            pixels.push(rng.random_range(0..200_u8) + if lit { 40 } else { 0 });
        }
    }
    std::fs::write(dir.join("x.npy"), npy("(160, 1, 8, 8)", "|u1", &pixels)).unwrap();
    std::fs::write(dir.join("y.npy"), npy("(160,)", "|u1", &labels)).unwrap();
}
