//! Starting a node: from a data directory to a running postmaster.
//!
//! Everything that can be wrong with directory, control file and settings is found here, before the first fork, and
//! said in one line of the log. Shared memory is laid out here; no SQLite and no log file is opened.
//!
//! Follows PostgreSQL 15 PostmasterMain() in src/backend/postmaster/postmaster.c.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use ipc::backend::{self, Backend};
use ipc::postmaster_death::PostmasterDeath;
use ipc::proc::{ProcArray, ProcNumber};
use ipc::process::Me;
use ipc::shmem::Shmem;
use postmaster::listen::ListenConfig;
use postmaster::pid_file::{LockFileError, PidFile};
use postmaster::roles::Roles;
use postmaster::server_loop::{self, Config};
use postmaster::state::Archiving;
use settings::Settings;
use settings::file::FileError;
use settings::reload::{Change, Reloaded};
use settings::table::ArchiveMode;
use sys::clock;
use wal::segment::SegmentSize;
use wal::timestamp::Timestamp;
use wire::hba::Rules;

use crate::archiver::archiver_main;
use crate::checkpointer::checkpointer_main;
use crate::configuration::{Files, read_conf, read_rules};
use crate::control::ControlFile;
use crate::datadir::DataDir;
use crate::hand_over;
use crate::log::fatal;
use crate::node::Node;
use crate::reserve::{Reserve, is_full};
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
    match sys::failpoint::begin_postmaster() {
        Ok(false) => {}
        Ok(true) => tracing::warn!("this program has failpoints: it is for tests alone"),
        Err(error) => {
            fatal(&format!("could not map the failpoints: {error}"));
            return 1;
        }
    }
    match prepare(data_dir, flags) {
        Ok(prepared) => {
            let data = prepared.node.data.clone();
            let status = serve(prepared, walreceiver);
            hand_over::go_on_as_standby(&data, flags, status)
        }
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
    let (pid_file, reserve_released) = create_pid_file(&data)?;
    hand_over::forget(&data).map_err(|error| format!("could not remove a file of a switchover: {error}"))?;
    // From here on relative paths can't be misread.
    let data = DataDir::new(pid_file.data_dir());
    data.remove_temporary().map_err(|error| format!("could not remove a temporary file: {error}"))?;
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
    let (rules, _) = read_rules(&data.hba()).map_err(|errors| {
        errors.iter().for_each(|error| tracing::info!("{error}"));
        format!("could not load \"{}\"", data.hba().display())
    })?;
    check_addresses(&listen.addresses, &rules, &data.hba())?;
    tell_of_useless_rules(&rules, &data.hba());
    let version =
        format!("Walship {} (PostgreSQL {} protocol)", env!("CARGO_PKG_VERSION"), settings.server_version);
    let archiving = archiving(settings.archive_mode);
    let node = Node::create(data, (settings, rules), flags.to_vec(), &control, procs, &mut shmem);
    node.recovery.reserve_released.store(u32::from(reserve_released), Ordering::Relaxed);
    node.replication_slots.restore(node)?;
    Ok(Prepared { node, shmem, config: Config { pid_file, listen, version, procs, death, archiving } })
}

/// Takes the directory; if its disk is full, with the room of the reserve, and says so.
fn create_pid_file(data: &DataDir) -> Result<(PidFile, bool), String> {
    let create = || PidFile::create(data.root());
    let (created, released) = match create() {
        // The lock of the directory was ours by then: no other node's reserve is taken.
        Err(LockFileError::Io { source, .. }) if is_full(&source) && Reserve::Files.release_unseen(data) => {
            (create(), true)
        }
        created => (created, false),
    };
    created.map(|pid_file| (pid_file, released)).map_err(|error| match error.hint() {
        Some(hint) => format!("{error}\nHINT:  {hint}"),
        None => error.to_string(),
    })
}

/// Settings from the file and the flags, and what the data directory fixes.
fn load_settings(
    data: &DataDir,
    control: &ControlFile,
    flags: &[(String, String)],
) -> Result<Settings, String> {
    let conf = read_conf(data)?;
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

/// Whom a rule lets in without a proof may only come from this machine, or else not get as far as that.
///
/// # Errors
/// The address and the rule that don't go together.
fn check_addresses(addresses: &[String], rules: &Rules, hba: &Path) -> Result<(), String> {
    let is_loopback = |address: &str| {
        address == "localhost"
            || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let beyond = addresses.iter().find(|address| !is_loopback(address));
    match beyond.zip(rules.trusting_beyond_this_machine()) {
        None => Ok(()),
        Some((address, rule)) => Err(format!(
            "will not listen on \"{address}\" while line {} of \"{}\" lets other machines in without a password: \"{}\"\n\
             HINT:  Let that line ask for scram-sha-256, or set listen_addresses to 127.0.0.1.",
            rule.line,
            hba.display(),
            rule.text
        )),
    }
}

fn tell_of_useless_rules(rules: &Rules, hba: &Path) {
    for rule in rules.never_matching() {
        let encryption = if rule.kind_word == "hostssl" {
            "SSL is disabled"
        } else {
            "GSSAPI is not supported by this build"
        };
        tracing::info!(
            "{} record cannot match because {encryption}\nCONTEXT:  line {} of configuration file \"{}\"",
            rule.kind_word,
            rule.line,
            hba.display()
        );
    }
}

fn serve(prepared: Prepared, walreceiver: Option<WalReceiverMain>) -> i32 {
    let node = prepared.node;
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
        activity: &|number| Some(node.statuses[number.index()].query.get()).filter(|query| !query.is_empty()),
        restart_after_crash: &|| node.settings().restart_after_crash,
        enter: &|me| node.enter(me),
        reload: &|| reload(node),
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
    node.replication_slots.restore(node)
}

/// For the postmaster at SIGHUP: reads the files and publishes what they bring, with a line in the log for everything. What
/// only a restart can change, or why nothing has changed: an error in one of them keeps both as they were.
fn reload(node: &Node) -> Result<String, String> {
    let (conf, hba) = (node.data.conf(), node.data.hba());
    let now = Timestamp::from_unix_micros(clock::unix_micros());
    let (text, reloaded) = reload_settings(node).map_err(|errors| {
        let path = conf.display();
        not_reloaded(
            &errors,
            format!("configuration file \"{path}\" contains errors; no changes were applied"),
        )
    })?;
    let (rules, hba_text) = read_rules(&hba)
        .and_then(|(rules, text)| {
            let addresses: Vec<String> =
                Settings::list(&node.settings().listen_addresses).map(str::to_owned).collect();
            check_addresses(&addresses, &rules, &hba).map_err(|error| vec![error])?;
            Ok((rules, text))
        })
        .map_err(|errors| not_reloaded(&errors, format!("\"{}\" was not reloaded", hba.display())))?;
    tell_of_useless_rules(&rules, &hba);
    reloaded.changes.iter().for_each(|change| tracing::info!("{change}"));
    let pending = |change: &&Change| matches!(change, Change::NeedsRestart { .. });
    let pending: Vec<_> = reloaded.changes.iter().filter(pending).map(Change::to_string).collect();
    if !pending.is_empty() {
        let path = conf.display();
        tracing::info!("configuration file \"{path}\" contains errors; unaffected changes were applied");
    }
    node.configuration.publish(reloaded.settings, rules, Files { conf: &text, hba: &hba_text }, now);
    Ok(pending.join("\n"))
}

/// walship.conf's text, and what it brings.
fn reload_settings(node: &Node) -> Result<(String, Reloaded), Vec<String>> {
    let conf = node.data.conf();
    let text = read_conf(&node.data).map_err(|error| vec![error])?;
    match node.settings().reload(&text, node.configuration.flags()) {
        Ok(reloaded) => Ok((text, reloaded)),
        Err(errors) => Err(errors.iter().map(|error| error.located(conf.display())).collect()),
    }
}

/// Logs it, and gives it as one text.
fn not_reloaded(errors: &[String], last: String) -> String {
    errors.iter().for_each(|error| tracing::info!("{error}"));
    tracing::info!("{last}");
    format!("{}\n{last}", errors.join("\n"))
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
