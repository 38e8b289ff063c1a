//! Over any power loss at any moment, recovery ends with all acknowledged rows and none that was never written, log and
//! tables cut alike; and what must be on disk before something else is.
//!
//! Method: `integration_tests::disk`. A short cut of `torture -- images`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;

use integration_tests::disk::campaign::{self, Plan, Tally};
use integration_tests::disk::orders::ORDERS;
use integration_tests::disk::recorder;
use integration_tests::random::seeds;
use integration_tests::scenario::skip;

fn run(seed: u64, workloads: u64, images: usize) -> Tally {
    campaign::run(&Plan { seed, workloads, images }, &mut io::sink())
        .unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_node_recovers_from_every_disk_that_a_power_loss_could_leave() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let images: u64 = seeds(&[1, 2]).into_iter().map(|seed| run(seed, 1, 8).images).sum();
    assert!(images > 8, "{images}");
}

#[test]
fn what_must_be_on_disk_before_something_else_is() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    // Until every order has met its case; the first of them has a standby.
    let mut orders = std::collections::BTreeSet::new();
    for seed in seeds(&[2, 100, 106, 115, 120]) {
        orders.extend(run(seed, 1, 0).orders.looked.into_keys());
        if orders.len() == ORDERS.len() {
            return;
        }
    }
    let never: Vec<_> = ORDERS.iter().filter(|order| !orders.contains(order)).collect();
    panic!("never met: {never:?}");
}
