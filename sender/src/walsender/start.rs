//! START_REPLICATION: what a request asks for, and whether this node's history has it. Pure.
//!
//! Follows PostgreSQL 15 StartReplication() in src/backend/replication/walsender.c.

use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;
use wire::error::ErrorResponse;
use wire::replication::command::StartReplication;
use wire::sqlstate;

/// What is to be streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First byte.
    pub start: Lsn,
    /// The timeline that was asked for.
    pub timeline: TimelineId,
    /// Where that timeline ended and which one follows; none for the node's newest.
    pub ended: Option<(Lsn, TimelineId)>,
}

impl Plan {
    /// Whether nothing is to be streamed: the timeline ended where the stream would begin. The result set follows
    /// without a copy.
    pub fn is_empty(&self) -> bool {
        self.ended.is_some_and(|(upto, _)| upto == self.start)
    }

    /// Whether the log reaches the start. Asked after the copy has begun, as PostgreSQL does: clients expect it there.
    ///
    /// # Errors
    /// It doesn't.
    pub fn check_flushed(&self, flush: Lsn) -> Result<(), ErrorResponse> {
        if self.start <= flush {
            return Ok(());
        }
        Err(ErrorResponse::error(
            sqlstate::INTERNAL_ERROR,
            format!(
                "requested starting point {} is ahead of the WAL flush position of this server {flush}",
                self.start
            ),
        ))
    }
}

/// Lays out a stream. `history` is that of the node's newest timeline.
///
/// # Errors
/// The timeline is not in this history, or was left before the start.
pub fn plan(request: &StartReplication, history: &TimelineHistory) -> Result<Plan, ErrorResponse> {
    let (start, timeline) = (request.start, request.timeline.unwrap_or(history.tli()));
    let ended = end_of(timeline, history)?;
    if let Some((upto, _)) = ended.filter(|(upto, _)| start > *upto) {
        let message = format!(
            "requested starting point {start} on timeline {timeline} is not in this server's history"
        );
        let detail = format!("This server's history forked from timeline {timeline} at {upto}.");
        return Err(ErrorResponse::error(sqlstate::INTERNAL_ERROR, message).with_detail(detail));
    }
    Ok(Plan { start, timeline, ended })
}

/// Where a timeline ended and which one follows; none for the newest, whose history it is.
///
/// # Errors
/// It is not in the history.
pub fn end_of(
    timeline: TimelineId,
    history: &TimelineHistory,
) -> Result<Option<(Lsn, TimelineId)>, ErrorResponse> {
    if timeline == history.tli() {
        return Ok(None);
    }
    let ended = history.switch_point(timeline).zip(history.next_tli(timeline));
    ended.map(Some).ok_or_else(|| {
        let message = format!("requested timeline {timeline} is not in this server's history");
        ErrorResponse::error(sqlstate::INTERNAL_ERROR, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(start: &str, timeline: Option<u32>) -> StartReplication {
        StartReplication { slot: None, start: start.parse().unwrap(), timeline: timeline.map(TimelineId) }
    }

    fn history() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(5), "1\t0/A02040\tx\n4\t0/B00000\ty\n").unwrap()
    }

    #[test]
    fn plan_finds_where_a_timeline_ended_and_what_follows() {
        let of = |start, timeline| plan(&request(start, timeline), &history()).unwrap();
        assert_eq!(of("0/C00000", None).ended, None);
        assert_eq!(of("0/C00000", Some(5)).ended, None);
        assert_eq!(of("0/A00000", Some(1)).ended, Some((Lsn(0xA0_2040), TimelineId(4))));
        assert_eq!(of("0/A00000", Some(4)).ended, Some((Lsn(0xB0_0000), TimelineId(5))));
        assert!(of("0/A02040", Some(1)).is_empty());
        assert!(!of("0/A02000", Some(1)).is_empty() && !of("0/A02040", Some(5)).is_empty());
    }

    #[test]
    fn plan_refuses_what_is_not_in_the_history() {
        let error = plan(&request("0/A00000", Some(3)), &history()).unwrap_err();
        assert_eq!(error.message, "requested timeline 3 is not in this server's history");
        let error = plan(&request("0/A02048", Some(1)), &history()).unwrap_err();
        assert_eq!(
            error.message,
            "requested starting point 0/A02048 on timeline 1 is not in this server's history"
        );
        let detail = "This server's history forked from timeline 1 at 0/A02040.";
        assert_eq!(error.detail.as_deref(), Some(detail));
    }

    #[test]
    fn start_ahead_of_the_flush_position_is_an_error() {
        let plan = plan(&request("0/C00000", None), &history()).unwrap();
        assert_eq!(plan.check_flushed(Lsn(0xC0_0000)), Ok(()));
        assert_eq!(
            plan.check_flushed(Lsn(0xB0_0000)).unwrap_err().message,
            "requested starting point 0/C00000 is ahead of the WAL flush position of this server 0/B00000"
        );
    }
}
