//! pg_hba.conf: who may connect from where, and how he proves who he is. PostgreSQL's own format.
//!
//! ```text
//! # TYPE   DATABASE  USER  ADDRESS          METHOD
//! local    all       all                    trust
//! host     all       all   10.0.0.0/8       scram-sha-256
//! host     replication  standby  samenet    scram-sha-256
//! ```
//!
//! The first rule that a connection matches decides, and when none does it is refused. A connection for physical replication
//! matches `replication` alone, not `all`. Pure: text in, rules out; the machine's own addresses, which `samehost` and
//! `samenet` mean, come from the caller when they are needed.
//!
//! There is no TLS, so a rule of type `hostssl` is read and never matches, and `hostnossl` is `host`. What this server can't
//! do (other methods, host names, `+group`, `@file`) is an error of the file, never a rule that is passed over.
//!
//! Follows PostgreSQL 15 src/backend/libpq/hba.c.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod lexer;

use lexer::{Token, lines};

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It doesn't get that far.
    Reject,
    /// By its password, which it doesn't send.
    ScramSha256,
}

impl Method {
    /// All, with their words in the file.
    pub const ALL: [(&'static str, Method); 3] =
        [("trust", Method::Trust), ("reject", Method::Reject), ("scram-sha-256", Method::ScramSha256)];

    /// The word in the file.
    pub fn word(self) -> &'static str {
        Method::ALL.iter().find(|(_, method)| *method == self).expect("all are in the table").0
    }

    /// The method that the word means.
    ///
    /// # Errors
    /// There is none, or not here.
    pub fn parse(word: &str) -> Result<Method, String> {
        let known = Method::ALL.iter().find(|(name, _)| *name == word).map(|(_, method)| *method);
        known.ok_or_else(|| match OTHER_METHODS.contains(&word) {
            true => format!("invalid authentication method \"{word}\": not supported by this build"),
            false => format!("invalid authentication method \"{word}\""),
        })
    }
}

/// PostgreSQL's others.
const OTHER_METHODS: [&str; 11] =
    ["ident", "peer", "password", "gss", "sspi", "md5", "pam", "bsd", "ldap", "cert", "radius"];

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// By the Unix socket.
    Local,
    /// By TCP.
    Host,
    /// By TCP with an encryption that is not there.
    Encrypted,
}

/// Which clients' addresses a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Every one.
    All,
    /// Those of this machine.
    SameHost,
    /// Those of the networks that this machine is in.
    SameNet,
    /// Those that have the same bits as the first where the second has ones.
    Range(IpAddr, IpAddr),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it begins, from 1 on.
    pub line: u32,
    /// Its text.
    pub text: String,
    /// As the file says: `host`, `hostnossl` …
    pub kind_word: &'static str,
    /// What that means here.
    pub kind: ConnectionKind,
    /// Databases, as they are written.
    pub databases: Vec<Name>,
    /// Users, as they are written.
    pub users: Vec<Name>,
    /// None for a rule of type `local`.
    pub addresses: Option<Addresses>,
    /// What is asked of those whom it is for.
    pub method: Method,
}

/// A name in a list. A quoted one has no special meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name, without quotes.
    pub text: String,
    quoted: bool,
}

impl Name {
    fn is_word(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Where it begins, from 1 on.
    pub line: u32,
    /// PostgreSQL's message.
    pub message: String,
    /// What may help.
    pub hint: Option<&'static str>,
}

impl LineError {
    /// As the log has it, of a file of that name.
    pub fn located(&self, file: impl fmt::Display) -> String {
        let hint = self.hint.map(|hint| format!("\nHINT:  {hint}")).unwrap_or_default();
        format!("{}{hint}\nCONTEXT:  line {} of configuration file \"{file}\"", self.message, self.line)
    }
}

/// Who wants in.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// Its address; none: it comes by the Unix socket.
    pub address: Option<IpAddr>,
    /// The database that it names; meaningless for physical replication.
    pub database: &'a str,
    /// It wants the log, not a database.
    pub physical_replication: bool,
    /// Who it says it is.
    pub user: &'a str,
}

/// An address of this machine and the mask of its network.
pub type Interface = (IpAddr, IpAddr);

/// The rules, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Reads a file: all of its rules, or all that is wrong with it.
    ///
    /// # Errors
    /// One for each line that is no rule; one for a file without any.
    pub fn parse(text: &str) -> Result<Rules, Vec<LineError>> {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for line in parse_lines(text) {
            match line {
                Ok(rule) => rules.push(rule),
                Err(error) => errors.push(error),
            }
        }
        if rules.is_empty() && errors.is_empty() {
            let message = "the file contains no entries".to_owned();
            errors.push(LineError { line: 1, message, hint: None });
        }
        if errors.is_empty() { Ok(Rules(rules)) } else { Err(errors) }
    }

    /// The rule that decides; none: nobody has provided for this one. `interfaces` are those of this machine.
    pub fn find(&self, who: &Applicant<'_>, interfaces: &dyn Fn() -> Vec<Interface>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.is_for(who, interfaces))
    }

    /// A rule that lets somebody in from another machine without any proof, if there is one.
    pub fn trusting_beyond_this_machine(&self) -> Option<&Rule> {
        self.0.iter().find(|rule| {
            rule.method == Method::Trust
                && rule.kind == ConnectionKind::Host
                && rule.addresses.is_some_and(Addresses::reach_beyond_this_machine)
        })
    }

    /// Rules that no connection can match, since there is no encryption.
    pub fn never_matching(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().filter(|rule| rule.kind == ConnectionKind::Encrypted)
    }
}

impl Rule {
    fn is_for(&self, who: &Applicant<'_>, interfaces: &dyn Fn() -> Vec<Interface>) -> bool {
        let comes_so = match (self.kind, self.addresses, who.address) {
            (ConnectionKind::Local, _, address) => address.is_none(),
            (ConnectionKind::Host, Some(addresses), Some(address)) => addresses.contain(address, interfaces),
            _ => false,
        };
        let database = |name: &Name| match who.physical_replication {
            true => name.is_word("replication"),
            false if name.is_word("all") => true,
            false if name.is_word("sameuser") => who.database == who.user,
            false if name.is_word("replication") => false,
            false => name.text == who.database,
        };
        let user = |name: &Name| name.is_word("all") || name.text == who.user;
        comes_so && self.databases.iter().any(database) && self.users.iter().any(user)
    }
}

impl Addresses {
    fn contain(self, address: IpAddr, interfaces: &dyn Fn() -> Vec<Interface>) -> bool {
        // A socket for both families shows an IPv4 client's address inside of an IPv6 one.
        let address = address.to_canonical();
        match self {
            Addresses::All => true,
            Addresses::SameHost => interfaces().iter().any(|(own, _)| *own == address),
            Addresses::SameNet => {
                interfaces().iter().any(|(own, mask)| same_network(*own, *mask, address) == Some(true))
            }
            Addresses::Range(base, mask) => same_network(base, mask, address) == Some(true),
        }
    }

    fn reach_beyond_this_machine(self) -> bool {
        match self {
            Addresses::All | Addresses::SameNet => true,
            Addresses::SameHost => false,
            Addresses::Range(IpAddr::V4(base), IpAddr::V4(mask)) => {
                base.octets()[0] != 127 || mask.octets()[0] != 255
            }
            Addresses::Range(base, mask) => {
                base != Ipv6Addr::LOCALHOST || mask != IpAddr::V6(Ipv6Addr::from(u128::MAX))
            }
        }
    }
}

/// Whether two addresses have the same bits where the mask has ones; none if they are of different families.
fn same_network(one: IpAddr, mask: IpAddr, other: IpAddr) -> Option<bool> {
    match (one, mask, other) {
        (IpAddr::V4(one), IpAddr::V4(mask), IpAddr::V4(other)) => {
            Some((u32::from(one) ^ u32::from(other)) & u32::from(mask) == 0)
        }
        (IpAddr::V6(one), IpAddr::V6(mask), IpAddr::V6(other)) => {
            Some((u128::from(one) ^ u128::from(other)) & u128::from(mask) == 0)
        }
        _ => None,
    }
}

/// Every line of a file that is not empty or a comment: its rule, or what is wrong with it.
pub fn parse_lines(text: &str) -> Vec<Result<Rule, LineError>> {
    let parse = |(number, text): (u32, String)| {
        let error = |(message, hint)| LineError { line: number, message, hint };
        match lexer::fields(&text) {
            Ok(fields) if fields.is_empty() => None,
            Ok(fields) => Some(parse_rule(number, &text, fields).map_err(error)),
            Err(message) => Some(Err(error((message, None)))),
        }
    };
    lines(text).filter_map(parse).collect()
}

type Wrong = (String, Option<&'static str>);

fn wrong(message: impl Into<String>) -> Wrong {
    (message.into(), None)
}

const KINDS: [(&str, ConnectionKind); 6] = [
    ("local", ConnectionKind::Local),
    ("host", ConnectionKind::Host),
    ("hostnossl", ConnectionKind::Host),
    ("hostnogssenc", ConnectionKind::Host),
    ("hostssl", ConnectionKind::Encrypted),
    ("hostgssenc", ConnectionKind::Encrypted),
];

fn parse_rule(line: u32, text: &str, fields: Vec<Vec<Token>>) -> Result<Rule, Wrong> {
    let mut fields = fields.into_iter();
    let word = single(fields.next().unwrap_or_default(), "connection type")?;
    let (kind_word, kind) = KINDS
        .into_iter()
        .find(|(name, _)| *name == word)
        .ok_or_else(|| wrong(format!("invalid connection type \"{word}\"")))?;
    let databases =
        names(fields.next().ok_or_else(|| wrong("end-of-line before database specification"))?, "database")?;
    let users = names(fields.next().ok_or_else(|| wrong("end-of-line before role specification"))?, "role")?;
    let addresses = match kind {
        ConnectionKind::Local => None,
        _ => Some(parse_addresses(&mut fields)?),
    };
    let method = fields.next().ok_or_else(|| wrong("end-of-line before authentication method"))?;
    let method = Method::parse(&single(method, "authentication type")?).map_err(wrong)?;
    if let Some(option) = fields.next() {
        let option = single(option, "authentication option")?;
        return Err(wrong(match option.split_once('=') {
            Some((name, _)) => format!("unrecognized authentication option name: \"{name}\""),
            None => format!("authentication option not in name=value format: {option}"),
        }));
    }
    let text = text.trim().to_owned();
    Ok(Rule { line, text, kind_word, kind, databases, users, addresses, method })
}

fn single(mut tokens: Vec<Token>, what: &str) -> Result<String, Wrong> {
    match tokens.pop() {
        Some(token) if tokens.is_empty() => Ok(token.text),
        _ => Err((
            format!("multiple values specified for {what}"),
            Some("Specify exactly one value per line."),
        )),
    }
}

fn names(tokens: Vec<Token>, what: &str) -> Result<Vec<Name>, Wrong> {
    let name = |token: Token| match token.text.chars().next() {
        Some('@' | '+') if !token.quoted => {
            Err(wrong(format!("invalid {what} \"{}\": groups and files are not supported", token.text)))
        }
        Some('/') if !token.quoted => {
            Err(wrong(format!("invalid {what} \"{}\": regular expressions are not supported", token.text)))
        }
        _ if !token.quoted && matches!(token.text.as_str(), "samerole" | "samegroup") => {
            Err(wrong(format!("invalid {what} \"{}\": groups are not supported", token.text)))
        }
        _ => Ok(Name { text: token.text, quoted: token.quoted }),
    };
    tokens.into_iter().map(name).collect()
}

fn parse_addresses(fields: &mut impl Iterator<Item = Vec<Token>>) -> Result<Addresses, Wrong> {
    let field = fields.next().ok_or_else(|| wrong("end-of-line before IP address specification"))?;
    let quoted = field.first().is_some_and(|token| token.quoted);
    let text = single(field, "host address")?;
    match text.as_str() {
        "all" if !quoted => return Ok(Addresses::All),
        "samehost" if !quoted => return Ok(Addresses::SameHost),
        "samenet" if !quoted => return Ok(Addresses::SameNet),
        _ => {}
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text.as_str(), None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err((
            format!("invalid IP address \"{address}\": host names are not supported"),
            Some("Specify an address range in CIDR notation."),
        ));
    };
    if let Some(length) = length {
        let mask = length.parse().ok().and_then(|length| mask_of(address, length));
        let mask = mask.ok_or_else(|| wrong(format!("invalid CIDR mask in address \"{text}\"")))?;
        return Ok(Addresses::Range(address, mask));
    }
    let mask = fields.next().ok_or_else(|| {
        let hint = "Specify an address range in CIDR notation, or provide a separate netmask.";
        ("end-of-line before netmask specification".to_owned(), Some(hint))
    })?;
    let mask = single(mask, "netmask")?;
    let mask: IpAddr = mask.parse().map_err(|_| wrong(format!("invalid IP mask \"{mask}\"")))?;
    if mask.is_ipv4() != address.is_ipv4() {
        return Err(wrong("IP address and mask do not match"));
    }
    Ok(Addresses::Range(address, mask))
}

/// The mask with so many ones in front.
fn mask_of(address: IpAddr, length: u32) -> Option<IpAddr> {
    match address {
        IpAddr::V4(_) if length <= 32 => {
            let bits = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Some(IpAddr::V4(Ipv4Addr::from(bits)))
        }
        IpAddr::V6(_) if length <= 128 => {
            let bits = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

/// The file of a new node: this machine's clients by that method, and nobody else.
pub fn default_text(method: Method) -> String {
    let method = method.word();
    let mut text = "\
# Who may connect, from where, and how he proves who he is: the first line that fits decides, and when none
# fits the connection is refused. PostgreSQL's format; `reload` has it read again. Methods: trust (no proof),
# scram-sha-256 (the role's password), reject. Databases: all, replication (a standby, pg_receivewal), names.
# Addresses: CIDR ranges, samehost, samenet, all. Listening beyond loopback (listen_addresses) needs every line
# that is for other machines to ask for a password.
#
# TYPE  DATABASE        USER            ADDRESS                 METHOD
"
    .to_owned();
    for database in ["all", "replication"] {
        for (kind, address) in [("local", ""), ("host", "127.0.0.1/32"), ("host", "::1/128")] {
            text.push_str(&format!("{kind:<7} {database:<15} all             {address:<23} {method}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
