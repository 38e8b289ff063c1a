//! A copy of the tables is one moment of them, although they change while it is made, and gives way between its steps.

mod common;

use std::time::Duration;

use common::{Tables, path_in, read, reader, writer_options};
use engine::Writer;
use engine::backup::TablesCopy;

const ROWS: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(5);

fn filled() -> Tables {
    let mut tables = Tables::new();
    tables.run("CREATE TABLE t (id INTEGER PRIMARY KEY, round INTEGER NOT NULL, filler TEXT NOT NULL)");
    tables.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO t SELECT i, 0, printf('%0200d', i) FROM n"
    ));
    tables.commit();
    tables
}

#[test]
fn copy_made_under_writes_is_one_moment_of_the_tables() {
    let mut tables = filled();
    let place = tempfile::tempdir().unwrap();
    let copy = path_in(place.path());
    let before = tables.writer.applied_lsn();
    let mut copying = TablesCopy::begin(&path_in(tables.directory.path()), &copy, PATIENCE).unwrap();
    let mut steps = 0;
    while !copying.step(16).unwrap() {
        steps += 1;
        tables.run(&format!("UPDATE t SET round = {steps}"));
        tables.commit();
    }
    assert!(steps > 3, "the copy took {steps} steps: nothing was written between them");
    let applied = copying.finish().unwrap();
    assert_eq!(applied, before, "the copy says of another moment than the first that it is");

    let writer = Writer::open(&copy, &writer_options()).unwrap();
    assert_eq!(writer.applied_lsn(), before);
    drop(writer);
    let query = "SELECT count(*) || ',' || min(round) || ',' || max(round) FROM t";
    let found = read(&mut reader(place.path()), query);
    assert!(found.contains(&format!("{ROWS},0,0")), "the copy is of more than one moment: {found}");
}

#[test]
fn copy_that_is_given_up_leaves_the_tables_as_they_were() {
    let mut tables = filled();
    let place = tempfile::tempdir().unwrap();
    let source = path_in(tables.directory.path());
    let mut copying = TablesCopy::begin(&source, &path_in(place.path()), PATIENCE).unwrap();
    assert!(!copying.step(1).unwrap());
    drop(copying);
    tables.run("DELETE FROM t WHERE id > 1");
    let lsn = tables.next_lsn();
    tables.writer.commit(lsn).unwrap();
    // No lock is left that would keep the log from starting over.
    assert!(!tables.writer.checkpoint_restart().unwrap().busy);
}

#[test]
fn copy_to_a_place_that_cannot_be_written_is_an_error() {
    let tables = filled();
    let source = path_in(tables.directory.path());
    let nowhere = tables.directory.path().join("missing").join("copy");
    assert!(TablesCopy::begin(&source, &nowhere, PATIENCE).is_err());
    let absent = tables.directory.path().join("absent.db");
    let place = tempfile::tempdir().unwrap();
    assert!(TablesCopy::begin(&absent, &path_in(place.path()), PATIENCE).is_err());
}
