use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;

/// The exchange of RFC 7677, section 3.
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

fn rfc_verifier() -> Verifier {
    let salt = STANDARD.decode(SALT).unwrap().try_into().unwrap();
    Verifier::of_password("pencil", &salt)
}

fn rfc_server() -> ServerExchange {
    ServerExchange::new(rfc_verifier(), SERVER_NONCE.to_owned())
}

#[test]
fn exchange_of_the_rfc_comes_out_as_printed_there() {
    let mut server = rfc_server();
    let first = server.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
    assert_eq!(first, format!("r=rOprNGfwEbeRWgbNEkqO{SERVER_NONCE},s={SALT},i=4096"));
    let last =
        format!("c=biws,r=rOprNGfwEbeRWgbNEkqO{SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let answer = server.last(last.as_bytes()).unwrap();
    assert_eq!(answer, Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned()));
}

#[test]
fn verifier_is_stored_as_postgresql_stores_it() {
    let stored = "SCRAM-SHA-256$4096:QzH8zLSWHXfBdN4jzYRbGg==$";
    let salt: [u8; SALT_BYTES] = STANDARD.decode("QzH8zLSWHXfBdN4jzYRbGg==").unwrap().try_into().unwrap();
    let verifier = Verifier::of_password("secret", &salt);
    assert!(verifier.to_string().starts_with(stored));
    assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier.clone()));
    assert!(verifier.fits("secret") && !verifier.fits("Secret"));
    assert_eq!(format!("{verifier:?}"), "Verifier(********)");
    for other in [
        "secret",
        "",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
    ] {
        assert_eq!(Verifier::parse(other), None, "{other}");
    }
}

/// Another's implementation on the client's side.
#[test]
fn client_of_postgres_protocol_is_recognised_by_its_password_alone() {
    for (password, known) in [("pencil", true), ("Pencil", false), ("", false)] {
        let mut server = rfc_server();
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = server.first(client.message()).unwrap();
        client.update(first.as_bytes()).unwrap();
        match server.last(client.message()).unwrap() {
            Ok(last) => {
                assert!(known, "{password}");
                client.finish(last.as_bytes()).expect("the server proves itself");
            }
            Err(WrongPassword) => assert!(!known, "{password}"),
        }
    }
    // It makes verifiers, too.
    let made =
        Verifier::parse(&postgres_protocol::password::scram_sha_256("h\u{e4}\u{2168}".as_bytes())).unwrap();
    assert!(made.fits("h\u{e4}IX"), "SASLprep makes one of both");
    assert!(!made.fits("h\u{e4}ix"));
}

#[test]
fn own_client_and_server_recognise_each_other() {
    let mut server = rfc_server();
    let mut client = ClientExchange::new("pencil".to_owned(), nonce(&[7; NONCE_BYTES]));
    let first = server.first(client.first().as_bytes()).unwrap();
    let last = client.last(first.as_bytes()).unwrap();
    assert!(!last.contains("pencil") && !client.first().contains("pencil"));
    let proof = server.last(last.as_bytes()).unwrap().unwrap();
    assert_eq!(client.check_server(proof.as_bytes()), Ok(()));
    assert_eq!(client.check_server(b"v=AAAA"), Err("incorrect server signature".to_owned()));
    let refused = client.check_server(b"e=other-error").unwrap_err();
    assert!(refused.ends_with("other-error"), "{refused}");
    let silent = ClientExchange::new("pencil".to_owned(), nonce(&[7; NONCE_BYTES]));
    assert!(silent.check_server(b"").is_err(), "a server that skips its part proves nothing");
}

#[test]
fn nobody_knows_the_password_of_a_mock_and_its_salt_stays() {
    let mock = Verifier::mock("nobody", b"secret of the system");
    assert_eq!(mock, Verifier::mock("nobody", b"secret of the system"));
    assert_ne!(mock.salt, Verifier::mock("somebody", b"secret of the system").salt);
    let mut server = ServerExchange::new(mock, SERVER_NONCE.to_owned());
    let mut client = ClientExchange::new("pencil".to_owned(), nonce(&[7; NONCE_BYTES]));
    let first = server.first(client.first().as_bytes()).unwrap();
    assert!(first.ends_with(",i=4096"));
    let last = client.last(first.as_bytes()).unwrap();
    assert_eq!(server.last(last.as_bytes()).unwrap(), Err(WrongPassword));
}

#[test]
fn what_is_no_first_message_is_refused_as_postgresql_does() {
    for (message, sqlstate, says) in [
        (&b""[..], "08P01", "malformed SCRAM message"),
        (b"n,,", "08P01", "malformed SCRAM message"),
        (b"n", "08P01", "malformed SCRAM message"),
        (b"p=tls-server-end-point,,n=,r=x", "08P01", "malformed SCRAM message"),
        (b"n,a=admin,n=,r=x", "0A000", "client uses authorization identity, but it is not supported"),
        (b"n,,m=x,n=,r=x", "0A000", "client requires an unsupported SCRAM extension"),
        (b"n,,n=,r=", "08P01", "non-printable characters in SCRAM nonce"),
        (b"n,,n=,r=a\x01b", "08P01", "non-printable characters in SCRAM nonce"),
        (b"n,,n=,r=\xff", "08P01", "malformed SCRAM message"),
    ] {
        let error = rfc_server().first(message).unwrap_err();
        assert_eq!(
            (error.sqlstate.to_string().as_str(), error.message.as_str()),
            (sqlstate, says),
            "{message:?}"
        );
        assert!(error.ends_connection());
    }
}

#[test]
fn what_is_no_last_message_is_refused_as_postgresql_does() {
    let nonce = format!("rOprNGfwEbeRWgbNEkqO{SERVER_NONCE}");
    let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    for (message, says) in [
        (format!("c=biws,r={nonce}"), "malformed SCRAM message"),
        (format!("c=biws,r={nonce},p=AAAA"), "malformed SCRAM message"),
        (format!("c=biws,r=x,{proof}"), "invalid SCRAM response"),
        (
            format!("c=eSws,r={nonce},{proof}"),
            "unexpected SCRAM channel-binding attribute in client-final-message",
        ),
    ] {
        let mut server = rfc_server();
        server.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(server.last(message.as_bytes()).unwrap_err().message, says, "{message}");
    }
    let too_early = rfc_server().last(format!("c=biws,r=,{proof}").as_bytes()).unwrap_err();
    assert_eq!(too_early.message, "invalid SCRAM response");
}

#[test]
fn client_refuses_a_server_that_plays_tricks() {
    let own = nonce(&[7; NONCE_BYTES]);
    for message in [
        String::new(),
        format!("r={own},s={SALT},i=4096"),
        format!("r=other,s={SALT},i=4096"),
        format!("r={own}x,s=,i=4096"),
        format!("r={own}x,s={SALT},i=0"),
        format!("r={own}x,s={SALT},i=4000000000"),
    ] {
        let mut client = ClientExchange::new("pencil".to_owned(), own.clone());
        assert!(client.last(message.as_bytes()).is_err(), "{message}");
    }
}

proptest! {
    #[test]
    fn garbage_is_never_a_panic_and_never_a_login(
        first in proptest::collection::vec(any::<u8>(), 0..80),
        last in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut server = rfc_server();
        let _ = server.first(&first);
        prop_assert!(!matches!(server.last(&last), Ok(Ok(_))));
        let mut client = ClientExchange::new("pencil".to_owned(), nonce(&[7; NONCE_BYTES]));
        prop_assert!(client.last(&first).is_err());
        prop_assert!(client.check_server(&last).is_err());
    }
}
