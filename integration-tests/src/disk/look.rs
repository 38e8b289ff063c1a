//! Looks at the life of a recorded node: the orders held, and a node started on each of the images chosen.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use wal::lsn::Lsn;

use super::campaign::Tally;
use super::history::{History, Required, Rows};
use super::image::{Image, Survival};
use super::messages::Messages;
use super::model::{Disk, read_tree};
use super::orders::Watch;
use super::recorder::{self, Maker, Recorder};
use super::trace::{Call, Moment, Trace};
use super::verify::{self, Depth, Trial};
use crate::node::{Node, Role};
use crate::random::Random;
use crate::scenario::Scenario;

/// A node whose lives are recorded.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) role: Role,
    pub(super) scope: PathBuf,
    pub(super) node: Node,
    pub(super) recorder: Recorder,
    pub(super) disk: Disk,
    /// What the log was called durable up to when the present life began.
    pub(super) log_end: Lsn,
    /// What must be there when the next life begins.
    pub(super) required: Required,
    tried: HashSet<u64>,
}

/// When the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PowerLoss {
    /// At any moment of the life.
    Anywhere,
    /// When all processes have been killed.
    AtTheEnd,
}

impl Recorded {
    /// The command that makes the directory (`primary init`, or `standby clone` of a node), recorded too: whatever is left of
    /// one whose making was cut short doesn't start as a node that lacks something; one whose making has ended does start.
    pub(super) fn made(maker: &Maker<'_>, making: &mut Making<'_>) -> Result<Recorded, String> {
        let Making { scenario, history, random, images, tally } = making;
        let (name, role) = match maker {
            Maker::Init => ("primary", Role::Primary),
            Maker::Clone { .. } => ("standby", Role::Standby),
        };
        let scope = scenario.path(name);
        fs::create_dir_all(&scope).map_err(|error| error.to_string())?;
        let mut disk = Disk::new(&read_tree(&scope).map_err(|error| error.to_string())?);
        let path = scenario.path(&format!("{name}.made.trace"));
        let data = verify::data_directory(&scope);
        let trace = recorder::make(maker, &data, &scope, &path)?;
        let trial = Trial::new(scenario, role, Depth::default());
        let allowed = |rows: &Rows| history.check(rows, &history.nothing());
        let mut cuts = cuts(&trace, &Messages::default(), random, *images);
        cuts.push(trace.end);
        let messages = Messages::default();
        let mut watch = Watch::new(&disk, &trace, &messages, history);
        walk(&mut disk, &trace, &cuts, &mut watch, |disk, cut| {
            let survival = if cut == trace.end { Survival::Nothing } else { Survival::random(random) };
            let image = Image::of(disk, survival);
            tally.images += 1;
            match trial.run(&image, &allowed, Lsn::INVALID) {
                Err(error) if cut == trace.end || !error.starts_with("it ended") => {
                    Err(keep(scenario, &image, format!("{name} made, {cut:?}, {survival:?}: {error}")))
                }
                _ => Ok(()),
            }
        })?;
        disk.settle(&scope)?;
        let recorder = Recorder::new(&scope, scenario.root());
        let node = Node::at(scenario, &format!("{name}/data"), role);
        let (log_end, required, tried) = (Lsn::INVALID, history.nothing(), HashSet::new());
        Ok(Recorded { role, scope, node, recorder, disk, log_end, required, tried })
    }
}

/// What the making of a node's directory is looked at with.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) history: &'a History,
    pub(super) random: &'a mut Random,
    pub(super) images: usize,
    pub(super) tally: &'a mut Tally,
}

/// What an image must hold.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) required: Required,
    pub(super) log_end: Lsn,
}

/// Who looks at the images of lives.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) images: usize,
    pub(super) random: &'a mut Random,
    pub(super) tally: &'a mut Tally,
    pub(super) history: &'a History,
}

impl Look<'_> {
    /// Tries images of the life that has ended. After a power loss the node's directory is one of them.
    pub(super) fn life(
        &mut self,
        recorded: &mut Recorded,
        judge: &dyn Fn(&Messages, Moment) -> Expected,
        power_loss: Option<PowerLoss>,
    ) -> Result<(), String> {
        let trace = recorded.recorder.life()?;
        let messages = Messages::of(&trace);
        let mut cuts = cuts(&trace, &messages, self.random, self.images);
        if self.images > 0 || power_loss.is_some() {
            cuts.push(trace.end);
        }
        let mut goes_on: Option<(Image, Expected)> = None;
        let Recorded { disk, tried, role, .. } = recorded;
        let syncs = disk.syncs;
        let mut watch = Watch::new(disk, &trace, &messages, self.history);
        walk(disk, &trace, &cuts, &mut watch, |disk, cut| {
            let survival = Survival::random(self.random);
            let image = Image::of(disk, survival);
            let expected = judge(&messages, cut);
            // Cuts come in order, so what was required of a like image before was no more than now.
            let candidate =
                power_loss == Some(PowerLoss::Anywhere) || power_loss.is_some() && cut == trace.end;
            if candidate && (goes_on.is_none() || self.random.below(3) == 0) {
                goes_on = Some((image.clone(), judge(&messages, cut)));
            }
            if !tried.insert(image.fingerprint()) && self.random.below(4) != 0 {
                self.tally.repeated += 1;
                return Ok(());
            }
            self.try_image(*role, &image, &expected)
                .map_err(|error| keep(self.scenario, &image, format!("{cut:?}, {survival:?}: {error}")))
        })?;
        if !watch.found.broken.is_empty() {
            return Err(watch.found.to_string());
        }
        self.tally.orders.add(watch.found);
        self.tally.syncs += disk.syncs - syncs;
        self.tally.lives += 1;
        disk.settle(&recorded.scope).map_err(|error| format!("the recording is not whole: {error}"))?;
        recorded.log_end = judge(&messages, trace.end).log_end;
        if let Some((image, expected)) = goes_on {
            recorded.replace(&image, expected)?;
        }
        let _kept_when_it_fails = fs::remove_file(recorded.recorder.last_path());
        Ok(())
    }

    fn try_image(&mut self, role: Role, image: &Image, expected: &Expected) -> Result<(), String> {
        self.tally.images += 1;
        let depth = Depth {
            prune: self.random.below(2) == 0,
            again: self.random.below(8) == 0,
            rebuild: self.random.below(4) == 0,
        };
        let allowed = |rows: &Rows| self.history.check(rows, &expected.required);
        Trial::new(self.scenario, role, depth).run(image, &allowed, expected.log_end)
    }
}

impl Recorded {
    /// The node goes on with an image.
    fn replace(&mut self, image: &Image, expected: Expected) -> Result<(), String> {
        let io = |error: io::Error| format!("could not replace the directory: {error}");
        fs::remove_dir_all(&self.scope).map_err(io)?;
        image.write_to(&self.scope).map_err(io)?;
        self.disk = Disk::new(&image.files);
        if self.role == Role::Primary {
            self.required = expected.required;
        }
        self.log_end = expected.log_end;
        Ok(())
    }
}

/// Leaves the image where it is found.
fn keep(scenario: &Scenario, image: &Image, what: String) -> String {
    let failed = scenario.path("failed");
    let kept = image.write_to(&failed).and_then(|()| fs::write(scenario.path("fates"), &image.fates));
    let kept = kept.map_or_else(|error| format!(" (which could not be kept: {error})"), |()| String::new());
    format!("image{kept} at {what}")
}

/// Applies a trace to the disk and stops at each cut.
fn walk(
    disk: &mut Disk,
    trace: &Trace,
    cuts: &[Moment],
    watch: &mut Watch<'_>,
    mut at_cut: impl FnMut(&Disk, Moment) -> Result<(), String>,
) -> Result<(), String> {
    let mut cuts = cuts.iter().peekable();
    for (moment, operation) in trace.events() {
        while let Some(cut) = cuts.next_if(|cut| **cut < moment) {
            at_cut(disk, *cut)?;
        }
        if moment == operation.begin {
            watch.begin(disk, operation);
            disk.begin(operation).map_err(|error| format!("{moment:?}: {error}"))?;
        } else {
            disk.end(operation);
        }
    }
    cuts.try_for_each(|cut| at_cut(disk, *cut))
}

/// Moments at which to cut, in order: right behind answers, right before the end of syncs, before the first session, and
/// anywhere.
fn cuts(trace: &Trace, messages: &Messages, random: &mut Random, count: usize) -> Vec<Moment> {
    let answers: Vec<Moment> = messages.answers.values().flatten().map(|answer| answer.moment).collect();
    let reports = messages.reports.iter().map(|report| report.moment);
    let told: Vec<Moment> = answers.into_iter().chain(reports).collect();
    let on_disk = trace.operations.iter().filter(|operation| !matches!(operation.call, Call::Send { .. }));
    let any: Vec<Moment> = on_disk.clone().flat_map(|op| [Some(op.begin), op.success()]).flatten().collect();
    let first_session = told.iter().min().copied().unwrap_or(trace.end);
    let start: Vec<Moment> = any.iter().filter(|moment| **moment < first_session).copied().collect();
    let syncs = on_disk.filter(|operation| matches!(operation.call, Call::Sync { .. }));
    let syncs: Vec<Moment> = syncs.filter_map(|op| Some(Moment(op.success()?.0 - 1))).collect();
    let mut cuts = BTreeSet::new();
    for _ in 0..count {
        let kinds = [&told, &syncs, &start, &any, &any];
        let kind = *random.pick(&kinds);
        if !kind.is_empty() {
            cuts.insert(*random.pick(kind));
        }
    }
    cuts.into_iter().collect()
}
