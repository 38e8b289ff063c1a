//! A placeholder until the crate behind it stands.
fn main() {}
