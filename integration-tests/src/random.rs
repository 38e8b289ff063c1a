//! Seeded random numbers (SplitMix64): a failing run names its seed, and `WALSHIP_SEED` repeats it.

/// A generator whose numbers follow from its seed alone.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = self.below(choices.len() as u64);
        &choices[usize::try_from(at).unwrap()]
    }
}

/// The seeds to run: the one in `WALSHIP_SEED`, or the `usual` ones.
pub fn seeds(usual: &[u64]) -> Vec<u64> {
    match std::env::var("WALSHIP_SEED") {
        Ok(seed) => vec![seed.parse().expect("WALSHIP_SEED is a number")],
        Err(_) => usual.to_vec(),
    }
}
