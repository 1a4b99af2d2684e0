//! Where in an image a network sees a class: Grad-CAM (Selvaraju et al. 2017), the paper's figure 3b.
//!
//! Responsible for the map of one convolution's activations, weighed by the mean of the class logit's derivative by
//! each channel. Not responsible for what is drawn of it.

use anyhow::{Context as _, ensure};
use burn::tensor::{Tensor, TensorData};
use ndarray::{Array3, ArrayD};

use super::plan::{Op, ValueId};
use super::{Network, Value, to_tensor};
use crate::lab::{Compute, autodiff};

impl Network {
    /// The last convolution of the plan, if there is one.
    #[must_use]
    pub fn last_convolution(&self) -> Option<ValueId> {
        self.plan.steps().iter().rposition(|step| matches!(step.op, Op::Convolution { .. }))
    }

    /// `relu(Σ_k α_k A_k)` of the last convolution, `α_k` the mean over places of the derivative of the logit of each
    /// row's class in `classes` by `A_k`; each row's map divided by its largest value, all 0 where nothing speaks for
    /// the class. The network must be on a device for training.
    ///
    /// # Shapes
    ///
    /// `(n_rows, row_shape…)` to `(n_rows, height, width)` of the convolution.
    ///
    /// # Errors
    ///
    /// When the plan has no convolution, or there is not a class below the number of classes for each row.
    pub fn grad_cam(&self, rows: ArrayD<f32>, classes: &[u32]) -> anyhow::Result<Array3<f32>> {
        let at = self.last_convolution().context("expected a network with a convolution, got one without")?;
        let (n_rows, n_classes) = (rows.shape().first().copied().unwrap_or(0), self.plan.n_classes());
        ensure!(classes.len() == n_rows, "expected {n_rows} classes, one a row, got {}", classes.len());
        if let Some(class) = classes.iter().find(|&&class| class as usize >= n_classes) {
            anyhow::bail!("expected classes below {n_classes}, got {class}");
        }
        let mut chosen = vec![0.0_f32; n_rows * n_classes];
        for (row, &class) in classes.iter().enumerate() {
            chosen[row * n_classes + class as usize] = 1.0;
        }
        let chosen = Tensor::<Compute, 2>::from_data(TensorData::new(chosen, [n_rows, n_classes]), &self.device);

        let alone = autodiff::one_at_a_time();
        let mut leaf = None;
        let mut look = |value: Value| match value {
            Value::Image(values) => {
                let tapped = Tensor::<Compute, 4>::from_inner(values.inner()).require_grad();
                leaf = Some(tapped.clone());
                Value::Image(tapped)
            }
            flat @ Value::Flat(_) => flat,
        };
        let last = self.plan.steps().len() - 1;
        let logits = self.run_tapped(to_tensor(rows, &self.device), last, None, Some((at, &mut look)));
        let gradients = (logits * chosen).sum().backward();
        drop(alone);
        let leaf = leaf.context("a convolution gives images")?;
        let slope = leaf.grad(&gradients).context("the network is not on a device for training")?;
        let [_, n_channels, height, width] = leaf.dims();
        let numbers = |data: TensorData| data.convert::<f32>().to_vec::<f32>().expect("it was converted to f32");
        let (values, slope) = (numbers(leaf.into_data()), numbers(slope.into_data()));
        Ok(maps(&values, &slope, [n_rows, n_channels, height, width]))
    }
}

/// The maps of activations and their derivatives, both `(n_rows, channels, height, width)`.
fn maps(values: &[f32], slope: &[f32], [n_rows, n_channels, height, width]: [usize; 4]) -> Array3<f32> {
    let n_places = height * width;
    let mut maps = Array3::zeros((n_rows, height, width));
    for (row, mut map) in maps.outer_iter_mut().enumerate() {
        for channel in 0..n_channels {
            let start = (row * n_channels + channel) * n_places;
            let weight = slope[start..start + n_places].iter().sum::<f32>() / n_places as f32;
            map.iter_mut().zip(&values[start..start + n_places]).for_each(|(sum, value)| *sum += weight * value);
        }
        let top = map.iter().copied().fold(0.0_f32, f32::max);
        map.mapv_inplace(|value| if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 });
    }
    maps
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::IxDyn;

    use super::*;
    use crate::lab::device::Device;
    use crate::lab::network::plan::{Begin, PlanBuilder};

    /// One convolution of 1×1 that copies the image, a mean over places, and a linear layer of ones: the logits rise
    /// alike everywhere, so the map is the image itself.
    #[test]
    fn the_map_of_a_copying_network_is_the_image() {
        let mut plan = PlanBuilder::new(&[1, 3, 3]);
        let copied = plan.convolution_with(0, 1, (1, 1, 0), Begin::Constant(1.0), None);
        let pooled = plan.global_average_pool(copied);
        plan.linear_with(pooled, 2, Begin::Constant(1.0), Begin::Constant(0.0));
        let device = Device::Cpu.open().unwrap().training();
        let network = Network::init(Arc::new(plan.finish()), 1, &device);
        let image: Vec<f32> = (0..9).map(|place| place as f32 / 4.0).collect();
        let rows = ArrayD::from_shape_vec(IxDyn(&[1, 1, 3, 3]), image.clone()).unwrap();
        let map = network.grad_cam(rows.clone(), &[1]).unwrap();
        assert_eq!(map.dim(), (1, 3, 3));
        for (got, pixel) in map.iter().zip(&image) {
            assert!((got - pixel / 2.0).abs() < 1e-6, "{map}");
        }
        assert!(network.grad_cam(rows.clone(), &[2]).is_err() && network.grad_cam(rows, &[]).is_err());
    }

    #[test]
    fn what_speaks_against_a_class_is_not_on_its_map() {
        let (values, slope) = ([1.0, 0.0, 0.0, 3.0], [1.0, 1.0, -1.0, -1.0]);
        // Two channels of two places; the second weighs −1: 1 − 0 and 0 − 3.
        let map = maps(&values, &slope, [1, 2, 1, 2]);
        assert_eq!(map.iter().copied().collect::<Vec<_>>(), [1.0, 0.0]);
    }

    #[test]
    fn a_network_without_a_convolution_has_no_map() {
        let mut plan = PlanBuilder::new(&[2]);
        plan.linear(0, 2);
        let device = Device::Cpu.open().unwrap().training();
        let network = Network::init(Arc::new(plan.finish()), 1, &device);
        let error = network.grad_cam(ArrayD::zeros(IxDyn(&[1, 2])), &[0]).unwrap_err();
        assert!(error.to_string().contains("with a convolution"), "{error}");
    }
}
