use proptest::prelude::*;

use super::super::DataSource;
use super::super::near::Groups;
use super::*;

fn id(n_rows: usize) -> DatasetId {
    DatasetId { source: "csv:t.csv".into(), digest: "d".into(), n_rows }
}

fn sizes(train: usize, validation: usize, calibration: usize, test: usize) -> PartSizes {
    PartSizes { train, validation, calibration, test, shadow: 0 }
}

fn draw_rows(id: DatasetId, sizes: PartSizes, seed: u64) -> Result<Split, SplitError> {
    let labels = vec![0; id.n_rows];
    Split::draw_rows(id, &labels, &Drawing { sizes, seed, ..Drawing::default() })
}

#[test]
fn the_same_seed_draws_the_same_rows_and_another_seed_others() {
    let draw = |seed| draw_rows(id(100), sizes(40, 10, 20, 30), seed).unwrap();
    assert_eq!(draw(7), draw(7));
    assert_eq!(draw(7).digest(), draw(7).digest());
    assert_ne!(draw(7).part(Part::Test), draw(8).part(Part::Test));
}

#[test]
fn a_written_split_reads_back_and_its_digest_is_that_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.split.json");
    let split = draw_rows(id(50), sizes(10, 5, 5, 20), 1).unwrap();
    split.write(&path).unwrap();
    assert_eq!(Split::read(&path).unwrap(), split);
    assert_eq!(hex(&Sha256::digest(std::fs::read(&path).unwrap())), split.digest());
}

#[test]
fn parts_that_share_a_row_or_leave_the_data_are_refused() {
    let text = |train: &str, test: &str| {
        format!(
            r#"{{"format":"sordino.split","format_version":1,"dataset":{{"source":"csv:t","digest":"d","n_rows":5}},"seed":1,"parts":{{"train":{train},"validation":[],"calibration":[],"test":{test}}}}}"#
        )
    };
    let read = |train: &str, test: &str| Split::from_bytes(text(train, test).as_bytes());
    assert!(read("[0,1]", "[2]").is_ok());
    assert!(matches!(read("[0,1]", "[1]"), Err(SplitError::Repeated { part: "test", row: 1 })));
    assert!(matches!(read("[0,0]", "[1]"), Err(SplitError::Repeated { part: "train", row: 0 })));
    assert!(matches!(read("[0,5]", "[1]"), Err(SplitError::OutOfRange { row: 5, n_rows: 5, .. })));
    assert!(matches!(read("[]", "[1]"), Err(SplitError::NoTrainRows)));
    assert!(matches!(read("[-1]", "[1]"), Err(SplitError::Json { .. })));
    let version = |number| text("[0]", "[1]").replace("\"format_version\":1", number);
    for newer in ["\"format_version\":3", "\"format_version\":0"] {
        assert!(matches!(Split::from_bytes(version(newer).as_bytes()), Err(SplitError::Format { .. })));
    }
    let half = Split::from_bytes(version("\"format_version\":2").as_bytes());
    assert!(matches!(half, Err(SplitError::Fields { version: 2, .. })));
}

#[test]
fn more_rows_than_there_are_cannot_be_drawn() {
    let error = draw_rows(id(10), sizes(8, 1, 1, 1), 1).unwrap_err().to_string();
    assert_eq!(error, "expected at most 10 rows in all parts together, got 11");
    assert!(draw_rows(id(10), sizes(usize::MAX, usize::MAX, 1, 1), 1).is_err());
}

#[test]
fn a_class_without_training_rows_is_named() {
    let text = "cat,1\n".repeat(30) + &"dog,2\n".repeat(30) + "fox,3\n";
    let data = crate::data::parse_table(text.as_bytes()).unwrap();
    let source = DataSource::Csv(std::path::PathBuf::from("t.csv").into());
    let draw = |train, seed| Split::draw(&source, &data, sizes(train, 0, 0, 0), seed);
    assert!(draw(61, 1).is_ok());
    let error = (0..100).find_map(|seed| draw(30, seed).err()).unwrap().to_string();
    assert!(error.starts_with("expected rows of every class in the train part, got none of 1 of 3 classes: 'fox'"));
}

proptest! {
    #[test]
    fn parts_are_disjoint_in_range_and_of_the_sizes_asked_for(
        n in 1usize..200, a in 1usize..60, b in 0usize..60, c in 0usize..60, d in 0usize..60, seed: u64
    ) {
        match draw_rows(id(n), sizes(a, b, c, d), seed) {
            Ok(split) => {
                prop_assert_eq!(split.sizes(), sizes(a, b, c, d));
                let rows: HashSet<usize> = Part::ALL.iter().flat_map(|&p| split.part(p).to_vec()).collect();
                prop_assert_eq!(rows.len(), a + b + c + d);
                prop_assert!(rows.iter().all(|&row| row < n));
            }
            Err(_) => prop_assert!(a + b + c + d > n),
        }
    }
}

/// Version 1 drew these: rows of published models must stay where they are.
#[test]
fn a_plain_draw_is_that_of_version_1() {
    let old = Split::from_bytes(include_bytes!("../../../tests/golden/location_mlp.split.json"));
    let old = old.unwrap();
    let new = draw_rows(id(5010), sizes(1500, 500, 1000, 2000), 7).unwrap();
    assert_eq!((old.seed(), old.sizes()), (7, new.sizes()));
    assert!(Part::ALL.iter().all(|&part| old.part(part) == new.part(part)));
    let sizes = PartSizes { shadow: 10, ..new.sizes() };
    let with_shadows = draw_rows(id(5010), sizes, 7).unwrap();
    assert!(Part::ALL[..4].iter().all(|&part| old.part(part) == with_shadows.part(part)));
    assert_eq!(with_shadows.part(Part::Shadow).len(), 10);
}

#[test]
fn a_file_of_version_1_keeps_its_bytes_and_so_its_digest() {
    for bytes in [
        include_bytes!("../../../models/fashion_cnn.split.json").as_slice(),
        include_bytes!("../../../tests/golden/location_mlp.split.json").as_slice(),
    ] {
        let split = Split::from_bytes(bytes).unwrap();
        assert_eq!(split.to_bytes(), bytes);
        assert_eq!((split.sizes().shadow, split.drawn(), split.removed()), (0, Drawn::default(), [].as_slice()));
    }
}

#[test]
fn rows_taken_out_of_the_train_part_belong_to_no_part_and_are_recorded() {
    let split = draw_rows(id(50), sizes(10, 5, 5, 20), 1).unwrap();
    let train = split.part(Part::Train).to_vec();
    let smaller = split.without(&[train[3], train[0], train[3]]).unwrap();
    assert_eq!(smaller.part(Part::Train), [&train[1..3], &train[4..]].concat());
    let mut removed = [train[0], train[3]];
    removed.sort_unstable();
    assert_eq!(smaller.removed(), removed);
    assert_eq!(smaller.part(Part::Test), split.part(Part::Test));
    assert_eq!(Split::from_bytes(&smaller.to_bytes()).unwrap(), smaller);
    let again = smaller.without(&[train[0], train[1]]).unwrap();
    assert_eq!(again.removed().len(), 3);
    let test = split.part(Part::Test)[0];
    assert!(matches!(split.without(&[test]), Err(SplitError::NotTrain { row }) if row == test));
    assert!(matches!(split.without(&train), Err(SplitError::NoTrainRows)));
    let shadow = split.part(Part::Shadow).first().copied();
    let forgotten: Vec<usize> = [train[0], test].into_iter().chain(shadow).collect();
    let without = split.forgetting(&[&forgotten[..], &[49_999]].concat()).unwrap();
    assert!(Part::ALL.iter().all(|&part| !without.part(part).iter().any(|row| forgotten.contains(row))));
    assert_eq!(without.removed().len(), forgotten.len());
    assert_eq!(Split::from_bytes(&without.to_bytes()).unwrap(), without);
    assert!(matches!(split.forgetting(&train), Err(SplitError::NoTrainRows)));
    let old = Split::from_bytes(include_bytes!("../../../models/fashion_cnn.split.json")).unwrap();
    let newer = old.without(&old.part(Part::Train)[..1]).unwrap();
    assert_eq!(Split::from_bytes(&newer.to_bytes()).unwrap(), newer);
}

#[test]
fn row_numbers_are_read_with_comments_and_a_bad_line_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.txt");
    std::fs::write(&path, "# the most vulnerable\n7\n\n 12 # seen twice\n").unwrap();
    assert_eq!(read_row_numbers(&path).unwrap(), [7, 12]);
    std::fs::write(&path, "7\nseven\n").unwrap();
    let error = read_row_numbers(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("rows.txt, line 2: expected a row number or a comment after #, got 5 characters"),
        "{error}"
    );
}

fn count(rows: &[usize], labels: &[u32], class: u32) -> f64 {
    rows.iter().filter(|&&row| labels[row] == class).count() as f64
}

proptest! {
    #[test]
    fn a_stratified_part_holds_each_class_in_its_share(
        labels in proptest::collection::vec(0u32..7, 1..150), cuts in proptest::collection::vec(0.0..1.0f64, 4), seed: u64
    ) {
        let n = labels.len();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * n as f64) as usize).collect();
        cuts.sort_unstable();
        let sizes = PartSizes {
            train: cuts[0].max(1), validation: cuts[1] - cuts[0], calibration: cuts[2] - cuts[1],
            test: cuts[3] - cuts[2], shadow: (n - cuts[3]).saturating_sub(1),
        };
        let drawing = Drawing { sizes, seed, stratified: true, groups: None };
        let split = Split::draw_rows(id(n), &labels, &drawing).unwrap();
        prop_assert!(split.drawn().stratified);
        for class in 0..7 {
            let share = labels.iter().filter(|&&label| label == class).count() as f64 / n as f64;
            for (part, most) in [(Part::Train, 1.0), (Part::Validation, 2.0), (Part::Test, 2.0), (Part::Shadow, 2.0)] {
                let rows = split.part(part);
                let off = (count(rows, &labels, class) - share * rows.len() as f64).abs();
                prop_assert!(off < most, "class {} is {} off in part {}", class, off, part.name());
            }
        }
    }

    #[test]
    fn no_group_straddles_two_parts(
        n in 2usize..120, breaks in proptest::collection::vec(0usize..120, 0..60), seed: u64, stratified: bool
    ) {
        let mut rows: Vec<usize> = (0..n).rev().collect();
        rows.rotate_left(seed as usize % n);
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (at, row) in rows.into_iter().enumerate() {
            match members.last_mut() {
                Some(group) if !breaks.contains(&at) && group.len() < 5 => group.push(row),
                _ => members.push(vec![row]),
            }
        }
        members.retain(|group| group.len() > 1);
        let groups = Groups::given(members);
        let labels: Vec<u32> = (0..n as u32).map(|row| row % 3).collect();
        let sizes = PartSizes { train: n / 2, validation: n / 8, calibration: 0, test: n / 8, shadow: n / 8 };
        let drawing = Drawing { sizes, seed, stratified, groups: Some(&groups) };
        match Split::draw_rows(id(n), &labels, &drawing) {
            Ok(split) => {
                prop_assert_eq!(split.sizes(), sizes);
                for group in groups.members() {
                    let homes: HashSet<Option<&str>> = group
                        .iter()
                        .map(|row| Part::ALL.iter().find(|&&part| split.part(part).contains(row)).map(|part| part.name()))
                        .collect();
                    prop_assert_eq!(homes.len(), 1);
                }
                prop_assert_eq!(Split::from_bytes(&split.to_bytes()).unwrap(), split);
            }
            Err(SplitError::Groups { got, wanted, .. }) => prop_assert!(wanted - got < 5),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
