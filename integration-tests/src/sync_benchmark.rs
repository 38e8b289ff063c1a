//! The benchmark `sync`: commits that wait for a synchronous standby, through pgbench, against a Walship pair and a
//! PostgreSQL 15 pair in turn.
//!
//! Method: as the benchmark `commit` ([`crate::benchmark`]), its script "put" alone, with synchronous_standby_names set to the
//! one standby of each pair, once with synchronous_commit = on and once with remote_apply.

use std::io::{self, Write};

use crate::benchmark::{
    Plan, compare, connect, describe_machine, prepare, print_head, print_row, start_walship,
};
use crate::commands;
use crate::postgres::PostgresPair;
use crate::scenario::Scenario;
use crate::wait;

/// The levels of synchronous_commit, by name.
pub const LEVELS: [&str; 2] = ["on", "remote_apply"];

/// The ratio to aim at, of PostgreSQL's tps.
fn aim(clients: u32) -> Option<f64> {
    match clients {
        1 => Some(1.1),
        8 => Some(1.3),
        32 => Some(1.5),
        _ => None,
    }
}

/// Runs these levels and prints the table to `out`.
///
/// # Errors
/// Those of writing to `out`.
pub fn sync(plan: &Plan, levels: &[String], out: &mut impl Write) -> io::Result<()> {
    let scenario = Scenario::new("bench-sync");
    describe_machine(scenario.root(), out)?;
    let mut cluster = start_walship(&scenario);
    let postgres = PostgresPair::start(&scenario);
    let ports = [Some(cluster.primary.port()), postgres.as_ref().map(PostgresPair::port)];
    ports.into_iter().flatten().for_each(prepare);
    let path = scenario.write("put.sql", &commands::put_script());
    print_head(plan, out)?;
    for level in levels {
        cluster
            .primary
            .reload(&format!("synchronous_standby_names = 'standby'\nsynchronous_commit = '{level}'"));
        if let Some(port) = ports[1] {
            set_level(port, level);
        }
        ports.into_iter().flatten().for_each(wait_synchronous);
        for clients in &plan.clients {
            let figures = compare(plan, &scenario, &path, *clients, ports);
            print_row(out, level, *clients, figures, aim(*clients))?;
        }
    }
    cluster.stop();
    Ok(())
}

/// Of PostgreSQL's pair.
fn set_level(port: u16, level: &str) {
    let mut client = connect(port);
    for sql in [
        "ALTER SYSTEM SET synchronous_standby_names = 'standby'".to_owned(),
        format!("ALTER SYSTEM SET synchronous_commit = '{level}'"),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        client.query(&sql).unwrap_or_else(|error| panic!("{error}"));
    }
    // The one that asked for it is told as late as any other.
    wait::until("the level", || (connect(port).value("SHOW synchronous_commit") == level).then_some(()));
}

fn wait_synchronous(port: u16) {
    let mut client = connect(port);
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    wait::until("a synchronous standby", || (client.value(sql) == "1").then_some(()));
}
