//! A node whose postmaster is process 1, as in a container: what is orphaned there becomes its child.
//!
//! Goal: it reaps what it never started, misses nothing of what it did start, and answers SIGINT, which process 1 gets only
//! because it reads it. How: a process namespace of its own, and an archive_command that leaves a process behind.

use std::process::{Child, Command, Stdio};

use integration_tests::client::{Address, Client};
use integration_tests::node::Node;
use integration_tests::scenario::{self, Scenario};
use integration_tests::{procfs, programs, wait};
use sys::process::{self, Pid};
use sys::signal::Signal;

/// The postmaster in its namespace, and the process that waits outside for it.
struct Init {
    outer: Child,
    postmaster: Pid,
}

impl Init {
    fn start(node: &Node) -> Init {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(programs::walship("primary"));
        command.arg("run").arg("-D").arg(node.dir()).args([
            "-c",
            "listen_addresses=",
            "-c",
            "archive_mode=on",
        ]);
        // What it starts leads a session of its own, so nobody ends it with the command.
        command.args(["-c", "archive_command=setsid -f sleep 0.1"]);
        let outer = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("unshare can be run");
        let pid = Pid(i32::try_from(outer.id()).expect("process ids are small"));
        let postmaster = wait::until("the postmaster", || procfs::children(pid).first().copied());
        Init { outer, postmaster }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _gone = self.outer.kill();
        let _ended = self.outer.wait();
    }
}

fn can_unshare() -> bool {
    let tried = Command::new("unshare").args(["--pid", "--fork", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

#[test]
fn a_postmaster_that_is_process_1_reaps_orphans_and_stops_in_order() {
    if !can_unshare() {
        return scenario::skip("no process namespace can be made here");
    }
    let scenario = Scenario::new("init");
    let node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    let mut init = Init::start(&node);
    let address = Address::Unix(node.dir().join(".s.PGSQL.5440"));
    let mut client = wait::until("the node to serve", || Client::connect(&address, &[]).ok());
    client.query("CREATE TABLE t(id integer PRIMARY KEY)").unwrap();
    for id in 0..5 {
        client.query(&format!("INSERT INTO t VALUES ({id})")).unwrap();
        client.query("SELECT pg_switch_wal()").unwrap();
    }
    wait::until("five segments to be archived", || {
        let count: u32 = client.value("SELECT archived_count FROM pg_stat_archiver").parse().unwrap();
        (count >= 5).then_some(())
    });
    wait::until("the orphans to be reaped", || {
        let children = procfs::children(init.postmaster);
        let sleeps = |pid: &Pid| procfs::program(*pid).is_some_and(|program| program.ends_with("sleep"));
        children.iter().all(|pid| procfs::runs(*pid) && !sleeps(pid)).then_some(())
    });
    // Its own children are not lost among them: this one's end is noticed, and the node recovers.
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let walwriter = Pid(client.value(sql).parse().unwrap());
    let children = procfs::children(init.postmaster).into_iter();
    let outside = children.filter(|pid| procfs::own_pid(*pid) == Some(walwriter)).collect::<Vec<_>>();
    process::kill(outside[0], Signal::Kill).unwrap();
    wait::until("another WAL writer", || {
        let rows = Client::connect(&address, &[]).ok()?.query(sql).ok()?.rows;
        let number = rows.first()?.first()?.clone()?;
        (number != walwriter.to_string()).then_some(())
    });

    process::kill(init.postmaster, Signal::Int).unwrap();
    let status = wait::until("the end of the node", || init.outer.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}
