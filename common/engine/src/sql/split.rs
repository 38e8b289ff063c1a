//! Where a statement of a simple query ends: at its semicolon, but for the body of CREATE TRIGGER, which has semicolons
//! of its own and ends with `END` behind one of them.

use super::lexer::{Token, TokenKind};

/// The statements' tokens, without the semicolons between them and without empty statements.
pub(crate) fn statements<'t>(source: &str, tokens: &'t [Token]) -> Vec<&'t [Token]> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, token) in tokens.iter().enumerate() {
        if token.kind == TokenKind::Semicolon && !inside_trigger(source, &tokens[start..at]) {
            found.push(&tokens[start..at]);
            start = at + 1;
        }
    }
    found.push(&tokens[start..]);
    found.retain(|tokens| !tokens.is_empty());
    found
}

/// Whether a semicolon after these tokens belongs to a trigger's body: it does unless they end with `; END`.
fn inside_trigger(source: &str, tokens: &[Token]) -> bool {
    if !is_create_trigger(source, tokens) {
        return false;
    }
    match tokens {
        [.., before, last] => before.kind != TokenKind::Semicolon || !last.is_word(source, "end"),
        _ => true,
    }
}

fn is_create_trigger(source: &str, tokens: &[Token]) -> bool {
    let mut words = tokens.iter().take(6).filter(|token| {
        !["explain", "query", "plan", "temp", "temporary"]
            .iter()
            .any(|skipped| token.is_word(source, skipped))
    });
    words.next().is_some_and(|token| token.is_word(source, "create"))
        && words.next().is_some_and(|token| token.is_word(source, "trigger"))
}

#[cfg(test)]
mod tests {
    use super::super::lexer::lex;
    use super::*;

    fn split(source: &str) -> Vec<&str> {
        let tokens = lex(source).unwrap();
        statements(source, &tokens).iter().map(|t| &source[t[0].start..t[t.len() - 1].end]).collect()
    }

    #[test]
    fn statements_end_at_semicolons_outside_of_everything() {
        assert_eq!(split("a;b ; ;; c"), ["a", "b", "c"]);
        assert_eq!(split(" -- nothing\n;"), Vec::<&str>::new());
        assert_eq!(split("SELECT ';' ; SELECT $$;$$"), ["SELECT ';'", "SELECT $$;$$"]);
    }

    #[test]
    fn trigger_body_stays_in_one_piece() {
        let trigger =
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; DELETE FROM b; END";
        assert_eq!(split(&format!("{trigger}; SELECT 1")), [trigger, "SELECT 1"]);
        assert_eq!(
            split("CREATE TEMP TRIGGER t BEGIN a; b; end; c"),
            ["CREATE TEMP TRIGGER t BEGIN a; b; end", "c"]
        );
        assert_eq!(split("CREATE TABLE trigger(a); END"), ["CREATE TABLE trigger(a)", "END"]);
    }
}
