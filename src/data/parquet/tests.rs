use ::parquet::data_type::{BoolType, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;

/// Cells of one column.
enum Written {
    Bool(Vec<bool>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Text(Vec<&'static str>),
}

/// A table in row groups of all rows each; `None` in `levels` for columns that are `required`.
fn table(schema: &str, groups: usize, columns: &[(Written, Option<Vec<i16>>)]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for _ in 0..groups {
        let mut group = writer.next_row_group().unwrap();
        for (cells, levels) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let levels = levels.as_deref();
            match cells {
                Written::Bool(cells) => column.typed::<BoolType>().write_batch(cells, levels, None),
                Written::I32(cells) => column.typed::<Int32Type>().write_batch(cells, levels, None),
                Written::I64(cells) => column.typed::<Int64Type>().write_batch(cells, levels, None),
                Written::F32(cells) => column.typed::<FloatType>().write_batch(cells, levels, None),
                Written::F64(cells) => column.typed::<DoubleType>().write_batch(cells, levels, None),
                Written::Text(cells) => {
                    let cells: Vec<_> = cells.iter().map(|&text| text.into()).collect();
                    column.typed::<ByteArrayType>().write_batch(&cells, levels, None)
                }
            }
            .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn mixed() -> Vec<u8> {
    let schema = "message t { required double a; required boolean b; required binary label (UTF8); \
        required int32 c (UINT_32); optional int64 d; required float e; }";
    let columns = [
        (Written::F64(vec![0.5, -1.0]), None),
        (Written::Bool(vec![true, false]), None),
        (Written::Text(vec!["dog", "cat"]), None),
        (Written::I32(vec![-1, 7]), None),
        (Written::I64(vec![3, 4]), Some(vec![1, 1])),
        (Written::F32(vec![1e9, 0.0]), None),
    ];
    table(schema, 2, &columns)
}

#[test]
fn columns_of_every_type_are_read_over_row_groups() {
    let data = parse_parquet(&mixed()).unwrap();
    assert_eq!((data.n_rows(), data.row_shape()), (4, [5].as_slice()));
    assert_eq!((data.labels(), data.class_names()), ([1, 0, 1, 0].as_slice(), ["cat".into(), "dog".into()].as_slice()));
    let rows: Vec<f32> = data.batch(&[2, 3]).iter().copied().collect();
    assert_eq!(rows, [0.5, 1.0, u32::MAX as f32, 3.0, 1e9, -1.0, 0.0, 7.0, 4.0, 0.0]);
}

#[test]
fn a_file_reads_as_its_bytes_and_the_label_may_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let schema = "message t { required int32 y; required int32 x; }";
    let columns =
        [(Written::I32((0..3000).map(|i| i % 10).collect()), None), (Written::I32((0..3000).collect()), None)];
    std::fs::write(&path, table(schema, 1, &columns)).unwrap();
    for label in ["y", "1"] {
        let data = load(&path, Some(label)).unwrap();
        assert_eq!((data.n_rows(), data.n_classes(), data.labels()[2999]), (3000, 10, 9));
        assert_eq!(data.batch(&[0, 1024, 2999]).iter().copied().collect::<Vec<_>>(), [0.0, 1024.0, 2999.0]);
    }
    assert_eq!(load(&path, Some("2")).unwrap().n_classes(), 3000);
    let error = load(&path, None).unwrap_err().to_string();
    assert!(error.contains("expected a label column 'label' beside columns of numbers, got 2 columns"), "{error}");
}

#[test]
fn an_empty_or_wrong_cell_is_told_with_its_row_and_column() {
    let schema = "message t { required boolean label; optional float x; }";
    let labels = || (Written::Bool(vec![true, false, true]), None);
    let refused = |column| parse_parquet(&table(schema, 1, &[labels(), column])).unwrap_err().to_string();
    let error = refused((Written::F32(vec![1.0, 2.0]), Some(vec![1, 0, 1])));
    assert_eq!(error, "parquet, row 1: expected a value (the cell is empty) in column 2, got something else");
    let error = refused((Written::F32(vec![1.0, 2.0, f32::INFINITY]), Some(vec![1, 1, 1])));
    assert_eq!(error, "parquet, row 2: expected a finite number in column 2, got something else");
}

#[test]
fn columns_that_are_no_numbers_are_refused_by_name() {
    for (kind, cells) in [
        ("required binary when (UTF8)", Written::Text(vec!["x", "y"])),
        ("required int32 when (DATE)", Written::I32(vec![1, 2])),
        ("required int64 when (TIMESTAMP_MILLIS)", Written::I64(vec![1, 2])),
    ] {
        let schema = format!("message t {{ required boolean label; {kind}; }}");
        let bytes = table(&schema, 1, &[(Written::Bool(vec![true, false]), None), (cells, None)]);
        let error = parse_parquet(&bytes).unwrap_err().to_string();
        assert!(error.contains("expected a flat column of numbers named 'when'"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..80), at: usize, byte: u8, cut: usize
    ) {
        let _ = parse_parquet(&bytes);
        let mut damaged = mixed();
        let at = at % damaged.len();
        damaged[at] = byte;
        let _ = parse_parquet(&damaged);
        let cut = cut % damaged.len();
        let _ = parse_parquet(&damaged[..cut]);
    }
}
