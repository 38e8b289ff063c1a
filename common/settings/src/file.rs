//! walship.conf as entries: names, values as texts, and the line that each stands on.
//!
//! Everything that is wrong with a file is found in one go, so that it is mended in one go: if it isn't TOML, the first
//! place where it ceases to be; else every entry that is refused. A file is limited to [`BYTES_MAX`].
//!
//! Follows PostgreSQL 15 src/backend/utils/misc/guc-file.l; differs in: TOML, where a second entry of the same name is an
//! error (there the last one counts).

use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::conf::refuse_internal;
use crate::error::Error;
use crate::table::{Origin, SettingNumber, Settings, Source};
use crate::value::Value;

/// Longest walship.conf, in bytes: a running node keeps the text in shared memory.
pub const BYTES_MAX: usize = 64 * 1024;

/// What is wrong with one line of the file, or with a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// Which line, from 1 on; 0: the file as a whole, or a flag of the command line.
    pub line: u32,
    /// What is wrong.
    pub error: Error,
}

impl FileError {
    /// The message with its place in the file of that name, as the log and a command show it.
    pub fn located(&self, path: impl fmt::Display) -> String {
        match self.line {
            0 => self.error.to_string(),
            line => format!("{} in file \"{path}\" line {line}", self.error),
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.located("walship.conf"))
    }
}

impl std::error::Error for FileError {}

/// An entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// From 1 on.
    pub(crate) line: u32,
    pub(crate) name: String,
    /// As a flag would give it.
    pub(crate) value: String,
    /// The setting and its value, or why there is none.
    pub(crate) meant: Result<(SettingNumber, Value), Error>,
}

/// The entries in their order. Error F0000: it isn't TOML, or too long.
pub(crate) fn entries(conf: &str) -> Result<Vec<Entry>, FileError> {
    if conf.len() > BYTES_MAX {
        let message = format!("configuration file is larger than {BYTES_MAX} bytes");
        return Err(FileError { line: 0, error: Error::plain("F0000", message) });
    }
    let table = DeTable::parse(conf).map_err(|error| {
        let message = error.message().lines().next().unwrap_or_default();
        FileError {
            line: line_at(conf, error.span().map_or(0, |span| span.start)),
            error: Error::plain("F0000", format!("syntax error ({message})")),
        }
    })?;
    let mut entries: Vec<(usize, Entry)> = table
        .into_inner()
        .into_iter()
        .map(|(name, value)| {
            let at = name.span().start;
            (at, entry(line_at(conf, at), name.get_ref(), value.get_ref()))
        })
        .collect();
    entries.sort_by_key(|(at, _)| *at);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn entry(line: u32, name: &str, value: &DeValue<'_>) -> Entry {
    let number = |text: &str, radix| match i64::from_str_radix(text, radix) {
        Ok(number) => number.to_string(),
        // Too large for any setting: its own text says so best.
        Err(_) => text.to_owned(),
    };
    let text = match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(number(integer.as_str(), integer.radix())),
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    };
    let meant = SettingNumber::find(name).and_then(|number| {
        refuse_internal(number)?;
        let Some(text) = &text else {
            let message = format!("\"{name}\" takes a text, a number or a Boolean");
            return Err(Error::plain("F0000", message));
        };
        Ok((number, number.row().kind.parse(number.row().name, text)?))
    });
    Entry { line, name: name.to_owned(), value: text.unwrap_or_default(), meant }
}

fn line_at(conf: &str, at: usize) -> u32 {
    let newlines = conf.as_bytes()[..at.min(conf.len())].iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(newlines + 1).unwrap_or(u32::MAX)
}

impl Settings {
    /// The settings of a node that starts: the table's defaults, the text of walship.conf over them, the flags over
    /// that. Errors F0000 (not TOML), 42704 (no such setting), 22023 (wrong value), 55P02 (not to be set): all that
    /// there are.
    pub fn load(conf: &str, flags: &[(String, String)]) -> Result<Settings, Vec<FileError>> {
        let entries = entries(conf).map_err(|error| vec![error])?;
        let mut settings = Settings::default();
        let mut errors = Vec::new();
        for entry in entries {
            match entry.meant {
                Ok((number, value)) => settings.put_from(number, &value, Origin::file(entry.line)),
                Err(error) => errors.push(FileError { line: entry.line, error }),
            }
        }
        for (name, value) in flags {
            if let Err(error) = settings.assign_flag(name, value) {
                errors.push(FileError { line: 0, error });
            }
        }
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    fn assign_flag(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let number = SettingNumber::find(name)?;
        refuse_internal(number)?;
        let value = number.row().kind.parse(number.row().name, value)?;
        self.put(number, &value, Source::CommandLine);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn flag(text: &str) -> (String, String) {
        crate::conf::parse_flag(text).unwrap()
    }

    #[test]
    fn flags_override_the_file_and_the_file_the_defaults() {
        let conf = "wal_sender_timeout = '4s'\nwal_writer_delay = 50\nlog_replication_commands = true\n";
        let settings = Settings::load(conf, &[flag("wal-sender-timeout=0"), flag("port=0")]).unwrap();
        assert_eq!(settings.wal_sender_timeout, None);
        assert_eq!(settings.wal_writer_delay, Duration::from_millis(50));
        assert!(settings.log_replication_commands);
        assert_eq!(settings.port, 0);
        assert_eq!(settings.wal_buffers, 4 << 20);
        let origin = |name| settings.origin(SettingNumber::find(name).unwrap());
        assert_eq!((origin("wal_writer_delay").source, origin("wal_writer_delay").line), (Source::File, 2));
        assert_eq!(
            (origin("wal_sender_timeout").source, origin("wal_sender_timeout").line),
            (Source::CommandLine, 0)
        );
        assert_eq!(origin("wal_buffers").source, Source::Default);
    }

    #[test]
    fn everything_wrong_with_a_file_is_told_with_its_line() {
        for (conf, expected) in [
            ("port = 5440\nport ~ 1", &["syntax error (…) in file \"walship.conf\" line 2"][..]),
            ("port = 1\n\nport = 2\n", &["syntax error (…) in file \"walship.conf\" line 3"]),
            (
                "work_men = 3",
                &["unrecognized configuration parameter \"work_men\" in file \"walship.conf\" line 1"],
            ),
            (
                "# first\nport = 70000\n\nwal_writer_delay = 'soon'\nport2 = 1\n",
                &[
                    "70000 is outside the valid range for parameter \"port\" (0 .. 65535) in file \"walship.conf\" line 2",
                    "invalid value for parameter \"wal_writer_delay\": \"soon\" in file \"walship.conf\" line 4",
                    "unrecognized configuration parameter \"port2\" in file \"walship.conf\" line 5",
                ],
            ),
            (
                "wal_segment_size = '16MB'",
                &["parameter \"wal_segment_size\" cannot be changed in file \"walship.conf\" line 1"],
            ),
            ("port = [1]", &["\"port\" takes a text, a number or a Boolean in file \"walship.conf\" line 1"]),
            (
                "port = 99999999999999999999999",
                &[
                    "invalid value for parameter \"port\": \"99999999999999999999999\" in file \"walship.conf\" line 1",
                ],
            ),
        ] {
            let errors = Settings::load(conf, &[]).unwrap_err();
            assert_eq!(errors.len(), expected.len(), "{conf}: {errors:?}");
            for (error, expected) in errors.iter().zip(expected) {
                let got = error.to_string();
                // What the TOML crate says of a syntax error is its own.
                match expected.split_once('…') {
                    Some((begin, end)) => assert!(got.starts_with(begin) && got.ends_with(end), "{got}"),
                    None => assert_eq!(got, *expected),
                }
            }
        }
    }

    #[test]
    fn numbers_of_any_radix_are_read() {
        let settings = Settings::load("port = 0x1540\nwal_writer_delay = 1_00\n", &[]).unwrap();
        assert_eq!(settings.port, 0x1540);
        assert_eq!(settings.wal_writer_delay, Duration::from_millis(100));
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let conf = format!("#{}\nport = 1\n", "x".repeat(BYTES_MAX));
        let errors = Settings::load(&conf, &[]).unwrap_err();
        assert_eq!(errors[0].to_string(), "configuration file is larger than 65536 bytes");
    }

    #[test]
    fn a_wrong_flag_is_an_error_without_a_line() {
        let errors = Settings::load("", &[("prot".to_owned(), "1".to_owned())]).unwrap_err();
        assert_eq!(errors[0].to_string(), "unrecognized configuration parameter \"prot\"");
    }
}
