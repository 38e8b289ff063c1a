//! After a load of upserts by pgbench both nodes hold the same rows.
//!
//! Method: PostgreSQL's own pgbench with 8 clients; no transaction may fail; then the digests are compared.

use integration_tests::cluster::Cluster;
use integration_tests::commands::{self, finish, pgbench_spawn};
use integration_tests::scenario::Scenario;

#[test]
fn both_nodes_are_equal_after_pgbench() {
    let scenario = Scenario::new("put");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(commands::CREATE_KV);
    let script = scenario.write("put.sql", &commands::put_script());
    let said = finish(pgbench_spawn(&cluster.primary, &script, 8, 10)).assert_success("pgbench");
    assert_eq!(commands::pgbench_number(&said, "number of failed transactions"), 0.0, "{}", said.out);
    let transactions = commands::pgbench_number(&said, "number of transactions actually processed");
    assert!(transactions > 0.0, "{}", said.out);
    let digest = cluster.assert_equal(&["kv"]);
    assert!(digest[0].rows > 0);
    cluster.stop();
}

#[test]
fn a_standby_cloned_later_is_equal_too() {
    let scenario = Scenario::new("late-clone");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(commands::CREATE_KV);
    let script = scenario.write("put.sql", &commands::put_script());
    finish(pgbench_spawn(&cluster.primary, &script, 4, 2)).assert_success("pgbench");
    cluster.primary.query("SELECT pg_switch_wal()");
    cluster.primary.query("INSERT INTO kv VALUES ('last', 'row')");
    let mut late = integration_tests::node::Node::clone_of(&scenario, "late", &cluster.primary);
    late.start();
    let mut pair = Cluster { primary: cluster.primary, standby: late };
    pair.assert_equal(&["kv"]);
    cluster.standby.stop();
    pair.stop();
}
