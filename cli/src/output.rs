//! What is printed: tables for people, as wide as the terminal; JSON or YAML for programs. Results go to standard
//! output, everything else to standard error.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Row, Table, presets};
use serde::Serialize;

use crate::{
    args::{Format, Global},
    failure::Failure,
};

/// Where and how a command prints.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    /// Columns of the terminal; `None`: not a terminal, nothing is wrapped.
    width: Option<u16>,
    colour: bool,
    colour_errors: bool,
    /// Once the reader is gone, nothing more is written.
    closed: AtomicBool,
}

/// The few colours that are used, and what for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    /// Headings.
    Bold,
    /// Kept promises.
    Green,
    /// Errors.
    Red,
    /// Warnings.
    Yellow,
    /// What may be skipped.
    Dim,
}

impl Output {
    /// Looks at the terminal and at `NO_COLOR` (<https://no-color.org>) once.
    pub(crate) fn new(global: &Global) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| size.ws_col)
            .filter(|columns| *columns >= 20);
        Self {
            format: global.format,
            width,
            colour: allowed && terminal,
            colour_errors: allowed && io::stderr().is_terminal(),
            closed: AtomicBool::new(false),
        }
    }

    /// For a process whose output is not for people.
    pub(crate) fn plain() -> Self {
        Self {
            format: Format::Table,
            width: None,
            colour: false,
            colour_errors: false,
            closed: AtomicBool::new(false),
        }
    }

    /// The form that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints a result: `value` for programs, `people` for people.
    ///
    /// # Errors
    /// [`Failure::Closed`] when the reader went away.
    pub(crate) fn result<T: Serialize>(
        &self,
        value: &T,
        people: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.print(people().trim_end_matches('\n')),
            Format::Json | Format::Yaml => self.print(&self.render(value)?),
        }
    }

    /// Prints one result of several for programs: JSON documents one after the other, YAML ones with a line between.
    ///
    /// # Errors
    /// [`Failure::Closed`] when the reader went away.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = self.render(value)?;
        self.print(&if self.format == Format::Yaml { format!("---\n{text}") } else { text })
    }

    fn render<T: Serialize>(&self, value: &T) -> Result<String, Failure> {
        let mut text = match self.format {
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|error| Failure::io("cannot render YAML", io::Error::other(error.to_string())))?,
            Format::Table | Format::Json => serde_json::to_string_pretty(value)
                .map_err(|error| Failure::io("cannot render JSON", error.into()))?,
        };
        text.truncate(text.trim_end_matches('\n').len());
        Ok(text)
    }

    /// Prints lines to standard output.
    ///
    /// # Errors
    /// [`Failure::Closed`] when the reader went away.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Failure::Closed);
        }
        let mut stdout = io::stdout().lock();
        let written = if text.is_empty() { Ok(()) } else { writeln!(stdout, "{text}") };
        match written.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Err(Failure::Closed)
            }
            Err(error) => Err(Failure::io("cannot write the output", error)),
            Ok(()) => Ok(()),
        }
    }

    /// Says something beside the result, on standard error.
    pub(crate) fn note(&self, text: &str) {
        // When even standard error is gone there is nobody left to tell.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// Explains why the command failed, on standard error.
    pub(crate) fn failure(&self, failure: &Failure) {
        if matches!(failure, Failure::Closed | Failure::Different | Failure::Passed(_)) {
            return;
        }
        let label = paint(self.colour_errors, Colour::Red, "error:");
        self.note(&format!("{label} {failure}"));
        for line in failure.details() {
            self.note(&format!("  {line}"));
        }
        if !failure.remedy().is_empty() {
            let label = paint(self.colour_errors, Colour::Yellow, "help:");
            self.note(&format!("{label} {}", failure.remedy()));
        }
    }

    /// Prints a warning on standard error.
    pub(crate) fn warning(&self, text: &str) {
        let label = paint(self.colour_errors, Colour::Yellow, "warning:");
        self.note(&format!("{label} {text}"));
    }

    /// `text` in `colour`, where colours are wanted.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        paint(self.colour, colour, text)
    }

    /// Whether `text` can be printed without being wrapped.
    pub(crate) fn fits(&self, text: &str) -> bool {
        self.width.is_none_or(|width| text.lines().all(|line| line.chars().count() <= usize::from(width)))
    }

    /// `parts` after `lead`, with commas; as many lines as they need, those after the first indented.
    pub(crate) fn list(&self, lead: &str, parts: &[String]) -> String {
        const INDENT: &str = "      ";
        let width = self.width.map_or(usize::MAX, usize::from);
        let mut lines = vec![lead.to_owned()];
        for (index, part) in parts.iter().enumerate() {
            let comma = if index + 1 < parts.len() { "," } else { "" };
            let room =
                lines.last().is_some_and(|line| line.chars().count() + part.chars().count() + 2 <= width);
            match lines.last_mut() {
                Some(line) if room => line.push_str(&format!(" {part}{comma}")),
                _ => lines.push(format!("{INDENT}{part}{comma}")),
            }
        }
        lines.join("\n")
    }

    /// A table as wide as it likes to be.
    pub(crate) fn wide_table(&self, header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
        self.lay_out(None, header, rows, right)
    }

    /// A table; columns whose index is in `right` hold numbers.
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
        self.lay_out(self.width, header, rows, right)
    }

    fn lay_out(
        &self,
        width: Option<u16>,
        header: &[&str],
        rows: Vec<Vec<String>>,
        right: &[usize],
    ) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header(Row::from(header.iter().map(Cell::new).collect::<Vec<_>>()));
        for row in rows {
            table.add_row(row);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut lines = table.lines().map(|line| line.trim_end().to_owned());
        let head = lines.next().map(|line| self.paint(Colour::Bold, &line)).unwrap_or_default();
        std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

/// A text that is drawn again and again: on a terminal in the same place, elsewhere one below the other.
#[derive(Debug)]
pub(crate) struct Screen<'a> {
    output: &'a Output,
    /// Lines of the last one.
    drawn: usize,
}

impl<'a> Screen<'a> {
    /// Draws from where the output is now.
    pub(crate) fn new(output: &'a Output) -> Self {
        Self { output, drawn: 0 }
    }

    /// Draws `text` in the place of the last one, after an empty line.
    ///
    /// # Errors
    /// [`Failure::Closed`] when the reader went away.
    pub(crate) fn draw(&mut self, text: &str) -> Result<(), Failure> {
        let mut lines = format!("\n{text}");
        if self.output.width.is_some() {
            // Up over the last one, and clear from there.
            if self.drawn > 0 {
                lines = format!("\x1b[{}A\x1b[0J{lines}", self.drawn);
            }
            self.drawn = lines.lines().count();
        }
        self.output.print(&lines)
    }
}

fn paint(wanted: bool, colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Bold => "1",
        Colour::Green => "32",
        Colour::Red => "1;31",
        Colour::Yellow => "33",
        Colour::Dim => "2",
    };
    if wanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::Output;

    fn output(width: Option<u16>) -> Output {
        Output { width, ..Output::plain() }
    }

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec!["price".to_owned(), "7".to_owned()],
            vec!["a rather long name of a thing".to_owned(), "1234".to_owned()],
        ]
    }

    #[test]
    fn a_table_has_no_frame_and_aligns_numbers() {
        assert_eq!(
            output(None).table(&["NAME", "COUNT"], rows(), &[1]),
            "NAME                           COUNT\n\
             price                              7\n\
             a rather long name of a thing   1234"
        );
    }

    #[test]
    fn a_list_goes_on_in_the_next_line() {
        let parts: Vec<String> = (1..=4).map(|number| format!("part {number}")).collect();
        assert_eq!(output(None).list("all:", &parts), "all: part 1, part 2, part 3, part 4");
        let list = output(Some(22)).list("all:", &parts);
        assert_eq!(list, "all: part 1, part 2,\n      part 3, part 4");
        assert!(output(Some(22)).fits(&list) && !output(Some(20)).fits("all: part 1, part 2, x"));
    }

    #[test]
    fn a_table_is_no_wider_than_the_terminal() {
        let table = output(Some(24)).table(&["NAME", "COUNT"], rows(), &[1]);
        assert!(table.lines().all(|line| line.chars().count() <= 24), "{table}");
        assert!(table.lines().count() > 3);
    }
}
