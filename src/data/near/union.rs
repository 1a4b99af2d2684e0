//! Disjoint sets, and the search for pairs on all cores that fills them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Disjoint sets of the numbers below `n`; the root of each is its smallest.
pub(super) struct Union {
    parents: Vec<u32>,
}

impl Union {
    pub(super) fn new(n: usize) -> Self {
        Self { parents: (0..n as u32).collect() }
    }

    /// The smallest number of the set.
    pub(super) fn root(&self, mut at: usize) -> usize {
        while self.parents[at] as usize != at {
            at = self.parents[at] as usize;
        }
        at
    }

    pub(super) fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.shortened(one), self.shortened(other));
        self.parents[one.max(other)] = one.min(other) as u32;
    }

    pub(super) fn are_joined(&mut self, one: usize, other: usize) -> bool {
        self.shortened(one) == self.shortened(other)
    }

    /// The root, with the way there made shorter for the next time.
    fn shortened(&mut self, mut at: usize) -> usize {
        while self.parents[at] as usize != at {
            let parent = self.parents[at] as usize;
            self.parents[at] = self.parents[parent];
            at = self.parents[at] as usize;
        }
        at
    }

    /// The sets of at least two, ascending.
    pub(super) fn groups(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.parents.len()];
        (0..self.parents.len()).for_each(|at| members[self.root(at)].push(at));
        members.retain(|group| group.len() > 1);
        members
    }

    /// Calls `search` with every number below `n`, on all cores, each with sets of its own; the answer is the union of
    /// all, which does not depend on who searched where.
    pub(super) fn gather(n: usize, search: impl Fn(usize, &mut Self) + Sync) -> Self {
        /// Numbers that a thread takes at a time.
        const AT_ONCE: usize = 64;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut found = Self::new(n);
            loop {
                let start = next.fetch_add(AT_ONCE, Ordering::Relaxed);
                if start >= n {
                    return found;
                }
                (start..n.min(start + AT_ONCE)).for_each(|at| search(at, &mut found));
            }
        };
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for thread in threads {
                let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                (0..n).for_each(|at| all.join(at, found.root(at)));
            }
            all
        })
    }
}
