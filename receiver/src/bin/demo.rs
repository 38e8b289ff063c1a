//! The demo, and the nodes that it starts.
//!
//! `cargo run --bin demo` builds this program alone, so the demo starts its nodes as itself under another name: called
//! as `primary` or `standby` it is that program.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    match name {
        Some("primary") => receiver::demo::node::as_node(|| sender::cli::primary_main(arguments)),
        Some("standby") => receiver::demo::node::as_node(|| receiver::cli::standby_main(arguments)),
        _ => receiver::demo::main(arguments),
    }
}
