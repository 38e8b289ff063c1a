//! What is done in a round, and to whom: drawn from the seed before the round begins.

use std::fmt;
use std::time::Duration;

use failpoint::{Action, Point, Site};

use crate::random::Random;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that writes.
    Primary,
    /// The one that follows.
    Standby,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Primary => "primary",
            Side::Standby => "standby",
        })
    }
}

/// Who it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All processes of the node.
    Node,
    /// Its postmaster.
    Postmaster,
    /// A process of this `backend_type`, one of them by chance.
    Child(&'static str),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Node => "whole node",
            Target::Postmaster => "postmaster",
            Target::Child(kind) => kind,
        })
    }
}

/// A victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Of which node.
    pub side: Side,
    /// Which process of it.
    pub target: Target,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}'s {}", self.side, self.target)
    }
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL.
    Kill(Victim),
    /// SIGKILL to every process of both nodes.
    KillBoth,
    /// SIGKILL to a whole node, and again as often while it starts, each time so long after its start.
    KillAgain(Side, Vec<Duration>),
    /// SIGSTOP and, so much later, SIGCONT.
    Pause(Victim, Duration),
    /// SIGSTOP to the one, so that it can't obey; SIGKILL to the other.
    KillBeside(Victim, Victim),
    /// `stop -m MODE`.
    Stop(Side, &'static str),
    /// What a failpoint does to whoever meets it.
    Failpoint(Armed),
}

/// A failpoint to be armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// On which node.
    pub side: Side,
    /// Where.
    pub point: Point,
    /// What happens.
    pub action: Action,
    /// To whom: the how manieth who comes by.
    pub hit: u32,
    /// SIGKILL to the whole node under load, so that it is recovery that meets it, if the load didn't.
    pub kill: bool,
    /// How long an [`Action::Pause`] lasts.
    pub pause: Duration,
}

impl Armed {
    fn draw(random: &mut Random) -> Armed {
        let points: Vec<Point> = Point::all().filter(|point| is_usual(*point)).collect();
        let point = *random.pick(&points);
        let kills = [Action::Kill, Action::Kill, Action::KillPostmaster, Action::Pause];
        let actions: Vec<Action> = kills.iter().chain(point.errors()).copied().collect();
        let action = *random.pick(&actions);
        Armed {
            // A standby logs nothing, the end of a backup of it neither.
            side: match () {
                () if of_standby(point) => Side::Standby,
                () if point.site == Site::BackupEnd => Side::Primary,
                () => side(random),
            },
            point,
            action,
            hit: *random.pick(&[1, 1, 1, 2, 3, 8]),
            kill: random.below(3) == 0 && action != Action::Pause,
            pause: Duration::from_millis(random.below(400)),
        }
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Armed { side, point, action, hit, kill, pause } = self;
        write!(f, "{side}: {action} {point}, visit {hit}")?;
        if *action == Action::Pause {
            write!(f, ", for {pause:?}")?;
        }
        if *kill { f.write_str(", and SIGKILL to the node") } else { Ok(()) }
    }
}

impl Deed {
    /// The next one.
    pub fn draw(random: &mut Random) -> Deed {
        match random.below(160) {
            0..46 => Deed::Kill(victim(random)),
            46..52 => Deed::KillBoth,
            52..64 => {
                let again = (0..=random.below(3)).map(|_| Duration::from_micros(random.below(60_000)));
                let again = again.collect();
                Deed::KillAgain(side(random), again)
            }
            64..84 => Deed::Pause(victim(random), Duration::from_millis(random.below(400))),
            84..86 => {
                let side = side(random);
                Deed::KillBeside(child(side, random), child(side, random))
            }
            86..94 => Deed::Stop(side(random), "immediate"),
            94..100 => Deed::Stop(side(random), "fast"),
            _ => Deed::Failpoint(Armed::draw(random)),
        }
    }

    /// The kind, for the summary.
    pub fn kind(&self) -> &'static str {
        match self {
            Deed::Kill(_) => "kill",
            Deed::KillBoth => "kill both nodes",
            Deed::KillAgain(..) => "kill, and again while it starts",
            Deed::Pause(..) => "stop and continue",
            Deed::KillBeside(..) => "kill beside a stopped process",
            Deed::Stop(_, "immediate") => "immediate shutdown",
            Deed::Stop(..) => "fast shutdown",
            Deed::Failpoint(armed) => match armed.action {
                Action::Kill => "failpoint: kill",
                Action::KillPostmaster => "failpoint: kill the postmaster",
                Action::Pause => "failpoint: stop and continue",
                Action::Eio => "failpoint: EIO",
                Action::Enospc => "failpoint: ENOSPC",
                Action::ShortWrite => "failpoint: short write",
            },
        }
    }

    /// To whom it is done, for the summary.
    pub fn victim(&self) -> String {
        match self {
            Deed::Kill(victim) | Deed::Pause(victim, _) | Deed::KillBeside(_, victim) => victim.to_string(),
            Deed::KillBoth => "both nodes".to_owned(),
            Deed::KillAgain(side, _) => Victim { side: *side, target: Target::Node }.to_string(),
            Deed::Stop(side, _) => Victim { side: *side, target: Target::Postmaster }.to_string(),
            Deed::Failpoint(armed) => format!("{}'s process at a failpoint", armed.side),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Kill(victim) => write!(f, "SIGKILL to {victim}"),
            Deed::KillBoth => f.write_str("SIGKILL to both nodes"),
            Deed::KillAgain(side, again) => {
                write!(f, "SIGKILL to {side}, and so long after its starts: {again:?}")
            }
            Deed::Pause(victim, pause) => write!(f, "SIGSTOP to {victim}, SIGCONT after {pause:?}"),
            Deed::KillBeside(stopped, victim) => write!(f, "SIGSTOP to {stopped}, SIGKILL to {victim}"),
            Deed::Stop(side, mode) => write!(f, "{mode} shutdown of {side}"),
            Deed::Failpoint(armed) => armed.fmt(f),
        }
    }
}

/// Whether a standby alone comes by there.
pub(super) fn of_standby(point: Point) -> bool {
    point.site.name().starts_with("walreceiver")
}

/// Whether only a promotion comes by there.
pub fn of_promotion(point: Point) -> bool {
    point.site.name().starts_with("promotion")
}

/// Whether a command of the standby's alone comes by there, or who obeys it.
pub fn of_command(point: Point) -> bool {
    ["clone", "demote", "switchover"].iter().any(|command| point.site.name().starts_with(command))
}

/// Whether the processes of a pair come by there that stays what it is.
pub fn is_usual(point: Point) -> bool {
    !of_promotion(point) && !of_command(point)
}

/// Whether a base backup alone comes by there.
pub(super) fn of_backup(point: Point) -> bool {
    point.site.name().starts_with("backup")
}

const PRIMARY: [&str; 8] = [
    "startup",
    "checkpointer",
    "walwriter",
    "walsender",
    "archiver",
    "client backend",
    "client backend",
    "startup",
];
const STANDBY: [&str; 4] = ["startup", "checkpointer", "walreceiver", "client backend"];

fn side(random: &mut Random) -> Side {
    *random.pick(&[Side::Primary, Side::Primary, Side::Standby])
}

fn child(side: Side, random: &mut Random) -> Victim {
    let kind = match side {
        Side::Primary => random.pick(&PRIMARY),
        Side::Standby => random.pick(&STANDBY),
    };
    Victim { side, target: Target::Child(kind) }
}

fn victim(random: &mut Random) -> Victim {
    let side = side(random);
    match random.below(8) {
        0 => Victim { side, target: Target::Node },
        1 => Victim { side, target: Target::Postmaster },
        _ => child(side, random),
    }
}
