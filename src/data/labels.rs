//! From the words of labels to classes: distinct words are counted as they come, sorted at the end.

use std::collections::HashMap;

/// Labels so far, one a row.
#[derive(Default)]
pub(super) struct Labels {
    places: HashMap<String, u32>,
    rows: Vec<u32>,
}

impl Labels {
    pub(super) fn push(&mut self, word: &str) {
        let word = word.trim();
        let next = self.places.len() as u32;
        let place = match self.places.get(word) {
            Some(&place) => place,
            None => *self.places.entry(word.to_owned()).or_insert(next),
        };
        self.rows.push(place);
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// The names of the classes in their order, and each row's place in them: whole numbers by value, other words by
    /// their letters.
    pub(super) fn finish(self) -> (Vec<String>, Vec<u32>) {
        let mut words: Vec<(String, u32)> = self.places.into_iter().collect();
        words.sort();
        if words.iter().all(|(word, _)| word.parse::<i64>().is_ok()) {
            words.sort_by_key(|(word, _)| word.parse::<i64>().unwrap_or(i64::MAX));
        }
        let mut order = vec![0; words.len()];
        (0..).zip(&words).for_each(|(place, (_, came))| order[*came as usize] = place);
        let rows = self.rows.into_iter().map(|came| order[came as usize]).collect();
        (words.into_iter().map(|(word, _)| word).collect(), rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(words: &[&str]) -> (Vec<String>, Vec<u32>) {
        let mut labels = Labels::default();
        words.iter().for_each(|word| labels.push(word));
        labels.finish()
    }

    #[test]
    fn numbers_are_sorted_by_value_and_words_by_letters() {
        assert_eq!(classes(&["10", "2", " 10"]), (vec!["2".to_owned(), "10".to_owned()], vec![1, 0, 1]));
        assert_eq!(classes(&["10", "b", "2"]), (vec!["10".into(), "2".into(), "b".into()], vec![0, 2, 1]));
        assert_eq!(classes(&[]), (vec![], vec![]));
    }
}
