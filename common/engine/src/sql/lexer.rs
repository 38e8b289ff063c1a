//! Cuts SQL text into tokens: only as much as splitting and rewriting need, and always the way PostgreSQL would.
//!
//! Comments and white space yield no token. The tokens keep their place in the text, so everything downstream works on
//! slices of it.

use crate::error::{SqlError, SqlState};

/// A token and where it stands (bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// An unquoted identifier or keyword
    Word,
    /// `"x"`, also SQLite's `` `x` ``
    Quoted,
    /// `'x'`
    Text,
    /// `E'x'`
    EscapeText,
    /// `$tag$x$tag$`
    DollarText,
    /// `x'00'`
    Blob,
    Number,
    /// `$1`, `?`, `?1`, `:name`, `@name`
    Parameter,
    /// `::`
    Cast,
    /// `;`
    Semicolon,
    Open,
    Close,
    /// Any other sign, one character each
    Sign,
}

impl Token {
    pub(crate) fn text<'a>(&self, source: &'a str) -> &'a str {
        &source[self.start..self.end]
    }

    pub(crate) fn is_word(&self, source: &str, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text(source).eq_ignore_ascii_case(word)
    }

    pub(crate) fn is_sign(&self, source: &str, sign: &str) -> bool {
        self.kind == TokenKind::Sign && self.text(source) == sign
    }

    /// A name as it is stored: unquoted if it was quoted, lower case if not.
    pub(crate) fn name(&self, source: &str) -> String {
        let text = self.text(source);
        match self.kind {
            TokenKind::Quoted => {
                let quote = &text[..1];
                text[1..text.len() - 1].replace(&quote.repeat(2), quote)
            }
            _ => text.to_ascii_lowercase(),
        }
    }
}

pub(crate) fn lex(source: &str) -> Result<Vec<Token>, SqlError> {
    // SQLite takes a zero byte for the end of the text: what follows would be ignored in silence.
    if let Some(zero) = source.bytes().position(|byte| byte == 0) {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "query contains a zero byte").at(zero));
    }
    let mut lexer = Lexer { source, bytes: source.as_bytes(), at: 0 };
    let mut tokens = Vec::with_capacity(source.len() / 6 + 4);
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn next(&mut self) -> Result<Option<Token>, SqlError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(&first) = self.bytes.get(start) else { return Ok(None) };
        let kind = match first {
            b'\'' => self.quoted(b'\'', false, TokenKind::Text)?,
            b'"' | b'`' => self.quoted(first, false, TokenKind::Quoted)?,
            b'e' | b'E' if self.peek(1) == b'\'' => {
                self.at += 1;
                self.quoted(b'\'', true, TokenKind::EscapeText)?
            }
            b'x' | b'X' if self.peek(1) == b'\'' => {
                self.at += 1;
                self.quoted(b'\'', false, TokenKind::Blob)?
            }
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b'$' => self.dollar()?,
            b'?' => self.parameter(),
            b':' | b'@' if is_word_start(self.peek(1)) => self.parameter(),
            b':' if self.peek(1) == b':' => self.take(2, TokenKind::Cast),
            b';' => self.take(1, TokenKind::Semicolon),
            b'(' => self.take(1, TokenKind::Open),
            b')' => self.take(1, TokenKind::Close),
            _ if is_word_start(first) => {
                self.skip_while(is_word_part);
                TokenKind::Word
            }
            _ => self.take(1, TokenKind::Sign),
        };
        Ok(Some(Token { kind, start, end: self.at }))
    }

    fn take(&mut self, bytes: usize, kind: TokenKind) -> TokenKind {
        self.at += bytes;
        kind
    }

    fn skip_while(&mut self, belongs: impl Fn(u8) -> bool) {
        while self.bytes.get(self.at).is_some_and(|&byte| belongs(byte)) {
            self.at += 1;
        }
    }

    /// White space and comments; block comments nest, as in PostgreSQL.
    fn skip_blank(&mut self) -> Result<(), SqlError> {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace() || byte == 0x0b);
            if self.peek(0) == b'-' && self.peek(1) == b'-' {
                self.skip_while(|byte| byte != b'\n');
            } else if self.peek(0) == b'/' && self.peek(1) == b'*' {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), SqlError> {
        let (start, mut depth) = (self.at, 0_usize);
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ if self.at >= self.bytes.len() => return Err(self.unterminated("/* comment", start)),
                _ => self.at += 1,
            }
        }
    }

    /// A string whose quote stands at the current place; a doubled quote belongs to it, with `escapes` also `\'`.
    fn quoted(&mut self, quote: u8, escapes: bool, kind: TokenKind) -> Result<TokenKind, SqlError> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None if kind == TokenKind::Quoted => {
                    return Err(self.unterminated("quoted identifier", start));
                }
                None => return Err(self.unterminated("quoted string", start)),
                Some(b'\\') if escapes => self.at += 2,
                Some(&byte) if byte == quote && self.peek(1) == quote => self.at += 2,
                Some(&byte) if byte == quote => {
                    self.at += 1;
                    return Ok(kind);
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> TokenKind {
        if self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X') {
            self.at += 2;
            self.skip_while(|byte| byte.is_ascii_hexdigit());
            return TokenKind::Number;
        }
        self.skip_while(|byte| byte.is_ascii_digit() || byte == b'_' || byte == b'.');
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.skip_while(|byte| byte.is_ascii_digit());
            }
        }
        TokenKind::Number
    }

    fn parameter(&mut self) -> TokenKind {
        self.at += 1;
        self.skip_while(is_word_part);
        TokenKind::Parameter
    }

    /// `$1`, or a dollar-quoted string.
    fn dollar(&mut self) -> Result<TokenKind, SqlError> {
        if self.peek(1).is_ascii_digit() {
            return Ok(self.parameter());
        }
        let start = self.at;
        self.at += 1;
        self.skip_while(|byte| is_word_part(byte) && byte != b'$');
        if self.peek(0) != b'$' {
            return Err(SqlError::syntax("$").at(start));
        }
        self.at += 1;
        let tag = &self.source[start..self.at];
        let Some(length) = self.source[self.at..].find(tag) else {
            return Err(self.unterminated("dollar-quoted string", start));
        };
        self.at += length + tag.len();
        Ok(TokenKind::DollarText)
    }

    fn unterminated(&self, what: &str, start: usize) -> SqlError {
        let near: String = self.source[start..].chars().take(40).collect();
        SqlError::new(SqlState::SYNTAX_ERROR, format!("unterminated {what} at or near \"{near}\"")).at(start)
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        lex(source).unwrap().iter().map(|token| token.text(source)).collect()
    }

    #[test]
    fn comments_and_strings_are_cut_as_postgresql_does() {
        assert_eq!(texts("a/* x /* y */ ; */b -- c;\n;d"), ["a", "b", ";", "d"]);
        assert_eq!(
            texts("'a''b;' \"q\"\"r\" E'\\';' x'00' $$;$$ $t$ $$ $t$"),
            ["'a''b;'", "\"q\"\"r\"", "E'\\';'", "x'00'", "$$;$$", "$t$ $$ $t$"]
        );
        assert_eq!(
            texts("a::int,1.5e-3,$1,x::text"),
            ["a", "::", "int", ",", "1.5e-3", ",", "$1", ",", "x", "::", "text"]
        );
        assert_eq!(texts("Grüße"), ["Grüße"]);
    }

    #[test]
    fn unterminated_things_are_errors_at_their_start() {
        for (source, message) in [
            ("SELECT 'abc", "unterminated quoted string at or near \"'abc\""),
            ("SELECT \"abc", "unterminated quoted identifier at or near \"\"abc\""),
            ("SELECT /* abc", "unterminated /* comment at or near \"/* abc\""),
            ("SELECT $a$ $b$", "unterminated dollar-quoted string at or near \"$a$ $b$\""),
            ("SELECT E'\\", "unterminated quoted string at or near \"'\\\""),
        ] {
            let error = lex(source).unwrap_err();
            assert_eq!(error.message, message);
            assert!(error.offset.is_some());
        }
    }
}
