//! The systems that an audit compares: each turns the target's scores into answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::{Array2, Axis};
use serde::Serialize;

use crate::audit::answers::{Answers, argmax};
use crate::audit::invert::Inversion;
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;
use crate::audit::utility::softmax_at;
use crate::defence::{Defence, DefenceConfig, DefenceError, DefendError, Fitted, Gate, Method, ScoreKind};

/// The method that a system is, and what makes its answers.
pub enum SystemKind {
    /// The model as it is: what no proxy would stand in front of.
    Undefended,
    /// R15's rival. Keeps every label; leaks all that the model leaks.
    TemperatureScaled,
    /// A defence, as served.
    Defended(Box<Defence>),
    /// The floor (R14): a defence that answers with the label alone.
    LabelOnly(Box<Defence>),
    /// Answers that came from elsewhere: an endpoint, a file.
    Answered {
        /// The part that it plays.
        role: Role,
        /// What it answered, a row for each of the target's.
        answers: Answers,
        /// How an attacker who knows the system reads its answers back.
        inversion: Inversion,
    },
}

/// The part that a system plays in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The model as it is: attacks are tried on it first (R16).
    Undefended,
    /// The rival of R15.
    Rival,
    /// What is judged.
    Served,
    /// The label alone (R14).
    Floor,
}

/// A system with the name that it has in tables.
pub struct System {
    /// Name in tables.
    pub name: String,
    /// What it is.
    pub kind: SystemKind,
    /// What its defence was fitted to, which an attacker is taken to know.
    pub fitted: Option<Arc<Fitted>>,
}

/// A system that could not be built for this target, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    /// Name in tables.
    pub name: String,
    /// Why it is not there.
    pub reason: String,
}

/// The paper's setting of its method (its code has w = 0.1).
const PAPER_WEIGHT: f64 = 0.1;

/// The defences of every audit: the paper's method alone, masked, gated and rounded, and its other form (R9).
#[must_use]
pub fn standard_defences() -> Vec<DefenceConfig> {
    let reweight = |when| Method::Reweight { weight: PAPER_WEIGHT, when };
    let plain = |method| DefenceConfig { method, top_k: None, digits: None };
    vec![
        plain(reweight(Gate::Always)),
        DefenceConfig { top_k: Some(3), ..plain(reweight(Gate::Always)) },
        DefenceConfig { digits: Some(2), ..plain(reweight(Gate::Always)) },
        plain(reweight(Gate::DistanceAbove { quantile: 0.9 })),
        DefenceConfig { digits: Some(2), ..plain(reweight(Gate::DistanceAbove { quantile: 0.9 })) },
        plain(Method::Inlier { weight: PAPER_WEIGHT, quantile: 0.5 }),
    ]
}

/// Adds what stands beside the standard defences where the whole grid is wanted, before the label-only one: the paper's
/// method at other weights (skipped with the reason where there are no centroids), and masks and a rounding with no
/// method before them.
pub fn add_grid(
    systems: &mut Vec<System>,
    skipped: &mut Vec<Skipped>,
    fitted: Option<&Arc<Fitted>>,
    kind: ScoreKind,
    n_classes: usize,
) {
    let plain = |method| DefenceConfig { method, top_k: None, digits: None };
    let reweight = |weight| plain(Method::Reweight { weight, when: Gate::Always });
    let masked = |top_k, digits| DefenceConfig { top_k, digits, ..plain(Method::AsIs) };
    let masks = [masked(Some(1), None), masked(Some(3), None), masked(None, Some(2))];
    let mut more = Vec::new();
    for config in [1.0, 0.5, 0.0].map(reweight).into_iter().chain(masks) {
        match Defence::new(&config, fitted.cloned(), kind, n_classes) {
            Ok(defence) => more.push(System {
                name: summary(&defence),
                kind: SystemKind::Defended(Box::new(defence)),
                fitted: fitted.cloned(),
            }),
            Err(error) => skipped.push(Skipped { name: config.summary(), reason: error.to_string() }),
        }
    }
    let floor = systems.iter().position(|system| system.role() == Role::Floor).unwrap_or(systems.len());
    systems.splice(floor..floor, more);
}

/// Builds the systems of an audit: undefended, the rival, the standard defences, `given` ones (name and settings),
/// label-only. A standard defence that cannot be built (no centroids, no inlier rows) is skipped with its reason.
///
/// # Errors
/// The first of the `given` defences that cannot be built, with its name.
pub fn build_all(
    given: &[(String, DefenceConfig)],
    fitted: Option<&Arc<Fitted>>,
    kind: ScoreKind,
    n_classes: usize,
) -> Result<(Vec<System>, Vec<Skipped>), (String, DefenceError)> {
    let mut systems = vec![
        System { name: "undefended".to_owned(), kind: SystemKind::Undefended, fitted: None },
        System { name: "temperature-scaled".to_owned(), kind: SystemKind::TemperatureScaled, fitted: None },
    ];
    let mut skipped = Vec::new();
    let build = |config: &DefenceConfig| Defence::new(config, fitted.cloned(), kind, n_classes).map(Box::new);
    let defended = |name, defence| System { name, kind: SystemKind::Defended(defence), fitted: fitted.cloned() };
    for config in standard_defences() {
        match build(&config) {
            Ok(defence) => systems.push(defended(summary(&defence), defence)),
            Err(error) => skipped.push(Skipped { name: config.summary(), reason: error.to_string() }),
        }
    }
    for (name, config) in given {
        let defence = build(config).map_err(|error| (name.clone(), error))?;
        let name = format!("{name}: {}", summary(&defence));
        systems.push(defended(name, defence));
    }
    let config = DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None };
    let defence = build(&config).map_err(|error| (config.summary(), error))?;
    systems.push(System { name: config.summary(), kind: SystemKind::LabelOnly(defence), fitted: None });
    Ok((systems, skipped))
}

/// A defence in a few words; what no server runs is marked.
fn summary(defence: &Defence) -> String {
    let unserved = if defence.check_served().is_err() { " (cannot be served)" } else { "" };
    defence.config().summary() + unserved
}

impl System {
    /// The part that it plays.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.kind {
            SystemKind::Undefended => Role::Undefended,
            SystemKind::TemperatureScaled => Role::Rival,
            SystemKind::Defended(_) => Role::Served,
            SystemKind::LabelOnly(_) => Role::Floor,
            SystemKind::Answered { role, .. } => *role,
        }
    }

    /// The settings of its defence, if it has one that is known.
    #[must_use]
    pub fn config(&self) -> Option<&DefenceConfig> {
        match &self.kind {
            SystemKind::Undefended | SystemKind::TemperatureScaled | SystemKind::Answered { .. } => None,
            SystemKind::Defended(defence) | SystemKind::LabelOnly(defence) => Some(defence.config()),
        }
    }

    /// How an attacker who knows the system reads its answers back.
    #[must_use]
    pub fn inversion(&self, temperature: Option<&Temperature>) -> Inversion {
        match (&self.kind, &self.fitted, temperature) {
            (SystemKind::Answered { inversion, .. }, ..) => inversion.clone(),
            (SystemKind::Defended(defence), Some(fitted), _) => Inversion::of(defence.config(), fitted),
            (SystemKind::TemperatureScaled, _, Some(fitted)) => Inversion::temperature(fitted.value),
            _ => Inversion::as_is(),
        }
    }

    /// What the system answers on all rows of `target`. `undefended` are the logits of [`Target::logits`];
    /// without a `temperature` the rival cannot answer and there is `None`.
    ///
    /// # Errors
    /// [`DefendError`] when the defence was built for another kind or number of scores.
    pub fn answer(
        &self,
        target: &Target,
        undefended: &Array2<f32>,
        temperature: Option<&Temperature>,
    ) -> Result<Option<Answers>, DefendError> {
        Ok(match &self.kind {
            SystemKind::Undefended => Some(at_temperature(undefended, 1.0)),
            SystemKind::TemperatureScaled => temperature.map(|fitted| at_temperature(undefended, fitted.value)),
            SystemKind::Defended(defence) | SystemKind::LabelOnly(defence) => Some(defended(defence, target)?),
            SystemKind::Answered { answers, .. } => Some(answers.clone()),
        })
    }

    /// What the system adds to the model, in time over all rows of `target`: the defence alone, in the batches in
    /// which the scores came, on this thread; the median of `n_passes` passes. Zero for the undefended model;
    /// for the rival the offline softmax; `None` for answers that came from elsewhere.
    ///
    /// # Errors
    /// As [`System::answer`].
    pub fn overhead(
        &self,
        target: &Target,
        undefended: &Array2<f32>,
        temperature: Option<&Temperature>,
        n_passes: usize,
    ) -> Result<Option<Duration>, DefendError> {
        let mut passes = Vec::with_capacity(n_passes);
        for _ in 0..n_passes {
            passes.push(match &self.kind {
                SystemKind::Answered { .. } => return Ok(None),
                SystemKind::Undefended => Duration::ZERO,
                SystemKind::TemperatureScaled => {
                    let start = Instant::now();
                    let answer = softmax_at(undefended, temperature.map_or(1.0, |fitted| fitted.value));
                    let pass = start.elapsed();
                    drop(std::hint::black_box(answer));
                    pass
                }
                SystemKind::Defended(defence) | SystemKind::LabelOnly(defence) => {
                    let mut pass = Duration::ZERO;
                    for raw in target.batches() {
                        let start = Instant::now();
                        let answer = defence.apply(raw)?;
                        pass += start.elapsed();
                        drop(std::hint::black_box(answer));
                    }
                    pass
                }
            });
        }
        passes.sort_unstable();
        Ok(passes.get(passes.len() / 2).copied())
    }
}

/// Answers of the model itself at a temperature. The label is that of the logits: no temperature moves it.
fn at_temperature(logits: &Array2<f32>, temperature: f64) -> Answers {
    let predicted = logits.rows().into_iter().map(argmax).collect();
    Answers { probabilities: softmax_at(logits, temperature), predicted }
}

/// Answers of a defence: the f32 values that would be emitted, and the labels that a client would read off them.
fn defended(defence: &Defence, target: &Target) -> Result<Answers, DefendError> {
    let mut probabilities = Array2::zeros((target.n_rows(), target.n_classes()));
    let mut start = 0;
    for raw in target.batches() {
        let defended = defence.apply(raw)?;
        let end = start + defended.n_rows();
        probabilities.slice_axis_mut(Axis(0), (start..end).into()).assign(&defended.probabilities().mapv(f64::from));
        start = end;
    }
    Ok(Answers::new(probabilities))
}
