//! What CopyData carries during a base backup: archives and their manifest.
//!
//! ```text
//!   'n'  name of the archive, 0 | path of its tablespace (empty for the data directory), 0
//!   'm'  the manifest begins
//!   'd'  bytes of what began last
//!   'p'  bytes done so far i64
//! ```
//!
//! Follows PostgreSQL 15 src/backend/backup/basebackup_copy.c.

use crate::backend::{Column, begin, end, put_cstr};
use crate::body::{Body, violation};
use crate::error::ErrorResponse;
use crate::types::{INT8, OID, TEXT};

/// Columns of the two answers that tell where a backup starts and ends. Command tag: `SELECT`.
pub const BACKUP_POSITION_COLUMNS: [Column<'static>; 2] = [
    Column { name: "recptr", column_type: TEXT, typmod: 0 },
    Column { name: "tli", column_type: INT8_OF_VARYING_LENGTH, typmod: 0 },
];

/// Columns of the answer that lists the tablespaces. Command tag: `SELECT`.
pub const TABLESPACE_COLUMNS: [Column<'static>; 3] = [
    Column { name: "spcoid", column_type: OID, typmod: 0 },
    Column { name: "spclocation", column_type: TEXT, typmod: 0 },
    Column { name: "size", column_type: INT8, typmod: 0 },
];

/// PostgreSQL 15 says this of the timeline's column.
const INT8_OF_VARYING_LENGTH: crate::types::Type = crate::types::Type { oid: INT8.oid, length: -1 };

/// One CopyData of a base backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupMessage<'a> {
    /// An archive begins.
    Archive {
        /// Its file name, such as `base.tar`.
        name: &'a str,
        /// The tablespace that it holds; empty for the data directory.
        location: &'a str,
    },
    /// The manifest begins.
    Manifest,
    /// Bytes of what began last.
    Data(&'a [u8]),
    /// Bytes of files done so far.
    Progress(u64),
}

impl<'a> BackupMessage<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = begin(out, b'd');
        match self {
            BackupMessage::Archive { name, location } => {
                out.push(b'n');
                put_cstr(out, name);
                put_cstr(out, location);
            }
            BackupMessage::Manifest => out.push(b'm'),
            BackupMessage::Data(bytes) => {
                out.push(b'd');
                out.extend_from_slice(bytes);
            }
            BackupMessage::Progress(bytes) => {
                out.push(b'p');
                out.extend_from_slice(&bytes.to_be_bytes());
            }
        }
        end(out, at);
    }

    /// Reads the payload of a CopyData.
    ///
    /// # Errors
    /// 08P01: it is none of these.
    pub fn decode(payload: &'a [u8]) -> Result<BackupMessage<'a>, ErrorResponse> {
        let mut body = Body::new(payload);
        let message = match body.u8()? {
            b'n' => BackupMessage::Archive { name: body.cstr()?, location: body.cstr()? },
            b'm' => BackupMessage::Manifest,
            b'd' => return Ok(BackupMessage::Data(body.rest())),
            b'p' => match u64::try_from(body.i64()?) {
                Ok(bytes) => BackupMessage::Progress(bytes),
                Err(_) => return Err(violation("negative progress in a base backup")),
            },
            kind => {
                let kind = char::from(kind);
                return Err(violation(format!("unexpected payload type \"{kind}\" in a base backup")));
            }
        };
        body.end()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_bytes_and_read_back() {
        let cases: [(BackupMessage<'_>, &[u8]); 4] = [
            (BackupMessage::Archive { name: "base.tar", location: "" }, b"d\0\0\0\x0fnbase.tar\0\0"),
            (BackupMessage::Manifest, b"d\0\0\0\x05m"),
            (BackupMessage::Data(b"d\0x"), b"d\0\0\0\x08dd\0x"),
            (BackupMessage::Progress(0x166_a400), b"d\0\0\0\x0dp\0\0\0\0\x01\x66\xa4\0"),
        ];
        for (message, bytes) in cases {
            let mut out = Vec::new();
            message.encode(&mut out);
            assert_eq!(out, bytes, "{message:?}");
            assert_eq!(BackupMessage::decode(&out[5..]).unwrap(), message);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for payload in [b"".as_slice(), b"x", b"nbase.tar\0", b"m1", b"p\0\0\0", b"p\xff\0\0\0\0\0\0\0"] {
            assert_eq!(BackupMessage::decode(payload).unwrap_err().sqlstate.as_str(), "08P01", "{payload:?}");
        }
    }
}
