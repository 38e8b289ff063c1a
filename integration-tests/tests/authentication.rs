//! Who is let in, and as whom: passwords, rules of pg_hba.conf, roles and their rights, on a primary and on its standby, with
//! PostgreSQL's own clients.
//!
//! Method: real nodes whose rules trust `postgres` and ask everybody else for a password; clients of three makes (the
//! test's own with another's SCRAM, PostgreSQL 15's programs, the standby). What nobody may see is in `passwords_unseen.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use integration_tests::client::{Client, ClientError, ServerError};
use integration_tests::cluster::Cluster;
use integration_tests::commands::{Said, finish, pgbench_number, postgres_command};
use integration_tests::node::{Node, Role};
use integration_tests::proxy::Proxy;
use integration_tests::scenario::Scenario;
use integration_tests::{programs, wait};

const RULES: &str = "\
host    all          postgres  127.0.0.1/32  trust
host    replication  postgres  127.0.0.1/32  trust
host    all          mallory   all           reject
host    all          all       127.0.0.1/32  scram-sha-256
host    replication  all       127.0.0.1/32  scram-sha-256
local   replication  all                     reject
";

fn set_rules(node: &Node, rules: &str) {
    fs::write(node.dir().join("pg_hba.conf"), rules).unwrap();
}

fn primary(scenario: &Scenario) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    set_rules(&node, RULES);
    node.start();
    node.query("CREATE TABLE t(x)");
    node
}

fn connect(node: &Node, user: &str, password: &str) -> Result<Client, ClientError> {
    Client::connect(&node.address(), &[("user", user), ("password", password)])
}

fn session(node: &Node, user: &str, password: &str) -> Client {
    connect(node, user, password).unwrap_or_else(|error| panic!("{user}: {error}"))
}

fn said(error: &ServerError) -> String {
    error.to_string().trim_end().to_owned()
}

fn refused(result: Result<Client, ClientError>) -> String {
    match result {
        Err(ClientError::Server(error)) => said(&error),
        Err(error) => panic!("no answer: {error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[test]
fn role_is_let_in_by_its_password_and_by_nothing_else() {
    let scenario = Scenario::new("auth-password");
    let mut node = primary(&scenario);
    node.query(
        "CREATE ROLE alice LOGIN PASSWORD 'ge heim'; CREATE USER bare; CREATE ROLE group_of PASSWORD 'x'",
    );
    let mut alice = session(&node, "alice", "ge heim");
    assert_eq!(alice.value("SELECT current_user"), "alice");
    assert_eq!(alice.parameters["is_superuser"], "off");
    assert_eq!(alice.parameters["session_authorization"], "alice");
    let wrong = |user: &str| format!("FATAL 28P01: password authentication failed for user \"{user}\"");
    for (user, password) in
        [("alice", "ge heim "), ("alice", ""), ("bare", ""), ("bare", "x"), ("nobody", "x")]
    {
        assert_eq!(refused(connect(&node, user, password)), wrong(user), "{user} {password:?}");
    }
    assert_eq!(refused(connect(&node, "group_of", "y")), wrong("group_of"));
    let no_login = "FATAL 28000: role \"group_of\" is not permitted to log in";
    assert_eq!(refused(connect(&node, "group_of", "x")), no_login);
    // The log knows more than the client is told.
    for line in [
        "Password does not match for user \"alice\".",
        "User \"bare\" has no password assigned.",
        "Role \"nobody\" does not exist.",
        "Connection matched pg_hba.conf line 4: \"host    all          all       127.0.0.1/32  scram-sha-256\"",
    ] {
        node.wait_log(line);
    }
    // An open session knows of its new password, of no password, and of its end as a role.
    node.query("ALTER USER alice PASSWORD 'another'");
    assert_eq!(refused(connect(&node, "alice", "ge heim")), wrong("alice"));
    session(&node, "alice", "another");
    alice.query("ALTER USER alice PASSWORD 'by herself'").unwrap();
    session(&node, "alice", "by herself");
    let empty = alice.query("ALTER USER CURRENT_USER PASSWORD ''").unwrap();
    assert_eq!(empty.notices[0].message, "empty string is not a valid password, clearing password");
    assert_eq!(refused(connect(&node, "alice", "")), wrong("alice"));
    node.query("DROP USER alice");
    assert_eq!(refused(connect(&node, "alice", "by herself")), wrong("alice"));
    assert_eq!(said(&alice.error("SELECT * FROM t")), "ERROR 42501: permission denied for table t");
    node.stop();
}

#[test]
fn rules_decide_by_address_database_user_and_replication() {
    let scenario = Scenario::new("auth-rules");
    let mut node = primary(&scenario);
    node.query("CREATE USER mallory PASSWORD 'm'; CREATE USER plain PASSWORD 'p'; CREATE USER repl REPLICATION PASSWORD 'r'");
    let rejected = "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"mallory\", database \"postgres\", no encryption";
    assert_eq!(refused(connect(&node, "mallory", "m")), format!("FATAL 28000: {rejected}"));
    let local = Client::connect(&node.unix_address(), &[]);
    let none =
        "no pg_hba.conf entry for host \"[local]\", user \"postgres\", database \"postgres\", no encryption";
    assert_eq!(refused(local), format!("FATAL 28000: {none}"));
    let local = Client::connect(&node.unix_address(), &[("replication", "true")]);
    let rejected =
        "pg_hba.conf rejects replication connection for host \"[local]\", user \"postgres\", no encryption";
    assert_eq!(refused(local), format!("FATAL 28000: {rejected}"));
    let replication = |user: &str, password: &str| {
        let parameters = [("user", user), ("password", password), ("replication", "true")];
        Client::connect(&node.address(), &parameters)
    };
    let wrong = "FATAL 28P01: password authentication failed for user \"repl\"";
    assert_eq!(refused(replication("repl", "x")), wrong);
    let not_allowed = "FATAL 42501: must be superuser or replication role to start walsender";
    assert_eq!(refused(replication("plain", "p")), not_allowed);
    assert_eq!(replication("repl", "r").unwrap().rows("IDENTIFY_SYSTEM")[0][1], "1");
    node.query("ALTER ROLE repl NOREPLICATION");
    assert_eq!(refused(replication("repl", "r")), not_allowed);
    let rules = node.rows("SELECT line_number, type, database, user_name, address, netmask, auth_method, error FROM pg_hba_file_rules");
    assert_eq!(rules.len(), 6);
    assert_eq!(
        rules[3],
        ["4", "host", "{all}", "{all}", "127.0.0.1", "255.255.255.255", "scram-sha-256", "NULL"]
    );
    node.stop();
}

#[test]
fn rules_are_reloaded_and_bad_ones_refused_as_a_whole() {
    let scenario = Scenario::new("auth-reload");
    let mut node = primary(&scenario);
    node.query("CREATE USER alice PASSWORD 'a'");
    let mut before = session(&node, "alice", "a");
    set_rules(&node, &RULES.replace("127.0.0.1/32  scram-sha-256", "127.0.0.1/32  trust"));
    node.reload("");
    session(&node, "alice", "not asked for");
    let bad = format!("{RULES}host all all 10.0.0.0/99 trust\nlocal all all kerberos\n");
    set_rules(&node, &bad);
    let output = node.spawn_reload("60").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    let path = node.dir().join("pg_hba.conf").display().to_string();
    for line in [
        "invalid CIDR mask in address \"10.0.0.0/99\"".to_owned(),
        format!("CONTEXT:  line 7 of configuration file \"{path}\""),
        "invalid authentication method \"kerberos\"".to_owned(),
        format!("CONTEXT:  line 8 of configuration file \"{path}\""),
        format!("\"{path}\" was not reloaded"),
    ] {
        assert!(why.contains(&line), "{line:?} is missing in {why}");
    }
    session(&node, "alice", "still not asked for");
    let errors = node.rows("SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL");
    assert_eq!(errors[0], ["7", "invalid CIDR mask in address \"10.0.0.0/99\""]);
    set_rules(&node, &format!("{RULES}hostssl all all all trust\n"));
    node.reload("");
    assert!(connect(&node, "alice", "asked for again").is_err());
    node.wait_log("hostssl record cannot match because SSL is disabled");
    before.query("SELECT 1").expect("rules are for who comes, not for who is there");
    // A node doesn't start with them either.
    node.stop();
    set_rules(&node, &bad);
    assert!(node.try_start().unwrap_err().contains("exit status: 1"));
    node.wait_log(&format!("FATAL:  could not load \"{path}\""));
    fs::remove_file(node.dir().join("pg_hba.conf")).unwrap();
    assert!(node.try_start().is_err());
    node.wait_log(&format!("could not read configuration file \"{path}\": No such file or directory"));
}

#[test]
fn node_listens_beyond_loopback_only_while_every_rule_for_that_asks_for_a_password() {
    let scenario = Scenario::new("auth-listen");
    let mut node = primary(&scenario);
    node.query("CREATE USER alice PASSWORD 'a'");
    node.stop();
    node.set("listen_addresses=*");
    let open = "host all all samenet trust\n";
    set_rules(&node, &format!("{RULES}{open}"));
    assert!(node.try_start().unwrap_err().contains("exit status: 1"));
    let why = node.wait_log("FATAL:  will not listen on \"*\" while line 7 of");
    assert!(why.contains("\"host all all samenet trust\""), "{why}");
    node.wait_log("HINT:  Let that line ask for scram-sha-256");
    set_rules(&node, &format!("{RULES}host all all all scram-sha-256\n"));
    node.start();
    session(&node, "alice", "a");
    set_rules(&node, &format!("{RULES}{open}"));
    let output = node.spawn_reload("60").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("will not listen on \"*\" while line 7 of"), "{why}");
    session(&node, "alice", "a");
    node.stop();
}

#[test]
fn rights_count_from_the_next_statement_on() {
    let scenario = Scenario::new("auth-rights");
    let mut cluster = Cluster::start(&scenario);
    let (primary, standby) = (&cluster.primary, &cluster.standby);
    primary.query("CREATE TABLE t(x); INSERT INTO t VALUES (1); CREATE USER alice; CREATE USER bob");
    let as_alice = |node: &Node| Client::connect(&node.address(), &[("user", "alice")]).unwrap();
    cluster.wait_caught_up();
    let (mut alice, mut reader) = (as_alice(primary), as_alice(standby));
    let denied = |error: ServerError| {
        assert_eq!(error.sqlstate, "42501", "{error}");
        error.message
    };
    let table = "permission denied for table t";
    assert_eq!(denied(alice.error("SELECT * FROM t")), table);
    assert_eq!(denied(reader.error("SELECT * FROM t")), table);
    assert_eq!(denied(alice.error("INSERT INTO t VALUES (2)")), table);
    assert_eq!(denied(alice.error("CREATE TABLE u(x)")), "permission denied for schema public");
    assert_eq!(denied(alice.error("CREATE ROLE x")), "permission denied to create role");
    assert_eq!(denied(alice.error("SELECT pg_switch_wal()")), "permission denied for function pg_switch_wal");
    assert_eq!(
        denied(alice.error("SELECT pg_reload_conf()")),
        "permission denied for function pg_reload_conf"
    );
    assert_eq!(
        denied(alice.error("SELECT * FROM pg_hba_file_rules")),
        "permission denied for view pg_hba_file_rules"
    );
    let checkpoint = "must be superuser or have privileges of pg_checkpoint to do CHECKPOINT";
    assert_eq!(denied(alice.error("CHECKPOINT")), checkpoint);
    let slots = "must be superuser or replication role to use replication slots";
    assert_eq!(denied(alice.error("SELECT pg_drop_replication_slot('x')")), slots);
    let examine =
        "must be superuser or have privileges of pg_read_all_settings to examine \"primary_conninfo\"";
    assert_eq!(denied(alice.error("SHOW primary_conninfo")), examine);
    assert_eq!(denied(alice.error("SELECT current_setting('primary_conninfo')")), examine);
    assert_eq!(alice.value("SELECT count(*) FROM pg_settings WHERE name = 'primary_conninfo'"), "0");
    // Others' sessions are there, and that is all.
    let mut bob = Client::connect(&primary.address(), &[("user", "bob")]).unwrap();
    bob.query("SELECT 'secret of bob'").unwrap();
    let seen = |client: &mut Client| {
        client.rows("SELECT usename, query, client_port FROM pg_stat_activity WHERE usename = 'bob'")
    };
    assert_eq!(seen(&mut alice), [["bob", "<insufficient privilege>", "NULL"]]);
    assert_eq!(seen(&mut bob)[0][0], "bob");
    let terminate = format!("SELECT pg_terminate_backend({})", bob.backend_pid);
    assert!(denied(alice.error(&terminate)).starts_with("must be a member of the role whose process"));
    let walsender = alice.rows("SELECT pid, usename, state FROM pg_stat_replication");
    assert_eq!(&walsender[0][1..], ["NULL", "NULL"]);

    primary.query("GRANT pg_read_all_data TO alice");
    cluster.wait_caught_up();
    assert_eq!(alice.value("SELECT count(*) FROM t"), "1");
    assert_eq!(reader.value("SELECT count(*) FROM t"), "1");
    assert_eq!(denied(alice.error("DELETE FROM t")), table);
    primary.query("GRANT pg_write_all_data TO alice; REVOKE pg_read_all_data FROM alice");
    alice.query("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(denied(alice.error("UPDATE t SET x = x + 1")), table);
    assert_eq!(denied(alice.error("SELECT * FROM t")), table);
    cluster.wait_caught_up();
    assert_eq!(denied(reader.error("SELECT * FROM t")), table);
    assert_eq!(denied(alice.error("DROP TABLE t")), "must be owner of table t");
    primary.query("ALTER ROLE alice SUPERUSER");
    alice.query("DROP TABLE t").unwrap();
    assert_eq!(alice.value("SHOW is_superuser"), "on");
    assert_eq!(alice.parameters["is_superuser"], "on");
    primary.query("ALTER ROLE alice NOSUPERUSER");
    assert_eq!(denied(alice.error("CREATE TABLE t(x)")), "permission denied for schema public");
    assert_eq!(alice.parameters["is_superuser"], "off");
    assert_eq!(standby.error("CREATE ROLE y").sqlstate, "25006");
    cluster.stop();
}

/// A file with a password for everything, that nobody else reads.
fn passfile(scenario: &Scenario, lines: &str) -> PathBuf {
    let path = scenario.write("passfile", lines);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn standby_is_cloned_and_follows_by_password_and_has_the_roles() {
    let scenario = Scenario::new("auth-standby");
    let mut primary = primary(&scenario);
    primary.query("CREATE USER repl REPLICATION PASSWORD 'geheim'; CREATE USER alice PASSWORD 'a' IN ROLE pg_read_all_data");
    let passfile = passfile(&scenario, "*:*:replication:repl:geheim\n");
    let mut standby = Node::at(&scenario, "standby", Role::Standby);
    let clone = |node: &Node, more: &str| {
        let conninfo = format!("host=127.0.0.1 port={} user=repl {more}", primary.port());
        node.command(&["clone", "-D", node.dir().to_str().unwrap(), "--from", &conninfo])
    };
    for (more, why) in [
        ("passfile=/nonexistent", "fe_sendauth: no password supplied"),
        ("password=other", "FATAL:  password authentication failed for user \"repl\""),
    ] {
        let output = clone(&standby, more);
        let said = Said::of(output);
        assert!(said.err.contains(why), "{}", said.err);
        assert!(!standby.dir().exists());
    }
    let output = clone(&standby, &format!("passfile={}", passfile.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rules = fs::read_to_string(standby.dir().join("pg_hba.conf")).unwrap();
    assert_eq!(rules, RULES, "they come along");
    standby.start();
    primary.query("INSERT INTO t VALUES (1)");
    wait::until("the row to be there", || (standby.value("SELECT count(*) FROM t") == "1").then_some(()));
    assert_eq!(session(&standby, "alice", "a").value("SELECT count(*) FROM t"), "1");
    assert!(connect(&standby, "alice", "b").is_err());
    // From now on it is known by another password, and what it has in its file is wrong.
    primary.query("ALTER USER repl PASSWORD 'another'");
    let walsender = primary.process("walsender");
    primary.query(&format!("SELECT pg_terminate_backend({walsender})"));
    standby.wait_log("password authentication failed for user \"repl\"");
    fs::write(&passfile, "*:*:*:repl:another\n").unwrap();
    primary.query("INSERT INTO t VALUES (2)");
    wait::until("the row to be there", || (standby.value("SELECT count(*) FROM t") == "2").then_some(()));
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    standby.restart();
    standby.wait_log("has group or world access");
    standby.stop();
    primary.stop();
}

#[test]
fn postgresqls_programs_log_in_and_the_wire_shows_no_password() {
    let scenario = Scenario::new("auth-programs");
    let mut node = primary(&scenario);
    node.query("CREATE TABLE kv(key integer PRIMARY KEY, value integer)");
    node.query("CREATE USER bench PASSWORD 'bench geheim' IN ROLE pg_read_all_data, pg_write_all_data");
    node.query("CREATE USER repl REPLICATION PASSWORD 'repl geheim'");
    // It ends behind what pgbench is going to write.
    let end = node.lsn("pg_current_wal_flush_lsn");
    let passfile = passfile(
        &scenario,
        "127.0.0.1:*:postgres:bench:bench geheim\n127.0.0.1:*:replication:repl:repl geheim\n",
    );
    let script = scenario.write(
        "script.sql",
        "\\set k random(1, 1000)\nINSERT INTO kv VALUES (:k, 1) ON CONFLICT (key) DO UPDATE SET value = kv.value + 1;\n",
    );
    let mut proxy = Proxy::new(node.port());
    let port = proxy.port().to_string();
    let mut through = |mut command: Command| {
        let mut child = command.env("PGPASSFILE", &passfile).spawn().unwrap();
        proxy.until("the program to end", || child.try_wait().unwrap());
        finish(child)
    };
    let mut pgbench = postgres_command("pgbench", &node);
    pgbench
        .args(["-p", &port, "-U", "bench", "-n", "-c", "4", "-t", "50", "-f"])
        .arg(&script)
        .arg("postgres");
    let said = through(pgbench).assert_success("pgbench");
    assert_eq!(pgbench_number(&said, "number of transactions actually processed"), 200.0);
    let received = scenario.path("received");
    fs::create_dir(&received).unwrap();
    let mut receivewal = postgres_command("pg_receivewal", &node);
    receivewal
        .args(["-p", &port, "-U", "repl", "--no-loop", "-w", "--endpos", &end.to_string(), "-D"])
        .arg(&received);
    through(receivewal).assert_success("pg_receivewal");
    assert!(fs::read_dir(&received).unwrap().count() > 0);
    let mut wrong = postgres_command("psql", &node);
    wrong.args(["-p", &port, "-X", "-w", "-U", "bench", "-d", "other", "-c", "SELECT 1"]);
    assert!(through(wrong).err.contains("fe_sendauth: no password supplied"));
    let recorded = proxy.recorded();
    let contains = |needle: &[u8]| recorded.windows(needle.len()).any(|window| window == needle);
    assert!(contains(b"SCRAM-SHA-256") && contains(b"INSERT INTO kv"), "all of it was recorded");
    assert!(!contains(b"geheim"), "the password itself");
    node.stop();
}

#[test]
fn psqls_password_command_sends_a_verifier_that_counts() {
    let scenario = Scenario::new("auth-psql-password");
    let mut node = primary(&scenario);
    node.query("CREATE USER \"Alice\" PASSWORD 'before'");
    // Without a terminal of its own psql reads what it asks for from its input.
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(programs::postgres("psql"));
    command.args(["-X", "-h", "127.0.0.1", "-U", "Alice", "-d", "postgres", "-c", "\\password", "-p"]);
    command.arg(node.port().to_string()).env("PGPASSWORD", "before").env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"the new one\nthe new one\n").unwrap();
    let said = finish(child).assert_success("psql");
    assert!(!said.err.contains("ERROR"), "{}", said.err);
    session(&node, "Alice", "the new one");
    assert!(connect(&node, "Alice", "before").is_err());
    // What other programs of PostgreSQL send.
    for (program, arguments) in [("createuser", &["carol", "--replication"][..]), ("dropuser", &["carol"])] {
        let mut command = postgres_command(program, &node);
        command.args(arguments);
        Said::of(command.output().unwrap()).assert_success(program);
    }
    assert_eq!(node.value("SELECT count(*) FROM pg_roles"), "2");
    node.stop();
}

#[test]
fn unknown_user_gets_the_exchange_that_a_known_one_gets() {
    let scenario = Scenario::new("auth-mock");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE USER alice PASSWORD 'a'; CREATE USER bare");
    cluster.wait_caught_up();
    for node in [&cluster.primary, &cluster.standby] {
        set_rules(node, &RULES.replace("all           reject", "all           trust"));
        set_rules(node, RULES);
        let output = node.spawn_reload("60").wait_with_output().unwrap();
        assert!(output.status.success());
    }
    // Tags and codes of what the server says, and its first SCRAM message without the nonce.
    let exchange = |node: &Node, user: &str| {
        let mut client = Client::connect_raw(&node.address()).unwrap();
        client.send_packet(format!("\0\u{3}\0\0user\0{user}\0database\0postgres\0\0").as_bytes()).unwrap();
        let mut said = vec![client.read_message().unwrap()];
        client.send_message(b'p', b"SCRAM-SHA-256\0\0\0\0\x12n,,n=,r=0123456789").unwrap_or(());
        said.push(client.read_message().unwrap());
        let first = String::from_utf8(said[1].body[4..].to_vec()).unwrap();
        let (nonce, rest) = first.split_once(',').unwrap();
        let last = format!("c=biws,{nonce},p={}=", "A".repeat(43));
        client.send_message(b'p', last.as_bytes()).unwrap();
        said.push(client.read_message().unwrap());
        let shape: Vec<_> = said.iter().map(|message| (message.tag, message.body.len())).collect();
        (shape, rest.to_owned())
    };
    let (known, known_salt) = exchange(&cluster.primary, "alice");
    for user in ["nobody", "bare", "alien"] {
        let (shape, salt) = exchange(&cluster.primary, user);
        assert_eq!(shape[..2], known[..2], "{user}");
        assert_eq!(shape[2].0, known[2].0, "{user}");
        assert!(salt.ends_with(",i=4096") && salt.len() == known_salt.len(), "{salt}");
        assert_eq!(exchange(&cluster.primary, user).1, salt, "as that of a role, it stays");
        assert_eq!(exchange(&cluster.standby, user).1, salt, "on every node");
        assert_ne!(exchange(&cluster.primary, &format!("{user}2")).1, salt);
    }
    assert_eq!(exchange(&cluster.standby, "alice").1, known_salt);
    cluster.stop();
}

#[test]
fn client_that_stops_in_the_middle_of_its_proof_is_sent_away_in_time() {
    let scenario = Scenario::new("auth-timeout");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    set_rules(&node, RULES);
    node.set("authentication_timeout=1s");
    node.start();
    let startup = b"\0\x03\0\0user\0alice\0database\0postgres\0\0";
    let begun = b"p\0\0\0\x28SCRAM-SHA-256\0\0\0\0\x12n,,n=,r=0123456789";
    for goes_on in [&b""[..], &b"p\0\0"[..], &begun[..]] {
        let mut client = Client::connect_raw(&node.address()).unwrap();
        client.send_packet(startup).unwrap();
        client.send_bytes(goes_on).unwrap();
        let told = client.read_to_end().expect("it is closed in time");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("canceling authentication due to timeout"), "{goes_on:?}: {told}");
    }
    // Anything else than a proof is refused at once, however long.
    let mut client = Client::connect_raw(&node.address()).unwrap();
    client.send_packet(startup).unwrap();
    client.send_bytes(b"Q\x7f\xff\xff\xff").unwrap();
    let told = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
    assert!(told.contains("expected SASL response, got message type 81"), "{told}");
    node.stop();
}

#[test]
fn init_makes_the_first_role_and_the_rules_that_it_is_asked_for() {
    let scenario = Scenario::new("auth-init");
    let node = Node::at(&scenario, "primary", Role::Primary);
    let dir = node.dir().to_str().unwrap().to_owned();
    let init = |more: &[&str]| Said::of(node.command(&[&["init", "-D", &dir][..], more].concat()));
    assert!(init(&["-A", "scram-sha-256"]).err.contains("must specify a password for the superuser"));
    assert!(
        init(&["-A", "md5"])
            .err
            .contains("invalid authentication method \"md5\": not supported by this build")
    );
    assert!(init(&["-U", "pg_me"]).err.contains("role names starting with \"pg_\" are reserved"));
    assert!(
        init(&["--pwfile", "/nonexistent"])
            .err
            .contains("could not read password from file \"/nonexistent\"")
    );
    let pwfile = scenario.write("pwfile", "ge heim\nnot this\n");
    init(&["-A", "scram-sha-256", "-U", "Admin", "--pwfile", pwfile.to_str().unwrap()])
        .assert_success("init");
    let first_role = fs::read(node.dir().join("first_role")).unwrap();
    assert!(!String::from_utf8_lossy(&first_role).contains("heim"), "a verifier");
    let mut node = node;
    node.spawn();
    let port = wait::until("the port", || {
        let text = fs::read_to_string(node.dir().join("postmaster.pid")).ok()?;
        text.lines().nth(3)?.parse::<u16>().ok().filter(|port| *port > 0)
    });
    let address = integration_tests::client::Address::Tcp(port);
    let connect =
        |user: &str, password: &str| Client::connect(&address, &[("user", user), ("password", password)]);
    let mut admin = wait::until("the node to serve", || connect("Admin", "ge heim").ok());
    assert_eq!(admin.rows("SELECT rolname, rolsuper, oid FROM pg_roles"), [["Admin", "t", "10"]]);
    assert!(connect("Admin", "other").is_err() && connect("postgres", "").is_err());
    assert!(!node.dir().join("first_role").exists(), "the log has it");
    drop(admin);
    node.kill();
}
