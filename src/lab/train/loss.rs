//! What a training makes small: cross-entropy with targets that may be soft.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData};
use ndarray::Array2;

use crate::lab::Compute;
use crate::lab::recipe::{LabelSmoothing, SmoothingForm};

/// The targets of a batch as a class distribution a row.
///
/// # Shapes
///
/// `(labels.len(), n_classes)`.
pub(in crate::lab) fn one_hot(labels: &[u32], n_classes: usize, smoothing: Option<LabelSmoothing>) -> Array2<f32> {
    let (on, off) = match smoothing {
        None => (1.0, 0.0),
        Some(LabelSmoothing { epsilon, form: SmoothingForm::All }) => {
            (1.0 - epsilon + epsilon / n_classes as f64, epsilon / n_classes as f64)
        }
        Some(LabelSmoothing { epsilon, form: SmoothingForm::Others }) => {
            (1.0 - epsilon, epsilon / (n_classes as f64 - 1.0))
        }
    };
    let mut targets = Array2::from_elem((labels.len(), n_classes), off as f32);
    for (row, &label) in labels.iter().enumerate() {
        targets[[row, label as usize]] = on as f32;
    }
    targets
}

/// `−Σ_k t_k log softmax(z)_k`, one number a row.
///
/// # Shapes
///
/// `logits` and `targets` `(n_rows, n_classes)`; the outcome `(n_rows)`.
pub(in crate::lab) fn cross_entropies(logits: Tensor<Compute, 2>, targets: &Array2<f32>) -> Tensor<Compute, 1> {
    let device = logits.device();
    let shape = [targets.nrows(), targets.ncols()];
    let targets = Tensor::<Compute, 2>::from_data(TensorData::new(targets.iter().copied().collect(), shape), &device);
    (log_softmax(logits, 1) * targets).sum_dim(1).neg().reshape([shape[0]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::device::Device;

    #[test]
    fn cross_entropy_is_that_of_the_textbook() {
        let device = Device::Cpu.open().unwrap().evaluation();
        let logits = Tensor::from_data(TensorData::new(vec![0.0f32, 0.0, 2.0, 0.0], [2, 2]), &device);
        let losses = cross_entropies(logits, &one_hot(&[0, 1], 2, None)).into_data().to_vec::<f32>().unwrap();
        for (loss, expected) in losses.iter().zip([2f64.ln(), (1.0 + 2f64.exp()).ln()]) {
            assert!((f64::from(*loss) - expected).abs() < 1e-6, "{loss} and {expected}");
        }
    }

    #[test]
    fn label_smoothing_has_the_forms_of_both_papers() {
        let all = one_hot(&[1], 4, Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::All }));
        assert_eq!(all.row(0).to_vec(), [0.025, 0.925, 0.025, 0.025]);
        let others = one_hot(&[0], 11, Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::Others }));
        assert_eq!((others[[0, 0]], others[[0, 1]]), (0.9, 0.01));
    }
}
