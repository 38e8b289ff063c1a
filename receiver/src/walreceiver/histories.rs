//! Which timelines the upstream has, and whether they are this node's.
//!
//! Before it streams, and again at the end of a timeline, the walreceiver fetches the history of the upstream's newest
//! timeline and of those that lead there from this node's, and puts them into pg_wal: where the log goes over to
//! another timeline the startup process decides by them. A file that is there and says something else is of a promotion
//! that was never completed here, and is replaced.
//!
//! The history of the timeline that this node is on is compared, and never replaced: two nodes that were promoted to the same
//! number, be it at the same position, are told apart by it (the reason in it ends in a random number).
//!
//! Follows PostgreSQL 15 WalRcvFetchTimeLineHistoryFiles() in src/backend/replication/walreceiver.c; differs in: the
//! comparison, and fetching along the newest timeline's history instead of every number.

use std::sync::atomic::Ordering;

use sender::archive_status;
use sender::client::{QueryResult, ServerConnection};
use sender::node::Node;
use sender::walreceiver_state::WalRcvState;
use wal::history::TimelineHistory;
use wal::segment::history_file_name;
use wal::store::SegmentStore;
use wal::timeline::TimelineId;

use super::process::End;

/// Fetches what this node lacks of the histories up to the upstream's `newest` timeline, and publishes that one; its history.
///
/// # Errors
/// The upstream's timeline of this node's number is another one, what it sends is no history, or the disk fails.
pub(super) fn fetch(
    node: &Node,
    upstream: &mut ServerConnection,
    newest: TimelineId,
) -> Result<TimelineHistory, End> {
    let theirs = match newest {
        TimelineId::FIRST => TimelineHistory::without_file(newest),
        newest => ask(upstream, newest)?,
    };
    let store = node.segment_store();
    let current = node.wal.timeline();
    let on_the_way = theirs.entries().iter().map(|entry| entry.tli);
    for timeline in on_the_way.filter(|tli| *tli >= current && *tli > TimelineId::FIRST) {
        let history = ask(upstream, timeline)?;
        compare_or_put(node, &store, current, &history)?;
    }
    if newest > TimelineId::FIRST {
        compare_or_put(node, &store, current, &theirs)?;
    }
    node.walreceiver.upstream_timeline.store(newest.0, Ordering::Relaxed);
    Ok(theirs)
}

/// Asks for the history of one timeline.
fn ask(upstream: &mut ServerConnection, timeline: TimelineId) -> Result<TimelineHistory, End> {
    let results = upstream
        .query(&format!("TIMELINE_HISTORY {timeline}"))
        .map_err(End::of_connection("could not receive timeline history file from the primary server"))?;
    parse(timeline, &results).map_err(End::Failed)
}

/// Reads the answer to TIMELINE_HISTORY.
///
/// # Errors
/// It is none; the text says what is wrong with it.
pub fn parse(timeline: TimelineId, results: &[QueryResult]) -> Result<TimelineHistory, String> {
    let rows: Vec<_> = results.iter().flat_map(|result| &result.rows).collect();
    let [row] = rows[..] else {
        return Err(format!(
            "invalid response from primary server\nDETAIL:  Expected 1 tuple with 2 fields, got {} tuples.",
            rows.len()
        ));
    };
    let text = |index: usize| {
        row.get(index).and_then(Option::as_deref).map(String::from_utf8_lossy).unwrap_or_default()
    };
    if text(0) != history_file_name(timeline) {
        return Err(format!(
            "primary reported unexpected file name for timeline history file of timeline {timeline}"
        ));
    }
    TimelineHistory::parse(timeline, &text(1)).map_err(|error| error.to_string())
}

/// Puts a history into pg_wal, unless it is there; that of the present timeline must be the same.
fn compare_or_put(
    node: &Node,
    store: &SegmentStore,
    current: TimelineId,
    theirs: &TimelineHistory,
) -> Result<(), End> {
    let timeline = theirs.tli();
    // What can't be read is replaced.
    let ours = store.read_history(timeline).ok().flatten();
    match ours {
        Some(ours) if ours.entries() == theirs.entries() => return Ok(()),
        Some(ours) if timeline == current => return Err(End::Failed(other_timeline(&ours, theirs))),
        _ => {}
    }
    // A promotion that goes on meanwhile has revoked the request, and is about to write a history itself.
    let _alone = node.control_lock.lock();
    if node.walreceiver.state() == WalRcvState::Stopped {
        return Err(End::Terminated);
    }
    tracing::info!("fetching timeline history file for timeline {timeline} from primary server");
    store.write_history(theirs).map_err(|error| End::Failed(error.to_string()))?;
    archive_status::note(node, &history_file_name(timeline));
    Ok(())
}

fn other_timeline(ours: &TimelineHistory, theirs: &TimelineHistory) -> String {
    let began = |history: &TimelineHistory| match history.entries().last() {
        Some(entry) => format!("at {} ({})", entry.switch_point, entry.reason),
        None => "with the log".to_owned(),
    };
    format!(
        "timeline {} of the primary is not the timeline {} of this standby\nDETAIL:  The primary's began {}, the standby's {}.\nHINT:  Both were promoted. Stop this node and let it follow with \"standby demote\".",
        theirs.tli(),
        ours.tli(),
        began(theirs),
        began(ours)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, content: &str) -> Vec<QueryResult> {
        let value = |text: &str| Some(text.as_bytes().to_vec());
        vec![QueryResult { rows: vec![vec![value(name), value(content)]], ..QueryResult::default() }]
    }

    #[test]
    fn history_is_read_from_the_answer_and_what_is_none_is_refused() {
        let content = "1\t0/A02040\tno recovery target specified, promotion 1";
        let history = parse(TimelineId(2), &answer("00000002.history", content)).unwrap();
        assert_eq!(history.format(), content);
        for (answer, part) in [
            (vec![], "got 0 tuples"),
            (
                answer("00000003.history", content),
                "unexpected file name for timeline history file of timeline 2",
            ),
            (answer("00000002.history", "x"), "syntax error in history file: x"),
        ] {
            let error = parse(TimelineId(2), &answer).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn two_promotions_at_one_position_are_told_apart_by_their_numbers() {
        let promoted = |id: &str| {
            let content = format!("1\t0/A02040\tno recovery target specified, promotion {id}");
            TimelineHistory::parse(TimelineId(2), &content).unwrap()
        };
        assert_ne!(promoted("a").entries(), promoted("b").entries());
        let said = other_timeline(&promoted("a"), &promoted("b"));
        assert!(
            said.contains("The primary's began at 0/A02040 (no recovery target specified, promotion b)"),
            "{said}"
        );
    }
}
