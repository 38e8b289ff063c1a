//! walship.conf and `-c name=value`: reading them, and writing the file that `init` leaves behind.
//!
//! The file is TOML whose keys are PostgreSQL's setting names, so that `wal_sender_timeout = '60s'` means the same
//! in postgresql.conf and here. A bare number is in the base unit. Flags override the file; at a reload the file is
//! read anew and the same flags go over it again.

use toml::Value as Toml;

use crate::error::Error;
use crate::table::{Context, SettingNumber, Settings, Source, TABLE};
use crate::value::Value;

/// Splits `name=value`, as it follows `-c`; dashes in the name stand for underscores. Error 22023, 42704.
pub fn parse_flag(flag: &str) -> Result<(String, String), Error> {
    let Some((name, value)) = flag.split_once('=') else {
        return Err(Error::plain("22023", format!("-c {flag} requires a value")));
    };
    let name = name.trim().replace('-', "_");
    let number = SettingNumber::find(&name)?;
    refuse_internal(number)?;
    number.row().kind.parse(number.row().name, value)?;
    Ok((name, value.to_owned()))
}

/// Splits the `options` of a startup packet (`-c name=value --name=value`; a backslash keeps the next character)
/// into names and values. Error 42601 on anything else.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, Error> {
    let mut words = split_words(options).into_iter();
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        let flag = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(flag), _) => flag.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(flag)) => flag.to_owned(),
            (None, None) => String::new(),
        };
        let Some((name, value)) = flag.split_once('=') else {
            let message = format!("invalid command-line argument for server process: {word}");
            return Err(Error::plain("42601", message));
        };
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(pairs)
}

fn split_words(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        if c.is_ascii_whitespace() {
            words.extend(word.take());
        } else {
            let c = if c == '\\' { characters.next().unwrap_or(c) } else { c };
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);
    words
}

impl Settings {
    /// The settings of a node that starts: the table's defaults, the text of walship.conf over them, the flags over
    /// that. Errors F0000 (not TOML), 42704 (no such setting), 22023 (wrong value), 55P02 (not to be set).
    pub fn load(conf: &str, flags: &[(String, String)]) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        for (name, value) in read_conf(conf)? {
            settings.assign(&name, &value, Source::File)?;
        }
        for (name, value) in flags {
            settings.assign(name, value, Source::CommandLine)?;
        }
        Ok(settings)
    }

    /// The settings after a reload. What only a restart can change keeps its value; the names of those that the
    /// file would change come back for the log. Internal settings stay. Errors as [`Settings::load`].
    pub fn reload(
        &self,
        conf: &str,
        flags: &[(String, String)],
    ) -> Result<(Settings, Vec<&'static str>), Error> {
        let mut fresh = Settings::load(conf, flags)?;
        let mut pending_restart = Vec::new();
        for number in SettingNumber::all() {
            let row = number.row();
            if row.context > Context::Postmaster {
                continue;
            }
            let present = self.value(number);
            if row.context == Context::Postmaster && fresh.value(number) != present {
                // The port that was taken for 0 is no wish to change it.
                let took_free_port = row.name == "port" && fresh.port == 0;
                if !took_free_port {
                    pending_restart.push(row.name);
                }
            }
            fresh.put(number, &present, self.source(number));
        }
        Ok((fresh, pending_restart))
    }

    fn assign(&mut self, name: &str, value: &str, source: Source) -> Result<(), Error> {
        let number = SettingNumber::find(name)?;
        refuse_internal(number)?;
        let value = number.row().kind.parse(number.row().name, value)?;
        self.put(number, &value, source);
        Ok(())
    }
}

fn refuse_internal(number: SettingNumber) -> Result<(), Error> {
    let row = number.row();
    match row.context {
        Context::Internal => {
            Err(Error::plain("55P02", format!("parameter \"{}\" cannot be changed", row.name)))
        }
        Context::Postmaster | Context::Sighup | Context::User => Ok(()),
    }
}

/// The names and values of the file as texts. Error F0000.
fn read_conf(conf: &str) -> Result<Vec<(String, String)>, Error> {
    let table: toml::Table = conf.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = 1 + conf.as_bytes()[..at.min(conf.len())].iter().filter(|byte| **byte == b'\n').count();
        let message = error.message().lines().next().unwrap_or("syntax error").to_owned();
        Error::plain("F0000", format!("walship.conf line {line}: {message}"))
    })?;
    let mut pairs = Vec::new();
    for (name, value) in table {
        let text = match value {
            Toml::String(text) => text,
            Toml::Integer(number) => number.to_string(),
            Toml::Float(number) => number.to_string(),
            Toml::Boolean(on) => on.to_string(),
            Toml::Datetime(_) | Toml::Array(_) | Toml::Table(_) => {
                SettingNumber::find(&name)?;
                let message = format!("walship.conf: \"{name}\" takes a text, a number or a Boolean");
                return Err(Error::plain("F0000", message));
            }
        };
        pairs.push((name, text));
    }
    Ok(pairs)
}

/// The text of a walship.conf that sets `pairs` and shows every other setting with its default, commented out.
/// Error 42704.
pub fn render(pairs: &[(&str, &str)]) -> Result<String, Error> {
    for (name, value) in pairs {
        let number = SettingNumber::find(name)?;
        number.row().kind.parse(name, value)?;
    }
    let mut text = String::from(
        "# Settings of this node. Keys, values and units are PostgreSQL's; a bare number is in the base unit.\n",
    );
    let mut category = "";
    for row in TABLE.iter().filter(|row| row.context != Context::Internal) {
        if row.category != category {
            category = row.category;
            text.push_str(&format!("\n# {category}\n"));
        }
        let set = pairs.iter().find(|(name, _)| row.name.eq_ignore_ascii_case(name));
        let restart = if row.context == Context::Postmaster { " (needs a restart)" } else { "" };
        text.push_str(&format!("\n# {}{restart}\n", row.description));
        let (mark, value) = match set {
            Some((_, value)) => ("", row.kind.parse(row.name, value)?),
            None => ("#", row.default.clone()),
        };
        text.push_str(&format!("{mark}{} = {}\n", row.name, quoted(&value, row)));
    }
    Ok(text)
}

fn quoted(value: &Value, row: &crate::table::Row) -> String {
    match value {
        Value::Bool(on) => on.to_string(),
        Value::Int(number) if value.show(row.kind) == number.to_string() => number.to_string(),
        Value::Int(_) => format!("'{}'", value.show(row.kind)),
        Value::Text(text) => Toml::String(text.to_string()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn flag(text: &str) -> (String, String) {
        parse_flag(text).unwrap()
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
        let number = SettingNumber::find("wal_writer_delay").unwrap();
        assert_eq!(settings.source(number).name(), "configuration file");
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_place() {
        for (conf, message) in [
            ("port = 5440\nport ~ 1", "walship.conf line 2: "),
            ("work_men = 3", "unrecognized configuration parameter \"work_men\""),
            ("port = 70000", "70000 is outside the valid range for parameter \"port\" (0 .. 65535)"),
            ("wal_segment_size = '16MB'", "parameter \"wal_segment_size\" cannot be changed"),
            ("port = [1]", "walship.conf: \"port\" takes a text, a number or a Boolean"),
        ] {
            let error = Settings::load(conf, &[]).unwrap_err();
            assert!(error.message.starts_with(message), "{conf}: {error}");
        }
        assert!(parse_flag("port").is_err());
        assert!(parse_flag("prot=1").is_err());
    }

    #[test]
    fn a_reload_keeps_what_only_a_restart_can_change() {
        let flags = [flag("port=0")];
        let mut settings = Settings::load("max_connections = 20", &flags).unwrap();
        settings.port = 40_001;
        settings.wal_segment_size = 1 << 20;
        let (fresh, pending) =
            settings.reload("max_connections = 30\nwal_writer_delay = '10ms'", &flags).unwrap();
        assert_eq!(pending, ["max_connections"]);
        assert_eq!(fresh.max_connections, 20);
        assert_eq!(fresh.port, 40_001);
        assert_eq!(fresh.wal_segment_size, 1 << 20);
        assert_eq!(fresh.wal_writer_delay, Duration::from_millis(10));
    }

    #[test]
    fn a_rendered_file_reads_back() {
        let conninfo = "host=127.0.0.1 port=5440 application_name='a b'";
        let text = render(&[("primary_conninfo", conninfo), ("wal_sender_timeout", "90s")]).unwrap();
        let settings = Settings::load(&text, &[]).unwrap();
        assert_eq!(settings.primary_conninfo, conninfo);
        assert_eq!(settings.wal_sender_timeout, Some(Duration::from_secs(90)));
        assert!(text.contains("\n#port = 5440\n"), "{text}");
        // Every commented default is a valid line too.
        let all = text.replace("\n#", "\n").replace("\n ", "\n# ");
        assert_eq!(Settings::load(&all, &[]).unwrap().port, 5440);
    }

    #[test]
    fn startup_options_are_split_as_postgresql_splits_them() {
        let pairs = parse_options(r"-c statement_timeout=5s --application-name=a\ b  -cextra_float_digits=3")
            .unwrap();
        let expected =
            [("statement_timeout", "5s"), ("application_name", "a b"), ("extra_float_digits", "3")];
        assert_eq!(pairs.len(), expected.len());
        for ((name, value), expected) in pairs.iter().zip(expected) {
            assert_eq!((name.as_str(), value.as_str()), expected);
        }
        assert_eq!(parse_options("-x").unwrap_err().sqlstate, "42601");
        assert_eq!(parse_options("-c").unwrap_err().sqlstate, "42601");
    }
}
