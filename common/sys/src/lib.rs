//! The kernel, wrapped: the only crate that calls it.
