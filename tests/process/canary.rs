//! Values that must not turn up where the broker writes, and the search for them in every form that
//! software is likely to give them.

use std::collections::BTreeSet;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};

/// Shorter forms would be found by chance.
const FORM_BYTES_MIN: usize = 12;
/// A piece of a key: fits into one line of PEM wherever it begins.
const PIECE_BYTES: usize = 20;

/// Everything to look for.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    /// Each with what it is, so that a failure does not print it.
    values: Vec<(String, Vec<u8>)>,
}

/// All forms of all values, by the first two bytes.
pub(crate) struct Search {
    forms: Vec<(String, Vec<u8>)>,
    by_start: Vec<Vec<u32>>,
}

impl Canaries {
    pub(crate) fn add(&mut self, what: &str, value: impl AsRef<[u8]>) {
        self.values
            .push((what.to_owned(), value.as_ref().to_owned()));
    }

    /// Adds a private key by pieces. The beginning is left out: an RSA key begins with what its
    /// certificate shows to everybody.
    pub(crate) fn add_key(&mut self, what: &str, der: &[u8]) {
        let secret = &der[der.len() / 3..];
        for (number, piece) in secret.chunks_exact(PIECE_BYTES).enumerate() {
            self.add(&format!("{what}, piece {number}"), piece);
        }
    }

    /// Adds a token: the whole, and its signature, which alone makes it one.
    pub(crate) fn add_token(&mut self, what: &str, token: &str) {
        self.add(what, token);
        let signature = token.rsplit('.').next().unwrap_or_default();
        self.add(&format!("{what}, signature"), signature);
    }

    pub(crate) fn search(&self) -> Search {
        let mut search = Search {
            forms: Vec::new(),
            by_start: vec![Vec::new(); 1 << 16],
        };
        for (what, value) in &self.values {
            let forms = forms(value);
            assert!(!forms.is_empty(), "{what} is too short to look for");
            for (form, bytes) in forms {
                let number = u32::try_from(search.forms.len()).expect("some thousands");
                search.by_start[start(&bytes)].push(number);
                search.forms.push((format!("{what} ({form})"), bytes));
            }
        }
        search
    }
}

impl Search {
    /// What of the values is in the content, and in which form.
    pub(crate) fn find(&self, content: &[u8]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        for at in 0..content.len().saturating_sub(1) {
            for &number in &self.by_start[start(&content[at..])] {
                let (what, form) = &self.forms[number as usize];
                if content[at..].starts_with(form) {
                    found.insert(what.as_str());
                }
            }
        }
        found
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// The value as it may be written, with the name of the form.
fn forms(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |byte: &u8| format!("{byte:02x}");
    let lower: String = value.iter().map(hex).collect();
    let list: Vec<_> = value.iter().map(u8::to_string).collect();
    let wide: Vec<_> = value.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut forms = vec![
        ("raw", value.to_owned()),
        // A number of a key, as arithmetic on this machine has it.
        ("reversed", value.iter().rev().copied().collect()),
        ("hex", lower.clone().into_bytes()),
        ("HEX", lower.to_uppercase().into_bytes()),
        ("decimal list", list.join(", ").into_bytes()),
        ("escaped", value.escape_ascii().to_string().into_bytes()),
        ("UTF-16", wide),
        ("percent", percent(value, "%20", false).into_bytes()),
        (
            "percent, lower case",
            percent(value, "%20", true).into_bytes(),
        ),
        ("form", percent(value, "+", false).into_bytes()),
    ];
    if let Ok(text) = str::from_utf8(value) {
        let json = serde_json::to_string(text).expect("a text is JSON");
        forms.push(("JSON", json[1..json.len() - 1].into()));
    }
    for shift in 0..3 {
        let shifted = [vec![0; shift], value.to_owned()].concat();
        for (name, encoded) in [
            ("base64", BASE64_STANDARD_NO_PAD.encode(&shifted)),
            ("base64url", BASE64_URL_SAFE_NO_PAD.encode(&shifted)),
        ] {
            // Signs that also depend on what stands before or behind are left out.
            let begin = (shift * 8).div_ceil(6);
            let end = shifted.len() * 8 / 6;
            forms.push((name, encoded.as_bytes()[begin..end].to_owned()));
        }
    }
    forms.retain(|(_, bytes)| bytes.len() >= FORM_BYTES_MIN);
    forms
}

fn percent(value: &[u8], space: &str, lower: bool) -> String {
    let mut encoded = String::new();
    for byte in value {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(*byte));
            }
            b' ' => encoded.push_str(space),
            _ if lower => encoded.push_str(&format!("%{byte:02x}")),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Whether there is something that looks like a signed JWT: a token or an assertion that no test
/// knows of.
pub(crate) fn has_jwt(content: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    content.windows(3).enumerate().any(|(at, start)| {
        // `{"` in base64.
        start == b"eyJ" && {
            let rest = &content[at..];
            let header = rest.iter().take_while(|byte| is_part(byte)).count();
            header > 10 && rest[header..].starts_with(b".eyJ")
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::site::files_below;

    #[test]
    fn each_form_is_found_in_a_file_wherever_it_begins() {
        let mut canaries = Canaries::default();
        let value = b"s+/=&% ~\"\\0123456789abcdef";
        canaries.add("it", value);
        canaries.add("bytes", [0xff, 0x00, 0x80].repeat(7));
        let search = canaries.search();
        assert!(search.forms.len() > 25);
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (number, (_, form)) in search.forms.iter().enumerate() {
            let below = folder.path().join(number.to_string());
            fs::create_dir(&below).expect("a writable folder");
            let content = [b"before ".as_slice(), form, b" after"].concat();
            fs::write(below.join("file"), content).expect("a writable folder");
        }
        let files = files_below(folder.path());
        assert_eq!(files.len(), search.forms.len());
        for (path, content) in files {
            assert!(!search.find(&content).is_empty(), "{}", path.display());
        }
    }

    #[test]
    fn base64_is_found_at_each_of_its_alignments() {
        let mut canaries = Canaries::default();
        canaries.add("it", "a secret of some length");
        let search = canaries.search();
        for before in 0..6 {
            for after in 0..6 {
                let text = format!("{:before$}a secret of some length{:after$}", "", "");
                for encoded in [
                    BASE64_STANDARD_NO_PAD.encode(&text),
                    BASE64_URL_SAFE_NO_PAD.encode(&text),
                ] {
                    assert!(
                        !search.find(encoded.as_bytes()).is_empty(),
                        "{before} {after}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let mut canaries = Canaries::default();
        canaries.add("it", "a secret of some length");
        let search = canaries.search();
        for content in ["", "a", "a secret of some lengt", "A secret of some length"] {
            assert!(search.find(content.as_bytes()).is_empty(), "{content}");
        }
    }

    #[test]
    fn a_jwt_is_recognized() {
        assert!(has_jwt(b"x eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4In0.sig"));
        assert!(!has_jwt(b"eyJhbGciOiJub25lIn0 .eyJ"));
        assert!(!has_jwt(b"eyJ.eyJ"));
    }
}
