//! A password is nowhere to be seen: in no log, no view, no file of either node, no process's title, whatever statement it
//! stood in and whatever became of that.
//!
//! Method: passwords that are like nothing else; every statement that can hold one, well-formed and not; then everything that
//! the nodes have written and show is searched for them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;

/// Every password of this test holds it.
const SECRET: &str = "Zwetschgenknoedel";

fn statements() -> Vec<String> {
    [
        "CREATE ROLE a LOGIN PASSWORD '$'",
        "CREATE USER b ENCRYPTED PASSWORD E'$'",
        "ALTER USER a PASSWORD $x$$$x$",
        "ALTER ROLE b WITH PASSWORD '$' SUPERUSER",
        "CREATE ROLE a PASSWORD '$'",
        "CREATE ROLE c PASWORD '$'",
        "CREATE ROLE c '$'",
        "CREATE ROLE c PASSWORD '$",
        "CREATE ROLE c PASSWORD \u{2}$",
        "CREATE ROLE c PASSWORD $",
        "CREATE ROLE c PASSWORD $ '",
        "CREAT ROLE c PASSWORD '$'",
        "ALTER ROLE nobody PASSWORD '$'",
        "ALTER ROLE a PASSWORD '$' CONNECTION LIMIT 3",
        "ALTER ROLE a UNENCRYPTED PASSWORD '$'",
        "SELECT 1; /* x */ ALTER ROLE a PASSWORD '$'; SELECT no_such_column",
        "BEGIN; ALTER ROLE a PASSWORD '$'; COMMIT",
        "BEGIN; CREATE ROLE d PASSWORD '$'; SELECT 1/0 FROM nowhere",
        "ROLLBACK",
    ]
    .map(|statement| {
        statement
            .replace("$x$$$x$", "\u{1}")
            .replace('$', SECRET)
            .replace('\u{1}', &format!("$x${SECRET}$x$"))
            .replace('\u{2}', "$y$")
    })
    .to_vec()
}

fn assert_unseen(what: &str, bytes: &[u8]) {
    let seen = bytes.windows(SECRET.len()).position(|window| window == SECRET.as_bytes());
    if let Some(at) = seen {
        let around = &bytes[at.saturating_sub(80)..(at + 40).min(bytes.len())];
        panic!("{what} shows a password: …{}…", String::from_utf8_lossy(around));
    }
}

fn search_files(dir: &Path, but: &[&str]) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search_files(&path, but);
        } else if let Ok(bytes) = fs::read(&path)
            && !but.iter().any(|name| path.ends_with(name))
        {
            assert_unseen(&path.display().to_string(), &bytes);
        }
    }
}

fn search_views(node: &Node) {
    for view in [
        "pg_stat_activity",
        "pg_stat_wal_receiver",
        "pg_settings",
        "pg_file_settings",
        "pg_roles",
        "pg_stat_replication",
    ] {
        let rows = node.rows(&format!("SELECT * FROM {view}"));
        assert_unseen(view, format!("{rows:?}").as_bytes());
    }
    for show in ["SHOW ALL", "SHOW primary_conninfo", "SELECT current_setting('primary_conninfo')"] {
        assert_unseen(show, format!("{:?}", node.rows(show)).as_bytes());
    }
}

#[test]
fn passwords_are_in_no_log_no_view_and_no_file() {
    let scenario = Scenario::new("passwords-unseen");
    let mut cluster = Cluster::start_with(&scenario, &["log_min_messages=debug1"]);
    let mut client = cluster.primary.client();
    let pid = client.backend_pid;
    for statement in statements() {
        let answer = client.answer(&statement).unwrap();
        if let Some(error) = answer.error {
            assert!(!statement.starts_with("SELECT 'x'"), "{statement}: {error}");
        }
        let shown = cluster.primary.rows(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}"));
        assert_unseen(
            &format!("pg_stat_activity of {}", statement.replace(SECRET, "…")),
            format!("{shown:?}").as_bytes(),
        );
    }
    assert_eq!(client.value("SELECT count(*) FROM pg_roles WHERE rolname IN ('a', 'b')"), "2");
    // The standby knows its own in plain text, which is in its walship.conf alone.
    cluster.primary.query(&format!("CREATE USER repl REPLICATION PASSWORD '{SECRET} 2'"));
    cluster.wait_caught_up();
    let conninfo = format!(
        "primary_conninfo = \"host=127.0.0.1 port={} user=repl password='{SECRET} 2' application_name=standby\"",
        cluster.primary.port()
    );
    let rules = fs::read_to_string(cluster.primary.dir().join("pg_hba.conf")).unwrap();
    let asked = "host replication repl 127.0.0.1/32 scram-sha-256\n";
    fs::write(cluster.primary.dir().join("pg_hba.conf"), format!("{asked}{rules}")).unwrap();
    cluster.primary.reload("");
    cluster.standby.reload(&conninfo);
    integration_tests::wait::until("the standby to come by its password", || {
        let rows = cluster
            .primary
            .rows("SELECT 1 FROM pg_stat_replication WHERE usename = 'repl' AND state = 'streaming'");
        (!rows.is_empty()).then_some(())
    });
    cluster.standby.wait_log("parameter \"primary_conninfo\" changed to");
    for node in [&cluster.primary, &cluster.standby] {
        search_views(node);
        for process in procfs::children(node.pid()) {
            let title = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            assert_unseen("a process's title", &title);
        }
    }
    let shown = cluster.standby.value("SELECT conninfo FROM pg_stat_wal_receiver");
    assert!(shown.contains("password=********"), "{shown}");
    // A crash, whose report names what was executed, and what is on disk at the end.
    let mut victim = cluster.primary.client();
    victim.answer(&format!("ALTER ROLE a PASSWORD '{SECRET}'")).unwrap();
    cluster.primary.crash(sys::process::Pid(victim.backend_pid));
    cluster.primary.wait_log("DETAIL:  Failed process was running: ALTER ROLE a PASSWORD '********'");
    for node in [&cluster.primary, &cluster.standby] {
        assert_unseen("the log", node.log().as_bytes());
    }
    cluster.stop();
    search_files(cluster.primary.dir(), &[]);
    search_files(cluster.standby.dir(), &["walship.conf"]);
}
