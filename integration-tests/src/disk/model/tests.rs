//! Scripts: one call a line, `+` begins it, `-` ends it, neither does both. What must be there then is asked of an image
//! with nothing more than that, what may be of one with everything.

use super::super::image::{Image, Survival};
use super::*;

/// A disk with `a/`, `a/f` = "old" and what the script does to it.
fn disk(script: &str) -> Disk {
    let files = BTreeMap::from([(PathBuf::from("a"), None), (PathBuf::from("a/f"), Some(b"old".to_vec()))]);
    let mut disk = Disk::new(&files);
    apply(&mut disk, script);
    disk
}

fn apply(disk: &mut Disk, script: &str) {
    let mut begun: Vec<(String, Operation)> = Vec::new();
    for (number, line) in (10..).zip(script.lines().map(str::trim).filter(|line| !line.is_empty())) {
        let (only, text) = match line.split_at(1) {
            (sign @ ("+" | "-"), text) => (sign, text.trim()),
            _ => ("", line),
        };
        if only == "-" {
            let at = begun.iter().position(|(name, _)| name == text).expect("it has begun");
            disk.end(&begun.remove(at).1);
            continue;
        }
        let begin = Moment(number);
        // The result is the trace's to know; here all succeed, and a call that is never ended is one that has none.
        let end = Some((Moment(number), call_result(text)));
        let end = end.filter(|_| only.is_empty() || script.contains(&format!("-{text}")));
        let operation = Operation { pid: 1, begin, end, call: call(text) };
        disk.begin(&operation).unwrap();
        if only == "+" {
            begun.push((text.to_owned(), operation));
        } else {
            disk.end(&operation);
        }
    }
}

fn call_result(text: &str) -> i64 {
    if text.starts_with("fail") {
        return -5;
    }
    match call(text) {
        Call::Write { bytes, .. } => i64::try_from(bytes.len()).unwrap(),
        _ => 0,
    }
}

fn call(text: &str) -> Call {
    let words: Vec<&str> = text.split(' ').collect();
    let path = |at: usize| PathBuf::from(words[at].trim_matches('.'));
    match words[0] {
        "create" => Call::Open { path: path(1), create: true, truncate: false },
        "empty" => Call::Open { path: path(1), create: true, truncate: true },
        "write" => Call::Write {
            path: path(1),
            offset: words[2].parse().unwrap(),
            bytes: Rc::from(words[3].as_bytes()),
        },
        "truncate" => Call::Truncate { path: path(1), length: words[2].parse().unwrap() },
        "sync" | "fail" => Call::Sync { path: path(1) },
        "rename" => Call::Rename { from: path(1), to: path(2) },
        "link" => Call::Link { from: path(1), to: path(2) },
        "remove" => Call::Remove { path: path(1) },
        "mkdir" => Call::MakeDirectory { path: path(1) },
        other => panic!("{other}"),
    }
}

/// `path=content` of all files, in order.
fn shown(disk: &Disk, survival: Survival) -> String {
    let files = Image::of(disk, survival).files;
    let file = |(path, content): (&PathBuf, &Option<Vec<u8>>)| {
        let content = content.as_ref()?;
        Some(format!("{}={}", path.display(), String::from_utf8_lossy(content)))
    };
    files.iter().filter_map(file).collect::<Vec<_>>().join(" ")
}

#[test]
fn only_what_a_sync_has_covered_must_be_there() {
    for (script, least, most) in [
        ("write a/f 0 new", "a/f=old", "a/f=new"),
        ("write a/f 0 new\nsync a/f", "a/f=new", "a/f=new"),
        // The sync of another file, or of the directory, is none of this one.
        ("write a/f 0 new\nsync a", "a/f=old", "a/f=new"),
        ("write a/f 0 new\n+sync a/f", "a/f=old", "a/f=new"),
        // Not over when the sync began.
        ("+write a/f 0 new\nsync a/f\n-write a/f 0 new", "a/f=old", "a/f=new"),
        ("+write a/f 0 new\n+sync a/f\n-write a/f 0 new\n-sync a/f", "a/f=old", "a/f=new"),
        ("+write a/f 0 new\n-write a/f 0 new\n+sync a/f\n-sync a/f", "a/f=new", "a/f=new"),
        ("write a/f 0 new\n+sync a/f\nwrite a/f 3 er\n-sync a/f", "a/f=new", "a/f=newer"),
        ("write a/f 3 er\nsync a/f\nwrite a/f 0 new", "a/f=older", "a/f=newer"),
        ("truncate a/f 1", "a/f=old", "a/f=o"),
        ("truncate a/f 1\nsync a/f", "a/f=o", "a/f=o"),
        ("empty a/f\nwrite a/f 0 n", "a/f=old", "a/f=n"),
    ] {
        let disk = disk(script);
        assert_eq!(shown(&disk, Survival::Nothing), least, "{script}");
        assert_eq!(shown(&disk, Survival::Everything), most, "{script}");
    }
}

#[test]
fn what_a_failed_sync_has_dropped_is_written_by_none() {
    let far = format!("write a/f {} end", 2 * 4096);
    let gap = "\0".repeat(2 * 4096 - 3);
    for (script, least, most) in [
        ("write a/f 0 new\nfail a/f", "a/f=old", "a/f=new"),
        ("write a/f 0 new\nfail a/f\nsync a/f", "a/f=old", "a/f=new"),
        // Written again, here with other bytes of the same page.
        ("write a/f 0 new\nfail a/f\nwrite a/f 0 new\nsync a/f", "a/f=new", "a/f=new"),
        ("write a/f 0 new\nfail a/f\nwrite a/f 3 er\nsync a/f", "a/f=newer", "a/f=newer"),
        ("write a/f 0 new\nfail a/f\nwrite a/f 0 old\nsync a/f", "a/f=old", "a/f=old"),
        // After it, or of another page: not.
        ("write a/f 0 new\nfail a/f\nwrite a/f 3 er", "a/f=old", "a/f=newer"),
        (
            &format!("write a/f 0 new\nfail a/f\n{far}\nsync a/f"),
            &format!("a/f=old{gap}end"),
            &format!("a/f=new{gap}end"),
        ),
        ("+write a/f 0 new\nfail a/f\n-write a/f 0 new\nsync a/f", "a/f=new", "a/f=new"),
        // Cut off, it is gone for good.
        ("write a/f 0 new\nfail a/f\ntruncate a/f 0\nsync a/f", "a/f=", "a/f="),
        ("write a/f 0 new\nfail a/f\ntruncate a/f 1\nsync a/f", "a/f=o", "a/f=n"),
    ] {
        let disk = disk(script);
        assert_eq!(shown(&disk, Survival::Nothing), least, "{script}");
        assert_eq!(shown(&disk, Survival::Everything), most, "{script}");
    }
}

#[test]
fn names_are_durable_by_their_directory_alone() {
    for (script, least, most) in [
        ("create a/g\nwrite a/g 0 x\nsync a/g", "a/f=old", "a/f=old a/g=x"),
        ("create a/g\nwrite a/g 0 x\nsync a", "a/f=old a/g=", "a/f=old a/g=x"),
        ("create a/g\nwrite a/g 0 x\nsync a/g\nsync a", "a/f=old a/g=x", "a/f=old a/g=x"),
        ("create a/g\nsync a\nrename a/g a/f", "a/f=old a/g=", "a/f="),
        ("create a/g\nsync a\nrename a/g a/f\nsync a", "a/f=", "a/f="),
        ("create a/g\n+sync a\nrename a/g a/h\n-sync a", "a/f=old a/g=", "a/f=old a/h="),
        ("remove a/f", "a/f=old", ""),
        ("remove a/f\nsync a", "", ""),
        ("remove a/f\nsync .", "a/f=old", ""),
        ("link a/f a/g\nsync a\nremove a/f\nsync a", "a/g=old", "a/g=old"),
        ("mkdir b\nrename a/f b/f\nsync a", "a/f=old", "b/f=old"),
        ("mkdir b\nsync .\nrename a/f b/f\nsync a\nsync b", "b/f=old", "b/f=old"),
        ("+create a/g", "a/f=old", "a/f=old a/g="),
        // By way of a name that only the one in the middle has in common with both.
        ("create a/g\nrename a/g a/h\nremove a/h\nsync a", "a/f=old", "a/f=old"),
    ] {
        let disk = disk(script);
        assert_eq!(shown(&disk, Survival::Nothing), least, "{script}");
        assert_eq!(shown(&disk, Survival::Everything), most, "{script}");
    }
}

#[test]
fn a_disk_settles_to_what_is_really_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("a")).unwrap();
    for (script, real, result) in [
        // Under way when the process was killed: reached the file whole, in part, or not at all.
        ("+write a/f 0 new", "new", Ok("a/f=old")),
        ("+write a/f 0 nowhere", "now", Ok("a/f=old")),
        ("+write a/f 0 new", "old", Ok("a/f=old")),
        ("+truncate a/f 1", "o", Ok("a/f=old")),
        ("+truncate a/f 1", "old", Ok("a/f=old")),
        ("write a/f 0 new\nsync a/f\n+write a/f 3 er", "newer", Ok("a/f=new")),
        ("write a/f 0 new", "old", Err("3 bytes differ from 0 on")),
        ("", "older", Err("0 bytes differ from 3 on")),
        ("remove a/f", "old", Err("no call has made a/f")),
        ("create a/g", "old", Err("no call has removed a/g")),
        ("+create a/g", "old", Ok("a/f=old")),
        ("+remove a/f", "old", Ok("a/f=old")),
        // Died within a call that would have failed.
        ("+remove a/g", "old", Ok("a/f=old")),
        ("+rename a/g a/h", "old", Ok("a/f=old")),
    ] {
        fs::write(directory.path().join("a/f"), real).unwrap();
        let mut disk = disk(script);
        let settled = disk.settle(directory.path());
        match result {
            Ok(least) => {
                settled.unwrap_or_else(|error| panic!("{script}: {error}"));
                assert_eq!(shown(&disk, Survival::Nothing), least, "{script}");
                assert_eq!(shown(&disk, Survival::Everything), format!("a/f={real}"), "{script}");
                // The next life syncs what this one left.
                apply(&mut disk, "sync a/f");
                assert_eq!(shown(&disk, Survival::Nothing), format!("a/f={real}"), "{script}");
            }
            Err(what) => assert!(settled.unwrap_err().contains(what), "{script}"),
        }
    }
}

#[test]
fn a_record_that_came_into_the_page_late_is_adopted_in_the_log_alone() {
    for (directory, adopted) in [("pg_wal", true), ("state", false)] {
        let scope = tempfile::tempdir().unwrap();
        fs::create_dir(scope.path().join(directory)).unwrap();
        let path = PathBuf::from(directory).join("1");
        let files =
            BTreeMap::from([(PathBuf::from(directory), None), (path.clone(), Some(b"ab\0\0\0\0".to_vec()))]);
        let mut disk = Disk::new(&files);
        for (real, result) in [(b"ab\0x\0y", adopted), (b"cb\0x\0y", false)] {
            fs::write(scope.path().join(&path), real).unwrap();
            assert_eq!(disk.settle(scope.path()).is_ok(), result, "{real:?}");
        }
        if adopted {
            let inode = disk.find(&path).unwrap();
            assert_eq!(disk.node(inode).base.as_slice(), b"ab\0\0\0\0");
            assert_eq!(disk.node(inode).content(), b"ab\0x\0y");
        }
    }
}
