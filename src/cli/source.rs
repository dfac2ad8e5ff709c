//! Where a secret is read from: a file or standard input, never a flag.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    mem,
    path::PathBuf,
};

use zeroize::{Zeroize as _, Zeroizing};

use super::error::Error;

/// What the broker accepts at most, in bytes.
const SIZE_MAX: usize = 64 * 1024;

/// Where a secret is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Standard input, typed as `-`.
    Input,
    /// A file.
    File(PathBuf),
}

impl Source {
    /// Reads text for the given option, without the line end that editors and `echo` put after it.
    pub(super) fn read_text(
        &self,
        option: &str,
        input: &mut dyn Read,
    ) -> Result<Zeroizing<String>, Error> {
        let mut bytes = self.read(option, input)?;
        // Takes the buffer over instead of copying it: there is only one to wipe.
        let text = String::from_utf8(mem::take(&mut *bytes)).map_err(|error| {
            error.into_bytes().zeroize();
            Error::input(format!("`{option}` must name a file of UTF-8 text"))
        })?;
        let mut text = Zeroizing::new(text);
        let end = text
            .strip_suffix("\r\n")
            .or_else(|| text.strip_suffix('\n'));
        if let Some(length) = end.map(str::len) {
            text.truncate(length);
        }
        if text.is_empty() {
            return Err(empty(option));
        }
        Ok(text)
    }

    /// Reads bytes as they are for the given option.
    pub(super) fn read(
        &self,
        option: &str,
        input: &mut dyn Read,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let bytes = match self {
            Self::Input => read_limited(input),
            Self::File(path) => File::open(path).and_then(|mut file| read_limited(&mut file)),
        };
        // The path is not repeated: whoever misunderstands the option types the secret there.
        let bytes = bytes.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename => Error::input(format!(
                "there is no file that `{option}` names; it takes the path of a file, or `-` for \
                 standard input, and never the secret itself"
            )),
            _ => Error::input(format!("cannot read what `{option}` names: {cause}")),
        })?;
        match bytes.len() {
            0 => Err(empty(option)),
            1..=SIZE_MAX => Ok(bytes),
            _ => Err(Error::input(format!(
                "what `{option}` names is larger than {} KiB",
                SIZE_MAX / 1024
            ))),
        }
    }
}

impl From<OsString> for Source {
    fn from(value: OsString) -> Self {
        match value.to_str() {
            Some("-") => Self::Input,
            _ => Self::File(value.into()),
        }
    }
}

/// Reads at most one byte more than [`SIZE_MAX`], into one buffer that is large enough from the
/// start: growing it would leave copies of the secret behind.
fn read_limited(reader: &mut dyn Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; SIZE_MAX + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match reader.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn empty(option: &str) -> Error {
    Error::input(format!("what `{option}` names is empty"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads text from standard input.
    fn text(content: &[u8]) -> Result<String, Error> {
        let text = Source::Input.read_text("--secret-file", &mut &*content)?;
        Ok(text.as_str().to_owned())
    }

    #[test]
    fn one_line_end_is_taken_off() {
        assert_eq!(text(b"secret").expect("text"), "secret");
        assert_eq!(text(b"secret\n").expect("text"), "secret");
        assert_eq!(text(b"secret\r\n").expect("text"), "secret");
        assert_eq!(text(b"secret\n\n").expect("text"), "secret\n");
    }

    #[test]
    fn nothing_and_too_much_and_no_text_are_refused() {
        for (content, wanted) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (&[b'x'; SIZE_MAX + 1], "larger than 64 KiB"),
            (b"\xff\xfes\0", "UTF-8"),
        ] {
            let error = text(content).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(text(&[b'x'; SIZE_MAX]).expect("text").len(), SIZE_MAX);
    }

    #[test]
    fn a_secret_typed_in_place_of_a_path_is_not_repeated() {
        for typed in ["canary".to_owned(), "canary".repeat(1000)] {
            let source = Source::from(OsString::from(typed));
            let error = source.read_text("--secret-file", &mut io::empty());
            let error = error.expect_err("no such file").to_string();
            assert!(error.contains("never the secret itself"), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn files_are_read_and_a_dash_is_standard_input() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(&file, [0xff, b'\n']).expect("a writable file");
        let source = Source::from(OsString::from(file.path()));
        let bytes = source.read("--pfx-file", &mut io::empty());
        assert_eq!(bytes.expect("a file").as_slice(), [0xff, b'\n']);
        assert_eq!(Source::from(OsString::from("-")), Source::Input);
    }
}
