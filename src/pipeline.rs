//! The journey of a request: decode, infer, defend, encode, in one place.
//!
//! A [`Pipeline`] is an engine, a defence and an identity that belong together; whoever serves it takes one `Arc`
//! snapshot per request, so a model is never answered for with another model's centroids. It runs on the caller's
//! thread and knows no sockets; where the model runs in another server, the journey has three parts ([`Pipeline::set_out`],
//! [`Pipeline::ask`], [`Pipeline::come_home`]), of which the first and the last are the same two functions. [`Facts`] tell about work done (rows, time per stage), never about scores or inputs.
//!
//! Scores that have not been defended do not leave: the only public result of [`Pipeline::answer`] is encoded from
//! [`Defended`], and beside it from those outputs of another server that an operator has vouched for, one by one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::artifact::centroids::{self, CentroidFile};
use crate::artifact::{ArtifactError, ModelDigest};
use crate::defence::{
    Defence, DefenceConfig, DefenceError, DefendError, Defended, Form, RawScores, ScoreKind, ScoresError,
};
use crate::engine::tract::TractEngine;
use crate::engine::upstream::{Fault, WireReply, WireRequest};
use crate::engine::{CallContext, Engine, EngineError, LoadOptions, ModelSpec, RemoteEngine};
use crate::protocol::{self, Answer, Call, ModelDescription, OutputSpec, Refusal, RefusalKind, ReplyPlan};
use crate::tensor::Inputs;

/// The output name under which every model answers with probabilities.
pub const PROBABILITIES: &str = "probabilities";

/// The most rows that one request may hold, unless the configuration says otherwise.
pub const DEFAULT_MAX_ROWS: usize = 1_024;

/// The bundled classifier: a small convolutional network on Fashion-MNIST, deliberately overfitted
/// (`models/README.md`).
pub mod bundled {
    /// The name under which it is served.
    pub const NAME: &str = "fashion";
    /// The ONNX file.
    pub const MODEL: &[u8] = include_bytes!("../models/fashion_cnn.onnx");
    /// Its centroid file.
    pub const CENTROIDS: &[u8] = include_bytes!("../centroids/fashion_cnn.safetensors");
    /// Its split: which rows of the data it was trained on, and which it never saw.
    pub const SPLIT: &[u8] = include_bytes!("../models/fashion_cnn.split.json");
}

/// Who a pipeline is: names for clients, digests for operators.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The model's name in URLs.
    pub name: String,
    /// The one version that is served.
    pub version: String,
    /// Class names by index; may be empty.
    pub labels: Vec<String>,
    /// SHA-256 of the model's bytes.
    pub model: ModelDigest,
}

/// Work done for one request. About rows and time, never about values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Rows answered.
    pub rows: usize,
    /// Bytes to inputs.
    pub decode: Duration,
    /// Inputs to raw scores.
    pub infer: Duration,
    /// Raw scores to defended ones.
    pub defend: Duration,
    /// Defended scores to bytes.
    pub encode: Duration,
    /// What failed inside, for the log; the client is told a fixed sentence.
    pub failure: Option<PipelineError>,
}

/// Why a pipeline cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The model cannot be loaded.
    #[error("model: {0}")]
    Engine(EngineError),
    /// The centroid file cannot be read.
    #[error("centroid file: {0}")]
    Artifact(ArtifactError),
    /// The centroid file was made for another model.
    #[error("centroid file: it was fitted to the model with SHA-256 {artifact}, this model has {model}")]
    OtherModel {
        /// The model at hand.
        model: ModelDigest,
        /// The model that the artifact names.
        artifact: ModelDigest,
    },
    /// The defence does not fit.
    #[error(transparent)]
    Defence(#[from] DefenceError),
    /// The model did not answer made-up rows.
    #[error("warm-up with {rows} rows of zeros: {error}")]
    WarmUp {
        /// Rows that were asked for at once.
        rows: usize,
        /// What went wrong.
        error: PipelineError,
    },
    /// The model and the centroid file name the classes differently.
    #[error("centroid file: it calls class {class} '{artifact}', the model calls it '{model}'")]
    Labels {
        /// The first class that differs.
        class: usize,
        /// The model's name for it.
        model: String,
        /// The artifact's.
        artifact: String,
    },
}

// Not `#[from]`: the sentence holds its cause already, and whoever prints the chain would print it twice.
impl From<EngineError> for AssembleError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<ArtifactError> for AssembleError {
    fn from(error: ArtifactError) -> Self {
        Self::Artifact(error)
    }
}

/// Why a batch was not defended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    /// The engine failed, or its scores are not finite (R8).
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The scores are not those that the defence was built for.
    #[error(transparent)]
    Defend(#[from] DefendError),
}

/// Where the model runs.
enum Runner {
    Here(Arc<dyn Engine>),
    Upstream(Arc<dyn RemoteEngine>),
}

impl Runner {
    fn spec(&self) -> &ModelSpec {
        match self {
            Self::Here(engine) => engine.spec(),
            Self::Upstream(engine) => engine.spec(),
        }
    }

    /// Asks an engine of this process.
    fn infer(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        match self {
            Self::Here(engine) => engine.infer(inputs),
            Self::Upstream(_) => Err(Fault::Asynchronous.into()),
        }
    }
}

/// An engine, a defence and an identity that belong together.
pub struct Pipeline {
    runner: Runner,
    defence: Defence,
    description: ModelDescription,
    model: ModelDigest,
    max_rows: usize,
    together: Together,
}

/// How rows of different requests may be run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// Not at all: rows would not be answered to the bit as each is alone, or it was not tried.
    Never,
    /// A row is answered to the bit alike in every batch of two rows and more; a single one is run twice.
    FromTwo,
    /// A row is answered to the bit alike however it is run.
    Any,
}

/// A request that has been read, on its way to the model.
#[derive(Debug)]
pub struct Begun {
    inputs: Inputs,
    plan: ReplyPlan,
    facts: Facts,
    deadline: Option<Instant>,
}

impl Begun {
    /// Its rows, at least one.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.inputs.n_rows()
    }

    /// The refusal of a request whose deadline has passed while it waited.
    #[must_use]
    pub fn late(&self) -> Option<Refusal> {
        late(self.deadline)
    }

    /// What has been done for it so far.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// As many bytes as its values take.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.inputs.n_bytes()
    }
}

/// The refusal of a request whose deadline has passed.
fn late(deadline: Option<Instant>) -> Option<Refusal> {
    let has_passed = deadline.is_some_and(|deadline| deadline <= Instant::now());
    has_passed.then(|| Refusal::new(RefusalKind::QueueTimeout, "the deadline of the call has passed"))
}

/// What is done with a model before it is said to be ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Whether rows of zeros are run, one, and as many as each of `batches`.
    pub warm_up: bool,
    /// The sizes of the batches that rows of different requests will be put into; empty: they never will be.
    pub batches: Vec<usize>,
}

impl Pipeline {
    /// Puts an engine and a defence together.
    ///
    /// # Errors
    /// [`DefenceError`] when the defence was built for another number of classes or kind of scores, or when it may
    /// not be served ([`Defence::check_served`]).
    pub fn new(engine: Arc<dyn Engine>, defence: Defence, identity: Identity) -> Result<Self, DefenceError> {
        Self::of(Runner::Here(engine), defence, identity)
    }

    /// As [`Self::new`], for a model that runs in another server: ask it by [`Self::set_out`] and what follows.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn upstream(engine: Arc<dyn RemoteEngine>, defence: Defence, identity: Identity) -> Result<Self, DefenceError> {
        Self::of(Runner::Upstream(engine), defence, identity)
    }

    fn of(runner: Runner, defence: Defence, identity: Identity) -> Result<Self, DefenceError> {
        let spec = runner.spec();
        if spec.n_classes != defence.n_classes() {
            return Err(DefenceError::Classes { model: spec.n_classes, artifact: defence.n_classes() });
        }
        if spec.score_kind != defence.kind() {
            return Err(DefenceError::Kind { model: spec.score_kind, artifact: defence.kind() });
        }
        defence.check_served()?;
        let model = identity.model;
        let description = describe(&runner, &defence, identity);
        Ok(Self { runner, defence, description, model, max_rows: DEFAULT_MAX_ROWS, together: Together::Never })
    }

    /// The same pipeline with another limit on the rows of a request, at least 1.
    #[must_use]
    pub fn with_max_rows(self, max_rows: usize) -> Self {
        Self { max_rows: max_rows.max(1), ..self }
    }

    /// The most rows of a request.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// The same pipeline, tried: [`Together`] is found out for the batches that are to be, and zeros are run. For a model
    /// in another server nothing is done.
    ///
    /// # Errors
    /// [`AssembleError::WarmUp`] when the model or the defence fails. Scores that are not finite are no failure here: a
    /// row of zeros may lie outside of what a model takes.
    pub fn prepared(mut self, preparation: &Preparation) -> Result<Self, AssembleError> {
        if self.remote().is_some() {
            return Ok(self);
        }
        if !preparation.batches.is_empty() {
            self.together = self.tried_together(&preparation.batches);
        }
        if preparation.warm_up {
            let batches = if self.together == Together::Never { &[] } else { &preparation.batches[..] };
            for &rows in [1].iter().chain(batches) {
                self.warmed(rows).map_err(|error| AssembleError::WarmUp { rows, error })?;
            }
        }
        Ok(self)
    }

    fn warmed(&self, rows: usize) -> Result<(), PipelineError> {
        let zeros = Inputs::made_up(&self.spec().inputs, 0..rows, true);
        let zeros = zeros.map_err(|error| EngineError::Input(error.to_string()))?;
        match self.defend(&zeros) {
            Ok(_) | Err(PipelineError::Engine(EngineError::Scores(ScoresError::NonFinite { .. }))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether made-up rows are answered to the bit alike in batches of these sizes and alone. The first row, the last
    /// and one in the middle are looked at.
    fn tried_together(&self, sizes: &[usize]) -> Together {
        let run = |rows: Range<usize>| self.raw(&Inputs::made_up(&self.spec().inputs, rows, false).ok()?).ok();
        let twice = |row: usize| {
            let one = Inputs::made_up(&self.spec().inputs, row..row + 1, false).ok()?;
            self.raw(&Inputs::joined(&[&one, &one])?).ok()
        };
        if self.spec().row_by_row {
            return Together::Never;
        }
        let mut found = Together::Any;
        for &size in [2, 3].iter().chain(sizes) {
            let Some(batch) = run(0..size) else { return Together::Never };
            for row in [0, size / 2, size - 1] {
                let (Some(pair), Some(alone)) = (twice(row), run(row..row + 1)) else { return Together::Never };
                if !(batch.same_row(row, &pair, 0) && batch.same_row(row, &pair, 1)) {
                    return Together::Never;
                }
                if !batch.same_row(row, &alone, 0) {
                    found = Together::FromTwo;
                }
            }
        }
        found
    }

    /// How rows of different requests may be run at once, as [`Self::prepared`] found it.
    #[must_use]
    pub fn together(&self) -> Together {
        self.together
    }

    /// What clients may know about the model.
    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// SHA-256 of the model's bytes.
    #[must_use]
    pub fn model_digest(&self) -> ModelDigest {
        self.model
    }

    /// What is known of the model.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        self.runner.spec()
    }

    /// The engine, where it is one of another server.
    #[must_use]
    pub fn remote(&self) -> Option<&Arc<dyn RemoteEngine>> {
        match &self.runner {
            Runner::Here(_) => None,
            Runner::Upstream(engine) => Some(engine),
        }
    }

    /// Whether a request that comes now can be answered: always, but for a model in another server.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.remote().is_none_or(|engine| engine.is_ready())
    }

    /// The defence.
    #[must_use]
    pub fn defence(&self) -> &Defence {
        &self.defence
    }

    /// The whole journey of one call, whatever its dialect: bytes in, bytes out, on the caller's thread.
    pub fn answer(&self, call: Call<'_>) -> (Result<Answer, Refusal>, Facts) {
        self.answer_within(call, &CallContext::default())
    }

    /// As [`Self::answer`], for a request that has a deadline: once that has passed the model is not run.
    pub fn answer_within(&self, call: Call<'_>, context: &CallContext) -> (Result<Answer, Refusal>, Facts) {
        let mut facts = Facts::default();
        let answer = self.journey(call, context, &mut facts);
        (answer, facts)
    }

    /// The first part of [`Self::answer`], for a request that is to be run with others.
    ///
    /// # Errors
    /// The refusal, with the work done until then.
    pub fn begun(&self, call: Call<'_>, context: &CallContext) -> Result<Begun, (Refusal, Facts)> {
        let mut facts = Facts::default();
        match self.begin(call, context, &mut facts) {
            Ok((inputs, plan, deadline)) => Ok(Begun { inputs, plan, facts, deadline }),
            Err(refusal) => Err((refusal, facts)),
        }
    }

    /// The scores of requests that are run as one, still sealed: for each its own.
    ///
    /// # Errors
    /// [`EngineError`] when the model fails on the batch; a request of it may do well alone.
    pub fn infer_together(&self, requests: &[&Begun]) -> Result<Vec<RawScores>, EngineError> {
        let inputs: Vec<&Inputs> = requests.iter().map(|request| &request.inputs).collect();
        let n_rows: Vec<usize> = requests.iter().map(|request| request.n_rows()).collect();
        let scores = match inputs[..] {
            // As it would be among others.
            [one] if n_rows == [1] && self.together == Together::FromTwo => {
                let pair = Inputs::joined(&[one, one]).ok_or(EngineError::Run)?;
                let mut rows = self.runner.infer(&pair)?.split(&[1, 1]).ok_or(EngineError::Run)?;
                rows.truncate(1);
                return Ok(rows);
            }
            [one] => self.runner.infer(one)?,
            _ => self.runner.infer(&Inputs::joined(&inputs).ok_or(EngineError::Run)?)?,
        };
        scores.split(&n_rows).ok_or(EngineError::Run)
    }

    /// The last part of [`Self::answer`]: the scores of a request to bytes, by way of the defence. `infer` is the time that
    /// its batch took.
    pub fn finished(
        &self,
        request: Begun,
        raw: Result<RawScores, EngineError>,
        infer: Duration,
    ) -> (Result<Answer, Refusal>, Facts) {
        let Begun { plan, mut facts, .. } = request;
        facts.infer = infer;
        let answer = self.finish(raw, plan, &mut facts);
        (answer, facts)
    }

    fn journey(&self, call: Call<'_>, context: &CallContext, facts: &mut Facts) -> Result<Answer, Refusal> {
        let (inputs, plan, _) = self.begin(call, context, facts)?;
        let raw = timed(&mut facts.infer, || self.runner.infer(&inputs));
        self.finish(raw, plan, facts)
    }

    /// The first part of the journey to a model in another server: bytes in, a request out. The processor's work.
    pub fn set_out(&self, call: Call<'_>, context: CallContext) -> (Result<Voyage, Refusal>, Facts) {
        let mut facts = Facts::default();
        let voyage = self.write(call, context, &mut facts);
        (voyage, facts)
    }

    fn write(&self, call: Call<'_>, mut context: CallContext, facts: &mut Facts) -> Result<Voyage, Refusal> {
        let (inputs, plan, deadline) = self.begin(call, &context, facts)?;
        context.deadline = deadline;
        let passed = plan.wanted_to_pass(&self.description);
        let written = match &self.runner {
            Runner::Here(_) => Err(Fault::Asynchronous.into()),
            Runner::Upstream(engine) => engine.write(&inputs, &passed, &context),
        };
        let request = written.map_err(|error| failed(facts, error.into()))?;
        Ok(Voyage { request, n_rows: inputs.n_rows(), passed, plan, context })
    }

    /// The second part: the other server is asked. Waiting, no work.
    pub async fn ask(&self, voyage: &Voyage) -> Result<WireReply, EngineError> {
        match &self.runner {
            Runner::Here(_) => Err(Fault::Asynchronous.into()),
            Runner::Upstream(engine) => Arc::clone(engine).ask(voyage.request.clone(), voyage.context.clone()).await,
        }
    }

    /// The last part: an answer in, bytes out, by way of the defence. The processor's work.
    ///
    /// # Errors
    /// What the client is told; `facts` says what failed inside.
    pub fn come_home(
        &self,
        voyage: Voyage,
        reply: Result<WireReply, EngineError>,
        facts: &mut Facts,
    ) -> Result<Answer, Refusal> {
        let Voyage { n_rows, passed, plan, context, .. } = voyage;
        let read = reply.and_then(|reply| match &self.runner {
            Runner::Here(_) => Err(Fault::Asynchronous.into()),
            Runner::Upstream(engine) => engine.read(&reply, n_rows, &passed, &context),
        });
        match read {
            Ok((raw, passed)) => self.finish(Ok(raw), plan.with_passed(passed), facts),
            Err(error) => self.finish(Err(error), plan, facts),
        }
    }

    /// Bytes to checked inputs, for a caller that still waits; until when is said too.
    fn begin(
        &self,
        call: Call<'_>,
        context: &CallContext,
        facts: &mut Facts,
    ) -> Result<(Inputs, ReplyPlan, Option<Instant>), Refusal> {
        let (inputs, plan) = timed(&mut facts.decode, || protocol::decode(&self.description, call))?;
        if inputs.n_rows() > self.max_rows {
            let text = format!("expected at most {} rows in a request, got {}", self.max_rows, inputs.n_rows());
            return Err(Refusal::bad_request(text));
        }
        let deadline = context.deadline_with(plan.timeout());
        if let Some(refusal) = late(deadline) {
            return Err(refusal);
        }
        facts.rows = inputs.n_rows();
        Ok((inputs, plan, deadline))
    }

    /// Raw scores to bytes, by way of the defence: the only way out.
    fn finish(
        &self,
        raw: Result<RawScores, EngineError>,
        plan: ReplyPlan,
        facts: &mut Facts,
    ) -> Result<Answer, Refusal> {
        let raw = raw.map_err(|error| failed(facts, error.into()))?;
        let defended = timed(&mut facts.defend, || self.defence.apply(raw));
        let defended = defended.map_err(|error| failed(facts, error.into()))?;
        Ok(timed(&mut facts.encode, || protocol::encode(&self.description, plan, &defended)))
    }

    /// Inputs to defended scores: the same stages without the wire.
    ///
    /// # Errors
    /// [`PipelineError`] when the engine or the defence refuses the batch.
    pub fn defend(&self, inputs: &Inputs) -> Result<Defended, PipelineError> {
        Ok(self.defence.apply(self.runner.infer(inputs)?)?)
    }

    /// Inputs to raw scores, still sealed.
    ///
    /// # Errors
    /// [`EngineError`] when the engine refuses the batch.
    pub fn raw(&self, inputs: &Inputs) -> Result<RawScores, EngineError> {
        self.runner.infer(inputs)
    }
}

/// A request on its way to a model in another server, with what is needed when its answer comes.
#[derive(Debug)]
pub struct Voyage {
    request: WireRequest,
    n_rows: usize,
    /// Which of the outputs that pass by the defence are asked for.
    passed: Vec<usize>,
    plan: ReplyPlan,
    context: CallContext,
}

impl Voyage {
    /// Bytes of the request.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.request.body.len()
    }
}

/// What a pipeline is put together from.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// The model's name in URLs.
    pub name: &'a str,
    /// The one version that is served.
    pub version: &'a str,
    /// The bytes of the ONNX file.
    pub model: &'a [u8],
    /// The bytes of the centroid file; none where the defence needs none.
    pub centroids: Option<&'a [u8]>,
    /// What the caller decides about the model in place of its graph.
    pub load: LoadOptions,
    /// The defence.
    pub defence: DefenceConfig,
}

impl Parts<'_> {
    /// The bundled classifier with the default defence.
    #[must_use]
    pub fn bundled() -> Self {
        Self {
            name: bundled::NAME,
            version: "1",
            model: bundled::MODEL,
            centroids: Some(bundled::CENTROIDS),
            load: LoadOptions::default(),
            defence: DefenceConfig::default(),
        }
    }

    /// Loads the model on tract, reads the centroid file, checks that they belong together, builds the defence.
    ///
    /// # Errors
    /// [`AssembleError`], which says which part is wrong and why.
    pub fn assemble(&self) -> Result<Pipeline, AssembleError> {
        let model = ModelDigest::of(self.model);
        let file = self.centroids.map(|bytes| read_for(bytes, model)).transpose()?;
        let engine = TractEngine::load(self.model, &self.load)?;
        let spec = engine.spec();
        let fitted = file.as_ref().map(|file| Arc::clone(&file.fitted));
        let defence = Defence::new(&self.defence, fitted, spec.score_kind, spec.n_classes)?;
        let labels = labels(spec.labels.as_deref(), file)?;
        let identity = Identity { name: self.name.to_owned(), version: self.version.to_owned(), labels, model };
        Ok(Pipeline::new(Arc::new(engine), defence, identity)?)
    }
}

/// What a pipeline in front of another server is put together from.
#[derive(Debug)]
pub struct UpstreamParts<'a> {
    /// The model's name in URLs.
    pub name: &'a str,
    /// The one version that is served.
    pub version: &'a str,
    /// The server.
    pub engine: Arc<dyn RemoteEngine>,
    /// The SHA-256 of the model that the server is said to run; none: the one that the centroid file names.
    pub model: Option<ModelDigest>,
    /// The centroid file; none where the defence needs none.
    pub centroids: Option<CentroidFile>,
    /// The defence.
    pub defence: DefenceConfig,
}

impl UpstreamParts<'_> {
    /// Checks that the parts belong together, as far as another server lets itself be known, and builds the defence.
    ///
    /// # Errors
    /// [`AssembleError`], which says which part is wrong and why.
    pub fn assemble(self) -> Result<Pipeline, AssembleError> {
        let Self { name, version, engine, model, centroids, defence } = self;
        let artifact = centroids.as_ref().map(|file| file.metadata.model_sha256);
        if let (Some(model), Some(artifact)) = (model, artifact)
            && model != artifact
        {
            return Err(AssembleError::OtherModel { model, artifact });
        }
        // Without either nothing is known of the model; the digest of nothing says so in the same form.
        let digest = model.or(artifact).unwrap_or_else(|| ModelDigest::of(b""));
        let spec = engine.spec();
        let fitted = centroids.as_ref().map(|file| Arc::clone(&file.fitted));
        let defence = Defence::new(&defence, fitted, spec.score_kind, spec.n_classes)?;
        let labels = labels(spec.labels.as_deref(), centroids)?;
        let identity = Identity { name: name.to_owned(), version: version.to_owned(), labels, model: digest };
        Ok(Pipeline::upstream(engine, defence, identity)?)
    }
}

/// Reads a centroid file and checks that it was fitted to this model.
///
/// # Errors
/// [`AssembleError::Artifact`] or [`AssembleError::OtherModel`].
pub fn read_for(bytes: &[u8], model: ModelDigest) -> Result<CentroidFile, AssembleError> {
    let file = centroids::read(bytes)?;
    if file.metadata.model_sha256 != model {
        return Err(AssembleError::OtherModel { model, artifact: file.metadata.model_sha256 });
    }
    Ok(file)
}

/// The class names of the model, else of the centroid file; an error where both have some that differ.
fn labels(of_model: Option<&[String]>, file: Option<CentroidFile>) -> Result<Vec<String>, AssembleError> {
    let of_file = file.map(|file| file.metadata.labels);
    if let (Some(model), Some(artifact)) = (of_model, &of_file)
        && let Some(class) = model.iter().zip(artifact).position(|(a, b)| a != b)
    {
        let (model, artifact) = (model[class].clone(), artifact[class].clone());
        return Err(AssembleError::Labels { class, model, artifact });
    }
    Ok(of_model.map(<[String]>::to_vec).or(of_file).unwrap_or_default())
}

fn describe(runner: &Runner, defence: &Defence, identity: Identity) -> ModelDescription {
    let spec = runner.spec();
    let (platform, passed) = match runner {
        Runner::Here(_) => ("onnx_onnxv1", Vec::new()),
        Runner::Upstream(engine) => (engine.platform(), engine.passed().to_vec()),
    };
    let own_form = if spec.score_kind == ScoreKind::Probabilities || spec.score_output == PROBABILITIES {
        Form::Probabilities
    } else {
        Form::LogProbabilities
    };
    let mut outputs = vec![OutputSpec { name: spec.score_output.clone(), form: own_form }];
    if spec.score_output != PROBABILITIES {
        outputs.push(OutputSpec { name: PROBABILITIES.to_owned(), form: Form::Probabilities });
    }
    let properties = BTreeMap::from([
        ("defence".to_owned(), defence.config().summary()),
        ("model_sha256".to_owned(), identity.model.to_string()),
    ]);
    ModelDescription {
        name: identity.name,
        version: identity.version,
        platform: platform.to_owned(),
        inputs: spec.inputs.clone(),
        outputs,
        passed,
        n_classes: spec.n_classes,
        labels: identity.labels,
        properties,
    }
}

fn timed<T>(taken: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *taken = start.elapsed();
    result
}

/// What a client is told when the model or the defence fails: a fixed sentence.
fn failed(facts: &mut Facts, error: PipelineError) -> Refusal {
    let refusal = match error {
        PipelineError::Engine(EngineError::Upstream(ref fault)) if fault.is_busy() => {
            Refusal::new(RefusalKind::UpstreamUnavailable, "the model's server takes no requests now; try again later")
        }
        PipelineError::Engine(EngineError::Upstream(Fault::Timeout)) => {
            Refusal::new(RefusalKind::UpstreamTimeout, "the model's server did not answer in time")
        }
        PipelineError::Engine(_) => Refusal::model_failed(),
        PipelineError::Defend(_) => Refusal::internal(),
    };
    facts.failure = Some(error);
    refusal
}
