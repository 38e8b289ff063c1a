//! The lives of a recorded node, and of its standby: start, load, end; then a look at what could be left of them.

use std::fs;
use std::time::Duration;

use sys::clock;
use sys::process::{self, Pid};
use sys::signal::Signal;
use wal::lsn::Lsn;

use super::campaign::Tally;
use super::look::{Expected, Look, Making, PowerLoss, Recorded};
use super::messages::Messages;
use super::recorder::Maker;
use super::recorder::Syncs;
use super::trace::Moment;
use super::workload::{RoundEnd, Workload, read_rows};
use crate::backup;
use crate::node::Node;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::{procfs, wait};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    KillAll,
    KillPostmaster,
    KillChild(&'static str),
    /// SIGKILL to all, and what was not synced may be lost.
    PowerLoss,
}

/// Of every recorded node: all happens soon. A node ends with a process that is killed, for only between two lives can the real
/// files tell what became of the call that the process was in.
const SETTINGS: [&str; 3] = ["checkpoint_timeout=1s", "state_wal_limit=1MB", "restart_after_crash=off"];

/// Checkpoints remove what neither recovery nor a slot needs.
const KEEP_NO_LOG: &str = "wal_keep_size=0";
const KEEP_ALL_LOG: &str = "wal_keep_size=-1";

const ENDS: [End; 9] = [
    End::Stop,
    End::KillAll,
    End::KillAll,
    End::KillPostmaster,
    End::KillChild("startup"),
    End::KillChild("checkpointer"),
    End::PowerLoss,
    End::PowerLoss,
    End::PowerLoss,
];

/// One workload.
#[derive(Debug)]
pub(super) struct Run<'a> {
    scenario: &'a Scenario,
    random: Random,
    images: usize,
    tally: &'a mut Tally,
    workload: Workload,
    primary: Recorded,
    standby: Option<Recorded>,
    with_standby: bool,
    /// The standby has a slot on the primary.
    by_slot: bool,
    syncs: Syncs,
}

impl<'a> Run<'a> {
    /// A node is made, and the making looked at.
    pub(super) fn new(
        scenario: &'a Scenario,
        seed: u64,
        images: usize,
        tally: &'a mut Tally,
    ) -> Result<Run<'a>, String> {
        let mut random = Random::new(seed);
        let clients = usize::try_from(1 + random.below(4)).unwrap_or(1);
        let workload = Workload::new(random.bits(), clients);
        let syncs = *random.pick(&[Syncs::Usual, Syncs::Usual, Syncs::Slow(500), Syncs::Slow(3000)]);
        let with_standby = random.below(4) == 0;
        let mut settings = SETTINGS.map(str::to_owned).to_vec();
        settings.push(format!("wal_buffers={}", random.pick(&[16, 16, 512])));
        settings.push(format!("wal_writer_delay={}ms", random.pick(&[5, 200])));
        // A standby that was down wants log that is removed then, unless it has a slot.
        let by_slot = with_standby && seed.is_multiple_of(2);
        settings.push(if seed.is_multiple_of(2) { KEEP_NO_LOG } else { KEEP_ALL_LOG }.to_owned());
        let mut making = Making {
            scenario,
            history: &workload.history,
            random: &mut random,
            images: images.div_ceil(4),
            tally: &mut *tally,
        };
        let mut primary = Recorded::made(&Maker::Init, &mut making)?;
        primary.node.settings.extend(settings);
        let standby = None;
        Ok(Run { scenario, random, images, tally, workload, primary, standby, with_standby, by_slot, syncs })
    }

    /// Runs it.
    pub(super) fn workload(mut self) -> Result<(), String> {
        let lives = 2 + self.random.below(3);
        for life in 1..=lives {
            self.life().map_err(|error| format!("life {life}: {error}"))?;
            if self.random.below(4) == 0 {
                self.broken_start().map_err(|error| format!("start after life {life}: {error}"))?;
            }
        }
        Ok(())
    }

    /// A life that ends within its start: all are killed at a random call.
    fn broken_start(&mut self) -> Result<(), String> {
        let Recorded { node, recorder, .. } = &mut self.primary;
        recorder.record(node, self.syncs);
        let calls = usize::try_from(self.random.below(100)).unwrap_or(0);
        node.spawn();
        wait::until("a start to come so far", || {
            let lines = |bytes: Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count();
            let far = fs::read(recorder.last_path()).is_ok_and(|bytes| lines(bytes) >= calls);
            (far || !procfs::runs(node.pid())).then_some(())
        });
        node.kill_all();
        self.look_at_start()
    }

    /// After a life in which nobody was told anything.
    fn look_at_start(&mut self) -> Result<(), String> {
        let required = self.primary.required.clone();
        let judge = |_: &Messages, _: Moment| Expected { required: required.clone(), log_end: Lsn::INVALID };
        let from = if self.standby.is_some() { PowerLoss::AtTheEnd } else { PowerLoss::Anywhere };
        let power_loss = (self.random.below(2) == 0).then_some(from);
        let mut look = Look {
            scenario: self.scenario,
            images: self.images.div_ceil(2),
            random: &mut self.random,
            tally: self.tally,
            history: &self.workload.history,
        };
        look.life(&mut self.primary, &judge, power_loss)
    }

    fn life(&mut self) -> Result<(), String> {
        let failing = self.random.below(5) == 0;
        let call = *self.random.pick(&["fsync", "fdatasync", "fdatasync"]);
        let most = *self.random.pick(&[6, 60]);
        let number = 2 + self.random.below(most);
        let syncs = if failing { Syncs::Failing { call, number } } else { self.syncs };
        self.primary.recorder.record(&mut self.primary.node, syncs);
        let started = self.primary.node.try_start();
        let started = started.map_err(|why| format!("{why}\n{}", self.primary.node.log_tail()));
        match started.and_then(|()| self.settle()) {
            Ok(()) => {}
            Err(_) if failing => {
                finish(&mut self.primary, End::KillAll)?;
                return self.look_at_start();
            }
            Err(why) => return Err(why),
        }
        // A sync that fails is an error of who makes a slot, and leaves open whether it is there; slots are not replicated.
        self.workload.with_slots = !failing && !self.with_standby;
        let connected = self.workload.connect(&self.primary.node);
        if !failing {
            connected.map_err(|error| error.to_string())?;
        }
        if self.with_standby && !failing {
            self.start_standby()?;
        }
        let end = *self.random.pick(if failing { &[End::KillAll, End::PowerLoss] } else { &ENDS });
        self.load(end, failing)?;
        let standby_end = *self.random.pick(&ENDS);
        if let Some(standby) = self.standby.as_mut().filter(|standby| standby.node.started()) {
            finish(standby, standby_end)?;
        }
        finish(&mut self.primary, end)?;
        self.workload.disconnect();
        self.look(end, if failing { None } else { Some(standby_end) })
    }

    /// What the last life has left is read, which makes it acknowledged.
    fn settle(&mut self) -> Result<(), String> {
        let mut client = self.primary.node.try_client().map_err(|error| error.to_string())?;
        let (rows, answers) = read_rows(&mut client)?;
        let pid = u32::try_from(client.backend_pid).unwrap_or(0);
        let history = &mut self.workload.history;
        history.begin_life(&rows, &self.primary.required, (pid, answers))
    }

    fn start_standby(&mut self) -> Result<(), String> {
        if self.standby.is_none() {
            let mut making = Making {
                scenario: self.scenario,
                history: &self.workload.history,
                random: &mut self.random,
                images: self.images.div_ceil(4),
                tally: self.tally,
            };
            let maker = Maker::Clone { upstream: &self.primary.node, by_slot: self.by_slot };
            let mut standby = Recorded::made(&maker, &mut making)?;
            standby.node.settings.extend(SETTINGS.map(str::to_owned));
            standby.node.set(KEEP_NO_LOG);
            self.standby = Some(standby);
        }
        let standby = self.standby.as_mut().expect("just made");
        standby.node.settings.retain(|setting| !setting.starts_with("primary_conninfo="));
        standby.node.set(&format!("primary_conninfo={}", self.primary.node.conninfo("standby")));
        standby.recorder.record(&mut standby.node, self.syncs);
        standby.node.try_start().map_err(|why| format!("standby: {why}\n{}", standby.node.log_tail()))
    }

    /// Rounds of statements; the node is killed within the last one, if it is to be killed. `may_end`: by itself, too.
    fn load(&mut self, end: End, may_end: bool) -> Result<(), String> {
        let rounds = 3 + self.random.below(60);
        let least = Duration::from_millis(*self.random.pick(&[0, 0, 300, 1200]));
        let until = clock::now().saturating_add(least);
        let mut round = 0;
        let (mut slow_read, slow_from) = (None, self.random.below(120));
        let (mut backup, backup_from) = (None, self.random.below(120));
        while round < rounds || (clock::now() < until && round < 200) {
            round += 1;
            if round == slow_from {
                slow_read = self.workload.begin_slow_read(&self.primary.node).ok();
            } else if round == slow_from + 40 {
                slow_read = None;
            }
            if round == backup_from {
                backup = backup::begin(&self.primary.node).ok();
            } else if round == backup_from + 10 {
                let taken = backup.take().map_or(Ok(()), backup::take);
                if !may_end {
                    taken.map_err(|error| format!("base backup: {error}"))?;
                }
            }
            if self.workload.round(usize::MAX, || {}) == RoundEnd::Interrupted {
                if may_end {
                    return Ok(());
                }
                return Err(format!("the node went by itself\n{}", self.primary.node.log_tail()));
            }
        }
        self.compare_nodes()?;
        if end == End::Stop {
            drop((slow_read, backup));
        } else {
            let victims = victims(&self.primary.node, end)?;
            let after = usize::try_from(self.random.below(3)).unwrap_or(0);
            self.workload.round(after, || victims.iter().for_each(|pid| kill(*pid)));
        }
        Ok(())
    }

    /// Sometimes: the standby has come to the same rows.
    fn compare_nodes(&mut self) -> Result<(), String> {
        let Some(standby) = self.standby.as_ref().filter(|standby| standby.node.started()) else {
            return Ok(());
        };
        if self.random.below(2) == 0 {
            return Ok(());
        }
        let end = self.primary.node.lsn("pg_current_wal_flush_lsn");
        let level = || (standby.node.lsn("pg_last_wal_replay_lsn") >= end).then_some(());
        let tail = || standby.node.log_tail();
        wait::within(wait::DEADLINE, level)
            .ok_or_else(|| format!("the standby never came to {end}\n{}", tail()))?;
        let rows = |node: &Node| read_rows(&mut node.try_client().map_err(|error| error.to_string())?);
        if rows(&standby.node)?.0 == rows(&self.primary.node)?.0 {
            Ok(())
        } else {
            Err("the standby has other rows than the primary".to_owned())
        }
    }

    /// Tries images of the life that has ended, and sets the stage for the next.
    fn look(&mut self, end: End, standby_end: Option<End>) -> Result<(), String> {
        let history = &self.workload.history;
        let judge = |messages: &Messages, cut: Moment| Expected {
            required: history.required(messages, cut),
            log_end: Lsn::INVALID,
        };
        let acknowledged = history.acknowledged();
        let mut look = Look {
            scenario: self.scenario,
            images: self.images,
            random: &mut self.random,
            tally: self.tally,
            history,
        };
        self.primary.required = acknowledged;
        // The standby was not cut at the same moment, and a primary never sends what it may lose: it goes on with all
        // that it had sent.
        let from = if self.standby.is_some() { PowerLoss::AtTheEnd } else { PowerLoss::Anywhere };
        look.life(&mut self.primary, &judge, (end == End::PowerLoss).then_some(from))?;
        let (Some(standby), Some(standby_end)) = (&mut self.standby, standby_end) else { return Ok(()) };
        let log_end = standby.log_end;
        let nothing = history.nothing();
        let judge = |messages: &Messages, cut: Moment| {
            let reports = messages.reports.iter().filter(|report| report.moment <= cut);
            let log_end = reports.map(|report| report.flush).fold(log_end, Lsn::max);
            Expected { required: nothing.clone(), log_end }
        };
        let power_loss = (standby_end == End::PowerLoss).then_some(PowerLoss::Anywhere);
        look.life(standby, &judge, power_loss).map_err(|error| format!("standby: {error}"))
    }
}

/// Ends a node's life, unless it has ended.
fn finish(recorded: &mut Recorded, end: End) -> Result<(), String> {
    if !recorded.node.started() {
        return Ok(());
    }
    if end == End::Stop && procfs::runs(recorded.node.pid()) {
        recorded.node.stop();
        return Ok(());
    }
    let victims = victims_if_running(&recorded.node, end)?;
    victims.into_iter().for_each(kill);
    let pid = recorded.node.pid();
    // A node that outlives the death of a child is ended otherwise.
    if wait::within(Duration::from_secs(10), || (!procfs::runs(pid)).then_some(())).is_none() {
        recorded.node.kill_all();
    } else {
        recorded.node.wait_end();
    }
    Ok(())
}

fn victims_if_running(node: &Node, end: End) -> Result<Vec<Pid>, String> {
    if procfs::runs(node.pid()) { victims(node, end).or_else(|_| Ok(Vec::new())) } else { Ok(Vec::new()) }
}

fn victims(node: &Node, end: End) -> Result<Vec<Pid>, String> {
    let postmaster = node.pid();
    let mut pids = vec![postmaster];
    match end {
        End::Stop => pids.clear(),
        End::KillAll | End::PowerLoss => pids.extend(procfs::children(postmaster)),
        End::KillPostmaster => {}
        End::KillChild(kind) => {
            let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'");
            let mut client = node.try_client().map_err(|error| error.to_string())?;
            let answer = client.query(&sql).map_err(|error| error.to_string())?;
            let pid = answer.rows.into_iter().flatten().flatten().next().and_then(|pid| pid.parse().ok());
            pids = vec![Pid(pid.ok_or_else(|| format!("there is no {kind}"))?)];
        }
    }
    Ok(pids)
}

fn kill(pid: Pid) {
    // It may have gone already with its parent.
    let _gone = process::kill(pid, Signal::Kill);
}
