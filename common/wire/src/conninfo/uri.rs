//! The URI form of a connection string: `postgresql://[user[:password]@][host][:port][,…][/dbname][?name=value[&…]]`.
//!
//! Every part may be percent-encoded; a host in brackets is an IPv6 address; an encoded `/` begins the directory of a
//! Unix socket.

use super::{ConninfoError, Values, error, store};

/// Reads `rest` (what follows the scheme of `uri`) into `values`.
pub(super) fn parse(uri: &str, rest: &str, values: &mut Values) -> Result<(), ConninfoError> {
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(authority_end);
    // A raw "/" in a password would end the authority here; libpq, too, wants it encoded.
    let hosts = match authority.split_once('@') {
        Some((credentials, hosts)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            store(values, "user", decode(user)?);
            store(values, "password", decode(password)?);
            hosts
        }
        None => authority,
    };
    parse_hosts(uri, hosts, values)?;
    let (path, query) = match after.split_once('?') {
        Some((path, query)) => (path, query),
        None => (after, ""),
    };
    if let Some(dbname) = path.strip_prefix('/')
        && !dbname.is_empty()
    {
        store(values, "dbname", decode(dbname)?);
    }
    parse_query(query, values)
}

/// `host[:port][,host[:port]]…`
fn parse_hosts(uri: &str, text: &str, values: &mut Values) -> Result<(), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for entry in text.split(',') {
        let (host, port) = match entry.strip_prefix('[') {
            Some(bracketed) => split_ipv6(uri, bracketed)?,
            None => entry.split_once(':').unwrap_or((entry, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    store(values, "host", hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        store(values, "port", ports.join(","));
    }
    Ok(())
}

/// The address and the port of `address][:port]`.
fn split_ipv6<'a>(uri: &str, bracketed: &'a str) -> Result<(&'a str, &'a str), ConninfoError> {
    let Some((address, after)) = bracketed.split_once(']') else {
        return error(format!(
            "end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"{uri}\""
        ));
    };
    if address.is_empty() {
        return error(format!("IPv6 host address may not be empty in URI: \"{uri}\""));
    }
    let mut chars = after.chars();
    match chars.next() {
        None => Ok((address, "")),
        Some(':') => Ok((address, chars.as_str())),
        Some(char) => {
            // Both are parts of the same text.
            let position = after.as_ptr().addr() - uri.as_ptr().addr() + 1;
            error(format!(
                "unexpected character \"{char}\" at position {position} in URI (expected \":\" or \"/\"): \"{uri}\""
            ))
        }
    }
}

/// `name=value[&name=value]…`
fn parse_query(query: &str, values: &mut Values) -> Result<(), ConninfoError> {
    let query = query.strip_suffix('&').unwrap_or(query);
    for pair in query.split('&').take(if query.is_empty() { 0 } else { usize::MAX }) {
        let Some((name, value)) = pair.split_once('=') else {
            return error(format!("missing key/value separator \"=\" in URI query parameter: \"{pair}\""));
        };
        if value.contains('=') {
            return error(format!("extra key/value separator \"=\" in URI query parameter: \"{name}\""));
        }
        let name = decode(name)?;
        if !store(values, &name, decode(value)?) {
            return error(format!("invalid URI query parameter: \"{name}\""));
        }
    }
    Ok(())
}

/// Takes the percent-encoding off.
fn decode(text: &str) -> Result<String, ConninfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.first_chunk::<2>().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(&[high, low]) = digits else {
            return error(format!("invalid percent-encoded token: \"{text}\""));
        };
        match hex_value(high) << 4 | hex_value(low) {
            0 => return error(format!("forbidden value %00 in percent-encoded value: \"{text}\"")),
            byte => bytes.push(byte),
        }
        rest = &after[2..];
    }
    String::from_utf8(bytes).or_else(|_| error(format!("invalid percent-encoded token: \"{text}\"")))
}

/// The value of a hexadecimal digit.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}
