//! One primary, two synchronous standbys, load: whatever becomes of the primary, the further standby is promoted, the others
//! follow, and nothing is lost that was acknowledged or seen.
//!
//! Method: the loop of `torture failover`, 20 rounds of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::failover;
use integration_tests::random::seeds;
use integration_tests::rounds::Plan;

#[test]
fn failovers_lose_nothing_that_was_acknowledged_or_seen() {
    for seed in seeds(&[3]) {
        let mut lines = Vec::new();
        if let Err(failure) = failover::run(&Plan { seed, rounds: 20 }, &mut lines) {
            panic!("{}{failure}", String::from_utf8_lossy(&lines));
        }
    }
}
