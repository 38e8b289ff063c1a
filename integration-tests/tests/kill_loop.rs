//! Whatever is done to any process of a primary and its standby under load, nothing that was acknowledged is lost and the
//! nodes stay equal.
//!
//! Method: 60 rounds of the kill loop. `torture kill` runs as many as you like; `WALSHIP_SEED` repeats one.

use std::io;

use integration_tests::rounds::Plan;
use integration_tests::{kills, random};

const ROUNDS: u64 = 60;

#[test]
fn sixty_rounds_of_whatever_can_be_done_to_a_process_lose_no_acknowledged_row() {
    for seed in random::seeds(&[1]) {
        let tally = match kills::run(&Plan { seed, rounds: ROUNDS }, &mut io::stdout()) {
            Ok(tally) => tally,
            Err(failure) => panic!("{failure}"),
        };
        assert!(tally.acknowledged > 10 * ROUNDS, "the rounds met hardly any load\n{tally}");
    }
}
