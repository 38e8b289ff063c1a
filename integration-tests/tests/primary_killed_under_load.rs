//! A primary killed with SIGKILL ten times in the middle of a load loses no acknowledged row, and its standby follows.
//!
//! Method: clients that insert numbered rows and remember the answers; the kill falls between two answers of one round,
//! so that other writes of that round are on their way.

use integration_tests::cluster::Cluster;
use integration_tests::load::{self, Load};
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;

const KILLS: usize = 10;
const CLIENTS: usize = 8;

#[test]
fn a_primary_killed_ten_times_loses_no_acknowledged_row() {
    for seed in random::seeds(&[1]) {
        let scenario = Scenario::new("primary-killed");
        let mut random = Random::new(seed);
        let mut cluster = Cluster::start(&scenario);
        cluster.primary.query(load::CREATE_TABLE);
        let mut load = Load::new(CLIENTS);
        for kill in 0..KILLS {
            load.connect(&cluster.primary);
            load.rounds(usize::try_from(20 + random.below(100)).unwrap());
            let after = usize::try_from(random.below(CLIENTS as u64)).unwrap();
            load.round(after, || {
                if kill % 2 == 0 {
                    cluster.primary.kill_all();
                } else {
                    cluster.primary.kill();
                }
            });
            load.disconnect();
            cluster.primary.start();
            load.assert_all_on(&cluster.primary);
        }
        cluster.wait_streaming();
        let digest = cluster.assert_equal(&["acked"]);
        assert!(digest[0].rows >= load.acknowledged.len(), "seed {seed}");
        load.assert_all_on(&cluster.standby);
        cluster.stop();
    }
}

#[test]
fn a_fast_shutdown_under_load_loses_no_acknowledged_row_and_the_standby_has_them_all() {
    let scenario = Scenario::new("shutdown");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(load::CREATE_TABLE);
    let mut load = Load::new(CLIENTS);
    load.connect(&cluster.primary);
    load.rounds(50);
    load.round(3, || cluster.primary.stop());
    load.disconnect();
    // The walsender ended after the shutdown checkpoint had reached the standby: it has all, without its primary.
    load.assert_all_on(&cluster.standby);
    cluster.primary.start();
    load.assert_all_on(&cluster.primary);
    cluster.wait_streaming();
    cluster.assert_equal(&["acked"]);
    cluster.stop();
}
