//! The members of the archive: ustar headers as PostgreSQL's tools read and write them. Pure.
//!
//! The crate `tar` lays the header out; what goes in is PostgreSQL's choice: files 0600, directories 0700, owned by
//! whoever runs this node, called `postgres`. Every member is filled up to whole blocks, and two empty blocks end the
//! archive.
//!
//! Follows PostgreSQL 15 src/port/tar.c and _tarWriteHeader() in src/backend/backup/basebackup.c.

use ::tar::{EntryType, Header};
use wal::timestamp::Timestamp;

/// Bytes in a block.
pub const BLOCK: usize = 512;
/// What ends an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// A path that no header can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTooLong;

/// Whose files they are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// The header of a file.
    ///
    /// # Errors
    /// The path is too long.
    pub fn file(self, path: &str, size: u64, modified: Timestamp) -> Result<[u8; BLOCK], PathTooLong> {
        self.header(path, EntryType::Regular, 0o600, size, modified)
    }

    /// The header of a directory; all that there is of it.
    ///
    /// # Errors
    /// The path is too long.
    pub fn directory(self, path: &str, modified: Timestamp) -> Result<[u8; BLOCK], PathTooLong> {
        self.header(&format!("{path}/"), EntryType::Directory, 0o700, 0, modified)
    }

    fn header(
        self,
        path: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
        modified: Timestamp,
    ) -> Result<[u8; BLOCK], PathTooLong> {
        const NAME_FITS: &str = "the name of the owner is short";
        let mut header = Header::new_ustar();
        header.set_path(path).map_err(|_| PathTooLong)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(u64::try_from(modified.unix_seconds()).unwrap_or(0));
        header.set_uid(u64::from(self.uid));
        header.set_gid(u64::from(self.gid));
        header.set_username("postgres").expect(NAME_FITS);
        header.set_groupname("postgres").expect(NAME_FITS);
        header.set_device_major(0).expect("an ustar header has devices");
        header.set_device_minor(0).expect("an ustar header has devices");
        header.set_cksum();
        Ok(*header.as_bytes())
    }
}

/// The zeros that fill up the last block of a file of `size` bytes.
pub fn padding(size: u64) -> &'static [u8] {
    let used = usize::try_from(size % BLOCK as u64).expect("less than a block");
    if used == 0 { &[] } else { &END[used..BLOCK] }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const TIME: Timestamp = Timestamp(848_601_921_999_999);
    const OWNER: Owner = Owner { uid: 70_000, gid: 104 };

    /// What the system's tar says of an archive.
    fn listed(archive: &[u8]) -> String {
        let mut tar = Command::new("tar")
            .args(["--numeric-owner", "--utc", "-tvf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(archive).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn tar_reads_every_member() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        let mut archive = Vec::new();
        for (path, content) in [("backup_label", b"START".as_slice()), (&long, &[b'x'; 512])] {
            archive.extend(OWNER.file(path, content.len() as u64, TIME).unwrap());
            archive.extend_from_slice(content);
            archive.extend_from_slice(padding(content.len() as u64));
        }
        archive.extend(OWNER.directory("pg_wal/archive_status", TIME).unwrap());
        archive.extend(OWNER.file("control", 0, TIME).unwrap());
        archive.extend(END);
        assert_eq!(archive.len() % BLOCK, 0);
        let text = listed(&archive);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = [
            ("-rw-------", "5", "backup_label"),
            ("-rw-------", "512", long.as_str()),
            ("drwx------", "0", "pg_wal/archive_status/"),
            ("-rw-------", "0", "control"),
        ];
        assert_eq!(lines.len(), expected.len(), "{text}");
        for (line, (mode, size, path)) in lines.iter().zip(expected) {
            assert_eq!(line, &[mode, "70000/104", size, "2026-11-21", "18:45", path]);
        }
    }

    #[test]
    fn header_is_that_of_postgresql() {
        // Of a file of 225 bytes, by PostgreSQL 15.20.
        let header =
            Owner { uid: 101, gid: 104 }.file("backup_label", 225, Timestamp(848_587_521_000_000)).unwrap();
        assert_eq!(&header[..13], b"backup_label\0");
        assert_eq!(&header[100..107], b"0000600");
        assert_eq!(&header[108..115], b"0000145");
        assert_eq!(&header[116..123], b"0000150");
        assert_eq!(&header[124..135], b"00000000341");
        assert_eq!(&header[136..147], b"15300327201");
        assert_eq!(&header[156..265], &{
            let mut part = [0; 109];
            part[0] = b'0';
            part[101..109].copy_from_slice(b"ustar\x0000");
            part
        });
        assert_eq!(&header[265..274], b"postgres\0");
        assert_eq!(&header[297..306], b"postgres\0");
    }

    #[test]
    fn path_that_no_header_holds_is_refused() {
        assert_eq!(OWNER.file(&"x".repeat(200), 0, TIME), Err(PathTooLong));
    }

    #[test]
    fn padding_fills_the_last_block() {
        for (size, zeros) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size).len(), zeros, "{size}");
        }
    }
}
