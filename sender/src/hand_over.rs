//! Handing over: a primary stops taking writes, sends its standbys all of its log, and turns into a standby of the one that
//! takes over.
//!
//! It is a fast shutdown with something after it. The session that is asked (`walship_hand_over()`, by `standby promote
//! --switchover`) writes the successor's connection string into the file `hand_over` and tells the postmaster to shut down.
//! The shutdown ends the sessions (57P01), writes the shutdown checkpoint, and waits until every standby has it. When the
//! last child is gone, and the control file says that all of that happened, the postmaster makes the directory a standby's and
//! becomes the program `standby` beside its own, in the same process: whoever started the node sees it go on.
//!
//! A crash before that leaves a primary: the file is removed at the next start. The successor is promoted only when it has
//! seen the orderly end of the log (`receiver::switchover`), so there is never a second primary.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use engine::error::{SqlError, SqlState};
use failpoint::Site;
use sys::clock;
use sys::file::remove_if_there;
use sys::process;
use sys::signal::Signal;
use wire::conninfo::Conninfo;

use crate::control::{ControlFile, NodeState};
use crate::datadir::{DataDir, replace_file};
use crate::log::fatal;
use crate::node::Node;
use crate::walsender::WalSndState;

/// For a session of a primary: has the node hand over to the standby that streams as `application_name` and will be
/// reached by `successor`, a connection string.
///
/// # Errors
/// The node is no primary, no such standby streams, the string is none, or this node couldn't become a standby.
pub(crate) fn begin(node: &Node, successor: &str, application_name: &str) -> Result<(), SqlError> {
    let wrong_state = |message: String| SqlError::new(SqlState(*b"55000"), message);
    if node.recovery.in_recovery() {
        return Err(wrong_state("recovery is in progress".to_owned()));
    }
    Conninfo::parse(successor).map_err(|error| {
        SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid connection string: {error}"))
    })?;
    let streams = node.walsenders.iter().any(|slot| {
        slot.state() == WalSndState::Streaming
            && slot
                .owner()
                .is_some_and(|owner| node.statuses[owner.index()].application_name.get() == application_name)
    });
    if !streams {
        return Err(wrong_state(format!("standby \"{application_name}\" does not stream from this node")));
    }
    let failed =
        |error: io::Error| SqlError::new(SqlState::INTERNAL_ERROR, format!("could not hand over: {error}"));
    standby_program().map_err(failed)?;
    let note = || replace_file(&node.data.hand_over(), successor.as_bytes());
    let noted = failpoint::io(Site::SwitchoverNote, note).and_then(|()| {
        tracing::info!("handing over to standby \"{application_name}\"");
        process::kill(process::parent_pid(), Signal::Int)
    });
    noted.map_err(|error| {
        // The next shutdown is not to be taken for this one. A file that stays all the same goes at the next start.
        let _ = remove_if_there(&node.data.hand_over());
        failed(error)
    })
}

/// For the postmaster when it starts: what an earlier one was to hand over is of no concern any more.
///
/// # Errors
/// Those of the file system.
pub(crate) fn forget(data: &DataDir) -> io::Result<()> {
    for path in [data.hand_over(), data.switchover(), data.promote()] {
        remove_if_there(&path)?;
    }
    Ok(())
}

/// For the startup process of a standby whose upstream has shut down in order: whether a command waits for that. It has its
/// answer then.
pub(crate) fn take_wish(data: &DataDir) -> bool {
    let path = data.switchover();
    let until = fs::read_to_string(&path).ok().and_then(|text| text.parse::<i64>().ok());
    // The command may have given it up.
    let is_there = fs::remove_file(&path).is_ok();
    let counts = until.is_some_and(|until| clock::unix_micros() < until);
    if is_there && !counts {
        tracing::warn!("the switchover request has expired: whoever made it has not withdrawn it");
    }
    is_there && counts
}

/// For the postmaster whose last child is gone: turns it into the standby that it is to be, if it is. Returns only if it
/// isn't, or can't; the exit status then.
pub(crate) fn go_on_as_standby(data: &DataDir, flags: &[(String, String)], status: i32) -> i32 {
    let Ok(successor) = fs::read_to_string(data.hand_over()) else { return status };
    let is_shut_down =
        ControlFile::read(&data.control()).is_ok_and(|control| control.state == NodeState::ShutDown);
    if status != 0 || !is_shut_down {
        return status;
    }
    if let Err(error) = failpoint::step(Site::SwitchoverStandby, || data.make_standby(&successor)) {
        fatal(&error.0);
        return 1;
    }
    tracing::info!("going on as a standby");
    let error = match standby_program() {
        Ok(program) => process::replace_by(&program, &arguments(data, flags)),
        Err(error) => error,
    };
    fatal(&format!("could not go on as a standby: {error}"));
    1
}

/// Those of a standby that runs with the settings of this node; but what it follows is in its file.
fn arguments(data: &DataDir, flags: &[(String, String)]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["run".into(), "-D".into(), data.root().into()];
    for (name, value) in flags.iter().filter(|(name, _)| name != "primary_conninfo") {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    arguments
}

/// The program `standby` that lies beside this one, or is this one.
fn standby_program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let name = own.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let program = own.with_file_name(name.replace("primary", "standby"));
    if program.is_file() {
        Ok(program)
    } else {
        Err(io::Error::other(format!("there is no program \"{}\"", program.display())))
    }
}
