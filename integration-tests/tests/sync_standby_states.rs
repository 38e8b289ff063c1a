//! sync_priority and sync_state in pg_stat_replication, for PostgreSQL's whole table of synchronous_standby_names: its own
//! test 007_sync_rep, step by step. (Names that need quotes, and all that is wrong, are in the tests of the parser.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

struct Standbys<'a> {
    scenario: &'a Scenario,
    primary: Node,
    standbys: BTreeMap<u32, Node>,
}

impl<'a> Standbys<'a> {
    fn new(scenario: &'a Scenario) -> Standbys<'a> {
        let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
        primary.start();
        primary.query("CREATE TABLE t(x)");
        Standbys { scenario, primary, standbys: BTreeMap::new() }
    }

    /// Starts a standby, and waits until it streams: so it has the next place in the array of walsenders.
    fn start(&mut self, number: u32) {
        let name = format!("standby{number}");
        let (scenario, primary) = (self.scenario, &self.primary);
        let standby = self.standbys.entry(number).or_insert_with(|| Node::clone_of(scenario, &name, primary));
        standby.start();
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming' \
             AND flush_lsn = pg_current_wal_flush_lsn()"
        );
        wait::until(&name, || (primary.value(&sql) == "1").then_some(()));
    }

    /// Stops a standby and waits until its walsender is gone.
    fn stop(&mut self, number: u32) {
        self.standbys.get_mut(&number).unwrap().stop();
        let sql =
            format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'standby{number}'");
        wait::until("the walsender to be gone", || (self.primary.value(&sql) == "0").then_some(()));
    }

    /// Sets the names, if any are given, and checks the view, ordered by name: "1 1 sync, 2 0 async".
    fn check(&self, names: Option<&str>, expected: &str) {
        if let Some(names) = names {
            self.primary.reload(&format!("synchronous_standby_names = '{names}'"));
        }
        let sql = "SELECT application_name, sync_priority, sync_state FROM pg_stat_replication ORDER BY application_name";
        let shown = || -> String {
            let rows = self.primary.rows(sql);
            let row = |row: &Vec<String>| row.join(" ").trim_start_matches("standby").to_owned();
            rows.iter().map(row).collect::<Vec<_>>().join(", ")
        };
        let reached = wait::within(wait::DEADLINE, || (shown() == expected).then_some(()));
        assert!(reached.is_some(), "{names:?}: {} instead of {expected}", shown());
    }
}

#[test]
fn states_and_priorities_are_postgresqls_in_every_step_of_its_own_test() {
    let scenario = Scenario::new("sync-states");
    let mut nodes = Standbys::new(&scenario);
    for number in 1..=3 {
        nodes.start(number);
    }
    nodes.check(Some("standby1"), "1 1 sync, 2 0 async, 3 0 async");
    nodes.check(Some("standby1,standby2"), "1 1 sync, 2 2 potential, 3 0 async");
    nodes.check(Some("*"), "1 1 sync, 2 1 potential, 3 1 potential");

    // In another order in the array.
    for number in 1..=3 {
        nodes.stop(number);
    }
    nodes.start(2);
    nodes.start(3);
    nodes.check(Some("2(standby1,standby2,standby3)"), "2 2 sync, 3 3 sync");
    nodes.start(1);
    nodes.check(None, "1 1 sync, 2 2 sync, 3 3 potential");
    nodes.start(4);
    nodes.check(None, "1 1 sync, 2 2 sync, 3 3 potential, 4 0 async");
    nodes.check(Some("3(standby2,standby3)"), "1 0 async, 2 1 sync, 3 2 sync, 4 0 async");
    nodes.check(Some("2(standby1,*,standby2)"), "1 1 sync, 2 2 sync, 3 2 potential, 4 2 potential");
    nodes.check(Some("2(standby2,standby2,standby3)"), "1 0 async, 2 1 sync, 3 3 sync, 4 0 async");

    nodes.stop(3);
    nodes.check(Some("2(*)"), "1 1 sync, 2 1 sync, 4 1 potential");
    nodes.start(3);
    // It has the place that it left, before the fourth's and the first's.
    nodes.check(None, "1 1 potential, 2 1 sync, 3 1 sync, 4 1 potential");
    nodes.check(Some("ANY 2(standby1, standby2)"), "1 1 quorum, 2 1 quorum, 3 0 async, 4 0 async");
    nodes.check(Some("any 1 (*)"), "1 1 quorum, 2 1 quorum, 3 1 quorum, 4 1 quorum");
    nodes.check(Some("FIRST 1 (\"standby4\", STANDBY2)"), "1 0 async, 2 2 potential, 3 0 async, 4 1 sync");
    nodes.check(Some(""), "1 0 async, 2 0 async, 3 0 async, 4 0 async");

    for node in nodes.standbys.values_mut() {
        node.stop();
    }
    nodes.primary.stop();
}
