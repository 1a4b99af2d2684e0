//! A network without its weights: operators in the order in which they run, with the shapes between them.
//!
//! One plan serves everything that walks over a network: burn's forward pass, the ONNX export and the per-example
//! norms of differential privacy. It holds no number that is learned, only where such numbers lie and how they begin.

/// A value inside a network: the output of the step of that number.
pub type ValueId = usize;

/// A learned (or, for statistics, followed) array: its number among the arrays of its kind, see [`At`].
pub type ParameterId = usize;

/// Where a dropout stands; the recipe has a rate for each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the rows themselves (the CS2980 report's first place).
    Input,
    /// Behind hidden activations: the paper's RegDrop, and the report's second place.
    Hidden,
}

/// One operator.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The rows.
    Input,
    /// `(x − mean) / deviation` with constants, each of the row's shape or one number a channel.
    Normalise {
        /// What is subtracted.
        mean: Vec<f32>,
        /// What the difference is divided by; nowhere zero.
        deviation: Vec<f32>,
    },
    /// Cross-correlation with square kernels. The kernel is `(outputs, inputs, side, side)`.
    Convolution {
        /// Among the kernels.
        kernel: ParameterId,
        /// Among the vectors.
        bias: Option<ParameterId>,
        /// Side of the kernels.
        side: usize,
        /// Step between two places.
        stride: usize,
        /// Zeros on every side.
        padding: usize,
    },
    /// Batch normalisation a channel; in evaluation with the running statistics.
    BatchNorm {
        /// Among the vectors.
        scale: ParameterId,
        /// Among the vectors.
        shift: ParameterId,
        /// Among the running statistics.
        mean: ParameterId,
        /// Among the running statistics.
        variance: ParameterId,
    },
    /// Normalisation of groups of channels within a row: no row looks at another.
    GroupNorm {
        /// Among the vectors.
        scale: ParameterId,
        /// Among the vectors.
        shift: ParameterId,
        /// Groups, which divide the channels.
        groups: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// The largest of each 2×2 square; a last odd line or column is left out.
    MaxPool2,
    /// The mean of each 2×2 square; a last odd line or column is left out.
    AveragePool2,
    /// The mean of each channel: `(channels, height, width)` to `(channels)`.
    GlobalAveragePool,
    /// The sum of two values of one shape.
    Add,
    /// Channels of the first value, then those of the second.
    Concatenate,
    /// Sets values to zero at random while training; nothing in evaluation and export.
    Dropout(Place),
    /// To `(product)`.
    Flatten,
    /// `x · matrix + bias`; the matrix is `(inputs, outputs)`.
    Linear {
        /// Among the matrices.
        matrix: ParameterId,
        /// Among the vectors.
        bias: ParameterId,
    },
}

/// One operator with its place in the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// To which values; all of earlier steps.
    pub inputs: Vec<ValueId>,
    /// The shape of the outcome for one row: `[channels, height, width]` or `[features]`.
    pub shape: Vec<usize>,
}

/// How an array begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Begin {
    /// Uniform in ± this.
    Uniform(f32),
    /// Normal about zero with this deviation.
    Normal(f32),
    /// This number everywhere.
    Constant(f32),
}

/// One array of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it begins.
    pub begin: Begin,
    /// Which kind of array, and its number among them.
    pub at: At,
}

/// The kinds of arrays, each numbered for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Kernels of convolutions, rank 4.
    Kernel(ParameterId),
    /// Matrices of linear layers, rank 2.
    Matrix(ParameterId),
    /// Biases, scales and shifts, rank 1.
    Vector(ParameterId),
    /// Running statistics, rank 1: followed and not learned.
    Running(ParameterId),
}

/// A network without its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    parameters: Vec<Parameter>,
    features: ValueId,
}

impl Plan {
    /// The operators in the order in which they run; the first is [`Op::Input`], the last gives the logits.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// All arrays, in the order in which their beginnings are drawn.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The value that goes into the last linear layer: the penultimate features (the paper's latent features).
    #[must_use]
    pub fn features(&self) -> ValueId {
        self.features
    }

    /// The shape of a row.
    #[must_use]
    pub fn row_shape(&self) -> &[usize] {
        &self.steps[0].shape
    }

    /// How many classes the logits have.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.steps.last().map_or(0, |step| step.shape[0])
    }

    /// How many numbers are learned; running statistics do not count.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        let learned = self.parameters.iter().filter(|parameter| !matches!(parameter.at, At::Running(_)));
        learned.map(|parameter| parameter.shape.iter().product::<usize>()).sum()
    }
}

/// Builds a [`Plan`] from the rows to the logits, and keeps track of the shapes. Methods take and give values; who
/// calls them has made sure that the shapes fit (the networks of this room are the only callers).
#[derive(Debug)]
pub struct PlanBuilder {
    plan: Plan,
    n_kernels: usize,
    n_matrices: usize,
    n_vectors: usize,
    n_running: usize,
}

impl PlanBuilder {
    /// Begins with rows of `row_shape`; they are value 0.
    #[must_use]
    pub fn new(row_shape: &[usize]) -> Self {
        let input = Step { op: Op::Input, inputs: vec![], shape: row_shape.to_vec() };
        let plan = Plan { steps: vec![input], parameters: vec![], features: 0 };
        Self { plan, n_kernels: 0, n_matrices: 0, n_vectors: 0, n_running: 0 }
    }

    /// The shape of a value.
    #[must_use]
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.plan.steps[value].shape
    }

    /// Adds an operator that keeps the shape of its input and learns nothing.
    pub fn keep(&mut self, op: Op, from: ValueId) -> ValueId {
        let shape = self.shape(from).to_vec();
        self.push(op, vec![from], shape)
    }

    /// A convolution with kernels that begin uniform in ±1/√fan-in, the bias too (torch's default).
    pub fn convolution(&mut self, from: ValueId, n_outputs: usize, side: usize, padding: usize) -> ValueId {
        let fan_in = self.shape(from)[0] * side * side;
        let begin = Begin::Uniform(1.0 / (fan_in as f32).sqrt());
        self.convolution_with(from, n_outputs, (side, 1, padding), begin, Some(begin))
    }

    /// A convolution; `geometry` is (side, stride, padding).
    pub fn convolution_with(
        &mut self,
        from: ValueId,
        n_outputs: usize,
        geometry: (usize, usize, usize),
        begin: Begin,
        bias: Option<Begin>,
    ) -> ValueId {
        let (side, stride, padding) = geometry;
        let &[n_inputs, height, width] = self.shape(from) else { panic!("a convolution takes images") };
        let kernel = self.n_kernels;
        self.n_kernels += 1;
        self.parameter(At::Kernel(kernel), &[n_outputs, n_inputs, side, side], begin);
        let bias = bias.map(|begin| self.vector(n_outputs, begin));
        let size = |length: usize| (length + 2 * padding - side) / stride + 1;
        let shape = vec![n_outputs, size(height), size(width)];
        self.push(Op::Convolution { kernel, bias, side, stride, padding }, vec![from], shape)
    }

    /// Batch normalisation, scale 1 and shift 0.
    pub fn batch_norm(&mut self, from: ValueId) -> ValueId {
        let n_channels = self.shape(from)[0];
        let scale = self.vector(n_channels, Begin::Constant(1.0));
        let shift = self.vector(n_channels, Begin::Constant(0.0));
        let (mean, variance) = (self.n_running, self.n_running + 1);
        self.n_running += 2;
        self.parameter(At::Running(mean), &[n_channels], Begin::Constant(0.0));
        self.parameter(At::Running(variance), &[n_channels], Begin::Constant(1.0));
        self.keep(Op::BatchNorm { scale, shift, mean, variance }, from)
    }

    /// Group normalisation, scale 1 and shift 0.
    pub fn group_norm(&mut self, from: ValueId, groups: usize) -> ValueId {
        let n_channels = self.shape(from)[0];
        let scale = self.vector(n_channels, Begin::Constant(1.0));
        let shift = self.vector(n_channels, Begin::Constant(0.0));
        self.keep(Op::GroupNorm { scale, shift, groups }, from)
    }

    /// One of the pools of 2×2 squares.
    pub fn pool(&mut self, op: Op, from: ValueId) -> ValueId {
        let &[channels, height, width] = self.shape(from) else { panic!("a pool takes images") };
        self.push(op, vec![from], vec![channels, height / 2, width / 2])
    }

    /// The mean of each channel.
    pub fn global_average_pool(&mut self, from: ValueId) -> ValueId {
        let channels = self.shape(from)[0];
        self.push(Op::GlobalAveragePool, vec![from], vec![channels])
    }

    /// The sum of two values.
    pub fn add(&mut self, one: ValueId, other: ValueId) -> ValueId {
        let shape = self.shape(one).to_vec();
        self.push(Op::Add, vec![one, other], shape)
    }

    /// The channels of both values.
    pub fn concatenate(&mut self, one: ValueId, other: ValueId) -> ValueId {
        let mut shape = self.shape(one).to_vec();
        shape[0] += self.shape(other)[0];
        self.push(Op::Concatenate, vec![one, other], shape)
    }

    /// One dimension; a value that has one already is left as it is.
    pub fn flatten(&mut self, from: ValueId) -> ValueId {
        let n_features = self.shape(from).iter().product();
        if self.shape(from).len() == 1 { from } else { self.push(Op::Flatten, vec![from], vec![n_features]) }
    }

    /// A linear layer, weights and bias uniform in ±1/√inputs (torch's default).
    pub fn linear(&mut self, from: ValueId, n_outputs: usize) -> ValueId {
        let begin = Begin::Uniform(1.0 / (self.shape(from)[0] as f32).sqrt());
        self.linear_with(from, n_outputs, begin, begin)
    }

    /// A linear layer.
    pub fn linear_with(&mut self, from: ValueId, n_outputs: usize, begin: Begin, bias: Begin) -> ValueId {
        let n_inputs = self.shape(from)[0];
        let matrix = self.n_matrices;
        self.n_matrices += 1;
        self.parameter(At::Matrix(matrix), &[n_inputs, n_outputs], begin);
        let bias = self.vector(n_outputs, bias);
        self.plan.features = from;
        self.push(Op::Linear { matrix, bias }, vec![from], vec![n_outputs])
    }

    /// The plan; the last value added is the logits.
    #[must_use]
    pub fn finish(self) -> Plan {
        self.plan
    }

    fn push(&mut self, op: Op, inputs: Vec<ValueId>, shape: Vec<usize>) -> ValueId {
        self.plan.steps.push(Step { op, inputs, shape });
        self.plan.steps.len() - 1
    }

    fn vector(&mut self, size: usize, begin: Begin) -> ParameterId {
        let id = self.n_vectors;
        self.n_vectors += 1;
        self.parameter(At::Vector(id), &[size], begin);
        id
    }

    fn parameter(&mut self, at: At, shape: &[usize], begin: Begin) {
        self.plan.parameters.push(Parameter { shape: shape.to_vec(), begin, at });
    }
}
