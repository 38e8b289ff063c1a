//! Walship and PostgreSQL 15 agree on sync_priority and sync_state through the whole table of PostgreSQL's test 007_sync_rep:
//! lists, numbers, FIRST, ANY, `*`, duplicates, standbys that come and go, in every order.
//!
//! Method: standbys that are clients of the test, so that their places in the array of walsenders are known.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use integration_tests::parity::standby::FakeStandby;
use integration_tests::parity::{Kind, Notes, Server, compare};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

/// What is done before the view is looked at.
enum Step {
    /// The standby of that number connects.
    Come(u32),
    /// It leaves.
    Go(u32),
    /// The names are set.
    Names(&'static str),
}

use Step::{Come, Go, Names};

const STEPS: &[Step] = &[
    Come(1),
    Come(2),
    Come(3),
    Names("standby1"),
    Names("standby1,standby2"),
    Names("*"),
    Go(1),
    Go(2),
    Go(3),
    Come(2),
    Come(3),
    Names("2(standby1,standby2,standby3)"),
    Come(1),
    Come(4),
    Names("3(standby2,standby3)"),
    Names("2(standby1,*,standby2)"),
    Names("2(standby2,standby2,standby3)"),
    Go(3),
    Names("2(*)"),
    Come(3),
    Names("ANY 2(standby1, standby2)"),
    Names("any 1 (*)"),
    Names("FIRST 1 (\"standby4\", STANDBY2)"),
    Names("FIRST 3 (standby1, standby2)"),
    Names("standby9"),
    Names(""),
    Names("ANY 4 (*)"),
    Go(2),
    Go(4),
    Names("ANY 1 (standby3, \"standby1\")"),
];

const STATES: &str = "SELECT application_name, sync_priority, sync_state, state FROM pg_stat_replication ORDER BY application_name";

/// The view once two looks in a row show the same, which is not what it was before unless nothing comes of the step.
fn settled(server: &Server, before: &str) -> String {
    let look = || server.rows(STATES).into_iter().map(|row| row.join(" ")).collect::<Vec<_>>().join(", ");
    let changed =
        wait::within(std::time::Duration::from_millis(500), || Some(look()).filter(|now| now != before));
    let mut last = changed.unwrap_or_else(look);
    wait::until("the view to settle", || {
        let now = look();
        let same = now == last;
        last.clone_from(&now);
        same.then_some(now)
    })
}

fn states(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    let mut standbys = BTreeMap::new();
    let mut before = String::new();
    for step in STEPS {
        let question = match step {
            Come(number) => {
                let name = format!("standby{number}");
                standbys.insert(*number, FakeStandby::connect(&server, &name));
                format!("{name} comes")
            }
            Go(number) => {
                standbys.remove(number).unwrap().leave(&server);
                format!("standby{number} goes")
            }
            Names(names) => {
                server.reload(&format!("synchronous_standby_names = '{names}'"));
                format!("names '{names}'")
            }
        };
        before = settled(&server, &before);
        notes.note(&question, &before);
    }
}

#[test]
fn states_and_priorities_are_the_same_in_every_step() {
    compare("sync-states", states);
}
