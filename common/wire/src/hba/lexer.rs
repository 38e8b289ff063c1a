//! The words of pg_hba.conf: lines, and in a line fields, each a list of words with commas between them.

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// It was in quotes, at least in part: no keyword.
    pub(super) quoted: bool,
}

/// The lines of a file with their numbers. A backslash at the end takes the next line in.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (u32, String)> {
    let mut lines = (1..).zip(text.lines());
    std::iter::from_fn(move || {
        let (number, first) = lines.next()?;
        let mut whole = first.to_owned();
        while let Some(continued) = whole.strip_suffix('\\') {
            whole.truncate(continued.len());
            let Some((_, next)) = lines.next() else { break };
            whole.push_str(next);
        }
        Some((number, whole))
    })
}

/// The fields of a line; none for an empty one or a comment.
pub(super) fn fields(line: &str) -> Result<Vec<Vec<Token>>, String> {
    let mut rest = line;
    let mut fields = Vec::new();
    loop {
        let mut field = Vec::new();
        loop {
            rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with('#') {
                break;
            }
            let (token, after, comma) = token(rest)?;
            field.extend(token);
            rest = after;
            if !comma {
                break;
            }
        }
        if field.is_empty() {
            return Ok(fields);
        }
        fields.push(field);
    }
}

/// The word at the start of `text`, what follows it, and whether a comma ended it. Between two commas there is none.
fn token(text: &str) -> Result<(Option<Token>, &str, bool), String> {
    let mut token = Token { text: String::new(), quoted: false };
    let mut in_quotes = false;
    let some = |token: Token| Some(token).filter(|token| token.quoted || !token.text.is_empty());
    for (at, char) in text.char_indices() {
        match char {
            '"' => {
                in_quotes = !in_quotes;
                token.quoted = true;
            }
            ',' if !in_quotes => return Ok((some(token), &text[at + 1..], true)),
            '#' if !in_quotes => return Ok((some(token), "", false)),
            _ if char.is_whitespace() && !in_quotes => return Ok((some(token), &text[at..], false)),
            _ => token.text.push(char),
        }
    }
    if in_quotes {
        return Err("unterminated quoted string".to_owned());
    }
    Ok((some(token), "", false))
}
