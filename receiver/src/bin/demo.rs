//! The demo, and the nodes that it starts.
//!
//! `cargo run --bin demo` builds this program alone, so the demo starts its nodes as itself under another name: called
//! as `primary` or `standby` it is that program.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let arguments = std::env::args_os();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("primary") => receiver::demo::node::as_node(|| sender::cli::primary_main(arguments)),
        Some("standby") => receiver::demo::node::as_node(|| receiver::cli::standby_main(arguments)),
        _ => receiver::demo::main(arguments),
    }
}
