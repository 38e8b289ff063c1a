//! Replication slots: made, read, copied, moved and dropped by replication commands and in SQL, with PostgreSQL's answers;
//! kept over every kind of end; temporary ones gone with their session.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use integration_tests::client::{Client, ServerError};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use wal::lsn::Lsn;

fn primary(scenario: &Scenario) -> Node {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.set("max_replication_slots=4");
    primary.start();
    primary
}

fn replication(node: &Node) -> Client {
    Client::connect(&node.address(), &[("replication", "true")]).unwrap()
}

fn said(error: &ServerError) -> String {
    let mut text = format!("{}: {}", error.sqlstate, error.message);
    for (label, part) in [("DETAIL", &error.detail), ("HINT", &error.hint)] {
        if !part.is_empty() {
            text.push_str(&format!(" | {label}: {part}"));
        }
    }
    text
}

const SLOTS: &str = "SELECT slot_name, slot_type, temporary, active, wal_status, restart_lsn IS NULL \
                     FROM pg_replication_slots ORDER BY slot_name";

#[test]
fn commands_answer_as_postgresqls() {
    let scenario = Scenario::new("slot-commands");
    let mut node = primary(&scenario);
    node.query("CHECKPOINT");
    let mut client = replication(&node);

    let made = client.query("CREATE_REPLICATION_SLOT \"s1\" PHYSICAL").unwrap();
    assert_eq!(made.columns, ["slot_name", "consistent_point", "snapshot_name", "output_plugin"]);
    assert_eq!(made.rows, [[Some("s1".to_owned()), Some("0/0".to_owned()), None, None]]);
    assert_eq!(made.tags, ["CREATE_REPLICATION_SLOT"]);
    let read = client.query("READ_REPLICATION_SLOT s1").unwrap();
    assert_eq!(read.rows, [[Some("physical".to_owned()), None, None]]);
    client.query("CREATE_REPLICATION_SLOT s2 PHYSICAL RESERVE_WAL").unwrap();
    let read = client.rows("READ_REPLICATION_SLOT s2");
    assert_eq!((read[0][0].as_str(), read[0][2].as_str()), ("physical", "1"));
    assert!(read[0][1].parse::<Lsn>().unwrap() >= Lsn(0x10_0000));
    client.query("CREATE_REPLICATION_SLOT s3 PHYSICAL (RESERVE_WAL true)").unwrap();
    let missing = client.query("READ_REPLICATION_SLOT nobody").unwrap();
    assert_eq!(missing.rows, [[None, None, None]]);
    let types: Vec<u32> = missing.types;
    assert_eq!(types, [25, 25, 20]);

    let mut errors = Vec::new();
    for command in [
        "CREATE_REPLICATION_SLOT s1 PHYSICAL",
        "CREATE_REPLICATION_SLOT \"a-b\" PHYSICAL",
        "CREATE_REPLICATION_SLOT s4 LOGICAL test_decoding",
        "CREATE_REPLICATION_SLOT s4 PHYSICAL (reserve)",
        "DROP_REPLICATION_SLOT nobody",
        "DROP_REPLICATION_SLOT nobody WAIT",
        "START_REPLICATION SLOT nobody 0/100000",
    ] {
        errors.push(said(&client.error(command)));
    }
    assert_eq!(
        errors,
        [
            "42710: replication slot \"s1\" already exists",
            "42602: replication slot name \"a-b\" contains invalid character | HINT: Replication slot names may only \
             contain lower case letters, numbers, and the underscore character.",
            "0A000: logical decoding is not supported by this server | HINT: Use physical replication.",
            "XX000: unrecognized option: reserve",
            "42704: replication slot \"nobody\" does not exist",
            "42704: replication slot \"nobody\" does not exist",
            "42704: replication slot \"nobody\" does not exist",
        ]
    );
    client.query("CREATE_REPLICATION_SLOT s4 PHYSICAL").unwrap();
    assert_eq!(
        said(&client.error("CREATE_REPLICATION_SLOT s5 PHYSICAL")),
        "53400: all replication slots are in use | HINT: Free one or increase max_replication_slots."
    );
    assert_eq!(client.tag("DROP_REPLICATION_SLOT s4"), "DROP_REPLICATION_SLOT");
    assert_eq!(
        node.rows(SLOTS),
        [
            ["s1", "physical", "f", "f", "NULL", "1"],
            ["s2", "physical", "f", "f", "reserved", "0"],
            ["s3", "physical", "f", "f", "reserved", "0"]
        ]
    );
    drop(client);
    node.stop();
}

#[test]
fn functions_answer_as_postgresqls() {
    let scenario = Scenario::new("slot-functions");
    let mut node = primary(&scenario);
    node.query("CREATE TABLE t(x)");
    node.query("CHECKPOINT");
    let mut client = node.client();
    assert_eq!(client.value("SELECT pg_create_physical_replication_slot('a')"), "(a,)");
    let made = client.query("SELECT * FROM pg_create_physical_replication_slot('b', true)").unwrap();
    assert_eq!((made.columns, made.types), (vec!["slot_name".to_owned(), "lsn".to_owned()], vec![19, 3220]));
    let restart: Lsn = made.rows[0][1].as_ref().unwrap().parse().unwrap();
    assert_eq!(
        client.value("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'b'"),
        restart.to_string()
    );
    client.query("INSERT INTO t VALUES (1)").unwrap();

    let end = node.lsn("pg_current_wal_flush_lsn");
    assert_eq!(
        client.value(&format!("SELECT pg_replication_slot_advance('b', '{end}')")),
        format!("(b,{end})")
    );
    // Not beyond what there is.
    let far = client.rows("SELECT slot_name, end_lsn FROM pg_replication_slot_advance('b', 'FFFF/0')");
    assert_eq!(far, [["b".to_owned(), node.lsn("pg_current_wal_flush_lsn").to_string()]]);
    assert_eq!(client.value("SELECT slot_name FROM pg_copy_physical_replication_slot('b', 'c')"), "c");
    let positions = "SELECT DISTINCT restart_lsn FROM pg_replication_slots WHERE slot_name IN ('b', 'c')";
    assert_eq!(client.rows(positions).len(), 1);

    let mut errors = Vec::new();
    for sql in [
        "SELECT pg_replication_slot_advance('a', 'FFFF/0')",
        "SELECT pg_replication_slot_advance('b', '0/100028')",
        "SELECT pg_replication_slot_advance('b', '0/0')",
        "SELECT pg_replication_slot_advance('nobody', '0/1')",
        "SELECT pg_copy_physical_replication_slot('a', 'd')",
        "SELECT pg_copy_physical_replication_slot('nobody', 'd')",
        "SELECT pg_create_physical_replication_slot('a')",
        "SELECT pg_create_physical_replication_slot('')",
        "SELECT pg_drop_replication_slot('nobody')",
    ] {
        errors.push(said(&client.error(sql)).replace(&far[0][1], "END"));
    }
    assert_eq!(
        errors,
        [
            "55000: replication slot \"a\" cannot be advanced | DETAIL: This slot has never previously reserved WAL, or \
             it has been invalidated.",
            "55000: cannot advance replication slot to 0/100028, minimum is END",
            "XX000: invalid target WAL LSN",
            "42704: replication slot \"nobody\" does not exist",
            "55000: cannot copy a replication slot that doesn't reserve WAL",
            "42704: replication slot \"nobody\" does not exist",
            "42710: replication slot \"a\" already exists",
            "42602: replication slot name \"\" is too short",
            "42704: replication slot \"nobody\" does not exist",
        ]
    );
    // What acts is not for views and triggers.
    client.query("CREATE VIEW v AS SELECT pg_drop_replication_slot('a')").unwrap();
    client.error("SELECT * FROM v");
    client.query("CREATE VIEW w AS SELECT * FROM pg_create_physical_replication_slot('d')").unwrap();
    client.error("SELECT * FROM w");
    assert_eq!(client.value("SELECT count(*) FROM pg_replication_slots"), "3");
    assert_eq!(client.value("SELECT pg_drop_replication_slot('a')"), "");
    assert_eq!(client.value("SELECT count(*) FROM pg_replication_slots"), "2");
    node.stop();
}

#[test]
fn temporary_slots_go_with_their_session_or_its_error() {
    let scenario = Scenario::new("slot-temporary");
    let mut node = primary(&scenario);
    let slots = || node.rows("SELECT slot_name FROM pg_replication_slots ORDER BY slot_name").concat();
    let mut client = node.client();
    client.query("SELECT pg_create_physical_replication_slot('of_session', true, true)").unwrap();
    let mut walsender = replication(&node);
    walsender.query("CREATE_REPLICATION_SLOT of_walsender TEMPORARY PHYSICAL RESERVE_WAL").unwrap();
    assert_eq!(slots(), ["of_session", "of_walsender"]);
    let pid = client.backend_pid;
    assert_eq!(
        said(&node.error("SELECT pg_drop_replication_slot('of_session')")),
        format!("55006: replication slot \"of_session\" is active for PID {pid}")
    );
    // Not even a start reads anything of them.
    assert_eq!(fs::read_dir(node.dir().join("pg_replslot")).unwrap().count(), 0);
    client.error("SELECT nothing");
    assert_eq!(slots(), ["of_walsender"]);
    walsender.error("READ_REPLICATION_SLOT");
    assert_eq!(slots(), [""; 0]);
    client.query("SELECT pg_create_physical_replication_slot('of_session', true, true)").unwrap();
    drop(client);
    wait::until("the slot to go", || slots().is_empty().then_some(()));
    drop(walsender);
    node.stop();
}

#[test]
fn a_slot_in_use_is_dropped_only_by_who_waits_for_it() {
    let scenario = Scenario::new("slot-drop-wait");
    let mut node = primary(&scenario);
    node.query("SELECT pg_create_physical_replication_slot('s', true)");
    let mut streaming = replication(&node);
    streaming.send_query("START_REPLICATION SLOT s 0/100000").unwrap();
    assert_eq!(streaming.read_message().unwrap().tag, b'W');
    let active = format!("55006: replication slot \"s\" is active for PID {}", streaming.backend_pid);
    assert_eq!(said(&node.error("SELECT pg_drop_replication_slot('s')")), active);
    let mut other = replication(&node);
    assert_eq!(said(&other.error("DROP_REPLICATION_SLOT s")), active);
    assert_eq!(said(&other.error("START_REPLICATION SLOT s 0/100000")), active);
    assert_eq!(node.rows("SELECT active, active_pid FROM pg_replication_slots")[0][0], "t");

    other.send_query("DROP_REPLICATION_SLOT s WAIT").unwrap();
    let waits = "SELECT wait_event FROM pg_stat_activity WHERE query = 'DROP_REPLICATION_SLOT s WAIT'";
    wait::until("the wait to be seen", || (node.rows(waits) == [["ReplicationSlotDrop"]]).then_some(()));
    other.cancel().unwrap();
    assert_eq!(other.read_answer().unwrap().error.unwrap().sqlstate, "57014");
    other.send_query("DROP_REPLICATION_SLOT s WAIT").unwrap();
    wait::until("the wait to be seen", || (node.rows(waits) == [["ReplicationSlotDrop"]]).then_some(()));
    drop(streaming);
    assert_eq!(other.read_answer().unwrap().tags, ["DROP_REPLICATION_SLOT"]);
    assert_eq!(node.value("SELECT count(*) FROM pg_replication_slots"), "0");
    drop(other);
    node.stop();
}

#[test]
fn slots_survive_every_end_and_nothing_half_made_does() {
    let scenario = Scenario::new("slot-survives");
    let mut node = primary(&scenario);
    node.query("CREATE TABLE t(x)");
    node.query("SELECT pg_create_physical_replication_slot('kept', true)");
    node.query("SELECT pg_create_physical_replication_slot('empty')");
    let slots = "SELECT slot_name, restart_lsn, active FROM pg_replication_slots ORDER BY slot_name";
    let before = node.rows(slots);
    node.kill_all();
    let directory = node.dir().join("pg_replslot");
    fs::create_dir(directory.join("half.tmp")).unwrap();
    fs::write(directory.join("half.tmp/state"), "half").unwrap();
    fs::write(directory.join("kept/.tmpabc"), "half").unwrap();
    node.start();
    assert_eq!(node.rows(slots), before);
    assert!(!directory.join("half.tmp").exists() && !directory.join("kept/.tmpabc").exists());
    // A process that crashes takes shared memory with it.
    node.crash(node.process("checkpointer"));
    assert_eq!(node.rows(slots), before);

    // A moved slot is on disk with the next checkpoint, and a clean stop has one.
    let end = node.lsn("pg_current_wal_flush_lsn");
    node.query(&format!("SELECT pg_replication_slot_advance('kept', '{end}')"));
    node.kill_all();
    node.start();
    assert_eq!(node.rows(slots), before);
    node.query(&format!("SELECT pg_replication_slot_advance('kept', '{end}')"));
    node.restart();
    assert_eq!(node.rows(slots)[1][1], end.to_string());
    node.query("SELECT pg_drop_replication_slot('empty')");
    node.kill_all();
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM pg_replication_slots"), "1");

    node.stop();
    let state = directory.join("kept/state");
    let good = fs::read(&state).unwrap();
    fs::write(&state, &good[..good.len() - 1]).unwrap();
    assert!(node.try_start().is_err());
    node.wait_log("FATAL:  replication slot file");
    fs::write(&state, good).unwrap();
    node.settings.push("max_replication_slots=0".to_owned());
    assert!(node.try_start().is_err());
    node.wait_log("FATAL:  too many replication slots active before shutdown");
    node.settings.pop();
    node.start();
    node.query("SELECT pg_drop_replication_slot('kept')");
    node.stop();
    node.settings.push("max_replication_slots=0".to_owned());
    node.start();
    assert_eq!(
        said(&node.error("SELECT pg_create_physical_replication_slot('s')")),
        "55000: replication slots can only be used if max_replication_slots > 0"
    );
    node.stop();
}
