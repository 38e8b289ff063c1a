//! Tables: who counts, and what they have confirmed. The states are those that PostgreSQL 15 shows in the same case.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn standbys(text: &str) -> SyncStandbys {
    SyncStandbys::parse(text).unwrap()
}

/// Standbys by name, in the order of their walsenders, with what each has written, flushed and applied.
fn members(list: &SyncStandbys, standbys: &[(&str, [u64; 3])]) -> Vec<Member> {
    let member = |&(name, [write, flush, apply]): &(&str, [u64; 3])| Member {
        priority: list.priority(name),
        state: WalSndState::Streaming,
        reported: Positions { write: Lsn(write), flush: Lsn(flush), apply: Lsn(apply) },
    };
    standbys.iter().map(member).collect()
}

/// The view's rows for standbys that have all confirmed the same: "name priority state".
fn view(text: &str, names: &[&str]) -> Vec<String> {
    let list = standbys(text);
    let positions: Vec<_> = names.iter().map(|&name| (name, [100; 3])).collect();
    let members = members(&list, &positions);
    let row = |(index, name): (usize, &&str)| {
        format!("{name} {} {}", members[index].priority, sync_state(&list, &members, index).name())
    };
    names.iter().enumerate().map(row).collect()
}

#[test]
fn states_and_priorities_are_those_of_postgresqls_table() {
    for (text, standbys, expected) in [
        ("", &["1", "2"][..], &["1 0 async", "2 0 async"][..]),
        ("s1", &["s1", "s2", "s3"], &["s1 1 sync", "s2 0 async", "s3 0 async"]),
        ("*", &["s1", "s2", "s3"], &["s1 1 sync", "s2 1 potential", "s3 1 potential"]),
        ("2(s1,s2,s3)", &["s2", "s3"], &["s2 2 sync", "s3 3 sync"]),
        ("2(s1,s2,s3)", &["s2", "s3", "s1"], &["s2 2 sync", "s3 3 potential", "s1 1 sync"]),
        (
            "2(s1,s2,s3)",
            &["s2", "s3", "s1", "s4"],
            &["s2 2 sync", "s3 3 potential", "s1 1 sync", "s4 0 async"],
        ),
        ("3(s2,s3)", &["s1", "s2", "s3"], &["s1 0 async", "s2 1 sync", "s3 2 sync"]),
        (
            "2(s1,*,s2)",
            &["s1", "s2", "s3", "s4"],
            &["s1 1 sync", "s2 2 sync", "s3 2 potential", "s4 2 potential"],
        ),
        ("2(s2,s2,s3)", &["s1", "s2", "s3"], &["s1 0 async", "s2 1 sync", "s3 3 sync"]),
        ("2(*)", &["s1", "s2", "s4"], &["s1 1 sync", "s2 1 sync", "s4 1 potential"]),
        ("FIRST 1 (S2)", &["s1", "s2"], &["s1 0 async", "s2 1 sync"]),
        ("ANY 2(s1,s2)", &["s1", "s2", "s4"], &["s1 1 quorum", "s2 1 quorum", "s4 0 async"]),
        ("ANY 2(*)", &["s1", "s2", "s4"], &["s1 1 quorum", "s2 1 quorum", "s4 1 quorum"]),
        ("ANY 9(*)", &["s1"], &["s1 1 quorum"]),
        ("2(s1)", &["s1", "s1", "s1"], &["s1 1 sync", "s1 1 sync", "s1 1 potential"]),
    ] {
        assert_eq!(view(text, standbys), expected, "{text} with {standbys:?}");
    }
}

#[test]
fn positions_are_the_lowest_of_the_first_or_the_nth_of_any() {
    let three = [("a", [50, 40, 30]), ("b", [90, 20, 10]), ("c", [70, 60, 50])];
    for (text, standbys, expected) in [
        ("a", &three[..], Some([50, 40, 30])),
        ("b,a", &three, Some([90, 20, 10])),
        ("2 (b,a,c)", &three, Some([50, 20, 10])),
        ("3 (a,b,c)", &three, Some([50, 20, 10])),
        ("4 (a,b,c)", &three, None),
        ("d", &three, None),
        ("d,c", &three, Some([70, 60, 50])),
        ("*", &three, Some([50, 40, 30])),
        // Each position for itself: what any two have written is 70, although their flushes are others'.
        ("ANY 1 (*)", &three, Some([90, 60, 50])),
        ("ANY 2 (*)", &three, Some([70, 40, 30])),
        ("ANY 3 (*)", &three, Some([50, 20, 10])),
        ("ANY 4 (*)", &three, None),
        ("ANY 2 (a,c)", &three, Some([50, 40, 30])),
        ("ANY 1 (a)", &[], None),
        ("2 (a)", &[("a", [9, 8, 7]), ("a", [5, 6, 4])], Some([5, 6, 4])),
    ] {
        let list = self::standbys(text);
        let expected = expected.map(|[write, flush, apply]: [u64; 3]| Positions {
            write: Lsn(write),
            flush: Lsn(flush),
            apply: Lsn(apply),
        });
        assert_eq!(confirmed(&list, &members(&list, standbys)), expected, "{text}");
    }
}

#[test]
fn order_of_the_walsenders_changes_no_position() {
    let mut four = [("a", [50, 40, 30]), ("b", [90, 20, 10]), ("c", [70, 60, 50]), ("d", [10, 10, 10])];
    for text in ["a", "2 (c,b)", "ANY 2 (a,b,c)", "ANY 3 (*)", "3 (d,c,b,a)"] {
        let list = standbys(text);
        let expected = confirmed(&list, &members(&list, &four));
        for _ in 0..four.len() {
            four.rotate_left(1);
            assert_eq!(confirmed(&list, &members(&list, &four)), expected, "{text} with {four:?}");
        }
    }
}

#[test]
fn only_who_streams_and_has_flushed_confirms() {
    let list = standbys("a,b");
    let both = members(&list, &[("a", [50, 40, 30]), ("b", [90, 20, 10])]);
    for state in [WalSndState::Startup, WalSndState::Backup, WalSndState::Catchup] {
        let mut one = both.clone();
        one[0].state = state;
        assert_eq!(confirmed(&list, &one).unwrap().flush, Lsn(20), "{state:?}");
        assert_eq!(sync_state(&list, &one, 0), SyncState::Potential);
        assert_eq!(sync_state(&list, &one, 1), SyncState::Sync);
    }
    let mut stopping = both.clone();
    stopping[0].state = WalSndState::Stopping;
    assert_eq!(confirmed(&list, &stopping).unwrap().flush, Lsn(40));
    let mut silent = both;
    silent[0].reported.flush = Lsn::INVALID;
    assert_eq!(confirmed(&list, &silent).unwrap().flush, Lsn(20));
    assert_eq!(sync_state(&list, &silent, 0), SyncState::Async);
}
