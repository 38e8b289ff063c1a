//! CREATE, ALTER and DROP ROLE (USER, GROUP), GRANT and REVOKE of the roles that PostgreSQL has made beforehand.
//!
//! A password stands in these statements as the client wrote it. It is taken out here, once: the session replaces it by
//! its verifier ([`RoleCommand::replace_password`]) before anybody else gets to see the statement, and what may be shown or
//! logged of a query is what [`redact`] leaves of it. No error of this module repeats a string.
//!
//! Roles have no members but for two predefined ones: `pg_read_all_data` may read every table, `pg_write_all_data` write
//! every row. Attributes that there is nothing for (CREATEDB, VALID UNTIL …) are refused, their contraries are true and
//! taken, so that createuser works.
//!
//! Follows PostgreSQL 15 src/backend/parser/gram.y (CreateRoleStmt, AlterRoleStmt, GrantRoleStmt), commands/user.c.

use std::borrow::Cow;
use std::fmt;

use super::Kind;
use super::classify::Words;
use super::lexer::{Token, TokenKind, lex};
use super::rewrite::string_content;
use crate::error::{SqlError, SqlState};
use crate::rows::CommandTag;
use crate::schema::quoted;

/// A statement about roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleCommand {
    /// CREATE ROLE; CREATE USER has LOGIN.
    Create(String, RoleOptions),
    /// ALTER ROLE
    Alter(RoleName, RoleOptions),
    /// DROP ROLE
    Drop {
        /// Whom
        names: Vec<RoleName>,
        /// IF EXISTS
        if_exists: bool,
    },
    /// GRANT predefined roles TO roles; REVOKE … FROM
    Grant {
        /// Which, and whether they are given or taken
        rights: RoleOptions,
        /// Whom
        names: Vec<RoleName>,
        /// GRANT, not REVOKE
        given: bool,
    },
}

/// A role, as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// By name
    Named(String),
    /// CURRENT_USER and its synonyms
    Current,
}

/// What a statement says of a role's attributes; none: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleOptions {
    /// SUPERUSER
    pub superuser: Option<bool>,
    /// REPLICATION
    pub replication: Option<bool>,
    /// LOGIN
    pub login: Option<bool>,
    /// Member of pg_read_all_data
    pub read: Option<bool>,
    /// Member of pg_write_all_data
    pub write: Option<bool>,
    /// PASSWORD
    pub password: Option<NewPassword>,
}

/// What a role's password is to be.
#[derive(Clone, PartialEq, Eq)]
pub enum NewPassword {
    /// PASSWORD NULL
    None,
    /// A password or, if it has the form of one, a verifier
    Given(String),
}

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl RoleCommand {
    /// The tag of its completion.
    pub fn tag(&self) -> CommandTag {
        CommandTag::Plain(match self {
            RoleCommand::Create(..) => "CREATE ROLE",
            RoleCommand::Alter(..) => "ALTER ROLE",
            RoleCommand::Drop { .. } => "DROP ROLE",
            RoleCommand::Grant { given: true, .. } => "GRANT ROLE",
            RoleCommand::Grant { given: false, .. } => "REVOKE ROLE",
        })
    }

    /// Puts what `verifier` makes of a password in the place of it.
    pub fn replace_password(&mut self, verifier: impl FnOnce(&str) -> NewPassword) {
        if let RoleCommand::Create(_, options) | RoleCommand::Alter(_, options) = self
            && let Some(NewPassword::Given(password)) = &options.password
        {
            options.password = Some(verifier(password));
        }
    }
}

/// The statement again, for who executes it.
impl fmt::Display for RoleCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleCommand::Create(name, options) => write!(f, "CREATE ROLE {}{options}", quoted(name)),
            RoleCommand::Alter(name, options) => write!(f, "ALTER ROLE {name}{options}"),
            RoleCommand::Drop { names, if_exists } => {
                write!(f, "DROP ROLE {}{}", if *if_exists { "IF EXISTS " } else { "" }, list(names))
            }
            RoleCommand::Grant { rights, names, given } => {
                let (verb, to) = if *given { ("GRANT", "TO") } else { ("REVOKE", "FROM") };
                write!(f, "{verb} {} {to} {}", rights.predefined().join(", "), list(names))
            }
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleName::Named(name) => f.write_str(&quoted(name)),
            RoleName::Current => f.write_str("CURRENT_USER"),
        }
    }
}

fn list(names: &[RoleName]) -> String {
    names.iter().map(RoleName::to_string).collect::<Vec<_>>().join(", ")
}

impl RoleOptions {
    /// Names of the predefined roles in it.
    fn predefined(&self) -> Vec<&'static str> {
        [(self.read, READ), (self.write, WRITE)]
            .into_iter()
            .filter_map(|(named, name)| named.map(|_| name))
            .collect()
    }
}

impl fmt::Display for RoleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (value, word) in
            [(self.superuser, "SUPERUSER"), (self.replication, "REPLICATION"), (self.login, "LOGIN")]
        {
            if let Some(on) = value {
                write!(f, " {}{word}", if on { "" } else { "NO" })?;
            }
        }
        match &self.password {
            None => {}
            Some(NewPassword::None) => f.write_str(" PASSWORD NULL")?,
            Some(NewPassword::Given(text)) => write!(f, " PASSWORD '{}'", text.replace('\'', "''"))?,
        }
        match self.predefined() {
            none if none.is_empty() => Ok(()),
            roles => write!(f, " IN ROLE {}", roles.join(", ")),
        }
    }
}

const READ: &str = "pg_read_all_data";
const WRITE: &str = "pg_write_all_data";

/// Behind CREATE ROLE, CREATE USER, CREATE GROUP.
pub(super) fn create(words: &mut Words<'_>, login: bool) -> Result<Kind, SqlError> {
    let name = new_name(words)?;
    let mut options = options(words, true)?;
    options.login.get_or_insert(login);
    Ok(Kind::Role(RoleCommand::Create(name, options)))
}

/// Behind ALTER ROLE, ALTER USER.
pub(super) fn alter(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let name = name(words)?;
    for (word, hint) in [
        ("RENAME", "Create another role, and drop this one."),
        ("SET", "Give the setting in the connection string's options."),
        ("RESET", "No role has settings of its own."),
        ("IN", "No role has settings of its own."),
    ] {
        if words.peek_is(word) {
            return Err(SqlError::unsupported(&format!("ALTER ROLE … {word}"), hint));
        }
    }
    Ok(Kind::Role(RoleCommand::Alter(name, options(words, false)?)))
}

/// Behind DROP ROLE, DROP USER, DROP GROUP.
pub(super) fn drop(words: &mut Words<'_>) -> Result<Kind, SqlError> {
    let if_exists = words.skip("IF");
    if if_exists {
        words.expect("EXISTS")?;
    }
    let names = names(words)?;
    words.end()?;
    Ok(Kind::Role(RoleCommand::Drop { names, if_exists }))
}

/// Behind GRANT (`given`) or REVOKE.
pub(super) fn grant(words: &mut Words<'_>, given: bool) -> Result<Kind, SqlError> {
    let mut rights = RoleOptions::default();
    predefined(words, &mut rights, given)?;
    if words.peek_is("ON") {
        return Err(SqlError::unsupported(
            "a right on one object",
            "Grant pg_read_all_data or pg_write_all_data, which are for all tables.",
        ));
    }
    words.expect(if given { "TO" } else { "FROM" })?;
    let names = names(words)?;
    words.end()?;
    Ok(Kind::Role(RoleCommand::Grant { rights, names, given }))
}

/// A list of predefined roles.
fn predefined(words: &mut Words<'_>, rights: &mut RoleOptions, given: bool) -> Result<(), SqlError> {
    loop {
        let name = words.name()?;
        match name.as_str() {
            READ => rights.read = Some(given),
            WRITE => rights.write = Some(given),
            // SELECT ON …: the right of a table, as a word.
            _ if words.peek_is("ON")
                || words.token().is_some_and(|token| token.is_sign(words.source, "(")) => {}
            _ => {
                return Err(SqlError::unsupported(
                    &format!("membership in role \"{name}\""),
                    "A role can be a member of pg_read_all_data and of pg_write_all_data.",
                ));
            }
        }
        if !words.skip_sign(",") {
            return Ok(());
        }
    }
}

fn new_name(words: &mut Words<'_>) -> Result<String, SqlError> {
    let reserved = |message: String| SqlError::new(SqlState::RESERVED_NAME, message);
    match name(words)? {
        RoleName::Current => Err(reserved("CURRENT_USER cannot be used as a role name here".to_owned())),
        RoleName::Named(name) if name.starts_with("pg_") => {
            Err(reserved(format!("role name \"{name}\" is reserved"))
                .with_detail("Role names starting with \"pg_\" are reserved."))
        }
        RoleName::Named(name) if matches!(name.as_str(), "public" | "none") => {
            Err(reserved(format!("role name \"{name}\" is reserved")))
        }
        RoleName::Named(name) => Ok(name),
    }
}

fn name(words: &mut Words<'_>) -> Result<RoleName, SqlError> {
    let current = ["CURRENT_USER", "SESSION_USER", "CURRENT_ROLE"].iter().any(|word| words.skip(word));
    if current {
        return Ok(RoleName::Current);
    }
    if words.token().is_some_and(is_string) {
        return Err(unexpected_string(words));
    }
    let name = words.name()?;
    // As any identifier.
    Ok(RoleName::Named(name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()))
}

const NAME_BYTES_MAX: usize = 63;

fn names(words: &mut Words<'_>) -> Result<Vec<RoleName>, SqlError> {
    let mut names = vec![name(words)?];
    while words.skip_sign(",") {
        names.push(name(words)?);
    }
    Ok(names)
}

fn options(words: &mut Words<'_>, creates: bool) -> Result<RoleOptions, SqlError> {
    words.skip("WITH");
    let mut options = RoleOptions::default();
    while let Some(token) = words.token() {
        if is_string(token) {
            return Err(unexpected_string(words));
        }
        let word = words.upper();
        match word.as_str() {
            "SUPERUSER" | "NOSUPERUSER" => set(&mut options.superuser, word == "SUPERUSER")?,
            "REPLICATION" | "NOREPLICATION" => set(&mut options.replication, word == "REPLICATION")?,
            "LOGIN" | "NOLOGIN" => set(&mut options.login, word == "LOGIN")?,
            "ENCRYPTED" => {
                words.expect("PASSWORD")?;
                set(&mut options.password, password(words)?)?;
            }
            "PASSWORD" => set(&mut options.password, password(words)?)?,
            "UNENCRYPTED" => {
                return Err(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "UNENCRYPTED PASSWORD is no longer supported",
                )
                .with_hint("Remove UNENCRYPTED to store the password in encrypted form instead."));
            }
            // True of every role.
            "INHERIT" | "NOCREATEDB" | "NOCREATEROLE" | "NOBYPASSRLS" => {}
            "IN" if creates => {
                if !words.skip("ROLE") {
                    words.expect("GROUP")?;
                }
                predefined(words, &mut options, true)?;
            }
            "CREATEDB" | "CREATEROLE" | "NOINHERIT" | "BYPASSRLS" | "CONNECTION" | "VALID" | "ADMIN"
            | "ROLE" | "USER" | "SYSID" => {
                let hint = "Roles have SUPERUSER, REPLICATION, LOGIN, PASSWORD and IN ROLE.";
                return Err(SqlError::unsupported(&format!("role option {word}"), hint));
            }
            "" => {
                words.at -= 1;
                return Err(words.unexpected());
            }
            other => {
                let says = format!("unrecognized role option \"{}\"", other.to_ascii_lowercase());
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, says).at(token.start));
            }
        }
    }
    Ok(options)
}

fn set<T>(option: &mut Option<T>, value: T) -> Result<(), SqlError> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(SqlError::new(SqlState::SYNTAX_ERROR, "conflicting or redundant options")),
    }
}

fn password(words: &mut Words<'_>) -> Result<NewPassword, SqlError> {
    if words.skip("NULL") {
        return Ok(NewPassword::None);
    }
    match words.token() {
        Some(token) if is_string(token) => {
            words.at += 1;
            string_content(words.source, token).map(NewPassword::Given)
        }
        // A password without quotes, as a rule.
        Some(_) => Err(unexpected_string(words)),
        None => Err(words.unexpected()),
    }
}

fn is_string(token: Token) -> bool {
    matches!(token.kind, TokenKind::Text | TokenKind::EscapeText | TokenKind::DollarText | TokenKind::Blob)
}

/// 42601, without what the string says.
fn unexpected_string(words: &Words<'_>) -> SqlError {
    SqlError::syntax(HIDDEN).at(words.token().map_or(0, |token| token.start))
}

/// What is shown in the place of a string.
const HIDDEN: &str = "'********'";

/// What may be shown and logged of a query: its strings are hidden where it is about roles. A query that can't be cut into
/// tokens is cut at its first string, if it may be about them.
pub fn redact(query: &str) -> Cow<'_, str> {
    if !["role", "user", "group"].iter().any(|word| contains_word(query, word)) {
        return Cow::Borrowed(query);
    }
    let Ok(tokens) = lex(query) else {
        let first = query.find(['\'', '"', '$']).unwrap_or(query.len());
        let word = query.to_ascii_lowercase().find("password").map_or(first, |at| at + "password".len());
        return Cow::Owned(format!("{}…", &query[..first.min(word)]));
    };
    let (mut shown, mut copied) = (String::new(), 0);
    for statement in super::split::statements(query, &tokens) {
        if !is_about_roles(query, statement) {
            continue;
        }
        // Strings, and what stands where one should, without its quotes.
        let hidden = |at: usize| {
            is_string(statement[at])
                || at.checked_sub(1).is_some_and(|before| statement[before].is_word(query, "password"))
        };
        for token in (0..statement.len()).filter(|at| hidden(*at)).map(|at| statement[at]) {
            shown.push_str(&query[copied..token.start]);
            shown.push_str(HIDDEN);
            copied = token.end;
        }
    }
    match copied {
        0 => Cow::Borrowed(query),
        _ => Cow::Owned(shown + &query[copied..]),
    }
}

/// By its first two words, whatever comes after; a statement that is misspelt there has no password that anybody takes.
fn is_about_roles(query: &str, statement: &[Token]) -> bool {
    let is = |at: usize, words: &[&str]| {
        statement.get(at).is_some_and(|token| words.iter().any(|word| token.is_word(query, word)))
    };
    is(1, &["ROLE", "USER", "GROUP"]) && !is(0, &["SELECT", "VALUES", "INSERT", "UPDATE", "DELETE", "WITH"])
}

fn contains_word(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn command(query: &str) -> Result<RoleCommand, String> {
        let statements = parse(query).map_err(|error| format!("{} {}", error.sqlstate, error.message))?;
        match &statements[0].kind {
            Kind::Role(command) => Ok(command.clone()),
            other => panic!("{query}: {other:?}"),
        }
    }

    /// As the writer gets it.
    fn again(query: &str) -> String {
        let text = command(query).unwrap_or_else(|error| panic!("{query}: {error}")).to_string();
        assert_eq!(command(&text), command(query), "{text}");
        text
    }

    #[test]
    fn statements_say_what_they_say_in_another_form() {
        for (query, expected) in [
            ("create role Bob", "CREATE ROLE \"bob\" NOLOGIN"),
            ("CREATE USER \"Bob\"", "CREATE ROLE \"Bob\" LOGIN"),
            (
                "CREATE ROLE bob WITH NOLOGIN SUPERUSER REPLICATION ENCRYPTED PASSWORD E'it''s'",
                "CREATE ROLE \"bob\" SUPERUSER REPLICATION NOLOGIN PASSWORD 'it''s'",
            ),
            (
                "CREATE USER b IN ROLE pg_read_all_data, pg_write_all_data PASSWORD NULL",
                "CREATE ROLE \"b\" LOGIN PASSWORD NULL IN ROLE pg_read_all_data, pg_write_all_data",
            ),
            // What createuser sends.
            (
                "CREATE ROLE bob NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT LOGIN;",
                "CREATE ROLE \"bob\" NOSUPERUSER LOGIN",
            ),
            ("ALTER USER bob PASSWORD $$a'b$$", "ALTER ROLE \"bob\" PASSWORD 'a''b'"),
            ("ALTER ROLE CURRENT_USER NOREPLICATION", "ALTER ROLE CURRENT_USER NOREPLICATION"),
            ("DROP USER IF EXISTS a, \"B\"", "DROP ROLE IF EXISTS \"a\", \"B\""),
            ("GRANT pg_read_all_data TO a, b", "GRANT pg_read_all_data TO \"a\", \"b\""),
            ("REVOKE pg_write_all_data FROM a", "REVOKE pg_write_all_data FROM \"a\""),
        ] {
            assert_eq!(again(query), expected, "{query}");
        }
    }

    #[test]
    fn errors_are_postgresqls_and_hide_strings() {
        for (query, expected) in [
            ("CREATE ROLE", "42601 syntax error at end of input"),
            ("CREATE ROLE b 'geheim'", "42601 syntax error at or near \"'********'\""),
            ("CREATE ROLE 'geheim'", "42601 syntax error at or near \"'********'\""),
            ("CREATE ROLE b PASWORD 'geheim'", "42601 unrecognized role option \"pasword\""),
            ("CREATE ROLE b PASSWORD", "42601 syntax error at end of input"),
            ("CREATE ROLE b PASSWORD geheim", "42601 syntax error at or near \"'********'\""),
            ("CREATE ROLE b LOGIN NOLOGIN", "42601 conflicting or redundant options"),
            ("CREATE ROLE b PASSWORD 'x' PASSWORD 'y'", "42601 conflicting or redundant options"),
            ("CREATE ROLE pg_bob", "42939 role name \"pg_bob\" is reserved"),
            ("CREATE ROLE public", "42939 role name \"public\" is reserved"),
            ("CREATE ROLE b UNENCRYPTED PASSWORD 'x'", "0A000 UNENCRYPTED PASSWORD is no longer supported"),
        ] {
            assert_eq!(command(query), Err(expected.to_owned()), "{query}");
        }
        for query in [
            "CREATE ROLE b CREATEDB",
            "CREATE ROLE b VALID UNTIL 'tomorrow'",
            "CREATE ROLE b CONNECTION LIMIT 3",
            "ALTER ROLE b RENAME TO c",
            "ALTER ROLE b SET search_path = 'x'",
            "GRANT SELECT ON t TO b",
            "GRANT other TO b",
        ] {
            let error = command(query).unwrap_err();
            assert!(error.starts_with("0A000"), "{query}: {error}");
        }
    }

    #[test]
    fn passwords_are_hidden_wherever_a_query_is_shown() {
        for (query, shown) in [
            ("SELECT 'geheim'", "SELECT 'geheim'"),
            ("SELECT user, 'x'", "SELECT user, 'x'"),
            ("CREATE ROLE b PASSWORD 'geheim'", "CREATE ROLE b PASSWORD '********'"),
            ("create user b password e'ge\\'heim' login", "create user b password '********' login"),
            (
                "SELECT 'x'; alter role b PASSWORD $p$geheim$p$; SELECT 'y'",
                "SELECT 'x'; alter role b PASSWORD '********'; SELECT 'y'",
            ),
            ("/* x */ CREATE\n USER b PASWORD 'geheim'", "/* x */ CREATE\n USER b PASWORD '********'"),
            ("CREAT ROLE b PASSWORD 'geheim'", "CREAT ROLE b PASSWORD '********'"),
            ("CREATE ROLE b PASSWORD geheim LOGIN", "CREATE ROLE b PASSWORD '********' LOGIN"),
            ("CREATE ROLE b PASSWORD 'geheim", "CREATE ROLE b PASSWORD…"),
            ("CREATE ROLE b PASSWORD geheim '", "CREATE ROLE b PASSWORD…"),
            ("CREATE ROLE b PASSWORD $a$geheim", "CREATE ROLE b PASSWORD…"),
        ] {
            assert_eq!(redact(query), shown);
        }
        let command = command("CREATE ROLE b PASSWORD 'geheim'").unwrap();
        assert!(!format!("{command:?}").contains("geheim"));
    }
}
