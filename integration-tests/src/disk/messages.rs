//! What the processes of a node said to others, and when: answers to clients, log sent, positions reported.
//!
//! A message counts from the begin of the send that brings its last byte: its receiver may have it as soon as the
//! process was let go. It has a decoder of its own, as [`crate::client`] has, and for the same reason.

use std::collections::BTreeMap;
use std::rc::Rc;

use wal::lsn::Lsn;

use super::trace::{Call, Moment, Trace};

/// One answer: everything up to ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When the client may have learned the outcome.
    pub moment: Moment,
    /// Whether that was no error.
    pub success: bool,
}

/// A stretch of the log that a walsender has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentLog {
    /// When.
    pub moment: Moment,
    /// The end of it.
    pub end: Lsn,
}

/// A standby status update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// When.
    pub moment: Moment,
    /// Up to where the standby calls its log durable.
    pub flush: Lsn,
}

/// All that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Answers of each backend, in order; the first is that to the start of the session.
    pub answers: BTreeMap<u32, Vec<Answer>>,
    /// Of all walsenders.
    pub log: Vec<SentLog>,
    /// Of all walreceivers.
    pub reports: Vec<Report>,
}

impl Messages {
    /// Collects them from a trace.
    pub fn of(trace: &Trace) -> Messages {
        let mut streams: BTreeMap<u32, Stream> = BTreeMap::new();
        for operation in &trace.operations {
            let Call::Send { bytes } = &operation.call else { continue };
            // What a dying process was about to send nobody may have got.
            let sent = operation.end.map_or(0, |(_, result)| usize::try_from(result).unwrap_or(0));
            streams.entry(operation.pid).or_default().push(operation.begin, bytes, sent);
        }
        let mut messages = Messages::default();
        streams.iter().for_each(|(pid, stream)| messages.read(*pid, stream));
        messages
    }

    fn read(&mut self, pid: u32, stream: &Stream) {
        // A client's first packet has no tag: its length, then the version of the protocol.
        let is_client = stream.bytes.get(4..8) == Some(&PROTOCOL_3_0.to_be_bytes());
        let mut at = if is_client { word(&stream.bytes) } else { 0 };
        let mut outcome: Option<Answer> = None;
        while let Some(tag) = stream.bytes.get(at).copied() {
            let rest = &stream.bytes[at + 1..];
            // Refused encryption: one letter.
            if tag == b'N' && at == 0 && rest.first() != Some(&0) {
                at += 1;
                continue;
            }
            if rest.len() < 4 || rest.len() < word(rest) {
                break;
            }
            let length = word(rest);
            let body = &rest[4..length];
            at += 1 + length;
            let moment = stream.moment(at - 1);
            match tag {
                b'C' | b'E' => outcome = Some(Answer { moment, success: tag == b'C' }),
                b'Z' => {
                    let answer = outcome.take().unwrap_or(Answer { moment, success: true });
                    self.answers.entry(pid).or_default().push(answer);
                }
                b'd' => self.read_copy_data(moment, body),
                _ => {}
            }
        }
    }

    fn read_copy_data(&mut self, moment: Moment, body: &[u8]) {
        let lsn = |at: usize| Lsn(u64::from_be_bytes(body[at..at + 8].try_into().expect("eight bytes")));
        match body.first() {
            Some(b'w') if body.len() >= 25 => {
                self.log.push(SentLog { moment, end: lsn(1) + (body.len() - 25) as u64 });
            }
            Some(b'r') if body.len() == 34 => self.reports.push(Report { moment, flush: lsn(9) }),
            _ => {}
        }
    }
}

const PROTOCOL_3_0: u32 = 196_608;

fn word(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word) as usize)
}

/// Bytes that a process has sent, with the moments.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// End of each send in `bytes`, and its begin in time.
    sends: Vec<(usize, Moment)>,
    /// What follows has bytes missing before it.
    broken: bool,
}

impl Stream {
    fn push(&mut self, begin: Moment, bytes: &Rc<[u8]>, sent: usize) {
        self.broken |= sent > bytes.len();
        if self.broken {
            return;
        }
        self.bytes.extend_from_slice(&bytes[..sent]);
        self.sends.push((self.bytes.len(), begin));
    }

    /// When the byte at a position was sent.
    fn moment(&self, at: usize) -> Moment {
        let send = self.sends.partition_point(|(end, _)| *end <= at);
        self.sends[send].1
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::Operation;
    use super::*;

    fn sends(parts: &[(u32, u32, &[u8], i64)]) -> Trace {
        let operation = |&(pid, begin, bytes, result): &(u32, u32, &[u8], i64)| Operation {
            pid,
            begin: Moment(begin),
            end: Some((Moment(begin + 1), result)),
            call: Call::Send { bytes: Rc::from(bytes) },
        };
        Trace { operations: parts.iter().map(operation).collect(), end: Moment(1000) }
    }

    #[test]
    fn an_answer_counts_from_the_begin_of_the_send_that_completes_it() {
        let trace = sends(&[
            (7, 2, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", 15),
            (7, 4, b"C\0\0\0\x0fINSERT", 11),
            (7, 6, b" 0 1\0Z\0\0\0\x05I", 11),
            (7, 8, b"E\0\0\0\x06S\0Z\0\0\0\x05I", 13),
            // Cut short, and tried again.
            (7, 10, b"C\0\0\0\x09DROP\0Z\0\0\0\x05I", 3),
            (7, 12, b"\0\x09DROP\0Z\0\0\0\x05I", 13),
        ]);
        let answers = &Messages::of(&trace).answers[&7];
        let found: Vec<(u32, bool)> =
            answers.iter().map(|answer| (answer.moment.0, answer.success)).collect();
        assert_eq!(found, [(2, true), (6, true), (8, false), (12, true)]);
    }

    #[test]
    fn log_and_reports_are_told_from_answers() {
        let mut wal = b"d\0\0\0\x20w".to_vec();
        wal.extend([0, 0, 0, 0, 1, 0, 0, 0x28].iter().chain(&[0; 16]).chain(b"abc"));
        let mut report = b"\0\0\0\x08\0\x03\0\0d\0\0\0\x26r".to_vec();
        report.extend([0; 8].iter().chain(&[0, 0, 0, 0, 2, 0, 0, 0]).chain(&[0; 17]));
        let trace = sends(&[
            (1, 2, &wal, i64::try_from(wal.len()).unwrap()),
            (2, 4, &report, i64::try_from(report.len()).unwrap()),
        ]);
        let messages = Messages::of(&trace);
        assert_eq!(messages.log, [SentLog { moment: Moment(2), end: Lsn(0x0100_002b) }]);
        assert_eq!(messages.reports, [Report { moment: Moment(4), flush: Lsn(0x0200_0000) }]);
    }
}
