//! Failpoints: named places before and after what must survive everything, where a test has a process killed, stopped
//! or told that the disk fails, in the middle of a running node.
//!
//! To add one: 1. a row in the table of `site.rs` (its kind says what may go wrong there); 2. at the place: [`io`] around
//! what returns an `io::Result`, [`write`] around a write, [`step`] around what can't fail, [`pass`] for a single place;
//! 3. nothing else: `integration-tests/tests/failpoints.rs` walks over the whole table, and the kill loop draws from it.
//! 4. If its workload doesn't come by there, the test says so: let a step of `kills::errands` do.
//!
//! They are compiled in with the feature `armed` alone, which the programs `primary-failpoints` and
//! `standby-failpoints` have and `primary` and `standby` don't (a test looks into the files). Without it all functions
//! here are what they enclose.
//!
//! A node whose environment has `WALSHIP_FAILPOINTS=FILE` maps that file ([`Board`]); its processes inherit the mapping
//! over fork, and the test maps it too. So an action can be set at any time, for one process among many that run the
//! same code, at its n-th visit, and it happens once. The crate `fail`, which one would reach for, keeps its actions in
//! a registry behind a lock in each process, filled from the environment or by calls from within: a forked child has a
//! copy of its own that nobody outside can reach, a count would begin anew in every child, and "once" would be once
//! per process; nor does it know the death of a process, or which of the node's processes it is in.
//!
//! This crate knows neither the kernel nor the node: who maps the file says what to do about an action ([`install`];
//! `sys::failpoint`). A hit takes no lock and allocates nothing, so it may be anywhere, in a signal handler too.

#![forbid(unsafe_code)]

mod board;
mod site;

pub use board::Board;
pub use site::{Kind, Site};

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether this program has failpoints.
pub const COMPILED_IN: bool = cfg!(feature = "armed");

/// The environment variable that names the board's file.
pub const VARIABLE: &str = "WALSHIP_FAILPOINTS";

/// Of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Nothing has happened yet.
    Before,
    /// It has happened, and nobody knows yet.
    After,
}

/// A site before or after what it encloses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Where.
    pub site: Site,
    /// When.
    pub moment: Moment,
}

impl Point {
    /// All that there are.
    pub fn all() -> impl Iterator<Item = Point> {
        let moments = |site: &Site| {
            let after = (site.kind() != Kind::Spot).then_some(Moment::After);
            let site = *site;
            [Moment::Before].into_iter().chain(after).map(move |moment| Point { site, moment })
        };
        Site::ALL.iter().flat_map(moments)
    }

    /// The errors that can be met there.
    pub fn errors(self) -> &'static [Action] {
        match (self.site.kind(), self.moment) {
            (Kind::Write, Moment::Before) => &[Action::Eio, Action::Enospc, Action::ShortWrite],
            (Kind::Write | Kind::Io, _) => &[Action::Eio, Action::Enospc],
            (Kind::Step | Kind::Spot, _) => &[],
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::After => "after",
        };
        write!(f, "{moment} {}", self.site.name())
    }
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// SIGKILL to the process that is there.
    Kill = 1,
    /// SIGKILL to its postmaster. The process goes on until it notices.
    KillPostmaster,
    /// The process stops, as by SIGSTOP, until somebody sends SIGCONT.
    Pause,
    /// An input/output error: before, in the place of what would be done; after, although it was done.
    Eio,
    /// The same with "no space left on device".
    Enospc,
    /// Half of the bytes are written, then there is no space left.
    ShortWrite,
}

impl Action {
    fn from_code(code: u32) -> Option<Action> {
        use Action::{Eio, Enospc, Kill, KillPostmaster, Pause, ShortWrite};
        [Kill, KillPostmaster, Pause, Eio, Enospc, ShortWrite]
            .into_iter()
            .find(|action| *action as u32 == code)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Kill => "kill",
            Action::KillPostmaster => "kill postmaster",
            Action::Pause => "pause",
            Action::Eio => "EIO",
            Action::Enospc => "ENOSPC",
            Action::ShortWrite => "short write",
        })
    }
}

/// The kind of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Process {
    /// `init`, `clone`, and a node before it has its postmaster.
    Command = 0,
    /// The parent of the others.
    Postmaster,
    /// See `postmaster::child_kind`.
    Startup,
    /// See `postmaster::child_kind`.
    Checkpointer,
    /// See `postmaster::child_kind`.
    WalWriter,
    /// See `postmaster::child_kind`.
    WalReceiver,
    /// See `postmaster::child_kind`.
    Archiver,
    /// Of a client; also one that has become a walsender.
    Backend,
    /// Tells a client why it can't come in.
    DeadEnd,
}

impl Process {
    fn bit(self) -> u32 {
        1 << self as u32
    }

    fn from_code(code: u32) -> Process {
        use Process::{
            Archiver, Backend, Checkpointer, DeadEnd, Postmaster, Startup, WalReceiver, WalWriter,
        };
        let all = [Postmaster, Startup, Checkpointer, WalWriter, WalReceiver, Archiver, Backend, DeadEnd];
        all.into_iter().find(|process| *process as u32 == code).unwrap_or(Process::Command)
    }
}

/// What this crate can't do itself: [`Action::Kill`], [`Action::KillPostmaster`] and [`Action::Pause`].
pub type Hand = fn(Action);

static INSTALLED: OnceLock<(Board, Hand)> = OnceLock::new();
/// What this process is. Inherited over fork until it is said anew.
static PROCESS: AtomicU32 = AtomicU32::new(Process::Command as u32);

/// From now on this process, and those that it forks, are ruled by `board`. The first call counts.
pub fn install(board: Board, hand: Hand) {
    let _first = INSTALLED.set((board, hand));
}

/// From now on this process is of that kind.
pub fn enter(process: Process) {
    if COMPILED_IN {
        PROCESS.store(process as u32, Ordering::Relaxed);
    }
}

/// Encloses what can't fail.
#[inline]
pub fn step<T>(site: Site, what: impl FnOnce() -> T) -> T {
    hit(site, Moment::Before);
    let result = what();
    hit(site, Moment::After);
    result
}

/// A single place.
#[inline]
pub fn pass(site: Site) {
    hit(site, Moment::Before);
}

/// Encloses what the disk may refuse.
#[inline]
pub fn io<T>(site: Site, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    fail(hit(site, Moment::Before))?;
    let result = what();
    fail(hit(site, Moment::After))?;
    result
}

/// Encloses a write of `len` bytes; `write_part` writes some of them.
#[inline]
pub fn write(
    site: Site,
    len: usize,
    mut write_part: impl FnMut(Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    match hit(site, Moment::Before) {
        Some(Action::ShortWrite) => {
            write_part(0..len / 2)?;
            fail(Some(Action::Enospc))?;
        }
        action => fail(action)?,
    }
    write_part(0..len)?;
    fail(hit(site, Moment::After))
}

#[inline]
fn hit(site: Site, moment: Moment) -> Option<Action> {
    if COMPILED_IN { hit_installed(Point { site, moment }) } else { None }
}

/// The errors are for the caller; the rest has happened when this returns.
fn hit_installed(point: Point) -> Option<Action> {
    let (board, hand) = INSTALLED.get()?;
    let action = board.hit(point, Process::from_code(PROCESS.load(Ordering::Relaxed)))?;
    match action {
        Action::Kill | Action::KillPostmaster | Action::Pause => {
            hand(action);
            None
        }
        Action::Eio | Action::Enospc | Action::ShortWrite => Some(action),
    }
}

fn fail(action: Option<Action>) -> io::Result<()> {
    /// Linux's numbers.
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    match action {
        Some(Action::Eio) => Err(io::Error::from_raw_os_error(EIO)),
        Some(Action::Enospc | Action::ShortWrite) => Err(io::Error::from_raw_os_error(ENOSPC)),
        _ => Ok(()),
    }
}
