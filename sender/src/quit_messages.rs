//! What a client is told when SIGQUIT ends the process that serves it.
//!
//! SIGQUIT comes when nothing in this process may be relied upon any more: another one has crashed, or everything is
//! to end at once. So its handler only sends bytes that were made before, while all was well ([`sys::signal`]), and the
//! postmaster says in shared memory which of them it is to be ([`ipc::pm_signal::QuitReason`]). They are notices: the end of
//! the connection, which follows, says that it is over. Nothing is sent to a client that has got a part of a message and
//! waits for the rest, nor to one that is not let in yet.
//!
//! Follows PostgreSQL 15 quickdie() in src/backend/tcop/postgres.c; differs in: no memory is allocated in the handler, and
//! the end of the postmaster is told, too.

use ipc::process::QuitMessages;
use wire::backend;
use wire::error::{ErrorResponse, Severity};
use wire::sqlstate::{ADMIN_SHUTDOWN, CRASH_SHUTDOWN, SqlState};

use crate::connection::Connection;

/// From now on the client of this process is told why, when SIGQUIT ends it. To be called once, when it is let in.
pub(crate) fn announce(connection: &Connection) {
    let Some(me) = connection.me() else { return };
    let crash = warning(CRASH_SHUTDOWN, "terminating connection because of crash of another server process")
        .with_detail(
            "The postmaster has commanded this server process to roll back the current transaction and exit, because \
             another server process exited abnormally and possibly corrupted shared memory.",
        )
        .with_hint(
            "In a moment you should be able to reconnect to the database and repeat your command.",
        );
    let because = |text| encoded(&warning(ADMIN_SHUTDOWN, &format!("terminating connection {text}")));
    let messages = QuitMessages {
        crash: encoded(&crash),
        stop: because("due to immediate shutdown command"),
        unexpected: because("because of unexpected SIGQUIT signal"),
        postmaster_gone: because("due to unexpected postmaster exit"),
    };
    me.set_quit_messages(connection.stream(), messages);
}

fn warning(sqlstate: SqlState, message: &str) -> ErrorResponse {
    ErrorResponse::new(Severity::Warning, sqlstate, message)
}

fn encoded(report: &ErrorResponse) -> Vec<u8> {
    let mut message = Vec::new();
    backend::notice_response(&mut message, report);
    message
}
