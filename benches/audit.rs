//! What the audit costs: score attacks with their exact curves at 10⁴, 10⁵ and 10⁶ rows, and the whole battery with
//! intervals on 10,000 + 10,000 rows of 10 classes.
//!
//! ```text
//! cargo bench --features lab --bench audit              # times, three runs each
//! cargo bench --features lab --bench audit -- FOLDER    # and the answers as plain files, with what was found
//! ```
//!
//! Rows are drawn from a fixed seed: softmax answers whose true class leads by more on members. The folder's files are
//! what `docs/evidence/side-by-side/tf_privacy.py` reads.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is a program of its own: a panic ends it")]

use std::path::Path;
use std::time::Instant;

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::audit::answers::Answers;
use sordino::audit::attack::Attack;
use sordino::audit::invert::Inversion;
use sordino::audit::report::{Findings, Settings};
use sordino::audit::roc::Roc;
use sordino::audit::study;
use sordino::audit::system::build_all;
use sordino::audit::target::Target;
use sordino::defence::{RawScores, ScoreKind};

const N_CLASSES: usize = 10;
const SEED: u64 = 7;
const N_RUNS: usize = 3;

struct Drawn {
    logits: Array2<f32>,
    labels: Vec<u32>,
    n_members: usize,
}

/// Half members, then half non-members.
fn draw(n_rows: usize) -> Drawn {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let n_members = n_rows / 2;
    let mut logits = Array2::zeros((n_rows, N_CLASSES));
    let mut labels = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let (lead, errors) = if row < n_members { (6.0, 0.02) } else { (4.0, 0.2) };
        let label = rng.random_range(0..N_CLASSES);
        let shown = if rng.random_bool(errors) { rng.random_range(0..N_CLASSES) } else { label };
        for class in 0..N_CLASSES {
            logits[(row, class)] = rng.random_range(-1.5..1.5_f32);
        }
        logits[(row, shown)] += rng.random_range(0.5..1.5_f32) * lead;
        labels.push(label as u32);
    }
    Drawn { logits, labels, n_members }
}

fn answers(drawn: &Drawn) -> Answers {
    let mut p = drawn.logits.mapv(f64::from);
    for mut row in p.rows_mut() {
        let max = row.iter().copied().fold(f64::MIN, f64::max);
        row.mapv_inplace(|z| (z - max).exp());
        let sum = row.sum();
        row.mapv_inplace(|value| value / sum);
    }
    Answers::new(p)
}

/// Median of some runs, in seconds.
fn median(mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..N_RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[N_RUNS / 2]
}

fn scores_and_curves() {
    println!("score attacks ({}) and exact curves, median of {N_RUNS} runs", Attack::ALL.len());
    for n_rows in [10_000_usize, 100_000, 1_000_000] {
        let drawn = draw(n_rows);
        let answers = answers(&drawn);
        let memberships: Vec<bool> = (0..n_rows).map(|row| row < drawn.n_members).collect();
        let as_is = Inversion::as_is();
        let of = |attack: Attack| {
            let scores = attack.scores(&answers, &drawn.labels, &as_is);
            let roc = Roc::new(&scores, &memberships).unwrap();
            std::hint::black_box((roc.auc(), roc.two_sided_advantage()));
        };
        let all = median(|| {
            let told = |_, roc: Roc| {
                std::hint::black_box((roc.auc(), roc.two_sided_advantage()));
            };
            study::score_curves(&answers, &drawn.labels, &memberships, &as_is, &Attack::ALL, told).unwrap();
        });
        let loss = median(|| of(Attack::Loss));
        println!(
            "  {n_rows:>9} rows: {all:.3} s for all ({:.1} ns a row), {loss:.3} s for the loss alone",
            all / n_rows as f64 * 1e9
        );
    }
}

fn whole_battery() -> Findings {
    let drawn = draw(20_000);
    let raw = RawScores::new(drawn.logits.clone(), ScoreKind::Logits).unwrap();
    let target = Target::new(vec![raw], drawn.labels.clone(), drawn.n_members, (Vec::new(), Vec::new())).unwrap();
    let (mut systems, _) = build_all(&[], None, ScoreKind::Logits, N_CLASSES).unwrap();
    // The answers themselves and the floor that they are judged against.
    systems.retain(|system| ["undefended", "label-only"].contains(&system.name.as_str()));
    let settings = Settings::default();
    let mut found = None;
    let seconds = median(|| found = Some(study::run(&target, &systems, Vec::new(), &settings).unwrap()));
    let findings = found.unwrap();
    println!(
        "whole battery, 10,000 + 10,000 rows, {} attacks on the answers and on the floor, {} permutations, {} resamples: \
         {seconds:.2} s",
        findings.systems[0].attacks.len(),
        settings.n_permutations,
        settings.n_resamples
    );
    findings
}

fn write(folder: &Path, findings: &Findings) {
    std::fs::create_dir_all(folder).unwrap();
    let drawn = draw(20_000);
    let answers = answers(&drawn);
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).unwrap();
    write("answers.f64", answers.probabilities.iter().flat_map(|p| p.to_le_bytes()).collect());
    write("labels.u32", drawn.labels.iter().flat_map(|label| label.to_le_bytes()).collect());
    write("memberships.u8", (0..20_000).map(|row| u8::from(row < drawn.n_members)).collect());
    write("classes", N_CLASSES.to_string().into_bytes());
    let memberships: Vec<bool> = (0..20_000).map(|row| row < drawn.n_members).collect();
    let mut lines = Vec::new();
    for attack in [Attack::Loss, Attack::ModifiedEntropy, Attack::Confidence] {
        let scores = attack.scores(&answers, &drawn.labels, &Inversion::as_is());
        let roc = Roc::new(&scores, &memberships).unwrap();
        lines.push(format!("{}\t{:?}\t{:?}\tall rows", attack.name(), roc.auc(), roc.two_sided_advantage()));
    }
    for found in &findings.systems[0].attacks {
        lines.push(format!("{}\t{:?}\t{:?}\tverdict rows", found.attack.name(), found.auc.value, found.widest));
    }
    write("sordino.tsv", (lines.join("\n") + "\n").into_bytes());
    println!("wrote {}", folder.file_name().unwrap_or_default().to_string_lossy());
}

fn main() {
    // Cargo passes --bench; a folder is what remains.
    let folder = std::env::args().skip(1).find(|word| !word.starts_with("--"));
    println!("{} cores", std::thread::available_parallelism().map_or(1, usize::from));
    scores_and_curves();
    let findings = whole_battery();
    if let Some(folder) = folder {
        write(Path::new(&folder), &findings);
    }
}
