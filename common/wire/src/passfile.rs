//! A password file: where clients find the password that nobody should see in a connection string.
//!
//! ```text
//! hostname:port:database:username:password
//! ```
//!
//! `*` stands for anything, a backslash takes the next character as it is, `#` begins a comment. The first line that fits
//! counts. Pure: who reads the file also looks at its permissions.
//!
//! Follows PostgreSQL 15 src/interfaces/libpq/fe-connect.c (passwordFromFile).

/// What to look a password up for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// As in the connection string; `localhost` for a Unix socket in no particular directory.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The database; `replication` for a replication connection.
    pub database: &'a str,
    /// The user.
    pub user: &'a str,
}

/// The password on the first line of `text` that fits.
pub fn find(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    let fields = [wanted.host, &port, wanted.database, wanted.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line.strip_suffix('\r').unwrap_or(line);
        for field in fields {
            let (value, any) = take_field(&mut rest)?;
            if !any && value != field {
                return None;
            }
        }
        // The rest of the line, colons and all.
        Some(unescaped(rest)).filter(|password| !password.is_empty())
    })
}

/// The field at the start of `rest`, and whether it fits anything; goes on behind its colon.
fn take_field(rest: &mut &str) -> Option<(String, bool)> {
    let mut escaped = false;
    let end = rest.char_indices().find_map(|(at, char)| {
        let ends = char == ':' && !escaped;
        escaped = char == '\\' && !escaped;
        ends.then_some(at)
    })?;
    let raw = &rest[..end];
    *rest = &rest[end + 1..];
    Some((unescaped(raw), raw == "*"))
}

fn unescaped(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.extend(chars.next()),
            _ => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Option<String> {
        let wanted = Wanted { host: "127.0.0.1", port: 5440, database: "replication", user: "repl:ica" };
        find(text, &wanted)
    }

    #[test]
    fn first_line_that_fits_counts() {
        let text = "# 127.0.0.1:5440:replication:repl\\:ica:comment\n\
                    localhost:5440:*:*:other host\n\
                    127.0.0.1:5441:*:*:other port\n\
                    127.0.0.1:*:postgres:*:other database\n\
                    127.0.0.1:5440:replication:repl:ica:it is cut at the colon\n\
                    127.0.0.1:*:replication:repl\\:ica:se:cr\\\\et\n\
                    *:*:*:*:too late";
        assert_eq!(look(text).as_deref(), Some("se:cr\\et"));
    }

    #[test]
    fn a_star_fits_anything_but_an_escaped_one_itself() {
        assert_eq!(look("*:*:*:*:secret\r\n").as_deref(), Some("secret"));
        assert_eq!(look("\\*:*:*:*:secret"), None);
        assert_eq!(look("*:*:*:*:"), None, "no password");
        assert_eq!(look("*:*:*:*"), None, "a field is missing");
        assert_eq!(look(""), None);
    }
}
