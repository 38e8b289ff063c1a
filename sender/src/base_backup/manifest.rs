//! The manifest of a base backup: what files it has, how they are summed, and which log belongs to it. Pure.
//!
//! JSON in the exact form that PostgreSQL's tools read, closed by the SHA-256 of all bytes before that sum. A file of the
//! log is not listed: the log is named by its range.
//!
//! Follows PostgreSQL 15 src/backend/backup/backup_manifest.c.

use sha2::{Digest, Sha256};
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;

use super::checksum::{Algorithm, Checksum, hex};
use super::options::ManifestOptions;

/// A manifest being written.
#[derive(Debug)]
pub struct Manifest {
    options: ManifestOptions,
    text: String,
    files: usize,
}

/// A stretch of the log on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// On which timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub start: Lsn,
    /// Behind the last.
    pub end: Lsn,
}

impl Manifest {
    /// An empty one.
    pub fn new(options: ManifestOptions) -> Manifest {
        let text = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned();
        Manifest { options, text, files: 0 }
    }

    /// How files are to be summed.
    pub fn checksums(&self) -> Algorithm {
        self.options.checksums
    }

    /// Lists a file of `size` bytes, last written at `modified`.
    pub fn add(&mut self, path: &str, size: u64, modified: Timestamp, checksum: Checksum) {
        self.text.push_str(if self.files == 0 { "\n" } else { ",\n" });
        self.files += 1;
        let path = match self.options.force_encode {
            true => format!("\"Encoded-Path\": \"{}\"", hex(path.as_bytes())),
            false => format!("\"Path\": {}", json_string(path)),
        };
        let modified = seconds(modified);
        self.text.push_str(&format!("{{ {path}, \"Size\": {size}, \"Last-Modified\": \"{modified} GMT\""));
        if let Some(sum) = checksum.finish() {
            let name = self.options.checksums.name();
            self.text.push_str(&format!(", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{sum}\""));
        }
        self.text.push_str(" }");
    }

    /// The whole text, with the log that the backup needs.
    pub fn finish(mut self, ranges: &[WalRange]) -> String {
        self.text.push_str("\n],\n\"WAL-Ranges\": [");
        for (number, range) in ranges.iter().enumerate() {
            let WalRange { timeline, start, end } = range;
            self.text.push_str(if number == 0 { "\n" } else { ",\n" });
            self.text.push_str(&format!(
                "{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            ));
        }
        self.text.push_str("\n],\n");
        let sum = hex(&Sha256::digest(self.text.as_bytes()));
        self.text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        self.text
    }
}

/// The log from `start` on timeline `from` to `end` on that of `history`, newest first. `None`: the one is no ancestor of
/// the other.
pub fn wal_ranges(
    history: &TimelineHistory,
    from: TimelineId,
    start: Lsn,
    end: Lsn,
) -> Option<Vec<WalRange>> {
    let mut ranges = Vec::new();
    let (mut timeline, mut begin) = (from, start);
    while timeline != history.tli() {
        let (left, next) = history.switch_point(timeline).zip(history.next_tli(timeline))?;
        ranges.push(WalRange { timeline, start: begin, end: left });
        (timeline, begin) = (next, left);
    }
    ranges.push(WalRange { timeline, start: begin, end });
    ranges.reverse();
    Some(ranges)
}

/// Without fraction and zone.
pub(super) fn seconds(time: Timestamp) -> String {
    let whole = Timestamp::from_unix_micros(time.unix_seconds() * 1_000_000).to_string();
    whole.trim_end_matches("+00").to_owned()
}

fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if u32::from(c) < 0x20 => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Timestamp = Timestamp(848_601_921_999_999);

    fn summed(algorithm: Algorithm, bytes: &[u8]) -> Checksum {
        let mut checksum = Checksum::new(algorithm);
        checksum.update(bytes);
        checksum
    }

    #[test]
    fn manifest_has_postgresqls_bytes() {
        let mut manifest =
            Manifest::new(ManifestOptions { checksums: Algorithm::Crc32c, force_encode: false });
        manifest.add("PG_VERSION", 3, TIME, summed(Algorithm::Crc32c, b"15\n"));
        manifest.add("a\"b\\c\nd", 0, TIME, summed(Algorithm::Crc32c, b""));
        let range = WalRange { timeline: TimelineId(1), start: Lsn(0x300_0028), end: Lsn(0x300_0100) };
        let text = manifest.finish(&[range]);
        let body = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\
            \"Files\": [\n\
            { \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-21 18:45:21 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"8a744722\" },\n\
            { \"Path\": \"a\\\"b\\\\c\\u000ad\", \"Size\": 0, \"Last-Modified\": \"2026-11-21 18:45:21 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n\
            ],\n\
            \"WAL-Ranges\": [\n\
            { \"Timeline\": 1, \"Start-LSN\": \"0/3000028\", \"End-LSN\": \"0/3000100\" }\n\
            ],\n";
        assert_eq!(&text[..body.len()], body);
        let tail = &text[body.len()..];
        assert!(tail.starts_with("\"Manifest-Checksum\": \"") && tail.ends_with("\"}\n"), "{tail}");
        assert_eq!(tail.len(), 22 + 64 + 3);
    }

    #[test]
    fn manifest_without_sums_and_with_encoded_paths() {
        let mut manifest = Manifest::new(ManifestOptions { checksums: Algorithm::None, force_encode: true });
        manifest.add("backup_label", 225, TIME, Checksum::None);
        let text = manifest.finish(&[]);
        let line = "\n{ \"Encoded-Path\": \"6261636b75705f6c6162656c\", \"Size\": 225, \"Last-Modified\": \"2026-11-21 18:45:21 GMT\" }\n]";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn ranges_follow_the_history() {
        let history = TimelineHistory::parse(TimelineId(5), "1\t0/A0\tx\n4\t0/B0\ty\n").unwrap();
        let range = |timeline, start, end| WalRange {
            timeline: TimelineId(timeline),
            start: Lsn(start),
            end: Lsn(end),
        };
        let of = |from, start| wal_ranges(&history, TimelineId(from), Lsn(start), Lsn(0xF0));
        assert_eq!(of(5, 0xC0), Some(vec![range(5, 0xC0, 0xF0)]));
        assert_eq!(of(1, 0x90), Some(vec![range(5, 0xB0, 0xF0), range(4, 0xA0, 0xB0), range(1, 0x90, 0xA0)]));
        assert_eq!(of(3, 0xA8), None);
    }
}
