//! The text of a shell command from a setting: `%p`, `%f` and the like are replaced.
//!
//! As in PostgreSQL 15 a `%` before any other character, or at the end, stands for itself; `%%` is one `%`. What is put in
//! isn't quoted: names of segments and histories need no quotes, and the paths are below `pg_wal`.
//!
//! Follows PostgreSQL 15 shell_archive_file() in src/backend/postmaster/pgarch.c and RestoreArchivedFile() in
//! src/backend/access/transam/xlogarchive.c.

/// Replaces in `template` each `%` with its letter by the value given for it.
pub(crate) fn expand(template: &str, values: &[(char, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut characters = template.chars().peekable();
    while let Some(character) = characters.next() {
        let value = match (character, characters.peek()) {
            ('%', Some('%')) => Some("%"),
            ('%', Some(letter)) => values.iter().find(|(name, _)| name == letter).map(|(_, value)| *value),
            _ => None,
        };
        match value {
            Some(value) => {
                text.push_str(value);
                characters.next();
            }
            None => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_percent_signs_kept() {
        let values = [('p', "pg_wal/0001"), ('f', "0001")];
        let table = [
            ("", ""),
            ("true", "true"),
            ("cp %p /archive/%f", "cp pg_wal/0001 /archive/0001"),
            ("%f%f%%f", "00010001%f"),
            ("%%%f%%", "%0001%"),
            ("date +%Y-%m", "date +%Y-%m"),
            ("100%", "100%"),
            ("ä%fö", "ä0001ö"),
        ];
        for (template, text) in table {
            assert_eq!(expand(template, &values), text, "{template}");
        }
    }
}
