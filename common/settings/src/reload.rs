//! A reload: from the settings in force, the text of the file as it is now, and the flags, to the settings from now on.
//!
//! Pure, so that every process of a node that is given the same text comes to the same settings, whatever it was told
//! before: what only a restart can change stays as it was at the start, everything else is computed anew from text and
//! flags alone. So a process may skip a reload that was overtaken by the next.
//!
//! All or nothing: one refused entry, and no entry counts.
//!
//! Follows PostgreSQL 15 ProcessConfigFileInternal() in src/backend/utils/misc/guc.c; differs in: there an invalid value
//! leaves the other changes of the file in force.

use std::fmt;

use crate::file::{self, FileError};
use crate::table::{Context, Origin, SettingNumber, Settings, Source};

/// What a reload brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The settings from now on.
    pub settings: Settings,
    /// What is new about them, for the log.
    pub changes: Vec<Change>,
}

/// One line for the log; its `Display` is PostgreSQL's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry of the file took effect.
    Set {
        /// The setting.
        name: &'static str,
        /// As the file has it.
        value: String,
    },
    /// The entry is gone, the default is back.
    Removed {
        /// The setting.
        name: &'static str,
    },
    /// The file would change what only a restart can change.
    NeedsRestart {
        /// The setting.
        name: &'static str,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Set { name, value } => {
                write!(f, "parameter \"{name}\" changed to \"{}\"", crate::secret::shown(name, value))
            }
            Change::Removed { name } => {
                write!(f, "parameter \"{name}\" removed from configuration file, reset to default")
            }
            Change::NeedsRestart { name } => {
                write!(f, "parameter \"{name}\" cannot be changed without restarting the server")
            }
        }
    }
}

impl Settings {
    /// The settings after a reload of `conf` under the same `flags`. What only a restart can change keeps its value and
    /// is marked `pending_restart`; internal settings stay. Errors as [`Settings::load`]; nothing changes then.
    pub fn reload(&self, conf: &str, flags: &[(String, String)]) -> Result<Reloaded, Vec<FileError>> {
        let mut fresh = Settings::load(conf, flags)?;
        let mut removed = Vec::new();
        let mut changed = Vec::new();
        for number in SettingNumber::all() {
            let row = number.row();
            let (present, wanted) = (self.value(number), fresh.value(number));
            let origin = fresh.origin(number);
            match row.context {
                Context::Internal => fresh.put_from(number, &present, self.origin(number)),
                Context::Postmaster if wanted == present => {}
                Context::Postmaster => {
                    let pending = Origin { pending_restart: true, ..self.origin(number) };
                    fresh.put_from(number, &present, pending);
                    changed.push((origin.line, Change::NeedsRestart { name: row.name }));
                }
                Context::Sighup | Context::User => {
                    let was_in_file = self.origin(number).source == Source::File;
                    if origin.source == Source::Default && was_in_file {
                        removed.push(Change::Removed { name: row.name });
                    } else if wanted != present {
                        changed.push((origin.line, Change::Set { name: row.name, value: String::new() }));
                    }
                }
            }
        }
        changed.sort_by_key(|(line, _)| *line);
        let mut changes = removed;
        changes.extend(changed.into_iter().map(|(_, change)| change));
        name_values(&mut changes, conf);
        Ok(Reloaded { settings: fresh, changes })
    }

    /// What a reload of `conf` would make of each of its lines: pg_file_settings.
    pub fn file_settings(&self, conf: &str, flags: &[(String, String)]) -> Vec<FileSetting> {
        let entries = match file::entries(conf) {
            Ok(entries) => entries,
            Err(FileError { line, error }) => {
                return vec![FileSetting { line, ..FileSetting::unreadable(error.to_string()) }];
            }
        };
        let any_error = entries.iter().any(|entry| entry.meant.is_err());
        let overridden = |number: SettingNumber| {
            flags.iter().any(|(name, _)| name.eq_ignore_ascii_case(number.row().name))
        };
        entries
            .into_iter()
            .map(|entry| {
                let (applied, error) = match &entry.meant {
                    Err(error) => (false, Some(error.to_string())),
                    Ok((number, _)) if overridden(*number) => (false, None),
                    Ok((number, value))
                        if number.row().context == Context::Postmaster && *value != self.value(*number) =>
                    {
                        (false, Some("setting could not be applied".to_owned()))
                    }
                    Ok(_) => (!any_error, None),
                };
                let value = Some(entry.value);
                FileSetting { line: entry.line, name: Some(entry.name), value, applied, error }
            })
            .collect()
    }
}

/// Puts the file's own words into the changes.
fn name_values(changes: &mut [Change], conf: &str) {
    let entries = file::entries(conf).unwrap_or_default();
    for change in changes {
        if let Change::Set { name, value } = change
            && let Some(entry) = entries.iter().rfind(|entry| entry.name.eq_ignore_ascii_case(name))
        {
            value.clone_from(&entry.value);
        }
    }
}

/// A row of pg_file_settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSetting {
    /// From 1 on; 0: the file as a whole.
    pub line: u32,
    /// As written; none when the file can't be read as entries.
    pub name: Option<String>,
    /// As a flag would give it.
    pub value: Option<String>,
    /// Whether a reload now would take it.
    pub applied: bool,
    /// Why it would be refused.
    pub error: Option<String>,
}

impl FileSetting {
    /// The one row of a file that can't be read, and why.
    pub fn unreadable(why: String) -> FileSetting {
        FileSetting { line: 0, name: None, value: None, applied: false, error: Some(why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::parse_flag;

    fn flags(flags: &[&str]) -> Vec<(String, String)> {
        flags.iter().map(|flag| parse_flag(flag).unwrap()).collect()
    }

    /// Old file, flags, new file; then the lines for the log and some settings with their source.
    struct Case(&'static str, &'static [&'static str], &'static str, &'static [&'static str], &'static str);

    const CASES: &[Case] = &[
        Case("", &[], "", &[], "checkpoint_timeout=5min default"),
        Case(
            "",
            &[],
            "checkpoint_timeout = '30s'",
            &["parameter \"checkpoint_timeout\" changed to \"30s\""],
            "checkpoint_timeout=30s file",
        ),
        // The same value in other words is no change.
        Case(
            "checkpoint_timeout = '300s'",
            &[],
            "checkpoint_timeout = '5min'",
            &[],
            "checkpoint_timeout=5min file",
        ),
        Case("", &[], "checkpoint_timeout = 300", &[], "checkpoint_timeout=5min file"),
        Case(
            "checkpoint_timeout = '30s'",
            &[],
            "",
            &["parameter \"checkpoint_timeout\" removed from configuration file, reset to default"],
            "checkpoint_timeout=5min default",
        ),
        // The removed ones first, the others in the order of the file.
        Case(
            "wal_writer_delay = 10",
            &[],
            "log_min_messages = 'debug1'\ncheckpoint_timeout = 60\nstatement_timeout = '1s'",
            &[
                "parameter \"wal_writer_delay\" removed from configuration file, reset to default",
                "parameter \"log_min_messages\" changed to \"debug1\"",
                "parameter \"checkpoint_timeout\" changed to \"60\"",
                "parameter \"statement_timeout\" changed to \"1s\"",
            ],
            "statement_timeout=1s file",
        ),
        // The command line stays, and is not talked about.
        Case(
            "wal_writer_delay = 20",
            &["wal_writer_delay=10"],
            "wal_writer_delay = 30",
            &[],
            "wal_writer_delay=10ms command line",
        ),
        Case(
            "wal_writer_delay = 20",
            &["wal_writer_delay=10"],
            "",
            &[],
            "wal_writer_delay=10ms command line",
        ),
        Case(
            "max_connections = 20",
            &[],
            "max_connections = 30",
            &["parameter \"max_connections\" cannot be changed without restarting the server"],
            "max_connections=20 file pending",
        ),
        Case(
            "max_connections = 20",
            &[],
            "",
            &["parameter \"max_connections\" cannot be changed without restarting the server"],
            "max_connections=20 file pending",
        ),
        Case("", &["port=0"], "port = 7", &[], "port=0 command line"),
        Case("max_connections = 20", &[], "max_connections = 20", &[], "max_connections=20 file"),
    ];

    fn described(settings: &Settings, name: &str) -> String {
        let origin = settings.origin(SettingNumber::find(name).unwrap());
        let source = match origin.source {
            Source::File => "file",
            other => other.name(),
        };
        let pending = if origin.pending_restart { " pending" } else { "" };
        format!("{name}={} {source}{pending}", settings.show(name).unwrap())
    }

    #[test]
    fn a_reload_takes_what_it_may_and_says_so() {
        for Case(old, given, new, lines, after) in CASES {
            let given = flags(given);
            let present = Settings::load(old, &given).unwrap();
            let reloaded = present.reload(new, &given).unwrap();
            let said: Vec<String> = reloaded.changes.iter().map(Change::to_string).collect();
            assert_eq!(said, *lines, "{old:?} -> {new:?}");
            let name = after.split('=').next().unwrap();
            assert_eq!(described(&reloaded.settings, name), *after, "{old:?} -> {new:?}");
            // Once taken, the same file brings nothing new but what still waits for a restart.
            let again = reloaded.settings.reload(new, &given).unwrap();
            let restart = |change: &&Change| matches!(change, Change::NeedsRestart { .. });
            assert_eq!(again.settings, reloaded.settings);
            assert_eq!(again.changes, reloaded.changes.iter().filter(restart).cloned().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_restart_is_pending_only_as_long_as_the_file_differs() {
        let start = Settings::load("max_connections = 20", &[]).unwrap();
        let pending = start.reload("max_connections = 30", &[]).unwrap().settings;
        let back = pending.reload("# as before\nmax_connections = 20", &[]).unwrap();
        assert_eq!(back.changes, []);
        assert_eq!(described(&back.settings, "max_connections"), "max_connections=20 file");
    }

    #[test]
    fn who_skips_a_reload_comes_to_the_same_settings() {
        let given = flags(&["wal_writer_delay=10"]);
        let texts = [
            "checkpoint_timeout = 30\nmax_connections = 7",
            "wal_writer_delay = 20\nstatement_timeout = 5",
            "",
            "primary_conninfo = 'host=a'\nmax_connections = 20",
        ];
        let start = Settings::load("max_connections = 20", &given).unwrap();
        let step = |present: Settings, text: &&str| present.reload(text, &given).unwrap().settings;
        let through_all = texts.iter().fold(start.clone(), step);
        assert_eq!(through_all, step(start, &texts[3]));
    }

    #[test]
    fn one_wrong_entry_and_nothing_changes() {
        let present = Settings::load("checkpoint_timeout = 30", &[]).unwrap();
        let errors = present.reload("checkpoint_timeout = 60\nwork_men = 1\nport = 'x'\n", &[]).unwrap_err();
        let lines: Vec<u32> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn internal_settings_stay() {
        let mut present = Settings::load("", &[]).unwrap();
        present.wal_segment_size = 1 << 20;
        present.in_hot_standby = true;
        let fresh = present.reload("wal_writer_delay = 10", &[]).unwrap().settings;
        assert_eq!(fresh.wal_segment_size, 1 << 20);
        assert!(fresh.in_hot_standby);
    }

    #[test]
    fn file_settings_tell_what_a_reload_would_do() {
        let given = flags(&["wal_writer_delay=10"]);
        let present = Settings::load("max_connections = 20", &given).unwrap();
        let rows = |conf| {
            let rows = present.file_settings(conf, &given);
            rows.iter()
                .map(|row| {
                    let text = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
                    format!(
                        "{} {} {} {} {}",
                        row.line,
                        text(&row.name),
                        text(&row.value),
                        row.applied,
                        text(&row.error)
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rows("max_connections = 20\nwal_writer_delay = 5\ncheckpoint_timeout = '30s'"),
            [
                "1 max_connections 20 true -",
                "2 wal_writer_delay 5 false -",
                "3 checkpoint_timeout 30s true -"
            ]
        );
        assert_eq!(
            rows("max_connections = 30\ncheckpoint_timeout = 30\nwork_men = 1"),
            [
                "1 max_connections 30 false setting could not be applied",
                "2 checkpoint_timeout 30 false -",
                "3 work_men 1 false unrecognized configuration parameter \"work_men\"",
            ]
        );
        let broken = rows("port = 1\nport ~ 2");
        assert_eq!(broken.len(), 1);
        assert!(broken[0].starts_with("2 - - false syntax error ("), "{broken:?}");
    }
}
