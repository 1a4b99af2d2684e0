//! `sordino accountant`: what a training with DP-SGD spends, or the noise that a budget asks for, before it is run.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::bail;
use serde_json::json;

use crate::lab::accountant::{self, Spent};

/// What every answer says beside its numbers.
const MEANING: &str = "for one training run; neighbours differ by one row added or removed; every step samples each row \
independently (Poisson); it covers neither the search for hyper-parameters nor anything else made from the rows";

/// Tell what differential privacy a training spends, or how much noise a budget asks for.
///
/// Give the noise (--noise-multiplier) and get epsilon, or give --target-epsilon and get the noise; the sampling rate
/// as --sampling-rate, or as --batch-size of --rows; the length as --epochs (each is rows / batch size steps,
/// rounded up) or as --steps.
///
/// The accountant is the Rényi one of the Poisson-subsampled Gaussian mechanism, at the orders that Opacus uses. The
/// answer speaks of one training run: it does not cover the runs that chose its settings.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The noise's standard deviation over the clipping norm.
    #[arg(long, value_name = "X", required_unless_present = "target_epsilon", conflicts_with = "target_epsilon")]
    noise_multiplier: Option<f64>,
    /// The epsilon to stay below: the answer is the least noise that does.
    #[arg(long, value_name = "X")]
    target_epsilon: Option<f64>,
    /// The probability with which a step takes a row: a number or a fraction such as 1/1234.
    #[arg(long, value_name = "Q", required_unless_present = "batch_size", conflicts_with = "batch_size")]
    sampling_rate: Option<Rate>,
    /// Expected rows in a step: the sampling rate is this over --rows.
    #[arg(long, value_name = "N", requires = "rows")]
    batch_size: Option<u64>,
    /// Training rows.
    #[arg(long, value_name = "N")]
    rows: Option<u64>,
    /// How often each row is expected to be seen.
    #[arg(long, value_name = "N", required_unless_present = "steps", conflicts_with = "steps")]
    epochs: Option<u64>,
    /// Steps of the whole run.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// The probability with which the bound may fail: a number or a fraction [default: 1/rows].
    #[arg(long, value_name = "X", required_unless_present = "rows")]
    delta: Option<Rate>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A number, or a fraction of two.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate(f64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let value = match text.split_once('/') {
            Some((over, under)) => number(over).zip(number(under).filter(|under| *under != 0.0)).map(|(a, b)| a / b),
            None => number(text),
        };
        value.map(Rate).ok_or_else(|| format!("expected a number or a fraction such as 1/1234, got '{text}'"))
    }
}

/// A question with all its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    sampling_rate: f64,
    steps: u64,
    delta: f64,
}

impl Args {
    fn run(&self) -> anyhow::Result<Run> {
        if self.rows == Some(0) || self.batch_size == Some(0) {
            bail!("expected at least one row, and one row in a step");
        }
        let sampling_rate = match (self.sampling_rate, self.batch_size, self.rows) {
            (Some(Rate(rate)), _, _) => rate,
            (None, Some(batch), Some(rows)) if batch <= rows => batch as f64 / rows as f64,
            (None, Some(batch), Some(rows)) => bail!("expected a batch of at most the {rows} rows, got {batch}"),
            _ => bail!("expected --sampling-rate, or --batch-size with --rows"),
        };
        let steps = match (self.steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => epochs.saturating_mul(self.steps_an_epoch(sampling_rate)?),
            (None, None) => bail!("expected --epochs or --steps"),
        };
        let delta = match (self.delta, self.rows) {
            (Some(Rate(delta)), _) => delta,
            (None, Some(rows)) => 1.0 / rows as f64,
            (None, None) => bail!("expected --delta, or --rows to take 1/rows"),
        };
        Ok(Run { sampling_rate, steps, delta })
    }

    /// Steps in which as many rows are expected as there are.
    fn steps_an_epoch(&self, sampling_rate: f64) -> anyhow::Result<u64> {
        if let (Some(batch), Some(rows)) = (self.batch_size, self.rows) {
            return Ok(rows.div_ceil(batch));
        }
        if !(sampling_rate > 0.0 && sampling_rate <= 1.0) {
            bail!("expected a sampling rate above 0 and up to 1 to count the steps of an epoch, got {sampling_rate}");
        }
        // 1/q, up to what a fraction such as 1/1234 loses in an f64.
        Ok((1.0 / sampling_rate - 1e-6).ceil().max(1.0) as u64)
    }
}

/// Runs the command.
///
/// # Errors
///
/// When a number is outside of its range, or no noise reaches the target.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let run = args.run()?;
    let noise = match (args.noise_multiplier, args.target_epsilon) {
        (Some(noise), None) => noise,
        (None, Some(target)) => accountant::noise_for(target, run.delta, run.sampling_rate, run.steps)?,
        _ => bail!("expected either --noise-multiplier or --target-epsilon"),
    };
    let spent = accountant::spent(noise, run.sampling_rate, run.steps, run.delta)?;
    if args.json {
        println!("{:#}", as_json(&run, noise, args.target_epsilon, &spent));
    } else {
        print!("{}", as_text(&run, noise, args.target_epsilon, &spent));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(run: &Run, noise: f64, target: Option<f64>, spent: &Spent) -> serde_json::Value {
    // JSON has no infinity: a run without noise has epsilon null and `private` false.
    json!({
        "private": spent.epsilon.is_finite(),
        "epsilon": spent.epsilon.is_finite().then_some(spent.epsilon),
        "target_epsilon": target,
        "delta": run.delta,
        "noise_multiplier": noise,
        "sampling_rate": run.sampling_rate,
        "steps": run.steps,
        "order": spent.order.is_finite().then_some(spent.order),
        "warning": spent.warning(),
        "accountant": accountant::NAME,
        "adjacency": accountant::ADJACENCY,
        "sampling": accountant::SAMPLING,
        "covers_hyperparameter_search": false,
    })
}

fn as_text(run: &Run, noise: f64, target: Option<f64>, spent: &Spent) -> String {
    let epsilon = if spent.epsilon.is_finite() { format!("{:.4}", spent.epsilon) } else { "infinite".to_owned() };
    let order = if spent.order.is_finite() { format!(", at Rényi order {}", spent.order) } else { String::new() };
    let target = target.map_or_else(String::new, |target| format!(" (target {target})"));
    let mut text = format!(
        "epsilon   {epsilon}{target} at delta {:.4e}{order}\n\
         noise     multiplier {noise:.6}: its standard deviation over the clipping norm\n\
         sampling  each row with probability {:.6e} in each of {} steps\n\
         holds     {MEANING}\n",
        run.delta, run.sampling_rate, run.steps
    );
    if !spent.epsilon.is_finite() {
        text += "warning   without noise nothing is protected\n";
    }
    if let Some(warning) = spent.warning() {
        text += &format!("warning   {warning}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("accountant").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn rows_batch_and_epochs_give_rate_steps_and_delta() {
        let run = parse("--noise-multiplier 1 --rows 157859 --batch-size 128 --epochs 200").run().unwrap();
        assert_eq!(run, Run { sampling_rate: 128.0 / 157_859.0, steps: 246_800, delta: 1.0 / 157_859.0 });
        let run = parse("--noise-multiplier 1 --sampling-rate 1/1234 --epochs 200 --delta 1/157859").run().unwrap();
        assert_eq!(run, Run { sampling_rate: 1.0 / 1234.0, steps: 246_800, delta: 1.0 / 157_859.0 });
    }

    #[test]
    fn numbers_that_make_no_run_are_refused() {
        for line in [
            "--noise-multiplier 1 --rows 10 --batch-size 11 --steps 1",
            "--noise-multiplier 1 --rows 0 --batch-size 1 --steps 1",
            "--noise-multiplier 1 --rows 10 --batch-size 0 --epochs 1",
            "--noise-multiplier 1 --sampling-rate 0 --epochs 1 --delta 1e-5",
        ] {
            assert!(parse(line).run().is_err(), "{line}");
        }
        for line in
            ["--noise-multiplier 1", "--noise-multiplier 1 --target-epsilon 2 --sampling-rate .1 --steps 1 --delta .1"]
        {
            assert!(Line::try_parse_from(std::iter::once("accountant").chain(line.split(' '))).is_err(), "{line}");
        }
        for text in ["", "1/0", "x", "1/", "nan", "inf"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_answer_says_what_it_speaks_of() {
        let run = Run { sampling_rate: 1.0 / 1234.0, steps: 246_800, delta: 1.0 / 157_859.0 };
        let spent = accountant::spent(1.0, run.sampling_rate, run.steps, run.delta).unwrap();
        let text = as_text(&run, 1.0, None, &spent);
        for word in ["2.3759", "order 9.2", "one training run", "added or removed", "Poisson", "hyper-parameters"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        let json = as_json(&run, 1.0, Some(2.4), &spent);
        assert_eq!(json["covers_hyperparameter_search"], false);
        assert_eq!(json["adjacency"], "add-or-remove-one");
        assert!((json["epsilon"].as_f64().unwrap() - 2.375_857).abs() < 1e-6);
    }

    #[test]
    fn no_noise_is_no_privacy_in_words_and_json() {
        let run = Run { sampling_rate: 0.1, steps: 1, delta: 1e-5 };
        let spent = accountant::spent(0.0, 0.1, 1, 1e-5).unwrap();
        assert!(as_text(&run, 0.0, None, &spent).contains("nothing is protected"));
        let json = as_json(&run, 0.0, None, &spent);
        assert!(json["epsilon"].is_null() && json["private"] == false && json["order"].is_null());
    }
}
