//! The plan of a bank: everything that decides what its models learn, written before the first of them is trained.
//!
//! The plan never changes, and its digest is the identity that every model of the bank names: workers on several
//! machines share it without talking to each other.

use anyhow::{Context, bail, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::inclusion::{Design, Inclusion};
use super::matrix_file;
use super::place::Place;
use super::slices;
use crate::data::{Dataset, Split, hex};
use crate::lab::recipe::Recipe;
use crate::lab::record::DataRecord;
use crate::lab::streams;

/// The format's name.
pub const FORMAT: &str = "sordino.bank-plan";
/// The version that this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The plan's file in a bank.
pub const PLAN_FILE: &str = "plan.json";
/// The inclusion matrix's file in a bank.
pub const INCLUSION_FILE: &str = "inclusion.safetensors";
/// The split's file in a bank.
pub const SPLIT_FILE: &str = "split.json";

/// The stream of the generator that draws the members' seeds: above all streams of the inclusion matrix.
const SEEDS_STREAM: u64 = streams::INCLUSION + (1 << 31);
/// Seeds lie below 2^53, so that every reader of JSON reads them exactly.
const SEED_BITS: u32 = 53;

/// What a bank is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// What every model is trained with; each has its own seed in place of this one's.
    pub recipe: Recipe,
    /// The dataset.
    pub data: DataRecord,
    /// Digest of the split, which lies beside the plan.
    pub split: String,
    /// The parts of the split whose rows are dealt, in words.
    pub pool: Vec<String>,
    /// How the rows are dealt.
    pub design: Design,
    /// Digest of the inclusion matrix, which lies beside the plan.
    pub inclusion: String,
    /// The seed of each model.
    pub seeds: Vec<u64>,
}

impl Plan {
    /// The digest that the bank's models name: SHA-256 (hex) of the file.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_bytes()))
    }

    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a plan is plain numbers and text");
        bytes.push(b'\n');
        bytes
    }

    /// Reads and checks the bytes of the file.
    ///
    /// # Errors
    ///
    /// When they are no plan of this version, or its numbers do not fit each other.
    pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Stamp {
            format: String,
            format_version: u32,
        }
        let stamp: Stamp = serde_json::from_slice(bytes).context("expected the plan of a bank")?;
        if stamp.format != FORMAT || stamp.format_version != FORMAT_VERSION {
            let (format, version) = (stamp.format.escape_debug(), stamp.format_version);
            bail!("expected format {FORMAT} version {FORMAT_VERSION}, got {format} version {version}");
        }
        let plan: Self = serde_json::from_slice(bytes).context("the plan of a bank")?;
        let n_models = plan.design.n_models()?;
        ensure!(
            plan.seeds.len() == n_models,
            "the plan of a bank: expected {n_models} seeds, one for each model, got {}",
            plan.seeds.len()
        );
        plan.recipe.check()?;
        Ok(plan)
    }

    /// The number of models.
    #[must_use]
    pub fn n_models(&self) -> usize {
        self.seeds.len()
    }

    /// The recipe of one model.
    ///
    /// # Panics
    ///
    /// When `member` is not below [`n_models`](Self::n_models).
    #[must_use]
    pub fn recipe_of(&self, member: usize) -> Recipe {
        Recipe { seed: self.seeds[member], ..self.recipe.clone() }
    }
}

/// A plan with the two files beside it, held against each other.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Which row trains which model.
    pub inclusion: Inclusion,
    /// Which row serves which purpose.
    pub split: Split,
}

impl Planned {
    /// A plan for rows of a dataset.
    ///
    /// # Errors
    ///
    /// When the recipe is out of range, or the split is of another dataset.
    pub fn new(
        recipe: Recipe,
        (dataset, data): (&Dataset, DataRecord),
        split: Split,
        pool: Vec<String>,
        inclusion: Inclusion,
    ) -> anyhow::Result<Self> {
        recipe.check()?;
        slices::check(&inclusion, &recipe)?;
        split.check(dataset)?;
        if let Some(row) = inclusion.rows().iter().find(|&&row| row >= dataset.n_rows()) {
            bail!("the inclusion matrix: expected row numbers below {}, got {row}", dataset.n_rows());
        }
        let plan = Plan {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            seeds: seeds(recipe.seed, inclusion.n_models()),
            recipe,
            data,
            split: split.digest(),
            pool,
            design: inclusion.design(),
            inclusion: matrix_file::digest(&inclusion)?,
        };
        Ok(Self { plan, inclusion, split })
    }

    /// Writes the three files, the plan last. Where the same plan stands already nothing is changed.
    ///
    /// # Errors
    ///
    /// When another plan stands there: its models would be lost.
    pub fn write(&self, place: &Place) -> anyhow::Result<()> {
        if let Some(bytes) = place.read(PLAN_FILE)? {
            if bytes == self.plan.to_bytes() {
                return Ok(());
            }
            let found =
                Plan::from_bytes(&bytes).map_or_else(|error| error.to_string(), |found| self.plan.difference(&found));
            bail!("{place} holds the plan of another bank ({found}): name another folder, or remove it");
        }
        place.write(INCLUSION_FILE, &matrix_file::write(&self.inclusion)?)?;
        place.write(SPLIT_FILE, &self.split.to_bytes())?;
        place.write(PLAN_FILE, &self.plan.to_bytes())
    }

    /// Reads and checks the three files.
    ///
    /// # Errors
    ///
    /// When one is missing or not the one that the plan names.
    pub fn read(place: &Place) -> anyhow::Result<Self> {
        let file = |name: &str| {
            place
                .read(name)?
                .with_context(|| format!("{place} holds no {name}: write the plan with `sordino shadows plan`"))
        };
        let plan = Plan::from_bytes(&file(PLAN_FILE)?).with_context(|| format!("{PLAN_FILE} in {place}"))?;
        let bytes = file(INCLUSION_FILE)?;
        let inclusion = matrix_file::read(&bytes).with_context(|| format!("{INCLUSION_FILE} in {place}"))?;
        expect_digest(INCLUSION_FILE, &plan.inclusion, &bytes)?;
        let bytes = file(SPLIT_FILE)?;
        let split = Split::from_bytes(&bytes).with_context(|| format!("{SPLIT_FILE} in {place}"))?;
        expect_digest(SPLIT_FILE, &plan.split, &bytes)?;
        ensure!(inclusion.design() == plan.design, "the plan and the inclusion matrix name different designs");
        Ok(Self { plan, inclusion, split })
    }

    /// Checks that these are the rows that were dealt.
    ///
    /// # Errors
    ///
    /// When the dataset is another one.
    pub fn check(&self, dataset: &Dataset) -> anyhow::Result<()> {
        self.split.check(dataset)?;
        ensure!(
            self.inclusion.rows().iter().all(|&row| row < dataset.n_rows()),
            "the inclusion matrix: expected row numbers below {}, got others",
            dataset.n_rows()
        );
        Ok(())
    }
}

impl Plan {
    /// What differs from another plan, in words.
    fn difference(&self, other: &Self) -> String {
        let rows = [
            ("its recipe differs", self.recipe != other.recipe),
            ("its data differ", self.data != other.data),
            ("its split differs", self.split != other.split),
            ("its design differs", self.design != other.design),
            ("its rows are dealt otherwise", self.inclusion != other.inclusion),
        ];
        let words: Vec<&str> = rows.iter().filter(|(_, differs)| *differs).map(|(words, _)| *words).collect();
        if words.is_empty() { "it differs in its bytes".to_owned() } else { words.join(", ") }
    }
}

fn expect_digest(name: &str, expected: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let got = hex(&Sha256::digest(bytes));
    ensure!(got == expected, "{name}: expected the file with SHA-256 {expected}, got {got}");
    Ok(())
}

fn seeds(seed: u64, n_models: usize) -> Vec<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(SEEDS_STREAM);
    (0..n_models).map(|_| rng.random::<u64>() >> (u64::BITS - SEED_BITS)).collect()
}
