//! A report as text: aligned tables for a terminal, or Markdown for a file.

mod more;
pub(super) mod tables;

use std::fmt::Write as _;

use self::tables::Table;
use crate::audit::report::Report;

/// How a report is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Aligned columns.
    Terminal,
    /// Markdown.
    Markdown,
}

/// The whole report as text.
#[must_use]
pub fn report(report: &Report, layout: Layout) -> String {
    let mut text = String::new();
    text.push_str(&origin(report, layout));
    for table in tables::all(report).into_iter().chain(tables::battery(&report.findings)) {
        text.push('\n');
        text.push_str(&table.text(layout));
    }
    text.push('\n');
    text.push_str(&lists(report, layout));
    text
}

impl Table {
    fn text(&self, layout: Layout) -> String {
        let mut text = match layout {
            Layout::Terminal => format!("{}\n", self.title),
            Layout::Markdown => format!("## {}\n\n", self.title),
        };
        if self.rows.is_empty() {
            let indent = if layout == Layout::Terminal { "  " } else { "" };
            self.note.lines().for_each(|note| text.push_str(&format!("{indent}{note}\n")));
            return text;
        }
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (column, cell) in cells.enumerate() {
                let cell = if layout == Layout::Markdown { &cell.replace('|', "\\|") } else { cell };
                let width = widths[column];
                let gap = if layout == Layout::Terminal { "  " } else { " | " };
                line.push_str(if column == 0 && layout == Layout::Markdown { "| " } else { gap });
                let _ = if column < self.n_word_columns {
                    write!(line, "{cell:<width$}")
                } else {
                    write!(line, "{cell:>width$}")
                };
            }
            if layout == Layout::Markdown {
                line.push_str(" |");
            }
            line.trim_end().to_owned() + "\n"
        };
        text.push_str(&line(&mut self.header.iter().map(String::as_str)));
        if layout == Layout::Markdown {
            let rule = |column| if column < self.n_word_columns { "---" } else { "---:" };
            let rules: Vec<&str> = (0..self.header.len()).map(rule).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
        let mut previous = None;
        for row in &self.rows {
            let first = row.first().map(String::as_str);
            let repeats = layout == Layout::Terminal && first == previous;
            previous = first;
            text.push_str(&line(
                &mut row.iter().enumerate().map(|(c, cell)| if c == 0 && repeats { "" } else { cell.as_str() }),
            ));
        }
        match layout {
            Layout::Terminal => self.note.lines().for_each(|note| text.push_str(&format!("  {note}\n"))),
            Layout::Markdown => text.push_str(&format!("\n{}\n", self.note)),
        }
        text
    }
}

fn origin(report: &Report, layout: Layout) -> String {
    let mut text = match layout {
        Layout::Terminal => format!("Audit of {}\n", report.origin.model),
        Layout::Markdown => format!("# Audit of {}\n\n", report.origin.model),
    };
    for warning in &report.findings.warnings {
        let _ = match layout {
            Layout::Terminal => writeln!(text, "  WARNING: {warning}"),
            Layout::Markdown => writeln!(text, "**Warning:** {warning}\n"),
        };
    }
    for (name, value) in tables::facts(report) {
        let _ = match layout {
            Layout::Terminal => writeln!(text, "  {name:<12}  {value}"),
            Layout::Markdown if name == "command" => writeln!(text, "- {name}: `{value}`"),
            Layout::Markdown => writeln!(text, "- {name}: {value}"),
        };
    }
    text
}

fn lists(report: &Report, layout: Layout) -> String {
    let mut text = String::new();
    for (title, lines) in tables::lists(report) {
        text.push_str(&match layout {
            Layout::Terminal => format!("{title}\n"),
            Layout::Markdown => format!("## {title}\n\n"),
        });
        for line in lines {
            let bullet = if layout == Layout::Terminal { "  - " } else { "- " };
            let _ = writeln!(text, "{bullet}{line}");
        }
        text.push('\n');
    }
    text
}
