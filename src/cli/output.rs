//! The only writer of standard output and standard error.
//!
//! One place decides between JSON and text, and between a terminal and a pipe: colour and spinners only
//! ever reach a person. A closed pipe ends a command quietly.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell as TableCell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::{self, Failure};

/// How something is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Without remark.
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
    /// Of little weight.
    Dim,
}

impl Tone {
    fn codes(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("2"),
        }
    }
}

/// One cell of a table.
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell that stands out.
    pub(super) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, colour: wants_colour() }
    }

    /// Whether answers go out as JSON.
    pub(super) fn json(self) -> bool {
        self.json
    }

    /// A value of the contract.
    pub(super) fn value(self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?)
    }

    /// A value of the contract on one line, for streams.
    pub(super) fn value_line(self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&serde_json::to_string(value).map_err(anyhow::Error::from)?)
    }

    #[expect(clippy::unused_self, reason = "whoever writes holds the output")]
    pub(super) fn line(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(failure::stdout)
    }

    /// Bytes of somebody else's, as they are.
    #[expect(clippy::unused_self, reason = "whoever writes holds the output")]
    pub(super) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(failure::stdout)
    }

    /// The text in its tone, where there is colour.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        match tone.codes().filter(|_| self.colour) {
            Some(codes) => format!("\x1b[{codes}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// Columns without lines, as `ls -l` has them. Columns in which no row has anything are left out.
    pub(super) fn table<const N: usize>(self, head: [&str; N], rows: Vec<[Cell; N]>) -> Result<(), Failure> {
        let mut used = head.map(|_| false);
        for row in &rows {
            for (used, cell) in used.iter_mut().zip(row) {
                *used |= !cell.text.is_empty();
            }
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let kept = |cells: Vec<TableCell>| {
            cells.into_iter().zip(used).filter(|(_, used)| *used).map(|(cell, _)| cell)
        };
        table.set_header(kept(head.map(|title| TableCell::new(title).add_attribute(Attribute::Dim)).into()));
        for row in rows {
            table.add_row(kept(row.map(table_cell).into()));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        self.line(&text)
    }
}

fn table_cell(cell: Cell) -> TableCell {
    let styled = TableCell::new(cell.text);
    match cell.tone {
        Tone::Plain => styled,
        Tone::Good => styled.fg(Color::DarkGreen),
        Tone::Warn => styled.fg(Color::DarkYellow),
        Tone::Bad => styled.fg(Color::DarkRed),
        Tone::Dim => styled.add_attribute(Attribute::Dim),
    }
}

/// <https://no-color.org>: any value that is not empty.
fn wants_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !refused && !dumb
}

/// A line beside the answer, on standard error. Nobody can be told when that is closed too.
pub fn note(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Bytes of somebody else's for standard error.
pub(super) fn error_bytes(bytes: &[u8]) {
    drop(io::stderr().write_all(bytes));
}

/// Asks on the terminal; anything but a yes is a no.
pub(super) fn confirm(question: &str) -> bool {
    drop(write!(io::stderr(), "{question} [y/N] "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
