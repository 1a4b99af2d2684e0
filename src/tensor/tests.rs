//! What is an input, what is not, and how rows are cut and joined.

use half::f16;

use super::*;

fn spec() -> TensorSpec {
    TensorSpec { name: "x".into(), dtype: DType::F32, shape: vec![Dim::Any, Dim::Fixed(2)] }
}

#[test]
fn names_of_element_types_are_inverse() {
    for (dtype, name, _) in DTYPES {
        assert_eq!(DType::from_oip_name(name), Some(dtype));
        assert_eq!(dtype.oip_name(), name);
    }
    assert_eq!(DType::from_oip_name("fp32"), None);
}

#[test]
fn a_tensor_is_checked_against_the_declared_input() {
    let new = |shape: &[usize], values| InputTensor::new(&spec(), shape, values).map(|_| ());
    assert_eq!(new(&[2, 2], Values::F32(vec![0.0; 4])), Ok(()));
    assert!(matches!(new(&[2, 2], Values::F64(vec![0.0; 4])), Err(InputError::WrongDType { .. })));
    for shape in [&[4][..], &[], &[2, 3], &[0, 2], &[2, 2, 1], &[usize::MAX, 2]] {
        assert!(matches!(new(shape, Values::F32(vec![0.0; 4])), Err(InputError::WrongShape { .. })), "{shape:?}");
    }
    assert_eq!(
        new(&[2, 2], Values::F32(vec![0.0; 5])),
        Err(InputError::WrongCount { name: "x".into(), expected: 4, got: 5 })
    );
}

#[test]
fn non_finite_inputs_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let refused = InputTensor::new(&spec(), &[1, 2], Values::F32(vec![0.0, bad])).map(|_| ());
        assert_eq!(refused, Err(InputError::NonFinite { name: "x".into(), index: 1 }));
    }
}

#[test]
fn inputs_agree_about_their_rows() {
    let tensor = |n: usize| InputTensor::new(&spec(), &[n, 2], Values::F32(vec![0.5; 2 * n])).unwrap();
    assert!(matches!(Inputs::new(vec![]), Err(InputError::Empty)));
    assert!(matches!(Inputs::new(vec![tensor(1), tensor(2)]), Err(InputError::RowsDiffer { .. })));
    assert_eq!(Inputs::new(vec![tensor(3), tensor(3)]).unwrap().n_rows(), 3);
}

#[test]
fn arrays_in_any_layout_keep_their_rows() {
    let rows = ndarray::array![[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]];
    let expected = Values::F32(vec![3.0, 4.0, 5.0, 6.0]);
    let cut = rows.slice(ndarray::s![1.., ..]).to_owned().into_dyn();
    assert!(Inputs::from_f32(&spec(), cut).unwrap().tensors()[0].values() == &expected);
    let mut owned = rows.clone();
    owned.slice_collapse(ndarray::s![1.., ..]);
    assert!(Inputs::from_f32(&spec(), owned.into_dyn()).unwrap().tensors()[0].values() == &expected);
    let turned = rows.slice(ndarray::s![1.., ..]).t().to_owned().reversed_axes().into_dyn();
    assert!(Inputs::from_f32(&spec(), turned).unwrap().tensors()[0].values() == &expected);
}

#[test]
fn debug_shows_shapes_and_no_values() {
    let sentinel = 1234.5_f32;
    let inputs = Inputs::from_f32(&spec(), ndarray::array![[sentinel, 0.0]].into_dyn()).unwrap();
    let text = format!("{inputs:?}");
    assert!(text.contains("[1, 2] FP32"), "{text}");
    assert!(!text.contains("1234"), "{text}");
}

#[test]
fn rows_of_a_data_set_feed_models_of_doubles_and_of_whole_numbers() {
    let rows = ArrayD::from_shape_vec(vec![2, 2], vec![1.0, -2.0, 0.5, 3.0]).unwrap();
    let spec = |dtype| TensorSpec { name: "x".into(), dtype, shape: vec![Dim::Any, Dim::Fixed(2)] };
    let doubles = Inputs::from_f32(&spec(DType::F64), rows.clone()).unwrap();
    assert!(doubles.tensors()[0].values() == &Values::F64(vec![1.0, -2.0, 0.5, 3.0]));
    let error = Inputs::from_f32(&spec(DType::I64), rows.clone()).map(|_| ());
    assert!(matches!(error, Err(InputError::WrongDType { .. })));
    let whole = Inputs::from_f32(&spec(DType::I64), rows.mapv(f32::floor)).unwrap();
    assert!(whole.tensors()[0].values() == &Values::I64(vec![1, -2, 0, 3]));
}

#[test]
fn whole_numbers_must_fit_the_element_type_of_the_model() {
    let rows = |value: f32| ArrayD::from_shape_vec(vec![1, 2], vec![value, 1.0]).unwrap();
    let fed = |dtype, value| {
        let spec = TensorSpec { name: "x".into(), dtype, shape: vec![Dim::Any, Dim::Fixed(2)] };
        Inputs::from_f32(&spec, rows(value)).map(|inputs| inputs.tensors()[0].values().clone())
    };
    assert!(fed(DType::U8, 255.0) == Ok(Values::U8(vec![255, 1])));
    assert!(fed(DType::I8, -128.0) == Ok(Values::I8(vec![-128, 1])));
    assert!(fed(DType::Bool, 0.0) == Ok(Values::Bool(vec![false, true])));
    for (dtype, value) in
        [(DType::U8, 256.0), (DType::U8, -1.0), (DType::I8, 128.0), (DType::Bool, 2.0), (DType::U64, -1.0)]
    {
        assert!(matches!(fed(dtype, value), Err(InputError::WrongDType { .. })), "{dtype} {value}");
    }
    assert!(fed(DType::F16, 0.1) == Ok(Values::F16(vec![f16::from_f32(0.1), f16::ONE])));
    // Beyond the largest half, nothing is fed.
    assert_eq!(fed(DType::F16, 1e6).map(|_| ()), Err(InputError::NonFinite { name: "x".into(), index: 0 }));
    assert!(fed(DType::Bf16, 1e6).is_ok());
}

#[test]
fn calls_are_joined_row_by_row_and_only_with_their_like() {
    let one = Inputs::from_f32(&spec(), ndarray::array![[1.0_f32, 2.0]].into_dyn()).unwrap();
    let two = Inputs::from_f32(&spec(), ndarray::array![[3.0_f32, 4.0], [5.0, 6.0]].into_dyn()).unwrap();
    let joined = Inputs::joined(&[&one, &two, &one]).unwrap();
    assert_eq!((joined.n_rows(), joined.n_bytes()), (4, 32));
    assert!(joined.tensors()[0].values() == &Values::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0]));
    assert!(Inputs::joined(&[]).is_none());
    assert!(joined.rows(2..3).unwrap().tensors()[0].values() == &Values::F32(vec![5.0, 6.0]));
    assert!(joined.rows(3..5).is_none() && joined.rows(2..2).is_none());
    let other = TensorSpec { dtype: DType::F64, ..spec() };
    let other = Inputs::from_f32(&other, ndarray::array![[1.0_f32, 2.0]].into_dyn()).unwrap();
    assert!(Inputs::joined(&[&one, &other]).is_none());
    let wide = TensorSpec { shape: vec![Dim::Any, Dim::Fixed(3)], ..spec() };
    let wide = Inputs::from_f32(&wide, ndarray::array![[1.0_f32, 2.0, 3.0]].into_dyn()).unwrap();
    assert!(Inputs::joined(&[&one, &wide]).is_none());
}

#[test]
fn made_up_rows_fit_every_element_type() {
    for (dtype, _, size) in DTYPES {
        let spec = TensorSpec { dtype, ..spec() };
        let all = Inputs::made_up(std::slice::from_ref(&spec), 0..3, false);
        assert_eq!(all.is_ok(), size.is_some(), "{dtype}");
        let Ok(all) = all else { continue };
        let parts = [0..1, 1..3].map(|rows| Inputs::made_up(std::slice::from_ref(&spec), rows, false).unwrap());
        let joined = Inputs::joined(&[&parts[0], &parts[1]]).unwrap();
        assert!(joined.tensors()[0].values() == all.tensors()[0].values(), "{dtype}");
    }
    assert!(Inputs::made_up(&[spec()], 2..2, true).is_err());
}
