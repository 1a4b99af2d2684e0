//! The walk over a plan: every step becomes one node, or a few.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use super::proto::{float, int, ints, to_i64};
use super::{OUTPUT, fold, input_name};
use crate::lab::Compute;
use crate::lab::network::plan::{At, Op, ValueId};
use crate::lab::network::{NORM_EPSILON, Network, Plain, Weights};

/// What was pushed so far.
pub(super) struct Builder<'a> {
    network: &'a Network,
    /// For each step: the convolution that this batch normalisation becomes part of.
    folds: Vec<Option<ValueId>>,
    /// The name of each step's value.
    names: Vec<String>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(network: &'a Network, fold_batch_norm: bool) -> Self {
        let plan = network.plan();
        let folds = if fold_batch_norm { fold::pairs(plan) } else { vec![None; plan.steps().len()] };
        Self { network, folds, names: vec![], nodes: vec![], initializers: vec![] }
    }

    pub(super) fn finish(self) -> (Vec<NodeProto>, Vec<TensorProto>) {
        (self.nodes, self.initializers)
    }

    /// Another name for a step's value.
    pub(super) fn copy(&mut self, at: ValueId, output: &str) {
        let from = self.names[at].clone();
        self.node("Identity", vec![from], output, vec![]);
    }

    /// The nodes of a step; all earlier ones were pushed.
    pub(super) fn push(&mut self, at: ValueId) {
        let plan = self.network.plan().clone();
        let step = &plan.steps()[at];
        let from: Vec<String> = step.inputs.iter().map(|&input| self.names[input].clone()).collect();
        let output = if at + 1 == plan.steps().len() { OUTPUT.to_owned() } else { format!("value_{at}") };
        let pool = || vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        match &step.op {
            Op::Input => return self.names.push(input_name(&step.shape).to_owned()),
            Op::Dropout(_) => return self.names.extend(from),
            Op::Normalise { mean, deviation } => self.normalise(at, from, &output, mean, deviation),
            // It comes with the batch normalisation behind it.
            Op::Convolution { .. } if self.folds.contains(&Some(at)) => {}
            Op::Convolution { kernel, bias, .. } => {
                let arrays = std::iter::once(At::Kernel(*kernel)).chain(bias.map(At::Vector));
                let arrays = arrays.map(|at| self.array(at)).collect();
                self.convolution(at, from, arrays, &output);
            }
            Op::BatchNorm { scale, shift, mean, variance } => {
                let arrays = [At::Vector(*scale), At::Vector(*shift), At::Running(*mean), At::Running(*variance)];
                match self.folds[at] {
                    Some(convolution) => self.folded(convolution, arrays, &output),
                    None => {
                        let inputs = from.into_iter().chain(arrays.map(|at| self.array(at))).collect();
                        let epsilon = vec![float("epsilon", NORM_EPSILON as f32)];
                        self.node("BatchNormalization", inputs, &output, epsilon);
                    }
                }
            }
            Op::GroupNorm { scale, shift, groups } => {
                let arrays = [At::Vector(*scale), At::Vector(*shift)];
                self.group_norm(at, from, &output, arrays, *groups);
            }
            Op::Relu => self.node("Relu", from, &output, vec![]),
            Op::Tanh => self.node("Tanh", from, &output, vec![]),
            Op::MaxPool2 => self.node("MaxPool", from, &output, pool()),
            Op::AveragePool2 => self.node("AveragePool", from, &output, pool()),
            Op::GlobalAveragePool => {
                let pooled = format!("value_{at}.pooled");
                self.node("GlobalAveragePool", from, &pooled, vec![]);
                self.node("Flatten", vec![pooled], &output, vec![int("axis", 1)]);
            }
            Op::Add => self.node("Add", from, &output, vec![]),
            Op::Concatenate => self.node("Concat", from, &output, vec![int("axis", 1)]),
            Op::Flatten => self.node("Flatten", from, &output, vec![int("axis", 1)]),
            Op::Linear { matrix, bias } => {
                let arrays = [At::Matrix(*matrix), At::Vector(*bias)].map(|at| self.array(at));
                self.node("Gemm", from.into_iter().chain(arrays).collect(), &output, vec![]);
            }
        }
        self.names.push(output);
    }

    /// `arrays` are the kernel and, where there is one, the bias.
    fn convolution(&mut self, at: ValueId, from: Vec<String>, arrays: Vec<String>, output: &str) {
        let Op::Convolution { side, stride, padding, .. } = self.network.plan().steps()[at].op else {
            unreachable!("step {at} is a convolution");
        };
        let attributes = vec![
            ints("dilations", &[1, 1]),
            int("group", 1),
            ints("kernel_shape", &[side; 2]),
            ints("pads", &[padding; 4]),
            ints("strides", &[stride; 2]),
        ];
        self.node("Conv", from.into_iter().chain(arrays).collect(), output, attributes);
    }

    /// A convolution with the batch normalisation behind it.
    fn folded(&mut self, at: ValueId, norm: [At; 4], output: &str) {
        let plan = self.network.plan().clone();
        let Op::Convolution { kernel, bias, .. } = plan.steps()[at].op else {
            unreachable!("step {at} is a convolution");
        };
        let plain = |at| self.network.weights().plain(at);
        let (kernel_values, bias_values) =
            fold::fold(plain(At::Kernel(kernel)), bias.map(|bias| plain(At::Vector(bias))), norm.map(plain));
        let n_outputs = bias_values.len();
        let kernel =
            self.constant(&Weights::<Compute>::name(At::Kernel(kernel)), kernel_values.shape, kernel_values.values);
        let bias = self.constant(&format!("value_{at}.bias"), vec![n_outputs], bias_values);
        let from = vec![self.names[plan.steps()[at].inputs[0]].clone()];
        self.convolution(at, from, vec![kernel, bias], output);
    }

    fn node(&mut self, operator: &str, input: Vec<String>, output: &str, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input,
            output: vec![output.to_owned()],
            name: format!("{}_{}", operator.to_lowercase(), self.nodes.len()),
            op_type: operator.to_owned(),
            attribute,
            ..NodeProto::default()
        });
    }

    /// `(x − mean) · (1 / deviation)`, as the forward pass has it.
    fn normalise(&mut self, at: ValueId, from: Vec<String>, output: &str, mean: &[f32], deviation: &[f32]) {
        let row_shape = &self.network.plan().steps()[at].shape;
        let mut shape = row_shape.clone();
        if mean.len() == row_shape[0] {
            shape.iter_mut().skip(1).for_each(|size| *size = 1);
        }
        let factor = deviation.iter().map(|deviation| 1.0 / deviation).collect();
        let mean = self.constant("rows.mean", shape.clone(), mean.to_vec());
        let factor = self.constant("rows.factor", shape, factor);
        self.node("Sub", from.into_iter().chain([mean]).collect(), "rows.centred", vec![]);
        self.node("Mul", vec!["rows.centred".to_owned(), factor], output, vec![]);
    }

    /// An operator for it comes with opset 18 only: instances of one channel a group are normalised.
    fn group_norm(&mut self, at: ValueId, from: Vec<String>, output: &str, arrays: [At; 2], groups: usize) {
        let shape = self.network.plan().steps()[at].shape.clone();
        let name = |what: &str| format!("value_{at}.{what}");
        let dims = |dims: &[usize]| std::iter::once(-1).chain(dims.iter().map(|&dim| to_i64(dim))).collect();
        let lines = self.shape(&name("lines.shape"), dims(&[groups, shape.iter().product::<usize>() / groups]));
        let back = self.shape(&name("shape"), dims(&shape));
        let ones = self.constant(&name("ones"), vec![groups], vec![1.0; groups]);
        let zeros = self.constant(&name("zeros"), vec![groups], vec![0.0; groups]);
        let epsilon = vec![float("epsilon", NORM_EPSILON as f32)];
        self.node("Reshape", from.into_iter().chain([lines]).collect(), &name("lines"), vec![]);
        self.node("InstanceNormalization", vec![name("lines"), ones, zeros], &name("normal"), epsilon);
        self.node("Reshape", vec![name("normal"), back], &name("image"), vec![]);
        let [scale, shift] = arrays.map(|array| {
            let plain = self.network.weights().plain(array);
            let n_channels = plain.values.len();
            self.constant(&Weights::<Compute>::name(array), vec![n_channels, 1, 1], plain.values)
        });
        self.node("Mul", vec![name("image"), scale], &name("scaled"), vec![]);
        self.node("Add", vec![name("scaled"), shift], output, vec![]);
    }

    /// One of the network's arrays.
    fn array(&mut self, at: At) -> String {
        let Plain { shape, values } = self.network.weights().plain(at);
        self.constant(&Weights::<Compute>::name(at), shape, values)
    }

    fn constant(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> String {
        self.initializers.push(TensorProto {
            name: name.to_owned(),
            dims: shape.into_iter().map(to_i64).collect(),
            data_type: DataType::Float as i32,
            raw_data: values.iter().flat_map(|number| number.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }

    fn shape(&mut self, name: &str, dims: Vec<i64>) -> String {
        self.initializers.push(TensorProto {
            name: name.to_owned(),
            dims: vec![to_i64(dims.len())],
            data_type: DataType::Int64 as i32,
            raw_data: dims.iter().flat_map(|number| number.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }
}
