use proptest::prelude::*;

use super::*;

fn tcp(host: &str, address: &str, port: u16) -> Target {
    Target { host: host.to_owned(), port, address: TargetAddress::Tcp(address.to_owned()) }
}

fn unix(directory: &str, path: &str, port: u16) -> Target {
    Target { host: directory.to_owned(), port, address: TargetAddress::Unix(PathBuf::from(path)) }
}

#[test]
fn both_forms_say_the_same() {
    for text in [
        "host=db port=7 user=u dbname=d password='p w' application_name=a sslmode=prefer connect_timeout=9",
        "  host = db   port=7 user= u dbname=d password=p\\ w application_name=a sslmode=prefer connect_timeout=9 ",
        "host=other host=db port=7 user=u dbname=d password='p w' application_name=a sslmode=prefer connect_timeout=9",
        "postgresql://u:p%20w@db:7/d?application_name=a&sslmode=prefer&connect_timeout=9",
        "postgres:///d?user=u&password=p%20w&host=db&port=7&application_name=a&sslmode=prefer&connect_timeout=9&",
    ] {
        let conninfo = Conninfo::parse(text).unwrap();
        assert_eq!(conninfo.targets(), [tcp("db", "db", 7)], "{text}");
        assert_eq!(conninfo.user(), Some("u"));
        assert_eq!(conninfo.dbname(), Some("d"));
        assert_eq!(conninfo.password(), Some("p w"));
        assert_eq!(conninfo.application_name(), Some("a"));
        assert_eq!(conninfo.connect_timeout(), Some(Duration::from_secs(9)));
    }
}

#[test]
fn what_pg_basebackup_writes_for_a_standby_is_read() {
    let written = "user=postgres passfile='/var/lib/postgresql/.pgpass' channel_binding=prefer host=127.0.0.1 port=54999 sslmode=prefer sslcompression=0 sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=prefer krbsrvname=postgres target_session_attrs=any";
    let conninfo = Conninfo::parse(written).unwrap();
    assert_eq!(conninfo.targets(), [tcp("127.0.0.1", "127.0.0.1", 54999)]);
    assert_eq!(conninfo.user(), Some("postgres"));
}

#[test]
fn defaults() {
    for text in ["", " ", "host=", "postgresql://", "postgresql:///", "port="] {
        let conninfo = Conninfo::parse(text).unwrap();
        assert_eq!(conninfo.targets(), [tcp("127.0.0.1", "127.0.0.1", 5440)], "{text}");
        assert_eq!((conninfo.user(), conninfo.dbname(), conninfo.connect_timeout()), (None, None, None));
    }
}

#[test]
fn targets_from_lists() {
    for (text, expected) in [
        ("host=a,b", vec![tcp("a", "a", 5440), tcp("b", "b", 5440)]),
        ("host=a,b port=1,2", vec![tcp("a", "a", 1), tcp("b", "b", 2)]),
        ("host=a,b port=1", vec![tcp("a", "a", 1), tcp("b", "b", 1)]),
        (
            "host=a,b hostaddr=10.0.0.1,10.0.0.2 port=,2",
            vec![tcp("a", "10.0.0.1", 5440), tcp("b", "10.0.0.2", 2)],
        ),
        ("hostaddr=::1", vec![tcp("::1", "::1", 5440)]),
        ("postgresql://a:1,[::1]:2,c/d", vec![tcp("a", "a", 1), tcp("::1", "::1", 2), tcp("c", "c", 5440)]),
        ("host=/var/run port=77", vec![unix("/var/run", "/var/run/.s.PGSQL.77", 77)]),
        ("postgresql://%2Fvar%2Frun:77/d", vec![unix("/var/run", "/var/run/.s.PGSQL.77", 77)]),
        ("postgresql://u@v@/d", vec![tcp("v@", "v@", 5440)]),
    ] {
        assert_eq!(Conninfo::parse(text).unwrap().targets(), expected, "{text}");
    }
}

#[test]
fn connect_timeout_zero_is_for_ever_and_one_is_two() {
    for (text, expected) in [("0", None), ("-3", None), ("1", Some(2)), ("2", Some(2)), (" 30 ", Some(30))] {
        let conninfo = Conninfo::parse(&format!("connect_timeout='{text}'")).unwrap();
        assert_eq!(conninfo.connect_timeout(), expected.map(Duration::from_secs), "{text}");
    }
}

// The texts are what psql 15.18 says of the same strings.
#[test]
fn wrong_strings_named_as_libpq_does() {
    for (text, message) in [
        ("host=a port", "missing \"=\" after \"port\" in connection info string"),
        ("host", "missing \"=\" after \"host\" in connection info string"),
        ("host='abc", "unterminated quoted string in connection info string"),
        ("nonsense=1", "invalid connection option \"nonsense\""),
        ("=x", "invalid connection option \"\""),
        ("port=0", "invalid port number: \"0\""),
        ("port=99999", "invalid port number: \"99999\""),
        ("port=abc", "invalid integer value \"abc\" for connection option \"port\""),
        ("connect_timeout=x", "invalid integer value \"x\" for connection option \"connect_timeout\""),
        ("sslmode=foo", "invalid sslmode value: \"foo\""),
        ("sslmode=require", "sslmode value \"require\" invalid when SSL support is not compiled in"),
        ("gssencmode=require", "gssencmode value \"require\" invalid when GSSAPI support is not compiled in"),
        (
            "channel_binding=require",
            "channel_binding value \"require\" invalid when SSL support is not compiled in",
        ),
        ("host=a,b port=1,2,3", "could not match 3 port numbers to 2 hosts"),
        ("host=/tmp port=1,", "could not match 2 port numbers to 1 hosts"),
        ("host=a,b hostaddr=1.1.1.1", "could not match 2 host names to 1 hostaddr values"),
        (
            "postgresql://[::1",
            "end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"postgresql://[::1\"",
        ),
        ("postgresql://[]", "IPv6 host address may not be empty in URI: \"postgresql://[]\""),
        (
            "postgresql://a,[::1]z/x",
            "unexpected character \"z\" at position 21 in URI (expected \":\" or \"/\"): \"postgresql://a,[::1]z/x\"",
        ),
        ("postgresql://h/d?foo=1", "invalid URI query parameter: \"foo\""),
        ("postgresql://h/d?foo", "missing key/value separator \"=\" in URI query parameter: \"foo\""),
        ("postgresql://h:1?&dbname=a", "missing key/value separator \"=\" in URI query parameter: \"\""),
        ("postgresql://h/d?host=1=2", "extra key/value separator \"=\" in URI query parameter: \"host\""),
        ("postgresql://h/d%zz", "invalid percent-encoded token: \"d%zz\""),
        ("postgresql://h/d%2", "invalid percent-encoded token: \"d%2\""),
        ("postgresql://h/d%00", "forbidden value %00 in percent-encoded value: \"d%00\""),
        ("postgresql://user:pa/ss@h/d", "invalid integer value \"pa\" for connection option \"port\""),
    ] {
        assert_eq!(Conninfo::parse(text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn password_is_never_shown() {
    let conninfo = Conninfo::parse("host=h password=geheim user='a b' dbname='it''s' options='-c a=b'");
    let conninfo =
        conninfo.or_else(|_| Conninfo::parse(r"host=h password=geheim user='a b' dbname='it\'s'")).unwrap();
    assert_eq!(conninfo.redacted(), r"user='a b' password=******** host=h dbname='it\'s'");
    assert!(!format!("{conninfo:?}").contains("geheim"));
}

proptest! {
    #[test]
    fn redacted_string_reads_back(user in "\\PC{1,12}", dbname in "[ '\\\\a-z=]{1,12}") {
        let mut text = String::new();
        for (name, value) in [("user=", &user), (" dbname=", &dbname)] {
            text.push_str(name);
            quote_value(&mut text, value);
        }
        let conninfo = Conninfo::parse(&text).unwrap();
        prop_assert_eq!(conninfo.user(), Some(user.as_str()));
        prop_assert_eq!(conninfo.dbname(), Some(dbname.as_str()));
        prop_assert_eq!(Conninfo::parse(&conninfo.redacted()), Ok(conninfo));
    }

    #[test]
    fn random_strings_never_panic(text in "\\PC{0,40}", uri in "[a-z:@/?&=%\\[\\],0-9ä]{0,40}") {
        let _ = Conninfo::parse(&text);
        let _ = Conninfo::parse(&format!("postgresql://{uri}"));
        let _ = Conninfo::parse(&format!("host={uri} port={text}"));
    }
}

#[test]
fn string_for_another_place_keeps_what_is_not_of_the_place() {
    let conninfo =
        Conninfo::parse("host=a,b port=1,2 user='o k' password=p%x application_name=s1 connect_timeout=3")
            .unwrap();
    let moved = conninfo.moved_to("10.0.0.1", 5441);
    let parsed = Conninfo::parse(&moved).unwrap();
    assert_eq!(parsed.targets().len(), 1);
    assert_eq!((parsed.targets()[0].host.as_str(), parsed.targets()[0].port), ("10.0.0.1", 5441));
    assert_eq!((parsed.user(), parsed.password()), (Some("o k"), Some("p%x")));
    assert_eq!((parsed.application_name(), parsed.connect_timeout()), (None, conninfo.connect_timeout()));
}
