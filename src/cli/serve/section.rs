//! One table of a settings file, read key by key.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::config::Mistakes;

/// One table of the file, emptied key by key; what is left over is unknown.
pub(super) struct Section<'a> {
    name: &'static str,
    /// Whether the file has it, be it empty.
    is_there: bool,
    table: Table,
    known: Vec<&'static str>,
    mistakes: &'a mut Mistakes,
}

impl<'a> Section<'a> {
    /// Takes the table out of the file.
    pub(super) fn open(name: &'static str, file: &mut Table, mistakes: &'a mut Mistakes) -> Self {
        let is_there = file.contains_key(name);
        let table = match file.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                mistakes.push(format!("{name}: expected a table, got {}", other.type_str()));
                Table::new()
            }
        };
        Self { name, is_there, table, known: Vec::new(), mistakes }
    }

    /// Whether the file has the table, be it empty.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// Takes a key; a value of another type is a mistake.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        match value.try_into() {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistakes.push(format!("{}.{key}: {}", self.name, one_line(&error)));
                None
            }
        }
    }

    /// Takes a number of seconds, whole or not.
    pub(super) fn seconds(&mut self, key: &'static str) -> Option<f64> {
        if let Some(Value::Integer(seconds)) = self.table.get(key) {
            let seconds = *seconds as f64;
            self.table.insert(key.to_owned(), Value::Float(seconds));
        }
        self.take(key)
    }

    /// What is left is unknown.
    pub(super) fn close(self) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            self.mistakes.push(format!("unknown key '{}.{key}'; known: {known}", self.name));
        }
    }
}

/// What is wrong with a value, in one line.
pub(super) fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}
