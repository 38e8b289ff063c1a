//! `-c name=value` and a startup packet's options, and the walship.conf that `init` leaves behind.
//!
//! The file is TOML whose keys are PostgreSQL's setting names, so that `wal_sender_timeout = '60s'` means the same
//! in postgresql.conf and here. A bare number is in the base unit. Flags override the file; at a reload the file is
//! read anew and the same flags go over it again. It is read by [`crate::file`].

use toml::Value as Toml;

use crate::error::Error;
use crate::table::{Context, SettingNumber, TABLE};
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

pub(crate) fn refuse_internal(number: SettingNumber) -> Result<(), Error> {
    let row = number.row();
    match row.context {
        Context::Internal => {
            Err(Error::plain("55P02", format!("parameter \"{}\" cannot be changed", row.name)))
        }
        Context::Postmaster | Context::Sighup | Context::User => Ok(()),
    }
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

pub(crate) fn quoted(value: &Value, row: &crate::table::Row) -> String {
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
    use crate::Settings;
    use std::time::Duration;

    #[test]
    fn a_wrong_flag_is_refused() {
        assert!(parse_flag("port").is_err());
        assert!(parse_flag("prot=1").is_err());
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
