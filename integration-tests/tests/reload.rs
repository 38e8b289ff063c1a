//! A reload is absorbed by every process before `reload` returns, whatever the processes are at; and what isn't good is
//! refused as a whole.
//!
//! Method: walship.conf of real nodes is edited, and `reload` says what came of it. A process that stands still (SIGSTOP)
//! shows that it is waited for, whichever kind it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Output};
use std::time::Duration;

use integration_tests::client::{Address, Client};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::random::{Random, seeds};
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::clock;
use sys::process::{self, Pid};
use sys::signal::Signal;

/// Never ends by itself.
const ENDLESS: &str =
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
/// A reload that nobody holds up takes less.
const QUICK: Duration = Duration::from_secs(10);

fn primary(scenario: &Scenario, lines: &str) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    node.configure(lines);
    node.start();
    node
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs `reload` to its end.
fn reload(node: &Node, timeout: &str) -> (Option<i32>, String, String) {
    said(&node.spawn_reload(timeout).wait_with_output().unwrap())
}

fn end(command: Child) -> (Option<i32>, String, String) {
    said(&command.wait_with_output().unwrap())
}

fn freeze(pid: Pid) {
    process::kill(pid, Signal::Stop).unwrap();
    wait::until("a process to stand still", || procfs::stopped(pid).then_some(()));
}

/// The last line of postmaster.pid.
fn reload_line(node: &Node) -> String {
    let text = std::fs::read_to_string(node.dir().join("postmaster.pid")).unwrap();
    text.lines().nth(8).unwrap_or_default().to_owned()
}

fn setting(node: &Node, columns: &str, name: &str) -> Vec<String> {
    node.rows(&format!("SELECT {columns} FROM pg_settings WHERE name = '{name}'")).remove(0)
}

#[test]
fn a_new_value_is_there_for_everybody_when_reload_returns() {
    let scenario = Scenario::new("reload-value");
    let mut node = primary(&scenario, "checkpoint_timeout = '4min'");
    let mut idle = node.client();
    let mut with_its_own = node.client();
    with_its_own.query("SET extra_float_digits = 3").unwrap();
    let loaded = node.value("SELECT pg_conf_load_time()");

    let said =
        node.reload("checkpoint_timeout = '2min'\nextra_float_digits = 0\n# three\nstatement_timeout = 90");
    assert_eq!(said, "configuration reloaded\n");
    assert_eq!(idle.value("SHOW checkpoint_timeout"), "2min");
    assert_eq!(idle.value("SHOW extra_float_digits"), "0");
    assert_eq!(with_its_own.value("SHOW extra_float_digits"), "3");
    with_its_own.query("RESET extra_float_digits").unwrap();
    assert_eq!(with_its_own.value("SHOW extra_float_digits"), "0");
    let file = node.dir().canonicalize().unwrap().join("walship.conf");
    assert_eq!(
        setting(&node, "setting, source, context, sourcefile, sourceline", "statement_timeout"),
        ["90", "configuration file", "user", file.to_str().unwrap(), "5"]
    );
    assert_eq!(idle.error("SELECT pg_sleep(10)").sqlstate, "57014");
    assert!(node.value("SELECT pg_conf_load_time()") > loaded);
    assert_eq!(idle.value("SELECT pg_conf_load_time()"), node.value("SELECT pg_conf_load_time()"));
    node.wait_log("LOG:  received SIGHUP, reloading configuration files");
    node.wait_log("LOG:  parameter \"checkpoint_timeout\" changed to \"2min\"");
    // Nobody but the postmaster says so.
    assert_eq!(node.log().matches("parameter \"checkpoint_timeout\" changed").count(), 1);

    node.reload("extra_float_digits = 0");
    node.wait_log("LOG:  parameter \"checkpoint_timeout\" removed from configuration file, reset to default");
    assert_eq!(idle.value("SHOW checkpoint_timeout"), "5min");
    assert_eq!(setting(&node, "source", "checkpoint_timeout"), ["default"]);

    // By SQL too, which waits for nobody.
    node.configure("checkpoint_timeout = '1min'");
    assert_eq!(idle.value("SELECT pg_reload_conf()"), "t");
    wait::until("the new value", || (idle.value("SHOW checkpoint_timeout") == "1min").then_some(()));
    node.stop();
}

#[test]
fn memory_of_statements_changes_for_those_who_have_run_some_already() {
    let scenario = Scenario::new("reload-memory");
    let mut node = primary(&scenario, "max_statement_size = '64MB'");
    let large = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 50) \
                 SELECT length(group_concat(hex(zeroblob(100000)))) FROM c";
    let mut client = node.client();
    client.query("CREATE TABLE t(x)").unwrap();
    client.query(large).unwrap();
    client.query("SET statement_memory_limit = '2MB'").unwrap();
    assert_eq!(client.error(large).sqlstate, "53200");
    client.query("RESET statement_memory_limit").unwrap();
    client.query(large).unwrap();
    client.query(&format!("INSERT INTO t {large}")).unwrap();
    node.reload("max_statement_size = '64MB'\nstatement_memory_limit = '2MB'");
    assert_eq!(client.error(large).sqlstate, "53200");
    client.query("SET statement_memory_limit = '256MB'").unwrap();
    client.query(large).unwrap();
    // The startup process executes it, with the node's limit.
    assert_eq!(client.error(&format!("INSERT INTO t {large}")).sqlstate, "53200");
    node.reload("max_statement_size = '64MB'");
    client.query(&format!("INSERT INTO t {large}")).unwrap();
    node.stop();
}

#[test]
fn an_idle_client_is_told_at_once_of_what_it_is_told_of() {
    let scenario = Scenario::new("reload-report");
    let mut node = primary(&scenario, "");
    let mut idle = node.client();
    assert_eq!(idle.parameters["default_transaction_read_only"], "off");
    node.reload("default_transaction_read_only = true");
    let message = idle.read_message().unwrap();
    assert_eq!((message.tag, message.body.as_slice()), (b'S', &b"default_transaction_read_only\0on\0"[..]));
    assert_eq!(idle.error("CREATE TABLE t(x)").sqlstate, "25006");
    // What it says doesn't come again.
    assert_eq!(idle.value("SELECT 1"), "1");
    node.stop();
}

#[test]
fn a_bad_file_is_refused_as_a_whole() {
    let scenario = Scenario::new("reload-bad");
    let mut node = primary(&scenario, "checkpoint_timeout = '4min'");
    let path = node.dir().join("walship.conf");
    let file = node.dir().canonicalize().unwrap().join("walship.conf");
    let file = file.display();

    node.configure("checkpoint_timeout = '2min'\nwork_men = 1\nwal_writer_delay = 'soon'");
    let last = format!("configuration file \"{file}\" contains errors; no changes were applied");
    let unknown = format!("unrecognized configuration parameter \"work_men\" in file \"{file}\" line 3");
    let (status, out, err) = reload(&node, "60");
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(
        err.starts_with(&format!("error: {unknown}\ninvalid value for parameter \"wal_writer_delay\"")),
        "{err}"
    );
    assert!(err.ends_with(&format!("{last}\n")), "{err}");
    node.wait_log(&format!("LOG:  {unknown}"));
    node.wait_log(&format!("LOG:  {last}"));
    assert_eq!(node.value("SHOW checkpoint_timeout"), "4min");
    assert_eq!(
        node.rows("SELECT seqno, sourceline, name, setting, applied, error IS NULL FROM pg_file_settings"),
        [
            ["1", "2", "checkpoint_timeout", "2min", "f", "1"],
            ["2", "3", "work_men", "1", "f", "0"],
            ["3", "4", "wal_writer_delay", "soon", "f", "0"]
        ]
    );

    for (bytes, why) in [
        (&b"checkpoint_timeout = '2min'\nthis is no toml\n"[..], "syntax error"),
        (&b"cluster_name = '\xff'\n"[..], "could not read configuration file"),
        (&b"#".repeat(70_000)[..], "configuration file is larger than 65536 bytes"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let (status, _, err) = reload(&node, "60");
        assert_eq!(status, Some(1));
        assert!(err.contains(why) && err.contains(&last), "{err}");
        assert_eq!(node.rows("SELECT applied, error IS NULL FROM pg_file_settings"), [["f", "0"]]);
    }
    std::fs::remove_file(&path).unwrap();
    let (status, _, err) = reload(&node, "60");
    assert_eq!(status, Some(1));
    assert!(err.contains("No such file or directory"), "{err}");
    assert_eq!(node.value("SHOW checkpoint_timeout"), "4min");

    // The start says the same.
    std::fs::write(&path, "work_men = 1\n").unwrap();
    node.stop();
    node.try_start().unwrap_err();
    node.wait_log(&format!(
        "LOG:  unrecognized configuration parameter \"work_men\" in file \"{file}\" line 1"
    ));
    node.wait_log(&format!("FATAL:  configuration file \"{file}\" contains errors"));
    std::fs::write(&path, "checkpoint_timeout = '2min'\n").unwrap();
    node.start();
    assert_eq!(node.value("SHOW checkpoint_timeout"), "2min");
    node.stop();
}

#[test]
fn what_needs_a_restart_is_pending_and_what_was_given_with_a_flag_stays() {
    let scenario = Scenario::new("reload-restart");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.set("wal_writer_delay=123");
    node.configure("max_connections = 20");
    node.start();
    let said = node.reload("max_connections = 30\nwal_writer_delay = 5\ncheckpoint_timeout = 60");
    let refused = "parameter \"max_connections\" cannot be changed without restarting the server";
    assert_eq!(said, format!("configuration reloaded\nWARNING:  {refused}\n"));
    node.wait_log(&format!("LOG:  {refused}"));
    node.wait_log("contains errors; unaffected changes were applied");
    assert_eq!(setting(&node, "setting, pending_restart", "max_connections"), ["20", "t"]);
    assert_eq!(
        setting(&node, "setting, source, pending_restart", "wal_writer_delay"),
        ["123", "command line", "f"]
    );
    assert_eq!(node.value("SHOW checkpoint_timeout"), "1min");
    assert_eq!(
        node.rows("SELECT name, applied, error FROM pg_file_settings"),
        [
            ["max_connections", "f", "setting could not be applied"],
            ["wal_writer_delay", "f", "NULL"],
            ["checkpoint_timeout", "t", "NULL"]
        ]
    );
    node.restart();
    assert_eq!(setting(&node, "setting, pending_restart", "max_connections"), ["30", "f"]);
    node.stop();
}

/// Freezes the process, and checks that `reload` names it, and goes on waiting until it goes on.
fn check_that_it_is_waited_for(node: &Node, pid: Pid, kind: &str) {
    freeze(pid);
    let (status, out, err) = reload(node, "1");
    assert_eq!((status, out.as_str()), (Some(1), ""), "{kind}: {err}");
    let named = format!("error: PID {pid} ({kind}) did not absorb the new configuration within 1 s\n");
    assert!(err.starts_with(&named), "{err}");
    let waiting = node.spawn_reload("60");
    wait::until("a reload that waits", || reload_line(node).ends_with(" absorbing").then_some(()));
    process::kill(pid, Signal::Cont).unwrap();
    assert_eq!(end(waiting), (Some(0), "configuration reloaded\n".to_owned(), String::new()), "{kind}");
}

#[test]
fn a_process_of_any_kind_that_stands_still_is_waited_for_and_named() {
    let scenario = Scenario::new("reload-frozen");
    let mut cluster = Cluster::start_with(&scenario, &["archive_mode=on", "archive_command=true"]);
    let mut client = cluster.primary.client();
    for (backend_type, kind) in [
        ("startup", "startup process"),
        ("walwriter", "WAL writer process"),
        ("checkpointer", "checkpointer process"),
        ("archiver", "archiver process"),
        ("walsender", "server process"),
    ] {
        let pid = cluster.primary.process(backend_type);
        check_that_it_is_waited_for(&cluster.primary, pid, kind);
    }
    check_that_it_is_waited_for(&cluster.primary, Pid(client.backend_pid), "server process");
    assert_eq!(client.value("SELECT 1"), "1");
    for (backend_type, kind) in [("startup", "startup process"), ("walreceiver", "WAL receiver process")] {
        let pid = cluster.standby.process(backend_type);
        check_that_it_is_waited_for(&cluster.standby, pid, kind);
    }
    // Everybody that the views know is of one of these kinds.
    for node in [&cluster.primary, &cluster.standby] {
        for row in node.rows("SELECT DISTINCT backend_type FROM pg_stat_activity") {
            let known = [
                "startup",
                "walwriter",
                "checkpointer",
                "archiver",
                "walsender",
                "client backend",
                "walreceiver",
            ];
            assert!(known.contains(&row[0].as_str()), "{row:?} is not tested here");
        }
    }
    cluster.wait_streaming();
    cluster.stop();
}

#[test]
fn nobody_who_is_busy_or_waits_for_a_client_holds_a_reload_up() {
    let scenario = Scenario::new("reload-busy");
    let mut node = primary(&scenario, "write_statement_timeout = '10min'");
    node.query("CREATE TABLE t(x)");
    // Not a word from this one.
    let _silent = Client::connect_raw(&node.address()).unwrap();
    let mut busy = Vec::new();
    for sql in [
        ENDLESS,
        "SELECT pg_sleep(600)",
        // A client that takes nothing.
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, hex(zeroblob(500)) FROM c",
        // The writer computes, and then another session waits for it.
        &format!("INSERT INTO t {ENDLESS}"),
        "INSERT INTO t VALUES (2)",
    ] {
        let mut client = node.client();
        client.query("SET application_name = 'busy'").unwrap();
        client.send_query(sql).unwrap();
        wait::until("the statement to run", || {
            let rows = node.rows("SELECT query FROM pg_stat_activity WHERE state = 'active'");
            rows.iter().any(|row| row[0] == sql).then_some(())
        });
        busy.push(client);
    }
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
    wait::until("a session to be stuck on its client", || (node.value(stuck) == "1").then_some(()));
    for delay in 1..20 {
        let began = clock::now();
        node.reload(&format!("write_statement_timeout = '10min'\nwal_writer_delay = {delay}"));
        let took = clock::now().saturating_since(began);
        assert!(took < QUICK, "{took:?}");
        assert_eq!(node.value("SHOW wal_writer_delay"), format!("{delay}ms"));
    }
    for client in &busy {
        client.cancel().unwrap();
    }
    for mut client in busy {
        let error = client.read_answer().unwrap().error;
        assert!(error.is_none_or(|error| error.sqlstate == "57014"));
    }
    node.stop();
}

#[test]
fn a_node_that_ends_meanwhile_ends_the_command() {
    let scenario = Scenario::new("reload-ends");
    let mut node = primary(&scenario, "restart_after_crash = false");
    let dir = node.dir().to_str().unwrap().to_owned();
    let postmaster = node.pid();
    let ended = format!(
        "error: the node (PID {postmaster}) ended before all of its processes had the new configuration\n"
    );
    let walwriter = node.process("walwriter");
    freeze(walwriter);
    let waiting = node.spawn_reload("60");
    wait::until("a reload that waits", || reload_line(&node).ends_with(" absorbing").then_some(()));
    process::kill(walwriter, Signal::Kill).unwrap();
    assert_eq!(node.wait_end(), Some(1));
    assert_eq!(end(waiting), (Some(1), String::new(), ended));

    let (status, _, err) = said(&node.command(&["reload", "-D", &dir]));
    assert_eq!((status, err), (Some(1), format!("error: no node runs in \"{dir}\"\n")));
    let (status, _, _) = said(&node.command(&["reload", "-D", "/nonexistent"]));
    assert_eq!(status, Some(1));

    // A postmaster that stands still doesn't answer.
    node.start();
    let postmaster = node.pid();
    freeze(postmaster);
    let (status, _, err) = reload(&node, "1");
    let silent =
        format!("error: the postmaster (PID {postmaster}) did not reload its configuration within 1 s\n");
    assert_eq!((status, err), (Some(1), silent));
    process::kill(postmaster, Signal::Cont).unwrap();

    // A session that ends is not waited for.
    let client = node.client();
    let backend = Pid(client.backend_pid);
    freeze(backend);
    let waiting = node.spawn_reload("60");
    wait::until("a reload that waits", || reload_line(&node).ends_with(" absorbing").then_some(()));
    drop(client);
    process::kill(backend, Signal::Term).unwrap();
    process::kill(backend, Signal::Cont).unwrap();
    assert_eq!(end(waiting).0, Some(0));
    node.stop();
}

#[test]
fn a_crash_meanwhile_ends_with_a_node_that_has_the_new_settings() {
    let scenario = Scenario::new("reload-crash");
    let mut node = primary(&scenario, "checkpoint_timeout = '1min'");
    let walwriter = node.process("walwriter");
    freeze(walwriter);
    node.configure("checkpoint_timeout = '2min'");
    let waiting = node.spawn_reload("60");
    wait::until("a reload that waits", || reload_line(&node).ends_with(" absorbing").then_some(()));
    process::kill(walwriter, Signal::Kill).unwrap();
    assert_eq!(end(waiting), (Some(0), "configuration reloaded\n".to_owned(), String::new()));
    wait::until("the node to serve again", || node.try_client().ok());
    assert_eq!(node.value("SHOW checkpoint_timeout"), "2min");
    // And the next one reaches those who were born after the crash.
    for (value, shown) in [("180", "3min"), ("240", "4min"), ("300", "5min")] {
        node.reload(&format!("checkpoint_timeout = {value}"));
        assert_eq!(node.value("SHOW checkpoint_timeout"), shown);
        assert_eq!(setting(&node, "source", "checkpoint_timeout"), ["configuration file"]);
    }
    node.stop();
}

#[test]
fn a_storm_of_reloads_is_absorbed_by_sessions_that_come_and_go() {
    const ROUNDS: u32 = 25;
    let scenario = Scenario::new("reload-storm");
    let mut cluster = Cluster::start(&scenario);
    let mut random = Random::new(seeds(&[1])[0]);
    let address = |node: &Node| Address::Tcp(node.port());
    let mut old: Vec<Client> =
        [&cluster.primary, &cluster.standby].iter().flat_map(|node| [node.client(), node.client()]).collect();
    for round in 1..=ROUNDS {
        let value = format!("{}ms", 10_000 + round);
        for node in [&cluster.primary, &cluster.standby] {
            node.configure(&format!("idle_in_transaction_session_timeout = '{value}'"));
        }
        let mut commands = Vec::new();
        let mut passing = Vec::new();
        for _ in 0..4 {
            for node in [&cluster.primary, &cluster.standby] {
                commands.push(node.spawn_reload("60"));
                (0..random.below(4)).for_each(|_| node.signal(Signal::Hup));
                passing.push(Client::connect(&address(node), &[]).unwrap());
                if random.below(2) == 0 {
                    passing.swap_remove(random.below(passing.len() as u64) as usize);
                }
            }
        }
        for command in commands {
            assert_eq!(end(command), (Some(0), "configuration reloaded\n".to_owned(), String::new()));
        }
        for client in old.iter_mut().chain(&mut passing) {
            assert_eq!(client.value("SHOW idle_in_transaction_session_timeout"), value, "round {round}");
        }
    }
    for node in [&cluster.primary, &cluster.standby] {
        wait::until("the last reload to be over", || reload_line(node).ends_with(" done").then_some(()));
    }
    cluster.stop();
}
