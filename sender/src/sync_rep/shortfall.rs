//! Who keeps commits waiting: the line of the log, when it takes longer than `sync_wait_warning`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc::proc::ProcNumber;
use settings::sync_standbys::{Method, SyncStandbys};
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;

use super::quorum::Member;
use super::{Awaited, Confirmation};
use crate::node::Node;
use crate::walsender::slot::WalSndSlot;

/// A walsender with the name of its standby.
#[derive(Clone, Debug)]
pub struct Named {
    /// application_name.
    pub name: String,
    /// What it has confirmed.
    pub member: Member,
}

/// Says once for each stop of the horizon, whoever waits, that it does not move, and because of whom.
pub(super) fn say_once(node: &Node, since: MonoTime, awaited: Awaited) {
    // No record ends at 0, so 0 is no horizon that this was said of.
    let horizon = node.wal.horizon().0;
    if node.sync_rep.warned.swap(horizon, Ordering::Relaxed) == horizon {
        return;
    }
    let standbys = node.settings().synchronous_standby_names.clone();
    let waited = clock::now().saturating_since(since);
    tracing::warn!("{}", describe(&standbys, &named(node), awaited, waited));
}

/// Which standbys are missing for that to be confirmed, and what of them; empty: none that would help.
pub fn missing(node: &Node, awaited: Awaited) -> String {
    let standbys = node.settings().synchronous_standby_names.clone();
    let named = named(node);
    let missing: Vec<String> =
        standbys.names.iter().flat_map(|name| shortfalls(name, &standbys, &named, awaited)).collect();
    missing.join(", ")
}

fn named(node: &Node) -> Vec<Named> {
    let name = |number: ProcNumber| node.statuses[number.index()].application_name.get();
    let of_slot = |(slot, member): (&WalSndSlot, Member)| Some(Named { name: name(slot.owner()?), member });
    node.walsenders.iter().zip(super::members(node)).filter_map(of_slot).collect()
}

/// The text. Pure.
fn describe(standbys: &SyncStandbys, named: &[Named], awaited: Awaited, waited: Duration) -> String {
    let missing: Vec<String> =
        standbys.names.iter().flat_map(|name| shortfalls(name, standbys, named, awaited)).collect();
    let missing =
        if missing.is_empty() { "none of them is behind any more".into() } else { missing.join(", ") };
    let wanted = match standbys.method {
        Method::First => "the first",
        Method::Any => "any",
    };
    format!(
        "commits have been waiting for synchronous replication for {} s: {missing}\nDETAIL:  {wanted} {} of synchronous_standby_names '{}' must have confirmed {}.",
        waited.as_secs(),
        standbys.count,
        standbys.text(),
        awaited.lsn,
    )
}

/// What is missing of the standbys of one name in the list.
fn shortfalls(name: &str, standbys: &SyncStandbys, named: &[Named], awaited: Awaited) -> Vec<String> {
    let priority = standbys.priority(name);
    let is_it = |standby: &&Named| match name {
        "*" => standbys.priority(&standby.name) == priority,
        _ => standby.name.eq_ignore_ascii_case(name),
    };
    let mut connected = named.iter().filter(is_it).peekable();
    if connected.peek().is_none() {
        return vec![match name {
            "*" => "no standby is connected".to_owned(),
            _ => format!("\"{name}\" is not connected"),
        }];
    }
    connected.filter_map(|standby| shortfall(standby, awaited)).collect()
}

fn shortfall(standby: &Named, awaited: Awaited) -> Option<String> {
    let Named { name, member } = standby;
    let (what, position) = match awaited.confirmation {
        Confirmation::Durable => ("flushed", member.reported.flush),
        Confirmation::Applied => ("applied", member.reported.apply),
    };
    if !member.is_candidate() {
        return Some(match member.reported.flush {
            Lsn::INVALID => format!("\"{name}\" has reported no flush (state {})", member.state.name()),
            _ => format!("\"{name}\" is in state {}", member.state.name()),
        });
    }
    (position < awaited.lsn).then(|| format!("\"{name}\" has {what} {position} only"))
}

#[cfg(test)]
mod tests {
    use super::super::quorum::Positions;
    use super::*;
    use crate::walsender::WalSndState;

    fn text(names: &str, standbys: &[(&str, WalSndState, u64)]) -> String {
        let list = SyncStandbys::parse(names).unwrap();
        let named: Vec<Named> = standbys
            .iter()
            .map(|&(name, state, flush)| {
                let reported = Positions { write: Lsn(flush), flush: Lsn(flush), apply: Lsn(flush / 2) };
                Named { name: name.into(), member: Member { priority: list.priority(name), state, reported } }
            })
            .collect();
        let awaited = Awaited { lsn: Lsn(0x100), confirmation: Confirmation::Durable };
        let text = describe(&list, &named, awaited, Duration::from_secs(10));
        text.lines().next().unwrap().split_once(": ").unwrap().1.to_owned()
    }

    #[test]
    fn text_names_who_is_not_there_or_behind() {
        use WalSndState::{Catchup, Streaming};
        for (names, standbys, expected) in [
            ("a", &[][..], "\"a\" is not connected"),
            ("*", &[], "no standby is connected"),
            ("2 (a, b)", &[("B", Streaming, 0x100)], "\"a\" is not connected"),
            (
                "2 (a, b)",
                &[("a", Streaming, 0xF8), ("b", Catchup, 0x80)],
                "\"a\" has flushed 0/F8 only, \"b\" is in state catchup",
            ),
            (
                "ANY 1 (a, b)",
                &[("a", Streaming, 0), ("c", Streaming, 1)],
                "\"a\" has reported no flush (state streaming), \"b\" is not connected",
            ),
            (
                "a, *",
                &[("a", Streaming, 8), ("c", Streaming, 16)],
                "\"a\" has flushed 0/8 only, \"c\" has flushed 0/10 only",
            ),
        ] {
            assert_eq!(text(names, standbys), expected, "{names}");
        }
    }

    #[test]
    fn text_says_what_is_wanted_and_for_how_long() {
        let list = SyncStandbys::parse("ANY 1 (a)").unwrap();
        let awaited = Awaited { lsn: Lsn(0x100), confirmation: Confirmation::Applied };
        assert_eq!(
            describe(&list, &[], awaited, Duration::from_millis(10_400)),
            "commits have been waiting for synchronous replication for 10 s: \"a\" is not connected\nDETAIL:  any 1 of synchronous_standby_names 'ANY 1 (a)' must have confirmed 0/100."
        );
    }
}
