//! The only writer of standard output and standard error.
//!
//! It chooses between JSON and text and detects terminals: colours are sent only to a terminal. A closed pipe ends a
//! command without an error message.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{
    Attribute, Cell as TableCell, Color, ColumnConstraint, ContentArrangement, Table, presets,
};
use serde::Serialize;

use super::failure::Failure;
use crate::domain::text::{Layout, terminal_safe};

/// Spaces between two columns of a table.
const GAP: u16 = 2;

/// If fewer characters than this are left for the last column of a table, its cells are printed below their rows.
const LAST_COLUMN_MIN: u16 = 24;

/// Meaning of a text, from which its colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Neutral: no colour.
    Plain,
    /// In the desired state: green.
    Good,
    /// Needs attention: yellow.
    Warn,
    /// Broken: red.
    Bad,
    /// Less important: dimmed.
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
    /// A cell with a tone.
    pub(super) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

/// Standard output, with the format that was chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, colour: wants_colour() }
    }

    /// Whether results are printed as JSON.
    pub(super) fn json(self) -> bool {
        self.json
    }

    /// Prints a value as indented JSON.
    pub(super) fn value(self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?)
    }

    /// Prints a value as JSON on one line, for streams.
    pub(super) fn value_line(self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&serde_json::to_string(value).map_err(anyhow::Error::from)?)
    }

    #[expect(clippy::unused_self, reason = "only owners of an `Output` may write")]
    pub(super) fn line(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(unwritten)
    }

    /// Writes the bytes of another program unchanged.
    #[expect(clippy::unused_self, reason = "only owners of an `Output` may write")]
    pub(super) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(unwritten)
    }

    /// Adds the escape sequences of the tone to the text if colours are enabled.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        match tone.codes().filter(|_| self.colour) {
            Some(codes) => format!("\x1b[{codes}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// Prints a table without borders, like `ls -l`. Columns that are empty in every row are left out.
    ///
    /// The last column contains sentences. On a terminal it is wrapped within the column, or printed on a line below
    /// the row if too little width is left.
    pub(super) fn table<const N: usize>(self, head: [&str; N], rows: Vec<[Cell; N]>) -> Result<(), Failure> {
        let head = head.map(|title| Cell::toned(Tone::Dim, title));
        let mut rows: Vec<Vec<Cell>> = drop_empty_columns(head, rows);
        let table = self.lay_out(&rows);
        let width = terminal_width().unwrap_or(u16::MAX);
        let lines = match room_for_last_column(&table, width) {
            Some(room) if room < LAST_COLUMN_MIN => {
                let last: Vec<_> = rows.iter_mut().filter_map(Vec::pop).collect();
                self.with_lines_below(lines(&self.lay_out(&rows)), &last)
            }
            _ => lines(&wrapped(table, width)),
        };
        self.line(&lines.join("\n"))
    }

    fn lay_out(self, rows: &[Vec<Cell>]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.style_text_only();
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for row in rows {
            table.add_row(row.iter().map(table_cell));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        table
    }

    /// Inserts each cell of the moved last column below its row. `rows` has one line for each row and begins with the
    /// table's head; the head of the moved column is left out.
    fn with_lines_below(self, rows: Vec<String>, below: &[Cell]) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, (row, cell)) in rows.into_iter().zip(below).enumerate() {
            lines.push(row);
            if index > 0 && !cell.text.is_empty() {
                lines.push(format!(
                    "      {}",
                    self.paint(cell.tone, &terminal_safe(&cell.text, Layout::Line))
                ));
            }
        }
        lines
    }
}

/// Returns the head and the rows without the columns that are empty in every row.
fn drop_empty_columns<const N: usize>(head: [Cell; N], rows: Vec<[Cell; N]>) -> Vec<Vec<Cell>> {
    let mut used = [false; N];
    for row in &rows {
        for (used, cell) in used.iter_mut().zip(row) {
            *used |= !cell.text.is_empty();
        }
    }
    let kept =
        |row: [Cell; N]| row.into_iter().zip(used).filter(|(_, used)| *used).map(|(cell, _)| cell).collect();
    [head].into_iter().chain(rows).map(kept).collect()
}

/// The width that the other columns leave for the last column; `None` if the last column fits without wrapping.
fn room_for_last_column(table: &Table, width: u16) -> Option<u16> {
    let widths = table.column_max_content_widths();
    let (last, others) = widths.split_last()?;
    let taken: u16 = others.iter().map(|column| column + GAP).sum();
    (taken.saturating_add(*last) > width).then(|| width.saturating_sub(taken))
}

fn wrapped(mut table: Table, width: u16) -> Table {
    let last = table.column_count().saturating_sub(1);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    for column in table.column_iter_mut().take(last) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

fn lines(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn terminal_width() -> Option<u16> {
    let stdout = rustix::stdio::stdout();
    let columns = rustix::termios::tcgetwinsize(stdout).ok()?.ws_col;
    (columns > 0).then_some(columns)
}

fn table_cell(cell: &Cell) -> TableCell {
    let styled = TableCell::new(terminal_safe(&cell.text, Layout::Line));
    match cell.tone {
        Tone::Plain => styled,
        Tone::Good => styled.fg(Color::DarkGreen),
        Tone::Warn => styled.fg(Color::DarkYellow),
        Tone::Bad => styled.fg(Color::DarkRed),
        Tone::Dim => styled.add_attribute(Attribute::Dim),
    }
}

/// Whether to use colours. As <https://no-color.org> specifies, any non-empty value of `NO_COLOR` disables them.
fn wants_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !refused && !dumb
}

/// Converts an error of writing to standard output.
fn unwritten(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::StdoutClosed;
    }
    Failure::from(anyhow::Error::new(error).context("standard output cannot be written"))
}

impl Failure {
    /// Prints the failure with all its causes on standard error and returns the exit code.
    #[must_use]
    pub fn report(&self) -> u8 {
        match self {
            Self::Reported { exit, error, next } => {
                let causes = error.chain().skip(1).map(|cause| format!("  caused by: {cause}"));
                let next = next.iter().map(|next| format!("  next: {next}"));
                let lines: Vec<_> =
                    [format!("error: {error}")].into_iter().chain(causes).chain(next).collect();
                note(&lines.join("\n"));
                *exit as u8
            }
            Self::StdoutClosed => 0,
            Self::Interrupted => 130,
        }
    }
}

/// Prints a line on standard error. Errors are ignored: there is no other stream to report them on.
pub fn note(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Writes the bytes of another program to standard error unchanged.
pub(super) fn error_bytes(bytes: &[u8]) {
    drop(io::stderr().write_all(bytes));
}

/// Asks a question on the terminal. Any answer but `y` or `yes` means no.
pub(super) fn confirm(question: &str) -> bool {
    drop(write!(io::stderr(), "{question} [y/N] "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
