//! What a training makes small: the formulas of [`crate::lab::recipe`]'s defences that change the loss.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor, TensorData};
use ndarray::{Array2, Axis};

use super::augment::Mixing;
use crate::lab::Compute;
use crate::lab::recipe::{Distillation, LabelSmoothing, Recipe, RelaxLoss, SmoothingForm};

/// What the rows of a batch are to be answered with.
pub(in crate::lab) struct Targets {
    /// A class distribution a row from the labels; absent where the teacher is learned alone.
    from_labels: Option<Array2<f32>>,
    /// One from the teacher, softened.
    from_teacher: Option<Array2<f32>>,
}

impl Targets {
    pub(super) fn mix(&mut self, mixing: &Mixing) {
        [&mut self.from_labels, &mut self.from_teacher]
            .into_iter()
            .flatten()
            .for_each(|targets| mixing.targets(targets));
    }
}

/// How the losses of a batch follow from its logits.
#[derive(Debug, Clone, Copy)]
pub(in crate::lab) struct Objective {
    n_classes: usize,
    smoothing: Option<LabelSmoothing>,
    distillation: Distillation,
    confidence_penalty: f64,
    relax: Option<RelaxLoss>,
}

impl Objective {
    pub(in crate::lab) fn new(recipe: &Recipe, n_classes: usize) -> Self {
        Self {
            n_classes,
            smoothing: recipe.label_smoothing,
            distillation: recipe.distillation.unwrap_or_default(),
            confidence_penalty: recipe.confidence_penalty,
            relax: recipe.relax_loss,
        }
    }

    /// The targets of rows with these labels, and of what a teacher says about them, one row each.
    pub(in crate::lab) fn targets(&self, labels: &[u32], teacher: Option<Array2<f32>>) -> Targets {
        let Distillation { temperature, weight } = self.distillation;
        let from_labels = (teacher.is_none() || weight < 1.0).then(|| one_hot(labels, self.n_classes, self.smoothing));
        let from_teacher = teacher.filter(|_| weight > 0.0).map(|answers| soften(answers, temperature));
        Targets { from_labels, from_teacher }
    }

    /// The loss of each row, a function of that row alone.
    ///
    /// # Shapes
    ///
    /// `logits` `(n_rows, n_classes)`; the outcome `(n_rows)`.
    pub(in crate::lab) fn per_row(&self, logits: &Tensor<Compute, 2>, targets: &Targets) -> Tensor<Compute, 1> {
        let Distillation { temperature, weight } = self.distillation;
        let log_p = log_softmax(logits.clone(), 1);
        let cross_entropy = targets.from_labels.as_ref().map(|targets| cross_entropies(log_p.clone(), targets));
        let distilled = targets.from_teacher.as_ref().map(|targets| {
            let softened =
                if temperature == 1.0 { log_p.clone() } else { log_softmax(logits.clone() / temperature, 1) };
            cross_entropies(softened, targets)
        });
        let loss = match (cross_entropy, distilled) {
            (Some(labels), Some(teacher)) => labels * (1.0 - weight) + teacher * (weight * temperature * temperature),
            (None, Some(teacher)) if temperature == 1.0 => teacher,
            (None, Some(teacher)) => teacher * (temperature * temperature),
            (labels, None) => labels.expect("targets are from labels where they are not from a teacher"),
        };
        if self.confidence_penalty > 0.0 { loss - entropies(log_p) * self.confidence_penalty } else { loss }
    }

    /// The number that a step makes small, and the mean loss of the rows; they differ under RelaxLoss alone.
    ///
    /// # Shapes
    ///
    /// `logits` `(n_rows, n_classes)`, `losses` as [`per_row`](Self::per_row) gives them; `labels` `n_rows`.
    pub(super) fn of_batch(
        &self,
        losses: Tensor<Compute, 1>,
        logits: &Tensor<Compute, 2>,
        labels: &[u32],
        epoch: usize,
    ) -> (Tensor<Compute, 1>, Tensor<Compute, 1>) {
        let mean = losses.clone().mean();
        let small = match self.relax {
            None => mean.clone(),
            Some(RelaxLoss { alpha, .. }) if epoch.is_multiple_of(2) => (mean.clone() - alpha).abs(),
            Some(relax) => {
                let flattened = flattened(relax, losses, logits, labels).mean();
                // Chosen on the device, so that no step waits for a number.
                let above = Tensor::from_inner(mean.clone().inner().greater_elem(relax.alpha).float());
                mean.clone() * above.clone() + flattened * (above.neg() + 1.0)
            }
        };
        (small, mean)
    }
}

/// RelaxLoss's posterior flattening, one number a row: `[ŷ ≠ y] · CE(q, p) − loss`.
fn flattened(
    relax: RelaxLoss,
    losses: Tensor<Compute, 1>,
    logits: &Tensor<Compute, 2>,
    labels: &[u32],
) -> Tensor<Compute, 1> {
    let [n_rows, n_classes] = logits.dims();
    let own = matrix(&one_hot(labels, n_classes, None), logits);
    let posterior = (softmax(logits.clone(), 1) * own.clone()).sum_dim(1).clamp_max(relax.upper);
    let others = (posterior.clone().neg() + 1.0) / (n_classes as f64 - 1.0);
    let target = own.clone() * posterior + (own.neg() + 1.0) * others;
    let flat = (log_softmax(logits.clone(), 1) * target).sum_dim(1).neg().reshape([n_rows]);
    let wrong = are_right(logits.clone().inner(), labels).float().neg() + 1.0;
    flat * Tensor::from_inner(wrong.reshape([n_rows])) - losses
}

/// 1 for each row whose largest logit is at its label, else 0.
///
/// # Shapes
///
/// `(n_rows, n_classes)` and `n_rows`; the outcome `(n_rows, 1)`.
pub(super) fn are_right(logits: Tensor<Compute, 2>, labels: &[u32]) -> Tensor<Compute, 2, Int> {
    let device = logits.device();
    let labels: Vec<i32> = labels.iter().map(|&label| i32::try_from(label).unwrap_or(i32::MAX)).collect();
    let n_rows = labels.len();
    let labels = Tensor::<Compute, 2, Int>::from_data(TensorData::new(labels, [n_rows, 1]), &device);
    logits.argmax(1).equal(labels).int()
}

/// The targets of a batch as a class distribution a row.
///
/// # Shapes
///
/// `(labels.len(), n_classes)`.
fn one_hot(labels: &[u32], n_classes: usize, smoothing: Option<LabelSmoothing>) -> Array2<f32> {
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

/// `a^(1/T)`, each row divided by its sum; as it is for `T = 1`.
fn soften(mut answers: Array2<f32>, temperature: f64) -> Array2<f32> {
    if temperature == 1.0 {
        return answers;
    }
    for mut row in answers.axis_iter_mut(Axis(0)) {
        let powers: Vec<f64> = row.iter().map(|&share| f64::from(share).powf(1.0 / temperature)).collect();
        let sum: f64 = powers.iter().sum();
        row.iter_mut().zip(powers).for_each(|(share, power)| *share = (power / sum.max(f64::MIN_POSITIVE)) as f32);
    }
    answers
}

fn matrix(values: &Array2<f32>, like: &Tensor<Compute, 2>) -> Tensor<Compute, 2> {
    let shape = [values.nrows(), values.ncols()];
    Tensor::from_data(TensorData::new(values.iter().copied().collect(), shape), &like.device())
}

/// `−Σ_k t_k log p_k`, one number a row.
///
/// # Shapes
///
/// `log_p` and `targets` `(n_rows, n_classes)`; the outcome `(n_rows)`.
fn cross_entropies(log_p: Tensor<Compute, 2>, targets: &Array2<f32>) -> Tensor<Compute, 1> {
    let targets = matrix(targets, &log_p);
    let n_rows = targets.dims()[0];
    (log_p * targets).sum_dim(1).neg().reshape([n_rows])
}

/// `−Σ_k p_k log p_k`, one number a row.
fn entropies(log_p: Tensor<Compute, 2>) -> Tensor<Compute, 1> {
    let n_rows = log_p.dims()[0];
    (log_p.clone().exp() * log_p).sum_dim(1).neg().reshape([n_rows])
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::lab::autodiff;
    use crate::lab::device::Device;
    use crate::lab::network::Architecture;

    fn logits(values: &[[f32; 3]]) -> Tensor<Compute, 2> {
        let device = Device::Cpu.open().unwrap().training();
        Tensor::from_data(TensorData::new(values.as_flattened().to_vec(), [values.len(), 3]), &device).require_grad()
    }

    fn numbers(values: &Tensor<Compute, 1>) -> Vec<f64> {
        values.to_data().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
    }

    fn objective(change: impl FnOnce(&mut Recipe)) -> Objective {
        let mut recipe = Recipe::plain(Architecture::fcn(), 1, 1);
        change(&mut recipe);
        Objective::new(&recipe, 3)
    }

    fn p(row: [f32; 3], temperature: f64) -> [f64; 3] {
        let powers = row.map(|z| (f64::from(z) / temperature).exp());
        powers.map(|power| power / powers.iter().sum::<f64>())
    }

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-5, "{got} and {expected}");
    }

    const ROW: [f32; 3] = [0.5, 2.0, -1.0];

    #[test]
    fn cross_entropy_is_that_of_the_textbook() {
        let objective = objective(|_| {});
        let losses = objective.per_row(&logits(&[ROW, [0.0; 3]]), &objective.targets(&[0, 1], None));
        close(numbers(&losses)[0], -p(ROW, 1.0)[0].ln());
        close(numbers(&losses)[1], 3f64.ln());
    }

    #[test]
    fn label_smoothing_has_the_forms_of_both_papers() {
        let all = one_hot(&[1], 4, Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::All }));
        assert_eq!(all.row(0).to_vec(), [0.025, 0.925, 0.025, 0.025]);
        let others = one_hot(&[0], 11, Some(LabelSmoothing { epsilon: 0.1, form: SmoothingForm::Others }));
        assert_eq!((others[[0, 0]], others[[0, 1]]), (0.9, 0.01));
    }

    #[test]
    fn the_confidence_penalty_takes_the_entropy_off() {
        let objective = objective(|recipe| recipe.confidence_penalty = 0.3);
        let loss = objective.per_row(&logits(&[ROW]), &objective.targets(&[0], None));
        let p = p(ROW, 1.0);
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        close(numbers(&loss)[0], -p[0].ln() - 0.3 * entropy);
    }

    #[test]
    fn distillation_mixes_labels_and_the_softened_teacher() {
        let objective = objective(|recipe| recipe.distillation = Some(Distillation { temperature: 2.0, weight: 0.7 }));
        let teacher = array![[0.64f32, 0.32, 0.04]];
        let loss = objective.per_row(&logits(&[ROW]), &objective.targets(&[0], Some(teacher)));
        let roots = [0.8, 0.32f64.sqrt(), 0.2];
        let sum: f64 = roots.iter().sum();
        let soft: f64 = roots.iter().zip(p(ROW, 2.0)).map(|(root, p)| -root / sum * p.ln()).sum();
        close(numbers(&loss)[0], 0.3 * -p(ROW, 1.0)[0].ln() + 0.7 * 4.0 * soft);
    }

    #[test]
    fn a_teacher_without_more_words_is_learned_alone() {
        let objective = objective(|_| {});
        let loss = objective.per_row(&logits(&[ROW]), &objective.targets(&[0], Some(array![[0.2f32, 0.5, 0.3]])));
        let p = p(ROW, 1.0);
        close(numbers(&loss)[0], -0.2 * p[0].ln() - 0.5 * p[1].ln() - 0.3 * p[2].ln());
    }

    /// The gradient of the batch's number by the logits.
    fn slope(objective: &Objective, rows: &[[f32; 3]], labels: &[u32], epoch: usize) -> Vec<f64> {
        let _alone = autodiff::one_at_a_time();
        let logits = logits(rows);
        let losses = objective.per_row(&logits, &objective.targets(labels, None));
        let (small, _) = objective.of_batch(losses, &logits, labels, epoch);
        let gradients = small.backward();
        let slope = logits.grad(&gradients).unwrap();
        slope.into_data().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
    }

    #[test]
    fn relax_loss_descends_above_its_level_and_climbs_below_it_in_even_epochs() {
        let plain = slope(&objective(|_| {}), &[ROW], &[0], 0);
        let relaxed = |alpha, epoch| {
            slope(&objective(|recipe| recipe.relax_loss = Some(RelaxLoss { alpha, upper: 1.0 })), &[ROW], &[0], epoch)
        };
        // The loss of this row is about 1.74.
        for (alpha, epoch, sign) in [(1.0, 0, 1.0), (1.0, 1, 1.0), (3.0, 0, -1.0), (3.0, 2, -1.0)] {
            for (got, plain) in relaxed(alpha, epoch).into_iter().zip(&plain) {
                close(got, sign * plain);
            }
        }
    }

    /// The authors' flattened number in f64.
    fn flat(row: [f32; 3], label: usize, upper: f64) -> f64 {
        let p = p(row, 1.0);
        let own = p[label].min(upper);
        let target = |k: usize| if k == label { own } else { (1.0 - own) / 2.0 };
        let wrong = if (0..3).all(|k| row[label] >= row[k]) { 0.0 } else { 1.0 };
        wrong * (0..3).map(|k| -target(k) * p[k].ln()).sum::<f64>() + p[label].ln()
    }

    #[test]
    fn relax_loss_flattens_posteriors_below_its_level_in_odd_epochs() {
        let rows = [ROW, [3.0, 0.0, 0.1]];
        for upper in [1.0, 0.1] {
            let objective = objective(|recipe| recipe.relax_loss = Some(RelaxLoss { alpha: 5.0, upper }));
            let logits = logits(&rows);
            let losses = objective.per_row(&logits, &objective.targets(&[0, 0], None));
            let (small, mean) = objective.of_batch(losses, &logits, &[0, 0], 1);
            close(numbers(&small)[0], (flat(rows[0], 0, upper) + flat(rows[1], 0, upper)) / 2.0);
            close(numbers(&mean)[0], -(p(rows[0], 1.0)[0].ln() + p(rows[1], 1.0)[0].ln()) / 2.0);
            // By differences: gradients flow through the flattened target too.
            let slope = slope(&objective, &rows, &[0, 0], 1);
            let mut moved = ROW;
            moved[1] += 1e-2;
            let mut back = ROW;
            back[1] -= 1e-2;
            let expected = (flat(moved, 0, upper) - flat(back, 0, upper)) / 0.02 / 2.0;
            assert!((slope[1] - expected).abs() < 1e-3, "{slope:?} and {expected}");
        }
    }
}
