//! The two nodes of the kill loop: what is done to them, and how they are made whole again.

use std::collections::BTreeSet;
use std::path::Path;

use failpoint::{Action, Board};
use sys::process::{self, Pid};
use sys::signal::Signal;
use wal::lsn::Lsn;
use wal::segment::SegmentSize;
use wal::store::SegmentStore;

use super::deed::{Armed, Deed, Side, Target, Victim};
use super::ledger::TABLES;
use crate::cluster::Cluster;
use crate::digest::{self, Digest};
use crate::node::Node;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::{commands, procfs, programs, wait};

/// All happens soon: checkpoints, copies of the tables' log, removal of segments that nobody needs.
const SETTINGS: [&str; 7] = [
    "checkpoint_timeout=1s",
    "state_wal_limit=1MB",
    "wal_buffers=256kB",
    "wal_keep_size=0",
    "max_wal_size=2MB",
    "archive_mode=on",
    "archive_command=true",
];

/// How often nodes may be disturbed while they are looked at.
const LOOKS_MAX: u32 = 5;
/// How often a node may end when it starts, or has just started.
const STARTS_MAX: u32 = 3;

/// A primary and its standby.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) cluster: Cluster,
    boards: [Board; 2],
    /// Up to here pg_waldump has read.
    read: Lsn,
}

/// The processes of a node in the moment before something is done, as pg_stat_activity tells them.
#[derive(Debug, Default)]
pub(super) struct Processes(Vec<(Side, String, Pid)>);

impl Pair {
    /// Makes both nodes and starts them, with failpoints and `more` settings.
    pub(super) fn start(scenario: &Scenario, more: &[&str]) -> Result<Pair, String> {
        let boards = [Side::Primary, Side::Standby].map(|side| scenario.path(&format!("{side}.failpoints")));
        let prepare = |node: &mut Node, side: Side| {
            SETTINGS.iter().chain(more).for_each(|setting| node.set(setting));
            node.failpoints = Some(boards[side as usize].clone());
        };
        let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
        prepare(&mut primary, Side::Primary);
        primary.try_start()?;
        primary.query("SELECT pg_create_physical_replication_slot('standby')");
        let mut standby = Node::clone_of(scenario, "standby", &primary);
        prepare(&mut standby, Side::Standby);
        standby.set("primary_slot_name=standby");
        standby.try_start()?;
        let map = |path| sys::failpoint::map(path).map_err(|error| format!("failpoints: {error}"));
        let boards = [map(&boards[0])?, map(&boards[1])?];
        let mut pair = Pair { cluster: Cluster { primary, standby }, boards, read: Lsn(0) };
        pair.read = flush_lsn(&pair.cluster.primary)?;
        Ok(pair)
    }

    pub(super) fn board(&self, side: Side) -> Board {
        self.boards[side as usize]
    }

    pub(super) fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Primary => &mut self.cluster.primary,
            Side::Standby => &mut self.cluster.standby,
        }
    }

    pub(super) fn processes(&mut self) -> Result<Processes, String> {
        let mut all = Vec::new();
        for side in [Side::Primary, Side::Standby] {
            let mut client = self.node(side).try_client().map_err(|error| error.to_string())?;
            let sql = format!(
                "SELECT backend_type, pid FROM pg_stat_activity WHERE pid <> {} ORDER BY 1, 2",
                client.backend_pid
            );
            for row in client.query(&sql).map_err(|error| format!("{sql}: {error}"))?.rows {
                let [Some(kind), Some(pid)] = &row[..] else { continue };
                all.push((side, kind.clone(), Pid(pid.parse().map_err(|_| format!("pid {pid}"))?)));
            }
        }
        Ok(Processes(all))
    }

    /// Does it. Everything that it makes of a node happens in here or in [`Pair::heal`].
    pub(super) fn commit(
        &mut self,
        deed: &Deed,
        processes: &Processes,
        random: &mut Random,
    ) -> Result<(), String> {
        match deed {
            Deed::Kill(victim) => self.kill(*victim, processes, random),
            Deed::KillBoth => {
                self.cluster.primary.kill_all();
                self.cluster.standby.kill_all();
                Ok(())
            }
            Deed::KillAgain(side, again) => {
                let node = self.node(*side);
                node.kill_all();
                for after in again {
                    node.spawn();
                    wait::watch_for(*after);
                    node.kill_all();
                }
                Ok(())
            }
            Deed::Pause(victim, pause) => {
                let pids = self.pids(*victim, processes, random);
                send(&pids, Signal::Stop);
                wait::watch_for(*pause);
                send(&pids, Signal::Cont);
                Ok(())
            }
            Deed::KillBeside(stopped, victim) => {
                let pids = self.pids(*stopped, processes, random);
                send(&pids, Signal::Stop);
                self.kill(*victim, processes, random)?;
                if victim.target == Target::Child("archiver") {
                    // Its end is no crash, so nobody ends the one that stands still; commits may wait for that.
                    send(&pids, Signal::Cont);
                }
                Ok(())
            }
            Deed::Stop(side, mode) => self.stop(*side, mode),
            Deed::Failpoint(armed) => self.commit_failpoint(armed),
        }
    }

    fn kill(&mut self, victim: Victim, processes: &Processes, random: &mut Random) -> Result<(), String> {
        match victim.target {
            Target::Node => self.node(victim.side).kill_all(),
            Target::Postmaster => self.node(victim.side).kill(),
            Target::Child(_) => {
                for pid in self.pids(victim, processes, random) {
                    self.kill_child(victim.side, pid)?;
                }
            }
        }
        Ok(())
    }

    /// SIGKILL to a child. Until the postmaster has seen its end, the node may look well: so this waits for that.
    pub(super) fn kill_child(&mut self, side: Side, pid: Pid) -> Result<(), String> {
        send(&[pid], Signal::Kill);
        self.wait_noticed(side, pid)
    }

    /// Arms a failpoint, if that is the deed: before the load begins.
    pub(super) fn arm(&self, deed: &Deed) {
        if let Deed::Failpoint(armed) = deed {
            self.board(armed.side).arm(armed.point, armed.action, armed.hit, &[]);
        }
    }

    /// The process that a deed's failpoint has met. Nobody meets it any more.
    pub(super) fn met(&self, deed: &Deed) -> Option<Pid> {
        let Deed::Failpoint(armed) = deed else { return None };
        let board = self.board(armed.side);
        board.disarm(armed.point);
        if !board.is_taken(armed.point) {
            return None;
        }
        wait::within(wait::DEADLINE, || board.done_by(armed.point)).map(Pid)
    }

    /// The failpoint is armed, and the load runs.
    fn commit_failpoint(&mut self, armed: &Armed) -> Result<(), String> {
        if armed.kill {
            self.node(armed.side).kill_all();
        }
        if armed.action != Action::Pause {
            return Ok(());
        }
        let Some(pid) = self.met(&Deed::Failpoint(*armed)) else { return Ok(()) };
        // A SIGCONT before it has stopped would be lost.
        let stopped =
            wait::within(wait::DEADLINE, || (procfs::stopped(pid) || !procfs::runs(pid)).then_some(()));
        stopped.ok_or_else(|| format!("process {pid} did not stop at {}", armed.point))?;
        wait::watch_for(armed.pause);
        send(&[pid], Signal::Cont);
        Ok(())
    }

    /// Fast shutdown of both, the standby first.
    pub(super) fn stop_both(&mut self) -> Result<(), String> {
        self.stop(Side::Standby, "fast")?;
        self.stop(Side::Primary, "fast")
    }

    /// `stop -m MODE`, which must succeed.
    pub(super) fn stop(&mut self, side: Side, mode: &str) -> Result<(), String> {
        let node = self.node(side);
        let before = procfs::children(node.pid());
        let output = node.command(&["stop", "-D", node.dir().to_str().unwrap_or_default(), "-m", mode]);
        if !output.status.success() {
            return Err(format!("stop of {side}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let status = node.wait_end();
        if status != Some(0) {
            return Err(format!("{side} ended with {status:?} after a {mode} shutdown"));
        }
        match before.iter().find(|pid| procfs::runs(**pid)) {
            Some(pid) => Err(format!("process {pid} of {side} outlived its postmaster's {mode} shutdown")),
            None => Ok(()),
        }
    }

    /// The processes of a victim; none if there is no such process just now.
    fn pids(&mut self, victim: Victim, processes: &Processes, random: &mut Random) -> Vec<Pid> {
        let postmaster = self.node(victim.side).pid();
        match victim.target {
            Target::Node => [postmaster].into_iter().chain(procfs::children(postmaster)).collect(),
            Target::Postmaster => vec![postmaster],
            Target::Child(wanted) => {
                let of_kind =
                    processes.0.iter().filter(|(side, kind, _)| *side == victim.side && kind == wanted);
                let pids: Vec<Pid> = of_kind.map(|(_, _, pid)| *pid).collect();
                if pids.is_empty() { Vec::new() } else { vec![*random.pick(&pids)] }
            }
        }
    }

    /// Heals both nodes and looks at them, as often as one of them ended or crashed meanwhile: what was done to a process may
    /// take its effect late.
    pub(super) fn steady(
        &mut self,
        mut look: impl FnMut(&mut Pair, Lsn) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut looks = 0;
        loop {
            let before = self.crash_restarts();
            let result = self.heal().and_then(|end| look(self, end));
            looks += 1;
            let disturbed = self.crash_restarts() != before
                || [Side::Primary, Side::Standby]
                    .into_iter()
                    .any(|side| self.node(side).try_client().is_err());
            if result.is_ok() || !disturbed || looks == LOOKS_MAX {
                return result;
            }
        }
    }

    /// Of both nodes, so far.
    pub(super) fn crash_restarts(&mut self) -> usize {
        [Side::Primary, Side::Standby].map(|side| self.node(side).crash_restarts()).iter().sum()
    }

    /// Waits until the postmaster knows, or has ended itself, that a process of it was killed.
    pub(super) fn wait_noticed(&mut self, side: Side, pid: Pid) -> Result<(), String> {
        if self.node(side).has_ended() {
            return Ok(());
        }
        let postmaster = self.node(side).pid();
        let noticed = wait::within(wait::DEADLINE, || {
            let gone = !procfs::children(postmaster).contains(&pid);
            (gone || !procfs::runs(postmaster)).then_some(())
        });
        noticed.ok_or_else(|| format!("the postmaster of {side} never saw the end of process {pid}"))
    }

    /// Starts what has ended and waits until both nodes serve and the standby is level; up to where that is.
    pub(super) fn heal(&mut self) -> Result<Lsn, String> {
        let mut ends = 0;
        loop {
            self.serve(Side::Primary)?;
            self.serve(Side::Standby)?;
            let level = self.level();
            let ended = self.cluster.primary.has_ended() || self.cluster.standby.has_ended();
            ends += 1;
            // A failpoint may have met one when it had just started.
            if level.is_ok() || !ended || ends == STARTS_MAX {
                return level;
            }
        }
    }

    /// From now on commits wait for the standby, or do no more.
    pub(super) fn set_synchronous(&mut self, synchronous: bool) -> Result<(), String> {
        let names = if synchronous { "*" } else { "" };
        self.cluster.primary.reload(&format!("synchronous_standby_names = '{names}'"));
        // Until the standby has answered once, nobody writes.
        self.level().map(|_| ())
    }

    /// Waits until a node lets clients in; starts it when it has ended.
    pub(super) fn serve(&mut self, side: Side) -> Result<(), String> {
        let node = self.node(side);
        let mut starts = 0;
        let served = wait::within(wait::DEADLINE, || {
            if node.has_ended() {
                let started = node.try_start();
                // What a killed postmaster leaves needs a moment to end: that is no start.
                starts += u32::from(!node.log_tail().contains("shared memory block is still in use"));
                return (started.is_ok() || starts == STARTS_MAX).then_some(started);
            }
            node.try_client().ok().map(|_| Ok(()))
        });
        let result = served.unwrap_or_else(|| Err("it lets no client in".to_owned()));
        result.map_err(|why| format!("{side}: {why}\n{}", node.log_tail()))
    }

    /// Waits until the primary takes writes and the standby holds all that it has; up to where that is.
    pub(super) fn level(&mut self) -> Result<Lsn, String> {
        let Cluster { primary, standby } = &mut self.cluster;
        let value = |node: &Node, sql: &str| -> Option<String> {
            let answer = node.try_client().ok()?.query(sql).ok()?;
            answer.rows.first()?.first()?.clone()
        };
        let position = |node: &Node, function: &str| -> Option<Lsn> {
            value(node, &format!("SELECT {function}()"))?.parse().ok()
        };
        let level = wait::within(wait::DEADLINE, || {
            if primary.has_ended() || standby.has_ended() {
                return Some(None);
            }
            value(primary, "SHOW default_transaction_read_only").filter(|value| value == "off")?;
            let end = position(primary, "pg_current_wal_flush_lsn")?;
            (position(standby, "pg_last_wal_replay_lsn")? >= end).then_some(Some(end))
        });
        level.flatten().ok_or_else(|| {
            format!("the standby does not catch up\n{}\n{}", primary.log_tail(), standby.log_tail())
        })
    }

    /// Checks 2 to 4 of the kill loop's header, of nodes that are level up to `end`.
    pub(super) fn check(&mut self, end: Lsn, whole_log: bool) -> Result<(), String> {
        let (primary, standby) = (&self.cluster.primary, &self.cluster.standby);
        let (ours, theirs) = (Content::of(primary)?, Content::of(standby)?);
        if ours != theirs {
            return Err(format!(
                "the nodes differ in {TABLES:?} or the schema\nprimary: {ours:?}\nstandby: {theirs:?}"
            ));
        }
        self.check_processes()?;
        self.check_slots()?;
        self.read_log(end, whole_log)
    }

    /// The log is there from where each slot of the primary wants it.
    fn check_slots(&mut self) -> Result<(), String> {
        let primary = &self.cluster.primary;
        // Before the slots are read: the standby's may move on, and a checkpoint remove what it wanted.
        let oldest = oldest_segment(&primary.dir().join("pg_wal"))?;
        let sql = "SELECT slot_name, restart_lsn, wal_status FROM pg_replication_slots WHERE restart_lsn IS NOT NULL";
        let answer = primary.try_client().and_then(|mut client| client.query(sql));
        let slots = answer.map_err(|error| format!("{sql}: {error}"))?.rows;
        for slot in slots {
            let restart = slot[1].as_deref().and_then(|text| text.parse::<Lsn>().ok());
            if restart.is_none_or(|restart| restart < oldest) || slot[2].as_deref() == Some("lost") {
                return Err(format!("the log begins at {oldest}, and there is slot {slot:?}"));
            }
        }
        Ok(())
    }

    /// Up to `end`, which both nodes have reached; from the oldest segment that is left, or from where the last look ended.
    fn read_log(&mut self, end: Lsn, whole: bool) -> Result<(), String> {
        if programs::find_postgres("pg_waldump").is_none() {
            return Ok(());
        }
        for side in [Side::Primary, Side::Standby] {
            let pg_wal = self.node(side).dir().join("pg_wal");
            let read = self.read;
            // A checkpoint may remove a segment that is just read.
            let mut tries = 0;
            loop {
                let oldest = oldest_segment(&pg_wal)?;
                let start = if whole { oldest } else { read.max(oldest) };
                let said = commands::pg_waldump_between(&pg_wal, start, end);
                tries += 1;
                if said.status == Some(0) || start >= end {
                    break;
                }
                if oldest_segment(&pg_wal)? == oldest || tries == LOOKS_MAX {
                    return Err(format!("pg_waldump of {side} from {start} to {end}: {}", said.err));
                }
            }
        }
        self.read = end;
        Ok(())
    }

    /// Nothing runs on a data directory but its postmaster and that one's children (and theirs: commands).
    pub(super) fn check_processes(&mut self) -> Result<(), String> {
        for side in [Side::Primary, Side::Standby] {
            let node = self.node(side);
            let dir = node.dir().display().to_string();
            let postmaster = node.pid();
            let mut strangers = Vec::new();
            // Who was told to end may take a moment for it.
            let alone = wait::within(wait::DEADLINE, || {
                let mut own = BTreeSet::from([postmaster]);
                let mut parents = vec![postmaster];
                while let Some(parent) = parents.pop() {
                    parents.extend(procfs::children(parent).into_iter().filter(|child| own.insert(*child)));
                }
                strangers = procfs::with_argument(&dir);
                strangers.retain(|pid| !own.contains(pid) && procfs::runs(*pid));
                strangers.is_empty().then_some(())
            });
            alone.ok_or_else(|| format!("processes of {side} are left over: {strangers:?}"))?;
        }
        Ok(())
    }
}

/// Where the oldest segment begins.
fn oldest_segment(pg_wal: &Path) -> Result<Lsn, String> {
    let size = SegmentSize::new(1 << 20).expect("1 MiB is a segment size");
    let segments = SegmentStore::new(pg_wal, size).list().map_err(|error| error.to_string())?;
    let oldest = segments.first().ok_or("there is no segment")?;
    Ok(size.first_byte(oldest.segment))
}

fn flush_lsn(node: &Node) -> Result<Lsn, String> {
    let failed = |error| format!("the log's end: {error}");
    let mut client = node.try_client().map_err(failed)?;
    let answer = client.query("SELECT pg_current_wal_flush_lsn()").map_err(failed)?;
    let text = answer.rows.into_iter().flatten().flatten().next().unwrap_or_default();
    text.parse().map_err(|_| format!("the log's end: {text}"))
}

/// What a node's clients see.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    tables: Vec<Digest>,
    /// Name and text.
    schema: Vec<Vec<Option<String>>>,
}

impl Content {
    fn of(node: &Node) -> Result<Content, String> {
        let mut client = node.try_client().map_err(|error| format!("could not connect: {error}"))?;
        let tables = TABLES.iter().map(|table| digest::of_table(&mut client, table)).collect();
        let sql = "SELECT name, sql FROM sqlite_schema ORDER BY name";
        let schema = client.query(sql).map_err(|error| format!("{sql}: {error}"))?;
        Ok(Content { tables, schema: schema.rows })
    }
}

/// One that has just ended is no victim any more.
fn send(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _gone = process::kill(*pid, signal);
    }
}
