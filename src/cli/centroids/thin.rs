//! A bounded sample of a stream: all of it while it is short, then every 2nd, every 4th, … item.

/// The most items that one sample holds.
pub(super) const MOST: usize = 32_768;

/// Items of a stream at even steps. While no more than `most` came, it holds them all; beyond, at least half of
/// `most`. Which ones depends on their number alone.
#[derive(Debug, Clone)]
pub(super) struct Thinned<T> {
    items: Vec<T>,
    most: usize,
    step: u64,
    n_seen: u64,
}

impl<T> Thinned<T> {
    /// An empty sample of at most `most` items, which is to be even.
    pub(super) fn new(most: usize) -> Self {
        Self { items: Vec::new(), most, step: 1, n_seen: 0 }
    }

    pub(super) fn push(&mut self, item: T) {
        let is_due = self.n_seen.is_multiple_of(self.step);
        self.n_seen += 1;
        if !is_due {
            return;
        }
        if self.items.len() == self.most {
            let mut place = 0_usize;
            self.items.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.step *= 2;
        }
        self.items.push(item);
    }

    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thinned(n: u32, most: usize) -> Vec<u32> {
        let mut sample = Thinned::new(most);
        (0..n).for_each(|item| sample.push(item));
        sample.into_items()
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        for n in [0, 1, 7, 8] {
            assert_eq!(thinned(n, 8), (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_long_stream_is_kept_at_even_steps_within_the_bound() {
        for n in [9, 16, 17, 33, 100, 1_000, 12_345] {
            let kept = thinned(n, 8);
            let step = kept[1];
            assert!(kept.len() <= 8 && kept.len() >= 4, "{n}: {kept:?}");
            assert!(step.is_power_of_two() && kept.iter().zip(0..).all(|(&item, place)| item == place * step));
            assert!(n - kept[kept.len() - 1] <= step, "{n}: the end of the stream is in reach");
        }
    }
}
