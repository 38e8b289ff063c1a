//! `target_session_attrs`: which of several servers is good enough.
//!
//! The problem: after a failover the same list of hosts leads somewhere else. A client that is to write, or a standby that
//! looks for its upstream, has to know of the server that answered what it is.
//!
//! How to use it: for each of [`TargetSessionAttrs::passes`] go through the hosts; ask [`TargetSessionAttrs::judge`] about
//! each session, with what the server has reported in it. Servers since 14 report both settings at the start of each
//! session; others are asked.
//!
//! Follows PostgreSQL 15 src/interfaces/libpq/fe-connect.c (CONNECTION_CHECK_TARGET and the states after it).

use super::{ConninfoError, error};

/// What a session must be fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Anything.
    Any,
    /// Its transactions write, unless they are told not to.
    ReadWrite,
    /// They don't.
    ReadOnly,
    /// The server is no standby.
    Primary,
    /// The server is a standby.
    Standby,
    /// The server is a standby if there is one among the hosts.
    PreferStandby,
}

/// What a server says of itself; `None` is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reported {
    /// Its `in_hot_standby`.
    pub in_hot_standby: Option<bool>,
    /// Its `default_transaction_read_only`.
    pub default_transaction_read_only: Option<bool>,
}

/// What came of a look at a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is what was wanted.
    Fit,
    /// It is not, in libpq's words.
    Unfit(&'static str),
    /// The server has to be asked this; the answer is one truth value ([`truth`]), which goes to
    /// [`TargetSessionAttrs::objection`].
    Ask(&'static str),
}

const NAMES: [(&str, TargetSessionAttrs); 6] = [
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("read-only", TargetSessionAttrs::ReadOnly),
    ("primary", TargetSessionAttrs::Primary),
    ("standby", TargetSessionAttrs::Standby),
    ("prefer-standby", TargetSessionAttrs::PreferStandby),
];

impl TargetSessionAttrs {
    /// Reads the option's value; `None` is the default.
    ///
    /// # Errors
    /// There is no such value.
    pub(super) fn parse(text: Option<&str>) -> Result<TargetSessionAttrs, ConninfoError> {
        let Some(text) = text else { return Ok(TargetSessionAttrs::Any) };
        match NAMES.into_iter().find(|(name, _)| *name == text) {
            Some((_, attrs)) => Ok(attrs),
            None => error(format!("invalid target_session_attrs value: \"{text}\"")),
        }
    }

    /// What to look for in each go through all hosts.
    pub fn passes(self) -> &'static [TargetSessionAttrs] {
        use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
        match self {
            Any => &[Any],
            ReadWrite => &[ReadWrite],
            ReadOnly => &[ReadOnly],
            Primary => &[Primary],
            Standby => &[Standby],
            PreferStandby => &[Standby, Any],
        }
    }

    /// Looks at a session that has just begun. One of [`TargetSessionAttrs::passes`].
    pub fn judge(self, reported: Reported) -> Verdict {
        let Reported { in_hot_standby, default_transaction_read_only } = reported;
        let (known, question) = match self {
            TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => return Verdict::Fit,
            TargetSessionAttrs::ReadWrite | TargetSessionAttrs::ReadOnly => (
                in_hot_standby
                    .zip(default_transaction_read_only)
                    .map(|(standby, by_default)| standby || by_default),
                "SHOW transaction_read_only",
            ),
            TargetSessionAttrs::Primary | TargetSessionAttrs::Standby => {
                (in_hot_standby, "SELECT pg_catalog.pg_is_in_recovery()")
            }
        };
        match known.map(|answer| self.objection(answer)) {
            None => Verdict::Ask(question),
            Some(None) => Verdict::Fit,
            Some(Some(why)) => Verdict::Unfit(why),
        }
    }

    /// What is wrong with a server, in libpq's words, by its answer: its session is read-only, or it is a standby, whichever
    /// was asked for.
    pub fn objection(self, answer: bool) -> Option<&'static str> {
        match (self, answer) {
            (TargetSessionAttrs::ReadWrite, true) => Some("session is read-only"),
            (TargetSessionAttrs::ReadOnly, false) => Some("session is not read-only"),
            (TargetSessionAttrs::Primary, true) => Some("server is in hot standby mode"),
            (TargetSessionAttrs::Standby, false) => Some("server is not in hot standby mode"),
            _ => None,
        }
    }
}

/// A truth value as servers write it.
pub fn truth(text: &str) -> bool {
    matches!(text, "on" | "t" | "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(in_hot_standby: bool, read_only: bool) -> Reported {
        Reported { in_hot_standby: Some(in_hot_standby), default_transaction_read_only: Some(read_only) }
    }

    /// What libpq takes, of a primary, a primary whose sessions are read-only, and a standby.
    #[test]
    fn each_value_takes_the_servers_that_libpq_takes() {
        for (name, fit) in [
            ("any", [true, true, true]),
            ("read-write", [true, false, false]),
            ("read-only", [false, true, true]),
            ("primary", [true, true, false]),
            ("standby", [false, false, true]),
            ("prefer-standby", [true, true, true]),
        ] {
            let attrs = TargetSessionAttrs::parse(Some(name)).unwrap();
            let servers = [reported(false, false), reported(false, true), reported(true, false)];
            let found = servers.map(|server| attrs.judge(server) == Verdict::Fit);
            assert_eq!(found, fit, "{name}");
        }
    }

    #[test]
    fn a_standby_is_looked_for_everywhere_before_anything_else_is_taken() {
        let passes = TargetSessionAttrs::PreferStandby.passes();
        assert_eq!(passes, [TargetSessionAttrs::Standby, TargetSessionAttrs::Any]);
        assert_eq!(
            passes.iter().map(|pass| pass.judge(reported(false, false))).collect::<Vec<_>>(),
            [Verdict::Unfit("server is not in hot standby mode"), Verdict::Fit]
        );
    }

    #[test]
    fn an_old_server_is_asked() {
        let nothing = Reported::default();
        assert_eq!(TargetSessionAttrs::Any.judge(nothing), Verdict::Fit);
        for attrs in [TargetSessionAttrs::ReadWrite, TargetSessionAttrs::ReadOnly] {
            assert_eq!(attrs.judge(nothing), Verdict::Ask("SHOW transaction_read_only"));
        }
        for attrs in [TargetSessionAttrs::Primary, TargetSessionAttrs::Standby] {
            assert_eq!(attrs.judge(nothing), Verdict::Ask("SELECT pg_catalog.pg_is_in_recovery()"));
        }
        let primary = TargetSessionAttrs::Primary;
        assert_eq!(primary.objection(truth("t")), Some("server is in hot standby mode"));
        assert_eq!(primary.objection(truth("f")), None);
    }
}
