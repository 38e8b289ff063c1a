//! From a connection string to what is tried: addresses, startup parameters, and how libpq names an attempt.

use sys::net::{self, Endpoint};
use wire::conninfo::{Conninfo, Target, TargetAddress};

use super::SessionKind;
use crate::buffered_socket::reason;

/// The user to connect as when the connection string names none.
const DEFAULT_USER: &str = "postgres";

/// The parameters of the startup packet.
pub(super) fn startup_parameters<'a>(
    conninfo: &'a Conninfo,
    kind: SessionKind,
    application_name: &'a str,
) -> Vec<(&'static str, &'a str)> {
    let user = conninfo.user().unwrap_or(DEFAULT_USER);
    let mut parameters = vec![("user", user)];
    match kind {
        SessionKind::PhysicalReplication => {
            parameters.extend([("database", "replication"), ("replication", "true")]);
        }
        SessionKind::Ordinary => parameters.push(("database", conninfo.dbname().unwrap_or(user))),
    }
    parameters.push(("application_name", conninfo.application_name().unwrap_or(application_name)));
    parameters.extend(conninfo.options().map(|options| ("options", options)));
    parameters
}

/// The addresses of a target. Blocks in the resolver when the host is a name.
pub(super) fn endpoints(target: &Target) -> Result<Vec<Endpoint>, String> {
    match &target.address {
        TargetAddress::Unix(path) => Ok(vec![Endpoint::Unix(path.clone())]),
        TargetAddress::Tcp(host) => match net::resolve(host, target.port) {
            Ok(addresses) => Ok(addresses.into_iter().map(Endpoint::Tcp).collect()),
            Err(error) => {
                let text = reason(&error);
                let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
                Err(format!("could not translate host name \"{host}\" to address: {text}"))
            }
        },
    }
}

/// What libpq begins its report of a failed attempt with.
pub(super) fn describe(target: &Target, endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(path) => format!("connection to server on socket \"{}\"", path.display()),
        Endpoint::Tcp(address) => {
            let (host, ip) = (&target.host, address.ip().to_string());
            let shown = if *host == ip { String::new() } else { format!(" ({ip})") };
            format!("connection to server at \"{host}\"{shown}, port {}", address.port())
        }
    }
}
