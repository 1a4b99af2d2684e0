//! Against the null, the floor and the rival: what makes a figure mean something.

use crate::audit::attack::{Attack, AttackId, Family};
use crate::audit::band::{BandDraws, Bands, around};
use crate::audit::interval::{Bootstrap, BootstrapDraws, Estimate, Interval, Placements, RowValues, two_sided_z};
use crate::audit::null::{NullDraws, Permutations};
use crate::audit::report::{AttackFindings, Figure, Headline, SystemFindings, Utility, Validity};
use crate::audit::roc::Ranking;
use crate::audit::standing::{Leak, Standing};
use crate::audit::system::{Role, System};
use crate::audit::temperature::Temperature;
use crate::audit::words::counted_have;

use super::measure::{Attacked, FitCurve, Measured};
use super::{Bench, StudyError};

fn position(measured: &[(&System, Measured)], name: &'static str, role: Role) -> Result<usize, StudyError> {
    measured.iter().position(|(system, _)| system.role() == role).ok_or(StudyError::Missing { missing: name })
}

impl Bench<'_> {
    /// The calls of one rule minus those of another, a value per verdict row.
    fn call_differences(&self, says: &[bool], floor_says: &[bool]) -> RowValues {
        let difference = |row: usize| f32::from(i8::from(says[row]) - i8::from(floor_says[row]));
        let n_members = self.verdict_members.len();
        RowValues {
            members: (0..n_members).map(difference).collect(),
            non_members: (n_members..says.len()).map(difference).collect(),
        }
    }
}

/// R16, on the undefended system's attack-fit rows: the AUC is not one half, in either direction, and (a) is none
/// that the null would give. Both without a stated size, so that a weak leak on many rows is a leak. The AUC's
/// level is corrected for the number of attacks tried (Bonferroni), so that no long battery counts by luck.
pub(super) fn validity(bench: &Bench<'_>, measured: &[(&System, Measured)]) -> Result<Vec<Validity>, StudyError> {
    let reference = position(measured, "undefended", Role::Undefended)
        .or_else(|missing| position(measured, "undefended", Role::Served).map_err(|_| missing))?;
    let fits: Vec<&FitCurve> = measured[reference].1.attacks.iter().map(|attacked| &attacked.fit).collect();
    let rankings: Vec<&Ranking> = fits.iter().map(|fit| &fit.ranking).collect();
    let permutations = Permutations { n: bench.settings.n_permutations, seed: bench.settings.seed };
    let n_members = bench.fit_memberships.iter().filter(|&&member| member).count();
    let draws = permutations.draw(&rankings, n_members);
    let n_attacks = fits.len();
    let judge = |(index, attacked): (usize, &Attacked)| {
        let fit: &FitCurve = fits[index];
        let null = draws.of_maximum(&[index], fit.widest);
        let beyond_null = null.is_none_or(|null| fit.widest > null.q95);
        Validity {
            attack: attacked.id.clone(),
            auc_undefended: fit.auc,
            widest_undefended: fit.widest,
            widest_null: Figure::or(null, NO_PERMUTATIONS),
            counts: beyond_null && !fit.auc_corrected(n_attacks, bench.settings.level).covers(0.5),
        }
    };
    Ok(measured[reference].1.attacks.iter().enumerate().map(judge).collect())
}

/// Whether an attack counts; one that was not tried on the reference does not.
fn counts(validity: &[Validity], id: &AttackId) -> bool {
    validity.iter().any(|one| one.counts && one.attack.is_kind_of(id))
}

/// The label-only floor (R14): whether the label is right, which every answer tells, unless another attack on label-only
/// answers counts and is *clearly* stronger on the attack-fit rows. The largest of many noisy figures is no stronger for
/// being picked: on other rows it fell below the gap that anybody reads off.
struct Floor {
    system: usize,
    attack: usize,
}

impl Floor {
    fn find(bench: &Bench<'_>, measured: &[(&System, Measured)], validity: &[Validity]) -> Result<Self, StudyError> {
        let system = position(measured, "label-only", Role::Floor)?;
        let attacks = &measured[system].1.attacks;
        let correctness = attacks.iter().position(|attacked| attacked.id == Attack::Correctness).unwrap_or_default();
        let on_fit = |attack: usize| attacks[attack].fit.fixed;
        let counted: Vec<usize> = (0..attacks.len()).filter(|&attack| counts(validity, &attacks[attack].id)).collect();
        let is_clear = |attack: usize| {
            let (one, plainest) = (&attacks[attack].fit.says_member, &attacks[correctness].fit.says_member);
            is_clearly_above((one, plainest), &bench.fit_memberships, counted.len(), bench.settings.level)
        };
        let clear = counted.iter().copied().filter(|&attack| is_clear(attack));
        let attack = clear.fold(correctness, |best, one| if on_fit(one) > on_fit(best) { one } else { best });
        Ok(Self { system, attack })
    }
}

/// Whether the calls of one rule have a larger TPR − FPR than those of another on the same rows: by the paired
/// difference's normal interval, corrected for `n` such comparisons.
fn is_clearly_above(rules: (&[bool], &[bool]), memberships: &[bool], n: usize, level: f64) -> bool {
    let (difference, standard_error) = paired_difference(rules, memberships);
    difference > two_sided_z(1.0 - (1.0 - level) / n.max(1) as f64) * standard_error
}

/// TPR − FPR of one rule's calls minus that of another's on the same rows, and its standard error.
fn paired_difference((one, other): (&[bool], &[bool]), memberships: &[bool]) -> (f64, f64) {
    let side = |member: bool| {
        let rows = (0..memberships.len()).filter(|&row| memberships[row] == member);
        let differences: Vec<f64> = rows.map(|row| f64::from(i8::from(one[row]) - i8::from(other[row]))).collect();
        let count = differences.len().max(1) as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        (mean, variance / count)
    };
    let ((members, of_members), (non_members, of_non_members)) = (side(true), side(false));
    (members - non_members, (of_members + of_non_members).sqrt())
}

/// Everything that is drawn at random, over the columns of all systems one after the other.
struct Drawn {
    null: NullDraws,
    bands: BandDraws,
    differences: BootstrapDraws,
    /// For each system the columns of its attacks begin here.
    starts: Vec<usize>,
    /// For each system its NLL and Brier score; then, where there is a rival, its NLL minus the rival's.
    utility: BootstrapDraws,
    has_rival: bool,
}

impl Drawn {
    fn draw(bench: &Bench<'_>, measured: &[(&System, Measured)], floor: &Attacked) -> Self {
        let settings = bench.settings;
        let rankings: Vec<&Ranking> =
            measured.iter().flat_map(|(_, one)| one.attacks.iter().map(|attacked| &attacked.ranking)).collect();
        let null = Permutations { n: settings.n_permutations, seed: settings.seed }
            .draw(&rankings, bench.verdict_members.len());
        let bands = Bands { n: settings.n_resamples.min(MAX_BANDS), seed: settings.seed }
            .draw(&rankings, &bench.verdict_memberships);
        let bootstrap = Bootstrap { n_resamples: settings.n_resamples, seed: settings.seed };
        let differences: Vec<RowValues> = measured
            .iter()
            .flat_map(|(_, one)| one.attacks.iter())
            .map(|attacked| bench.call_differences(&attacked.says_member, &floor.says_member))
            .collect();
        let starts = measured.iter().scan(0, |next, (_, one)| Some(std::mem::replace(next, *next + one.attacks.len())));

        // Minus a mean over non-members.
        let minus = |values: Vec<f32>| RowValues { members: Vec::new(), non_members: values };
        let negated = |values: &[f64]| minus(values.iter().map(|value| -value as f32).collect());
        let mut utility: Vec<RowValues> =
            measured.iter().flat_map(|(_, one)| [negated(&one.nll_of_rows), negated(&one.brier_of_rows)]).collect();
        let rival = measured.iter().find(|(system, _)| system.role() == Role::Rival);
        if let Some((_, rival)) = rival {
            utility.extend(measured.iter().map(|(_, one)| {
                minus(rival.nll_of_rows.iter().zip(&one.nll_of_rows).map(|(rival, own)| (rival - own) as f32).collect())
            }));
        }
        Self {
            null,
            bands,
            differences: bootstrap.draw(&differences),
            starts: starts.collect(),
            utility: bootstrap.draw(&utility),
            has_rival: rival.is_some(),
        }
    }
}

pub(super) fn compare(
    bench: &Bench<'_>,
    measured: &[(&System, Measured)],
    validity: &[Validity],
    temperature: Option<&Temperature>,
) -> Result<Vec<SystemFindings>, StudyError> {
    let floor = Floor::find(bench, measured, validity)?;
    let floor_attack = &measured[floor.system].1.attacks[floor.attack];
    let drawn = Drawn::draw(bench, measured, floor_attack);
    let floor_system = (floor.system, floor.attack);
    let comparison = Comparison { bench, validity, floor: &floor_attack.placements, floor_system, drawn: &drawn };
    let found = measured.iter().enumerate().map(|(index, (system, one))| {
        let attacks = comparison.attacks(index, one);
        let headline = comparison.headline(index, one, &attacks);
        let utility = comparison.utility(index, measured.len(), one);
        let mut flags = flags(system, &utility, &attacks, headline.value.as_ref());
        if system.role() == Role::Rival {
            flags.extend(rival_flags(temperature, bench.target.n_classes()));
        }
        let epsilon = bench.epsilon(one, &measured[floor.system].1);
        if epsilon.contradicts_claim {
            flags.push(CONTRADICTED.to_owned());
        }
        let classes = bench.classes(one, headline.value.as_ref());
        let worst = classes.iter().reduce(|a, b| if b.advantage.value > a.advantage.value { b } else { a });
        SystemFindings {
            name: system.name.clone(),
            role: system.role(),
            defence: system.config().cloned(),
            utility,
            worst_class: Figure::or(worst.map(|found| found.class), "there is no headline to split by class"),
            classes,
            curves: bench.curves(one, headline.value.as_ref()),
            histogram: bench.histogram(system, one),
            attacks,
            headline,
            epsilon,
            flags,
        }
    });
    Ok(found.collect())
}

const CONTRADICTED: &str = "the lower bound on ε exceeds the ε that the run record claims: with these rows and at this \
                            confidence one of the two is wrong";

/// What every system is compared with.
struct Comparison<'a> {
    bench: &'a Bench<'a>,
    validity: &'a [Validity],
    floor: &'a Placements,
    /// The floor's system and the attack on it.
    floor_system: (usize, usize),
    drawn: &'a Drawn,
}

/// Resamples of the bands: their quantile is told roughly by so many, and each costs as much as a permutation.
const MAX_BANDS: usize = 300;

const NO_PERMUTATIONS: &str = "no permutations were asked for";

impl Comparison<'_> {
    fn attacks(&self, system: usize, one: &Measured) -> Vec<AttackFindings> {
        let settings = self.bench.settings;
        let level = settings.level;
        let each = one.attacks.iter().enumerate();
        each.map(|(index, attacked)| {
            let column = self.drawn.starts[system] + index;
            let (_, signed) = attacked.roc.widest();
            let null = self.drawn.null.of_maximum(&[column], signed.abs());
            AttackFindings {
                attack: attacked.id.clone(),
                counts: counts(self.validity, &attacked.id),
                fixed_on_fit: attacked.fit.fixed,
                auc: attacked.placements.auc(level),
                widest: signed.abs(),
                widest_interval: self.widest_interval(&[column], signed.abs()),
                widest_null: Figure::or(null, NO_PERMUTATIONS),
                fixed: attacked.fixed,
                calls: self.bench.calls(attacked),
                fixed_minus_floor: self.drawn.differences.estimate(column, level),
                auc_minus_floor: attacked.placements.auc_minus(self.floor, level),
                tpr_at_fpr: settings.fpr_targets.iter().map(|&at| self.bench.tpr_at(&attacked.roc, at)).collect(),
                epsilon_lower_bound: attacked.epsilon.counts.epsilon_lower_bound(settings.delta, level),
            }
        })
        .collect()
    }

    /// The interval of the largest (a) over the given columns, which is `widest`.
    fn widest_interval(&self, columns: &[usize], widest: f64) -> Interval {
        let half = self.drawn.bands.half_width(columns, self.bench.settings.level);
        // Without draws nothing is known of it.
        half.map_or(Interval { low: 0.0, high: 1.0 }, |half| around(widest, half))
    }

    fn utility(&self, system: usize, n_systems: usize, one: &Measured) -> Utility {
        let level = self.bench.settings.level;
        let estimate = |column| self.drawn.utility.estimate(column, level);
        let mut utility = one.utility.clone();
        utility.nll_interval = estimate(2 * system).interval();
        utility.brier = Estimate::new(utility.brier.value, estimate(2 * system + 1).interval());
        if self.drawn.has_rival {
            utility.nll_minus_rival = Figure::known(estimate(2 * n_systems + system));
        }
        utility
    }

    /// The strongest attack on the attack-fit rows, which leads the reading of whether the label is right by more than one
    /// standard error there, or else that reading (the one-standard-error rule: the plainest of those that cannot be
    /// told apart). It is in every answer, and the largest of many noisy figures is no stronger for being picked.
    fn chosen(&self, one: &Measured, counted: &[usize]) -> Option<usize> {
        let fit = |attack: usize| &one.attacks[attack].fit;
        // The first of equals, in the order of the battery.
        let strongest = |best: usize, next: usize| if fit(next).fixed > fit(best).fixed { next } else { best };
        let strongest = counted.iter().copied().reduce(strongest)?;
        let plainest = counted.iter().copied().find(|&attack| one.attacks[attack].id == Attack::Correctness);
        let leads = |plainest: usize| {
            let rules = (&fit(strongest).says_member[..], &fit(plainest).says_member[..]);
            let (difference, standard_error) = paired_difference(rules, &self.bench.fit_memberships);
            difference > standard_error
        };
        Some(plainest.filter(|&plainest| !leads(plainest)).unwrap_or(strongest))
    }

    fn headline(&self, system: usize, one: &Measured, attacks: &[AttackFindings]) -> Figure<Headline> {
        let counted: Vec<usize> = (0..attacks.len()).filter(|&attack| attacks[attack].counts).collect();
        let wider = |best: usize, next: usize| if attacks[next].widest > attacks[best].widest { next } else { best };
        let (Some(widest), Some(mut fixed)) = (counted.iter().copied().reduce(wider), self.chosen(one, &counted))
        else {
            return Figure::missing("no attack works on the undefended model: this battery cannot tell (R16)");
        };
        // The floor is told by the attack that makes it.
        if self.floor_system.0 == system {
            fixed = self.floor_system.1;
        }
        let settings = self.bench.settings;
        let columns: Vec<usize> = counted.iter().map(|attack| self.drawn.starts[system] + attack).collect();
        let null = self.drawn.null.of_maximum(&columns, attacks[widest].widest);
        let difference = attacks[fixed].fixed_minus_floor;
        let only_labels = counted.iter().all(|&attack| reads_labels_alone(&attacks[attack].attack));
        let seen = null.as_ref().map(|null| (attacks[widest].widest <= null.q95, null.q95));
        Figure::known(Headline {
            widest_attack: attacks[widest].attack.clone(),
            widest: attacks[widest].widest,
            widest_interval: self.widest_interval(&columns, attacks[widest].widest),
            leak: Leak::of(&attacks[fixed].fixed, seen, settings.margin),
            widest_null: Figure::or(null, NO_PERMUTATIONS),
            n_attacks: counted.len(),
            fixed_attack: attacks[fixed].attack.clone(),
            fixed: attacks[fixed].fixed,
            fixed_minus_floor: difference,
            standing: if only_labels { Standing::CannotTell } else { Standing::of(&difference, settings.margin) },
        })
    }
}

/// Attacks that a label-only answer feeds as well as any other.
fn reads_labels_alone(attack: &AttackId) -> bool {
    attack.family == Family::LabelOnly || attack.name.starts_with(Attack::Correctness.name())
}

fn flags(system: &System, utility: &Utility, attacks: &[AttackFindings], headline: Option<&Headline>) -> Vec<String> {
    let mut flags = Vec::new();
    if headline.is_some_and(|headline| headline.standing == Standing::BelowFloor) {
        flags.push(
            "the headline is below the label-only floor: the label is in the answer all the same, so an attacker who \
             reads it alone does better than these attacks did. A weakness of the attacks on this system, not a \
             protection by it"
                .to_owned(),
        );
    }
    let loss = attacks.iter().find(|found| found.attack == Attack::Loss && found.counts);
    if loss.is_some_and(|loss| loss.fixed_minus_floor.high < 0.0) {
        flags.push(
            "the loss attack alone is below the label-only floor on these rows: reading whether the label is right \
             tells more than its threshold did"
                .to_owned(),
        );
    }
    if loss.is_some_and(|loss| loss.auc_minus_floor.high < 0.0) {
        flags.push(
            "the loss attack's AUC is below that of label-only answers: an order by this loss is a worse attack than \
             reading whether the label is right, which every answer allows"
                .to_owned(),
        );
    }
    if utility.label_agreement.value.is_some_and(|share| share < 1.0) {
        flags.push("some labels are not the undefended model's: R1 is broken".to_owned());
    }
    if utility.n_floored > 0 && system.role() != Role::Floor {
        flags.push(format!(
            "{} less than 1e-12 for the true class: the NLL depends on where it is floored",
            counted_have(utility.n_floored, "non-member")
        ));
    }
    flags
}

/// What must be said about the rival of R15.
fn rival_flags(temperature: Option<&Temperature>, n_classes: usize) -> Vec<String> {
    let mut flags = Vec::new();
    if temperature.is_some_and(|fitted| fitted.at_bound) {
        flags.push("the temperature is the end of the range that was searched, and no optimum".to_owned());
    }
    let few = temperature.filter(|fitted| fitted.n_rows < ROWS_PER_CLASS * n_classes);
    flags.extend(few.map(|fitted| {
        format!(
            "the temperature was fitted on {} rows, fewer than {ROWS_PER_CLASS} for each of {n_classes} classes: NLL and \
             ECE against it are rough",
            fitted.n_rows
        )
    }));
    flags
}

/// Calibration rows for each class below which the rival's temperature is flagged.
const ROWS_PER_CLASS: usize = 10;
