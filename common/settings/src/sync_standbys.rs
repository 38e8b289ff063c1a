//! synchronous_standby_names: which standbys a commit waits for.
//!
//! ```text
//! standbys:  list  |  N ( list )  |  FIRST N ( list )  |  ANY N ( list )        a list alone means FIRST 1
//! list:      name { , name }
//! name:      identifier  |  number  |  *  |  "quoted", with "" for a quote
//! ```
//!
//! FIRST and ANY are keywords in any case, unless quoted. An identifier begins with a letter, `_` or a byte beyond ASCII
//! and may go on with digits and `$`. Names are compared with a standby's application_name without regard to (ASCII) case;
//! `*` is any standby. N may be larger than the list is long: several standbys may have one name.
//!
//! Errors are worded as PostgreSQL 15 words them, whose grammar this is (src/backend/replication/syncrep_gram.y and
//! syncrep_scanner.l); differs in: a number beyond 32 bits is the largest one instead of what is left of it.

use std::borrow::Cow;

use crate::error::Error;
use crate::value::{Field, Kind, Value};

/// How the standbys that count are chosen among those that are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The first ones of the list that are there.
    First,
    /// Any of the list.
    Any,
}

/// The setting, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStandbys {
    /// As it was written.
    text: String,
    /// How those that count are chosen.
    pub method: Method,
    /// How many have to have confirmed.
    pub count: u32,
    /// The list; empty: commits wait for nobody.
    pub names: Vec<String>,
}

impl SyncStandbys {
    /// Reads a value. Nothing at all is an empty list.
    ///
    /// # Errors
    /// 22023 with PostgreSQL's message and detail.
    pub fn parse(text: &str) -> Result<SyncStandbys, Error> {
        if text.is_empty() {
            let (method, count) = (Method::First, 1);
            return Ok(SyncStandbys { text: String::new(), method, count, names: Vec::new() });
        }
        let mut parser = Parser { scanner: Scanner { text, at: 0 }, next: Token::End, lexeme: "" };
        let parsed = parser.advance().and_then(|()| parser.standbys());
        let (method, count, names) = parsed.map_err(|detail| {
            let mut error = Error::invalid("synchronous_standby_names", text, None);
            error.detail = Some(detail);
            error
        })?;
        if count == 0 {
            let message = "number of synchronous standbys (0) must be greater than zero";
            return Err(Error::plain("22023", message.to_owned()));
        }
        Ok(SyncStandbys { text: text.to_owned(), method, count, names })
    }

    /// Whether commits wait for nobody.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The priority of a standby of this name, from 1 on: its place in the list (1 for all with ANY); 0: it isn't in it.
    pub fn priority(&self, application_name: &str) -> u32 {
        let matches = |name: &String| name == "*" || name.eq_ignore_ascii_case(application_name);
        match (self.names.iter().position(matches), self.method) {
            (None, _) => 0,
            (Some(_), Method::Any) => 1,
            (Some(place), Method::First) => u32::try_from(place + 1).unwrap_or(u32::MAX),
        }
    }
}

impl Field for SyncStandbys {
    fn from_value(value: &Value, _: Kind) -> SyncStandbys {
        SyncStandbys::parse(&value.setting()).expect("the row accepts what can be read only")
    }
    fn to_value(&self, _: Kind) -> Value {
        Value::Text(Cow::Owned(self.text.clone()))
    }
}

/// What the text is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Number(u32),
    First,
    Any,
    Comma,
    Open,
    Close,
    /// What belongs into no list.
    Junk,
    End,
}

/// Cuts the text into tokens.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next token and its text; or what PostgreSQL would say of a quote that isn't closed.
    fn next(&mut self) -> Result<(Token, &'a str), String> {
        let text = self.text;
        let rest = text[self.at..].trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        self.at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok((Token::End, "")) };
        let (token, length) = match first {
            '"' => quoted(rest).ok_or("unterminated quoted identifier at end of input")?,
            _ if begins_name(first) => {
                let length = rest.find(|c| !continues_name(c)).unwrap_or(rest.len());
                (word(&rest[..length]), length)
            }
            '0'..='9' => {
                let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                (Token::Number(rest[..length].parse().unwrap_or(u32::MAX)), length)
            }
            '*' => (Token::Name("*".to_owned()), 1),
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            other => (Token::Junk, other.len_utf8()),
        };
        self.at += length;
        Ok((token, &rest[..length]))
    }
}

fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues_name(c: char) -> bool {
    begins_name(c) || c.is_ascii_digit() || c == '$'
}

fn word(text: &str) -> Token {
    match text {
        _ if text.eq_ignore_ascii_case("first") => Token::First,
        _ if text.eq_ignore_ascii_case("any") => Token::Any,
        _ => Token::Name(text.to_owned()),
    }
}

/// The quoted name that a text begins with, and its length in the text; none if it isn't closed.
fn quoted(text: &str) -> Option<(Token, usize)> {
    let mut name = String::new();
    let mut at = 1;
    loop {
        let length = text[at..].find('"')?;
        name.push_str(&text[at..at + length]);
        at += length + 1;
        if !text[at..].starts_with('"') {
            return Some((Token::Name(name), at));
        }
        name.push('"');
        at += 1;
    }
}

/// Reads the grammar with one token in hand.
struct Parser<'a> {
    scanner: Scanner<'a>,
    next: Token,
    /// The text of that token.
    lexeme: &'a str,
}

impl Parser<'_> {
    fn standbys(&mut self) -> Result<(Method, u32, Vec<String>), String> {
        let method = match self.next {
            Token::First => Some(Method::First),
            Token::Any => Some(Method::Any),
            _ => None,
        };
        if method.is_some() {
            self.advance()?;
        }
        let Token::Number(count) = self.next else {
            return match method {
                Some(_) => Err(self.syntax_error()),
                None => Ok((Method::First, 1, self.list(None)?)),
            };
        };
        let number = self.lexeme.to_owned();
        self.advance()?;
        if method.is_none() && self.next != Token::Open {
            // A number is a name as well.
            return Ok((Method::First, 1, self.list(Some(number))?));
        }
        self.expect(&Token::Open)?;
        let names = self.names(None)?;
        self.expect(&Token::Close)?;
        self.end()?;
        Ok((method.unwrap_or(Method::First), count, names))
    }

    /// A list that nothing follows.
    fn list(&mut self, first: Option<String>) -> Result<Vec<String>, String> {
        let names = self.names(first)?;
        self.end()?;
        Ok(names)
    }

    /// A list, whose first name may have been read already.
    fn names(&mut self, first: Option<String>) -> Result<Vec<String>, String> {
        let mut names = vec![match first {
            Some(name) => name,
            None => self.name()?,
        }];
        while self.next == Token::Comma {
            self.advance()?;
            names.push(self.name()?);
        }
        Ok(names)
    }

    fn name(&mut self) -> Result<String, String> {
        let name = match &self.next {
            Token::Name(name) => name.clone(),
            Token::Number(_) => self.lexeme.to_owned(),
            _ => return Err(self.syntax_error()),
        };
        self.advance()?;
        Ok(name)
    }

    fn expect(&mut self, token: &Token) -> Result<(), String> {
        if self.next != *token {
            return Err(self.syntax_error());
        }
        self.advance()
    }

    fn end(&self) -> Result<(), String> {
        if self.next == Token::End { Ok(()) } else { Err(self.syntax_error()) }
    }

    fn advance(&mut self) -> Result<(), String> {
        (self.next, self.lexeme) = self.scanner.next()?;
        Ok(())
    }

    fn syntax_error(&self) -> String {
        match self.lexeme {
            "" => "syntax error at end of input".to_owned(),
            lexeme => format!("syntax error at or near \"{lexeme}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_postgresqls() {
        let first = |count, names: &[&'static str]| (Method::First, count, names.to_vec());
        let any = |count, names: &[&'static str]| (Method::Any, count, names.to_vec());
        for (text, expected) in [
            ("a", first(1, &["a"])),
            ("a,b", first(1, &["a", "b"])),
            (" a ,\n\tb\x0b ", first(1, &["a", "b"])),
            ("*,a", first(1, &["*", "a"])),
            ("2", first(1, &["2"])),
            ("1,2", first(1, &["1", "2"])),
            ("2 (1,2)", first(2, &["1", "2"])),
            ("FIRST 2 (a)", first(2, &["a"])),
            ("first 1(_a$1, é)", first(1, &["_a$1", "é"])),
            ("any 1 (*)", any(1, &["*"])),
            ("ANY 2 (a, \"ANY\")", any(2, &["a", "ANY"])),
            ("\"FIRST\"", first(1, &["FIRST"])),
            ("\"x\"\"y\", \"\", \"a b,c\"", first(1, &["x\"y", "", "a b,c"])),
            ("99999999999 (a)", first(u32::MAX, &["a"])),
        ] {
            let read = SyncStandbys::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((read.method, read.count), (expected.0, expected.1), "{text}");
            assert_eq!(read.names, expected.2, "{text}");
            assert_eq!(read.text(), text);
        }
        assert!(SyncStandbys::parse("").unwrap().is_empty());
    }

    #[test]
    fn errors_are_worded_as_postgresql_words_them() {
        for (text, detail) in [
            (" ", "syntax error at end of input"),
            ("a b", "syntax error at or near \"b\""),
            ("\"x", "unterminated quoted identifier at end of input"),
            ("a, \"x\"\"", "unterminated quoted identifier at end of input"),
            ("a,", "syntax error at end of input"),
            (",a", "syntax error at or near \",\""),
            ("a-b", "syntax error at or near \"-\""),
            ("1 (a", "syntax error at end of input"),
            ("FIRST (a)", "syntax error at or near \"(\""),
            ("FIRST 1 a", "syntax error at or near \"a\""),
            ("FIRST", "syntax error at end of input"),
            ("ANY", "syntax error at end of input"),
            ("first, any", "syntax error at or near \",\""),
            ("a, any", "syntax error at or near \"any\""),
            ("**", "syntax error at or near \"*\""),
            ("$a", "syntax error at or near \"$\""),
            ("1a", "syntax error at or near \"a\""),
            ("-1 (a)", "syntax error at or near \"-\""),
            ("a.b", "syntax error at or near \".\""),
            ("2 (a) b", "syntax error at or near \"b\""),
            ("2 ()", "syntax error at or near \")\""),
            ("a;", "syntax error at or near \";\""),
        ] {
            let error = SyncStandbys::parse(text).unwrap_err();
            let message = format!("invalid value for parameter \"synchronous_standby_names\": \"{text}\"");
            assert_eq!((error.message, error.detail.as_deref()), (message, Some(detail)), "{text}");
        }
        for text in ["ANY 0 (a)", "0 (a)", "first 00 (a)"] {
            let error = SyncStandbys::parse(text).unwrap_err();
            assert_eq!(error.message, "number of synchronous standbys (0) must be greater than zero");
            assert_eq!((error.detail, error.sqlstate), (None, "22023"));
        }
    }

    #[test]
    fn priority_is_the_place_in_the_list_and_1_with_any() {
        let read = |text| SyncStandbys::parse(text).unwrap();
        for (text, name, priority) in [
            ("a,b", "a", 1),
            ("a,b", "B", 2),
            ("a,b", "c", 0),
            ("a,b,*", "c", 3),
            ("a,A,b", "a", 1),
            ("\"*\"", "c", 1),
            ("ANY 1 (a,b)", "b", 1),
            ("ANY 1 (a,b)", "c", 0),
            ("", "a", 0),
            ("\"\"", "", 1),
        ] {
            assert_eq!(read(text).priority(name), priority, "{name} in {text}");
        }
    }
}
