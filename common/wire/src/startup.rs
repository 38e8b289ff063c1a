//! What a client sends before the first ordinary message: a request for encryption, a cancel request, or the startup
//! packet with its parameters.
//!
//! How to use it: take packets with `InputBuffer::next_startup_packet`, give each to one [`StartupDecoder`], answer
//! [`StartupPacket::SslRequest`] and [`StartupPacket::GssEncRequest`] with the byte `N` and go on. Each of the two may
//! come once, so a client cannot keep a connection in this stage for ever.
//!
//! Follows PostgreSQL 15 src/backend/tcop/postgres.c (process_postgres_switches), src/backend/postmaster/postmaster.c
//! (ProcessStartupPacket).

use crate::body::{Body, utf8};
use crate::error::{ErrorResponse, Severity};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, SYNTAX_ERROR};
use crate::sqlstate::{INVALID_AUTHORIZATION_SPECIFICATION, INVALID_PARAMETER_VALUE, PROTOCOL_VIOLATION};

/// Protocol 3.0 as a startup packet names it: the major number in the high half, the minor one in the low half.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// The code by which a client asks for TLS.
pub const SSL_REQUEST_CODE: u32 = 80_877_103;
/// The code by which a client asks for GSSAPI encryption.
pub const GSSENC_REQUEST_CODE: u32 = 80_877_104;
/// The code of a cancel request.
pub const CANCEL_REQUEST_CODE: u32 = 80_877_102;

/// The code by which the owner of a node asks how it is. Our own, of PostgreSQL's range for such requests.
pub const STATUS_REQUEST_CODE: u32 = (1234 << 16) | 5900;

/// Names are cut to this many bytes.
const NAME_MAX: usize = 63;

/// The first word of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// Answer with one byte, then expect another packet.
    SslRequest,
    /// Answer with one byte, then expect another packet.
    GssEncRequest,
    /// Tell how the node is, in one result, and close.
    Status,
    /// Cancel what another session does; nothing is answered.
    Cancel(CancelRequest),
    /// A session begins.
    Startup(StartupMessage),
}

/// The session whose command is to be cancelled, as its BackendKeyData named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelRequest {
    /// Process id.
    pub pid: i32,
    /// The secret that shows that the sender may ask this.
    pub key: i32,
}

/// The `replication` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationMode {
    /// An ordinary session.
    None,
    /// A walsender that belongs to no database and takes replication commands only.
    Physical,
    /// A walsender connected to a database, which takes SQL too.
    Database,
}

/// What a session begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// The user.
    pub user: String,
    /// The database; the user's name when none was given, empty for physical replication.
    pub database: String,
    /// Whether this is a replication connection.
    pub replication: ReplicationMode,
    /// Settings for this session, in the order in which they apply: those of `options`, then the others.
    pub settings: Vec<(String, String)>,
    /// Set when the client must be told what the server does not know of what it asked: send
    /// NegotiateProtocolVersion before the authentication request.
    pub negotiate: Option<Negotiation>,
}

/// What the server does not know of what a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Negotiation {
    /// Names of protocol options (`_pq_.…`) that the server does not know.
    pub unrecognized: Vec<String>,
}

/// Reads startup packets; remembers which encryption was asked for already.
#[derive(Debug, Default)]
pub struct StartupDecoder {
    ssl_asked: bool,
    gssenc_asked: bool,
}

impl StartupDecoder {
    /// What the packet says (`packet` is without its length word).
    ///
    /// # Errors
    /// FATAL 0A000 for another protocol; 08P01, 28000, 22023, 22021 or 42601 for wrong contents. The connection ends.
    pub fn decode(&mut self, packet: &[u8]) -> Result<StartupPacket, ErrorResponse> {
        let mut body = Body::new(packet);
        let protocol = body.u32().map_err(|_| invalid_length())?;
        match protocol {
            CANCEL_REQUEST_CODE => {
                let (pid, key) =
                    (body.i32().map_err(|_| invalid_length())?, body.i32().map_err(|_| invalid_length())?);
                body.end().map_err(|_| invalid_length())?;
                Ok(StartupPacket::Cancel(CancelRequest { pid, key }))
            }
            STATUS_REQUEST_CODE => {
                body.end().map_err(|_| invalid_length())?;
                Ok(StartupPacket::Status)
            }
            SSL_REQUEST_CODE if !self.ssl_asked => {
                self.ssl_asked = true;
                Ok(StartupPacket::SslRequest)
            }
            GSSENC_REQUEST_CODE if !self.gssenc_asked => {
                self.gssenc_asked = true;
                Ok(StartupPacket::GssEncRequest)
            }
            _ if protocol >> 16 == PROTOCOL_3_0 >> 16 => {
                let message = decode_parameters(body.rest(), protocol & 0xFFFF);
                message.map(StartupPacket::Startup).map_err(|error| error.with_severity(Severity::Fatal))
            }
            _ => Err(ErrorResponse::fatal(
                FEATURE_NOT_SUPPORTED,
                format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0 to 3.0",
                    protocol >> 16,
                    protocol & 0xFFFF
                ),
            )),
        }
    }
}

fn invalid_length() -> ErrorResponse {
    ErrorResponse::comm_error(PROTOCOL_VIOLATION, "invalid length of startup packet")
}

/// The name/value pairs of a 3.x startup packet.
fn decode_parameters(bytes: &[u8], minor: u32) -> Result<StartupMessage, ErrorResponse> {
    let (mut user, mut database, mut options) = ("", "", "");
    let mut replication = ReplicationMode::None;
    let mut parameters = Vec::new();
    let mut unrecognized = Vec::new();
    let layout = |_| {
        let message = "invalid startup packet layout: expected terminator as last byte";
        ErrorResponse::fatal(PROTOCOL_VIOLATION, message)
    };
    let mut rest = bytes;
    loop {
        let name = utf8(take_cstr(&mut rest).ok_or(()).map_err(layout)?)?;
        if name.is_empty() {
            break;
        }
        let value = utf8(take_cstr(&mut rest).ok_or(()).map_err(layout)?)?;
        match name {
            "user" => user = value,
            "database" => database = value,
            "options" => options = value,
            "replication" => replication = parse_replication(value)?,
            _ if name.starts_with("_pq_.") => unrecognized.push(name.to_owned()),
            _ => parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    if !rest.is_empty() {
        return Err(layout(()));
    }
    if user.is_empty() {
        let message = "no PostgreSQL user name specified in startup packet";
        return Err(ErrorResponse::fatal(INVALID_AUTHORIZATION_SPECIFICATION, message));
    }
    let mut settings = parse_options(options)?;
    settings.append(&mut parameters);
    let database = match (replication, database) {
        (ReplicationMode::Physical, _) => "",
        (_, "") => user,
        (_, given) => given,
    };
    let negotiate = (minor > 0 || !unrecognized.is_empty()).then_some(Negotiation { unrecognized });
    Ok(StartupMessage {
        user: truncate_name(user).to_owned(),
        database: truncate_name(database).to_owned(),
        replication,
        settings,
        negotiate,
    })
}

/// The bytes up to a zero byte, which is consumed too.
fn take_cstr<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&byte| byte == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}

/// A name cut to what an identifier may have, at a character's border.
pub(crate) fn truncate_name(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_MAX)]
}

fn parse_replication(value: &str) -> Result<ReplicationMode, ErrorResponse> {
    if value == "database" {
        return Ok(ReplicationMode::Database);
    }
    match parse_bool(value) {
        Some(true) => Ok(ReplicationMode::Physical),
        Some(false) => Ok(ReplicationMode::None),
        None => Err(ErrorResponse::fatal(
            INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"replication\": \"{value}\""),
        )
        .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
    }
}

/// A boolean as PostgreSQL reads one: any unambiguous beginning of true, false, yes, no, on, off; or 1, 0.
fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, shortest: usize| value.len() >= shortest && word.starts_with(&value);
    if value == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Some(true)
    } else if value == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Some(false)
    } else {
        None
    }
}

/// The settings in a string of command-line switches: `-c name=value`, `-cname=value` and `--name=value`; blanks
/// separate switches, a backslash takes the next character as it is.
///
/// # Errors
/// FATAL 42601 for any other switch.
fn parse_options(options: &str) -> Result<Vec<(String, String)>, ErrorResponse> {
    let mut settings = Vec::new();
    let mut switches = split_options(options).into_iter();
    while let Some(switch) = switches.next() {
        let (setting, flag) = if let Some(long) = switch.strip_prefix("--") {
            (long.to_owned(), "--")
        } else if switch == "-c" {
            (switches.next().ok_or_else(|| invalid_switch(&switch))?, "-c ")
        } else if let Some(rest) = switch.strip_prefix("-c") {
            (rest.to_owned(), "-c ")
        } else {
            return Err(invalid_switch(&switch));
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(ErrorResponse::fatal(SYNTAX_ERROR, format!("{flag}{setting} requires a value")));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn invalid_switch(switch: &str) -> ErrorResponse {
    let message = format!("invalid command-line argument for server process: {switch}");
    ErrorResponse::fatal(SYNTAX_ERROR, message).with_hint("Known are \"-c name=value\" and \"--name=value\".")
}

fn split_options(options: &str) -> Vec<String> {
    let mut switches = Vec::new();
    let mut chars = options.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.peek().is_none() {
            return switches;
        }
        let mut switch = String::new();
        while let Some(char) = chars.next_if(|char| !char.is_ascii_whitespace()) {
            switch.extend(if char == '\\' { chars.next() } else { Some(char) });
        }
        switches.push(switch);
    }
}

#[cfg(test)]
mod tests;
