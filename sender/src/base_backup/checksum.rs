//! The checksum of a file in a backup's manifest. Pure.
//!
//! Follows PostgreSQL 15 src/common/checksum_helper.c.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// How files are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Not at all.
    None,
    /// CRC-32C: finds damage, quickly.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

const NAMES: [(Algorithm, &str); 6] = [
    (Algorithm::None, "NONE"),
    (Algorithm::Crc32c, "CRC32C"),
    (Algorithm::Sha224, "SHA224"),
    (Algorithm::Sha256, "SHA256"),
    (Algorithm::Sha384, "SHA384"),
    (Algorithm::Sha512, "SHA512"),
];

impl Algorithm {
    /// The one of that name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(algorithm, _)| *algorithm)
    }

    /// As the manifest names it.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(algorithm, _)| *algorithm == self).expect("every algorithm has a name").1
    }
}

/// The sum of what has been seen of a file.
#[derive(Clone, Debug)]
pub enum Checksum {
    /// None is wanted.
    None,
    /// So far.
    Crc32c(u32),
    /// So far.
    Sha224(Sha224),
    /// So far.
    Sha256(Sha256),
    /// So far.
    Sha384(Sha384),
    /// So far.
    Sha512(Sha512),
}

impl Checksum {
    /// Of nothing yet.
    pub fn new(algorithm: Algorithm) -> Checksum {
        match algorithm {
            Algorithm::None => Checksum::None,
            Algorithm::Crc32c => Checksum::Crc32c(0),
            Algorithm::Sha224 => Checksum::Sha224(Sha224::new()),
            Algorithm::Sha256 => Checksum::Sha256(Sha256::new()),
            Algorithm::Sha384 => Checksum::Sha384(Sha384::new()),
            Algorithm::Sha512 => Checksum::Sha512(Sha512::new()),
        }
    }

    /// Adds the file's next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Checksum::None => {}
            Checksum::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
            Checksum::Sha224(sum) => sum.update(bytes),
            Checksum::Sha256(sum) => sum.update(bytes),
            Checksum::Sha384(sum) => sum.update(bytes),
            Checksum::Sha512(sum) => sum.update(bytes),
        }
    }

    /// The sum in hexadecimal digits; `None` if none is wanted. The bytes of a CRC are in the order in which this
    /// machine's PostgreSQL keeps them: lowest first.
    pub fn finish(self) -> Option<String> {
        Some(match self {
            Checksum::None => return None,
            Checksum::Crc32c(sum) => hex(&sum.to_le_bytes()),
            Checksum::Sha224(sum) => hex(&sum.finalize()),
            Checksum::Sha256(sum) => hex(&sum.finalize()),
            Checksum::Sha384(sum) => hex(&sum.finalize()),
            Checksum::Sha512(sum) => hex(&sum.finalize()),
        })
    }
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(HEX_DIGITS[usize::from(digit)]))
        .collect()
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_postgresql() {
        // The last is of the file PG_VERSION, "15" and a newline, in a manifest of PostgreSQL 15.20.
        for (name, bytes, sum) in [
            ("crc32c", b"".as_slice(), "00000000"),
            ("sha224", b"abc", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("SHA256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("CRC32C", b"15\n", "8a744722"),
        ] {
            let mut checksum = Checksum::new(Algorithm::from_name(name).unwrap());
            for byte in bytes {
                checksum.update(std::slice::from_ref(byte));
            }
            assert_eq!(checksum.finish().as_deref(), Some(sum), "{name} of {bytes:?}");
        }
        assert_eq!(Checksum::new(Algorithm::None).finish(), None);
        assert_eq!(Algorithm::from_name("md5"), None);
    }

    #[test]
    fn every_algorithm_sums_what_its_name_says() {
        for (algorithm, name) in NAMES {
            assert_eq!(Algorithm::from_name(&name.to_ascii_lowercase()), Some(algorithm));
            let digits = Checksum::new(algorithm).finish().map_or(0, |sum| sum.len());
            let bits = match name {
                "NONE" => 0,
                "CRC32C" => 32,
                sha => sha[3..].parse().unwrap(),
            };
            assert_eq!(digits * 4, bits, "{name}");
        }
    }
}
