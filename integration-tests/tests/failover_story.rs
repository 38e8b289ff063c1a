//! The failover story, on processes; `docker/scenario` plays the same on containers.
//!
//! Goal: a client with several hosts in its connection string goes through the loss of a primary, the cutting off of a
//! synchronous standby and a restart of everything, and every row that was ever acknowledged to it is on every node.

use integration_tests::scenario::Scenario;
use integration_tests::story;
use integration_tests::story::processes::Processes;

#[test]
fn nothing_acknowledged_is_lost_on_the_stage_of_processes() {
    let scenario = Scenario::new("story");
    let mut told = 0;
    story::play(&mut Processes::new(&scenario), &mut |step| {
        println!("{step}");
        told += 1;
    });
    // Every node was asked for all rows at the end.
    assert_eq!(told, 11);
}
