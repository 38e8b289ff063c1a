//! Same rows whatever the statement: what a statement means here and now (the clock, random(), rowids, the order of an
//! INSERT … SELECT, triggers, cascades) is settled once, on the primary, and both nodes are equal to the row and rowid.
//!
//! Method: a seeded mix of such statements over several connections; now and then the startup process of one node or
//! of the other is killed, and the pair must still end equal. `WALSHIP_SEED=n` repeats one seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, ClientError};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;
use sys::process;
use sys::signal::Signal;

const SCHEMA: [&str; 12] = [
    "CREATE TABLE plain(a, b DEFAULT (random()), at text DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE keyed(id integer PRIMARY KEY, name text UNIQUE, n integer NOT NULL DEFAULT 0)",
    "CREATE TABLE counted(id integer PRIMARY KEY AUTOINCREMENT, v)",
    "CREATE TABLE parent(id integer PRIMARY KEY, note text)",
    "CREATE TABLE child(id integer PRIMARY KEY, parent integer REFERENCES parent(id) ON DELETE CASCADE, v real)",
    "CREATE TABLE worded(word text, lang text, hits integer, PRIMARY KEY (word, lang)) WITHOUT ROWID",
    "CREATE TABLE audit(what text, old, new, at DEFAULT (strftime('%f', 'now')))",
    "CREATE INDEX plain_a ON plain(a)",
    "CREATE TRIGGER keyed_updated AFTER UPDATE ON keyed BEGIN
         INSERT INTO audit(what, old, new) VALUES ('update', old.n, new.n || '/' || abs(random() % 1000)); END",
    "CREATE TRIGGER child_deleted AFTER DELETE ON child BEGIN
         INSERT INTO audit(what, old, new) VALUES ('cascade', old.id, NULL); END",
    "CREATE TRIGGER parent_inserted AFTER INSERT ON parent BEGIN
         INSERT INTO child(parent, v) VALUES (new.id, random() / 3.0), (new.id, NULL); END",
    "CREATE VIEW busy AS SELECT word, sum(hits) AS hits FROM worded GROUP BY word",
];

const TABLES: [&str; 7] = ["plain", "keyed", "counted", "parent", "child", "worded", "audit"];

/// One statement of the mix. Some of them fail (a duplicate, a missing parent): that is part of it.
fn statement(random: &mut Random) -> String {
    let n = random.below(60);
    let m = random.below(60);
    let templates: &[&str] = &[
        "INSERT INTO plain(a) VALUES (:n)",
        "INSERT INTO plain(a, b) VALUES (random(), randomblob(:n)), (:m, NULL), (:n, 1.5e300)",
        "INSERT INTO plain SELECT a, random(), CURRENT_TIMESTAMP FROM plain ORDER BY random() LIMIT :n",
        "INSERT INTO plain(rowid, a) VALUES (abs(random() % 1000000), 'far')",
        "UPDATE plain SET b = hex(randomblob(4)) WHERE abs(random() % 4) = 0",
        "UPDATE plain SET rowid = rowid + 2000000 WHERE a = :n",
        "DELETE FROM plain WHERE rowid IN (SELECT rowid FROM plain ORDER BY random() LIMIT 5)",
        "INSERT INTO keyed(name, n) VALUES ('name' || :n, :m) ON CONFLICT (name) DO UPDATE SET n = n + 1",
        "REPLACE INTO keyed(id, name, n) VALUES (:n, 'name' || :m, random() % 100)",
        "INSERT OR IGNORE INTO keyed(id, name) VALUES (:n, 'name' || :m)",
        "INSERT INTO keyed(id, name) VALUES (:n, 'name' || :m)",
        "INSERT OR FAIL INTO keyed(id, name) VALUES (:n + 100, 'x' || :n), (:n, 'name' || :m)",
        "UPDATE keyed SET n = n + 1 WHERE id % 3 = :n % 3",
        "UPDATE OR REPLACE keyed SET id = :m WHERE id = :n",
        "UPDATE keyed SET id = -id WHERE id > :n AND id < :m",
        "DELETE FROM keyed WHERE id = :n",
        "INSERT INTO counted(v) VALUES (randomblob(8)), ('é' || :n), (NULL), (-0.0)",
        "DELETE FROM counted WHERE id > (SELECT max(id) - 3 FROM counted)",
        "INSERT INTO counted(v) SELECT v FROM counted WHERE id % 7 = :n % 7 LIMIT 20",
        "INSERT INTO parent(note) VALUES ('note ' || random())",
        "INSERT OR REPLACE INTO parent VALUES (:n, 'replaced')",
        "INSERT INTO child(parent, v) VALUES (:n, 0.1)",
        "DELETE FROM parent WHERE id = :n",
        "DELETE FROM parent WHERE id IN (SELECT parent FROM child ORDER BY random() LIMIT 1)",
        "INSERT INTO worded VALUES ('w' || :n, 'en', 1) ON CONFLICT (word, lang) DO UPDATE SET hits = hits + 1",
        "INSERT INTO worded SELECT 'w' || (abs(random()) % 50), 'de', :n ON CONFLICT DO NOTHING",
        "UPDATE worded SET word = word || '*' WHERE hits > 2 AND length(word) < 20",
        "DELETE FROM worded WHERE hits = :n",
        "REPLACE INTO worded VALUES ('w' || :n, 'fr', random())",
        "BEGIN; INSERT INTO plain(a) VALUES ('in'); UPDATE keyed SET n = 0 WHERE id = :n; COMMIT",
        "BEGIN; INSERT INTO plain(a) VALUES ('out'); DELETE FROM parent; ROLLBACK",
        "INSERT INTO plain(a) VALUES ('first'); INSERT INTO child VALUES (1, -1, 0)",
        "CREATE TABLE IF NOT EXISTS extra:n(x DEFAULT (random()))",
        "DROP TABLE IF EXISTS extra:m",
        "ALTER TABLE plain ADD COLUMN c:n DEFAULT (7)",
    ];
    let template = *random.pick(templates);
    template.replace(":n", &n.to_string()).replace(":m", &m.to_string())
}

fn connect(node: &Node, count: usize) -> Vec<Client> {
    (0..count).map(|_| node.client()).collect()
}

/// Sends one statement on every connection, so that they meet in a batch, then reads the answers.
fn round(clients: &mut [Client], random: &mut Random) {
    let statements: Vec<String> = clients.iter().map(|_| statement(random)).collect();
    for (client, sql) in clients.iter_mut().zip(&statements) {
        client.send_query(sql).unwrap();
    }
    for (client, sql) in clients.iter_mut().zip(&statements) {
        let answer = client.read_answer().unwrap();
        if let Some(error) = answer.error {
            // Constraints (23…), and a column or table that is there already.
            let expected = error.sqlstate.starts_with("23") || error.sqlstate.starts_with("42");
            assert!(expected && error.severity == "ERROR", "{sql}: {error}");
            if answer.status != 'I' {
                client.query("ROLLBACK").unwrap();
            }
        }
    }
}

/// A primary restarts by itself, a standby ends.
fn kill_startup(node: &mut Node, restarts: bool) {
    let startup = node.process("startup");
    if restarts {
        return node.crash(startup);
    }
    process::kill(startup, Signal::Kill).unwrap();
    node.wait_end();
    node.start();
}

fn run(seed: u64, rounds: usize, kills: bool) {
    let scenario = Scenario::new(&format!("same-rows-{seed}"));
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start(&scenario);
    for sql in SCHEMA {
        cluster.primary.query(sql);
    }
    let mut clients = connect(&cluster.primary, 3);
    for number in 0..rounds {
        round(&mut clients, &mut random);
        if kills && number % 25 == 24 {
            let on_primary = random.below(2) == 0;
            if on_primary {
                // With statements under way.
                let sql = statement(&mut random);
                clients[0].send_query(&sql).unwrap();
                kill_startup(&mut cluster.primary, true);
                clients = connect(&cluster.primary, 3);
            } else {
                kill_startup(&mut cluster.standby, false);
            }
        }
    }
    cluster.wait_streaming();
    let digests = cluster.assert_equal(&TABLES);
    assert!(digests.iter().filter(|digest| digest.rows > 0).count() >= 5, "seed {seed}: {digests:?}");
    same_schema(&cluster);
    cluster.stop();
}

/// The tables themselves and AUTOINCREMENT's counters are rows too.
fn same_schema(cluster: &Cluster) {
    for sql in
        ["SELECT type, name, sql FROM sqlite_master ORDER BY name", "SELECT name, seq FROM sqlite_sequence"]
    {
        let rows = |node: &Node| match node.client().query(sql) {
            Ok(answer) => answer.rows,
            Err(ClientError::Server(error)) => panic!("{sql}: {error}"),
            Err(error) => panic!("{sql}: {error}"),
        };
        assert_eq!(rows(&cluster.primary), rows(&cluster.standby), "{sql}");
    }
}

#[test]
fn a_random_mix_of_statements_leaves_both_nodes_equal() {
    for seed in random::seeds(&[1, 2, 3, 4, 5, 6]) {
        run(seed, 400, false);
    }
}

#[test]
fn a_random_mix_with_the_startup_process_killed_leaves_both_nodes_equal() {
    for seed in random::seeds(&[7, 8, 9, 10]) {
        run(seed, 300, true);
    }
}
