//! What must not be seen of a setting: the password in a connection string, and from whom some settings are kept at all.

use std::borrow::Cow;

/// Settings whose value is a connection string.
const CONNECTION_STRINGS: [&str; 1] = ["primary_conninfo"];

/// Settings that only a superuser may see.
const SUPERUSER_ONLY: [&str; 3] = ["data_directory", "primary_conninfo", "unix_socket_directories"];

/// What stands in the place of a password.
const HIDDEN: &str = "********";

/// Whether only a superuser may see the setting.
pub fn is_for_superusers(name: &str) -> bool {
    SUPERUSER_ONLY.iter().any(|secret| secret.eq_ignore_ascii_case(name))
}

/// A setting's value as views, logs and answers have it.
pub fn shown<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    match CONNECTION_STRINGS.iter().any(|secret| secret.eq_ignore_ascii_case(name)) {
        true => hide_password(value),
        false => Cow::Borrowed(value),
    }
}

/// A connection string, well-formed or not, without its password. The form of a string that is wrong is unknown, so rather
/// too much of it is hidden than too little.
fn hide_password(text: &str) -> Cow<'_, str> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return hide_in_uri(scheme, rest).map_or(Cow::Borrowed(text), Cow::Owned);
    }
    let Some(at) = text.to_ascii_lowercase().find("password") else { return Cow::Borrowed(text) };
    let value = at + "password".len();
    let rest = text[value..].trim_start().strip_prefix('=').map_or("", str::trim_start);
    let mut quoted = rest.starts_with('\'');
    let mut escaped = false;
    let end = rest.char_indices().skip(usize::from(quoted)).find_map(|(at, char)| {
        let ends = !escaped && if quoted { char == '\'' } else { char.is_whitespace() };
        escaped = char == '\\' && !escaped;
        ends.then_some(at + usize::from(quoted))
    });
    quoted &= end.is_none();
    let after = if quoted { "" } else { &rest[end.unwrap_or(rest.len())..] };
    Cow::Owned(format!("{}={HIDDEN}{}", &text[..value], hide_password(after)))
}

/// `user:password@host/…?password=…`
fn hide_in_uri(scheme: &str, rest: &str) -> Option<String> {
    let mut shown = rest.to_owned();
    if let Some((credentials, host)) = rest.rsplit_once('@')
        && let Some((user, _)) = credentials.split_once(':')
    {
        shown = format!("{user}:{HIDDEN}@{host}");
    }
    if let Some(at) = shown.to_ascii_lowercase().find("password=") {
        let value = at + "password=".len();
        let end = shown[value..].find('&').map_or(shown.len(), |end| value + end);
        shown.replace_range(value..end, HIDDEN);
    }
    (shown != rest).then(|| format!("{scheme}://{shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_in_every_form_of_a_connection_string() {
        for (text, expected) in [
            ("host=h user=u", "host=h user=u"),
            ("host=h password=geheim user=u", "host=h password=******** user=u"),
            ("host=h PASSWORD = 'ge heim' user=u", "host=h PASSWORD=******** user=u"),
            (r"password='ge\'heim' user=u", "password=******** user=u"),
            (r"password=ge\ heim user=u", "password=******** user=u"),
            ("password=a user=u password=b", "password=******** user=u password=********"),
            ("password='geheim", "password=********"),
            ("password=geheim", "password=********"),
            ("password", "password=********"),
            ("postgresql://u@h/d", "postgresql://u@h/d"),
            ("postgresql://u:geheim@h:1/d", "postgresql://u:********@h:1/d"),
            (
                "postgres://u:ge@heim@h/d?password=x&user=y",
                "postgres://u:********@h/d?password=********&user=y",
            ),
        ] {
            assert_eq!(shown("primary_conninfo", text), expected);
        }
        assert_eq!(shown("application_name", "password=x"), "password=x");
        assert!(is_for_superusers("Primary_Conninfo") && !is_for_superusers("port"));
    }
}
