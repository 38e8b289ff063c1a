//! Changing a walship.conf as a text: what isn't touched stays as its user wrote it, comments and all.
//!
//! An entry that goes is turned into a comment in its place, so no line moves; one that changes does so in its place.

use std::ops::Range;

use toml::de::DeTable;

use crate::conf::{quoted, refuse_internal};
use crate::error::Error;
use crate::table::SettingNumber;

/// `conf` without the entries that `goes` says so of. A text that can't be read stays as it is: whoever uses it is told
/// what is wrong with it.
pub fn comment_out(conf: &str, goes: impl Fn(&str) -> bool) -> String {
    let Ok(table) = DeTable::parse(conf) else { return conf.to_owned() };
    let mut starts = Vec::new();
    for (name, value) in table.get_ref() {
        if goes(name.get_ref()) {
            let first = line_start(conf, name.span().start);
            starts.push(first);
            let more = conf[first..value.span().end].match_indices('\n').map(|(at, _)| first + at + 1);
            starts.extend(more);
        }
    }
    starts.sort_unstable();
    let mut edited = String::with_capacity(conf.len() + starts.len());
    let mut done = 0;
    for start in starts {
        edited.push_str(&conf[done..start]);
        edited.push('#');
        done = start;
    }
    edited.push_str(&conf[done..]);
    edited
}

fn line_start(conf: &str, at: usize) -> usize {
    conf[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// `conf` with `pairs` for entries: each in the place of the entry of its name, or at the end. Errors 42704, 55P02, 22023.
pub fn with(conf: &str, pairs: &[(&str, &str)]) -> Result<String, Error> {
    let mut edited = conf.to_owned();
    for (name, value) in pairs {
        let number = SettingNumber::find(name)?;
        refuse_internal(number)?;
        let row = number.row();
        let entry = format!("{} = {}", row.name, quoted(&row.kind.parse(row.name, value)?, row));
        match place(&edited, row.name) {
            Some(place) => edited.replace_range(place, &entry),
            None => {
                if !edited.is_empty() && !edited.ends_with('\n') {
                    edited.push('\n');
                }
                edited.push_str(&entry);
                edited.push('\n');
            }
        }
    }
    Ok(edited)
}

/// Where the entry of that name stands, from its name to the end of its value.
fn place(conf: &str, name: &str) -> Option<Range<usize>> {
    let table = DeTable::parse(conf).ok()?;
    let mut entries = table.get_ref().iter();
    let (name, value) = entries.find(|(entry, _)| entry.get_ref().eq_ignore_ascii_case(name))?;
    Some(name.span().start..value.span().end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    const CONF: &str = "# mine\nport = 5441 # here\nprimary_conninfo = \"\"\"host=a\nport=1\"\"\"\n\nPORT2 = 1\nwal_sender_timeout = '9s'";

    #[test]
    fn entries_become_comments_in_their_place() {
        let edited = comment_out(CONF, |name| name == "port" || name == "primary_conninfo");
        assert_eq!(
            edited,
            "# mine\n#port = 5441 # here\n#primary_conninfo = \"\"\"host=a\n#port=1\"\"\"\n\nPORT2 = 1\nwal_sender_timeout = '9s'"
        );
        assert_eq!(comment_out("port = ", |_| true), "port = ");
    }

    #[test]
    fn pairs_take_the_place_of_entries() {
        let conf = CONF.replace("PORT2 = 1\n", "");
        let edited = with(&conf, &[("primary_conninfo", "host=b"), ("wal_sender_timeout", "90s")]).unwrap();
        let settings = Settings::load(&edited, &[]).unwrap();
        assert_eq!(settings.primary_conninfo, "host=b");
        assert_eq!(settings.wal_sender_timeout, Some(std::time::Duration::from_secs(90)));
        assert_eq!(settings.port, 5441);
        assert_eq!(
            edited,
            "# mine\nport = 5441 # here\nprimary_conninfo = \"host=b\"\n\nwal_sender_timeout = '90s'"
        );
        let added = with("port = 1", &[("primary_conninfo", "host=b user='a b'")]).unwrap();
        assert_eq!(added, "port = 1\nprimary_conninfo = \"host=b user='a b'\"\n");
        assert_eq!(with("", &[("prot", "1")]).unwrap_err().sqlstate, "42704");
        assert_eq!(with("", &[("port", "x")]).unwrap_err().sqlstate, "22023");
    }
}
