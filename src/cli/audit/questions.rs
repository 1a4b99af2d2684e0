//! Further questions: changed inputs, repeated ones, and the way to the decision boundary.
//!
//! Every changed form of a row is asked once. Its label serves the label-only attacks, which are the same for every
//! system that keeps the label; its scores, behind each of the systems, serve the attack on a record's neighbourhood. The forms
//! that shadow attacks look at are asked about here, too, before anything else.

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use ndarray::ArrayD;

use super::{Args, Asker, Case, random_points};
use crate::audit::answers::{Answers, argmax};
use crate::audit::asked::{self, Asked, Named};
use crate::audit::attack::{Attack, AttackId, Family};
use crate::audit::collect;
use crate::audit::invert::Inversion;
use crate::audit::label_only::{BoundarySettings, Change, Range, boundary_distances, flip_distances};
use crate::audit::report::{Settings, SourceRecord};
use crate::audit::shadow::folder;
use crate::audit::source::pipeline::PipelineQuerier;
use crate::audit::source::sides::Sides;
use crate::audit::source::{Querier, QueryError};
use crate::audit::study::{GivenScores, Knowledge};
use crate::audit::system::{Role, System};
use crate::audit::target::Target;
use crate::audit::temperature::Temperature;
use crate::data::Dataset;
use crate::pipeline::Pipeline;

/// Changed forms of a row, for each kind of noise.
const COPIES: usize = 10;
/// Deviations of the noise, in shares of the range of the inputs.
const DEVIATIONS: [f32; 3] = [0.02, 0.05, 0.1];
/// Shares of binary features that are turned over.
const FLIPS: [f32; 3] = [0.01, 0.02, 0.05];
/// Rows whose changed forms are in memory at once.
pub(super) const BATCH: usize = 1_024;
/// Random orders in which binary features are turned over.
const N_ORDERS: usize = 5;
/// Rows from which the boundary is looked for.
const N_STARTS: usize = 100;

/// Asks what `--queries`, `--boundary` and `--random-points` want, within `--query-budget`.
///
/// # Errors
/// When nobody answers further questions, or the budget does not hold them: before the first.
pub(super) fn ask(args: &Args, case: &mut Case, settings: &Settings, knowledge: &mut Knowledge) -> anyhow::Result<()> {
    let Case { target, systems, dataset, asker, origin, .. } = case;
    let dataset = dataset.as_ref().context("--queries, --boundary and --random-points need --data")?;
    let has_scores = target.allows().scores;
    ensure!(has_scores || args.random_points.is_none(), "--random-points: these answers are labels alone");
    let (rows, labels) = (target.dataset_rows().to_vec(), target.labels().to_vec());
    let subject = Subject::new(dataset, rows, labels, settings.seed);
    let wanted = subject.n_wanted(args);
    let left = match &asker {
        Asker::Nobody => {
            bail!("--queries, --boundary, --random-points: a file of predictions answers no further questions")
        }
        Asker::Pipeline(_) => {
            let of_forms = n_forms_wanted(args, target.n_rows());
            args.endpoint.query_budget.map(|budget| budget.saturating_sub(of_forms))
        }
        Asker::Remote(remote) => remote.n_left(),
    };
    holds(left, wanted)?;
    let bar = args.bar(wanted as usize, "queries", "queries");
    let mut given = Vec::new();
    if args.queries {
        given.extend(subject.neighbourhood(target, systems, asker, &bar)?);
        given.extend(subject.again(target, systems, asker, &bar, &mut origin.doubts)?);
    }
    if args.boundary {
        given.extend(subject.boundary(systems, asker, &bar)?);
    }
    if let Some(n_points) = args.random_points {
        given.extend(random_points::ask(&subject, n_points as usize, target, systems, asker, &bar)?);
    }
    bar.finish_and_clear();
    knowledge.given.extend(given);
    if let (Asker::Remote(remote), SourceRecord::Endpoint { n_asked, .. }) = (&*asker, &mut origin.source) {
        *n_asked = remote.n_asked();
    }
    Ok(())
}

/// Checks that a budget has so many queries left.
fn holds(left: Option<u64>, wanted: u64) -> anyhow::Result<()> {
    let enough = left.is_none_or(|left| left >= wanted);
    ensure!(enough, "--query-budget: {wanted} further queries are wanted, it holds {} more", left.unwrap_or_default());
    Ok(())
}

/// Checks the budget of a model that is at hand, where further questions alone count, before it answers anything.
///
/// # Errors
/// When it does not hold what the command line will want about these sides.
pub(super) fn check_budget(args: &Args, dataset: &Dataset, sides: &Sides) -> anyhow::Result<()> {
    holds(args.endpoint.query_budget, n_wanted(args, dataset, sides))
}

/// Further questions that the command line will want about these sides.
pub(super) fn n_wanted(args: &Args, dataset: &Dataset, sides: &Sides) -> u64 {
    let rows: Vec<usize> = sides.members().iter().chain(sides.non_members()).copied().collect();
    let labels = rows.iter().map(|&row| dataset.labels()[row]).collect();
    let of_forms = n_forms_wanted(args, rows.len());
    Subject::new(dataset, rows, labels, args.seed).n_wanted(args) + of_forms
}

/// The rows to be changed.
pub(super) struct Subject<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) rows: Vec<usize>,
    labels: Vec<u32>,
    range: Range,
    is_binary: bool,
    pub(super) seed: u64,
}

impl<'a> Subject<'a> {
    fn new(dataset: &'a Dataset, rows: Vec<usize>, labels: Vec<u32>, seed: u64) -> Self {
        let (range, is_binary) = range(dataset, &rows);
        Self { dataset, rows, labels, range, is_binary, seed }
    }

    fn changes(&self) -> Vec<Change> {
        let mut changes = if self.is_binary {
            FLIPS.map(|share| Change::Flips { share, copies: COPIES }).to_vec()
        } else {
            let width = self.range.high - self.range.low;
            DEVIATIONS.map(|share| Change::Noise { deviation: share * width, copies: COPIES }).to_vec()
        };
        if self.is_image() {
            changes.push(Change::Shifts { pixels: 2 });
        }
        changes
    }

    fn is_image(&self) -> bool {
        self.dataset.row_shape().len() == 3
    }

    fn boundary_settings(&self) -> BoundarySettings {
        BoundarySettings { n_halvings: 10, n_steps: 3, n_directions: 20, range: self.range, seed: self.seed }
    }

    /// Queries for each row on the way to the boundary.
    fn boundary_queries(&self) -> u64 {
        if self.is_binary {
            let width: usize = self.dataset.row_shape().iter().product();
            let n_halvings = (width.max(1) as f64).log2().ceil() as usize + 1;
            1 + (N_ORDERS * n_halvings) as u64
        } else {
            self.boundary_settings().queries_per_row()
        }
    }

    /// All queries that the command line wants.
    fn n_wanted(&self, args: &Args) -> u64 {
        let n_rows = self.rows.len() as u64;
        let changed: u64 = self.changes().iter().map(Change::queries_per_row).sum();
        let repeated = asked::QUERIES_PER_ROW * n_rows;
        let starts = if self.is_binary { 0 } else { n_rows.div_ceil(BATCH as u64) * N_STARTS as u64 };
        let of_queries = if args.queries { changed * n_rows + repeated } else { 0 };
        let of_boundary = if args.boundary { self.boundary_queries() * n_rows + starts } else { 0 };
        of_queries + of_boundary + u64::from(args.random_points.unwrap_or(0))
    }

    /// For each kind of change the share of a row's changed forms that keep the true label, and, for each system that
    /// answers scores, the mean loss over them.
    fn neighbourhood(
        &self,
        target: &Target,
        systems: &[System],
        asker: &mut Asker,
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<GivenScores>> {
        let (calibration, labels) = target.calibration();
        let temperature = Temperature::fit(calibration, labels);
        let scored: Vec<&System> = systems.iter().filter(|system| system.role() != Role::Floor).collect();
        let inversions: Vec<Inversion> = scored.iter().map(|system| system.inversion(temperature.as_ref())).collect();
        let mut given = Vec::new();
        for change in self.changes() {
            let n_copies = change.queries_per_row() as usize;
            let mut held = vec![0.0; self.rows.len()];
            let mut losses = vec![vec![0.0; self.rows.len()]; scored.len()];
            let mut recovered = losses.clone();
            for (batch, rows) in self.rows.chunks(BATCH).enumerate() {
                let (start, inputs) = (batch * BATCH, self.dataset.batch(rows));
                let labels = &self.labels[start..start + rows.len()];
                for copy in 0..n_copies {
                    // A stream of its own for each batch, or every batch would be moved alike.
                    let seed = self.seed.wrapping_add((batch as u64) << 32);
                    let changed = change.form(&inputs, copy, self.range, seed);
                    let answered = answers(asker, &changed, labels, &scored, temperature.as_ref())?;
                    for (place, &label) in labels.iter().enumerate() {
                        let kept = answered.predicted[place] == label;
                        held[start + place] += f64::from(u8::from(kept)) / n_copies as f64;
                    }
                    for (index, answers) in answered.of_systems.iter().enumerate() {
                        let Some(answers) = answers else { continue };
                        for (attack, sums) in
                            [(Attack::Loss, &mut losses[index]), (Attack::InvertedLoss, &mut recovered[index])]
                        {
                            let of_copy = attack.scores(answers, labels, &inversions[index]);
                            let each = of_copy.iter().enumerate();
                            each.for_each(|(n, loss)| sums[start + n] += loss / n_copies as f64);
                        }
                    }
                    bar.inc(rows.len() as u64);
                }
            }
            let label_only = AttackId::new(Family::LabelOnly, change.name());
            given.extend(for_all(systems, &label_only, &held));
            let name = format!("mean loss {}", change.name().trim_start_matches("label "));
            let inverted = AttackId::new(Family::Adaptive, format!("inverted {name}"));
            let adaptive = AttackId::new(Family::Adaptive, name);
            if target.allows().scores {
                for (attack, of_systems) in [(adaptive, losses), (inverted, recovered)] {
                    let each = scored.iter().zip(of_systems);
                    given.extend(each.map(|(system, scores)| GivenScores {
                        system: system.name.clone(),
                        attack: attack.clone(),
                        scores,
                        rule: None,
                    }));
                }
            }
        }
        Ok(given)
    }

    /// Mixtures of records, and the same question again: averaged where answers vary, which is told among the doubts.
    fn again(
        &self,
        target: &Target,
        systems: &[System],
        asker: &mut Asker,
        bar: &ProgressBar,
        doubts: &mut Vec<String>,
    ) -> anyhow::Result<Vec<GivenScores>> {
        let (calibration, labels) = target.calibration();
        let temperature = Temperature::fit(calibration, labels);
        let can_answer = |system: &&System| system.role() != Role::Rival || temperature.is_some();
        let systems: Vec<&System> = systems.iter().filter(can_answer).collect();
        let has_scores = |system: &System| system.role() != Role::Floor && target.allows().scores;
        let named = |system: &&System| Named { name: system.name.clone(), has_scores: has_scores(system) };
        let named: Vec<Named> = systems.iter().map(named).collect();
        let inputs = self.dataset.batch(&self.rows);
        let rows = Asked { inputs: &inputs, labels: &self.labels, n_members: target.n_members(), seed: self.seed };
        let mut all = AllSystems { asker, systems, temperature };
        let found = asked::ask_again(&mut all, &named, &rows, &mut |n| bar.inc(n))?;
        if found.varies {
            doubts.push(
                "the same rows asked again were answered otherwise: the attack on the mean of many answers is among those run"
                    .to_owned(),
            );
        }
        Ok(found.given)
    }

    /// How far each row is from another label.
    fn boundary(&self, systems: &[System], asker: &mut Asker, bar: &ProgressBar) -> anyhow::Result<Vec<GivenScores>> {
        let floor = floor(systems)?;
        let mut local;
        let querier: &mut dyn Querier = match asker {
            Asker::Pipeline(pipeline) => {
                local = PipelineQuerier::new(pipeline, floor, None);
                &mut local
            }
            Asker::Remote(remote) => remote.as_mut(),
            Asker::Nobody => bail!("a file of predictions answers no further questions"),
        };
        let starts = self.starts();
        let mut scores = Vec::with_capacity(self.rows.len());
        for (rows, labels) in self.rows.chunks(BATCH).zip(self.labels.chunks(BATCH)) {
            let inputs = self.dataset.batch(rows);
            scores.extend(if self.is_binary {
                flip_distances(querier, &inputs, labels, N_ORDERS, self.range, self.seed)?
            } else {
                boundary_distances(querier, &inputs, labels, &starts, &self.boundary_settings())?
            });
            bar.inc(rows.len() as u64 * self.boundary_queries());
        }
        let how = if self.is_binary { "flips to another label" } else { "distance to the boundary" };
        let name = format!("{how}, {} queries", self.boundary_queries());
        Ok(for_all(systems, &AttackId::new(Family::LabelOnly, name), &scores))
    }

    /// Rows of both sides, evenly over the list: points of other labels to begin from.
    fn starts(&self) -> ArrayD<f32> {
        let n = self.rows.len().min(N_STARTS);
        let picked: Vec<usize> = (0..n).map(|place| self.rows[place * self.rows.len() / n]).collect();
        self.dataset.batch(&picked)
    }
}

fn floor(systems: &[System]) -> anyhow::Result<&System> {
    systems.iter().find(|system| system.role() == Role::Floor).context("there is no label-only system")
}

/// The same scores for every system: each keeps every label.
fn for_all(systems: &[System], attack: &AttackId, scores: &[f64]) -> Vec<GivenScores> {
    let of = |system: &System| GivenScores {
        system: system.name.clone(),
        attack: attack.clone(),
        scores: scores.to_vec(),
        rule: None,
    };
    systems.iter().map(of).collect()
}

/// What was answered to changed rows.
pub(super) struct Answered {
    /// The label of each.
    predicted: Vec<u32>,
    /// What each system makes of them; `None` for one that cannot answer.
    pub(super) of_systems: Vec<Option<Answers>>,
}

/// Asks about changed rows once, and puts the answer behind each of `systems`.
pub(super) fn answers(
    asker: &mut Asker,
    inputs: &ArrayD<f32>,
    labels: &[u32],
    systems: &[&System],
    temperature: Option<&Temperature>,
) -> anyhow::Result<Answered> {
    match asker {
        Asker::Nobody => bail!("a file of predictions answers no further questions"),
        Asker::Remote(remote) => {
            let answers = remote.ask(inputs)?;
            let predicted = answers.predicted.clone();
            let of_systems = systems.iter().map(|system| Some(of_endpoint(system, &answers))).collect();
            Ok(Answered { predicted, of_systems })
        }
        Asker::Pipeline(pipeline) => {
            let target = changed_target(pipeline, inputs, labels)?;
            let logits = target.logits();
            let of_systems = systems.iter().map(|system| system.answer(&target, &logits, temperature));
            let of_systems = of_systems.collect::<Result<Vec<_>, _>>()?;
            Ok(Answered { predicted: logits.rows().into_iter().map(argmax).collect(), of_systems })
        }
    }
}

/// Every system that can answer, asked at once.
struct AllSystems<'a> {
    asker: &'a mut Asker,
    systems: Vec<&'a System>,
    temperature: Option<Temperature>,
}

impl asked::Systems for AllSystems<'_> {
    fn ask_all(&mut self, inputs: &ArrayD<f32>) -> Result<Vec<Answers>, QueryError> {
        // The rows have no side here, and their labels are not looked at.
        let labels = vec![0; inputs.shape().first().copied().unwrap_or(0)];
        let refused = |what: String| QueryError::Refused { what };
        let answered = answers(self.asker, inputs, &labels, &self.systems, self.temperature.as_ref());
        let answered = answered.map_err(|error| refused(format!("{error:#}")))?;
        let each = answered.of_systems.into_iter();
        each.collect::<Option<Vec<_>>>().ok_or_else(|| refused("a system gave no answer".to_owned()))
    }
}

/// Changed rows as a target of their own, whose sides mean nothing.
fn changed_target(pipeline: &Pipeline, inputs: &ArrayD<f32>, labels: &[u32]) -> anyhow::Result<Target> {
    let raw = pipeline.raw(&collect::inputs_of_values(pipeline, inputs.clone())?)?;
    Ok(Target::unsided(vec![raw], labels.to_vec())?)
}

/// The changed forms of all rows that shadow attacks look at beside the rows themselves.
pub(super) enum Forms {
    /// Of a model: each form as a target without sides.
    Scored(Vec<Target>),
    /// Of an endpoint: its answers to each form.
    Answered(Vec<Answers>),
}

impl Forms {
    /// What a system answers to each form.
    ///
    /// # Errors
    /// When its defence does not take the scores.
    pub(super) fn behind(&self, system: &System, temperature: Option<&Temperature>) -> anyhow::Result<Vec<Answers>> {
        match self {
            Self::Scored(forms) => {
                let each = forms.iter().map(|form| system.answer(form, &form.logits(), temperature));
                Ok(each.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            }
            Self::Answered(forms) => Ok(forms.iter().map(|answers| of_endpoint(system, answers)).collect()),
        }
    }
}

/// What one of an endpoint's systems makes of what it answered.
fn of_endpoint(system: &System, answers: &Answers) -> Answers {
    match system.role() {
        Role::Floor => Answers::of_labels(answers.predicted.clone(), answers.probabilities.ncols()),
        _ => answers.clone(),
    }
}

/// Asks about the changed forms of all rows that `--augment` wants, within the budget.
///
/// # Errors
/// When the model does not take them, the endpoint does not answer, or the budget does not hold them.
pub(super) fn forms(args: &Args, case: &mut Case) -> anyhow::Result<Forms> {
    let (target, batch_rows) = (&case.target, args.batch_size as usize);
    let wanted = n_forms_wanted(args, target.n_rows());
    let Some(dataset) = case.dataset.as_ref().filter(|_| wanted > 0) else { return Ok(Forms::Scored(Vec::new())) };
    let bar = args.bar(wanted as usize, "forms", "queries");
    let numbers = 1..args.augment as usize;
    let found = match &mut case.asker {
        Asker::Nobody => bail!("--augment: a file of predictions answers no further questions"),
        Asker::Pipeline(pipeline) => {
            holds(args.endpoint.query_budget, wanted)?;
            let of = |number: usize| {
                let each = target.dataset_rows().chunks(batch_rows.max(1)).map(|rows| {
                    bar.inc(rows.len() as u64);
                    let inputs = folder::form(&dataset.batch(rows), number);
                    Ok(pipeline.raw(&collect::inputs_of_values(pipeline, inputs)?)?)
                });
                let batches = each.collect::<anyhow::Result<Vec<_>>>()?;
                Ok(Target::unsided(batches, target.labels().to_vec())?)
            };
            Forms::Scored(numbers.map(of).collect::<anyhow::Result<_>>()?)
        }
        Asker::Remote(remote) => {
            let of = |number: usize| {
                let each = target.dataset_rows().chunks(BATCH).map(|rows| {
                    let answers = remote.ask(&folder::form(&dataset.batch(rows), number))?;
                    bar.inc(rows.len() as u64);
                    Ok(answers)
                });
                Ok(Answers::joined(&each.collect::<anyhow::Result<Vec<_>>>().context("--augment")?))
            };
            Forms::Answered(numbers.map(of).collect::<anyhow::Result<_>>()?)
        }
    };
    bar.finish_and_clear();
    Ok(found)
}

/// Queries for the changed forms of so many rows.
fn n_forms_wanted(args: &Args, n_rows: usize) -> u64 {
    u64::from(args.augment.saturating_sub(1)) * n_rows as u64
}

/// The range of the inputs, and whether they are 0 and 1 alone, told from the first rows.
fn range(dataset: &Dataset, rows: &[usize]) -> (Range, bool) {
    let looked_at = dataset.batch(&rows[..rows.len().min(BATCH)]);
    let (low, high) =
        looked_at.iter().fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    (Range { low, high }, looked_at.iter().all(|&value| value == 0.0 || value == 1.0))
}
