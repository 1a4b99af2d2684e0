//! Counts, shapes and refusals.

use proptest::prelude::*;

use super::*;
use crate::lab::network::plan::{Begin, Place};

fn count(architecture: &Architecture, row_shape: &[usize], n_classes: usize) -> usize {
    architecture.plan(row_shape, n_classes, None).unwrap().n_parameters()
}

#[test]
fn the_papers_networks_have_the_papers_parameter_counts() {
    assert_eq!(count(&Architecture::fcn(), &[600], 100), 1_317_348);
    assert_eq!(count(&Architecture::densenet(), &[3, 32, 32], 10), 769_162);
    assert_eq!(count(&Architecture::resnet18(), &[3, 32, 32], 10), 11_173_962);
    assert_eq!(count(&Architecture::MlLeaks, &[3, 32, 32], 10), 176_938);
}

#[test]
fn resnet9_has_pages_count_and_the_bias_of_the_last_layer() {
    assert_eq!(count(&Architecture::resnet9(), &[3, 32, 32], 10), 6_573_120 + 10);
    for side in [8, 28, 32, 48] {
        let plan = Architecture::resnet9().plan(&[3, side, side], 10, None).unwrap();
        assert_eq!(plan.steps()[plan.features()].shape, [512], "images of {side}×{side}");
    }
}

/// The operators before and behind each dropout on hidden values, by name.
fn around_hidden_dropouts(plan: &Plan) -> Vec<(String, String)> {
    let name = |op: &Op| format!("{op:?}").split([' ', '(']).next().unwrap_or_default().to_owned();
    let steps = plan.steps();
    let found = steps.iter().enumerate().filter(|(_, step)| step.op == Op::Dropout(Place::Hidden));
    let behind = |at: usize| steps.iter().find(|step| step.inputs.contains(&at)).map(|step| name(&step.op));
    found.map(|(at, step)| (name(&steps[step.inputs[0]].op), behind(at).unwrap_or_default())).collect()
}

#[test]
fn dropout_stands_where_the_papers_code_has_it() {
    let of = |architecture: Architecture, shape: &[usize]| architecture.plan(shape, 10, None).unwrap();
    let pairs = |pair: [&str; 2], n: usize| vec![(pair[0].to_owned(), pair[1].to_owned()); n];
    let fcn = of(Architecture::fcn(), &[600]);
    assert_eq!(around_hidden_dropouts(&fcn), pairs(["Tanh", "Linear"], 4));
    let densenet = of(Architecture::densenet(), &[3, 32, 32]);
    assert_eq!(around_hidden_dropouts(&densenet), pairs(["Convolution", "Concatenate"], 48));
    let ml_leaks = of(Architecture::MlLeaks, &[3, 32, 32]);
    assert_eq!(around_hidden_dropouts(&ml_leaks), pairs(["Tanh", "Linear"], 1));
    for plan in [fcn, densenet, ml_leaks] {
        assert_eq!(plan.steps()[1].op, Op::Dropout(Place::Input));
    }
}

#[test]
fn a_network_knows_whether_it_has_hidden_values_to_drop() {
    let mlp = |hidden: &[usize]| Architecture::Mlp { hidden: hidden.to_vec(), activation: Activation::Relu };
    let convnet = |hidden: &[usize]| Architecture::Convnet {
        channels: vec![4],
        side: 3,
        norm: Norm::None,
        hidden: hidden.to_vec(),
        activation: Activation::Relu,
    };
    let others = [
        Architecture::Cnn { channels: [4, 4], hidden: 4 },
        Architecture::MlLeaks,
        Architecture::densenet(),
        Architecture::resnet18(),
        Architecture::resnet9(),
    ];
    for architecture in [mlp(&[]), mlp(&[3]), convnet(&[]), convnet(&[3])].into_iter().chain(others) {
        let found = around_hidden_dropouts(&architecture.plan(&[3, 32, 32], 10, None).unwrap());
        assert_eq!(architecture.has_hidden_dropout(), !found.is_empty(), "{architecture}");
    }
}

fn begins(architecture: &Architecture, row_shape: &[usize]) -> Vec<(Vec<usize>, Begin)> {
    let plan = architecture.plan(row_shape, 10, None).unwrap();
    plan.parameters().iter().map(|parameter| (parameter.shape.clone(), parameter.begin)).collect()
}

#[test]
fn weights_begin_as_in_the_papers_code() {
    let is = |found: &(Vec<usize>, Begin), shape: &[usize], begin: Begin| {
        let alike = match (found.1, begin) {
            (Begin::Uniform(a), Begin::Uniform(b)) | (Begin::Normal(a), Begin::Normal(b)) => (a / b - 1.0).abs() < 1e-6,
            (a, b) => a == b,
        };
        assert!(found.0 == shape && alike, "{found:?}, expected {shape:?} and {begin:?}");
    };
    // He's normal over k²·outputs; the last layer as torch has it.
    let densenet = begins(&Architecture::densenet(), &[3, 32, 32]);
    is(&densenet[0], &[24, 3, 3, 3], Begin::Normal((2.0 / (9.0 * 24.0f32)).sqrt()));
    is(&densenet[1], &[24], Begin::Constant(1.0));
    is(&densenet[5], &[48, 24, 1, 1], Begin::Normal((2.0 / 48.0f32).sqrt()));
    is(&densenet[densenet.len() - 2], &[342, 10], Begin::Uniform(1.0 / 342f32.sqrt()));
    // Kaiming's uniform with a = √5 is 1/√fan-in.
    let resnet = begins(&Architecture::resnet18(), &[3, 32, 32]);
    is(&resnet[0], &[64, 3, 3, 3], Begin::Uniform(1.0 / 27f32.sqrt()));
    is(&resnet[5], &[64, 64, 3, 3], Begin::Uniform(1.0 / 576f32.sqrt()));
    // Glorot's uniform: gain √2 for convolutions (fans over 5×5), 1 for linear layers; biases 0.
    let ml_leaks = begins(&Architecture::MlLeaks, &[3, 32, 32]);
    is(&ml_leaks[0], &[32, 3, 5, 5], Begin::Uniform((12.0 / (25.0 * 35.0f32)).sqrt()));
    is(&ml_leaks[1], &[32], Begin::Constant(0.0));
    is(&ml_leaks[4], &[1152, 128], Begin::Uniform((6.0 / 1280.0f32).sqrt()));
    let fcn = begins(&Architecture::fcn(), &[600]);
    is(&fcn[0], &[600, 1024], Begin::Uniform(1.0 / 600f32.sqrt()));
    is(&fcn[1], &[1024], Begin::Uniform(1.0 / 600f32.sqrt()));
}

#[test]
fn the_penultimate_features_have_the_papers_sizes() {
    for (architecture, size) in [(Architecture::densenet(), 342), (Architecture::MlLeaks, 128)] {
        let plan = architecture.plan(&[3, 32, 32], 10, None).unwrap();
        assert_eq!(plan.steps()[plan.features()].shape, [size]);
        assert_eq!(plan.n_classes(), 10);
    }
}

#[test]
fn numbers_that_make_no_network_are_refused() {
    let densenet = |depth| Architecture::Densenet { depth, growth: 12, compression: 0.5, norm: Norm::Batch };
    assert!(densenet(41).plan(&[3, 32, 32], 10, None).unwrap_err().to_string().contains("6 n + 4"));
    assert!(Architecture::MlLeaks.plan(&[3, 8, 8], 10, None).unwrap_err().to_string().contains("at least 12"));
    assert!(Architecture::MlLeaks.plan(&[3072], 10, None).is_err());
    let mlp = |width| Architecture::Mlp { hidden: vec![width], activation: Activation::Relu };
    assert_eq!(mlp(0).plan(&[4], 2, None), Err(NetworkError::Width(0)));
    let wrong = Normalisation { mean: vec![0.0; 3], deviation: vec![1.0; 3] };
    assert!(mlp(4).plan(&[4], 2, Some(&wrong)).is_err());
    for (mean, deviation) in [(0.0, 0.0), (0.0, 1e-45), (0.0, f32::NAN), (f32::INFINITY, 1.0)] {
        let wrong = Normalisation { mean: vec![mean; 4], deviation: vec![deviation; 4] };
        assert!(mlp(4).plan(&[4], 2, Some(&wrong)).unwrap_err().to_string().contains("finite"));
    }
    for (row_shape, n_classes) in [(vec![], 2), (vec![0], 2), (vec![3, 0, 32], 2), (vec![4, 4], 2), (vec![4], 0)] {
        assert!(mlp(4).plan(&row_shape, n_classes, None).is_err(), "{row_shape:?}, {n_classes} classes");
    }
    assert!(mlp(4).plan(&[usize::MAX, usize::MAX, 2], 2, None).is_err());
}

#[test]
fn networks_that_no_machine_holds_are_refused_before_memory_is_asked_for() {
    let mlp = Architecture::Mlp { hidden: vec![65_536; 3], activation: Activation::Relu };
    let error = mlp.plan(&[4], 2, None).unwrap_err();
    assert!(matches!(error, NetworkError::TooLarge { most: MAX_PARAMETERS, .. }), "{error}");
    let wide = Architecture::Resnet { blocks: vec![1], width: 65_536, norm: Norm::Batch };
    assert!(matches!(wide.plan(&[1, 256, 256], 2, None), Err(NetworkError::TooLarge { .. })));
    let deep = Architecture::Densenet { depth: 1024, growth: 64, compression: 1.0, norm: Norm::Batch };
    assert!(matches!(deep.plan(&[3, 512, 512], 2, None), Err(NetworkError::TooLarge { .. })));
    assert!(Architecture::Mlp { hidden: vec![1; 2000], activation: Activation::Relu }.plan(&[4], 2, None).is_err());
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![0..5usize, 5..80usize, Just(65_536), Just(65_537), Just(usize::MAX), Just(1 << 40)]
}

fn norms() -> impl Strategy<Value = Norm> {
    prop_oneof![Just(Norm::None), Just(Norm::Batch), Just(Norm::Group)]
}

fn architectures() -> impl Strategy<Value = Architecture> {
    let list = || prop::collection::vec(sizes(), 0..4);
    let activation = prop_oneof![Just(Activation::Relu), Just(Activation::Tanh)];
    let compression = prop_oneof![Just(f64::NAN), Just(-1.0), Just(1e-9), Just(0.5), Just(1.0), Just(1e300)];
    prop_oneof![
        (sizes(), sizes(), sizes()).prop_map(|(a, b, hidden)| Architecture::Cnn { channels: [a, b], hidden }),
        (list(), activation.clone()).prop_map(|(hidden, activation)| Architecture::Mlp { hidden, activation }),
        (list(), sizes(), norms(), list(), activation).prop_map(|(channels, side, norm, hidden, activation)| {
            Architecture::Convnet { channels, side, norm, hidden, activation }
        }),
        (sizes(), sizes(), compression, norms()).prop_map(|(depth, growth, compression, norm)| {
            Architecture::Densenet { depth, growth, compression, norm }
        }),
        (list(), sizes(), norms()).prop_map(|(blocks, width, norm)| Architecture::Resnet { blocks, width, norm }),
        (sizes(), norms()).prop_map(|(width, norm)| Architecture::Resnet9 { width, norm }),
        Just(Architecture::MlLeaks),
    ]
}

proptest! {
    #[test]
    fn whatever_the_numbers_there_is_a_network_or_an_error(
        architecture in architectures(),
        row_shape in prop::collection::vec(sizes(), 0..5),
        n_classes in sizes(),
    ) {
        if let Ok(plan) = architecture.plan(&row_shape, n_classes, None) {
            prop_assert!(plan.n_parameters() <= MAX_PARAMETERS);
            prop_assert_eq!(plan.n_classes(), n_classes);
        }
    }
}

#[test]
fn a_group_norm_network_has_as_many_parameters_and_legal_groups() {
    let grouped = Architecture::densenet().with_norm(Norm::Group);
    assert_eq!(count(&grouped, &[3, 32, 32], 10), 769_162);
    for step in grouped.plan(&[3, 32, 32], 10, None).unwrap().steps() {
        if let Op::GroupNorm { groups, .. } = step.op {
            assert!(step.shape[0].is_multiple_of(groups), "{groups} groups of {} channels", step.shape[0]);
        }
    }
}
