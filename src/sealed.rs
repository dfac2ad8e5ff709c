//! The one authenticated encryption of the crate, used for records and for wrapped keys.
//!
//! Each sealing draws 32 random bytes `r` and derives 64 bytes with HKDF-SHA-256 (RFC 5869; salt
//! `r`, info = label and associated data): a single-use AES-256-GCM key and a key commitment. The
//! commitment is checked first, because GCM alone does not commit to its key: a text could be made
//! that opens under two. Callers neither choose nor see nonces.
//!
//! Layout: `r (32) | commitment (32) | nonce (12) | ciphertext | tag (16)`.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    constant_time, hkdf, rand,
};
use zeroize::Zeroizing;

use crate::secret::SymmetricKey;

/// What sealing adds to a plaintext, in bytes.
pub const OVERHEAD: usize = RANDOM + COMMITMENT + NONCE_LEN + TAG;

const RANDOM: usize = 32;
const COMMITMENT: usize = 32;
const TAG: usize = 16;
/// Keeps these keys apart from any other use of the same input key.
const LABEL: &[u8] = b"kodo-broker sealed 1";

/// The text was not sealed under this key and these associated data, or was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("does not open: wrong key, wrong place, or changed since it was written")]
pub struct DoesNotOpen;

/// The random generator or the cipher of the cryptographic library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct CryptoFailed;

/// Seals a text under a key. It opens only with equal associated data.
///
/// # Errors
/// [`CryptoFailed`] if there are no random bytes.
pub fn seal(key: &SymmetricKey, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoFailed> {
    let mut random = [0; RANDOM];
    rand::fill(&mut random).map_err(|_| CryptoFailed)?;
    let (cipher, commitment) = derive(key, &random, aad).ok_or(CryptoFailed)?;
    let mut text = Vec::with_capacity(plaintext.len() + TAG);
    text.extend_from_slice(plaintext);
    let nonce = cipher
        .seal_in_place_append_tag(Aad::from(aad), &mut text)
        .map_err(|_| CryptoFailed)?;
    Ok([&random, commitment.as_slice(), nonce.as_ref(), &text].concat())
}

/// Opens a sealed text.
///
/// # Errors
/// [`DoesNotOpen`] if a single bit of text, key or associated data differs.
pub fn open(
    key: &SymmetricKey,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
    let (random, rest) = sealed.split_at_checked(RANDOM).ok_or(DoesNotOpen)?;
    let (committed, rest) = rest.split_at_checked(COMMITMENT).ok_or(DoesNotOpen)?;
    let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or(DoesNotOpen)?;
    let (cipher, commitment) = derive(key, random, aad).ok_or(DoesNotOpen)?;
    constant_time::verify_slices_are_equal(committed, commitment.as_slice())
        .map_err(|_| DoesNotOpen)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| DoesNotOpen)?;
    let mut text = Zeroizing::new(text.to_vec());
    let opened = cipher
        .open_in_place(nonce, Aad::from(aad), &mut text)
        .map_err(|_| DoesNotOpen)?;
    let length = opened.len();
    text.truncate(length);
    Ok(text)
}

/// A key derived from `key` for one purpose. `None` only if the library fails.
#[must_use]
pub fn derive_key(key: &SymmetricKey, purpose: &'static [u8]) -> Option<SymmetricKey> {
    let mut derived = vec![0; SymmetricKey::LENGTH];
    // Exposed: a key can only be derived from its bytes.
    hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL)
        .extract(key.expose())
        .expand(&[purpose], Length(SymmetricKey::LENGTH))
        .and_then(|okm| okm.fill(&mut derived))
        .ok()?;
    SymmetricKey::new(derived)
}

/// A fresh random key. `None` only if there are no random bytes.
#[must_use]
pub fn random_key() -> Option<SymmetricKey> {
    let mut bytes = vec![0; SymmetricKey::LENGTH];
    rand::fill(&mut bytes).ok()?;
    SymmetricKey::new(bytes)
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(
    key: &SymmetricKey,
    random: &[u8],
    aad: &[u8],
) -> Option<(RandomizedNonceKey, Zeroizing<[u8; COMMITMENT]>)> {
    let mut derived = Zeroizing::new([0; SymmetricKey::LENGTH + COMMITMENT]);
    // Exposed: the single-use key is derived from the key's bytes.
    hkdf::Salt::new(hkdf::HKDF_SHA256, random)
        .extract(key.expose())
        .expand(&[LABEL, aad], Length(SymmetricKey::LENGTH + COMMITMENT))
        .and_then(|okm| okm.fill(derived.as_mut_slice()))
        .ok()?;
    let (key, commitment) = derived.split_at(SymmetricKey::LENGTH);
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
    let mut committed = Zeroizing::new([0; COMMITMENT]);
    committed.copy_from_slice(commitment);
    Some((cipher, committed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> SymmetricKey {
        SymmetricKey::new(vec![byte; 32]).expect("32 bytes")
    }

    #[test]
    fn opens_only_with_the_same_key_and_associated_data() {
        let sealed = seal(&key(1), b"place", b"text").expect("seals");
        assert_eq!(sealed.len(), 4 + OVERHEAD);
        assert_eq!(
            open(&key(1), b"place", &sealed).expect("opens").as_slice(),
            b"text"
        );
        assert_eq!(open(&key(2), b"place", &sealed), Err(DoesNotOpen));
        assert_eq!(open(&key(1), b"other", &sealed), Err(DoesNotOpen));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealed = seal(&key(1), b"place", b"a text of some length").expect("seals");
        for position in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[position / 8] ^= 1 << (position % 8);
            assert_eq!(
                open(&key(1), b"place", &changed),
                Err(DoesNotOpen),
                "bit {position}"
            );
        }
        for length in 0..sealed.len() {
            assert_eq!(open(&key(1), b"place", &sealed[..length]), Err(DoesNotOpen));
        }
    }

    #[test]
    fn equal_texts_are_sealed_differently() {
        let seal = || super::seal(&key(1), b"", b"text").expect("seals");
        assert_ne!(seal(), seal());
    }

    /// Made by an independent implementation (Python's `cryptography`), and kept: what an earlier
    /// version wrote must open.
    #[test]
    fn a_text_sealed_earlier_opens() {
        let sealed = include_bytes!("sealed/golden.bin");
        let opened = open(&key(7), b"golden aad", sealed).expect("opens");
        assert_eq!(opened.as_slice(), b"golden text");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<Vec<u8>>(), aad in any::<Vec<u8>>()) {
            let sealed = seal(&key(3), &aad, &text).expect("seals");
            let opened = open(&key(3), &aad, &sealed).expect("opens");
            prop_assert_eq!(opened.as_slice(), text.as_slice());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(open(&key(3), b"", &bytes).is_err());
        }
    }
}
