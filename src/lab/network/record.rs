//! A training step's way there and back: through [`super::cpu`] where that is faster, else through burn's autodiff.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};

use super::cpu::{self, Arrays, BatchStatistics, Tape, Training};
use super::plan::At;
use super::{Network, Pass, Statistics};
use crate::lab::Compute;

/// A forward pass while training, from which [`Recorded::gradients`] leads back.
#[derive(Debug)]
pub struct Recorded {
    logits: Tensor<Compute, 2>,
    /// Without one the way back is burn's.
    tape: Option<Tape>,
}

impl Network {
    /// The logits of a batch while training, as [`Network::forward_training`] gives them, and the way back from any loss
    /// of them.
    ///
    /// # Shapes
    ///
    /// `rows` is `(n_rows, n_features)`.
    #[must_use]
    pub fn record(&self, rows: Tensor<Compute, 2>, pass: &mut Pass<'_>) -> Recorded {
        let [n_rows, _] = rows.dims();
        if n_rows == 0 || pass.hook.is_some() || !self.is_on_cpu() {
            return Recorded { logits: self.forward_training(rows, pass), tape: None };
        }
        let rows = rows.inner().into_data().convert::<f32>();
        let rows = rows.as_slice::<f32>().expect("the data was converted to f32");
        let arrays = Arrays::of(&self.plan, &self.weights);
        let training = Training { dropout: pass.dropout, rng: pass.rng };
        let (logits, tape, statistics) = cpu::record(&self.plan, arrays, rows, n_rows, training);
        let vector = |values: Vec<f32>| -> Tensor<Compute, 1> {
            let size = values.len();
            Tensor::from_data(TensorData::new(values, [size]), &self.device)
        };
        pass.statistics.extend(statistics.into_iter().map(|BatchStatistics { mean, variance }| Statistics {
            mean: (mean.0, vector(mean.1)),
            variance: (variance.0, vector(variance.1)),
        }));
        let shape = [n_rows, self.plan.n_classes()];
        let logits = Tensor::from_data(TensorData::new(logits, shape), &self.device).require_grad();
        Recorded { logits, tape: Some(tape) }
    }
}

impl Recorded {
    /// `(n_rows, n_classes)`.
    #[must_use]
    pub fn logits(&self) -> Tensor<Compute, 2> {
        self.logits.clone()
    }

    /// The derivatives of a loss by the weights of `network`, from those that the loss's own `backward` gave;
    /// `network` is the one that was recorded.
    #[must_use]
    pub fn gradients(
        self,
        network: &Network,
        mut gradients: <Compute as AutodiffBackend>::Gradients,
    ) -> GradientsParams {
        let Some(tape) = self.tape else { return GradientsParams::from_grads(gradients, &network.weights) };
        let mut all = GradientsParams::new();
        // A loss that does not look at the logits teaches nothing.
        let Some(derivative) = self.logits.grad_remove(&mut gradients) else { return all };
        let derivative = derivative.into_data().convert::<f32>().to_vec().expect("the data was converted to f32");
        let mut by_weights = cpu::backward(&network.plan, tape, derivative);
        for parameter in network.plan.parameters() {
            let Some(values) = by_weights.take(parameter.at) else { continue };
            let data = TensorData::new(values, parameter.shape.clone());
            match parameter.at {
                At::Kernel(id) => register(&mut all, &network.weights.kernels[id], data),
                At::Matrix(id) => register(&mut all, &network.weights.matrices[id], data),
                At::Vector(id) => register(&mut all, &network.weights.vectors[id], data),
                At::Running(_) => {}
            }
        }
        all
    }
}

fn register<const D: usize>(all: &mut GradientsParams, parameter: &Param<Tensor<Compute, D>>, data: TensorData) {
    let device = parameter.val().inner().device();
    all.register(parameter.id, Tensor::<Compute, D>::from_data(data, &device));
}
