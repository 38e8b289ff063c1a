//! Connection strings: libpq's keyword form (`host=db port=5440 user=postgres`) and its URI
//! (`postgresql://postgres@db:5440/postgres?application_name=x`).
//!
//! How to use it: [`Conninfo::parse`], then try [`Conninfo::targets`] in order. Several hosts may be given, separated
//! by commas, with one port for all or one for each; [`Conninfo::target_session_attrs`] says which of them will do.
//!
//! Differs from libpq in: no service files, no environment, no TLS (an `sslmode` that demands it is refused), the
//! default port is 5440 and the default host 127.0.0.1. What libpq knows beyond the options that have an effect here is
//! taken and forgotten, for `pg_basebackup -R` writes all of it into a standby's primary_conninfo; but not a demand for
//! something that there is not (`gssencmode=require`).
//!
//! Follows PostgreSQL 15 src/interfaces/libpq/fe-connect.c (conninfo_parse, conninfo_uri_parse_options).

pub mod session_attrs;
mod uri;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::session_attrs::TargetSessionAttrs;

/// The port of a server that says nothing else.
pub const DEFAULT_PORT: u16 = 5440;
const DEFAULT_HOST: &str = "127.0.0.1";

/// Why a connection string is none, as libpq words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConninfoError(String);

impl fmt::Display for ConninfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConninfoError {}

fn error<T>(message: impl Into<String>) -> Result<T, ConninfoError> {
    Err(ConninfoError(message.into()))
}

/// The options of a connection string, checked. An option that is given empty counts as not given.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// The values, in the order of [`OPTIONS`].
    values: [Option<String>; OPTIONS.len()],
    targets: Vec<Target>,
    connect_timeout: Option<Duration>,
    target_session_attrs: TargetSessionAttrs,
}

/// A place to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host as it was given: what a user is told, and the view of the receiver shows.
    pub host: String,
    /// The port, also part of a Unix socket's name.
    pub port: u16,
    /// Where that is.
    pub address: TargetAddress,
}

/// How to reach a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetAddress {
    /// A host name or a numeric address, to be resolved.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Every option known, in the order in which a string is written.
const OPTIONS: [&str; 15] = [
    "user",
    "password",
    "passfile",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "options",
    "sslmode",
    "gssencmode",
    "channel_binding",
    "target_session_attrs",
];

/// Options of libpq that mean nothing here.
const IGNORED: [&str; 27] = [
    "client_encoding",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "tcp_user_timeout",
];

/// What was given, before it is checked as a whole.
type Values = [Option<String>; OPTIONS.len()];

/// Stores an option's value; a later one replaces an earlier one. `false` when there is no such option.
fn store(values: &mut Values, name: &str, value: String) -> bool {
    let index = OPTIONS.iter().position(|known| *known == name);
    if let Some(index) = index {
        values[index] = Some(value);
    }
    index.is_some() || IGNORED.contains(&name)
}

impl Conninfo {
    /// Reads a connection string of either form.
    ///
    /// # Errors
    /// Says, in libpq's words, what is wrong with it.
    pub fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
        let mut values = Values::default();
        let uri = ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        match uri {
            Some(rest) => uri::parse(text, rest, &mut values)?,
            None => parse_keywords(text, &mut values)?,
        }
        for value in &mut values {
            value.take_if(|value| value.is_empty());
        }
        let target_session_attrs = TargetSessionAttrs::Any;
        let mut conninfo =
            Conninfo { values, targets: Vec::new(), connect_timeout: None, target_session_attrs };
        conninfo.check_sslmode()?;
        conninfo.check_demands()?;
        conninfo.connect_timeout = conninfo.parse_connect_timeout()?;
        conninfo.target_session_attrs = TargetSessionAttrs::parse(conninfo.value("target_session_attrs"))?;
        conninfo.targets = conninfo.resolve_targets()?;
        Ok(conninfo)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let index = OPTIONS.iter().position(|known| *known == name).expect("the option is in the table");
        self.values[index].as_deref()
    }

    /// The user to connect as.
    pub fn user(&self) -> Option<&str> {
        self.value("user")
    }

    /// The database to connect to.
    pub fn dbname(&self) -> Option<&str> {
        self.value("dbname")
    }

    /// The password.
    pub fn password(&self) -> Option<&str> {
        self.value("password")
    }

    /// Where passwords are ([`crate::passfile`]).
    pub fn passfile(&self) -> Option<&str> {
        self.value("passfile")
    }

    /// The name under which the connection shows itself, or what was given for want of one.
    pub fn application_name(&self) -> Option<&str> {
        self.value("application_name").or_else(|| self.value("fallback_application_name"))
    }

    /// Command-line switches for the session.
    pub fn options(&self) -> Option<&str> {
        self.value("options")
    }

    /// How long to try each target; `None` is for ever.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// What the server must be that is taken.
    pub fn target_session_attrs(&self) -> TargetSessionAttrs {
        self.target_session_attrs
    }

    /// Where to connect to, to be tried in this order. At least one.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The string in keyword form with the password hidden, for views and logs.
    pub fn redacted(&self) -> String {
        self.in_keywords(|name, value| if name == "password" { "********" } else { value })
    }

    /// The string in keyword form with a password file.
    pub fn with_passfile(&self, path: &str) -> String {
        let mut with = self.clone();
        store(&mut with.values, "passfile", path.to_owned());
        with.in_keywords(|_, value| value)
    }

    fn in_keywords<'a>(&'a self, shown: impl Fn(&str, &'a str) -> &'a str) -> String {
        let mut text = String::new();
        for (name, value) in OPTIONS.iter().zip(&self.values) {
            let Some(value) = value else { continue };
            let shown = shown(name, value);
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(name);
            text.push('=');
            quote_value(&mut text, shown);
        }
        text
    }

    /// The string in keyword form, for another server with the same users: at another place, whatever it is there, and
    /// under no name of the connection's own. It shows the password.
    pub fn moved_to(&self, host: &str, port: u16) -> String {
        let mut text = String::from("host=");
        quote_value(&mut text, host);
        text.push_str(&format!(" port={port}"));
        let stays = |name: &str| {
            let place = ["host", "hostaddr", "port", "target_session_attrs"];
            !place.contains(&name) && !matches!(name, "application_name" | "fallback_application_name")
        };
        for (name, value) in OPTIONS.iter().zip(&self.values).filter(|(name, _)| stays(name)) {
            let Some(value) = value else { continue };
            text.push_str(&format!(" {name}="));
            quote_value(&mut text, value);
        }
        text
    }

    fn check_sslmode(&self) -> Result<(), ConninfoError> {
        match self.value("sslmode") {
            None | Some("disable" | "allow" | "prefer") => Ok(()),
            Some(mode @ ("require" | "verify-ca" | "verify-full")) => {
                error(format!("sslmode value \"{mode}\" invalid when SSL support is not compiled in"))
            }
            Some(mode) => error(format!("invalid sslmode value: \"{mode}\"")),
        }
    }

    fn check_demands(&self) -> Result<(), ConninfoError> {
        if self.value("gssencmode") == Some("require") {
            return error("gssencmode value \"require\" invalid when GSSAPI support is not compiled in");
        }
        if self.value("channel_binding") == Some("require") {
            return error("channel_binding value \"require\" invalid when SSL support is not compiled in");
        }
        Ok(())
    }

    /// Zero and negative numbers mean for ever; one second is too short to be meant, so it counts as two.
    fn parse_connect_timeout(&self) -> Result<Option<Duration>, ConninfoError> {
        let Some(text) = self.value("connect_timeout") else { return Ok(None) };
        let Ok(seconds) = text.trim_ascii().parse::<i32>() else {
            let message =
                format!("invalid integer value \"{text}\" for connection option \"connect_timeout\"");
            return error(message);
        };
        Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.max(2))))
    }

    /// Pairs the lists of hosts, addresses and ports.
    fn resolve_targets(&self) -> Result<Vec<Target>, ConninfoError> {
        let list = |name| self.value(name).map(|list| list.split(',').collect::<Vec<_>>());
        let (hosts, addresses) = (list("host"), list("hostaddr"));
        let count = addresses.as_ref().or(hosts.as_ref()).map_or(1, Vec::len);
        if let (Some(hosts), Some(addresses)) = (&hosts, &addresses)
            && hosts.len() != addresses.len()
        {
            return error(format!(
                "could not match {} host names to {} hostaddr values",
                hosts.len(),
                addresses.len()
            ));
        }
        let ports = list("port").unwrap_or_default();
        if ports.len() > 1 && ports.len() != count {
            return error(format!("could not match {} port numbers to {count} hosts", ports.len()));
        }
        let entry = |list: &Option<Vec<&str>>, index| {
            list.as_ref().map_or("", |list: &Vec<&str>| list[index]).to_owned()
        };
        (0..count)
            .map(|index| {
                let port =
                    ports.get(index).or(ports.first()).map_or(Ok(DEFAULT_PORT), |text| parse_port(text))?;
                Ok(resolve_target(&entry(&hosts, index), &entry(&addresses, index), port))
            })
            .collect()
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conninfo({})", self.redacted())
    }
}

fn parse_port(text: &str) -> Result<u16, ConninfoError> {
    match text.trim_ascii() {
        "" => Ok(DEFAULT_PORT),
        trimmed => match trimmed.parse::<i64>() {
            Ok(number) => match u16::try_from(number) {
                Ok(port) if port > 0 => Ok(port),
                _ => error(format!("invalid port number: \"{text}\"")),
            },
            Err(_) => error(format!("invalid integer value \"{text}\" for connection option \"port\"")),
        },
    }
}

fn resolve_target(host: &str, address: &str, port: u16) -> Target {
    let shown = [host, address].into_iter().find(|text| !text.is_empty()).unwrap_or(DEFAULT_HOST);
    let place = if address.is_empty() { shown } else { address };
    let address = if place.starts_with('/') {
        TargetAddress::Unix(unix_socket_path(Path::new(place), port))
    } else {
        TargetAddress::Tcp(place.to_owned())
    };
    Target { host: shown.to_owned(), port, address }
}

/// The path of the Unix socket of a server that listens on `port`, in `directory`.
pub fn unix_socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// `name = value` pairs; a value may be quoted, a backslash takes the next character as it is.
fn parse_keywords(text: &str, values: &mut Values) -> Result<(), ConninfoError> {
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let name_end =
            rest.find(|char: char| char == '=' || char.is_ascii_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        let Some(after) = after.trim_ascii_start().strip_prefix('=') else {
            return error(format!("missing \"=\" after \"{name}\" in connection info string"));
        };
        let (value, after) = take_value(after.trim_ascii_start())?;
        if !store(values, name, value) {
            return error(format!("invalid connection option \"{name}\""));
        }
        rest = after.trim_ascii_start();
    }
    Ok(())
}

/// The value at the start of `text`, and what follows it.
fn take_value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (quoted, mut rest) = match text.strip_prefix('\'') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value = String::new();
    loop {
        let mut chars = rest.chars();
        let char = chars.next();
        match char {
            None if quoted => return error("unterminated quoted string in connection info string"),
            None => return Ok((value, rest)),
            Some('\'') if quoted => return Ok((value, chars.as_str())),
            Some(char) if !quoted && char.is_ascii_whitespace() => return Ok((value, rest)),
            Some('\\') => value.extend(chars.next()),
            Some(char) => value.push(char),
        }
        rest = chars.as_str();
    }
}

/// Appends a value so that [`take_value`] reads it back.
fn quote_value(text: &mut String, value: &str) {
    let plain =
        !value.is_empty() && !value.contains(|char: char| char.is_ascii_whitespace() || "'\\".contains(char));
    if plain {
        text.push_str(value);
        return;
    }
    text.push('\'');
    for char in value.chars() {
        if matches!(char, '\'' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
    text.push('\'');
}

#[cfg(test)]
mod tests;
