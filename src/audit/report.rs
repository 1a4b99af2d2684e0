//! What an audit found, as values that serialise.
//!
//! No NaN and no infinity is ever written: a figure that does not exist is `null` beside its reason.

use serde::Serialize;

use crate::audit::analysis::Analysis;
use crate::audit::answers::Allows;
use crate::audit::attack::AttackId;
use crate::audit::duplicates::Duplicates;
use crate::audit::exact::Counts;
use crate::audit::interval::{Estimate, Interval};
use crate::audit::lot::Lot;
use crate::audit::null::Null;
use crate::audit::policy::Verdict;
use crate::audit::rows::AllocationRecord;
use crate::audit::shadow::leave_one_out::{LeaveOneOut, RecordRisk, Ties};
use crate::audit::shadow::reach::ShadowModels;
use crate::audit::spread::SystemSpread;
use crate::audit::standing::{Leak, Standing};
use crate::audit::system::{Role, Skipped};
use crate::audit::temperature::Temperature;
use crate::defence::DefenceConfig;

/// Format name of the JSON report.
pub const FORMAT: &str = "sordino.audit";
/// Version of that format.
pub const FORMAT_VERSION: u32 = 3;

/// A figure, or `null` with the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure<T> {
    /// The figure.
    pub value: Option<T>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl<T> Figure<T> {
    /// A figure that exists.
    pub fn known(value: T) -> Self {
        Self { value: Some(value), reason: None }
    }

    /// A figure that does not.
    pub fn missing(reason: impl Into<String>) -> Self {
        Self { value: None, reason: Some(reason.into()) }
    }

    /// The figure if there is one, else the reason.
    pub fn or(value: Option<T>, reason: &str) -> Self {
        value.map_or_else(|| Self::missing(reason), Self::known)
    }
}

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Always [`FORMAT`].
    pub format: &'static str,
    /// Always [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Where the figures come from.
    pub origin: Origin,
    /// The figures.
    pub findings: Findings,
    /// The same audit of further trainings, where there were any: here the unit is the training, not the row.
    pub trainings: Figure<Trainings>,
    /// The paper's analysis of the rows.
    pub analysis: Figure<Analysis>,
    /// How the limits of a policy stand.
    pub policy: Figure<Verdict>,
    /// Attacks that were not run: nothing here says how they would do.
    pub not_tried: Vec<String>,
}

/// Figures over several trainings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trainings {
    /// How many, the audited one with them.
    pub n: usize,
    /// SHA-256 of each model's bytes, the audited one first.
    pub models: Vec<String>,
    /// What all of them have.
    pub systems: Vec<SystemSpread>,
}

/// What was audited, with what, where.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// The command line.
    pub command: String,
    /// Version of this program.
    pub sordino_version: &'static str,
    /// Commit of its source, with `+dirty` where the tree had changes.
    pub commit: Figure<String>,
    /// The machine in words.
    pub machine: String,
    /// Where the answers come from.
    pub source: SourceRecord,
    /// Name of the model in tables.
    pub model: String,
    /// SHA-256 of the model's bytes.
    pub model_digest: Figure<String>,
    /// How it was told what the model ends in (R2).
    pub scores_decided: String,
    /// SHA-256 of the centroid file's bytes.
    pub artifact_digest: Figure<String>,
    /// Where the rows come from, in words.
    pub data_source: String,
    /// SHA-256 of the data set's content.
    pub dataset_digest: Figure<String>,
    /// SHA-256 of the split.
    pub split_digest: Figure<String>,
    /// Seed of the split.
    pub split_seed: Figure<u64>,
    /// Rows that are on both sides (R17).
    pub duplicates: Figure<Duplicates>,
    /// The pipeline as it serves answers the first batch as the cached scores say, bit for bit.
    pub pipeline_agrees: Figure<bool>,
    /// Seconds of inference over all rows.
    pub inference_seconds: Figure<f64>,
    /// What must be said about where the answers come from.
    pub doubts: Vec<String>,
}

/// Where the answers come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceRecord {
    /// A model, in the pipeline that serves.
    Pipeline,
    /// A running endpoint.
    Endpoint {
        /// Its address, without user or query.
        url: String,
        /// The model that was asked.
        model: String,
        /// The platform that it says it runs on.
        platform: String,
        /// Rows that it was asked in this run.
        n_asked: u64,
        /// Rows whose answers were kept from an earlier run.
        n_kept: u64,
    },
    /// A file.
    Predictions {
        /// Name of the file.
        file: String,
        /// SHA-256 of its bytes.
        digest: String,
        /// What its numbers are taken as.
        taken_as: &'static str,
    },
}

impl SourceRecord {
    /// In words, for tables.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Pipeline => "the model, in the pipeline that serves".to_owned(),
            Self::Endpoint { url, model, platform, n_asked, n_kept } => format!(
                "the endpoint {url}, model {model} ({platform}); {n_asked} rows asked, {n_kept} answers kept from before"
            ),
            Self::Predictions { file, digest, taken_as } => {
                format!("the predictions in {file}, sha256 {digest}, taken as {taken_as}")
            }
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// Seeds, numbers of draws, levels.
    pub settings: Settings,
    /// Members, of all parts.
    pub n_members: usize,
    /// Non-members, of all parts.
    pub n_non_members: usize,
    /// Classes.
    pub n_classes: usize,
    /// What the source of the answers allows an attacker to do.
    pub allows: Allows,
    /// Attacks that these answers do not allow.
    pub not_allowed: Vec<NotAllowed>,
    /// The system on which it is told which attacks count (R16).
    pub reference: Reference,
    /// Who played which part (R17).
    pub rows: AllocationRecord,
    /// R15's temperature.
    pub temperature: Figure<Temperature>,
    /// Which attacks count (R16).
    pub validity: Vec<Validity>,
    /// One entry for each system.
    pub systems: Vec<SystemFindings>,
    /// Systems that could not be built.
    pub skipped: Vec<Skipped>,
    /// The paper's table 4 in form: all members against all non-members, the loss attack.
    pub before_and_after: Vec<BeforeAfter>,
    /// The least advantage (TPR − FPR, about rates of one half) that the verdict's rows can tell from chance.
    pub resolvable_advantage: f64,
    /// What puts every figure in doubt.
    pub warnings: Vec<String>,
    /// Whether the two sides differ without any model.
    pub lot: Figure<Lot>,
    /// What shadow models tell of the training and of single records.
    pub leave_one_out: Vec<BankFindings>,
    /// The bank of shadow models; left out where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_models: Option<ShadowModels>,
    /// ML-Leaks' adversaries at their own rules; left out where none was tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ml_leaks: Vec<AdversaryFindings>,
}

/// One of ML-Leaks' three adversaries on one system, at the rule that it brings: on the verdict rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdversaryFindings {
    /// 1: a shadow of the same data; 2: a shadow of other data; 3: no shadow, random points.
    pub adversary: u8,
    /// Name of the system.
    pub system: String,
    /// The attack.
    pub attack: AttackId,
    /// Whether it counts (R16).
    pub counts: bool,
    /// Who is called a member, in words.
    pub rule: String,
    /// Area under the curve, whatever the rule.
    pub auc: Estimate,
    /// Share of the members that it calls members, exact interval.
    pub tpr: Estimate,
    /// Share of the non-members that it calls members, exact interval.
    pub fpr: Estimate,
    /// Share of members among those that it calls members, on as many of both sides as the verdict has; exact interval.
    pub precision: Figure<Estimate>,
    /// Mean of TPR and 1 − FPR.
    pub balanced_accuracy: Estimate,
}

/// Every model of a bank taken as the target in turn, behind one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BankFindings {
    /// Name of the system.
    pub system: String,
    /// The study.
    pub study: LeaveOneOut,
    /// The records of the highest risk, the worst first: picked, so biased upward.
    pub worst: Vec<RecordRisk>,
    /// Records of the same risk as the last of `worst` that are not named there; left out where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_ties: Option<Ties>,
}

impl BankFindings {
    /// Records that are named.
    const N_WORST: usize = 20;

    /// From a named study.
    #[must_use]
    pub fn of((system, study): &(String, LeaveOneOut)) -> Self {
        Self {
            system: system.clone(),
            worst: study.worst(Self::N_WORST),
            worst_ties: study.ties(Self::N_WORST),
            study: study.clone(),
        }
    }
}

/// The settings of the study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Seed of the deal of rows, of the permutations and of the bootstrap.
    pub seed: u64,
    /// Permutations of the null.
    pub n_permutations: usize,
    /// Resamples of the bootstrap.
    pub n_resamples: usize,
    /// Level of the intervals.
    pub level: f64,
    /// Half-width of the intervals, and 95 % of the null, up to which rows can tell "no leak" from "too few rows".
    pub margin: f64,
    /// False-positive rates at which TPR is reported.
    pub fpr_targets: Vec<f64>,
    /// Passes over all rows of which the overhead is the median.
    pub overhead_passes: usize,
    /// Probabilities below this are read as this in the NLL.
    pub nll_floor: f64,
    /// Probabilities below this are read as this in the logarithms of the attacks.
    pub attack_floor: f64,
    /// Shares of members among the records asked about, at which predictive values are given.
    pub priors: Vec<f64>,
    /// δ of the lower bounds on ε.
    pub delta: f64,
    /// Thresholds per class are tried.
    pub per_class: bool,
    /// Attacks are learned.
    pub learned: bool,
}

/// An attack that the answers do not allow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NotAllowed {
    /// The attack.
    pub attack: AttackId,
    /// What it needs and these answers have not.
    pub lacks: String,
}

/// The system whose answers tell which attacks count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reference {
    /// Its name.
    pub system: String,
    /// It is the undefended model, as R16 asks. Where it is not, an attack that is held off counts as one that does
    /// not work, and "no leak seen" may be a weakness of the attacks.
    pub is_undefended: bool,
}

/// R16: whether an attack counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validity {
    /// The attack.
    pub attack: AttackId,
    /// Its AUC on the reference, the undefended model where it is there, on the attack-fit rows, with DeLong's interval.
    pub auc_undefended: Estimate,
    /// Its (a) there.
    pub widest_undefended: f64,
    /// The permutation null of that (a).
    pub widest_null: Figure<Null>,
    /// It counts: the interval leaves one half, in either direction (R12), and (a) leaves its null.
    pub counts: bool,
}

/// What was found about one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemFindings {
    /// Name in tables.
    pub name: String,
    /// The part that it plays.
    pub role: Role,
    /// Settings of its defence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defence: Option<DefenceConfig>,
    /// What an honest client gets.
    pub utility: Utility,
    /// One entry for each attack.
    pub attacks: Vec<AttackFindings>,
    /// The maximum over the attacks that count.
    pub headline: Figure<Headline>,
    /// Lower bound on ε.
    pub epsilon: Epsilon,
    /// The headline's rule for each class of which the verdict holds members and non-members.
    pub classes: Vec<ClassFindings>,
    /// The class of the largest advantage.
    pub worst_class: Figure<u32>,
    /// Curves of the loss attack and of the headline's attacks.
    pub curves: Vec<Curve>,
    /// Scaled logits of all members and non-members.
    pub histogram: Figure<Histogram>,
    /// What a reader must know about these figures.
    pub flags: Vec<String>,
}

/// What an honest client gets, on the verdict rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Utility {
    /// Accuracy on members.
    pub accuracy_members: f64,
    /// Accuracy on non-members.
    pub accuracy_non_members: f64,
    /// Exact interval of the accuracy on members.
    pub accuracy_members_interval: Interval,
    /// Exact interval of the accuracy on non-members.
    pub accuracy_non_members_interval: Interval,
    /// Mean NLL of non-members.
    pub nll: f64,
    /// Its bootstrap interval.
    pub nll_interval: Interval,
    /// Mean Brier score of non-members, `Σ_j (p_j − [j = y])²`, with its bootstrap interval.
    pub brier: Estimate,
    /// Non-members whose true class had a probability below the floor: their NLL is the floor's.
    pub n_floored: usize,
    /// Mean NLL minus the temperature-scaled rival's on the same rows, with a paired bootstrap interval.
    pub nll_minus_rival: Figure<Estimate>,
    /// Expected calibration error of non-members, 15 bins of equal mass.
    pub ece: f64,
    /// Its bootstrap interval. A resample's error is larger on average, so it lies rather high.
    pub ece_interval: Interval,
    /// Share of all rows whose label is the undefended model's; 1 by R1.
    pub label_agreement: Figure<f64>,
    /// Wilson's interval of that share; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_agreement_interval: Option<Interval>,
}

/// One attack on one system, on the verdict rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttackFindings {
    /// The attack.
    pub attack: AttackId,
    /// Whether it counts (R16).
    pub counts: bool,
    /// What the rule of (b) reaches on the attack-fit rows, cross-fitted where the attack is fitted: by it the headline's
    /// attack is chosen.
    pub fixed_on_fit: f64,
    /// Area under the curve, with DeLong's interval.
    pub auc: Estimate,
    /// R12 (a): max over thresholds of |TPR − FPR|.
    pub widest: f64,
    /// The permutation null of (a).
    pub widest_null: Figure<Null>,
    /// R12 (b): signed TPR − FPR with threshold and sign fixed on the attack-fit rows, Newcombe's interval.
    pub fixed: Estimate,
    /// (b) minus the floor's (b) on the same rows, with a paired bootstrap interval (R14).
    pub fixed_minus_floor: Estimate,
    /// AUC minus the floor's, with DeLong's paired interval.
    pub auc_minus_floor: Estimate,
    /// Interval of (a) that allows for its threshold having been chosen on these rows: a bootstrap of the largest error
    /// over all thresholds. Its null says whether (a) means anything.
    pub widest_interval: Interval,
    /// What the fixed rule of (b) says.
    pub calls: Calls,
    /// True-positive rates at stated false-positive rates.
    pub tpr_at_fpr: Vec<TprAt>,
    /// Lower bound on ε by a rule that was chosen on the attack-fit rows, at the settings' level; 0 where nothing
    /// is refuted.
    pub epsilon_lower_bound: f64,
}

/// What a rule says that was fixed on the attack-fit rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calls {
    /// The counts.
    pub counts: Counts,
    /// Recall of the members (TPR), exact interval.
    pub recall_members: Estimate,
    /// Recall of the non-members (1 − FPR), exact interval.
    pub recall_non_members: Estimate,
    /// Mean of the two recalls: .5 + (b)/2, with (b)'s interval.
    pub balanced_accuracy: Estimate,
    /// P(member | called a member).
    pub predictive_values: Vec<PredictiveValue>,
}

/// P(member | called a member) at one prior.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictiveValue {
    /// Share of members among the records asked about.
    pub prior: f64,
    /// The value with its interval.
    pub value: Figure<Estimate>,
}

/// The lower bound on ε of one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Epsilon {
    /// The attack, chosen on the attack-fit rows with its rule: on this system's answers or on their labels alone, whichever
    /// rule has the larger bound.
    pub attack: AttackId,
    /// Any (ε, δ)-private training with a smaller ε would have shown these counts with probability 1 − level at most.
    pub lower_bound: f64,
    /// What a perfect attack would have shown on as many rows.
    pub ceiling: f64,
    /// δ.
    pub delta: f64,
    /// Confidence.
    pub level: f64,
    /// What the run record claims.
    pub claim: Figure<Claim>,
    /// The lower bound exceeds the claim: one of the two is wrong.
    pub contradicts_claim: bool,
}

/// A privacy claim of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, serde::Deserialize)]
pub struct Claim {
    /// ε.
    pub epsilon: f64,
    /// δ.
    pub delta: f64,
}

/// The fixed rule of the headline on the rows of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassFindings {
    /// The true label.
    pub class: u32,
    /// What the rule says of its rows.
    pub counts: Counts,
    /// TPR − FPR; the intervals of all classes hold together at the settings' level (Bonferroni).
    pub advantage: Estimate,
}

/// One point of a curve that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// False-positive rate.
    pub fpr: f64,
    /// True-positive rate.
    pub tpr: f64,
    /// Exact pointwise interval of the true-positive rate.
    pub tpr_interval: Interval,
}

/// A curve, thinned to what can be drawn: every point of it is a point of the exact curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The attack.
    pub attack: AttackId,
    /// Its points, from the lowest rate.
    pub points: Vec<CurvePoint>,
}

/// Scaled logits of members and non-members in bins of equal width (the paper's figure 1).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// The edges: one more than bins. The first and the last bin hold what lies outside, too.
    pub edges: Vec<f64>,
    /// Members in each bin.
    pub members: Vec<u64>,
    /// Non-members in each bin.
    pub non_members: Vec<u64>,
}

/// A true-positive rate at a stated false-positive rate, without interpolation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TprAt {
    /// The stated rate.
    pub target_fpr: f64,
    /// The highest TPR whose FPR is at most that.
    pub tpr: Figure<f64>,
    /// The FPR at that point.
    pub attained_fpr: Option<f64>,
    /// Exact interval of the TPR at that point, as if its threshold had been known before.
    pub tpr_interval: Option<Interval>,
    /// Exact interval of the FPR at that point.
    pub attained_fpr_interval: Option<Interval>,
    /// P(member | called a member) at that point.
    pub predictive_values: Vec<PredictiveValue>,
}

/// The strongest of the attacks that count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Headline {
    /// The attack of the largest (a).
    pub widest_attack: AttackId,
    /// The largest (a).
    pub widest: f64,
    /// Its interval, which allows for the threshold and the attack having been chosen on these rows.
    pub widest_interval: Interval,
    /// The permutation null of that maximum over all attacks that count: its p-value is corrected for having tried
    /// so many.
    pub widest_null: Figure<Null>,
    /// How many attacks count.
    pub n_attacks: usize,
    /// The attack that is strongest on the attack-fit rows, each half by the other's threshold, or reading whether the label
    /// is right where nothing leads that by a standard error: chosen before a verdict row is looked at.
    pub fixed_attack: AttackId,
    /// Its (b).
    pub fixed: Estimate,
    /// That (b) minus the floor's on the same rows, paired bootstrap.
    pub fixed_minus_floor: Estimate,
    /// R12: whether (a) or (b) tells the system from noise.
    pub leak: Leak,
    /// Where it stands against the label-only floor (R14).
    pub standing: Standing,
}

/// One row of the paper's table 4.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BeforeAfter {
    /// `before` for the undefended model, `after` for what was made of it, `answered` where there is no undefended one.
    pub stage: &'static str,
    /// Name of the system.
    pub system: String,
    /// Accuracy on all members.
    pub train_accuracy: f64,
    /// Accuracy on all non-members.
    pub test_accuracy: f64,
    /// Seconds that the defence takes for all these rows, on one thread.
    pub overhead_seconds: Figure<f64>,
    /// Rows over which it was measured.
    pub n_rows: usize,
    /// AUC of the loss attack.
    pub auc: f64,
    /// max |TPR − FPR| of the loss attack.
    pub advantage: f64,
    /// Train accuracy minus test accuracy: what the label alone tells.
    pub gap: f64,
}
