//! The settings of batches: requests of one model that wait are run as one inference.

use std::time::Duration;

use super::config::{Mistakes, count};
use super::section::Section;
use crate::server::Batching;

/// The most rows of a batch, far beyond what is of use.
const MAX_SIZE: usize = 4_096;
/// The longest delay: waiting a second for others helps nobody.
const MAX_DELAY: Duration = Duration::from_secs(1);
/// Preferred sizes are tried one by one when a model is loaded.
const MAX_PREFERRED: usize = 8;

/// Flags over the table `batching`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Batches")]
pub(super) struct BatchingArgs {
    /// Run requests of one model that wait together, up to so many rows at once; 1 switches it off. A row is answered to
    /// the bit as without: models for which that does not hold are never put together. What a request takes then depends
    /// on who asks at the same time [default: off]
    #[arg(long, value_name = "ROWS")]
    batch_max_size: Option<usize>,
    /// The longest that a request waits for others while a compute thread is free; 0 puts together only what waits
    /// anyway [default: 0]
    #[arg(long, value_name = "MICROSECONDS")]
    batch_max_delay_us: Option<u64>,
}

/// The table `batching`, as written.
#[derive(Debug, Default)]
pub(super) struct WrittenBatching {
    max_size: Option<usize>,
    max_delay_us: Option<u64>,
    preferred_sizes: Option<Vec<usize>>,
}

impl WrittenBatching {
    pub(super) fn read(&mut self, table: &mut Section<'_>) {
        self.max_size = table.take("max_size");
        self.max_delay_us = table.take("max_delay_us");
        self.preferred_sizes = table.take("preferred_sizes");
    }

    pub(super) fn overlay(&mut self, args: &BatchingArgs) {
        self.max_size = args.batch_max_size.or(self.max_size);
        self.max_delay_us = args.batch_max_delay_us.or(self.max_delay_us);
    }

    /// What is meant; `None`: each request runs alone.
    pub(super) fn check(self, inline: bool, queue_timeout: Duration, mistakes: &mut Mistakes) -> Option<Batching> {
        let Self { max_size, max_delay_us, preferred_sizes } = self;
        let Some(max_rows) = max_size.filter(|&size| size != 1) else {
            if max_size.is_none() && (max_delay_us.is_some() || preferred_sizes.is_some()) {
                mistakes.push("batching.max_size: without it no batches are made".to_owned());
            }
            return None;
        };
        let max_rows = count("batching.max_size", max_rows, MAX_SIZE, mistakes);
        let max_delay = Duration::from_micros(max_delay_us.unwrap_or(0));
        if max_delay > MAX_DELAY || max_delay >= queue_timeout {
            mistakes.push(format!(
                "batching.max_delay_us: must be at most {} and below compute.queue_timeout_seconds, got {}",
                MAX_DELAY.as_micros(),
                max_delay.as_micros()
            ));
        }
        let preferred = preferred_sizes.unwrap_or_default();
        let ascending = preferred.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || preferred.len() > MAX_PREFERRED || preferred.iter().any(|size| !(2..=max_rows).contains(size))
        {
            mistakes.push(format!(
                "batching.preferred_sizes: expected at most {MAX_PREFERRED} sizes in ascending order, from 2 to {max_rows} \
                 (batching.max_size)"
            ));
        }
        if inline {
            mistakes
                .push("batching: compute.inline runs each request where it is read; leave one of them out".to_owned());
        }
        Some(Batching { max_rows, max_delay, preferred })
    }
}
