//! Where a command reads and writes.

use std::{
    fmt,
    io::{Read, Write},
};

use serde::Serialize;

use super::error::Error;

/// Where a command reads and writes. The process hands in its standard streams, a test its buffers.
pub struct Console<'a> {
    /// Standard input: read only where a file option is `-`.
    pub input: &'a mut dyn Read,
    /// Standard output: results.
    pub out: &'a mut dyn Write,
    /// Standard error: errors, warnings and notes.
    pub err: &'a mut dyn Write,
}

impl Console<'_> {
    /// Writes a result as JSON and a line end.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer_pretty(&mut *self.out, value)
            .map_err(|cause| Error::Io(cause.into()))?;
        writeln!(self.out).map_err(Error::Io)
    }

    /// Writes one of several results for people, and lets it be seen at once.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.out, "{}", printable(line))
            .and_then(|()| self.out.flush())
            .map_err(Error::Io)
    }

    /// Writes one of several results as JSON on a line of its own, and lets it be seen at once.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer(&mut *self.out, value).map_err(|cause| Error::Io(cause.into()))?;
        writeln!(self.out)
            .and_then(|()| self.out.flush())
            .map_err(Error::Io)
    }

    /// Writes a line that is not part of the result, after its kind: `warning` or `note`.
    pub(super) fn remark(&mut self, kind: &str, message: &str) -> Result<(), Error> {
        writeln!(self.err, "{kind}: {}", printable(message)).map_err(Error::Io)
    }
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// The text with control characters escaped: what comes from elsewhere must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("Zoë\u{1b}[31m\n"), "Zoë\\u{1b}[31m\\n");
    }
}
