//! Columns padded with blanks, for people.

use std::io::{self, Write};

use super::console::printable;

/// What stands for nothing.
const ABSENT: &str = "-";
/// Between two columns.
const GAP: &str = "  ";

/// Rows of cells, written as columns that are as wide as their widest cell. A column's width counts
/// characters, which is right for Latin script; wider ones only misalign.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose first row is a header.
    pub(super) fn with_header(header: &[&str]) -> Self {
        let header = header.iter().map(|name| name.to_uppercase()).collect();
        Self { rows: vec![header] }
    }

    /// Adds a row. An empty cell is shown as `-`.
    pub(super) fn push<const N: usize>(&mut self, cells: [&str; N]) {
        let cells = cells.into_iter().map(|cell| match cell {
            "" => ABSENT.to_owned(),
            cell => printable(cell),
        });
        self.rows.push(cells.collect());
    }

    /// Writes all rows, without blanks at the end of a line.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let padded = cells.map(|(cell, &width)| format!("{cell:width$}"));
            let line = padded.collect::<Vec<_>>().join(GAP);
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out).expect("a buffer takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::with_header(&["organization", "state", "name"]);
        table.push(["a", "active", "Zoë"]);
        table.push(["contoso-and-sons", "", ""]);
        assert_eq!(
            written(&table),
            "ORGANIZATION      STATE   NAME\n\
             a                 active  Zoë\n\
             contoso-and-sons  -       -\n"
        );
    }

    #[test]
    fn width_counts_characters_and_not_bytes() {
        let mut table = Table::default();
        table.push(["ööö", "x"]);
        table.push(["oooo", "x"]);
        assert_eq!(written(&table), "ööö   x\noooo  x\n");
    }

    #[test]
    fn a_cell_cannot_break_its_line() {
        let mut table = Table::default();
        table.push(["a\nb", "c"]);
        assert_eq!(written(&table), "a\\nb  c\n");
    }
}
