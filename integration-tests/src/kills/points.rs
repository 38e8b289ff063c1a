//! Walking over all failpoints: each is reached by some errand, something happens there, and nothing is lost.

use std::io::Write;

use failpoint::{Action, Point, Site};
use sys::clock;
use sys::process::Pid;

use super::deed::{Side, of_standby};
use super::ledger::Ledger;
use super::pair::Pair;
use crate::backup;
use crate::client::ClientError;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::{procfs, wait};

/// What makes processes come by; tried in this order, the short ones first.
#[derive(Clone, Copy, Debug)]
enum Errand {
    /// Sessions begin, write, read and end.
    Load,
    /// Segments are begun, and the tables' own log becomes so long that it starts over.
    Fill,
    /// The primary gives a base backup.
    Backup,
    /// A process crashes: the node recovers within its postmaster.
    Crash,
    /// A stop and a start.
    Restart,
    /// All processes are killed, and a start.
    Kill,
}

const ERRANDS: [Errand; 6] =
    [Errand::Load, Errand::Fill, Errand::Backup, Errand::Crash, Errand::Restart, Errand::Kill];

/// After so many points all is checked, not the rows alone.
const WHOLE_CHECK: usize = 10;

/// A pair whose failpoints are walked over.
#[derive(Debug)]
pub struct Walk {
    pair: Pair,
    ledger: Ledger,
    random: Random,
    walked: usize,
}

impl Walk {
    /// Starts the pair, with `settings` (`name=value`).
    pub fn start(scenario: &Scenario, settings: &[&str]) -> Result<Walk, String> {
        let pair = Pair::start(scenario, settings)?;
        let ledger = Ledger::create(&pair.cluster.primary)?;
        Ok(Walk { pair, ledger, random: Random::new(1), walked: 0 })
    }

    /// Has `action` happen at `point`; the process that it has happened to.
    ///
    /// # Errors
    /// No errand came by there; or something was lost.
    pub fn visit(&mut self, point: Point, action: Action, out: &mut dyn Write) -> Result<Pid, String> {
        let begin = clock::now();
        // A primary has rows to put only if it was killed at the right moment.
        let of_standby = of_standby(point) || point.site == Site::TablesPut;
        let side = if of_standby { Side::Standby } else { Side::Primary };
        let board = self.pair.board(side);
        board.arm(point, action, 1, &[]);
        for errand in ERRANDS {
            let postmaster = self.pair.node(side).pid();
            let result = self.run(errand, side);
            if let Some(pid) = board.done_by(point) {
                // Whatever the errand met, it may blame the failpoint for it.
                let result = self.whole(side, action, Pid(pid), postmaster);
                let time = clock::now().saturating_since(begin).as_millis();
                let _ = writeln!(out, "{action} {point}: {errand:?}, {time} ms");
                return result.map(|()| Pid(pid)).map_err(|what| format!("{action} {point}: {what}"));
            }
            result.map_err(|what| format!("on the way to {action} {point}: {errand:?}: {what}"))?;
        }
        Err(format!("nothing came by {point}"))
    }

    fn run(&mut self, errand: Errand, side: Side) -> Result<(), String> {
        match errand {
            Errand::Load => self.load(),
            Errand::Fill => self.ledger.fill(&self.pair.cluster.primary),
            Errand::Backup => {
                match backup::begin(&self.pair.cluster.primary).and_then(backup::take) {
                    // The disk that failed at the point before, or at this one.
                    Err(ClientError::Server(error)) if ["53100", "58030"].contains(&&*error.sqlstate) => {
                        Ok(())
                    }
                    taken => taken.map_err(|error| format!("base backup: {error}")),
                }
            }
            Errand::Crash => {
                let client = self.pair.node(side).try_client().map_err(|error| error.to_string())?;
                self.pair.kill_child(side, Pid(client.backend_pid))?;
                self.pair.heal().map(|_| ())
            }
            Errand::Restart => {
                self.pair.stop(side, "fast")?;
                self.pair.heal().map(|_| ())
            }
            Errand::Kill => {
                self.pair.node(side).kill_all();
                self.pair.heal().map(|_| ())
            }
        }
    }

    fn load(&mut self) -> Result<(), String> {
        self.ledger.connect(&self.pair.cluster.primary, &self.pair.cluster.standby)?;
        self.ledger.send(&mut self.random, 6);
        self.ledger.read()?;
        self.pair.level().map(|_| ())
    }

    /// Both nodes serve again, and nothing is lost.
    fn whole(&mut self, side: Side, action: Action, pid: Pid, postmaster: Pid) -> Result<(), String> {
        self.ledger.read()?;
        match action {
            Action::Kill => self.pair.wait_noticed(side, pid)?,
            Action::KillPostmaster => {
                let gone = wait::within(wait::DEADLINE, || (!procfs::runs(postmaster)).then_some(()));
                gone.ok_or_else(|| format!("postmaster {postmaster} runs on"))?;
            }
            _ => {}
        }
        self.walked += 1;
        let all = self.walked.is_multiple_of(WHOLE_CHECK);
        self.pair.steady(|pair, end| {
            self.ledger.check(&pair.cluster.primary)?;
            if all { pair.check(end, false) } else { Ok(()) }
        })
    }

    /// A last look at everything, and the end.
    pub fn end(mut self) -> Result<(), String> {
        self.ledger.check(&self.pair.cluster.primary)?;
        let end = self.pair.heal()?;
        self.pair.check(end, true)?;
        self.pair.stop_both()
    }
}
