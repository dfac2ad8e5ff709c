//! Bytes as hex digits.

use std::fmt;

/// Bytes as lower-case hex digits.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The 32 bytes of 64 hex digits, `None` for any other text.
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_back_as_the_bytes_they_were() {
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8 * 9);
        let text = Hex(&bytes).to_string();
        assert_eq!(parse(&text), Some(bytes));
        assert_eq!(parse(&text.to_uppercase()), Some(bytes));
        for bad in [&text[1..], &text.replace('9', "g"), &format!("{text}0"), ""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
