//! Bytes as hex digits.

use std::fmt;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Bytes as lower-case hex digits.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not digit by digit: the formatter is many times slower than this.
        let mut text = [0; 64];
        self.0
            .chunks(32)
            .try_for_each(|bytes| f.write_str(digits(bytes, &mut text)))
    }
}

/// Writes at most 32 bytes as lower-case hex digits into `text`, and gives what was written.
#[must_use]
pub fn digits<'a>(bytes: &[u8], text: &'a mut [u8; 64]) -> &'a str {
    let (pairs, _) = text.as_chunks_mut::<2>();
    for (byte, pair) in bytes.iter().zip(pairs) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
    let written = bytes.len().min(32) * 2;
    std::str::from_utf8(&text[..written]).expect("hex digits are ASCII")
}

/// So many bytes of twice as many hex digits, `None` for any other text.
#[must_use]
pub fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
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
    fn every_byte_is_two_digits_however_many_there_are() {
        let bytes: Vec<u8> = (0..=255).collect();
        let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for length in [0, 1, 31, 32, 33, 64, 256] {
            assert_eq!(Hex(&bytes[..length]).to_string(), expected[..2 * length]);
        }
    }

    #[test]
    fn digits_come_back_as_the_bytes_they_were() {
        let bytes: [u8; 32] = std::array::from_fn(|at| (at as u8).wrapping_mul(9));
        let text = Hex(&bytes).to_string();
        assert_eq!(parse(&text), Some(bytes));
        assert_eq!(parse(&text.to_uppercase()), Some(bytes));
        for bad in [&text[1..], &text.replace('9', "g"), &format!("{text}0"), ""] {
            assert_eq!(parse::<32>(bad), None, "{bad}");
        }
    }
}
