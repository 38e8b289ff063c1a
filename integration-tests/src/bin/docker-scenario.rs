//! The failover story on containers; `docker/scenario` runs it, with the image made and the project taken away afterwards.
//!
//! `docker-scenario COMPOSE-COMMAND PROJECT`

use std::env;
use std::path::Path;

use integration_tests::story;
use integration_tests::story::containers::Containers;
use sys::clock;

#[allow(clippy::print_stdout, reason = "who runs it wants to see the story")]
fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [compose, project] = arguments.as_slice() else { panic!("docker-scenario COMPOSE-COMMAND PROJECT") };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker");
    let mut stage = Containers::new(compose, project, directory);
    let begin = clock::now();
    story::play(&mut stage, &mut |step| {
        println!("{:5.1} s  {step}", clock::now().saturating_since(begin).as_secs_f64());
    });
}
