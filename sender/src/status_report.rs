//! What a node says of itself when its owner asks (`status`): role, positions, who it follows and who follows it, what is
//! waited for, and what is wrong, each in a sentence that says what to do.
//!
//! Asked by a packet of its own instead of a startup packet, so no role, password or database is needed: the kernel tells
//! who is at the other end of a Unix socket, and the owner of the node's files (or root) may know. It is answered in every
//! state of the node. Where clients aren't let in, the process that answers has no place in shared memory, and shared memory
//! may be in the middle of a crash: then it takes no lock and tells what atomics alone can tell ([`Sight`]).

use std::sync::atomic::Ordering;

use ipc::proc::{BackendType, ProcNumber};
use ipc::wait_event::WaitEvent;
use postmaster::refusal::Refusal;
use sys::net::PeerAddr;
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;
use wire::backend::{self, TransactionStatus};
use wire::error::ErrorResponse;
use wire::sqlstate;

use crate::connection::Connection;
use crate::node::Node;
use crate::recovery_state::PauseState;
use crate::replication_slots::retention::{Limits, WalStatus};
use crate::session::stat_views::interval;
use crate::sync_rep::{self, Awaited, Confirmation, quorum, shortfall};
use crate::walreceiver_state::WalRcvState;

/// What of shared memory may be looked at.
#[derive(Clone, Copy, Debug)]
pub enum Sight {
    /// All of it: the process is one of the node's.
    All,
    /// Atomics alone, as clients are refused for this reason.
    WithoutLocks(Refusal),
}

/// Answers the request, if it comes from who may ask.
///
/// # Errors
/// 28000: it doesn't. Or the client is gone.
pub(crate) fn tell_status(
    node: &Node,
    connection: &mut Connection,
    sight: Sight,
) -> Result<(), ErrorResponse> {
    let uid = match connection.peer() {
        PeerAddr::Unix => connection.stream().peer_uid().ok(),
        PeerAddr::Tcp(_) => None,
    };
    if uid.is_none_or(|uid| uid != 0 && uid != sys::process::effective_uid()) {
        let message = "the status is told to the owner of the data directory alone, over the Unix socket";
        return Err(ErrorResponse::fatal(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message));
    }
    let out = connection.output();
    let column = backend::Column { name: "status", column_type: wire::types::TEXT, typmod: -1 };
    backend::row_description(out, &[column]);
    for line in lines(node, sight) {
        let mut row = backend::DataRow::begin(out);
        row.text(&line);
        row.finish()?;
    }
    backend::command_complete(out, "STATUS");
    backend::ready_for_query(out, TransactionStatus::Idle);
    connection.flush()
}

/// A line of the report: what is told, in a column of its own, then it.
pub fn line(label: &str, text: &str) -> String {
    format!("{:<19} {text}", format!("{label}:"))
}

fn lines(node: &Node, sight: Sight) -> Vec<String> {
    let follows = node.recovery.in_recovery() && node.data.is_standby();
    let mut lines = vec![
        line("Role", if follows { "standby" } else { "primary" }),
        line("State", &state(node, sight)),
        line("System identifier", &node.system_identifier.to_string()),
        line("Timeline", &node.wal.timeline().to_string()),
        line("Log", &log(node, follows)),
        line("Tables", &tables(node)),
        line("Last checkpoint", &format!("redo from {}", node.wal.redo())),
    ];
    if follows {
        lines.push(line("Upstream", &upstream(node)));
    }
    if matches!(sight, Sight::All) {
        push_all(&mut lines, "Standbys", standbys(node));
        push_all(&mut lines, "Slots", slots(node));
        lines.push(line("Sessions", &node.sessions.taken().to_string()));
        push_all(&mut lines, "Waits", waits(node));
    }
    let mut wrong = wrong(node, follows);
    if matches!(sight, Sight::All) {
        wrong.extend(wrong_with_quorum(node));
        wrong.extend(wrong_with_slots(node));
    }
    push_all(&mut lines, "What is wrong", wrong);
    lines
}

/// One line for each, with the label before the first; `none` if there is none.
fn push_all(lines: &mut Vec<String>, label: &str, texts: Vec<String>) {
    if texts.is_empty() {
        lines.push(line(label, "none"));
    }
    for (number, text) in texts.iter().enumerate() {
        match number {
            0 => lines.push(line(label, text)),
            _ => lines.push(format!("{:<19} {text}", "")),
        }
    }
}

fn state(node: &Node, sight: Sight) -> String {
    match sight {
        Sight::WithoutLocks(refusal) => match refusal.detail() {
            Some(detail) => format!("{} ({detail})", refusal.message()),
            None => refusal.message().to_owned(),
        },
        Sight::All if node.recovery.in_recovery() => "follows its upstream, lets clients read".to_owned(),
        Sight::All => "takes writes".to_owned(),
    }
}

fn log(node: &Node, follows: bool) -> String {
    let wal = node.wal;
    let flushed = wal.flush_lsn();
    if follows {
        let written = node.walreceiver.written_lsn().max(flushed);
        return format!("received {written}, durable {flushed}, safe to show {}", wal.horizon().min(flushed));
    }
    let mut text = format!("inserted {}, durable {flushed}", wal.insert_lsn());
    if sync_rep::is_synchronous(node) {
        text += &format!(", confirmed by synchronous standbys {}", wal.horizon().min(flushed));
    }
    text
}

fn tables(node: &Node) -> String {
    let applied = node.recovery.applied();
    let behind = node.wal.flush_lsn().saturating_since(applied);
    format!("have the log up to {applied}, {behind} bytes behind what is durable")
}

fn upstream(node: &Node) -> String {
    let shared = node.walreceiver;
    if node.settings().primary_conninfo.is_empty() {
        return "none set (primary_conninfo)".to_owned();
    }
    let state = shared.state();
    if !matches!(state, WalRcvState::Streaming | WalRcvState::Waiting | WalRcvState::Restarting) {
        return format!("{}; {}", state.name(), shown_conninfo(node));
    }
    let slot = shared.slot_name.get();
    let slot = if slot.is_empty() { "without a slot".to_owned() } else { format!("by slot \"{slot}\"") };
    let told = Lsn(shared.latest_end.load(Ordering::Relaxed));
    let behind = told.saturating_since(node.recovery.applied());
    format!(
        "{} from {} port {} {slot}, {behind} bytes behind it, last heard of at {}",
        state.name(),
        shared.sender_host.get(),
        shared.sender_port.load(Ordering::Relaxed),
        Timestamp(shared.last_msg_receipt_time.load(Ordering::Relaxed)),
    )
}

fn shown_conninfo(node: &Node) -> String {
    match wire::conninfo::Conninfo::parse(&node.settings().primary_conninfo) {
        Ok(conninfo) => conninfo.redacted(),
        Err(error) => error.to_string(),
    }
}

fn standbys(node: &Node) -> Vec<String> {
    let settings = node.settings();
    let members = sync_rep::members(node);
    let flushed = node.wal.flush_lsn();
    let standing = node.walsenders.iter().enumerate().filter_map(|(index, slot)| {
        let status = &node.statuses[slot.owner()?.index()];
        let kind = quorum::sync_state(&settings.synchronous_standby_names, &members, index);
        let address = status.client_addr.get();
        let address = if address.is_empty() { "local".to_owned() } else { address };
        let name = format!("{} ({address})", status.application_name.get());
        if let Some(phase) = slot.backup.phase() {
            return Some(format!("{name}: {}, {} bytes", phase.name(), slot.backup.streamed()));
        }
        let lags = slot.lags();
        let lag = lags.apply.or(lags.flush).map_or(String::new(), |lag| format!(", {} late", interval(lag)));
        let at = |lsn: Lsn| if lsn.is_valid() { lsn.to_string() } else { "?".to_owned() };
        Some(format!(
            "{name}: {}, {}, has durable {}, applied {}, {} bytes behind{lag}",
            slot.state().name(),
            kind.name(),
            at(slot.flush_lsn()),
            at(slot.apply_lsn()),
            flushed.saturating_since(slot.flush_lsn().max(slot.write_lsn())),
        ))
    });
    standing.collect()
}

fn slots(node: &Node) -> Vec<String> {
    let end = node.wal.flush_lsn();
    let told = node.replication_slots.views().into_iter().map(|slot| {
        let used = if slot.holder_pid == 0 { "not in use" } else { "in use" };
        let kept = match slot.restart_lsn.is_valid() {
            true => format!("holds {} bytes of log", end.saturating_since(slot.restart_lsn)),
            false => "holds no log".to_owned(),
        };
        format!("{}: {used}, {kept}", slot.name)
    });
    told.collect()
}

/// Who waits for what, but for processes that have nothing to do and sessions whose client is silent.
fn waits(node: &Node) -> Vec<String> {
    let mut waits: Vec<(BackendType, WaitEvent, usize)> = Vec::new();
    for number in (0..).map(ProcNumber).take(node.procs.len()) {
        let proc = node.procs.slot(number);
        let event = match node.requests.is_waiting(number) {
            true => Some(WaitEvent::SyncRep),
            false => proc.wait_event(),
        };
        let (Some(_), Some(kind), Some(event)) = (proc.pid(), proc.backend_type(), event) else { continue };
        if event.type_name() == "Activity" || event == WaitEvent::ClientRead {
            continue;
        }
        match waits.iter_mut().find(|(other, waited, _)| (*other, *waited) == (kind, event)) {
            Some((_, _, count)) => *count += 1,
            None => waits.push((kind, event, 1)),
        }
    }
    let told = waits.into_iter().map(|(kind, event, count)| {
        format!("{} ({count}): {}, {}", kind.name(), event.name(), event.description())
    });
    told.collect()
}

/// What atomics tell.
fn wrong(node: &Node, follows: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |sentence: String| wrong.push(sentence);
    if node.wal.no_room_until.load(Ordering::Relaxed) != 0 {
        say("The disk of the log is full: writes are refused until there is room.".to_owned());
    }
    if node.recovery.has_no_room() {
        say("The disk of the tables is full: nothing is applied until there is room.".to_owned());
    }
    if follows {
        say_of_following(node, &mut say);
    }
    if let Some(end) = node.sync_rep.required() {
        say(format!(
            "Nobody is let in until the synchronous standbys have confirmed the log up to {end}, as the machine was restarted."
        ));
    } else if sync_rep::awaits_first_quorum(node) {
        say("No quorum of synchronous standbys has answered since the start; clients are told that transactions are read-only.".to_owned());
    }
    let archiver = node.archiver;
    let failed = archiver.last_failed_time.load(Ordering::Relaxed);
    if failed > archiver.last_archived_time.load(Ordering::Relaxed) {
        say(format!(
            "archive_command has failed {} times, at {} for {}: the log since then is kept here until it succeeds.",
            archiver.failed_count.load(Ordering::Relaxed),
            Timestamp(failed),
            archiver.last_failed_wal.get()
        ));
    }
    wrong
}

fn say_of_following(node: &Node, say: &mut impl FnMut(String)) {
    let settings = node.settings();
    let shared = node.walreceiver;
    if settings.primary_conninfo.is_empty() && settings.restore_command.is_empty() {
        say("Neither primary_conninfo nor restore_command is set: the standby reads its own log only."
            .to_owned());
    } else if !settings.primary_conninfo.is_empty() && shared.state() != WalRcvState::Streaming {
        let why = shared.last_error.get();
        let why = if why.is_empty() { "it is being tried".to_owned() } else { why };
        say(format!("The standby does not stream: {}.", why.trim_end_matches('.').replace('\n', " ")));
    }
    if node.recovery.pause_state() != PauseState::NotPaused {
        say("Replay is paused: SELECT pg_wal_replay_resume() lets it go on.".to_owned());
    }
}

/// Who is missing for commits to be acknowledged.
fn wrong_with_quorum(node: &Node) -> Vec<String> {
    let settings = node.settings();
    let standbys = &settings.synchronous_standby_names;
    if standbys.is_empty() || node.recovery.in_recovery() {
        return Vec::new();
    }
    let awaited = Awaited { lsn: node.wal.flush_lsn(), confirmation: Confirmation::Durable };
    let members = sync_rep::members(node);
    if quorum::confirmed(standbys, &members).is_some() && awaited.has_come(node) {
        return Vec::new();
    }
    let missing = shortfall::missing(node, awaited);
    if missing.is_empty() {
        return Vec::new();
    }
    vec![format!("Commits need synchronous standbys ('{}') that are missing: {missing}.", standbys.text())]
}

fn wrong_with_slots(node: &Node) -> Vec<String> {
    let slots = node.replication_slots;
    let limits = Limits::now(node, node.wal.flush_lsn());
    let needed = slots.needed_lsn();
    let told = slots.views().into_iter().filter_map(|slot| {
        if slot.is_invalidated {
            return Some(format!("Slot \"{}\" has lost log that it held: drop it, and clone its standby again.", slot.name));
        }
        if !slot.restart_lsn.is_valid() {
            return None;
        }
        let is_active = slot.holder_pid != 0;
        match limits.wal_status(slot.restart_lsn, needed, is_active) {
            WalStatus::Reserved => None,
            WalStatus::Extended if is_active => None,
            WalStatus::Extended => Some(format!(
                "Slot \"{}\" is not in use and holds more log than max_wal_size: if its standby is gone, drop it.",
                slot.name
            )),
            WalStatus::Unreserved | WalStatus::Lost => Some(format!(
                "Slot \"{}\" is about to lose log that it needs (max_slot_wal_keep_size).",
                slot.name
            )),
        }
    });
    told.collect()
}
