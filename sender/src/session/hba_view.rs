//! pg_hba_file_rules: what the file says now, which need not be what is in force; for who is about to reload it.
//!
//! Follows PostgreSQL 15 src/backend/utils/adt/hbafuncs.c.

use std::path::Path;

use engine::catalog::SystemValue;
use wire::hba::{Addresses, LineError, Name, Rule, parse_lines};

use crate::configuration::read_text;

const NULL: SystemValue = SystemValue::Null;

/// The rows of the view.
pub(super) fn hba_file_rules(path: &Path) -> Vec<Vec<SystemValue>> {
    match read_text(path) {
        Ok(text) => parse_lines(&text).into_iter().map(|line| line.map_or_else(wrong, rule)).collect(),
        Err(message) => vec![wrong(LineError { line: 0, message, hint: None })],
    }
}

fn wrong(error: LineError) -> Vec<SystemValue> {
    let mut row = vec![i64::from(error.line).into()];
    row.resize(8, NULL);
    row.push(error.message.into());
    row
}

fn rule(rule: Rule) -> Vec<SystemValue> {
    let (address, netmask) = match rule.addresses {
        None => (NULL, NULL),
        Some(Addresses::All) => ("all".into(), NULL),
        Some(Addresses::SameHost) => ("samehost".into(), NULL),
        Some(Addresses::SameNet) => ("samenet".into(), NULL),
        Some(Addresses::Range(base, mask)) => (base.to_string().into(), mask.to_string().into()),
    };
    vec![
        i64::from(rule.line).into(),
        rule.kind_word.into(),
        array(&rule.databases).into(),
        array(&rule.users).into(),
        address,
        netmask,
        rule.method.word().into(),
        NULL,
        NULL,
    ]
}

/// As PostgreSQL writes an array of texts.
fn array(names: &[Name]) -> String {
    let plain = |text: &str| {
        !text.is_empty() && !text.contains(|char: char| char.is_whitespace() || "{}\",\\".contains(char))
    };
    let element = |name: &Name| match plain(&name.text) {
        true => name.text.clone(),
        false => format!("\"{}\"", name.text.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    format!("{{{}}}", names.iter().map(element).collect::<Vec<_>>().join(","))
}
