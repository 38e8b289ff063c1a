use super::*;

fn applicant<'a>(address: &str, database: &'a str, user: &'a str) -> Applicant<'a> {
    let address = (!address.is_empty()).then(|| address.parse().unwrap());
    Applicant { address, database, physical_replication: database == "(replication)", user }
}

/// The line and method of the rule that decides.
fn decides(rules: &Rules, who: &Applicant<'_>) -> Option<(u32, &'static str)> {
    let interfaces = || {
        vec![
            ("127.0.0.1".parse().unwrap(), "255.0.0.0".parse().unwrap()),
            ("10.1.2.3".parse().unwrap(), "255.255.255.0".parse().unwrap()),
        ]
    };
    rules.find(who, &interfaces).map(|rule| (rule.line, rule.method.word()))
}

#[test]
fn first_rule_that_fits_decides() {
    let rules = Rules::parse(
        "# comment\n\
         local   all          all                              trust   # the socket\n\
         \n\
         host    all          mallory      all                 reject\n\
         hostssl all          all          all                 trust\n\
         host    db1,\"db two\", db3 alice,bob 192.168.0.0/16  scram-sha-256\n\
         host    sameuser     all          10.9.0.0  255.255.0.0 trust\n\
         host    replication  standby      samenet             scram-sha-256\n\
         hostnossl \"all\"    all          samehost            trust\n\
         host    all          all          \\\n   fd00::/8   trust\n",
    )
    .unwrap();
    for (address, database, user, expected) in [
        ("", "anything", "anybody", Some((2, "trust"))),
        ("192.168.7.7", "db1", "alice", Some((6, "scram-sha-256"))),
        ("192.168.7.7", "db two", "bob", Some((6, "scram-sha-256"))),
        ("192.168.7.7", "db3", "carol", None),
        ("192.169.7.7", "db1", "alice", None),
        ("::ffff:192.168.7.7", "db1", "alice", Some((6, "scram-sha-256"))),
        ("192.168.7.7", "db1", "mallory", Some((4, "reject"))),
        ("10.9.1.1", "carol", "carol", Some((7, "trust"))),
        ("10.9.1.1", "db1", "carol", None),
        ("10.1.2.77", "(replication)", "standby", Some((8, "scram-sha-256"))),
        ("10.1.3.77", "(replication)", "standby", None),
        ("10.1.2.77", "replication", "standby", None),
        ("10.1.2.77", "db1", "standby", None),
        ("10.1.2.3", "all", "x", Some((9, "trust"))),
        ("10.1.2.3", "other", "x", None),
        ("fd00::17", "other", "x", Some((10, "trust"))),
        ("fe00::17", "other", "x", None),
    ] {
        let who = applicant(address, database, user);
        assert_eq!(decides(&rules, &who), expected, "{address} {database} {user}");
    }
    // `all` is no replication.
    assert_eq!(decides(&rules, &applicant("", "(replication)", "x")), None);
    assert_eq!(rules.never_matching().map(|rule| rule.line).collect::<Vec<_>>(), [5]);
}

#[test]
fn every_wrong_line_is_named_and_none_counts() {
    for (line, message) in [
        ("lokal all all trust", "invalid connection type \"lokal\""),
        ("local", "end-of-line before database specification"),
        ("local all", "end-of-line before role specification"),
        ("local all all", "end-of-line before authentication method"),
        ("host all all", "end-of-line before IP address specification"),
        ("host all all 10.0.0.0", "end-of-line before netmask specification"),
        ("host all all 10.0.0.0/33 trust", "invalid CIDR mask in address \"10.0.0.0/33\""),
        ("host all all 10.0.0.0/x trust", "invalid CIDR mask in address \"10.0.0.0/x\""),
        ("host all all 10.0.0.0 trust trust", "invalid IP mask \"trust\""),
        ("host all all 10.0.0.0 ff:: trust", "IP address and mask do not match"),
        (
            "host all all db.example.org trust",
            "invalid IP address \"db.example.org\": host names are not supported",
        ),
        ("host all all all md5", "invalid authentication method \"md5\": not supported by this build"),
        ("host all all all skram", "invalid authentication method \"skram\""),
        ("host all all all trust map=x", "unrecognized authentication option name: \"map\""),
        ("host all all all trust x", "authentication option not in name=value format: x"),
        ("host all +admins all trust", "invalid role \"+admins\": groups and files are not supported"),
        ("host @file all all trust", "invalid database \"@file\": groups and files are not supported"),
        ("host samerole all all trust", "invalid database \"samerole\": groups are not supported"),
        ("host all all all trust,reject", "multiple values specified for authentication type"),
        ("host all \"all all trust", "unterminated quoted string"),
    ] {
        let errors = Rules::parse(&format!("local all all trust\n{line}\n")).unwrap_err();
        assert_eq!(errors.len(), 1, "{line}");
        assert_eq!((errors[0].line, errors[0].message.as_str()), (2, message), "{line}");
    }
    let empty = Rules::parse("# nothing\n").unwrap_err();
    assert_eq!(empty[0].message, "the file contains no entries");
    let netmask = &Rules::parse("host all all 10.0.0.0").unwrap_err()[0];
    assert_eq!(
        netmask.located("/d/pg_hba.conf"),
        "end-of-line before netmask specification\n\
         HINT:  Specify an address range in CIDR notation, or provide a separate netmask.\n\
         CONTEXT:  line 1 of configuration file \"/d/pg_hba.conf\""
    );
}

#[test]
fn rule_that_trusts_other_machines_is_found() {
    let trusting = |line: &str| Rules::parse(line).unwrap().trusting_beyond_this_machine().is_some();
    for harmless in [
        "local all all trust",
        "host all all 127.0.0.1/32 trust",
        "host all all 127.0.0.0/8 trust",
        "host all all ::1/128 trust",
        "host all all samehost trust",
        "host all all all scram-sha-256",
        "host all all all reject",
        "hostssl all all all trust",
    ] {
        assert!(!trusting(harmless), "{harmless}");
    }
    for open in [
        "host all all all trust",
        "host replication x samenet trust",
        "host all all 0.0.0.0/0 trust",
        "host all all 126.0.0.0/7 trust",
        "host all all 10.0.0.1/32 trust",
        "hostnossl all all ::/0 trust",
        "host all all ::1/127 trust",
    ] {
        assert!(trusting(open), "{open}");
    }
}

#[test]
fn default_file_lets_this_machine_in_by_the_method_asked_for() {
    for (word, method) in Method::ALL {
        let rules = Rules::parse(&default_text(method)).unwrap();
        for who in [
            applicant("", "x", "y"),
            applicant("127.0.0.1", "(replication)", "y"),
            applicant("::1", "x", "y"),
        ] {
            assert_eq!(decides(&rules, &who).unwrap().1, word);
        }
        assert_eq!(decides(&rules, &applicant("10.1.2.3", "x", "y")), None);
        assert!(rules.trusting_beyond_this_machine().is_none());
    }
}
