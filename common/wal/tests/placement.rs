//! Where records go: tables with places worked out by hand, on a log of 1 MiB segments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log;

use log::{SIZE, SYSTEM_IDENTIFIER, TLI};
use wal::layout::{Chunk, place, place_overwrite_contrecord, place_switch, record_start};
use wal::lsn::Lsn;
use wal::page::PageHeader;

/// A placement in words: `H@at flags rem_len`, `R@at from..to`, `Z@at len`.
fn words(chunks: impl Iterator<Item = Chunk>) -> Vec<String> {
    chunks
        .map(|chunk| match chunk {
            Chunk::PageHeader { at, header } => {
                assert_eq!((header.page_addr, header.tli), (at, TLI));
                format!("H@{at} {:X} {}", header.flags, header.rem_len)
            }
            Chunk::Record { at, range } => format!("R@{at} {}..{}", range.start, range.end),
            Chunk::Zeros { at, len } => format!("Z@{at} {len}"),
        })
        .collect()
}

#[test]
fn records_are_placed() {
    // position, total length, start, end, chunks
    type Row = (u64, u32, u64, u64, &'static [&'static str]);
    let table: &[Row] = &[
        // The first record of a log is behind the long header of segment 1.
        (0x10_0000, 114, 0x10_0028, 0x10_00A0, &["H@0/100000 2 0", "R@0/100028 0..114", "Z@0/10009A 6"]),
        // In the middle of a page; the position is aligned up.
        (0x10_009A, 24, 0x10_00A0, 0x10_00B8, &["Z@0/10009A 6 no", "R@0/1000A0 0..24"]),
        // Ends exactly with its page: the end is the boundary.
        (0x10_1FE8, 24, 0x10_1FE8, 0x10_2000, &["R@0/101FE8 0..24"]),
        // Ends with its page but for the padding.
        (0x10_1FE0, 27, 0x10_1FE0, 0x10_2000, &["R@0/101FE0 0..27", "Z@0/101FFB 5"]),
        // Follows one that ended with its page.
        (0x10_2000, 24, 0x10_2018, 0x10_2030, &["H@0/102000 0 0", "R@0/102018 0..24"]),
        // Only the length is on the first page: the header is split.
        (
            0x10_1FF8,
            26,
            0x10_1FF8,
            0x10_2030,
            &["R@0/101FF8 0..8", "H@0/102000 1 18", "R@0/102018 8..26", "Z@0/10202A 6"],
        ),
        // Over two page boundaries; the last part fills nothing.
        (
            0x10_1F00,
            256 + 8168 + 5,
            0x10_1F00,
            0x10_4020,
            &[
                "R@0/101F00 0..256",
                "H@0/102000 1 8173",
                "R@0/102018 256..8424",
                "H@0/104000 1 5",
                "R@0/104018 8424..8429",
                "Z@0/10401D 3",
            ],
        ),
        // Into the next segment: a long header with the rest.
        (0x1F_FFF0, 24, 0x1F_FFF0, 0x20_0030, &["R@0/1FFFF0 0..16", "H@0/200000 3 8", "R@0/200028 16..24"]),
        // Ends a segment exactly.
        (0x1F_FFE8, 24, 0x1F_FFE8, 0x20_0000, &["R@0/1FFFE8 0..24"]),
    ];
    for (pos, tot_len, start, end, chunks) in table {
        let placement = place(Lsn(*pos), *tot_len, SIZE, TLI, SYSTEM_IDENTIFIER);
        assert_eq!((placement.start, placement.end), (Lsn(*start), Lsn(*end)), "at {}", Lsn(*pos));
        // Bytes before an aligned-up position belong to the record before.
        let expected: Vec<_> = chunks.iter().filter(|words| !words.ends_with("no")).copied().collect();
        assert_eq!(words(placement.chunks()), expected, "at {}", Lsn(*pos));
        assert_eq!(record_start(Lsn(*pos), SIZE), Lsn(*start));
    }
}

#[test]
fn long_header_tells_whose_log_it_is() {
    let Some(Chunk::PageHeader { at, header }) =
        place(Lsn(0x30_0000), 24, SIZE, TLI, SYSTEM_IDENTIFIER).chunks().next()
    else {
        panic!("a segment begins with a header");
    };
    assert_eq!(header, PageHeader::new(at, TLI, 0, SIZE, SYSTEM_IDENTIFIER));
    let bytes = header.encode();
    assert_eq!(bytes.as_bytes().len(), 40);
    assert_eq!(bytes.as_bytes()[24..32], SYSTEM_IDENTIFIER.to_le_bytes());
}

#[test]
fn huge_record_spans_thousands_of_pages() {
    // 40 MiB from the start of the log: every page takes 8168 bytes, the first of each segment 16 fewer.
    let tot_len = 40 << 20;
    let placement = place(Lsn(0x10_0000), tot_len, SIZE, TLI, SYSTEM_IDENTIFIER);
    // 41,943,040 bytes: 127 * 8168 + 8152 = 1,045,488 in each whole segment, so 40 segments and 123,520 bytes, of
    // which 8152 on the 41st's first page, 14 * 8168 on full pages, and 1016 on the last.
    let last_page = 0x10_0000_u64 + 40 * 0x10_0000 + 15 * 0x2000;
    assert_eq!(placement.end, Lsn(last_page + 24 + 1016));
    let headers = placement.chunks().filter(|chunk| matches!(chunk, Chunk::PageHeader { .. })).count();
    assert_eq!(headers, 40 * 128 + 16);
    let carried: usize = placement
        .chunks()
        .map(|chunk| match chunk {
            Chunk::Record { range, .. } => range.len(),
            Chunk::PageHeader { .. } | Chunk::Zeros { .. } => 0,
        })
        .sum();
    assert_eq!(carried, tot_len as usize);
}

#[test]
fn switch_takes_the_rest_of_the_segment() {
    let switch = place_switch(Lsn(0x10_00A0), SIZE, TLI, SYSTEM_IDENTIFIER).unwrap();
    assert_eq!((switch.record.start, switch.record.end), (Lsn(0x10_00A0), Lsn(0x10_00B8)));
    assert_eq!(switch.zeros, Lsn(0x10_00B8)..Lsn(0x20_0000));
    assert_eq!(switch.next, Lsn(0x20_0000));

    // The record itself ends the segment.
    let switch = place_switch(Lsn(0x1F_FFE8), SIZE, TLI, SYSTEM_IDENTIFIER).unwrap();
    assert!(switch.zeros.is_empty());
    assert_eq!(switch.next, Lsn(0x20_0000));

    // The record runs over into the next segment, and takes that too.
    let switch = place_switch(Lsn(0x1F_FFF8), SIZE, TLI, SYSTEM_IDENTIFIER).unwrap();
    assert_eq!(switch.zeros, Lsn(0x20_0038)..Lsn(0x30_0000));
    assert_eq!(switch.next, Lsn(0x30_0000));

    assert_eq!(place_switch(Lsn(0x20_0000), SIZE, TLI, SYSTEM_IDENTIFIER), None);
    assert_eq!(place_switch(Lsn(0x1F_FFFD), SIZE, TLI, SYSTEM_IDENTIFIER), None);
}

#[test]
fn overwriting_record_begins_its_page() {
    let placement = place_overwrite_contrecord(Lsn(0x10_4000), 42, SIZE, TLI, SYSTEM_IDENTIFIER);
    assert_eq!(placement.start, Lsn(0x10_4018));
    assert_eq!(words(placement.chunks()), ["H@0/104000 8 0", "R@0/104018 0..42", "Z@0/104042 6"]);
    let placement = place_overwrite_contrecord(Lsn(0x20_0000), 42, SIZE, TLI, SYSTEM_IDENTIFIER);
    assert_eq!(words(placement.chunks())[0], "H@0/200000 A 0");
}
