//! Small files that are replaced as a whole and know when they are damaged: the control file, the state of a slot.
//!
//! ```text
//! | 0 | 4 | magic | 4 | 4 | version | 8 | 4 | CRC-32C of what follows | 12.. | bincode |
//! ```

use std::fs;
use std::io;
use std::path::Path;

use bincode::{Decode, Encode};
use wal::store::{hint, reason};

use crate::datadir::replace_file;

const HEADER: usize = 12;
/// More than any of these files will need; a longer one is none.
const SIZE_MAX: usize = 4096;

/// A kind of such files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    /// What messages call the file.
    pub(crate) name: &'static str,
    /// Its first four bytes.
    pub(crate) magic: &'static [u8; 4],
    /// Of the content.
    pub(crate) version: u32,
}

impl Seal {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It can't be read, or isn't one (magic, version, CRC); the text names the path.
    pub(crate) fn read<T: Decode<()>>(&self, path: &Path) -> io::Result<T> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("could not read file \"{}\": {error}", path.display()))
        };
        if fs::metadata(path).map_err(named)?.len() > SIZE_MAX as u64 {
            return Err(self.invalid(path, "it is too long"));
        }
        let bytes = fs::read(path).map_err(named)?;
        self.decode(&bytes).map_err(|why| self.invalid(path, &why))
    }

    /// Checks a file's bytes. Error: why they are none.
    pub(crate) fn decode<T: Decode<()>>(&self, bytes: &[u8]) -> Result<T, String> {
        if bytes.len() < HEADER || &bytes[..4] != self.magic {
            return Err("it does not begin as one".to_owned());
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if word(4) != self.version {
            return Err(format!("its version is {}, this program knows {}", word(4), self.version));
        }
        if word(8) != crc32c::crc32c(&bytes[HEADER..]) {
            return Err("its checksum is wrong".to_owned());
        }
        let config = bincode::config::standard().with_limit::<SIZE_MAX>();
        match bincode::decode_from_slice(&bytes[HEADER..], config) {
            Ok((content, used)) if used == bytes.len() - HEADER => Ok(content),
            _ => Err("its content can't be decoded".to_owned()),
        }
    }

    /// A file's bytes.
    pub(crate) fn encode(&self, content: &impl Encode) -> Vec<u8> {
        let body = bincode::encode_to_vec(content, bincode::config::standard())
            .expect("numbers and short texts always encode");
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(self.magic);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Replaces a file durably.
    ///
    /// # Errors
    /// Those of the file system; the old file is then still there.
    pub(crate) fn write(&self, path: &Path, content: &impl Encode) -> io::Result<()> {
        replace_file(path, &self.encode(content)).map_err(|error| {
            let (reason, hint) = (reason(&error), hint(&error));
            let path = path.display();
            io::Error::new(error.kind(), format!("could not write file \"{path}\": {reason}{hint}"))
        })
    }

    fn invalid(&self, path: &Path, why: &str) -> io::Error {
        let text = format!("{0} \"{1}\" is damaged or not a {0}: {why}", self.name, path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}
