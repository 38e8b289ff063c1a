//! Shared memory, process slots, latches and wait event sets.
