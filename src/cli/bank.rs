//! What the commands that train many models share: the flags of a design, a recipe's file, the progress lines.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use prost::Message;
use sha2::{Digest, Sha256};
use tract_onnx::pb::ModelProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::origin::{Commit, Machine};
use super::privacy::read_secret;
use super::train::{Stop, read_recipe};
use crate::data::{DataError, DataSource, Dataset, Part, Split, check_writable, hex, write_atomic};
use crate::lab::bank::inclusion::{Design, Inclusion, Pool};
use crate::lab::bank::member::MemberRecord;
use crate::lab::bank::merge::{Manifest, seal};
use crate::lab::bank::place::Place;
use crate::lab::bank::plan::Planned;
use crate::lab::bank::run::{Ended, Event, Run, Shard};
use crate::lab::bank::trainer::MemberTrainer;
use crate::lab::device::Device;
use crate::lab::dp::{NoiseKey, with_private_norm};
use crate::lab::onnx;
use crate::lab::recipe::Recipe;
use crate::lab::record::{self, CodeRecord, DataRecord, MachineRecord, ModelRecord, RunRecord, SplitRecord, Status};
use crate::lab::train::Score;

/// How rows are dealt to models: one of these.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false, id = "design")]
pub(super) struct DesignFlags {
    /// So many models, each on its own random share of the rows (--share).
    #[arg(long, value_name = "MODELS", group = "design")]
    ensemble: Option<usize>,
    /// Cut the rows into so many folds; one model for each choice of left-out folds (--leave).
    #[arg(long, value_name = "FOLDS", group = "design")]
    folds: Option<usize>,
    /// So many models, each row in exactly half of them (LiRA), or in --of of them.
    #[arg(long, value_name = "MODELS", group = "design")]
    balanced: Option<usize>,
    /// So many models on bootstrap samples (bagging).
    #[arg(long, value_name = "MODELS", group = "design")]
    bootstrap: Option<usize>,
    /// Cut the rows into so many disjoint shards, one model each (SISA): see `sordino forget`.
    #[arg(long, value_name = "SHARDS", group = "design")]
    sisa: Option<usize>,
    /// So many models on all rows, which differ by their seeds.
    #[arg(long, value_name = "MODELS", group = "design")]
    whole: Option<usize>,
}

/// The numbers that belong to a design, and how it is drawn.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DealFlags {
    #[command(flatten)]
    design: DesignFlags,
    /// The share of the rows of each model of --ensemble [default: 0.6].
    #[arg(long, value_name = "X")]
    share: Option<f64>,
    /// Folds that each model of --folds leaves out: with 2 any two records are unknown to some model [default: 1].
    #[arg(long, value_name = "N")]
    leave: Option<usize>,
    /// Models that each row trains, of --balanced [default: half].
    #[arg(long, value_name = "N")]
    of: Option<usize>,
    /// Slices of each shard of --sisa: a shard is trained slice by slice, so that forgetting a row trains only what came behind
    /// it [default: 1]. Costs a checkpoint a slice.
    #[arg(long, value_name = "N")]
    slices: Option<usize>,
    /// Deal class by class, so that each model sees each class in its share.
    #[arg(long)]
    stratified: bool,
    /// Give rows with equal values to the same models: a model that is not to know a row does not know its copy either.
    #[arg(long)]
    group_copies: bool,
    /// Parts of the split whose rows are dealt: `train,test` for an audit by models of both kinds, `shadow` for one by models that
    /// never saw its rows.
    #[arg(long, value_name = "PART,..", value_delimiter = ',', default_values_t = ["train".to_owned()])]
    pool: Vec<String>,
}

impl DealFlags {
    fn design(&self) -> anyhow::Result<Design> {
        let flags = &self.design;
        for (number, design, is_stray) in [
            ("--share", "--ensemble", self.share.is_some() && flags.ensemble.is_none()),
            ("--leave", "--folds", self.leave.is_some() && flags.folds.is_none()),
            ("--of", "--balanced", self.of.is_some() && flags.balanced.is_none()),
            ("--slices", "--sisa", self.slices.is_some() && flags.sisa.is_none()),
        ] {
            ensure!(!is_stray, "{number} is for {design}");
        }
        let (share, leave, slices) = (self.share.unwrap_or(0.6), self.leave.unwrap_or(1), self.slices.unwrap_or(1));
        let designs = [
            flags.ensemble.map(|models| Design::Share { models, share }),
            flags.folds.map(|folds| Design::Folds { folds, leave }),
            flags.balanced.map(|models| Design::Balanced { models, of: self.of.unwrap_or(models / 2) }),
            flags.bootstrap.map(|models| Design::Bootstrap { models }),
            flags.sisa.map(|shards| Design::Shards { shards, slices }),
            flags.whole.map(|models| Design::Whole { models }),
        ];
        designs
            .into_iter()
            .flatten()
            .next()
            .context("expected one of --ensemble, --folds, --balanced, --bootstrap, --sisa, --whole")
    }
}

/// Where rows, their split and the recipe come from.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SourceFlags {
    /// Labelled rows, as in `sordino train`.
    #[arg(long, value_name = "SOURCE")]
    pub(super) data: Rows,
    /// The split file of the rows.
    #[arg(long, value_name = "FILE")]
    split: PathBuf,
    /// How each model is trained: a recipe's file (.toml or .json), the name of one that this program carries (such as
    /// paper-a/cifar-original), or the run record of a model that `sordino train` wrote (NAME.json), whose recipe is taken.
    #[arg(long, value_name = "FILE|NAME")]
    recipe: String,
    /// Decides the deal and the seed of each model [default: the recipe's].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// A data source with the words that named it: what it prints is meant for records, and names no path of the machine.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    words: String,
    pub(super) source: DataSource,
}

impl FromStr for Rows {
    type Err = DataError;

    fn from_str(words: &str) -> Result<Self, DataError> {
        Ok(Self { words: words.to_owned(), source: words.parse()? })
    }
}

/// Rows with their split.
pub(super) struct Source {
    pub(super) dataset: Dataset,
    pub(super) split: Split,
    pub(super) recipe: Recipe,
    pub(super) data: DataRecord,
}

impl SourceFlags {
    /// Rows, split and recipe; a private recipe draws from the secret where one is given.
    pub(super) fn load(&self, secret: Option<&NoiseKey>) -> anyhow::Result<Source> {
        let recipe = read_recipe(&self.recipe)?;
        let mut recipe = Recipe { seed: self.seed.unwrap_or(recipe.seed), ..recipe };
        if let Some(secret) = secret {
            let dp = recipe.dp.as_mut().context("--dp-secret: expected a private recipe, with an entry dp")?;
            dp.key_digest = Some(secret.digest());
        }
        if recipe.dp.is_some() {
            let (private, note) = with_private_norm(recipe);
            note.iter().for_each(|note| eprintln!("{note}"));
            recipe = private;
        }
        recipe.check()?;
        let split = Split::read(&self.split)?;
        let dataset = Dataset::load(&self.data.source)?;
        split.check(&dataset)?;
        if let Some(dp) = &recipe.dp {
            let n_rows = split.part(Part::Train).len();
            dp.warnings(n_rows, recipe.batch_size, recipe.epochs).iter().for_each(|note| eprintln!("warning: {note}"));
        }
        let data = data_record(&self.data.source, &dataset);
        Ok(Source { dataset, split, recipe, data })
    }
}

impl Source {
    /// The plan of a bank over these rows.
    pub(super) fn plan(&self, deal: &DealFlags) -> anyhow::Result<Planned> {
        let parts = deal.pool.iter().map(|name| part(name)).collect::<anyhow::Result<Vec<_>>>()?;
        self.plan_with(deal.design()?, &parts, deal.stratified, deal.group_copies)
    }

    /// The plan of a bank over the rows of some parts; what a recipe says of a teacher is for students alone.
    pub(super) fn plan_with(
        &self,
        design: Design,
        parts: &[Part],
        stratified: bool,
        group_copies: bool,
    ) -> anyhow::Result<Planned> {
        let rows: Vec<usize> = parts.iter().flat_map(|part| self.split.part(*part)).copied().collect();
        let mut pool = Pool::new(&rows)?;
        if stratified {
            let labels: Vec<u32> = rows.iter().map(|&row| self.dataset.labels()[row]).collect();
            pool = pool.stratified(&labels)?;
        }
        if group_copies {
            pool = pool.grouped(&copies(&self.dataset, &rows))?;
        }
        let inclusion = Inclusion::draw(design, &pool, self.recipe.seed)?;
        let names = parts.iter().map(|part| part.name().to_owned()).collect();
        let recipe = Recipe { distillation: None, ..self.recipe.clone() };
        Planned::new(recipe, (&self.dataset, self.data.clone()), self.split.clone(), names, inclusion)
    }
}

/// A number for each row, the same for rows with equal values.
fn copies(dataset: &Dataset, rows: &[usize]) -> Vec<u32> {
    let mut known = HashMap::new();
    let group = |(place, &row): (u32, &usize)| {
        let values: Vec<u32> = dataset.batch(&[row]).iter().map(|value| (value + 0.0).to_bits()).collect();
        *known
            .entry(Sha256::digest(values.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<u8>>()))
            .or_insert(place)
    };
    (0..).zip(rows).map(group).collect()
}

pub(super) fn data_record(source: &DataSource, dataset: &Dataset) -> DataRecord {
    DataRecord::of(source.to_string(), dataset)
}

pub(super) fn part(name: &str) -> anyhow::Result<Part> {
    Part::ALL.into_iter().find(|part| part.name() == name).with_context(|| {
        let names = Part::ALL.map(Part::name).join(", ");
        format!("expected parts out of {names}, got '{}'", name.escape_debug())
    })
}

/// The source that this program was built from.
pub(super) fn code() -> Option<CodeRecord> {
    Commit::of_build().map(|Commit { id, dirty }| CodeRecord { commit: id.to_owned(), dirty })
}

/// The machine that this program runs on.
pub(super) fn machine() -> MachineRecord {
    let Machine { cpu, n_cores } = Machine::here();
    MachineRecord { cpu, n_cores }
}

/// A model that is served, and the files beside it: the same as `sordino train` writes, but that a graph joined of several
/// models has no weights file and no picture.
pub(super) struct ModelFiles {
    model: PathBuf,
    pub(super) checkpoint: PathBuf,
}

impl ModelFiles {
    /// Names the files and tries that they can be written.
    pub(super) fn beside(out: &Path, data: &Rows) -> anyhow::Result<Self> {
        if out.extension().is_none_or(|ending| ending != "onnx") || out.file_stem().is_none() {
            bail!("--out: expected the name of a file that ends in .onnx, got {}", out.display());
        }
        // A folder made among the images would be a class of theirs.
        ensure!(!data.source.reads(out), "{} is among the inputs: give another place", out.display());
        super::make_folder_of(out)?;
        for ending in ["onnx", "json", "split.json", "md", "checkpoint", "weights.safetensors", "svg"] {
            let file = out.with_extension(ending);
            ensure!(
                !data.source.reads(&file),
                "{} is an input and would be written to: give another name",
                file.display()
            );
            check_writable(&file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Self { model: out.to_owned(), checkpoint: out.with_extension("checkpoint") })
    }

    /// Keeps a checkpoint.
    pub(super) fn keep(&self, checkpoint: &[u8]) -> anyhow::Result<()> {
        write_atomic(&self.checkpoint, checkpoint)
            .with_context(|| format!("cannot write {}", self.checkpoint.display()))
    }

    fn name(&self, ending: &str) -> String {
        let path = self.model.with_extension(ending);
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Writes model, split, card, what else there is `beside` (by its ending) and the record, this last; removes the
    /// checkpoint; prints the results.
    pub(super) fn write(
        &self,
        model: &[u8],
        record: &RunRecord,
        split: &Split,
        beside: &[(&str, &[u8])],
    ) -> anyhow::Result<()> {
        let (split, card, record_json) = (split.to_bytes(), record.card(), record.to_json());
        let own: [(&str, &[u8]); 3] = [("split.json", &split), ("onnx", model), ("md", card.as_bytes())];
        for &(ending, bytes) in own.iter().chain(beside).chain([&("json", record_json.as_slice())]) {
            let path = self.model.with_extension(ending);
            write_atomic(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let _ = std::fs::remove_file(&self.checkpoint);
        println!("{}  {} bytes  sha256 {}", self.model.display(), record.model.n_bytes, record.model.sha256);
        if let Some(results) = &record.results {
            for (name, score) in [("train", results.train), ("validation", results.validation), ("test", results.test)]
            {
                if let Some(score) = score {
                    println!(
                        "{name:<12} rows {:>6}  accuracy {:.4}  loss {:.4}",
                        score.n_rows, score.accuracy, score.loss
                    );
                }
            }
        }
        Ok(())
    }
}

/// The record of a model, without results.
pub(super) fn run_record(
    files: &ModelFiles,
    recipe: Recipe,
    data: DataRecord,
    split: &Split,
    model: &[u8],
) -> anyhow::Result<RunRecord> {
    let graph = ModelProto::decode(model)?.graph.context("a graph")?;
    let n_parameters = graph.initializer.iter().filter(|tensor| tensor.data_type == DataType::Float as i32);
    let n_parameters = n_parameters.map(|tensor| tensor.raw_data.len() / size_of::<f32>()).sum();
    Ok(RunRecord {
        format: record::FORMAT.to_owned(),
        format_version: record::FORMAT_VERSION,
        sordino: env!("CARGO_PKG_VERSION").to_owned(),
        status: Status::Finished,
        recipe,
        split: SplitRecord {
            file: files.name("split.json"),
            digest: split.digest(),
            seed: split.seed(),
            sizes: split.sizes(),
        },
        model: ModelRecord {
            file: files.name("onnx"),
            sha256: hex(&Sha256::digest(model)),
            n_bytes: model.len(),
            n_parameters,
            input: onnx::input_name(&data.row_shape).to_owned(),
            output: graph.output.first().map(|output| output.name.clone()).unwrap_or_default(),
        },
        data,
        privacy: None,
        made_from: None,
        difficulty_from: None,
        results: None,
        best_epoch: None,
        history: vec![],
        wall_seconds: 0.0,
        device: None,
        code: code(),
        machine: machine(),
    })
}

/// How much of the machine a bank is trained on.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WorkFlags {
    /// Models at a time, each in a process of its own.
    #[arg(long, value_name = "K", default_value_t = 1)]
    jobs: usize,
    /// Threads of each of them [default: the cores divided by --jobs].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where to compute: cpu, vulkan[:N] or cuda[:N].
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    pub(super) device: Device,
    /// The file that a private recipe's samples and noise are drawn from, as in `sordino train`; each model draws from a
    /// key of its own.
    #[arg(long, value_name = "FILE")]
    dp_secret: Option<PathBuf>,
    /// Stop as at SIGTERM when standard input ends.
    #[arg(long, hide = true)]
    until_eof: bool,
}

/// How a bank's training ended.
pub(super) enum Trained {
    /// All models of the bank stand: its manifest was written.
    Whole(Manifest),
    /// All models of the shard stand.
    Shard,
    /// Ctrl-C or SIGTERM: the exit code that it asks for.
    Interrupted(ExitCode),
}

impl WorkFlags {
    /// Stops where several models at a time are asked for, and there is one.
    pub(super) fn expect_one_job(&self, why: &str) -> anyhow::Result<()> {
        ensure!(self.jobs == 1, "--jobs: expected 1, got {}: {why}", self.jobs);
        Ok(())
    }

    /// Does work in this process with so many threads as are asked for.
    pub(super) fn alone<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let Some(threads) = self.threads else { return Ok(work()) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
        Ok(pool.context("cannot start threads")?.install(work))
    }

    /// The key of --dp-secret.
    pub(super) fn secret(&self) -> anyhow::Result<Option<NoiseKey>> {
        self.dp_secret.as_deref().map(read_secret).transpose()
    }

    /// Trains what is missing of a bank, telling of each model on standard error.
    pub(super) fn train(
        &self,
        place: &Place,
        planned: &Planned,
        (rows, dataset): (&Rows, &Dataset),
        shard: Shard,
    ) -> anyhow::Result<Trained> {
        ensure!((1..=1024).contains(&self.jobs), "--jobs: expected 1 to 1024, got {}", self.jobs);
        let threads = self.threads.unwrap_or(machine().n_cores / self.jobs).max(1);
        let stop = Stop::listen()?;
        if self.until_eof {
            let flag = Arc::clone(&stop.flag);
            std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
                // Ends with the process that started this one, however that ends.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                flag.store(true, Ordering::Relaxed);
            })?;
        }
        let ended = match self.jobs {
            1 => self.train_here(place, planned, dataset, shard, threads, &stop)?,
            jobs => {
                planned.check(dataset)?;
                let children = (0..jobs).map(|job| self.child(place, rows, shard.part(job, jobs)?, threads));
                wait(children.collect::<anyhow::Result<Vec<_>>>()?, &stop)?
            }
        };
        match ended {
            Ended::Interrupted => {
                if !self.until_eof {
                    eprintln!("interrupted; the same command goes on");
                }
                Ok(Trained::Interrupted(ExitCode::from(stop.exit_code.load(Ordering::Relaxed))))
            }
            Ended::Complete if shard == Shard::ALL => Ok(Trained::Whole(seal(place, planned)?)),
            Ended::Complete => Ok(Trained::Shard),
        }
    }

    fn train_here(
        &self,
        place: &Place,
        planned: &Planned,
        dataset: &Dataset,
        shard: Shard,
        threads: usize,
        stop: &Stop,
    ) -> anyhow::Result<Ended> {
        let device = self.device.open()?;
        let worker = MemberTrainer::new(dataset, planned, &device, self.secret()?)?;
        let run = Run { place, planned, worker: &worker, shard, threads, code: code(), machine: machine() };
        let lines = Lines::new(shard.members(planned.plan.n_models()).count());
        run.run(&stop.flag, &|event| lines.tell(&event))
    }

    /// A process of its own for a part of the work; it stops when its standard input ends.
    fn child(&self, place: &Place, rows: &Rows, shard: Shard, threads: usize) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = std::process::Command::new(program);
        command.args(["shadows", "run"]).arg(place.to_string()).args(["--data", &rows.words]);
        command.args(["--shard", &shard.to_string(), "--threads", &threads.to_string()]);
        command.args(["--device", &self.device.to_string(), "--until-eof"]);
        if let Some(secret) = &self.dp_secret {
            command.arg("--dp-secret").arg(secret);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().context("cannot start a process for a part of the models")
    }
}

/// Waits for processes that train; where this one is asked to stop, they are, and leave their checkpoints.
fn wait(mut children: Vec<Child>, stop: &Stop) -> anyhow::Result<Ended> {
    let (mut interrupted, mut failed) = (false, 0);
    while !children.is_empty() {
        if stop.flag.load(Ordering::Relaxed) {
            interrupted = true;
            children.iter_mut().for_each(|child| drop(child.stdin.take()));
        }
        let mut running = Vec::new();
        for mut child in children {
            match child.try_wait().context("cannot wait for a process that trains")? {
                None => running.push(child),
                Some(status) => failed += usize::from(!status.success()),
            }
        }
        children = running;
        std::thread::sleep(Duration::from_millis(50));
    }
    if interrupted {
        return Ok(Ended::Interrupted);
    }
    ensure!(failed == 0, "{failed} of the processes that train failed; what stands is kept, the same command goes on");
    Ok(Ended::Complete)
}

/// One line a model, with the rate and the time that is left.
struct Lines {
    n_models: usize,
    n_standing: AtomicUsize,
    n_trained: AtomicUsize,
    started: Instant,
}

impl Lines {
    fn new(n_models: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { n_models, n_standing: zero(), n_trained: zero(), started: Instant::now() }
    }

    fn tell(&self, event: &Event) {
        match event {
            Event::Stands(_) => {
                self.n_standing.fetch_add(1, Ordering::Relaxed);
            }
            Event::Unfit(member, why) => eprintln!("model {member} is trained anew: {why}"),
            Event::Started(member, true) => eprintln!("model {member} goes on from its checkpoint"),
            Event::Started(member, false) => eprintln!("model {member} is being trained"),
            Event::Interrupted(member) => eprintln!("model {member} was left where it stands"),
            Event::Failed(member, why) => eprintln!("model {member} failed: {why}"),
            Event::Done(record) => eprintln!("{}", self.done(record)),
        }
    }

    fn done(&self, record: &MemberRecord) -> String {
        let trained = self.n_trained.fetch_add(1, Ordering::Relaxed) + 1;
        let standing = trained + self.n_standing.load(Ordering::Relaxed);
        let score = |name: &str, score: Option<Score>| {
            score.map_or(String::new(), |score| format!("  {name} {:.4}", score.accuracy))
        };
        let left = self.n_models.saturating_sub(standing);
        let left = match left {
            0 => String::new(),
            _ => {
                let each = self.started.elapsed().as_secs_f64() / trained as f64;
                format!(", about {} s left", (each * left as f64).ceil())
            }
        };
        format!(
            "model {:>5}  accuracy: own rows{}{}{}  {} s  ({standing} of {}{left})",
            record.member,
            record.results.members.map_or(String::new(), |own| format!(" {:.4}", own.accuracy)),
            score("other rows", record.results.strangers),
            score("test", record.results.test),
            record.wall_seconds,
            self.n_models,
        )
    }
}

/// What a complete bank is, on standard output.
pub(super) fn print_bank(place: &Place, manifest: &Manifest) {
    println!("{place}  {} models  bank {}", manifest.models.len(), manifest.digest);
    println!("{}; {} s of training", manifest.design, manifest.train_seconds);
}

/// Stops where a bank's folder would hold one of the inputs: nothing is written over them, but it is a mistake.
pub(super) fn expect_no_input(place: &Place, data: &Rows) -> anyhow::Result<()> {
    #[allow(irrefutable_let_patterns, reason = "there are object stores in builds with the feature cloud")]
    let Place::Folder(folder) = place else { return Ok(()) };
    for name in ["plan.json", "split.json", "inclusion.safetensors", "bank.json"] {
        if data.source.reads(&folder.join(name)) {
            bail!("{} is an input: name another folder for the bank", folder.join(name).display());
        }
    }
    Ok(())
}
