//! What is shown while a training runs: a progress bar on stderr; where that is no terminal, one line an epoch.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::lab::recipe::Recipe;
use crate::lab::train::{EpochScore, StepReport, Trainer, Watcher};

/// The progress bar.
pub(super) struct Bar {
    bar: ProgressBar,
    n_epochs: usize,
    may_stop: bool,
    /// When this sitting began, and how many rows were done then.
    begun: Option<(Instant, usize)>,
    /// Rows a second and time left, in words.
    pace: String,
}

impl Bar {
    pub(super) fn new(recipe: &Recipe) -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {msg}  {elapsed} gone")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        let may_stop = recipe.early_stopping.is_some();
        Self { bar, n_epochs: recipe.epochs, may_stop, begun: None, pace: String::new() }
    }

    pub(super) fn close(&self) {
        self.bar.finish_and_clear();
    }

    /// Counts from where this sitting began: rows of earlier sittings took none of its time.
    fn measure(&mut self, done: usize, planned: usize) {
        self.bar.set_length(planned as u64);
        self.bar.set_position(done as u64);
        let Some((begun, rows)) = self.begun else {
            // The first steps are told once they are done: what is counted begins behind them.
            self.begun = Some((Instant::now(), done));
            return;
        };
        if let Some((rate, left)) = pace(begun.elapsed(), done.saturating_sub(rows), planned.saturating_sub(done)) {
            let most = if self.may_stop { "at most " } else { "" };
            self.pace = format!("  {rate:.0} rows/s, {most}{} left", indicatif::HumanDuration(left));
        }
    }
}

/// Rows a second of this sitting, and how long the rest takes at that rate.
fn pace(elapsed: Duration, rows: usize, rows_left: usize) -> Option<(f64, Duration)> {
    let rate = rows as f64 / elapsed.as_secs_f64();
    let seconds = rows_left as f64 / rate;
    let left = Duration::try_from_secs_f64(seconds).ok()?;
    (rate.is_finite() && rate > 0.0).then_some((rate, left))
}

impl Watcher for Bar {
    fn step(&mut self, report: StepReport) {
        self.bar.set_message(format!(
            "epoch {}/{}  loss {:.4}  accuracy {:.4}{}",
            report.epoch, self.n_epochs, report.loss, report.accuracy, self.pace
        ));
    }

    fn between(&mut self, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        self.measure(trainer.rows_done(), trainer.rows_planned());
        Ok(())
    }

    fn epoch(&mut self, score: &EpochScore, trainer: &Trainer<'_>) -> anyhow::Result<()> {
        let mut line = format!(
            "epoch {}/{}  loss {:.4}  accuracy {:.4}",
            score.epoch, self.n_epochs, score.train.loss, score.train.accuracy
        );
        if let Some(validation) = score.validation {
            line += &format!("  validation loss {:.4}  accuracy {:.4}", validation.loss, validation.accuracy);
        }
        if trainer.position().best.is_some_and(|best| best.epoch == score.epoch) {
            line += "  best";
        }
        line += &self.pace;
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_this_sitting_and_the_rest_takes_it_too() {
        let (rate, left) = pace(Duration::from_secs(4), 800, 1_000).unwrap();
        assert_eq!((rate, left), (200.0, Duration::from_secs(5)));
        assert!(pace(Duration::from_secs(4), 0, 1_000).is_none(), "nothing was done yet");
        assert!(pace(Duration::ZERO, 8, 10).is_none());
    }

    #[test]
    fn rows_of_an_earlier_sitting_do_not_count_for_the_rate() {
        use crate::lab::network::Architecture;
        let mut bar = Bar::new(&Recipe::plain(Architecture::fcn(), 10, 1));
        bar.measure(1_000_000, 2_000_000);
        std::thread::sleep(Duration::from_millis(20));
        bar.measure(1_000_001, 2_000_000);
        let (begun, rows) = bar.begun.unwrap();
        assert_eq!(rows, 1_000_000);
        let (rate, _) = pace(begun.elapsed(), 1, 1).unwrap();
        assert!(rate <= 50.0, "{rate}");
    }
}
