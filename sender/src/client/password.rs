//! The password of a client, and the proof that it knows it.
//!
//! A password comes from the connection string, from PGPASSWORD, or from a password file (`passfile` in the connection
//! string, PGPASSFILE, or `~/.pgpass`), in this order. It is sent to nobody: a server that asks for it as it is is refused, and
//! one that skips its own part of the exchange, which proves that it knows the verifier, is no server of this user.
//!
//! Follows PostgreSQL 15 src/interfaces/libpq/fe-auth.c, fe-connect.c (passwordFromFile).

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wire::client::{self, Authentication};
use wire::conninfo::{Conninfo, Target, TargetAddress};
use wire::passfile::{self, Wanted};
use wire::scram::{self, ClientExchange};

use super::ClientError;

/// A password file that is larger is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How far the proof is.
pub(super) enum Proof {
    /// The server has not asked.
    NotAsked,
    /// The client has said its first word.
    Begun(ClientExchange),
    /// The client has proved itself; the server has to.
    Proved(ClientExchange),
    /// Both have.
    Complete,
}

impl Proof {
    /// Whether both sides have proved themselves.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Proof::Complete)
    }

    /// Takes a message of the server; the bytes of the answer.
    pub(super) fn step(
        &mut self,
        message: Authentication<'_>,
        password: impl FnOnce() -> Result<String, String>,
    ) -> Result<Vec<u8>, ClientError> {
        let mut answer = Vec::new();
        match (std::mem::replace(self, Proof::Complete), message) {
            (state @ (Proof::NotAsked | Proof::Complete), Authentication::Ok) => *self = state,
            (Proof::NotAsked, Authentication::Sasl { scram: true }) => {
                let password = password().map_err(ClientError::Protocol)?;
                let mut random = [0; scram::NONCE_BYTES];
                sys::random::fill(&mut random)
                    .map_err(|error| ClientError::Protocol(format!("could not generate nonce: {error}")))?;
                let exchange = ClientExchange::new(password, scram::nonce(&random));
                client::sasl_initial_response(&mut answer, &exchange.first());
                *self = Proof::Begun(exchange);
            }
            (Proof::Begun(mut exchange), Authentication::SaslContinue(data)) => {
                let last = exchange.last(data).map_err(ClientError::Protocol)?;
                client::sasl_response(&mut answer, &last);
                *self = Proof::Proved(exchange);
            }
            (Proof::Proved(exchange), Authentication::SaslFinal(data)) => {
                exchange.check_server(data).map_err(ClientError::Protocol)?;
            }
            (Proof::NotAsked, Authentication::Sasl { scram: false }) => {
                let message = "none of the server's SASL authentication mechanisms are supported";
                return Err(ClientError::Protocol(message.to_owned()));
            }
            (Proof::NotAsked, Authentication::Other(code)) => {
                return Err(ClientError::Protocol(format!("authentication method {code} not supported")));
            }
            _ => {
                let message = "server broke off the exchange that is to prove the password";
                return Err(ClientError::Protocol(message.to_owned()));
            }
        }
        Ok(answer)
    }
}

/// The password for a target.
///
/// # Errors
/// There is none, in libpq's words.
pub(super) fn find(
    conninfo: &Conninfo,
    target: &Target,
    parameters: &[(&str, &str)],
) -> Result<String, String> {
    if let Some(password) = conninfo.password() {
        return Ok(password.to_owned());
    }
    if let Some(password) = env::var("PGPASSWORD").ok().filter(|password| !password.is_empty()) {
        return Ok(password);
    }
    let parameter =
        |name: &str| parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
    let local = matches!(target.address, TargetAddress::Unix(_)) && target.host.is_empty();
    let wanted = Wanted {
        host: if local { "localhost" } else { &target.host },
        port: target.port,
        database: parameter("database"),
        user: parameter("user"),
    };
    let found = file(conninfo).and_then(|path| read(&path)).and_then(|text| passfile::find(&text, &wanted));
    found.ok_or_else(|| "fe_sendauth: no password supplied".to_owned())
}

fn file(conninfo: &Conninfo) -> Option<PathBuf> {
    let given =
        conninfo.passfile().map(PathBuf::from).or_else(|| env::var_os("PGPASSFILE").map(PathBuf::from));
    given.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass")))
}

/// The text of a password file that nobody else can read.
fn read(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    if !meta.is_file() {
        tracing::warn!("password file \"{}\" is not a plain file", path.display());
        return None;
    }
    if meta.mode() & 0o077 != 0 {
        tracing::warn!(
            "password file \"{}\" has group or world access; permissions should be u=rw (0600) or less",
            path.display()
        );
        return None;
    }
    if meta.len() > FILE_BYTES_MAX {
        tracing::warn!("password file \"{}\" has more than {FILE_BYTES_MAX} bytes", path.display());
        return None;
    }
    fs::read_to_string(path).ok()
}
