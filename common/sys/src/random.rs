//! Randomness from the kernel. Generators that live in user space are banned: after a fork two children would
//! draw the same numbers.

use std::io;

/// Fills `buffer` with random bytes fit for keys and nonces. Fails only when the kernel offers no randomness
/// at all.
pub fn fill(buffer: &mut [u8]) -> io::Result<()> {
    getrandom::fill(buffer).map_err(io::Error::other)
}
