//! What a record says about the program and the machine that made it. Names no path, host or user.

use std::fmt;

/// The source that this program was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    /// The commit, 40 hexadecimal digits.
    pub(super) id: &'static str,
    /// Whether the sources had been changed since.
    pub(super) dirty: bool,
}

impl Commit {
    /// As `build.rs` stamped it; `None` for a build outside of a git checkout. The folder that the program is run in
    /// has no say.
    pub(super) fn of_build() -> Option<Self> {
        let id = env!("SORDINO_BUILD_COMMIT");
        (!id.is_empty()).then_some(Self { id, dirty: env!("SORDINO_BUILD_DIRTY") == "true" })
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, if self.dirty { "+dirty" } else { "" })
    }
}

/// The machine that this program runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// The processor's model name; where it is unknown, the architecture.
    pub(super) cpu: String,
    /// Cores that this process can use.
    pub(super) n_cores: usize,
}

impl Machine {
    /// Asks the operating system.
    pub(super) fn here() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            n_cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores, {}", self.cpu, self.n_cores, std::env::consts::OS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_of_the_build_is_whole_and_told_with_its_changes() {
        if let Some(commit) = Commit::of_build() {
            assert!(commit.id.len() >= 40 && commit.id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", commit.id);
        }
        assert_eq!(Commit { id: "ab", dirty: true }.to_string(), "ab+dirty");
        assert_eq!(Commit { id: "ab", dirty: false }.to_string(), "ab");
    }

    #[test]
    fn a_machine_is_told_by_processor_cores_and_system() {
        let machine = Machine { cpu: "Fast One".to_owned(), n_cores: 3 };
        assert_eq!(machine.to_string(), format!("Fast One, 3 cores, {}", std::env::consts::OS));
        assert!(Machine::here().n_cores >= 1);
    }
}
