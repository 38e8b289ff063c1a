//! `standby` with failpoints compiled in, for tests.

fn main() -> std::process::ExitCode {
    let status = receiver::cli::standby_main(std::env::args_os().collect());
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(1))
}
