//! What an audit is made of: the rows of both sides, the systems that are built on them, and what is refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::sync::Arc;

use ndarray::Array2;
use sordino::artifact::ModelDigest;
use sordino::audit::duplicates::Duplicates;
use sordino::audit::source::sides::Sides;
use sordino::audit::study;
use sordino::audit::system::{add_grid, build_all};
use sordino::audit::target::{Target, TargetError};
use sordino::data::{DataSource, Dataset, Part, PartSizes, Split};
use sordino::defence::{Defence, DefenceConfig, Gate, Method, RawScores, ScoreKind};
use sordino::engine::{Engine, EngineError, ModelSpec};
use sordino::pipeline::{Identity, Pipeline};
use sordino::tensor::{DType, Dim, Inputs, TensorSpec, Values};

use crate::audit_support::{EQUAL, N_CLASSES, Side, planted, settings, system};

#[test]
fn a_gate_that_cannot_be_served_is_marked() {
    let findings = planted(300, EQUAL, EQUAL, 14).audit(&settings());
    let marked: Vec<&str> = findings
        .systems
        .iter()
        .map(|found| found.name.as_str())
        .filter(|name| name.contains("cannot be served"))
        .collect();
    assert_eq!(marked, ["reweight w=0.1 when distance>q0.9 (cannot be served)"]);
    system(&findings, "reweight w=0.1 when distance>q0.9 + 2 digits");
}

#[test]
fn a_row_on_both_sides_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    std::fs::write(&file, "1,0.5,1\n2,0.25,1\n1,0.5,1\n2,0.75,0\n2,0.5,1\n").unwrap();
    let dataset = Dataset::load(&DataSource::Csv(file.into())).unwrap();
    assert_eq!(Duplicates::count(&dataset, &[0, 1], &[2, 3, 4]), Duplicates { non_members: 2, members: 1 });
    assert_eq!(Duplicates::count(&dataset, &[0, 1], &[3]), Duplicates { non_members: 0, members: 0 });
}

#[test]
fn a_target_needs_both_sides_and_rows_that_fit() {
    let seal = |n_rows| RawScores::new(Array2::zeros((n_rows, 3)), ScoreKind::Logits).unwrap();
    let refused = |n_rows, labels: Vec<u32>, n_members| {
        Target::new(vec![seal(n_rows)], labels, n_members, (Vec::new(), Vec::new())).err().unwrap()
    };
    let too_few = refused(44, vec![0; 44], 1);
    assert!(matches!(&too_few, TargetError::TooFewRows(rows) if rows.needed_members == 7), "{too_few:?}");
    assert!(too_few.to_string().starts_with("1 member and 43 non-members are too few"), "{too_few}");
    assert!(matches!(refused(28, vec![0; 28], 14), TargetError::TooFewRows(_)));
    assert!(matches!(refused(30, vec![1; 30], 15), TargetError::OneClass { n_rows: 30, label: 1 }));
    assert!(matches!(refused(30, vec![0; 31], 15), TargetError::Mismatch { .. }));
    let mut labels = vec![0; 30];
    labels[2] = 3;
    assert!(matches!(refused(30, labels, 15), TargetError::Label { row: 2, label: 3, n_classes: 3 }));
}

#[test]
fn without_calibration_rows_or_centroids_systems_are_left_out_with_the_reason() {
    let rows = planted(50, EQUAL, EQUAL, 8);
    let raw = RawScores::new(rows.logits, ScoreKind::Logits).unwrap();
    let target = Target::new(vec![raw], rows.labels, 50, (Vec::new(), Vec::new())).unwrap();
    let (systems, skipped) = build_all(&[], None, ScoreKind::Logits, N_CLASSES).unwrap();
    let findings = study::run(&target, &systems, skipped, &settings()).unwrap();
    let names: Vec<&str> = findings.systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!(names, ["undefended", "label-only"]);
    let reason = |name: &str| findings.skipped.iter().find(|one| one.name == name).unwrap().reason.clone();
    assert!(reason("temperature-scaled").contains("calibration rows"));
    assert!(reason("reweight w=0.1").contains("centroid file"));
    assert!(findings.temperature.reason.is_some());
    // The three who asked for a defence that cannot be built hear which one.
    let given = [(
        "mine".to_owned(),
        DefenceConfig { method: Method::Reweight { weight: 0.1, when: Gate::Always }, top_k: None, digits: None },
    )];
    assert_eq!(build_all(&given, None, ScoreKind::Logits, N_CLASSES).err().unwrap().0, "mine");
}

/// An engine whose logits are the row itself.
struct Mirror(ModelSpec);

impl Mirror {
    fn new() -> Self {
        Self(ModelSpec {
            inputs: vec![TensorSpec {
                name: "features".to_owned(),
                dtype: DType::F32,
                shape: vec![Dim::Any, Dim::Fixed(N_CLASSES)],
            }],
            score_output: "logits".to_owned(),
            score_kind: ScoreKind::Logits,
            n_classes: N_CLASSES,
            how_decided: "planted".to_owned(),
            labels: None,
            other_outputs: Vec::new(),
            row_by_row: false,
        })
    }
}

impl Engine for Mirror {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }

    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        let Values::F32(values) = inputs.tensors()[0].values() else { return Err(EngineError::Run) };
        let rows =
            Array2::from_shape_vec((inputs.n_rows(), N_CLASSES), values.clone()).map_err(|_| EngineError::Run)?;
        Ok(RawScores::new(rows, ScoreKind::Logits)?)
    }
}

#[test]
fn every_row_goes_through_the_pipeline_in_the_order_of_the_split() {
    let rows = planted(60, EQUAL, EQUAL, 10);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    let line = |row: usize| {
        let values: Vec<String> = rows.logits.row(row).iter().map(f32::to_string).collect();
        // Labels of a table count from 1.
        format!("{},{}\n", rows.labels[row] + 1, values.join(","))
    };
    std::fs::write(&file, (0..120).map(line).collect::<String>()).unwrap();
    let source = DataSource::Csv(file.into());
    let dataset = Dataset::load(&source).unwrap();
    let sizes = PartSizes { train: 40, validation: 0, calibration: 20, test: 50, shadow: 0 };
    let split = Split::draw(&source, &dataset, sizes, 3).unwrap();
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = Defence::new(&config, None, ScoreKind::Logits, N_CLASSES).unwrap();
    let identity = Identity {
        name: "mirror".to_owned(),
        version: "1".to_owned(),
        labels: Vec::new(),
        model: ModelDigest::of(b"mirror"),
    };
    let pipeline = Pipeline::new(Arc::new(Mirror::new()), defence, identity).unwrap();

    let mut done = 0;
    let few = Sides::new((0..14).collect(), (14..28).collect(), Vec::new()).unwrap();
    let refused = Target::collect(&pipeline, &dataset, &few, 7, &mut |n| done += n).err().unwrap();
    assert!(matches!(refused, TargetError::TooFewRows(_)) && done == 0, "{refused}, after {done} rows");
    let target = Target::collect(&pipeline, &dataset, &Sides::of_split(&split), 7, &mut |n| done += n).unwrap();
    assert_eq!(done, 110);
    assert_eq!((target.n_members(), target.n_rows(), target.calibration().1.len()), (40, 90, 20));
    let expected: Vec<usize> = split.part(Part::Train).iter().chain(split.part(Part::Test)).copied().collect();
    assert_eq!(target.dataset_rows(), expected);
    let logits = target.logits();
    for (position, &row) in expected.iter().enumerate() {
        assert_eq!(logits.row(position), rows.logits.row(row));
        assert_eq!(target.labels()[position], rows.labels[row]);
    }
}

#[test]
fn the_grid_stands_before_the_floor_and_its_masks_are_audited_alone() {
    let rows = planted(200, Side { margin: 4.0, errors: 0.1 }, EQUAL, 3);
    let fitted = rows.fitted();
    let (mut systems, mut skipped) = build_all(&[], Some(&fitted), ScoreKind::Logits, N_CLASSES).unwrap();
    let before = systems.len();
    add_grid(&mut systems, &mut skipped, Some(&fitted), ScoreKind::Logits, N_CLASSES);
    let names: Vec<&str> = systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!((names.len(), names[before + 5]), (before + 6, "label-only"), "{names:?}");
    for one in
        ["reweight w=0.5", "reweight w=0", "as-is + top-1 (cannot be served)", "as-is + top-3 (cannot be served)"]
    {
        assert!(names.contains(&one), "{one} is not among {names:?}");
    }
    // Without centroids the masks are there all the same.
    let (mut systems, mut skipped) = build_all(&[], None, ScoreKind::Logits, N_CLASSES).unwrap();
    add_grid(&mut systems, &mut skipped, None, ScoreKind::Logits, N_CLASSES);
    assert_eq!(systems.iter().filter(|system| system.name.starts_with("as-is")).count(), 3);
    // One entry a row: the model's own probability of its label.
    let target = rows.target();
    let top = systems.iter().find(|system| system.name.contains("top-1")).unwrap();
    let answers = top.answer(&target, &target.logits(), None).unwrap().unwrap();
    assert!(answers.probabilities.rows().into_iter().all(|row| row.iter().filter(|p| **p > 0.0).count() == 1));
}
