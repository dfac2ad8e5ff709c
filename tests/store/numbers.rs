//! What a run is made of: numbers that are the same each time, and what whoever starts it asks for. For the
//! tests of the store and of the process.

/// SplitMix64, public domain, by Sebastiano Vigna.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Whether there is time for the long form of a test.
#[expect(
    clippy::disallowed_methods,
    reason = "tests/run asks for long runs in the environment"
)]
pub(crate) fn is_long_run() -> bool {
    std::env::var_os("KODO_LONG").is_some()
}

/// What a test draws its numbers from: its own seed, unless the run has another.
#[expect(
    clippy::disallowed_methods,
    reason = "who runs the tests says so in the environment"
)]
pub(crate) fn seed(own: u64) -> u64 {
    let other = std::env::var("KODO_SEED").ok();
    other.map_or(own, |seed| {
        seed.parse::<u64>().expect("KODO_SEED is a number") ^ own
    })
}
