//! The binary `demo-client`; see [`receiver::demo_client`].

fn main() -> std::process::ExitCode {
    receiver::demo_client::main(std::env::args_os().collect())
}
