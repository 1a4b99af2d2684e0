//! What every dialect does with outputs: which are sent, in which form, and their values.
//!
//! Values come from [`Defended`] scores and from nothing else, those of the classification extension too: its strings
//! are written here, after the defence, and never asked of an engine.

use ndarray::{Array2, ArrayView2};

use super::inputs::listed;
use super::{ModelDescription, Refusal, quoted};
use crate::defence::{Defended, Form};

/// The most classes of a classification that may be asked for, as in the extension's text.
const MAX_CLASSES: u64 = 1_000_000;

/// An output that is going to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedOutput {
    /// Index into the description's outputs, and behind them those that pass by the defence.
    pub(super) index: usize,
    /// Raw bytes after the JSON part, and not in it.
    pub(super) binary: bool,
    /// The best so many classes as strings, and not all values.
    pub(super) classes: Option<usize>,
}

/// An output as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedOutput<'a> {
    pub(super) name: &'a str,
    pub(super) binary: bool,
    pub(super) classes: Option<usize>,
}

/// Which outputs to send, in which form: what is asked for, in that order, or else all.
pub(super) fn plan_outputs<'a>(
    model: &ModelDescription,
    wanted: impl IntoIterator<Item = WantedOutput<'a>>,
    binary: bool,
) -> Result<Vec<PlannedOutput>, Refusal> {
    let mut outputs: Vec<PlannedOutput> = Vec::with_capacity(model.outputs.len());
    for wanted in wanted {
        let Some(index) = names(model).position(|name| name == wanted.name) else {
            return Err(Refusal::bad_request(format!(
                "unexpected inference output {} for model {}, which has {}",
                quoted(wanted.name),
                quoted(&model.name),
                listed(names(model))
            )));
        };
        if wanted.classes.is_some() && index >= model.outputs.len() {
            let name = quoted(wanted.name);
            return Err(Refusal::bad_request(format!("output {name} holds no scores: there are no classes of it")));
        }
        if outputs.iter().any(|output| output.index == index) {
            return Err(Refusal::bad_request(format!("output {} is asked for twice", quoted(wanted.name))));
        }
        outputs.push(PlannedOutput { index, binary: wanted.binary, classes: wanted.classes });
    }
    if outputs.is_empty() {
        outputs.extend((0..names(model).count()).map(|index| PlannedOutput { index, binary, classes: None }));
    }
    Ok(outputs)
}

/// The names of all outputs, those of scores first.
fn names(model: &ModelDescription) -> impl Iterator<Item = &str> {
    let passed = model.passed.iter().map(|spec| spec.name.as_str());
    model.outputs.iter().map(|output| output.name.as_str()).chain(passed)
}

/// Which of the outputs that pass by the defence are going to be sent, by their place among those.
pub(super) fn passed_of(model: &ModelDescription, plan: &[PlannedOutput]) -> Vec<usize> {
    plan.iter().filter_map(|planned| planned.index.checked_sub(model.outputs.len())).collect()
}

/// Whether an output is one of scores.
pub(super) fn is_score(model: &ModelDescription, planned: PlannedOutput) -> bool {
    planned.index < model.outputs.len()
}

/// The parameter `classification` as a number of classes.
pub(super) fn n_classes(wanted: Option<u64>) -> Result<usize, Refusal> {
    let in_range = wanted.filter(|wanted| (1..=MAX_CLASSES).contains(wanted));
    in_range.and_then(|wanted| usize::try_from(wanted).ok()).ok_or_else(|| {
        Refusal::bad_request(format!("parameter 'classification' must be a whole number from 1 to {MAX_CLASSES}"))
    })
}

/// Defended scores in the forms that a plan needs.
pub(super) struct Scores<'a> {
    model: &'a ModelDescription,
    defended: &'a Defended,
    logs: Option<Array2<f32>>,
}

impl<'a> Scores<'a> {
    pub(super) fn new(model: &'a ModelDescription, plan: &[PlannedOutput], defended: &'a Defended) -> Self {
        let needs = |planned: &PlannedOutput| {
            model.outputs.get(planned.index).is_some_and(|output| output.form == Form::LogProbabilities)
        };
        let logs = plan.iter().any(needs).then(|| defended.log_probabilities());
        Self { model, defended, logs }
    }

    /// All values of an output, shape `(n_rows, n_classes)`.
    pub(super) fn values(&self, planned: PlannedOutput) -> ArrayView2<'_, f32> {
        match (self.model.outputs.get(planned.index).map(|output| output.form), &self.logs) {
            (Some(Form::LogProbabilities), Some(logs)) => logs.view(),
            _ => self.defended.probabilities(),
        }
    }

    /// The shape of an output as it will be sent: a classification has a column per string.
    pub(super) fn shape(&self, planned: PlannedOutput) -> [usize; 2] {
        let n_classes = self.defended.n_classes();
        [self.defended.n_rows(), planned.classes.map_or(n_classes, |wanted| wanted.min(n_classes))]
    }

    /// The strings of a classification, row after row: `value:index` or `value:index:label`, the label of the row
    /// first, then by value, then by index (R1, R5). Every row has as many: what the defence has masked has the value
    /// of a masked class, so their number tells nothing.
    pub(super) fn classes(&self, planned: PlannedOutput) -> Vec<String> {
        let values = self.values(planned);
        let [_, n_columns] = self.shape(planned);
        let mut strings = Vec::with_capacity(values.nrows() * n_columns);
        let mut order: Vec<usize> = Vec::with_capacity(values.ncols());
        for (row, &label) in values.rows().into_iter().zip(self.defended.labels()) {
            order.clear();
            order.extend(0..row.len());
            let rank = |index: &usize| (*index != label as usize, *index);
            order.sort_by(|a, b| (rank(a).0.cmp(&rank(b).0)).then(row[*b].total_cmp(&row[*a])).then(a.cmp(b)));
            for &index in order.iter().take(n_columns) {
                let name = self.model.labels.get(index).map(|name| format!(":{name}")).unwrap_or_default();
                strings.push(format!("{:.6}:{index}{name}", row[index]));
            }
        }
        strings
    }

    /// Appends the bytes of an output as the binary forms carry it: little endian numbers, or strings after their lengths.
    pub(super) fn write_raw(&self, planned: PlannedOutput, raw: &mut Vec<u8>) {
        if planned.classes.is_none() {
            let values = self.values(planned);
            raw.reserve(values.len() * size_of::<f32>());
            values.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()));
            return;
        }
        for string in self.classes(planned) {
            raw.extend_from_slice(&u32::try_from(string.len()).unwrap_or(u32::MAX).to_le_bytes());
            raw.extend_from_slice(string.as_bytes());
        }
    }

    /// The protocol's name of an output's element type.
    pub(super) fn datatype(planned: PlannedOutput) -> &'static str {
        let dtype = if planned.classes.is_some() { crate::tensor::DType::Bytes } else { crate::tensor::DType::F32 };
        dtype.oip_name()
    }
}
