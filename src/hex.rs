//! Bytes as hex digits.

use std::fmt;

/// Bytes as lower-case hex digits.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Bytes that are written at a time: a digest is one piece.
const PIECE_BYTES: usize = 32;

impl fmt::Display for Hex<'_> {
    /// Without `{:02x}` for each byte, which alone took a third of a warm `GetToken`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chunks(PIECE_BYTES).try_for_each(|piece| {
            let mut digits = [0; 2 * PIECE_BYTES];
            for (pair, byte) in digits.chunks_exact_mut(2).zip(piece) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 0xf)];
            }
            let digits = &digits[..2 * piece.len()];
            f.write_str(str::from_utf8(digits).expect("digits are ASCII"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_two_lower_case_digits() {
        let bytes: Vec<u8> = (0..=255).collect();
        let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for length in [0, 1, 31, 32, 33, 64, 255, 256] {
            assert_eq!(Hex(&bytes[..length]).to_string(), expected[..2 * length]);
        }
    }
}
