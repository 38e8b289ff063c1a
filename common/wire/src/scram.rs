//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: verifiers, the server's side, the client's side.
//!
//! Neither side ever sends the password, nor does the server keep it: it keeps a [`Verifier`], which is enough to
//! recognise who knows the password and not enough to be taken for that one. Pure: nonces and salts come from the
//! caller, who gets them from the kernel (a generator in the process would give the same ones to two children of a fork).
//!
//! ```text
//! client                                            server
//!   n,,n=,r=CLIENT                  ------------->     first
//!                                   <-------------     r=CLIENT SERVER,s=SALT,i=4096
//!   c=biws,r=CLIENT SERVER,p=PROOF  ------------->     last
//!                                   <-------------     v=SIGNATURE
//! ```
//!
//! A user who doesn't exist, or has no password, gets the same exchange with a [`Verifier::mock`]: the same salt each
//! time, the same work, and a failure at the end that looks like any other.
//!
//! Channel binding needs TLS, which is not there. Follows PostgreSQL 15 src/backend/libpq/auth-scram.c,
//! src/common/scram-common.c, src/interfaces/libpq/fe-auth-scram.c.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ErrorResponse;
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION};

/// The mechanism's name on the wire.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// Rounds of a verifier that is made here.
pub const ITERATIONS: u32 = 4096;
/// Bytes of a salt that is made here.
pub const SALT_BYTES: usize = 16;
/// Random bytes of a nonce.
pub const NONCE_BYTES: usize = 18;
/// Most rounds that a client does for a server: what takes about a minute is no login.
const ITERATIONS_MAX: u32 = 10_000_000;

const KEY_BYTES: usize = 32;
type Key = [u8; KEY_BYTES];

/// "n,,": no channel binding, base64.
const NO_BINDING: &str = "biws";
/// "y,,": the client could, and thinks that the server can't.
const NO_BINDING_HERE: &str = "eSws";

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// That of a password, with a salt of random bytes.
    pub fn of_password(password: &str, salt: &[u8; SALT_BYTES]) -> Verifier {
        let salted = salted_password(password, salt, ITERATIONS);
        Verifier {
            iterations: ITERATIONS,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(hmac(&salted, b"Client Key")).into(),
            server_key: hmac(&salted, b"Server Key"),
        }
    }

    /// One that nobody's password fits, always the same for a user of this system.
    pub fn mock(user: &str, secret: &[u8]) -> Verifier {
        let derived = hmac(secret, user.as_bytes());
        Verifier {
            iterations: ITERATIONS,
            salt: derived[..SALT_BYTES].to_vec(),
            stored_key: hmac(secret, &derived),
            server_key: hmac(secret, b"Server Key"),
        }
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; none: it is something else, such as a password.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        Some(Verifier {
            iterations: iterations.parse().ok().filter(|rounds| *rounds > 0)?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }

    /// Whether a password is the one.
    pub fn fits(&self, password: &str) -> bool {
        let salted = salted_password(password, &self.salt, self.iterations);
        hmac(&salted, b"Server Key").ct_eq(&self.server_key).into()
    }
}

/// The form in which it is stored, PostgreSQL's.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| STANDARD.encode(bytes));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(********)")
    }
}

/// A nonce as it is sent, of random bytes.
pub fn nonce(random: &[u8; NONCE_BYTES]) -> String {
    STANDARD.encode(random)
}

/// The server's side of one exchange.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: Verifier,
    server_nonce: String,
    /// What both sides sign, up to the client's proof; empty before the first message.
    signed: String,
    /// Client's and server's.
    nonce: String,
    /// The header that the client began with, in base64.
    binding: &'static str,
}

/// The client doesn't know the password, or there is no such user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongPassword;

impl ServerExchange {
    /// For a client that has named a user with this verifier (or a mock of one).
    pub fn new(verifier: Verifier, server_nonce: String) -> ServerExchange {
        ServerExchange {
            verifier,
            server_nonce,
            signed: String::new(),
            nonce: String::new(),
            binding: NO_BINDING,
        }
    }

    /// Takes the client's first message; the server's first.
    ///
    /// # Errors
    /// FATAL 08P01, 0A000.
    pub fn first(&mut self, message: &[u8]) -> Result<String, ErrorResponse> {
        let text = text(message)?;
        let mut parts = text.splitn(3, ',');
        let (flag, identity, bare) = match (parts.next(), parts.next(), parts.next()) {
            (Some(flag), Some(identity), Some(bare)) => (flag, identity, bare),
            _ => return Err(malformed("Comma expected, but found end of message.")),
        };
        self.binding = match flag {
            "n" => NO_BINDING,
            "y" => NO_BINDING_HERE,
            _ if flag.starts_with("p=") => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                ));
            }
            _ => return Err(malformed("Unexpected channel-binding flag.")),
        };
        if !identity.is_empty() {
            let message = "client uses authorization identity, but it is not supported";
            return Err(ErrorResponse::fatal(FEATURE_NOT_SUPPORTED, message));
        }
        if bare.starts_with("m=") {
            let message = "client requires an unsupported SCRAM extension";
            return Err(ErrorResponse::fatal(FEATURE_NOT_SUPPORTED, message));
        }
        // The user's name is that of the startup packet; what stands here is not looked at.
        let (_user, rest) = attribute(bare, "n")?;
        let (client_nonce, _extensions) = attribute(rest, "r")?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ErrorResponse::fatal(PROTOCOL_VIOLATION, "non-printable characters in SCRAM nonce"));
        }
        self.nonce = format!("{client_nonce}{}", self.server_nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let answer = format!("r={},s={salt},i={}", self.nonce, self.verifier.iterations);
        self.signed = format!("{bare},{answer}");
        Ok(answer)
    }

    /// Takes the client's last message; the server's last, if the client knows the password.
    ///
    /// # Errors
    /// FATAL 08P01: it is no such message.
    pub fn last(&mut self, message: &[u8]) -> Result<Result<String, WrongPassword>, ErrorResponse> {
        let text = text(message)?;
        let (without_proof, proof) =
            text.rsplit_once(",p=").ok_or_else(|| malformed("Expected attribute \"p\"."))?;
        let (binding, rest) = attribute(without_proof, "c")?;
        if binding != self.binding {
            let message = "unexpected SCRAM channel-binding attribute in client-final-message";
            return Err(ErrorResponse::fatal(PROTOCOL_VIOLATION, message));
        }
        let (nonce, _extensions) = attribute(rest, "r")?;
        if self.signed.is_empty() || nonce != self.nonce {
            return Err(ErrorResponse::fatal(PROTOCOL_VIOLATION, "invalid SCRAM response")
                .with_detail("Nonce does not match."));
        }
        let proof: Option<Key> = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok());
        let proof = proof.ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        let signed = format!("{},{without_proof}", self.signed);
        let signature = hmac(&self.verifier.stored_key, signed.as_bytes());
        let client_key = xor(&proof, &signature);
        let known: bool = Sha256::digest(client_key).as_slice().ct_eq(&self.verifier.stored_key).into();
        Ok(match known {
            true => Ok(format!("v={}", STANDARD.encode(hmac(&self.verifier.server_key, signed.as_bytes())))),
            false => Err(WrongPassword),
        })
    }
}

/// The client's side of one exchange.
pub struct ClientExchange {
    password: String,
    nonce: String,
    /// The server's signature that proves that it has the verifier; empty before the server's first message.
    expected: String,
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientExchange").finish_non_exhaustive()
    }
}

impl ClientExchange {
    /// For a password, with a fresh [`nonce`].
    pub fn new(password: String, nonce: String) -> ClientExchange {
        ClientExchange { password, nonce, expected: String::new() }
    }

    /// The client's first message. (The server takes the user's name from the startup packet.)
    pub fn first(&self) -> String {
        format!("n,,{}", self.bare())
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the server's first message; the client's last.
    ///
    /// # Errors
    /// What is wrong with it, in libpq's words.
    pub fn last(&mut self, message: &[u8]) -> Result<String, String> {
        let malformed = |what: &str| format!("malformed SCRAM message ({what})");
        let text = std::str::from_utf8(message).map_err(|_| malformed("invalid text"))?;
        let mut parts = text.split(',');
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let nonce = part("r=").ok_or_else(|| malformed("no nonce"))?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("invalid SCRAM response (nonce mismatch)".to_owned());
        }
        let salt = part("s=").and_then(|salt| STANDARD.decode(salt).ok());
        let salt = salt.filter(|salt| !salt.is_empty()).ok_or_else(|| malformed("invalid salt"))?;
        let iterations = part("i=").and_then(|rounds| rounds.parse().ok());
        let iterations = iterations.filter(|rounds| (1..=ITERATIONS_MAX).contains(rounds));
        let iterations = iterations.ok_or_else(|| malformed("invalid iteration count"))?;
        let salted = salted_password(&self.password, &salt, iterations);
        let without_proof = format!("c={NO_BINDING},r={nonce}");
        let signed = format!("{},{text},{without_proof}", self.bare());
        let client_key = hmac(&salted, b"Client Key");
        let stored_key: Key = Sha256::digest(client_key).into();
        let proof = xor(&client_key, &hmac(&stored_key, signed.as_bytes()));
        let server_key = hmac(&salted, b"Server Key");
        self.expected = format!("v={}", STANDARD.encode(hmac(&server_key, signed.as_bytes())));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Takes the server's last message: whether the server knows the user's verifier.
    ///
    /// # Errors
    /// It doesn't, so it is not the server that it says it is.
    pub fn check_server(&self, message: &[u8]) -> Result<(), String> {
        if let Some(error) = message.strip_prefix(b"e=") {
            let error = String::from_utf8_lossy(error);
            return Err(format!("error received from server in SCRAM exchange: {error}"));
        }
        let same: bool = self.expected.as_bytes().ct_eq(message).into();
        if same && !self.expected.is_empty() { Ok(()) } else { Err("incorrect server signature".to_owned()) }
    }
}

/// A password that SASLprep has no form for is taken as it is, as PostgreSQL does.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let prepared = stringprep::saslprep(password);
    let bytes = prepared.as_deref().unwrap_or(password).as_bytes();
    let mut key = [0; KEY_BYTES];
    pbkdf2::pbkdf2_hmac::<Sha256>(bytes, salt, iterations, &mut key);
    key
}

fn hmac(key: &[u8], message: &[u8]) -> Key {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    hmac.update(message);
    hmac.finalize().into_bytes().into()
}

fn xor(one: &Key, other: &Key) -> Key {
    std::array::from_fn(|at| one[at] ^ other[at])
}

/// The value of the attribute at the start, and what follows its comma.
fn attribute<'a>(message: &'a str, name: &str) -> Result<(&'a str, &'a str), ErrorResponse> {
    let value = message.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    let value = value.ok_or_else(|| malformed(&format!("Expected attribute \"{name}\".")))?;
    Ok(value.split_once(',').unwrap_or((value, "")))
}

fn text(message: &[u8]) -> Result<&str, ErrorResponse> {
    if message.is_empty() {
        return Err(malformed("The message is empty."));
    }
    std::str::from_utf8(message).map_err(|_| malformed("It is not UTF-8."))
}

fn malformed(detail: &str) -> ErrorResponse {
    ErrorResponse::fatal(PROTOCOL_VIOLATION, "malformed SCRAM message").with_detail(detail)
}

#[cfg(test)]
mod tests;
