//! Starting a node: from a data directory to a running postmaster.
//!
//! Everything that can be wrong with directory, control file and settings is found here, before the first fork, and
//! said in one line of the log. Shared memory is laid out here; no SQLite and no log file is opened.
//!
//! Follows PostgreSQL 15 PostmasterMain() in src/backend/postmaster/postmaster.c.

use std::path::{Path, PathBuf};

use ipc::backend::{self, Backend};
use ipc::postmaster_death::PostmasterDeath;
use ipc::proc::{ProcArray, ProcNumber};
use ipc::process::Me;
use ipc::shmem::Shmem;
use postmaster::listen::ListenConfig;
use postmaster::pid_file::PidFile;
use postmaster::roles::Roles;
use postmaster::server_loop::{self, Config};
use postmaster::state::Archiving;
use settings::Settings;
use settings::file::FileError;
use settings::reload::Change;
use settings::table::ArchiveMode;
use sys::clock;
use wal::segment::SegmentSize;
use wal::timestamp::Timestamp;

use crate::archiver::archiver_main;
use crate::checkpointer::checkpointer_main;
use crate::configuration::read_conf;
use crate::control::ControlFile;
use crate::datadir::DataDir;
use crate::log::fatal;
use crate::node::Node;
use crate::session::{backend_main, refuse_main};
use crate::startup::startup_main;
use crate::walwriter::walwriter_main;

/// Connections that are still starting, or only bring a cancel request, beside those that are counted.
const SPARE_SLOTS: usize = 16;

/// What a standby has and a primary doesn't.
pub type WalReceiverMain = fn(&'static Node, Me) -> i32;

/// Runs a node until it is shut down; its exit status.
///
/// `flags` are the `-c name=value` of the command line.
pub fn run_node(data_dir: PathBuf, flags: &[(String, String)], walreceiver: Option<WalReceiverMain>) -> i32 {
    crate::log::init();
    // From here on a signal waits until the postmaster can read it, also a reload that comes with the pid file.
    sys::signal::block_all();
    match prepare(data_dir, flags) {
        Ok(prepared) => serve(prepared, walreceiver),
        Err(message) => {
            fatal(&message);
            1
        }
    }
}

struct Prepared {
    node: &'static Node,
    shmem: Shmem,
    config: Config,
}

fn prepare(data_dir: PathBuf, flags: &[(String, String)]) -> Result<Prepared, String> {
    let data = DataDir::new(data_dir);
    data.check().map_err(|error| error.0)?;
    let control = ControlFile::read(&data.control()).map_err(|error| error.to_string())?;
    let settings = load_settings(&data, &control, flags)?;
    crate::log::set_level(settings.log_min_messages);
    let pid_file = PidFile::create(data.root()).map_err(|error| match error.hint() {
        Some(hint) => format!("{error}\nHINT:  {hint}"),
        None => error.to_string(),
    })?;
    // From here on relative paths can't be misread.
    let data = DataDir::new(pid_file.data_dir());
    let death: &'static PostmasterDeath = Box::leak(Box::new(
        PostmasterDeath::create().map_err(|error| format!("could not make the death pipe: {error}"))?,
    ));
    let slots =
        ProcNumber::FIRST_BACKEND.index() + settings.max_connections + settings.max_wal_senders + SPARE_SLOTS;
    let bytes = ProcArray::size(slots as u32) + Node::shmem_size(&settings, slots);
    let mut shmem = Shmem::create(bytes)
        .map_err(|error| format!("could not map {bytes} bytes of shared memory: {error}"))?;
    let backend = Backend::from_name(settings.wait_backend.word());
    backend::choose(backend.expect("the setting's words are the back-ends' names"));
    let procs = ProcArray::create(&shmem, slots as u32);
    let listen = ListenConfig {
        addresses: Settings::list(&settings.listen_addresses).map(str::to_owned).collect(),
        port: settings.port,
        unix_socket_directory: Settings::list(&settings.unix_socket_directories)
            .next()
            .map(|directory| data.root().join(directory).components().collect()),
        unix_socket_permissions: 0o700,
    };
    check_addresses(&listen)?;
    let version =
        format!("Walship {} (PostgreSQL {} protocol)", env!("CARGO_PKG_VERSION"), settings.server_version);
    let archiving = archiving(settings.archive_mode);
    let node = Node::create(data, settings, flags.to_vec(), &control, procs, &mut shmem);
    Ok(Prepared { node, shmem, config: Config { pid_file, listen, version, procs, death, archiving } })
}

/// Settings from the file and the flags, and what the data directory fixes.
fn load_settings(
    data: &DataDir,
    control: &ControlFile,
    flags: &[(String, String)],
) -> Result<Settings, String> {
    let conf = read_conf(&data.conf())?;
    let mut settings = Settings::load(&conf, flags).map_err(|errors| conf_errors(data, &errors))?;
    SegmentSize::new(u64::from(control.segment_size)).map_err(|_| {
        format!("control file names an impossible segment size, {} bytes", control.segment_size)
    })?;
    settings.wal_segment_size = u64::from(control.segment_size);
    settings.in_hot_standby = data.is_standby();
    Ok(settings)
}

/// Logs what is wrong with the file, line by line; the text of the FATAL.
fn conf_errors(data: &DataDir, errors: &[FileError]) -> String {
    let path = data.conf();
    for error in errors {
        tracing::info!("{}", error.located(path.display()));
    }
    format!("configuration file \"{}\" contains errors", path.display())
}

/// When the postmaster is to run an archiver.
fn archiving(mode: ArchiveMode) -> Archiving {
    match mode {
        ArchiveMode::Off => Archiving::Off,
        ArchiveMode::On => Archiving::Primary,
        ArchiveMode::Always => Archiving::Always,
    }
}

/// There is no authentication yet: nobody but this machine may connect.
fn check_addresses(listen: &ListenConfig) -> Result<(), String> {
    for address in &listen.addresses {
        let loopback = address == "localhost"
            || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !loopback {
            return Err(format!(
                "will not listen on \"{address}\": beyond loopback only with password authentication, which this version does not have\nHINT:  Set listen_addresses to 127.0.0.1."
            ));
        }
    }
    Ok(())
}

fn serve(prepared: Prepared, walreceiver: Option<WalReceiverMain>) -> i32 {
    let node = prepared.node;
    let conf = node.data.conf();
    let receive = move |me| match walreceiver {
        Some(main) => main(node, me),
        None => 1,
    };
    let roles = Roles {
        startup: &|me| startup_main(node, me),
        walwriter: &|me| walwriter_main(node, me),
        checkpointer: &|me| checkpointer_main(node, me),
        walreceiver: walreceiver.is_some().then_some(&receive),
        archiver: &|me| archiver_main(node, me),
        backend: &|me, stream, peer| backend_main(node, me, stream, peer),
        dead_end: &|stream, peer, refusal| refuse_main(node, stream, peer, refusal),
        reinitialize: &|| reinitialize(node, &prepared.shmem),
        restart_after_crash: &|| node.settings().restart_after_crash,
        enter: &|me| node.enter(me),
        reload: &|| reload(node, &conf),
    };
    server_loop::run(prepared.config, &roles).0
}

/// Shared memory as it was before the first fork, for a node whose processes a crash has ended.
fn reinitialize(node: &Node, shmem: &Shmem) -> Result<(), String> {
    // The timeline may have changed since the start.
    let control = ControlFile::read(&node.data.control()).map_err(|error| error.to_string())?;
    shmem.renew().map_err(|error| format!("could not make shared memory anew: {error}"))?;
    node.procs.initialise();
    node.initialise(&control);
    Ok(())
}

/// For the postmaster at SIGHUP: reads the file and publishes what it brings, with a line in the log for everything. What
/// only a restart can change, or why nothing has changed.
fn reload(node: &Node, conf: &Path) -> Result<String, String> {
    let now = Timestamp::from_unix_micros(clock::unix_micros());
    let errors = match read_conf(conf) {
        Err(error) => vec![error],
        Ok(text) => match node.settings().reload(&text, node.configuration.flags()) {
            Err(errors) => errors.iter().map(|error| error.located(conf.display())).collect(),
            Ok(reloaded) => {
                reloaded.changes.iter().for_each(|change| tracing::info!("{change}"));
                let pending = |change: &&Change| matches!(change, Change::NeedsRestart { .. });
                let pending: Vec<_> =
                    reloaded.changes.iter().filter(pending).map(Change::to_string).collect();
                if !pending.is_empty() {
                    tracing::info!(
                        "configuration file \"{}\" contains errors; unaffected changes were applied",
                        conf.display()
                    );
                }
                node.configuration.publish(reloaded.settings, &text, now);
                return Ok(pending.join("\n"));
            }
        },
    };
    errors.iter().for_each(|error| tracing::info!("{error}"));
    let last = format!("configuration file \"{}\" contains errors; no changes were applied", conf.display());
    tracing::info!("{last}");
    Err(format!("{}\n{last}", errors.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_backend_takes_every_name_and_has_the_default_of_the_library() {
        assert_eq!(Settings::default().wait_backend.word(), Backend::DEFAULT.name());
        for backend in Backend::ALL {
            let flag = ("wait_backend".to_owned(), backend.name().to_owned());
            let settings = Settings::load("", &[flag]).unwrap();
            assert_eq!(Backend::from_name(settings.wait_backend.word()), Some(backend));
        }
    }
}
