//! Values as the text that PostgreSQL prints for their type.

use std::io::Write;

use crate::change::Value;
use crate::types::Type;

/// Appends a value's text; `false` for NULL, which has none.
pub(crate) fn render(value: Value<'_>, ty: Type, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => return false,
        Value::Integer(number) if ty == Type::Bool => out.push(if number == 0 { b'f' } else { b't' }),
        Value::Integer(number) => write!(out, "{number}").expect("writing to a Vec cannot fail"),
        Value::Real(number) => float(number, out),
        Value::Text(text) if ty == Type::Timestamptz => timestamptz(text, out),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(_) => out.extend_from_slice(text),
            Err(_) => out.extend_from_slice(String::from_utf8_lossy(text).as_bytes()),
        },
        Value::Blob(bytes) => {
            out.extend_from_slice(b"\\x");
            for byte in bytes {
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    true
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// float8out with extra_float_digits = 1: the shortest digits that mean the same number; exponents below -4 and from 15
/// on are written as such.
fn float(number: f64, out: &mut Vec<u8>) {
    if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
        return;
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("LowerExp writes an exponent");
    let exponent: i32 = exponent.parse().expect("LowerExp writes a number");
    if (-4..15).contains(&exponent) {
        write!(out, "{number}").expect("writing to a Vec cannot fail");
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{digits}e{sign}{:02}", exponent.abs()).expect("writing to a Vec cannot fail");
    }
}

/// CURRENT_TIMESTAMP gives UTC without saying so.
fn timestamptz(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(String::from_utf8_lossy(text).as_bytes());
    let bare = text.len() >= 19 && text[4] == b'-' && text[13] == b':';
    if bare && !text[19..].iter().any(|byte| matches!(byte, b'+' | b'-' | b'Z')) {
        out.extend_from_slice(b"+00");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_printed_as_postgresql_does() {
        for (value, ty, expected) in [
            (Value::Integer(0), Type::Bool, "f"),
            (Value::Integer(2), Type::Bool, "t"),
            (Value::Integer(i64::MIN), Type::Int8, "-9223372036854775808"),
            (Value::Real(1.0), Type::Float8, "1"),
            (Value::Real(-0.0), Type::Float8, "-0"),
            (Value::Real(0.1), Type::Float8, "0.1"),
            (Value::Real(1e14), Type::Float8, "100000000000000"),
            (Value::Real(1e15), Type::Float8, "1e+15"),
            (Value::Real(1.5e300), Type::Float8, "1.5e+300"),
            (Value::Real(0.0001), Type::Float8, "0.0001"),
            (Value::Real(0.00001), Type::Float8, "1e-05"),
            (Value::Real(f64::NEG_INFINITY), Type::Float8, "-Infinity"),
            (Value::Blob(&[0, 0xab]), Type::Bytea, "\\x00ab"),
            (Value::Text(b"a\xff"), Type::Text, "a\u{fffd}"),
            (Value::Text(b"2026-11-21 02:25:23"), Type::Timestamptz, "2026-11-21 02:25:23+00"),
            (Value::Text(b"2026-11-21 02:25:23.5+00"), Type::Timestamptz, "2026-11-21 02:25:23.5+00"),
        ] {
            let mut out = Vec::new();
            assert!(render(value, ty, &mut out));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        assert!(!render(Value::Null, Type::Text, &mut Vec::new()));
    }
}
