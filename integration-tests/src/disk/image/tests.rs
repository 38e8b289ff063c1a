use std::rc::Rc;

use super::super::trace::{Call, Moment, Operation};
use super::*;

/// A file `f` of 4 durable sectors of `d`, with writes that no sync has covered.
fn disk(writes: &[(u64, u8, usize)]) -> Disk {
    let files = BTreeMap::from([(PathBuf::from("f"), Some(vec![b'd'; 4 * SECTOR]))]);
    let mut disk = Disk::new(&files);
    for (number, (offset, byte, len)) in (1..).zip(writes) {
        let bytes = Rc::from(vec![*byte; *len]);
        let call = Call::Write { path: "f".into(), offset: *offset, bytes };
        let end = Some((Moment(2 * number + 1), i64::try_from(*len).unwrap()));
        let operation = Operation { pid: 1, begin: Moment(2 * number), end, call };
        disk.begin(&operation).unwrap();
        disk.end(&operation);
    }
    disk
}

fn some(seed: u64) -> Survival {
    Survival::Some { seed, bytes_percent: 50, names_percent: 50, torn: false, beyond: None, flips: false }
}

fn file(disk: &Disk, survival: Survival) -> Vec<u8> {
    Image::of(disk, survival).file(Path::new("f")).unwrap().to_vec()
}

#[test]
fn a_sector_is_one_that_the_cache_has_held() {
    // Two writes that share a sector, by halves.
    let disk = disk(&[(0, b'x', 256), (256, b'y', 256)]);
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let sector = file(&disk, some(seed))[..SECTOR].to_vec();
        found.insert((sector[0], sector[511]));
    }
    // Not the second without the first.
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [(b'd', b'd'), (b'x', b'd'), (b'x', b'y')]);
}

#[test]
fn torn_writes_lose_sectors_of_one_write_and_others_lose_all_or_nothing() {
    let disk = disk(&[(0, b'x', 4 * SECTOR)]);
    let kept = |survival| file(&disk, survival).chunks(SECTOR).filter(|sector| sector[0] == b'x').count();
    let mut torn = std::collections::BTreeSet::new();
    for seed in 0..200 {
        assert!([0, 4].contains(&kept(some(seed))));
        let Survival::Some { seed, bytes_percent, names_percent, beyond, flips, .. } = some(seed) else {
            unreachable!()
        };
        torn.insert(kept(Survival::Some { seed, bytes_percent, names_percent, torn: true, beyond, flips }));
    }
    assert_eq!(torn.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_size_may_come_before_the_bytes_only_where_that_is_asked_for() {
    let disk = disk(&[(6 * SECTOR as u64, b'x', SECTOR)]);
    for seed in 0..50 {
        let all_lost = |beyond| Survival::Some {
            seed,
            bytes_percent: 0,
            names_percent: 0,
            torn: false,
            beyond,
            flips: false,
        };
        assert_eq!(file(&disk, all_lost(None)), vec![b'd'; 4 * SECTOR]);
        let zeros = file(&disk, all_lost(Some(Beyond::Zeros)));
        assert_eq!(zeros.len(), 7 * SECTOR);
        assert!(zeros[4 * SECTOR..].iter().all(|byte| *byte == 0));
        let garbage = file(&disk, all_lost(Some(Beyond::Garbage)));
        assert_eq!(garbage[..4 * SECTOR], vec![b'd'; 4 * SECTOR]);
        assert!(garbage[4 * SECTOR..].iter().any(|byte| *byte != 0));
    }
}

#[test]
fn a_flipped_bit_hits_only_what_was_being_changed() {
    // The write repeats what is durable, but for one byte.
    let disk = disk(&[(0, b'd', SECTOR), (700, b'x', 1)]);
    for seed in 0..100 {
        let all = |flips| Survival::Some {
            seed,
            bytes_percent: 100,
            names_percent: 0,
            torn: false,
            beyond: None,
            flips,
        };
        let (right, wrong) = (file(&disk, all(false)), file(&disk, all(true)));
        let differing: Vec<usize> = (0..right.len()).filter(|at| right[*at] != wrong[*at]).collect();
        assert_eq!(differing, [700]);
    }
}

#[test]
fn a_later_change_of_a_name_comes_with_the_earlier_ones() {
    let mut disk = disk(&[]);
    let steps = [
        Call::Open { path: "t".into(), create: true, truncate: false },
        Call::Rename { from: "t".into(), to: "g".into() },
        Call::Open { path: "h".into(), create: true, truncate: false },
    ];
    for (number, call) in (1..).zip(steps) {
        let end = Some((Moment(2 * number + 1), 0));
        let operation = Operation { pid: 1, begin: Moment(2 * number), end, call };
        disk.begin(&operation).unwrap();
        disk.end(&operation);
    }
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let names: Vec<String> =
            Image::of(&disk, some(seed)).files.keys().map(|p| p.display().to_string()).collect();
        found.insert(names.join(" "));
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["f", "f g", "f g h", "f h", "f h t", "f t"]);
}
