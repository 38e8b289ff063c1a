//! A history file comes from the archive when pg_wal has none, and is there from then on.

use std::fs;

use sender::datadir::DataDir;
use sender::restore_command::restore_history;
use wal::timeline::TimelineId;

use crate::harness::TestNode;

pub(crate) fn history_is_restored_once_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path().join("data"));
    let archive = dir.path().join("archive");
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("00000003.history"), "1\t0/1000028\tno recovery target specified\n").unwrap();
    fs::write(archive.join("00000004.history"), "9\t0/1000028\ta child of its child\n").unwrap();
    let test = TestNode::start_with(&data, 16, |settings| {
        settings.restore_command = "cp ../archive/%f %p 2>/dev/null".to_owned();
    });
    let node = test.node;
    let child = test.backend(0, |me| {
        assert!(restore_history(node, &me, TimelineId(2)).unwrap().is_none());
        let restored = restore_history(node, &me, TimelineId(3)).unwrap().expect("the archive has it");
        assert!(restored.is_child_of(TimelineId(1)));
        fs::remove_dir_all(&archive).unwrap();
        let kept = restore_history(node, &me, TimelineId(3)).unwrap().expect("pg_wal has it");
        assert_eq!(kept, restored);
        fs::create_dir(&archive).unwrap();
        fs::write(archive.join("00000004.history"), "9\t0/1000028\ta child of its child\n").unwrap();
        let error = restore_history(node, &me, TimelineId(4)).unwrap_err();
        assert!(error.to_string().contains("invalid data in history file"), "{error}");
        assert!(!data.pg_wal().join("00000004.history").exists());
    });
    child.join_well("restoring");
}
