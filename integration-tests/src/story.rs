//! The failover story, told once and played on two stages: processes with cables between them
//! ([`processes`]), and containers ([`containers`]).
//!
//! Three nodes and a client. Node 0 begins as the primary, node 1 as its synchronous standby, node 2 as an asynchronous one;
//! the client writes numbered rows on whichever takes writes, and keeps a note of what was acknowledged. What happens:
//!
//! 1. all start from nothing, and rows flow;
//! 2. the primary is killed, and the standby that is further is promoted: the client goes on with it, and the other standby
//!    follows it, without being told;
//! 3. the old primary comes back as a standby, and then as the synchronous one;
//! 4. it is cut off: commits stall; it is connected again: they go on;
//! 5. everything stops in order and starts again, with all data;
//! 6. at the end every acknowledged row is on every node.

use std::fmt;
use std::time::Duration;

use crate::wait;

pub mod containers;
pub mod processes;

/// The nodes, by number, as the stages name them.
pub const NAMES: [&str; 3] = ["node1", "node2", "node3"];
/// So many more rows show that they flow.
const SOME_ROWS: u64 = 30;
/// How long commits are watched that must not be acknowledged.
const STALLED_FOR: Duration = Duration::from_secs(1);

/// Where the story is played: what its steps, faults and looks are there. What fails panics, and says what it was.
pub trait Stage {
    /// Starts the nodes and the client, from nothing or from what [`Stage::down`] has left.
    fn up(&mut self);
    /// Stops the client and the nodes in order; what they have stays.
    fn down(&mut self);
    /// Ends all processes of a node at once.
    fn kill(&mut self, node: usize);
    /// Makes a primary of a standby that runs; waits until it is one.
    fn promote(&mut self, node: usize);
    /// Makes a standby of a node that doesn't run, and starts it.
    fn rejoin(&mut self, node: usize);
    /// Nothing gets to the node or from it.
    fn disconnect(&mut self, node: usize);
    /// It is connected again.
    fn connect(&mut self, node: usize);
    /// Has commits on `node` wait for `standby`.
    fn synchronize(&mut self, node: usize, standby: usize);
    /// The rows of a query on a node, if it can be asked.
    fn ask(&mut self, node: usize, sql: &str) -> Option<Vec<Vec<String>>>;
    /// Whether a node says of itself that it is well.
    fn is_well(&mut self, node: usize) -> bool;
    /// How many rows the client has noted as acknowledged.
    fn acknowledged(&mut self) -> u64;
    /// Ends the client; its note stays.
    fn stop_client(&mut self);
    /// Has every row of the note looked for on a node; what was found. Without the client.
    fn check(&mut self, node: usize) -> String;
}

/// Plays the story; each step is told to `tell` when it has come true.
pub fn play(stage: &mut dyn Stage, tell: &mut dyn FnMut(&dyn fmt::Display)) {
    let [primary, synchronous, asynchronous] = [0, 1, 2];
    stage.up();
    await_streams(stage, primary, 2);
    await_well(stage);
    await_rows(stage);
    tell(&"up: a primary and two standbys; rows flow");

    stage.kill(primary);
    let new = further(stage, [synchronous, asynchronous]);
    let other = if new == synchronous { asynchronous } else { synchronous };
    stage.promote(new);
    tell(&format_args!("{} killed, {} promoted", NAMES[primary], NAMES[new]));
    await_rows(stage);
    tell(&format_args!("the client goes on with {}", NAMES[new]));
    await_streams(stage, new, 1);
    await_level(stage, other, new);
    tell(&format_args!("{} follows it", NAMES[other]));

    stage.rejoin(primary);
    await_streams(stage, new, 2);
    await_level(stage, primary, new);
    tell(&format_args!("{} is back as a standby", NAMES[primary]));

    stage.synchronize(new, primary);
    await_synchronous(stage, new, primary);
    await_rows(stage);
    stage.disconnect(primary);
    await_stall(stage, new);
    tell(&format_args!("{}, the synchronous standby now, is cut off: commits stall", NAMES[primary]));
    stage.connect(primary);
    await_rows(stage);
    tell(&"it is connected again: commits go on");

    let before = stage.acknowledged();
    stage.down();
    stage.up();
    await_rows(stage);
    await_streams(stage, new, 2);
    assert!(stage.acknowledged() > before, "the note was begun anew");
    tell(&"down and up again");

    stage.stop_client();
    for node in [new, primary, other] {
        await_level(stage, node, new);
        let found = stage.check(node);
        tell(&format_args!("{}: {}", NAMES[node], found.trim_end()));
    }
}

fn await_rows(stage: &mut dyn Stage) {
    let wanted = stage.acknowledged() + SOME_ROWS;
    wait::until("rows to flow", || (stage.acknowledged() >= wanted).then_some(()));
}

fn await_well(stage: &mut dyn Stage) {
    for (node, name) in NAMES.iter().enumerate() {
        wait::until(&format!("{name} to be well"), || stage.is_well(node).then_some(()));
    }
}

fn await_streams(stage: &mut dyn Stage, node: usize, count: usize) {
    let sql = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
    wait::until(&format!("{count} streams from {}", NAMES[node]), || {
        (stage.ask(node, sql)?.len() == count).then_some(())
    });
}

fn await_synchronous(stage: &mut dyn Stage, node: usize, standby: usize) {
    let sql = "SELECT application_name FROM pg_stat_replication WHERE sync_state = 'sync'";
    wait::until(&format!("{} to be synchronous", NAMES[standby]), || {
        (stage.ask(node, sql)? == [[NAMES[standby]]]).then_some(())
    });
}

/// Waits until the client's session waits for the standby, and sees that nothing is acknowledged meanwhile.
fn await_stall(stage: &mut dyn Stage, node: usize) {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'demo-client' AND wait_event = 'SyncRep'";
    let waits = wait::until("a commit to wait", || {
        let waits = stage.ask(node, sql)?;
        // One that waits for the time of a round trip is no stall: the same one is still there later.
        let before = stage.acknowledged();
        wait::watch_for(STALLED_FOR);
        (!waits.is_empty() && stage.acknowledged() == before).then_some(waits)
    });
    assert!(!waits.is_empty());
}

/// Waits until a node has put what is durable on the primary now.
fn await_level(stage: &mut dyn Stage, node: usize, primary: usize) {
    if node == primary {
        return;
    }
    let position = wait::until("the primary's position", || {
        stage.ask(primary, "SELECT pg_current_wal_flush_lsn()")?.into_iter().flatten().next()
    });
    let sql = format!("SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '{position}')");
    wait::until(&format!("{} to be level", NAMES[node]), || {
        let ahead: f64 = stage.ask(node, &sql)?.first()?.first()?.parse().ok()?;
        (ahead >= 0.0).then_some(())
    });
}

/// The standby that has received more, when nothing more can come: it has all that any of them could have confirmed.
fn further(stage: &mut dyn Stage, standbys: [usize; 2]) -> usize {
    let sql = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    for node in standbys {
        wait::until(&format!("{} to receive no more", NAMES[node]), || {
            stage.ask(node, sql)?.is_empty().then_some(())
        });
    }
    let mut received = |node| -> u64 {
        let sql = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')";
        let rows = wait::until("the position of a standby", || stage.ask(node, sql));
        rows[0][0].parse().unwrap_or_else(|_| panic!("{rows:?} is no position"))
    };
    let [first, second] = standbys;
    if received(second) > received(first) { second } else { first }
}

/// The last row of the client's note; 0 when there is none yet.
fn last_of_note(note: &str) -> u64 {
    note.trim_end().rsplit(' ').next().and_then(|last| last.parse().ok()).unwrap_or(0)
}
