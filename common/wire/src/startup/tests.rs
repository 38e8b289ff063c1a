use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::client;

fn packet(protocol: u32, parameters: &[&str]) -> Vec<u8> {
    let mut packet = protocol.to_be_bytes().to_vec();
    for text in parameters {
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
    }
    packet.push(0);
    packet
}

fn decode(packet: &[u8]) -> Result<StartupPacket, ErrorResponse> {
    StartupDecoder::default().decode(packet)
}

fn startup(parameters: &[&str]) -> StartupMessage {
    match decode(&packet(PROTOCOL_3_0, parameters)) {
        Ok(StartupPacket::Startup(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn pairs(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn startup_of_psql_decoded() {
    let message = startup(&[
        "user",
        "postgres",
        "database",
        "d",
        "application_name",
        "psql",
        "client_encoding",
        "UTF8",
    ]);
    assert_eq!(message.user, "postgres");
    assert_eq!(message.database, "d");
    assert_eq!(message.replication, ReplicationMode::None);
    assert_eq!(message.settings, pairs(&[("application_name", "psql"), ("client_encoding", "UTF8")]));
    assert_eq!(message.negotiate, None);
}

#[test]
fn database_defaults_to_user() {
    assert_eq!(startup(&["user", "bo"]).database, "bo");
}

#[test]
fn long_names_are_cut_at_a_character() {
    let user = format!("{}ä", "u".repeat(62));
    assert_eq!(startup(&["user", &user]).user, "u".repeat(62));
}

#[test]
fn replication_values() {
    for (value, expected) in [
        ("true", ReplicationMode::Physical),
        ("TR", ReplicationMode::Physical),
        ("on", ReplicationMode::Physical),
        ("yes", ReplicationMode::Physical),
        ("1", ReplicationMode::Physical),
        ("database", ReplicationMode::Database),
        ("false", ReplicationMode::None),
        ("of", ReplicationMode::None),
        ("no", ReplicationMode::None),
        ("0", ReplicationMode::None),
    ] {
        let message = startup(&["user", "u", "database", "replication", "replication", value]);
        assert_eq!(message.replication, expected, "{value}");
        let database = if expected == ReplicationMode::Physical { "" } else { "replication" };
        assert_eq!(message.database, database);
    }
    for value in ["o", "", "maybe", "11", "truee"] {
        let error = decode(&packet(PROTOCOL_3_0, &["user", "u", "replication", value])).unwrap_err();
        assert_eq!(error.sqlstate, INVALID_PARAMETER_VALUE);
        assert_eq!(error.message, format!("invalid value for parameter \"replication\": \"{value}\""));
    }
}

#[test]
fn options_become_settings_before_the_others() {
    let options = r"-c work_mem=1 -cx=a\ b\\  --statement-timeout=5s --a.b=c=d";
    let message = startup(&["x", "z", "options", options, "user", "u"]);
    let expected =
        [("work_mem", "1"), ("x", r"a b\"), ("statement_timeout", "5s"), ("a.b", "c=d"), ("x", "z")];
    assert_eq!(message.settings, pairs(&expected));
}

#[test]
fn wrong_options_named_as_postgresql_does() {
    for (options, message) in [
        ("-c foo", "-c foo requires a value"),
        ("--foo", "--foo requires a value"),
        ("zork", "invalid command-line argument for server process: zork"),
        ("-c", "invalid command-line argument for server process: -c"),
        ("-d 5", "invalid command-line argument for server process: -d"),
    ] {
        let error = decode(&packet(PROTOCOL_3_0, &["user", "u", "options", options])).unwrap_err();
        assert_eq!((error.severity, error.sqlstate), (Severity::Fatal, SYNTAX_ERROR));
        assert_eq!(error.message, message);
    }
}

#[test]
fn newer_minor_and_unknown_protocol_options_are_negotiated() {
    let negotiation = |protocol, parameters: &[&str]| match decode(&packet(protocol, parameters)) {
        Ok(StartupPacket::Startup(message)) => message.negotiate,
        other => panic!("{other:?}"),
    };
    assert_eq!(negotiation(PROTOCOL_3_0, &["user", "u"]), None);
    assert_eq!(negotiation(PROTOCOL_3_0 | 2, &["user", "u"]), Some(Negotiation::default()));
    let unrecognized = vec!["_pq_.x".to_owned()];
    assert_eq!(negotiation(PROTOCOL_3_0, &["user", "u", "_pq_.x", "1"]), Some(Negotiation { unrecognized }));
}

#[test]
fn other_requests_decoded() {
    assert_eq!(decode(&SSL_REQUEST_CODE.to_be_bytes()), Ok(StartupPacket::SslRequest));
    assert_eq!(decode(&GSSENC_REQUEST_CODE.to_be_bytes()), Ok(StartupPacket::GssEncRequest));
    assert_eq!(
        decode(b"\x04\xd2\x16\x2e\0\0\x30\x39\xff\xff\xff\xfe"),
        Ok(StartupPacket::Cancel(CancelRequest { pid: 12345, key: -2 }))
    );
    for wrong in
        [&b"\x04\xd2\x16\x2e\0\0\x30\x39"[..], b"\x04\xd2\x16\x2e\0\0\x30\x39\0\0\0\x01\0", b"\0\x03\0"]
    {
        assert_eq!(decode(wrong).unwrap_err().message, "invalid length of startup packet");
    }
}

#[test]
fn encryption_may_be_asked_for_once() {
    let mut decoder = StartupDecoder::default();
    assert_eq!(decoder.decode(&SSL_REQUEST_CODE.to_be_bytes()), Ok(StartupPacket::SslRequest));
    assert_eq!(decoder.decode(&GSSENC_REQUEST_CODE.to_be_bytes()), Ok(StartupPacket::GssEncRequest));
    for code in [SSL_REQUEST_CODE, GSSENC_REQUEST_CODE] {
        let error = decoder.decode(&code.to_be_bytes()).unwrap_err();
        assert!(error.message.starts_with("unsupported frontend protocol 1234.56"), "{}", error.message);
    }
}

#[test]
fn wrong_packets_named_as_postgresql_does() {
    let layout = "invalid startup packet layout: expected terminator as last byte";
    let table: [(&[u8], &str, &str); 8] = [
        (b"\0\x02\0\0user\0u\0\0", "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.0"),
        (
            b"\0\x04\0\x03user\0u\0\0",
            "0A000",
            "unsupported frontend protocol 4.3: server supports 3.0 to 3.0",
        ),
        (b"\0\x03\0\0database\0x\0\0", "28000", "no PostgreSQL user name specified in startup packet"),
        (b"\0\x03\0\0", "08P01", layout),
        (b"\0\x03\0\0user\0u\0", "08P01", layout),
        (b"\0\x03\0\0user\0u\0\0x", "08P01", layout),
        (b"\0\x03\0\0user\0u", "08P01", layout),
        (b"\0\x03\0\0user\0\xff\0\0", "22021", "invalid byte sequence for encoding \"UTF8\": 0xff"),
    ];
    for (packet, sqlstate, message) in table {
        let error = decode(packet).unwrap_err();
        assert_eq!((error.severity, error.sqlstate.as_str()), (Severity::Fatal, sqlstate), "{packet:?}");
        assert_eq!(error.message, message);
    }
}

#[test]
fn client_writes_what_another_implementation_writes() {
    use postgres_protocol::message::frontend as oracle;
    let parameters = [("user", "u"), ("replication", "true"), ("application_name", "ä b")];
    let mut expected = BytesMut::new();
    oracle::startup_message(parameters, &mut expected).unwrap();
    let mut written = Vec::new();
    client::startup_message(&mut written, &parameters);
    // The other implementation adds client_encoding by itself.
    let own = b"client_encoding\0UTF8\0";
    let without: Vec<u8> = match expected.windows(own.len()).position(|window| window == own) {
        Some(at) => [&expected[4..at], &expected[at + own.len()..]].concat(),
        None => expected[4..].to_vec(),
    };
    assert_eq!(written[4..], without);
    expected.clear();
    oracle::cancel_request(7, -9, &mut expected);
    written.clear();
    client::cancel_request(&mut written, CancelRequest { pid: 7, key: -9 });
    assert_eq!(written, expected);
}

proptest! {
    #[test]
    fn parameters_survive(user in "[^\0]{1,20}", settings in prop::collection::vec(("x[a-z.]{0,9}", "[^\0]{0,20}"), 0..9)) {
        let mut parameters = vec![("user", user.as_str())];
        parameters.extend(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut written = Vec::new();
        client::startup_message(&mut written, &parameters);
        let Ok(StartupPacket::Startup(message)) = decode(&written[4..]) else { panic!("not a startup packet") };
        prop_assert_eq!(&message.settings, &settings);
        prop_assert_eq!(&message.user, truncate_name(&user));
        // No packet that was cut off passes.
        for cut in 4..written.len() {
            prop_assert!(decode(&written[4..cut]).is_err());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&bytes);
        let _ = decode(&[&PROTOCOL_3_0.to_be_bytes()[..], &bytes].concat());
        let _ = decode(&[&b"\0\x03\0\0user\0u\0options\0"[..], &bytes, b"\0\0"].concat());
    }
}
