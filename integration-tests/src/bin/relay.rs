//! The network of one node in a test; see [`integration_tests::network`].

use std::env;
use std::path::PathBuf;

fn main() {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().expect("relay DIR NAME DATA_DIRECTORY OTHER...");
    let (dir, name, node) = (next(), next(), next());
    let others: Vec<_> = arguments.collect();
    integration_tests::network::relay(&PathBuf::from(dir), &name, &PathBuf::from(node), &others);
}
