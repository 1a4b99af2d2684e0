use std::io::Write as _;

use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use super::*;

fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let line = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((line.len() as u16).to_le_bytes());
    bytes.extend(line.as_bytes());
    bytes.extend(values);
    bytes
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn npz(entries: &[(&str, Vec<u8>)], method: zip::CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        archive.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn values(data: &Dataset) -> Vec<f32> {
    data.batch(&(0..data.n_rows()).collect::<Vec<_>>()).iter().copied().collect()
}

#[test]
fn numbers_of_every_type_are_read() {
    let labels =
        npy("<i8", "(2,)", &[[5i64; 1], [3; 1]].concat().iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<_>>());
    let f16s = [0x3c00u16, 0x4000, 0xc000, 0x3800].map(u16::to_le_bytes).concat();
    for (descr, bytes, expected) in [
        ("<f4", f32s(&[1.0, 2.0, -2.0, 0.5]), [1.0, 2.0, -2.0, 0.5]),
        ("<f2", f16s, [1.0, 2.0, -2.0, 0.5]),
        (">f8", [1.0f64, 2.0, -2.0, 0.5].map(f64::to_be_bytes).concat(), [1.0, 2.0, -2.0, 0.5]),
        ("|u1", vec![1, 2, 254, 0], [1.0, 2.0, 254.0, 0.0]),
        ("|i1", vec![1, 2, 254, 0], [1.0, 2.0, -2.0, 0.0]),
        ("|b1", vec![1, 0, 0, 1], [1.0, 0.0, 0.0, 1.0]),
    ] {
        let data = parse_npy(&npy(descr, "(2, 2)", &bytes), &labels).unwrap();
        assert_eq!(values(&data), expected, "{descr}");
        assert_eq!((data.labels(), data.class_names()), ([1, 0].as_slice(), ["3".into(), "5".into()].as_slice()));
    }
}

#[test]
fn bytes_in_rows_of_two_sizes_are_pixels() {
    let labels = npy("|u1", "(2,)", &[0, 1]);
    let data = parse_npy(&npy("|u1", "(2, 1, 2)", &[0, 255, 51, 102]), &labels).unwrap();
    assert_eq!(data.row_shape(), [1, 2]);
    assert_eq!(values(&data), [0.0, 1.0, 0.2, 0.4]);
}

#[test]
fn labels_may_be_one_hot_and_a_wrong_row_is_named() {
    let features = npy("<f4", "(2, 1)", &f32s(&[1.0, 2.0]));
    let one_hot = |values: &[f32]| npy("<f4", "(2, 3)", &f32s(values));
    let data = parse_npy(&features, &one_hot(&[0., 0., 1., 1., 0., 0.])).unwrap();
    assert_eq!((data.labels(), data.n_classes()), ([2, 0].as_slice(), 3));
    for bad in [[0., 0., 1., 0., 0., 0.], [0., 0., 1., 1., 1., 0.], [0., 0., 1., 0.5, 1., 0.]] {
        let error = parse_npy(&features, &one_hot(&bad)).unwrap_err().to_string();
        assert_eq!(error, "labels, row 1: expected a single 1 among zeros, got something else");
    }
    let error = parse_npy(&features, &npy("<f4", "(2,)", &f32s(&[1.0, 1.5]))).unwrap_err().to_string();
    assert_eq!(error, "labels, row 1: expected a whole number as its label, got something else");
}

#[test]
fn rows_must_be_finite_whole_and_as_many_as_labels() {
    let labels = npy("|u1", "(2,)", &[0, 1]);
    let refused = |features: Vec<u8>| parse_npy(&features, &labels).unwrap_err().to_string();
    let error = refused(npy("<f4", "(2, 2)", &f32s(&[1.0, 2.0, 3.0, f32::NAN])));
    assert_eq!(error, "features, row 1: expected a finite number at place 1 of the row, got one that is not");
    assert!(refused(npy("<f8", "(2, 1)", &[1.0, 1e300].map(f64::to_le_bytes).concat())).contains("row 1"));
    assert_eq!(
        refused(npy("<f4", "(2, 2)", &f32s(&[1.0; 3]))),
        "features: expected 2 rows of 8 bytes, got an end in row 1"
    );
    assert_eq!(refused(npy("<f4", "(3, 1)", &f32s(&[1.0; 3]))), "features: expected 2 rows, one a label, got 3");
    assert!(refused(npy("<f4", "(2,)", &f32s(&[1.0; 2]))).contains("at least 2 sizes"));
    assert!(refused(npy("<f4", "(2, 0)", &[])).contains("at least one value"));
    let lonely = npy("|u1", "(2,)", &[4, 4]);
    assert!(parse_npy(&npy("|u1", "(2, 1)", &[1, 2]), &lonely).unwrap_err().to_string().contains("at least 2 classes"));
}

#[test]
fn archives_are_read_packed_or_stored_by_usual_or_given_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let features = npy("<f4", "(2, 2)", &f32s(&[1.0, 2.0, 3.0, 4.5]));
    let labels = npy("|u1", "(2,)", &[1, 0]);
    let mut digests = Vec::new();
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        for (x, y, is_given) in [("features", "labels", false), ("x", "y", false), ("data", "target", true)] {
            let entries = [(format!("{x}.npy"), features.clone()), (format!("{y}.npy"), labels.clone())];
            let entries: Vec<(&str, Vec<u8>)> =
                entries.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
            std::fs::write(&path, npz(&entries, method)).unwrap();
            for memory in [Memory::default(), Memory::NONE] {
                let data = load_archive(&path, is_given.then_some(x), is_given.then_some(y), None, memory).unwrap();
                let is_in_file = memory == Memory::NONE && method == zip::CompressionMethod::Stored;
                assert_eq!(matches!(data.rows, Rows::Stored(_)), is_in_file);
                assert_eq!((values(&data), data.labels()), (vec![1.0, 2.0, 3.0, 4.5], [1, 0].as_slice()));
                digests.push(data.digest());
            }
        }
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    let error = load_archive(&path, None, None, None, Memory::default()).unwrap_err().to_string();
    assert!(error.ends_with(r#"expected an array named features or x or X, got arrays ["data", "target"]"#), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_used_is_told_and_never_read_as_values() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = (dir.path().join("x.npy"), dir.path().join("y.npy"));
    let features = npy("<f4", "(2, 2)", &f32s(&[1.0, 2.0, 3.0, 4.5]));
    std::fs::write(&x, &features).unwrap();
    std::fs::write(&y, npy("|u1", "(2,)", &[1, 0])).unwrap();
    let data = load(&x, &y, None, Memory::NONE).unwrap();
    assert!(data.try_batch(&[1]).is_ok() && data.check_read().is_ok());
    std::fs::write(&x, &features[..features.len() - 4]).unwrap();
    assert!(data.try_batch(&[0]).is_ok());
    assert!(matches!(data.try_batch(&[1]), Err(DataError::Io { .. })));
    assert!(data.check_read().is_ok(), "only a batch without an error of its own is remembered");
    assert!(data.batch(&[0, 1]).iter().all(|value| value.is_nan()));
    assert!(data.check_read().unwrap_err().to_string().contains("x.npy"));
    assert!(load(&x, &y, None, Memory::NONE).unwrap_err().to_string().contains("expected 2 rows of 8 bytes"));
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), at in 0usize..400, byte: u8) {
        let _ = parse_npy(&bytes, &bytes);
        let _ = parse_npz(&bytes);
        let features = npy("<f4", "(2, 2)", &f32s(&[1.0, 2.0, 3.0, 4.5]));
        let labels = npy("|u1", "(2,)", &[1, 0]);
        let mut archive = npz(&[("x.npy", features.clone()), ("y.npy", labels.clone())], zip::CompressionMethod::Stored);
        let at = at % archive.len();
        archive[at] = byte;
        let _ = parse_npz(&archive);
        let mut features = features;
        let at = at % features.len();
        features[at] = byte;
        if let Ok(data) = parse_npy(&features, &labels) {
            prop_assert!(values(&data).iter().all(|value| value.is_finite()));
        }
    }

    /// Whatever a header promises, memory follows the bytes that are there.
    #[test]
    fn promised_sizes_take_no_memory(rows in 0u64..1 << 40, width in 0u64..1 << 40, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let array = npy("<f4", &format!("({rows}, {width})"), &bytes);
        let _ = parse_npy(&array, &array);
    }
}
