//! Answers of a running endpoint, asked row by row within a budget and a rate, and kept while they come.
//!
//! The endpoint is judged as it stands: nobody says here what defends it. Who knows its defence says so by an
//! [`Inversion`], which the attacker then uses.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ndarray::{Array2, ArrayD, Axis};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use super::further::Further;
use super::kept::{Kept, KeptError, Question};
use super::predictions::served;
use super::sides::Sides;
use super::{Querier, QueryError};
use crate::audit::answers::{Allows, Answers};
use crate::audit::invert::Inversion;
use crate::audit::system::System;
use crate::audit::target::{Target, TargetError};
use crate::client::ClientError;
use crate::client::infer::{ModelMetadata, RemoteModel, TensorMetadata};
use crate::data::{Dataset, hex};
use crate::defence::ScoreKind;

/// How often a batch is tried before the endpoint counts as gone.
const N_TRIES: u32 = 5;
/// The wait after the first failure; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How far a row may be from summing to 1 to be read as probabilities.
const SUM_TOLERANCE: f64 = 1e-2;

/// Why an endpoint cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It could not be asked, or its metadata could not be read.
    #[error("{0}")]
    Client(ClientError),
    /// Its answers stopped.
    #[error("the endpoint went away after {n_answered} of {n_rows} rows ({error}); {kept}")]
    Gone {
        /// Rows that were answered, in this run and before.
        n_answered: usize,
        /// Rows wanted.
        n_rows: usize,
        /// What happened.
        error: ClientError,
        /// Where the answers are.
        kept: String,
    },
    /// The model and the rows do not fit each other.
    #[error("expected {expected}, got {got}")]
    Unfit {
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The budget does not reach.
    #[error("the audit needs {wanted} more queries, the budget is {budget}: raise it, or take fewer rows")]
    Budget {
        /// Queries that are missing.
        wanted: u64,
        /// The budget.
        budget: u64,
    },
    /// The kept answers cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The rows make no target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No thread or socket could be had.
    #[error("cannot start the client: {0}")]
    Runtime(std::io::Error),
}

impl From<ClientError> for EndpointError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

fn unfit(expected: impl Into<String>, got: impl Into<String>) -> EndpointError {
    EndpointError::Unfit { expected: expected.into(), got: got.into() }
}

/// How an endpoint is asked.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Rows in one request.
    pub batch_rows: usize,
    /// Rows that may be asked in this run; `None` for no limit.
    pub query_budget: Option<u64>,
    /// Questions of the budget that are kept for later, when all rows have been asked.
    pub reserved: u64,
    /// Rows a second; `None` for as fast as it answers.
    pub rate: Option<f64>,
    /// The input that a row fills, for a model whose metadata tell nothing; else `None`, or the one there is.
    pub input: Option<String>,
    /// The output that is read; `None` where there is one that can be.
    pub output: Option<String>,
    /// What its numbers are; `None` to tell by their sums that they are probabilities.
    pub kind: Option<ScoreKind>,
    /// The file of kept answers.
    pub answers: Option<PathBuf>,
}

/// A model behind an endpoint, with what it was asked so far.
pub struct Remote {
    runtime: Runtime,
    model: RemoteModel,
    metadata: ModelMetadata,
    metadata_digest: String,
    input: TensorMetadata,
    output: TensorMetadata,
    manners: Manners,
    kind: Option<ScoreKind>,
    /// Classes, once the rows that are asked about have told.
    n_classes: Option<usize>,
    /// Answers to further questions.
    further: Further,
    n_asked: u64,
    /// When the next request may leave.
    next_at: Instant,
}

/// What an endpoint answered to all rows of an audit.
pub struct Asked {
    /// The rows.
    pub target: Target,
    /// What is judged on them.
    pub systems: Vec<System>,
    /// Rows whose answers were kept from an earlier run.
    pub n_kept: u64,
    /// What must be said.
    pub doubts: Vec<String>,
}

impl Remote {
    /// Reads the metadata of a model, and finds its one input and the output to read.
    ///
    /// # Errors
    /// [`EndpointError::Client`], [`EndpointError::Unfit`], [`EndpointError::Runtime`].
    pub fn connect(mut model: RemoteModel, manners: Manners) -> Result<Self, EndpointError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(EndpointError::Runtime)?;
        let (metadata, body) = runtime.block_on(model.metadata())?;
        let input = filled(&metadata.inputs, manners.input.as_deref())?;
        let output = match (metadata.outputs.as_slice(), &manners.output) {
            ([], Some(name)) => untold(name),
            (outputs, name) => pick(outputs, name.as_deref())?.clone(),
        };
        let kind = manners.kind;
        let metadata_digest = hex(&Sha256::digest(&body));
        let next_at = Instant::now();
        Ok(Self {
            runtime,
            model,
            metadata,
            metadata_digest,
            input,
            output,
            manners,
            kind,
            n_classes: None,
            further: Further::default(),
            n_asked: 0,
            next_at,
        })
    }

    /// What the model says of itself.
    #[must_use]
    pub fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    /// How it was told what its answers are, once it has been asked.
    #[must_use]
    pub fn scores_decided(&self) -> String {
        let name = &self.output.name;
        match (self.kind, self.manners.kind) {
            (Some(kind), Some(_)) => format!("{kind}, as stated; output {name}"),
            (Some(kind), None) => format!("{kind}: its rows sum to 1; output {name}"),
            (None, _) => format!("labels alone; output {name}"),
        }
    }

    /// Whether the output holds labels and no scores.
    #[must_use]
    pub fn answers_labels(&self) -> bool {
        !self.output.datatype.starts_with("FP") && !self.output.datatype.starts_with("BF")
    }

    /// Asks all rows of both sides, those that are kept already excepted; `progress` is told the rows done.
    ///
    /// # Errors
    /// [`EndpointError`]. Answers that came before are kept.
    pub fn ask_all(
        &mut self,
        dataset: &Dataset,
        sides: &Sides,
        inversion: Inversion,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Asked, EndpointError> {
        self.check_rows(dataset)?;
        self.n_classes = Some(dataset.n_classes());
        let rows: Vec<usize> = sides.members().iter().chain(sides.non_members()).copied().collect();
        // The sides and labels are checked before a row is asked.
        let labels: Vec<u32> = rows.iter().map(|&row| dataset.labels()[row]).collect();
        let allows = Allows { queries: true, scores: !self.answers_labels(), ..Allows::LABELS };
        let n_members = sides.members().len();
        let target = |n_classes| Target::answered(labels.clone(), n_members, n_classes, allows);
        target(dataset.n_classes())?;

        let n_values = self.n_values(dataset)?;
        let (mut kept, mut answers) = match &self.manners.answers {
            None => (None, std::collections::HashMap::new()),
            Some(path) => {
                let (model, digest) = (self.model.path().to_owned(), self.metadata_digest.clone());
                let question = Question::new(model, digest, self.output.name.clone(), dataset.digest(), n_values);
                let (kept, answers) = Kept::open(path, &question)?;
                (Some(kept), answers)
            }
        };
        let of_further = Further::split_off(&mut answers);
        let missing: Vec<usize> = rows.iter().copied().filter(|row| !answers.contains_key(row)).collect();
        let n_kept = rows.len() - missing.len();
        let wanted = missing.len() as u64 + self.manners.reserved;
        self.check_budget(wanted)?;
        let mut doubts = Vec::new();
        let can_look_again = wanted > 0 && self.check_budget(wanted + 1).is_ok();
        if let Some(row) = rows.iter().find(|row| answers.contains_key(row)).filter(|_| can_look_again) {
            doubts.extend(self.drift(dataset, *row, &answers[row])?);
        }
        progress(n_kept);
        let mut n_answered = n_kept;
        for batch in missing.chunks(self.manners.batch_rows.max(1)) {
            let values = self.patiently(&dataset.batch(batch)).map_err(|error| match error {
                Failure::Refused(error) => EndpointError::Client(error),
                Failure::Gone(error) => {
                    let kept = kept.as_ref().map_or_else(
                        || "they were not kept: name a file with --answers".to_owned(),
                        |kept| {
                            format!("they are kept in {}: the same command goes on from there", kept.path().display())
                        },
                    );
                    EndpointError::Gone { n_answered, n_rows: rows.len(), error, kept }
                }
            })?;
            if values.ncols() != n_values {
                return Err(unfit(format!("{n_values} values an answer"), values.ncols().to_string()));
            }
            self.settle_kind(&values)?;
            if let Some(kept) = &mut kept {
                kept.add(batch, values.as_slice().unwrap_or_default())?;
            }
            for (&row, values) in batch.iter().zip(values.rows()) {
                answers.insert(row, values.to_vec());
            }
            n_answered += batch.len();
            progress(batch.len());
        }
        let flat: Vec<f64> = rows.iter().flat_map(|row| answers[row].iter().copied()).collect();
        let values = Array2::from_shape_vec((rows.len(), n_values), flat);
        let values = values.map_err(|_| unfit(format!("{n_values} values an answer"), "another number"))?;
        self.settle_kind(&values)?;
        let answers = self.read(values, dataset.n_classes())?;
        let n_classes = answers.probabilities.ncols();
        if let Some(kept) = kept {
            self.further = Further::new(kept, of_further);
        }
        let target = target(n_classes)?.with_dataset_rows(rows);
        Ok(Asked { target, systems: served(answers, inversion, n_classes), n_kept: n_kept as u64, doubts })
    }

    /// Rows asked in this run.
    #[must_use]
    pub fn n_asked(&self) -> u64 {
        self.n_asked
    }

    fn check_rows(&self, dataset: &Dataset) -> Result<(), EndpointError> {
        let fixed = self.input.shape.get(1..).unwrap_or_default();
        let row = dataset.row_shape();
        let fits = self.input.shape.is_empty()
            || fixed.len() == row.len() && fixed.iter().zip(row).all(|(&size, &have)| size < 0 || size == have as i64);
        if fits && !["BYTES", "BOOL"].contains(&self.input.datatype.as_str()) {
            return Ok(());
        }
        let expected = format!(
            "rows for the model's input {:?} ({} {:?})",
            self.input.name, self.input.datatype, self.input.shape
        );
        Err(unfit(expected, format!("rows of shape {row:?}")))
    }

    /// Values in each answer: 1 for labels, else the classes.
    fn n_values(&self, dataset: &Dataset) -> Result<usize, EndpointError> {
        if self.answers_labels() {
            return Ok(1);
        }
        let n_classes = dataset.n_classes();
        match self.output.shape.last() {
            None => Ok(n_classes),
            Some(&size) if size < 0 || size == n_classes as i64 => Ok(n_classes),
            _ => Err(unfit(
                format!("scores of {n_classes} classes, as the data has"),
                format!("output {:?} of shape {:?}", self.output.name, self.output.shape),
            )),
        }
    }

    fn check_budget(&self, wanted: u64) -> Result<(), EndpointError> {
        match self.manners.query_budget {
            Some(budget) if wanted > budget.saturating_sub(self.n_asked) => {
                Err(EndpointError::Budget { wanted, budget })
            }
            _ => Ok(()),
        }
    }

    /// Asks one kept row again: whether the endpoint still answers alike.
    fn drift(&mut self, dataset: &Dataset, row: usize, before: &[f64]) -> Result<Option<String>, EndpointError> {
        let Ok(now) = self.patiently(&dataset.batch(&[row])) else { return Ok(None) };
        let differs = now.iter().zip(before).any(|(now, before)| (now - before).abs() > 1e-6);
        let doubt = "a row that was answered in an earlier run is answered otherwise now: the endpoint was changed, or \
                     its answers are drawn anew each time";
        Ok(differs.then(|| doubt.to_owned()))
    }

    /// One request, tried again while the endpoint is away.
    fn patiently(&mut self, rows: &ArrayD<f32>) -> Result<Array2<f64>, Failure> {
        let n_rows = rows.shape().first().copied().unwrap_or(0);
        let mut wait = FIRST_WAIT;
        for n_try in 1.. {
            std::thread::sleep(self.next_at.saturating_duration_since(Instant::now()));
            if let Some(rate) = self.manners.rate {
                self.next_at = Instant::now() + Duration::from_secs_f64((n_rows as f64 / rate).min(3_600.0));
            }
            match self.runtime.block_on(self.model.infer(&self.input, &self.output.name, rows)) {
                Ok(numbers) => {
                    self.n_asked += n_rows as u64;
                    return Ok(self.emitted(numbers.values));
                }
                Err(error) if !is_passing(&error) => return Err(Failure::Refused(error)),
                Err(error) if n_try == N_TRIES => return Err(Failure::Gone(error)),
                Err(_) => {}
            }
            std::thread::sleep(wait);
            wait *= 2;
        }
        unreachable!("the loop ends by a return")
    }

    /// The values that the endpoint held before it wrote them as text.
    fn emitted(&self, values: Array2<f64>) -> Array2<f64> {
        if self.output.datatype == "FP32" { values.mapv(|value| f64::from(value as f32)) } else { values }
    }

    fn settle_kind(&mut self, values: &Array2<f64>) -> Result<(), EndpointError> {
        if self.kind.is_some() || self.answers_labels() {
            return Ok(());
        }
        let sums_to_one = |row: ndarray::ArrayView1<'_, f64>| {
            row.iter().all(|&p| p >= 0.0) && (row.sum() - 1.0).abs() <= SUM_TOLERANCE
        };
        if values.rows().into_iter().all(sums_to_one) {
            self.kind = Some(ScoreKind::Probabilities);
            return Ok(());
        }
        Err(unfit(
            "answers whose rows sum to 1, or --output-kind, which says what they are (R2)",
            format!("other numbers in output {:?}", self.output.name),
        ))
    }

    fn read(&self, values: Array2<f64>, n_classes: usize) -> Result<Answers, EndpointError> {
        if self.answers_labels() {
            let label = |&value: &f64| {
                (value >= 0.0 && value < n_classes as f64 && value.fract() == 0.0).then_some(value as u32)
            };
            let labels: Option<Vec<u32>> = values.iter().map(label).collect();
            let labels =
                labels.ok_or_else(|| unfit(format!("labels below {n_classes}"), "another number in an answer"))?;
            return Ok(Answers::of_labels(labels, n_classes));
        }
        let log_zero = |value: f64| self.kind == Some(ScoreKind::LogProbabilities) && value == f64::NEG_INFINITY;
        if values.iter().any(|&value| !value.is_finite() && !log_zero(value)) {
            return Err(unfit("finite scores", "NaN or an infinity in an answer"));
        }
        Ok(Answers::of_scores(values, self.kind.unwrap_or(ScoreKind::Probabilities)))
    }
}

impl Remote {
    /// Answers to `inputs` that no row of the data set is, in their order: those that are kept from an earlier run are
    /// not asked again, and those that come are kept. Returns the values, shape (n_rows, values of an answer).
    fn further(&mut self, inputs: &ArrayD<f32>) -> Result<Array2<f64>, QueryError> {
        let refused = |what: String| QueryError::Refused { what };
        let n_rows = inputs.shape().first().copied().unwrap_or(0);
        let keys = self.further.keys(inputs);
        let mut found: Vec<Option<Vec<f64>>> = match &keys {
            Some(keys) => keys.iter().map(|&key| self.further.take(key)).collect(),
            None => vec![None; n_rows],
        };
        let missing: Vec<usize> = (0..n_rows).filter(|&place| found[place].is_none()).collect();
        let wanted = missing.len() as u64;
        if let Some(left) = self.n_left().filter(|&left| left < wanted) {
            return Err(QueryError::Budget { wanted, left });
        }
        for batch in missing.chunks(self.manners.batch_rows.max(1)) {
            let rows = inputs.select(Axis(0), batch);
            let values = self.patiently(&rows).map_err(|failure| {
                let (Failure::Refused(error) | Failure::Gone(error)) = failure;
                refused(format!("{error}; {}", self.further.words()))
            })?;
            self.settle_kind(&values).map_err(|error| refused(error.to_string()))?;
            if let Some(keys) = &keys {
                let keys: Vec<usize> = batch.iter().map(|&place| keys[place]).collect();
                self.further.add(&keys, &values).map_err(|error| refused(error.to_string()))?;
            }
            batch.iter().zip(values.rows()).for_each(|(&place, values)| found[place] = Some(values.to_vec()));
        }
        let width = found.iter().flatten().map(Vec::len).next().unwrap_or(0);
        let flat: Vec<f64> = found.into_iter().flatten().flatten().collect();
        let shaped = Array2::from_shape_vec((n_rows, width), flat);
        shaped.map_err(|_| refused("answers of different widths came".to_owned()))
    }
}

enum Failure {
    /// The endpoint said no: asking again would not help.
    Refused(ClientError),
    /// It did not answer.
    Gone(ClientError),
}

/// Whether a later try may do better.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Exchange(_) | ClientError::Timeout(_) => true,
        ClientError::Status { status, .. } => [429, 502, 503, 504].contains(status),
        ClientError::BadUrl { .. }
        | ClientError::NotLoopback { .. }
        | ClientError::TlsSettings(_)
        | ClientError::Tls { .. }
        | ClientError::TooLong { .. }
        | ClientError::Grpc(_)
        | ClientError::Metadata(_) => false,
    }
}

/// The output to read: the named one; else `probabilities`; else the only one that may hold scores.
/// A tensor of which its name alone is known: 32-bit floats of any shape.
fn untold(name: &str) -> TensorMetadata {
    TensorMetadata { name: name.to_owned(), datatype: "FP32".to_owned(), shape: Vec::new() }
}

/// The one input, which a row fills.
fn filled(inputs: &[TensorMetadata], name: Option<&str>) -> Result<TensorMetadata, EndpointError> {
    match (inputs, name) {
        ([], Some(name)) => Ok(untold(name)),
        ([], None) => Err(unfit("a model that tells its input, or --input and --output, which name them", "0 inputs")),
        ([input], None) => Ok(input.clone()),
        ([input], Some(name)) if input.name == name => Ok(input.clone()),
        ([input], Some(name)) => Err(unfit(format!("an input named {name:?}"), format!("the input {:?}", input.name))),
        (inputs, _) => Err(unfit("a model of one input, which a row fills", format!("{} inputs", inputs.len()))),
    }
}

fn pick<'a>(outputs: &'a [TensorMetadata], name: Option<&str>) -> Result<&'a TensorMetadata, EndpointError> {
    let names = || outputs.iter().map(|output| format!("{:?}", output.name)).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        return outputs
            .iter()
            .find(|output| output.name == name)
            .ok_or_else(|| unfit(format!("an output named {name:?}"), format!("outputs {}", names())));
    }
    if let Some(found) = outputs.iter().find(|output| output.name == crate::pipeline::PROBABILITIES) {
        return Ok(found);
    }
    match outputs.iter().filter(|output| output.datatype.starts_with("FP")).collect::<Vec<_>>()[..] {
        [found] => Ok(found),
        _ => Err(unfit("one output of scores, or --output, which names it", format!("outputs {}", names()))),
    }
}

impl Querier for Remote {
    fn ask(&mut self, inputs: &ArrayD<f32>) -> Result<Answers, QueryError> {
        /// More classes than any model has, so that a number that is no label makes no vast answer.
        const MAX_CLASSES: f64 = 1e6;

        let values = self.further(inputs)?;
        // A batch of labels does not tell by itself how many classes there are.
        let told = || match self.answers_labels() {
            true => 1 + values.iter().fold(0.0_f64, |top, &v| top.max(v)).min(MAX_CLASSES) as usize,
            false => values.ncols(),
        };
        let n_classes = self.n_classes.unwrap_or_else(told);
        let refused = |what: String| QueryError::Refused { what };
        if !self.answers_labels() && values.ncols() != n_classes {
            return Err(refused(format!("expected {n_classes} values an answer, got {}", values.ncols())));
        }
        self.read(values, n_classes).map_err(|error| refused(error.to_string()))
    }

    fn n_asked(&self) -> u64 {
        self.n_asked
    }

    fn n_left(&self) -> Option<u64> {
        self.manners.query_budget.map(|budget| budget.saturating_sub(self.n_asked))
    }
}
