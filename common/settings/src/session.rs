//! What one session sees of the settings: the node's values, the startup packet's over them, SET over those, and
//! SET LOCAL over those until the transaction ends.
//!
//! Use: [`SessionSettings::new`] at the start of a session, then `set`, `reset`, `show` for the statements of that
//! name, [`SessionSettings::end_transaction`] at the end of every transaction (also of a lone statement),
//! [`SessionSettings::reload`] when the node's settings changed. After each of them, send
//! [`SessionSettings::take_reports`] as ParameterStatus. Code that needs a value reads a typed field of
//! [`SessionSettings::current`].
//!
//! A SET inside a transaction that rolls back is undone, as in PostgreSQL.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::table::{Context, SettingNumber, Settings, Source};
use crate::value::Value;

/// How long a SET lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// SET, SET SESSION: until the session ends.
    Session,
    /// SET LOCAL: until the transaction ends.
    Transaction,
}

/// Settings whose value the client is told at start and at every change, in PostgreSQL's order.
pub const REPORTED: [&str; 13] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// The settings of one session.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The values in force now.
    current: Settings,
    /// What RESET goes back to: the node's values with the startup packet's over them.
    base: Settings,
    /// What the startup packet set; it stays over the node's values at a reload.
    client: BTreeMap<SettingNumber, Value>,
    set: BTreeMap<SettingNumber, Value>,
    local: BTreeMap<SettingNumber, Value>,
    /// `set` as it was before the first SET of the transaction.
    saved: Option<BTreeMap<SettingNumber, Value>>,
    /// The values that the client knows, by position in [`REPORTED`].
    told: [Option<String>; REPORTED.len()],
    /// `current` has changed since those were compared with it.
    changed: bool,
}

impl SessionSettings {
    /// A session over the node's settings, with what its startup packet asks for (names and values, those of its
    /// `options` first). Errors as [`SessionSettings::set`].
    pub fn new(node: &Settings, startup: &[(String, String)]) -> Result<SessionSettings, Error> {
        let mut session = SessionSettings {
            current: node.clone(),
            base: node.clone(),
            client: BTreeMap::new(),
            set: BTreeMap::new(),
            local: BTreeMap::new(),
            saved: None,
            told: Default::default(),
            changed: true,
        };
        for (name, value) in startup {
            let (number, value) = accept(name, value)?;
            session.client.insert(number, value);
        }
        session.rebase(node);
        Ok(session)
    }

    /// The values in force.
    pub fn current(&self) -> &Settings {
        &self.current
    }

    /// SET name TO value. Errors 42704, 22023, 55P02.
    pub fn set(&mut self, name: &str, value: &str, scope: Scope) -> Result<(), Error> {
        let (number, value) = accept(name, value)?;
        self.change(number, Some(value), scope);
        Ok(())
    }

    /// RESET name, SET name TO DEFAULT. Errors 42704, 55P02.
    pub fn reset(&mut self, name: &str, scope: Scope) -> Result<(), Error> {
        let number = SettingNumber::find(name)?;
        refuse_unless_user(number)?;
        match scope {
            Scope::Session => self.change(number, None, scope),
            Scope::Transaction => self.change(number, Some(self.base.value(number)), scope),
        }
        Ok(())
    }

    /// RESET ALL, and that part of DISCARD ALL.
    pub fn reset_all(&mut self) {
        for number in SettingNumber::all().filter(|number| number.row().context == Context::User) {
            self.change(number, None, Scope::Session);
        }
    }

    /// What RESET would set it to.
    pub fn reset_value(&self, number: SettingNumber) -> Value {
        self.base.value(number)
    }

    /// SHOW name: the value as PostgreSQL prints it. Error 42704.
    pub fn show(&self, name: &str) -> Result<String, Error> {
        self.current.show(name)
    }

    /// Ends the transaction: SET LOCAL is over, and after a rollback so is what SET did within it.
    pub fn end_transaction(&mut self, committed: bool) {
        if self.local.is_empty() && self.saved.is_none() {
            return;
        }
        self.local.clear();
        if let Some(saved) = self.saved.take()
            && !committed
        {
            self.set = saved;
        }
        self.overlay();
    }

    /// Takes over the node's settings after a reload, or after an internal one changed (`in_hot_standby`).
    pub fn reload(&mut self, node: &Settings) {
        self.rebase(node);
    }

    /// The (name, value) pairs of [`REPORTED`] that the client does not know yet. Costs nothing when nothing has changed: it is
    /// asked after each statement.
    pub fn take_reports(&mut self) -> Vec<(&'static str, String)> {
        let mut reports = Vec::new();
        if !std::mem::take(&mut self.changed) {
            return reports;
        }
        for (name, told) in REPORTED.iter().zip(&mut self.told) {
            let value = self.current.show(name).expect("every reported setting has a row");
            if told.as_ref() != Some(&value) {
                *told = Some(value.clone());
                reports.push((*name, value));
            }
        }
        reports
    }

    fn change(&mut self, number: SettingNumber, value: Option<Value>, scope: Scope) {
        if self.saved.is_none() {
            self.saved = Some(self.set.clone());
        }
        self.local.remove(&number);
        match (value, scope) {
            (Some(value), Scope::Session) => self.set.insert(number, value),
            (Some(value), Scope::Transaction) => self.local.insert(number, value),
            (None, _) => self.set.remove(&number),
        };
        self.overlay();
    }

    fn rebase(&mut self, node: &Settings) {
        self.base = node.clone();
        for (number, value) in &self.client {
            self.base.put(*number, value, Source::Client);
        }
        self.overlay();
    }

    fn overlay(&mut self) {
        self.changed = true;
        self.current = self.base.clone();
        for (number, value) in self.set.iter().chain(&self.local) {
            self.current.put(*number, value, Source::Session);
        }
    }
}

fn accept(name: &str, value: &str) -> Result<(SettingNumber, Value), Error> {
    let number = SettingNumber::find(name)?;
    refuse_unless_user(number)?;
    Ok((number, number.row().kind.parse(number.row().name, value)?))
}

fn refuse_unless_user(number: SettingNumber) -> Result<(), Error> {
    let row = number.row();
    let why = match row.context {
        Context::User => return Ok(()),
        Context::Internal => "cannot be changed",
        Context::Postmaster => "cannot be changed without restarting the server",
        Context::Sighup => "cannot be changed now",
    };
    Err(Error::plain("55P02", format!("parameter \"{}\" {why}", row.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn session() -> SessionSettings {
        let startup = [("application_name".to_owned(), "psql".to_owned())];
        SessionSettings::new(&Settings::default(), &startup).unwrap()
    }

    #[test]
    fn set_lasts_for_the_session_and_set_local_for_the_transaction() {
        let mut session = session();
        session.set("statement_timeout", "5s", Scope::Session).unwrap();
        session.end_transaction(true);
        session.set("statement_timeout", "100", Scope::Transaction).unwrap();
        assert_eq!(session.show("statement_timeout").unwrap(), "100ms");
        session.end_transaction(true);
        assert_eq!(session.current().statement_timeout, Some(Duration::from_secs(5)));
        session.reset("statement_timeout", Scope::Session).unwrap();
        assert_eq!(session.show("statement_timeout").unwrap(), "0");
    }

    #[test]
    fn a_rollback_undoes_set() {
        let mut session = session();
        session.set("extra_float_digits", "3", Scope::Session).unwrap();
        session.set("extra_float_digits", "2", Scope::Transaction).unwrap();
        session.end_transaction(false);
        assert_eq!(session.show("extra_float_digits").unwrap(), "1");
    }

    #[test]
    fn reset_goes_back_to_what_the_client_asked_for_at_start() {
        let mut session = session();
        session.set("application_name", "other", Scope::Session).unwrap();
        session.reset_all();
        assert_eq!(session.show("application_name").unwrap(), "psql");
    }

    #[test]
    fn changes_of_reported_settings_are_told_once() {
        let mut session = session();
        let names: Vec<&str> = session.take_reports().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, REPORTED);
        assert_eq!(session.take_reports(), []);
        session.set("application_name", "other", Scope::Session).unwrap();
        assert_eq!(session.take_reports(), [("application_name", "other".to_owned())]);
        let mut standby = Settings::default();
        standby.in_hot_standby = true;
        session.reload(&standby);
        assert_eq!(session.take_reports(), [("in_hot_standby", "on".to_owned())]);
        assert_eq!(session.show("application_name").unwrap(), "other");
    }

    #[test]
    fn what_a_session_cannot_change_is_refused() {
        let mut session = session();
        for (name, message) in [
            ("port", "parameter \"port\" cannot be changed without restarting the server"),
            ("primary_conninfo", "parameter \"primary_conninfo\" cannot be changed now"),
            ("server_version", "parameter \"server_version\" cannot be changed"),
        ] {
            let error = session.set(name, "1", Scope::Session).unwrap_err();
            assert_eq!((error.message.as_str(), error.sqlstate), (message, "55P02"));
        }
        let error = session.set("transaction_isolation", "serializable", Scope::Session).unwrap_err();
        assert_eq!(error.sqlstate, "22023");
        assert_eq!(error.hint.unwrap(), "Available values: read committed.");
    }
}
