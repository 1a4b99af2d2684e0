//! Targets whose leak is known because it was planted, and small reports of them, for the tests of the audit.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::sync::Arc;

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::audit::duplicates::Duplicates;
use sordino::audit::report::{self, Figure, Findings, Origin, Report, Settings, SourceRecord, SystemFindings};
use sordino::audit::system::build_all;
use sordino::audit::target::Target;
use sordino::audit::{study, tried};
use sordino::defence::{
    Bank, CentroidSums, ClassFallback, DefenceConfig, DistanceQuantiles, Fitted, Method, N_QUANTILES, RawScores,
    ScoreKind,
};

pub(crate) const N_CLASSES: usize = 4;

/// How the rows of one side look: the margin by which the true class leads, and how often it does not.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) margin: f64,
    pub(crate) errors: f64,
}

pub(crate) struct Planted {
    pub(crate) logits: Array2<f32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) n_members: usize,
}

/// Rows whose true class leads by `margin` plus noise, except for a share of errors where another class does.
pub(crate) fn planted(n_per_side: usize, members: Side, non_members: Side, seed: u64) -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n_rows = 2 * n_per_side;
    let mut logits = Array2::zeros((n_rows, N_CLASSES));
    let mut labels = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let side = if row < n_per_side { members } else { non_members };
        let label = rng.random_range(0..N_CLASSES);
        let shown = if rng.random_bool(side.errors) { (label + 1) % N_CLASSES } else { label };
        for class in 0..N_CLASSES {
            logits[(row, class)] = rng.random_range(-1.0..1.0_f32);
        }
        // Above the noise, so that the shown class is the argmax.
        logits[(row, shown)] = 1.0 + (side.margin * rng.random_range(0.2..1.8)) as f32;
        labels.push(label as u32);
    }
    Planted { logits, labels, n_members: n_per_side }
}

impl Planted {
    pub(crate) fn target(&self) -> Target {
        let seal = |rows: Array2<f32>| RawScores::new(rows, ScoreKind::Logits).unwrap();
        let batches = self.logits.axis_chunks_iter(ndarray::Axis(0), 100).map(|rows| seal(rows.to_owned())).collect();
        let calibration = planted(400, Side { margin: 2.0, errors: 0.3 }, Side { margin: 2.0, errors: 0.3 }, 99);
        Target::new(batches, self.labels.clone(), self.n_members, (vec![seal(calibration.logits)], calibration.labels))
            .unwrap()
    }

    pub(crate) fn fitted(&self) -> Arc<Fitted> {
        let names: Vec<String> = (0..N_CLASSES).map(|class| format!("class {class}")).collect();
        let mut sums = CentroidSums::new(N_CLASSES);
        for row in 0..self.n_members {
            let logits = self.logits.row(row).to_vec();
            sums.add(&logits, self.labels[row] as usize).unwrap();
        }
        let (centroids, _) = sums.finish(ClassFallback::Refuse, &names).unwrap();
        let table = Array2::from_shape_fn((N_CLASSES, N_QUANTILES), |(_, q)| q as f32 / (N_QUANTILES - 1) as f32);
        let quantiles = DistanceQuantiles::new(table, N_CLASSES).unwrap();
        Arc::new(Fitted::new(ScoreKind::Logits, names, centroids, quantiles, Bank::empty(N_CLASSES)).unwrap())
    }

    pub(crate) fn audit(&self, settings: &Settings) -> Findings {
        let fitted = self.fitted();
        let given = [("mine".to_owned(), DefenceConfig { method: Method::LabelOnly, top_k: Some(1), digits: None })];
        let (systems, skipped) = build_all(&given, Some(&fitted), ScoreKind::Logits, N_CLASSES).unwrap();
        study::run(&self.target(), &systems, skipped, settings).unwrap()
    }
}

pub(crate) fn settings() -> Settings {
    // Learning on every system takes long: the tests that need it ask for it.
    Settings { n_permutations: 200, n_resamples: 200, overhead_passes: 1, learned: false, ..Settings::default() }
}

pub(crate) fn system<'a>(findings: &'a Findings, name: &str) -> &'a SystemFindings {
    let found = findings.systems.iter().find(|system| system.name == name);
    found.unwrap_or_else(|| panic!("no system {name:?}"))
}

pub(crate) const EQUAL: Side = Side { margin: 2.0, errors: 0.3 };

/// A planted target and what a study of it saw of each row.
pub(crate) fn planted_outcome() -> (Target, study::Outcome) {
    let rows = planted(300, Side { margin: 4.0, errors: 0.1 }, EQUAL, 9);
    let (systems, skipped) = build_all(&[], Some(&rows.fitted()), ScoreKind::Logits, N_CLASSES).unwrap();
    let (target, knowledge) = (rows.target(), study::Knowledge::default());
    let outcome = study::run_with(&target, &systems, skipped, &settings(), &knowledge, &mut |_, _| {}).unwrap();
    (target, outcome)
}

pub(crate) fn small_report() -> Report {
    let findings = planted(300, Side { margin: 4.0, errors: 0.1 }, EQUAL, 9).audit(&settings());
    Report {
        format: report::FORMAT,
        format_version: report::FORMAT_VERSION,
        origin: Origin {
            command: "sordino audit".to_owned(),
            sordino_version: "0",
            commit: Figure::missing("not a checkout"),
            machine: "a machine".to_owned(),
            source: SourceRecord::Pipeline,
            model: "planted".to_owned(),
            model_digest: Figure::known("d".to_owned()),
            scores_decided: "told".to_owned(),
            artifact_digest: Figure::missing("none given"),
            data_source: "none".to_owned(),
            dataset_digest: Figure::known("d".to_owned()),
            split_digest: Figure::known("d".to_owned()),
            split_seed: Figure::known(1),
            duplicates: Figure::known(Duplicates { non_members: 2, members: 1 }),
            pipeline_agrees: Figure::missing("no pipeline"),
            inference_seconds: Figure::known(0.0),
            doubts: Vec::new(),
        },
        findings,
        analysis: Figure::missing("not asked for"),
        trainings: Figure::missing("one training"),
        policy: Figure::missing("no policy was given"),
        not_tried: tried::not_tried(&tried::Tried::default()),
    }
}
