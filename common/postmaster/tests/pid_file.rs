//! postmaster.pid within one process: its lines, its locks, what a reader sees.
//!
//! Method: two holders in one process are two open files, which exclude each other like two processes. What fork adds
//! (orphans) is tested with real processes in `node.rs`.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use postmaster::pid_file::{
    FILE_NAME, Inspection, LockFileError, NodeStatus, PidFile, PidFileLines, inspect,
};
use postmaster::reload_line::{ReloadLine, ReloadProgress};
use sys::process::{Pid, current_pid};

fn text(data_dir: &tempfile::TempDir) -> String {
    fs::read_to_string(data_dir.path().join(FILE_NAME)).expect("the file is there")
}

#[test]
fn pid_file_has_postgresql_lines() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let mut file = PidFile::create(data_dir.path()).expect("nobody has it");
    let absolute = data_dir.path().canonicalize().expect("it exists");
    let (pid, start) = (current_pid(), file.start_time());
    let expected =
        format!("{pid}\n{}\n{start}\n0\n\n\n\nstarting\nreload 0 done 0 done\n", absolute.display());
    assert_eq!(text(&data_dir), expected);

    file.set_address(5440, "/sockets", "127.0.0.1").expect("written");
    file.set_status(NodeStatus::Ready).expect("written");
    let expected = format!("{pid}\n{}\n{start}\n5440\n/sockets\n127.0.0.1\n\nready   \n", absolute.display());
    assert_eq!(text(&data_dir), format!("{expected}reload 0 done 0 done\n"));

    let line = |progress| ReloadLine { number: 12, progress };
    file.set_reload(line(ReloadProgress::Refused("a reason\nand another".to_owned()))).expect("written");
    let refused = format!("{expected}reload 12 refused a reason\\nand another 12 refused\n");
    assert_eq!(text(&data_dir), refused);
    file.set_reload(line(ReloadProgress::Reading)).expect("written");
    assert_eq!(text(&data_dir), format!("{expected}reload 12 reading 12 reading\n"));
    // A file that has just been written, and not cut yet.
    let lines = PidFileLines::parse(&format!("{expected}reload 12 reading 12 reading\nother 12 refused\n"));
    assert_eq!(lines.expect("readable").reload, Some(line(ReloadProgress::Reading)));

    file.remove().expect("removed");
    assert!(!data_dir.path().join(FILE_NAME).exists());
}

#[test]
fn second_holder_is_refused_with_hint() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let _file = PidFile::create(data_dir.path()).expect("nobody has it");
    let error = PidFile::create(data_dir.path()).expect_err("it is taken");
    assert_eq!(error.to_string(), "lock file \"postmaster.pid\" already exists");
    let hint = error.hint().expect("a hint");
    assert!(
        hint.starts_with(&format!("Is another postmaster (PID {}) running in data directory", current_pid()))
    );
}

#[test]
fn removed_pid_file_does_not_let_a_second_holder_in() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let file = PidFile::create(data_dir.path()).expect("nobody has it");
    assert!(file.is_ours());
    fs::remove_file(data_dir.path().join(FILE_NAME)).expect("removed");
    assert!(!file.is_ours());
    let error = PidFile::create(data_dir.path()).expect_err("the directory is locked");
    assert!(matches!(error, LockFileError::Orphans { .. }), "{error}");
}

#[test]
fn foreign_pid_file_is_not_removed() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let mut file = PidFile::create(data_dir.path()).expect("nobody has it");
    fs::write(data_dir.path().join(FILE_NAME), "1\n").expect("written");
    assert!(!file.is_ours());
    file.give_up();
    file.set_status(NodeStatus::Stopping).expect("nothing to do");
    file.remove().expect("nothing to do");
    assert_eq!(text(&data_dir), "1\n");
}

#[test]
fn stale_file_with_a_recycled_pid_is_replaced() {
    let data_dir = tempfile::tempdir().expect("a directory");
    // Pid 1 lives, but it isn't a postmaster of this directory.
    let stale = "1\n/somewhere\n1700000000\n5440\n\n127.0.0.1\n\nready   \n";
    fs::write(data_dir.path().join(FILE_NAME), stale).expect("written");
    let Ok(Inspection::Stale(lines)) = inspect(data_dir.path()) else { panic!("nobody holds the file") };
    assert_eq!((lines.pid, lines.port, lines.status), (Pid(1), 5440, NodeStatus::Ready));
    let _file = PidFile::create(data_dir.path()).expect("stale");
    assert!(text(&data_dir).starts_with(&format!("{}\n", current_pid())));
}

#[test]
fn reader_tells_running_stale_and_absent_apart() {
    let data_dir = tempfile::tempdir().expect("a directory");
    assert_eq!(inspect(data_dir.path()).expect("readable"), Inspection::NoFile);
    let mut file = PidFile::create(data_dir.path()).expect("nobody has it");
    file.set_status(NodeStatus::Standby).expect("written");
    let Ok(Inspection::Running(lines)) = inspect(data_dir.path()) else { panic!("this process holds it") };
    assert_eq!((lines.pid, lines.status), (current_pid(), NodeStatus::Standby));
    drop(file);
    assert!(matches!(inspect(data_dir.path()), Ok(Inspection::Stale(_))));
}

#[test]
fn malformed_pid_file_is_an_error_that_names_it() {
    let data_dir = tempfile::tempdir().expect("a directory");
    for bad in [
        "",
        "x",
        "0\n/d\n1\n2\n\n\n\nready\n",
        "7\n/d\n1\n70000\n\n\n\nready\n",
        "7\n/d\n1\n2\n\n\n\nperhaps\n",
    ] {
        fs::write(data_dir.path().join(FILE_NAME), bad).expect("written");
        let error = inspect(data_dir.path()).expect_err("malformed");
        assert!(matches!(error, LockFileError::Malformed { .. }), "{bad:?}: {error}");
    }
}

#[test]
fn data_directory_that_is_missing_is_an_error() {
    let error = PidFile::create(&PathBuf::from("/nonexistent/data")).expect_err("no such directory");
    assert!(
        error.to_string().starts_with("could not access data directory \"/nonexistent/data\""),
        "{error}"
    );
}

#[test]
fn lines_written_by_postgresql_are_read() {
    let text = "4711\n/var/lib/data\n1700000000\n5432\n/tmp\nlocalhost\n  5432001    131072\nready   \n";
    let lines = PidFileLines::parse(text).expect("well-formed");
    assert_eq!(lines.pid, Pid(4711));
    assert_eq!(
        (lines.port, lines.socket_dir.as_str(), lines.listen_addr.as_str()),
        (5432, "/tmp", "localhost")
    );
}

#[test]
fn what_a_killed_start_left_is_cleared_by_the_next() {
    let data_dir = tempfile::tempdir().expect("a directory");
    fs::write(data_dir.path().join("postmaster.pid.new"), "1").expect("written");
    let _file = PidFile::create(data_dir.path()).expect("nobody has it");
    let names: Vec<_> = fs::read_dir(data_dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, [FILE_NAME]);
}
