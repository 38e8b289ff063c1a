//! Turns what PostgreSQL writes otherwise into SQLite's words; a statement without any of it is passed on as it is.
//!
//! | PostgreSQL | SQLite |
//! |---|---|
//! | `a.b::int` | `CAST(a.b AS INTEGER)`; bool by our own function, which knows `'on'` from `'maybe'` |
//! | `CAST(x AS pg_lsn)` | `CAST(x AS TEXT)` |
//! | `E'a\n'`, `$$a$$` | an ordinary string |
//! | `pg_catalog.f()`, `public.t` | without the schema |
//! | `current_user` | `current_user()` |
//! | `TRUNCATE a` | `DELETE FROM a`, by the writer itself ([`truncate`]): the tag is another |
//! | `SELECT pg_listening_channels()` | `SELECT pg_listening_channels FROM pg_listening_channels`: a set, not a value |
//! | `EXPLAIN x` | `EXPLAIN QUERY PLAN x` |
//! | `TABLE t` | `SELECT * FROM t` |
//! | a comment | a space: PostgreSQL's nest, SQLite's don't |

use std::borrow::Cow;

use super::lexer::{Token, TokenKind};
use super::{Kind, keywords};
use crate::error::{SqlError, SqlState};
use crate::types::Type;

/// The rewritten text, and (offset in it, offset in the query) of every piece taken from the query.
pub(crate) type Rewritten<'a> = (Cow<'a, str>, Vec<(usize, usize)>);

pub(crate) fn rewrite<'a>(query: &'a str, tokens: &[Token], kind: &Kind) -> Result<Rewritten<'a>, SqlError> {
    let (start, end) = (tokens[0].start, tokens[tokens.len() - 1].end);
    if !needs_rewriting(query, tokens) {
        return Ok((Cow::Borrowed(&query[start..end]), Vec::new()));
    }
    let casts = tokens.iter().filter(|t| t.kind == TokenKind::Cast || t.is_word(query, "cast")).count();
    if casts > CASTS_MAX {
        return Err(too_complex());
    }
    let mut rewriter = Rewriter { query, tokens, at: 0, depth: 0, out: Vec::with_capacity(tokens.len() + 8) };
    rewriter.head(kind)?;
    rewriter.rest(kind)?;
    Ok(rewriter.text())
}

/// `TRUNCATE [TABLE] [ONLY] a` as SQLite can run it.
pub(crate) fn truncate(query: &str, tokens: &[Token]) -> Result<String, SqlError> {
    let named = tokens.iter().skip(1).skip_while(|t| t.is_word(query, "table") || t.is_word(query, "only"));
    let mut named = named.peekable();
    let Some(first) = named.peek().copied() else { return Err(SqlError::syntax("TRUNCATE").at(0)) };
    if named.any(|token| token.is_sign(query, ",")) {
        return Err(SqlError::unsupported("TRUNCATE of several tables", "Use one TRUNCATE for each."));
    }
    Ok(format!("DELETE FROM {}", &query[first.start..tokens[tokens.len() - 1].end]))
}

fn needs_rewriting(query: &str, tokens: &[Token]) -> bool {
    let text = &query[tokens[0].start..tokens[tokens.len() - 1].end];
    if text.contains("--") || text.contains("/*") || is_list_of_channels(query, tokens) {
        return true;
    }
    tokens.iter().enumerate().any(|(at, token)| match token.kind {
        TokenKind::Cast | TokenKind::EscapeText | TokenKind::DollarText => true,
        TokenKind::Word => {
            let word = token.text(query);
            at == 0 && ["explain", "table", "analyse"].iter().any(|w| w.eq_ignore_ascii_case(word))
                || is_schema(word)
                || word.eq_ignore_ascii_case("cast")
                || keywords::is_called_bare(word)
        }
        _ => false,
    })
}

/// Whether the statement is nothing but the call of the one function that returns a set.
fn is_list_of_channels(query: &str, tokens: &[Token]) -> bool {
    let tokens = match tokens {
        [select, schema, dot, rest @ ..]
            if schema.is_word(query, "pg_catalog") && dot.is_sign(query, ".") =>
        {
            [std::slice::from_ref(select), rest].concat()
        }
        _ if tokens.len() == 4 => tokens.to_vec(),
        _ => return false,
    };
    matches!(tokens[..], [select, function, open, close]
        if select.is_word(query, "select")
            && function.is_word(query, "pg_listening_channels")
            && open.kind == TokenKind::Open
            && close.kind == TokenKind::Close)
}

fn is_schema(word: &str) -> bool {
    word.eq_ignore_ascii_case("pg_catalog") || word.eq_ignore_ascii_case("public")
}

/// Most casts in one statement: each looks back for its operand.
const CASTS_MAX: usize = 10_000;

/// Most CASTs inside of each other: each is a call of ours.
const CAST_DEPTH_MAX: usize = 100;

fn too_complex() -> SqlError {
    SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement has too many casts")
}

/// A piece of the new text.
struct Piece<'a> {
    text: Cow<'a, str>,
    kind: PieceKind,
    /// Where it was taken from.
    from: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum PieceKind {
    /// `(`, or a call of ours that ends in one
    Open,
    Close,
    Word,
    Dot,
    Other,
}

struct Rewriter<'a, 't> {
    query: &'a str,
    tokens: &'t [Token],
    at: usize,
    /// CASTs around it.
    depth: usize,
    out: Vec<Piece<'a>>,
}

impl<'a> Rewriter<'a, '_> {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn peek_is(&self, ahead: usize, word: &str) -> bool {
        self.peek(ahead).is_some_and(|token| token.is_word(self.query, word))
    }

    fn push_own(&mut self, text: &'static str, kind: PieceKind) {
        self.out.push(Piece { text: Cow::Borrowed(text), kind, from: None });
    }

    /// Statements that begin otherwise in SQLite.
    fn head(&mut self, kind: &Kind) -> Result<(), SqlError> {
        if matches!(kind, Kind::Explain) {
            self.at = 1;
            if self.peek_is(0, "query") && self.peek_is(1, "plan") {
                self.at = 3;
            }
            self.push_own("EXPLAIN QUERY PLAN", PieceKind::Other);
        } else if self.peek_is(0, "analyse") {
            self.at = 1;
            self.push_own("ANALYZE", PieceKind::Other);
        } else if is_list_of_channels(self.query, self.tokens) {
            self.at = self.tokens.len();
            self.push_own("SELECT pg_listening_channels FROM pg_listening_channels", PieceKind::Other);
        } else if self.peek_is(0, "table") {
            self.at = 1;
            self.push_own("SELECT * FROM", PieceKind::Other);
        }
        Ok(())
    }

    fn rest(&mut self, kind: &Kind) -> Result<(), SqlError> {
        while let Some(&token) = self.tokens.get(self.at) {
            match token.kind {
                TokenKind::Cast => {
                    self.at += 1;
                    self.postfix_cast(token)?;
                    continue;
                }
                TokenKind::EscapeText | TokenKind::DollarText => self.string(token)?,
                TokenKind::Word if self.is_schema_prefix(token) => {
                    self.at += 2;
                    continue;
                }
                TokenKind::Word if token.is_word(self.query, "cast") && self.is_call() => {
                    self.cast_call(token)?
                }
                TokenKind::Word if !matches!(kind, Kind::Ddl(_)) && self.is_bare_call(token) => {
                    self.copy(token);
                    self.push_own("(", PieceKind::Open);
                    self.push_own(")", PieceKind::Close);
                }
                _ => self.copy(token),
            }
            self.at += 1;
        }
        Ok(())
    }

    fn copy(&mut self, token: Token) {
        let kind = match token.kind {
            TokenKind::Open => PieceKind::Open,
            TokenKind::Close => PieceKind::Close,
            TokenKind::Word | TokenKind::Quoted => PieceKind::Word,
            TokenKind::Sign if token.text(self.query) == "." => PieceKind::Dot,
            _ => PieceKind::Other,
        };
        self.out.push(Piece { text: Cow::Borrowed(token.text(self.query)), kind, from: Some(token.start) });
    }

    fn is_call(&self) -> bool {
        self.peek(1).is_some_and(|token| token.kind == TokenKind::Open)
    }

    fn is_schema_prefix(&self, token: Token) -> bool {
        is_schema(token.text(self.query))
            && self.peek(1).is_some_and(|dot| dot.is_sign(self.query, "."))
            && self.out.last().is_none_or(|piece| piece.kind != PieceKind::Dot)
    }

    fn is_bare_call(&self, token: Token) -> bool {
        keywords::is_called_bare(token.text(self.query))
            && self.peek(1).is_none_or(|next| next.kind != TokenKind::Open && !next.is_sign(self.query, "."))
            && self.out.last().is_none_or(|piece| piece.kind != PieceKind::Dot)
    }

    /// `… ::type`: wraps the operand that was just put out.
    fn postfix_cast(&mut self, token: Token) -> Result<(), SqlError> {
        let target = self.type_name(token)?;
        let start = self.operand_start().ok_or_else(|| self.unexpected(token))?;
        let (before, after) = target.words();
        self.out.insert(start, Piece { text: Cow::Borrowed(before), kind: PieceKind::Open, from: None });
        self.push_own(after, PieceKind::Close);
        Ok(())
    }

    /// `CAST(x AS type)`: the type stands before the parenthesis that closes it.
    fn cast_call(&mut self, token: Token) -> Result<(), SqlError> {
        let (mut depth, mut as_at) = (0_usize, None);
        for (ahead, inner) in self.tokens[self.at..].iter().enumerate() {
            match inner.kind {
                TokenKind::Open => depth += 1,
                TokenKind::Close if depth == 1 => break,
                TokenKind::Close => depth -= 1,
                TokenKind::Word if depth == 1 && inner.is_word(self.query, "as") => {
                    as_at = Some(self.at + ahead)
                }
                _ => {}
            }
        }
        let as_at = as_at.ok_or_else(|| self.unexpected(token))?;
        let tokens = self.tokens;
        let operand = tokens.get(self.at + 2..as_at).ok_or_else(|| self.unexpected(token))?;
        if self.depth == CAST_DEPTH_MAX {
            return Err(too_complex());
        }
        let depth = self.depth + 1;
        let mut inner = Rewriter { query: self.query, tokens: operand, at: 0, depth, out: Vec::new() };
        inner.rest(&Kind::Read)?;
        self.at = as_at + 1;
        let target = self.type_name(token)?;
        let (before, after) = target.words();
        self.push_own(before, PieceKind::Open);
        self.out.append(&mut inner.out);
        self.push_own(after, PieceKind::Close);
        // The closing parenthesis is the one that `words` brought.
        if self.peek(0).is_none_or(|close| close.kind != TokenKind::Close) {
            return Err(self.unexpected(token));
        }
        Ok(())
    }

    /// Reads a type's name at the current place and goes behind it.
    fn type_name(&mut self, cast: Token) -> Result<Target, SqlError> {
        if self.peek(0).is_some_and(|token| is_schema(token.text(self.query)))
            && self.peek(1).is_some_and(|dot| dot.is_sign(self.query, "."))
        {
            self.at += 2;
        }
        let Some(&first) = self.peek(0).filter(|t| matches!(t.kind, TokenKind::Word | TokenKind::Quoted))
        else {
            return Err(self.unexpected(cast));
        };
        let mut name = first.name(self.query);
        self.at += 1;
        for more in ["precision", "varying"] {
            if self.peek_is(0, more) {
                name = format!("{name} {more}");
                self.at += 1;
            }
        }
        self.skip_parentheses();
        if (self.peek_is(0, "with") || self.peek_is(0, "without"))
            && self.peek_is(1, "time")
            && self.peek_is(2, "zone")
        {
            let with = self.tokens[self.at].name(self.query);
            name = format!("{name} {with} time zone");
            self.at += 3;
        }
        if self.peek(0).is_some_and(|token| token.is_sign(self.query, "[")) {
            return Err(SqlError::unsupported("arrays", "Use a table, or JSON."));
        }
        Target::of(&name).ok_or_else(|| {
            SqlError::new(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"))
                .at(first.start)
        })
    }

    fn skip_parentheses(&mut self) {
        if self.peek(0).is_some_and(|token| token.kind == TokenKind::Open) {
            while self.peek(0).is_some_and(|token| token.kind != TokenKind::Close) {
                self.at += 1;
            }
            self.at += 1;
        }
    }

    /// Where in `out` the operand of a `::` begins: a literal, a name with its dots, a call, parentheses, CASE … END.
    fn operand_start(&self) -> Option<usize> {
        let last = self.out.len().checked_sub(1)?;
        let start = match self.out[last].kind {
            PieceKind::Close => {
                let open = self.matching_open(last)?;
                let called = open.checked_sub(1).filter(|&before| {
                    self.out[open].from.is_some()
                        && self.out[before].kind == PieceKind::Word
                        && !keywords::stands_before_parenthesis(&self.out[before].text)
                });
                called.unwrap_or(open)
            }
            PieceKind::Word if self.out[last].text.eq_ignore_ascii_case("end") => self.matching_case(last)?,
            PieceKind::Word | PieceKind::Other => last,
            PieceKind::Open | PieceKind::Dot => return None,
        };
        Some(self.before_dots(start))
    }

    fn matching_open(&self, close: usize) -> Option<usize> {
        let mut depth = 0_usize;
        (0..=close).rev().find(|&at| {
            match self.out[at].kind {
                PieceKind::Close => depth += 1,
                PieceKind::Open => depth -= 1,
                _ => {}
            }
            depth == 0
        })
    }

    fn matching_case(&self, end: usize) -> Option<usize> {
        let mut depth = 0_usize;
        (0..=end).rev().find(|&at| {
            if self.out[at].kind == PieceKind::Word {
                if self.out[at].text.eq_ignore_ascii_case("end") {
                    depth += 1;
                } else if self.out[at].text.eq_ignore_ascii_case("case") {
                    depth -= 1;
                }
            }
            depth == 0
        })
    }

    fn before_dots(&self, mut start: usize) -> usize {
        while start >= 2
            && self.out[start].kind == PieceKind::Word
            && self.out[start - 1].kind == PieceKind::Dot
            && self.out[start - 2].kind == PieceKind::Word
        {
            start -= 2;
        }
        start
    }

    /// `E''` and `$$`: an ordinary string with the same content.
    fn string(&mut self, token: Token) -> Result<(), SqlError> {
        let content = string_content(self.query, token)?;
        let quoted = format!("'{}'", content.replace('\'', "''"));
        self.out.push(Piece { text: Cow::Owned(quoted), kind: PieceKind::Other, from: Some(token.start) });
        Ok(())
    }

    fn unexpected(&self, token: Token) -> SqlError {
        SqlError::syntax(token.text(self.query)).at(token.start)
    }

    /// Joins the pieces: with a space wherever the query had one or a piece is ours.
    fn text(&self) -> Rewritten<'a> {
        let mut text = String::with_capacity(self.query.len() + 32);
        let mut map = Vec::with_capacity(self.out.len());
        let mut end_before = None;
        for piece in &self.out {
            if !text.is_empty()
                && (piece.from.is_none() || piece.from != end_before)
                && needs_space(&text, &piece.text)
            {
                text.push(' ');
            }
            if let Some(from) = piece.from {
                map.push((text.len(), from));
            }
            text.push_str(&piece.text);
            end_before = match piece.text {
                Cow::Borrowed(text) => piece.from.map(|from| from + text.len()),
                Cow::Owned(_) => None,
            };
        }
        (Cow::Owned(text), map)
    }
}

/// What a string constant of any form stands for.
pub(super) fn string_content(query: &str, token: Token) -> Result<String, SqlError> {
    let text = token.text(query);
    match token.kind {
        TokenKind::DollarText => {
            let tag = text[1..].find('$').expect("the lexer saw the tag's end") + 2;
            Ok(text[tag..text.len() - tag].to_owned())
        }
        TokenKind::EscapeText => unescape(&text[2..text.len() - 1]).ok_or_else(|| {
            SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, "invalid escape sequence in string")
                .at(token.start)
        }),
        _ => Ok(text[1..text.len() - 1].replace("''", "'")),
    }
}

/// Pieces that don't touch in the query stay apart; parentheses may touch anything.
fn needs_space(before: &str, next: &str) -> bool {
    !before.ends_with('(') && !next.starts_with(')') && !next.starts_with('(')
}

/// What a cast becomes.
#[derive(Clone, Copy)]
enum Target {
    /// Our own function: SQLite knows no booleans, so `'on'` would become 0.
    Bool,
    Affinity(&'static str),
}

impl Target {
    /// The target of a type's name in lower case.
    fn of(name: &str) -> Option<Target> {
        let affinity = match Type::from_name(name) {
            Some(Type::Bool) => return Some(Target::Bool),
            Some(Type::Int2 | Type::Int4 | Type::Int8 | Type::Oid | Type::Xid) => "AS INTEGER)",
            Some(Type::Float4 | Type::Float8) => "AS REAL)",
            Some(Type::Numeric) => "AS NUMERIC)",
            Some(Type::Bytea) => "AS BLOB)",
            Some(_) => "AS TEXT)",
            None => return None,
        };
        Some(Target::Affinity(affinity))
    }

    /// What stands before and behind the operand.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Target::Bool => ("walship_bool(", ")"),
            Target::Affinity(after) => ("CAST(", after),
        }
    }
}

/// The content of an `E''` string; `None` when an escape is no character.
fn unescape(content: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(content.len());
    let mut chars = content.chars().peekable();
    while let Some(next) = chars.next() {
        if next == '\'' {
            chars.next();
            bytes.push(b'\'');
            continue;
        }
        if next != '\\' {
            bytes.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next()? {
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'x' => bytes.push(u8::try_from(digits(&mut chars, 16, 1, 2, 0)?).ok()?),
            'u' => push_char(&mut bytes, digits(&mut chars, 16, 4, 4, 0)?)?,
            'U' => push_char(&mut bytes, digits(&mut chars, 16, 8, 8, 0)?)?,
            octal @ '0'..='7' => {
                bytes.push(u8::try_from(digits(&mut chars, 8, 0, 2, octal.to_digit(8)?)?).ok()?);
            }
            other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn push_char(bytes: &mut Vec<u8>, code: u32) -> Option<()> {
    bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

fn digits(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    radix: u32,
    fewest: usize,
    most: usize,
    start: u32,
) -> Option<u32> {
    let (mut value, mut count) = (start, 0);
    while count < most
        && let Some(digit) = chars.peek().and_then(|next| next.to_digit(radix))
    {
        value = value * radix + digit;
        count += 1;
        chars.next();
    }
    (count >= fewest).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn rewritten(query: &str) -> String {
        match parse(query) {
            Ok(statements) => statements[0].sql.clone().into_owned(),
            Err(error) => format!("{}: {} at {:?}", error.sqlstate, error.message, error.offset),
        }
    }

    #[test]
    fn statements_are_rewritten_as_the_table_says() {
        for (query, expected) in [
            ("SELECT a  FROM b", "SELECT a  FROM b"),
            ("SELECT 1::int", "SELECT CAST(1 AS INTEGER)"),
            ("SELECT -1::int8,2", "SELECT - CAST(1 AS INTEGER) ,2"),
            ("SELECT a.b::text||'x'::varchar(3)", "SELECT CAST(a.b AS TEXT) || CAST('x' AS TEXT)"),
            ("SELECT f(a,(b))::float8", "SELECT CAST(f(a,(b)) AS REAL)"),
            ("SELECT s.f(a)::numeric(10,2)", "SELECT CAST(s.f(a) AS NUMERIC)"),
            ("SELECT x IN (1)::text", "SELECT x IN CAST((1) AS TEXT)"),
            ("SELECT '0/1'::pg_lsn::text", "SELECT CAST(CAST('0/1' AS TEXT) AS TEXT)"),
            ("SELECT 't'::pg_catalog.bool", "SELECT walship_bool('t')"),
            (
                "SELECT CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END::int",
                "SELECT CAST(CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END AS INTEGER)",
            ),
            ("SELECT now()::timestamp with time zone", "SELECT CAST(now() AS TEXT)"),
            ("SELECT CAST(a::int AS bool)", "SELECT walship_bool(CAST(a AS INTEGER))"),
            ("SELECT CAST((a) AS double precision)", "SELECT CAST((a) AS REAL)"),
            (r"SELECT E'a\n\'b\x41\101'", "SELECT 'a\n''bAA'"),
            ("SELECT $q$it's$q$", "SELECT 'it''s'"),
            ("SELECT pg_catalog.version(), public.kv.a FROM public.kv", "SELECT version(), kv.a FROM kv"),
            ("SELECT current_user, u.current_user", "SELECT current_user() , u.current_user"),
            ("TRUNCATE TABLE kv", "TRUNCATE TABLE kv"),
            ("EXPLAIN SELECT 1", "EXPLAIN QUERY PLAN SELECT 1"),
            ("TABLE kv", "SELECT * FROM kv"),
            ("SELECT 1 -- ;\n- -1/* x /* ' */ */", "SELECT 1 - -1"),
            ("SELECT 1::geometry", "42704: type \"geometry\" does not exist at Some(10)"),
            ("SELECT ::int", "CAST(SELECT AS INTEGER)"),
            ("SELECT 1::int[]", "0A000: arrays is not supported at None"),
            ("SELECT CAST(1)", "42601: syntax error at or near \"CAST\" at Some(7)"),
            ("SELECT CAST", "SELECT CAST"),
        ] {
            assert_eq!(rewritten(query), expected, "{query}");
        }
    }

    #[test]
    fn casts_without_end_are_refused() {
        let nested = format!("SELECT {}1{}", "CAST(".repeat(5000), " AS int)".repeat(5000));
        let chained = format!("SELECT 1{}", "::int".repeat(20_000));
        for query in [nested, chained] {
            assert!(rewritten(&query).starts_with("54001"));
        }
    }

    #[test]
    fn offset_in_rewritten_text_maps_to_the_clients_position() {
        let query = "SELECT 1; SELECT é::text, oops";
        let statements = parse(query).unwrap();
        let second = &statements[1];
        let offset = second.sql.find("oops").unwrap();
        assert_eq!(second.position(query, u32::try_from(offset).unwrap()), 27);
        assert_eq!(statements[0].position(query, 7), 8);
    }
}
