//! Numbers that follow from a seed.

/// Pseudo-random numbers: `SplitMix64`. Three lines, and the same on every machine for ever.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Rng {
    /// Numbers that depend on `seed` and, so that uses do not share a sequence, on `stream`. Both are
    /// mixed first: neighbouring seeds would otherwise be one sequence, shifted.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed).wrapping_add(stream)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    /// `true` so many times in a thousand.
    pub(crate) fn permille(&mut self, so_many: usize) -> bool {
        self.below(1000) < so_many
    }

    /// One of several.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// `true` once in so many times.
    pub(crate) fn one_in(&mut self, so_many: usize) -> bool {
        self.below(so_many) == 0
    }

    /// So many bytes, any of them.
    pub(crate) fn bytes(&mut self, so_many: usize) -> Vec<u8> {
        (0..so_many).map(|_| self.byte()).collect()
    }

    /// Any byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}
