//! The value of a setting: how its text is read and how it is shown.
//!
//! Numbers are kept in the base unit of their row (as PostgreSQL keeps them: `wal_sender_timeout` in ms,
//! `wal_buffers` in pages of 8 kB). Reading takes any unit of the same family (`'60s'`, `'1.5min'`, `'16MB'`) or a
//! bare number in the base unit; showing picks the largest unit that divides the value.
//!
//! Follows PostgreSQL 15 src/backend/utils/misc/guc.c (parse_int, convert_int_from_base_unit).

use std::borrow::Cow;
use std::time::Duration;

use crate::error::Error;
use crate::sync_standbys::SyncStandbys;

/// What a setting is set to. An enum's value is the canonical spelling as `Text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// on or off.
    Bool(bool),
    /// A number in the base unit of its row.
    Int(i64),
    /// Text, or the canonical spelling of an enum's value.
    Text(Cow<'static, str>),
}

/// What kind of value a row takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// on/off, true/false, yes/no, 1/0.
    Bool,
    /// A number within bounds, both inclusive, in `unit`.
    Int {
        /// The base unit.
        unit: Unit,
        /// Smallest value taken.
        min: i64,
        /// Largest value taken.
        max: i64,
    },
    /// One of some words: (accepted spelling, canonical spelling), compared without regard to case.
    Enum(&'static [(&'static str, &'static str)]),
    /// Any text.
    Text,
    /// What [`SyncStandbys`] reads.
    SyncStandbys,
}

/// The base unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A count.
    None,
    /// Bytes.
    Bytes,
    /// Kilobytes of 1024 bytes.
    Kilobytes,
    /// Pages of 8 kB.
    Pages,
    /// Megabytes of 1024 kB.
    Megabytes,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

/// Bytes in each unit of memory, largest first.
const MEMORY_UNITS: &[(&str, i64)] =
    &[("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];
/// Microseconds in each unit of time, largest first.
const TIME_UNITS: &[(&str, i64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl Unit {
    /// The unit as pg_settings names it; none for a count.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Unit::None => None,
            Unit::Bytes => Some("B"),
            Unit::Kilobytes => Some("kB"),
            Unit::Pages => Some("8kB"),
            Unit::Megabytes => Some("MB"),
            Unit::Milliseconds => Some("ms"),
            Unit::Seconds => Some("s"),
        }
    }

    /// One base unit in bytes or microseconds, and the units of its family.
    fn family(self) -> Option<(i64, &'static [(&'static str, i64)])> {
        match self {
            Unit::None => None,
            Unit::Bytes => Some((1, MEMORY_UNITS)),
            Unit::Kilobytes => Some((1 << 10, MEMORY_UNITS)),
            Unit::Pages => Some((8 << 10, MEMORY_UNITS)),
            Unit::Megabytes => Some((1 << 20, MEMORY_UNITS)),
            Unit::Milliseconds => Some((1_000, TIME_UNITS)),
            Unit::Seconds => Some((1_000_000, TIME_UNITS)),
        }
    }

    fn hint(self) -> Option<String> {
        let (_, units) = self.family()?;
        let list = if units.len() == MEMORY_UNITS.len() {
            "\"B\", \"kB\", \"MB\", \"GB\", and \"TB\""
        } else {
            "\"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\""
        };
        Some(format!("Valid units for this parameter are {list}."))
    }
}

impl Kind {
    /// Reads `text` as a value of this kind for the setting `name`. Error 22023.
    pub fn parse(self, name: &str, text: &str) -> Result<Value, Error> {
        match self {
            Kind::Bool => parse_bool(text).map(Value::Bool).ok_or_else(|| {
                Error::plain("22023", format!("parameter \"{name}\" requires a Boolean value"))
            }),
            Kind::Int { unit, .. } => {
                let number = parse_number(text, unit)
                    .ok_or_else(|| Error::invalid(name, text, unit_hint(text, unit)))?;
                self.check(name, Value::Int(number))
            }
            Kind::Enum(options) => options
                .iter()
                .find(|(accepted, _)| accepted.eq_ignore_ascii_case(text.trim()))
                .map(|(_, canonical)| Value::Text(Cow::Borrowed(*canonical)))
                .ok_or_else(|| Error::invalid(name, text, Some(enum_hint(options)))),
            Kind::Text if text.contains('\0') => Err(Error::invalid(name, "\\0", None)),
            Kind::Text => Ok(Value::Text(Cow::Owned(text.to_owned()))),
            Kind::SyncStandbys => {
                SyncStandbys::parse(text).map(|read| Value::Text(Cow::Owned(read.text().to_owned())))
            }
        }
    }

    /// Holds a number to its bounds. Error 22023.
    fn check(self, name: &str, value: Value) -> Result<Value, Error> {
        let (Kind::Int { unit, min, max }, Value::Int(number)) = (self, &value) else {
            return Ok(value);
        };
        if (min..=max).contains(number) {
            return Ok(value);
        }
        let unit = unit.name().map(|unit| format!(" {unit}")).unwrap_or_default();
        Err(Error::plain(
            "22023",
            format!("{number}{unit} is outside the valid range for parameter \"{name}\" ({min} .. {max})"),
        ))
    }

    /// The kind as pg_settings.vartype names it.
    pub fn vartype(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int { .. } => "integer",
            Kind::Enum(_) => "enum",
            Kind::Text | Kind::SyncStandbys => "string",
        }
    }

    /// The canonical words of an enum, in order; empty for other kinds.
    pub fn enum_values(self) -> Vec<&'static str> {
        let Kind::Enum(options) = self else { return Vec::new() };
        let mut words = Vec::new();
        for (_, canonical) in options {
            if !words.contains(canonical) {
                words.push(*canonical);
            }
        }
        words
    }
}

impl Value {
    /// The value in its base unit, without the unit: pg_settings.setting.
    pub fn setting(&self) -> String {
        match self {
            Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
            Value::Int(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
        }
    }

    /// The value as SHOW prints it: a number with the largest unit that divides it.
    pub fn show(&self, kind: Kind) -> String {
        let (Value::Int(number), Kind::Int { unit, .. }) = (self, kind) else { return self.setting() };
        let Some((base, units)) = unit.family().filter(|_| *number > 0) else { return self.setting() };
        let total = number * base;
        for (name, size) in units {
            if total % size == 0 {
                return format!("{}{name}", total / size);
            }
        }
        self.setting()
    }
}

/// Which units there are, for a number that has another one.
fn unit_hint(text: &str, unit: Unit) -> Option<String> {
    unit.hint().filter(|_| text.trim_start().starts_with(|c: char| c.is_ascii_digit()))
}

fn enum_hint(options: &'static [(&'static str, &'static str)]) -> String {
    format!("Available values: {}.", Kind::Enum(options).enum_values().join(", "))
}

/// PostgreSQL's spellings of a Boolean, which may be shortened as long as they stay unique.
pub fn parse_bool(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let shortens = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if shortens("true", 1) || shortens("yes", 1) || text == "on" || text == "1" {
        return Some(true);
    }
    if shortens("false", 1) || shortens("no", 1) || shortens("off", 2) || text == "0" {
        return Some(false);
    }
    None
}

/// A number with an optional fraction and unit, in base units, rounded to the nearest.
pub fn parse_number(text: &str, unit: Unit) -> Option<i64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return Some(number);
    }
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, unit_name) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let unit_name = unit_name.trim();
    let factor = if unit_name.is_empty() {
        1.0
    } else {
        let (base, units) = unit.family()?;
        let (_, size) = units.iter().find(|(name, _)| *name == unit_name)?;
        *size as f64 / base as f64
    };
    let number = (number * factor).round();
    // Far beyond every row's bounds, and still exact in an i64.
    (number.abs() < 9.0e15).then_some(number as i64)
}

/// A type that a field of [`crate::Settings`] may have, and how it stands for a [`Value`].
pub trait Field: Sized {
    /// From a value that the row's kind has accepted.
    fn from_value(value: &Value, kind: Kind) -> Self;
    /// Back to the value.
    fn to_value(&self, kind: Kind) -> Value;
}

impl Field for bool {
    fn from_value(value: &Value, _: Kind) -> bool {
        *value == Value::Bool(true)
    }
    fn to_value(&self, _: Kind) -> Value {
        Value::Bool(*self)
    }
}

impl Field for String {
    fn from_value(value: &Value, _: Kind) -> String {
        value.setting()
    }
    fn to_value(&self, _: Kind) -> Value {
        Value::Text(Cow::Owned(self.clone()))
    }
}

fn number(value: &Value) -> i64 {
    let Value::Int(number) = value else { panic!("a row of kind Int holds an Int") };
    *number
}

/// Bytes or microseconds in one base unit; 1 for a count.
fn base(kind: Kind) -> i64 {
    match kind {
        Kind::Int { unit, .. } => unit.family().map_or(1, |(base, _)| base),
        Kind::Bool | Kind::Enum(_) | Kind::Text | Kind::SyncStandbys => 1,
    }
}

impl Field for i64 {
    fn from_value(value: &Value, _: Kind) -> i64 {
        number(value)
    }
    fn to_value(&self, _: Kind) -> Value {
        Value::Int(*self)
    }
}

/// Counts and sizes: a size is in bytes here, whatever its base unit.
impl Field for u64 {
    fn from_value(value: &Value, kind: Kind) -> u64 {
        u64::try_from(number(value) * base(kind)).expect("the row's minimum is not negative")
    }
    fn to_value(&self, kind: Kind) -> Value {
        Value::Int(i64::try_from(*self).expect("set within the row's bounds") / base(kind))
    }
}

impl Field for usize {
    fn from_value(value: &Value, kind: Kind) -> usize {
        usize::try_from(u64::from_value(value, kind)).expect("the row's maximum fits")
    }
    fn to_value(&self, kind: Kind) -> Value {
        (*self as u64).to_value(kind)
    }
}

impl Field for u16 {
    fn from_value(value: &Value, _: Kind) -> u16 {
        u16::try_from(number(value)).expect("the row's bounds fit")
    }
    fn to_value(&self, _: Kind) -> Value {
        Value::Int(i64::from(*self))
    }
}

impl Field for Duration {
    fn from_value(value: &Value, kind: Kind) -> Duration {
        Duration::from_micros(u64::from_value(value, kind))
    }
    fn to_value(&self, kind: Kind) -> Value {
        u64::try_from(self.as_micros()).expect("set within the row's bounds").to_value(kind)
    }
}

/// A size without a bound at -1.
impl Field for Option<u64> {
    fn from_value(value: &Value, kind: Kind) -> Option<u64> {
        u64::try_from(number(value) * base(kind)).ok()
    }
    fn to_value(&self, kind: Kind) -> Value {
        self.map_or(Value::Int(-1), |size| size.to_value(kind))
    }
}

/// A time that 0 turns off.
impl Field for Option<Duration> {
    fn from_value(value: &Value, kind: Kind) -> Option<Duration> {
        Some(Duration::from_value(value, kind)).filter(|duration| !duration.is_zero())
    }
    fn to_value(&self, kind: Kind) -> Value {
        self.unwrap_or_default().to_value(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Kind = Kind::Int { unit: Unit::Milliseconds, min: 0, max: i32::MAX as i64 };
    const PAGES: Kind = Kind::Int { unit: Unit::Pages, min: 4, max: 262_143 };

    #[test]
    fn numbers_are_read_in_any_unit_of_their_family() {
        for (kind, text, expected) in [
            (MS, "60s", 60_000),
            (MS, "1min", 60_000),
            (MS, " 1.5 h ", 5_400_000),
            (MS, "1500us", 2),
            (MS, "250", 250),
            (MS, "0", 0),
            (PAGES, "16MB", 2048),
            (PAGES, "64kB", 8),
            (PAGES, "2048", 2048),
        ] {
            assert_eq!(kind.parse("x", text), Ok(Value::Int(expected)), "{text}");
        }
    }

    #[test]
    fn wrong_values_are_refused_as_postgresql_words_it() {
        for (kind, text, message) in [
            (MS, "ten", "invalid value for parameter \"x\": \"ten\""),
            (MS, "10MB", "invalid value for parameter \"x\": \"10MB\""),
            (MS, "10 S", "invalid value for parameter \"x\": \"10 S\""),
            (MS, "-1", "-1 ms is outside the valid range for parameter \"x\" (0 .. 2147483647)"),
            (PAGES, "1TB", "134217728 8kB is outside the valid range for parameter \"x\" (4 .. 262143)"),
            (MS, "1e99", "invalid value for parameter \"x\": \"1e99\""),
            (Kind::Bool, "maybe", "parameter \"x\" requires a Boolean value"),
            (Kind::Bool, "o", "parameter \"x\" requires a Boolean value"),
            (Kind::Enum(&[("a", "a"), ("b", "b")]), "c", "invalid value for parameter \"x\": \"c\""),
        ] {
            let error = kind.parse("x", text).unwrap_err();
            assert_eq!((error.message.as_str(), error.sqlstate), (message, "22023"), "{text}");
        }
        assert_eq!(MS.parse("x", "ten").unwrap_err().hint, None);
        let hint = MS.parse("x", "1 week").unwrap_err().hint.unwrap();
        assert_eq!(
            hint,
            "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\"."
        );
        let hint =
            Kind::Enum(&[("a", "a"), ("b", "b"), ("c", "b")]).parse("x", "d").unwrap_err().hint.unwrap();
        assert_eq!(hint, "Available values: a, b.");
    }

    #[test]
    fn numbers_are_shown_in_the_largest_unit_that_divides_them() {
        for (kind, number, shown) in [
            (MS, 60_000, "1min"),
            (MS, 90_000, "90s"),
            (MS, 86_400_000, "1d"),
            (MS, 1, "1ms"),
            (MS, 0, "0"),
            (PAGES, 2048, "16MB"),
            (PAGES, 5, "40kB"),
        ] {
            assert_eq!(Value::Int(number).show(kind), shown);
        }
        assert_eq!(Value::Bool(true).show(Kind::Bool), "on");
    }

    #[test]
    fn booleans_may_be_shortened() {
        for text in ["t", "TRUE", "tr", "y", "yes", "on", "1"] {
            assert_eq!(parse_bool(text), Some(true), "{text}");
        }
        for text in ["f", "no", "n", "of", "off", "0"] {
            assert_eq!(parse_bool(text), Some(false), "{text}");
        }
        assert_eq!(parse_bool(""), None);
    }
}
