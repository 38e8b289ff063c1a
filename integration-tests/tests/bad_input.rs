//! Bad input from clients, peers and disks: an error that says what and where, nothing lost, nothing hangs.
//!
//! Method: bytes that no decent peer sends, on the real sockets of a real pair; bits flipped in the files and, by a relay,
//! on the wire. After each of them the nodes must still serve and be equal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use integration_tests::client::{Client, parse_error};
use integration_tests::cluster::Cluster;
use integration_tests::disk::verify::remove_tables;
use integration_tests::load;
use integration_tests::node::Node;
use integration_tests::proxy::Proxy;
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn primary(scenario: &Scenario, settings: &[&str]) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    settings.iter().for_each(|setting| node.set(setting));
    node.start();
    node.query(load::CREATE_TABLE);
    node
}

/// The node serves, writes and has as many children as before: nothing hangs on to a slot.
fn assert_in_service(node: &Node) {
    node.query("SELECT count(*) FROM acked");
    wait::until("sessions of bad clients to be gone", || {
        (node.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == "1")
            .then_some(())
    });
}

#[test]
fn random_bytes_end_the_connection_and_nothing_else() {
    let scenario = Scenario::new("random-bytes");
    let mut node = primary(&scenario, &["authentication_timeout=1s"]);
    for seed in random::seeds(&[1]) {
        let mut random = Random::new(seed);
        for _ in 0..60 {
            let length = usize::try_from(random.below(300)).unwrap();
            let bytes: Vec<u8> = (0..length).map(|_| random.bits().to_le_bytes()[0]).collect();
            // As the first bytes, and in a session.
            for started in [false, true] {
                let mut client =
                    if started { node.client() } else { Client::connect_raw(&node.address()).unwrap() };
                let _may_be_closed_already = client.send_bytes(&bytes);
                if !started {
                    client.read_to_end().unwrap_or_else(|error| panic!("seed {seed}, {bytes:?}: {error}"));
                }
            }
        }
    }
    assert_in_service(&node);
    node.stop();
}

#[test]
fn a_startup_packet_of_2_gb_is_refused_at_its_length() {
    let scenario = Scenario::new("startup-2gb");
    let mut node = primary(&scenario, &[]);
    for length in [0x7fff_ffff_i32, i32::MIN, -1, 0, 3, 7, 10_005] {
        let mut client = Client::connect_raw(&node.address()).unwrap();
        client.send_bytes(&length.to_be_bytes()).unwrap();
        client.send_bytes(&[0, 3, 0, 0]).unwrap();
        let answer = client.read_to_end().unwrap();
        assert!(answer.len() < 1000, "length {length}: {} bytes", answer.len());
    }
    node.wait_log("invalid length of startup packet");
    assert_in_service(&node);
    node.stop();
}

#[test]
fn a_message_of_2_gb_ends_its_session_with_an_error() {
    let scenario = Scenario::new("message-2gb");
    let mut node = primary(&scenario, &[]);
    for (tag, length) in [(b'Q', 0x7fff_ffff_i32), (b'Q', -1), (b'Q', 3), (b'~', 8)] {
        let mut client = node.client();
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(b"SELECT 1\0");
        client.send_bytes(&bytes).unwrap();
        let answer = client.read_to_end().unwrap();
        if !answer.is_empty() {
            assert_eq!(answer[0], b'E', "{tag} {length}");
            assert_eq!(parse_error(&answer[5..]).sqlstate, "08P01", "{tag} {length}");
        }
    }
    assert_in_service(&node);
    node.stop();
}

#[test]
fn half_a_message_and_silence_holds_nobody_up() {
    let scenario = Scenario::new("half-message");
    let mut node = primary(&scenario, &["authentication_timeout=1s"]);
    // Half a startup packet: the time for authentication runs out.
    for bytes in [&[][..], &[0, 0][..], &[0, 0, 0, 50, 0, 3, 0, 0, b'u', b's'][..]] {
        let mut client = Client::connect_raw(&node.address()).unwrap();
        client.send_bytes(bytes).unwrap();
        client.read_to_end().unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
    }
    // Half a query in a session: it waits for the rest, the others don't.
    let mut half = node.client();
    half.send_bytes(&[b'Q', 0, 0, 0, 50, b'S', b'E']).unwrap();
    node.query("INSERT INTO acked VALUES (1, 0, '')");
    assert_eq!(node.value("SELECT count(*) FROM acked"), "1");
    // And it doesn't hold a fast shutdown up.
    node.stop();
    let end = half.read_to_end().unwrap();
    assert_eq!(parse_error(&end[5..]).sqlstate, "57P01");
}

#[test]
fn replication_commands_with_garbage_are_refused_and_the_connection_goes_on() {
    let scenario = Scenario::new("replication-garbage");
    let mut node = primary(&scenario, &[]);
    let mut client = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    for (command, sqlstate) in [
        ("START_REPLICATION", "42601"),
        ("START_REPLICATION PHYSICAL XYZ", "42601"),
        ("START_REPLICATION 0/0 TIMELINE", "42601"),
        ("START_REPLICATION 0/100000 TIMELINE 77", "XX000"),
        ("START_REPLICATION SLOT \"nobody\" 0/100000", "42704"),
        ("TIMELINE_HISTORY 0", "42601"),
        ("TIMELINE_HISTORY 2", "58P01"),
        ("SHOW nothing", "42704"),
        ("IDENTIFY_SYSTEM IDENTIFY_SYSTEM", "42601"),
        ("\u{1}\u{2}\u{3}", "0A000"),
        ("SELECT 1", "0A000"),
    ] {
        let error = client.error(command);
        assert_eq!(error.sqlstate, sqlstate, "{command}: {error}");
    }
    // Ahead of the log: told after the copy has begun.
    client.send_query("START_REPLICATION 7F/0 TIMELINE 1").unwrap();
    let first = client.read_message().unwrap();
    let error = if first.tag == b'W' { client.read_message().unwrap() } else { first };
    assert_eq!(error.tag, b'E');
    let error = parse_error(&error.body);
    assert!(error.message.contains("is ahead of the WAL flush position of this server"), "{error}");
    // Garbage within the stream ends that stream alone.
    let mut client = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    let start = client.rows("IDENTIFY_SYSTEM")[0][2].clone();
    client.send_query(&format!("START_REPLICATION {start} TIMELINE 1")).unwrap();
    assert_eq!(client.read_message().unwrap().tag, b'W');
    client.send_message(b'd', b"?garbage").unwrap();
    client.read_to_end().unwrap();
    node.wait_log("unexpected message type \"?\"");
    assert_in_service(&node);
    node.stop();
}

#[test]
fn a_standby_of_another_system_is_refused_by_name() {
    let scenario = Scenario::new("other-system");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(load::CREATE_TABLE);
    cluster.primary.query("INSERT INTO acked VALUES (1, 0, '')");
    cluster.wait_caught_up();
    let mut other = Node::init(&scenario, "other", &["--wal-segsize", "1MB"]);
    other.start();
    cluster.standby.stop();
    cluster.standby.set(&format!("primary_conninfo={}", other.conninfo("standby")));
    cluster.standby.start();
    cluster.standby.wait_log("database system identifier differs between the primary and standby");
    assert_eq!(cluster.standby.value("SELECT count(*) FROM acked"), "1");
    cluster.standby.settings.pop();
    cluster.standby.restart();
    cluster.primary.query("INSERT INTO acked VALUES (2, 0, '')");
    cluster.wait_streaming();
    cluster.assert_equal(&["acked"]);
    other.stop();
    cluster.stop();
}

/// The file and the place in it of the last occurrence of `bytes` in the log of a node.
fn find_in_wal(node: &Node, bytes: &[u8]) -> (PathBuf, usize) {
    let mut files: Vec<PathBuf> =
        fs::read_dir(node.dir().join("pg_wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
        .into_iter()
        .rev()
        .find_map(|path| {
            let contents = fs::read(&path).unwrap();
            let at = contents.windows(bytes.len()).rposition(|window| window == bytes)?;
            Some((path, at))
        })
        .expect("the bytes are in the log")
}

fn flip(path: &PathBuf, at: usize) {
    let mut contents = fs::read(path).unwrap();
    contents[at] ^= 1;
    fs::write(path, contents).unwrap();
}

#[test]
fn a_flipped_bit_in_the_log_on_disk_stops_recovery_before_anything_is_lost() {
    let scenario = Scenario::new("flipped-on-disk");
    let mut node = primary(&scenario, &["checkpoint_timeout=1h"]);
    // The checkpoint at the end of recovery may be under way still; what is before its redo is not read again.
    node.query("CHECKPOINT");
    node.query("INSERT INTO acked VALUES (1, 0, 'the row whose record is damaged')");
    for id in 2..100 {
        node.query(&format!("INSERT INTO acked VALUES ({id}, 0, '')"));
    }
    node.kill_all();
    // They have the row if the inserts took long.
    remove_tables(node.dir()).unwrap();
    let (path, at) = find_in_wal(&node, b"the row whose record is damaged");
    flip(&path, at);
    let why = node.try_start().expect_err("acknowledged rows stand behind the damage");
    assert!(why.contains("exit status: 1"), "{why}");
    let log = node.log();
    assert!(log.contains("incorrect resource manager data checksum in record at 0/"), "{}", node.log_tail());
    // Nothing was cut off or overwritten: with the bit put right all rows are there.
    flip(&path, at);
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM acked"), "99");
    node.stop();
}

#[test]
fn a_flipped_bit_on_the_wire_is_found_and_the_record_fetched_again() {
    let scenario = Scenario::new("flipped-on-wire");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(load::CREATE_TABLE);
    cluster.wait_caught_up();
    cluster.standby.stop();
    let mut proxy = Proxy::new(cluster.primary.port());
    let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=standby", proxy.port());
    cluster.standby.set(&format!("primary_conninfo={conninfo}"));
    cluster.standby.start();
    proxy.until("the standby to stream through the relay", || {
        let rows = cluster.primary.rows("SELECT state FROM pg_stat_replication");
        rows.iter().any(|row| row[0] == "streaming").then_some(())
    });
    proxy.flip_bit_in(b"the row that is damaged");
    cluster.primary.query("INSERT INTO acked VALUES (1, 0, 'the row that is damaged')");
    for id in 2..50 {
        cluster.primary.query(&format!("INSERT INTO acked VALUES ({id}, 0, '')"));
    }
    let standby = &cluster.standby;
    proxy.until("the standby to tell of the damage", || {
        standby.log().contains("incorrect resource manager data checksum in record at 0/").then_some(())
    });
    assert!(proxy.flipped());
    // The relay is clean from here on: the standby gets the record again, by itself.
    let end = cluster.primary.lsn("pg_current_wal_flush_lsn");
    proxy.until("the standby to replay all", || (standby.lsn("pg_last_wal_replay_lsn") >= end).then_some(()));
    cluster.assert_equal(&["acked"]);
    cluster.standby.stop();
    drop(proxy);
    cluster.standby.settings.pop();
    cluster.standby.start();
    cluster.wait_streaming();
    cluster.assert_equal(&["acked"]);
    cluster.stop();
}
