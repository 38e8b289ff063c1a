//! Tells a lost wake-up from slowness: not by the clock, but by what the processes do.
//!
//! When nothing is sent any more and every process sleeps in its wait, nobody is left who could wake anybody.
//! What is unseen then stays so: it is lost. So the watchdog reads of each process whether it sleeps and how
//! often it went to sleep so far; two looks of which the second is the same as the first saw a moment at which all
//! slept. While anything runs, the watchdog waits on. (Its deadline is for a process that spins for ever.)

use std::{fs, time::Duration};

use ipc::proc::{ProcArray, ProcNumber};
use sys::{clock, process::Pid};

use crate::ledger::{Ledger, MEMBERS, slot_of};

/// For a run on a machine that hardly gets anything done.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long the usual case (everything is seen a moment later) is awaited before /proc is asked.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a process does: sleeping, after so many sleeps.
pub(crate) type Sleep = Option<(Pid, u64)>;

/// Returns when everything that was sent is seen. `pass_time` waits for a moment and does what is due
/// meanwhile. The error describes what is lost.
pub(crate) fn settle(procs: &ProcArray, ledger: &Ledger, mut pass_time: impl FnMut()) -> Result<(), String> {
    let start = clock::now();
    let mut last: Vec<Sleep> = Vec::new();
    loop {
        let unseen = (0..MEMBERS).find_map(|member| ledger.unseen(member).map(|what| (member, what)));
        if ledger.is_calm() && unseen.is_none() {
            return Ok(());
        }
        let elapsed = clock::now().saturating_since(start);
        if elapsed > PATIENCE && ledger.is_calm() {
            let sleeps: Vec<Sleep> = (0..MEMBERS).map(|member| sleep_of(procs, slot_of(member))).collect();
            // Seen after the first of the two looks that agree, so nobody has done it meanwhile.
            if let (true, true, Some((member, what))) =
                (sleeps.iter().all(Option::is_some), sleeps == last, unseen)
                && ledger.unseen(member) == Some(what)
            {
                return Err(format!("lost: {what:?} for {}", describe(procs, slot_of(member))));
            }
            last = sleeps;
        }
        if elapsed > DEADLINE {
            let member = unseen.map_or(0, |(member, _)| member);
            return Err(format!(
                "no end, though not all sleep: {unseen:?}; {}",
                describe(procs, slot_of(member))
            ));
        }
        pass_time();
    }
}

/// What the process does, if it sleeps inside a wait.
pub(crate) fn sleep_of(procs: &ProcArray, slot: ProcNumber) -> Sleep {
    let proc = procs.slot(slot);
    let pid = proc.pid()?;
    proc.wait_event()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if !field("State:")?.starts_with('S') {
        return None;
    }
    Some((pid, field("voluntary_ctxt_switches:")?.parse().ok()?))
}

pub(crate) fn describe(procs: &ProcArray, slot: ProcNumber) -> String {
    let proc = procs.slot(slot);
    format!(
        "slot {slot}, pid {:?}, {:?}, waiting for {:?}, {:?}, interrupts {:?}",
        proc.pid(),
        proc.state(),
        proc.wait_event(),
        proc.latch(),
        proc.interrupts()
    )
}
