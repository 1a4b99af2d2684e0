//! A policy from its file, and whether it speaks about what is to be audited: told before the work, not after it.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::audit::policy::{Policy, PolicyError};
use crate::audit::system::{Role, System};

/// Reads a policy and checks its ranges.
///
/// # Errors
/// When it cannot be read, or is none.
pub(super) fn read(path: &Path) -> anyhow::Result<Policy> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let policy: Policy = toml::from_str(&text).with_context(|| shown.to_string())?;
    policy.check().with_context(|| shown.to_string())?;
    Ok(policy)
}

/// Checks that the policy names systems that there will be; the rival is there where there are calibration rows.
///
/// # Errors
/// [`PolicyError`] as it would be told after the study.
pub(super) fn check(policy: &Policy, systems: &[System], has_calibration: bool) -> anyhow::Result<()> {
    let there = || systems.iter().filter(|system| has_calibration || system.role() != Role::Rival);
    if policy.systems.is_empty() {
        ensure!(there().any(|system| system.role() == Role::Served), "--policy: {}", PolicyError::NothingServed);
    }
    for name in &policy.systems {
        let is_named = |system: &System| {
            system.name == *name || system.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(':'))
        };
        if !there().any(is_named) {
            let there: Vec<&str> = there().map(|system| system.name.as_str()).collect();
            bail!("--policy: {}", PolicyError::NoSuchSystem { name: name.clone(), there: there.join(", ") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::system::build_all;
    use crate::defence::ScoreKind;

    #[test]
    fn a_policy_about_a_system_that_is_not_audited_is_refused_before_the_study() {
        let (systems, _) = build_all(&[], None, ScoreKind::Logits, 3).unwrap();
        let refused = |text: &str, has_calibration| {
            let policy: Policy = toml::from_str(&format!("max_ece = 0.5\n{text}")).unwrap();
            check(&policy, &systems, has_calibration).map_err(|error| error.to_string())
        };
        assert_eq!(refused("systems = [\"undefended\", \"label-only\"]", false), Ok(()));
        let unknown = refused("systems = [\"undefended\", \"theirs\"]", true).unwrap_err();
        assert!(unknown.contains("no system \"theirs\"") && unknown.contains("label-only"), "{unknown}");
        // The rival needs calibration rows.
        let rival = systems.iter().find(|system| system.role() == Role::Rival).unwrap();
        let text = format!("systems = [{:?}]", rival.name);
        assert_eq!(refused(&text, true), Ok(()));
        assert!(refused(&text, false).is_err());
    }
}
