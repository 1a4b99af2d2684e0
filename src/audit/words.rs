//! Numbers with their nouns, for sentences: one row, two rows.

/// A number and its noun, which takes an `s` where the number is not 1.
pub(crate) fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A number and its noun with what they have: `1 row has`, `2 rows have`.
pub(crate) fn counted_have(n: usize, noun: &str) -> String {
    format!("{} {}", counted(n, noun), if n == 1 { "has" } else { "have" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_none_is_not() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "row")), ["0 rows", "1 row", "2 rows"]);
        assert_eq!(
            [0, 1, 2].map(|n| counted_have(n, "non-member")),
            ["0 non-members have", "1 non-member has", "2 non-members have"]
        );
    }
}
