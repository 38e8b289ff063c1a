//! A standby killed with SIGKILL ten times in the middle of a load ends equal to its primary.
//!
//! Method: pgbench writes without a pause; the standby is killed, every process at once, whenever it has replayed
//! some more, and started again.

use integration_tests::cluster::Cluster;
use integration_tests::commands::{self, finish, pgbench_spawn};
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

const KILLS: usize = 10;

#[test]
fn a_standby_killed_ten_times_ends_equal() {
    let scenario = Scenario::new("standby-killed");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(commands::CREATE_KV);
    let script = scenario.write("put.sql", &commands::put_script());
    let mut load = pgbench_spawn(&cluster.primary, &script, 4, 600);
    let mut random = Random::new(random::seeds(&[1])[0]);
    for kill in 0..KILLS {
        let before = cluster.standby.lsn("pg_last_wal_replay_lsn");
        let enough = before + random.below(600_000);
        wait::until("the standby to replay something new", || {
            (cluster.standby.lsn("pg_last_wal_replay_lsn") > enough).then_some(())
        });
        assert!(load.try_wait().unwrap().is_none(), "pgbench ended before kill {kill}");
        if kill % 2 == 0 {
            cluster.standby.kill_all()
        } else {
            cluster.standby.kill()
        }
        cluster.standby.start();
    }
    load.kill().unwrap();
    finish(load);
    // What it had sent is executed although it is gone.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    wait::until("pgbench's sessions to end", || (cluster.primary.value(sessions) == "1").then_some(()));
    cluster.wait_streaming();
    let digest = cluster.assert_equal(&["kv"]);
    assert!(digest[0].rows > 0);
    cluster.stop();
}
