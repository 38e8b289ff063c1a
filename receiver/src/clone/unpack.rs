//! Writes the archive of a base backup into a data directory, as it comes.
//!
//! Taken are plain files and directories whose paths stay inside of the directory; anything else is no archive of a
//! Walship node. Every file is fsynced, every directory at the end. What the directory is completed with, the control
//! file and the settings, is not written but given to the caller.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use failpoint::Site;
use sender::client::{ClientError, ServerConnection};
use sender::control::ControlFile;
use sender::datadir::DataDir;
use settings::auto_conf;
use sys::file::sync_directory;
use tar::{Archive, Entry, EntryType};
use wire::replication::backup::BackupMessage;

use super::CloneError;

/// More than a control file or a file of settings has.
const SMALL_FILE_MAX: u64 = 1 << 20;

/// What was not written.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The backup's control file.
    pub(super) control: ControlFile,
    /// Its settings: walship.conf, and over it what postgresql.auto.conf says.
    pub(super) conf: String,
}

/// Reads the copy that `upstream` has begun to its end.
pub(super) fn unpack(
    upstream: &mut ServerConnection,
    data: &DataDir,
    progress: &mut Progress,
) -> Result<Unpacked, CloneError> {
    let root = data.root();
    let failed = |error: io::Error| {
        CloneError(format!("could not write data directory \"{}\": {error}", root.display()))
    };
    data.make_root().map_err(failed)?;
    let mut copy = Copy { upstream, piece: Vec::new(), taken: 0, archives: 0, error: None, progress };
    let kept = unpack_archive(&mut Archive::new(&mut copy), root);
    // What the upstream said, if it was that, says more than that the archive broke off.
    let rest = io::copy(&mut copy, &mut io::sink());
    let error = copy.error.take();
    copy.progress.end();
    if let Some(error) = error {
        return Err(CloneError(format!("the base backup was interrupted: {error}")));
    }
    let kept = kept.and_then(|kept| rest.map(|_| kept)).map_err(failed)?;
    kept.check()
}

/// The small files that the caller gets.
#[derive(Debug, Default)]
struct Kept {
    control: Option<Vec<u8>>,
    conf: Option<Vec<u8>>,
    auto_conf: Option<Vec<u8>>,
}

impl Kept {
    fn place(&mut self, path: &Path) -> Option<&mut Option<Vec<u8>>> {
        match path.to_str()? {
            "control" => Some(&mut self.control),
            "walship.conf" => Some(&mut self.conf),
            auto_conf::FILE_NAME => Some(&mut self.auto_conf),
            _ => None,
        }
    }

    fn check(self) -> Result<Unpacked, CloneError> {
        let Some(control) = self.control else {
            return Err(CloneError("the base backup has no control file: it is not whole".to_owned()));
        };
        let control = ControlFile::from_bytes(&control)
            .map_err(|why| CloneError(format!("the base backup's control file is of no use: {why}")))?;
        let text = |bytes: Option<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        let conf = auto_conf::append(&text(self.conf), &text(self.auto_conf)).map_err(|errors| {
            let lines: Vec<_> = errors.iter().map(|error| error.located(auto_conf::FILE_NAME)).collect();
            CloneError(format!("the upstream's settings are of no use: {}", lines.join("; ")))
        })?;
        Ok(Unpacked { control, conf })
    }
}

fn unpack_archive(archive: &mut Archive<impl Read>, root: &Path) -> io::Result<Kept> {
    let mut kept = Kept::default();
    let mut directories = BTreeSet::from([root.to_owned()]);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = inside(&entry.path()?)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                let path = root.join(path);
                DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                directories.insert(path);
            }
            EntryType::Regular => match kept.place(&path) {
                Some(place) => *place = Some(small_file(&mut entry, &path)?),
                None => write_file(&mut entry, &root.join(path))?,
            },
            other => {
                return Err(io::Error::other(format!("member \"{}\" is of type {other:?}", path.display())));
            }
        }
    }
    failpoint::io(Site::CloneDirectories, || {
        directories.iter().try_for_each(|directory| sync_directory(directory))
    })?;
    Ok(kept)
}

/// The path, if it leads nowhere else.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let message = format!("member \"{}\" would be outside of the directory", path.display());
                return Err(io::Error::other(message));
            }
        }
    }
    Ok(inside)
}

fn small_file(entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<Vec<u8>> {
    if entry.size() > SMALL_FILE_MAX {
        return Err(io::Error::other(format!("member \"{}\" is too long", path.display())));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    Ok(content)
}

fn write_file(entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        io::copy(entry, &mut file)?;
        file.sync_all()
    };
    failpoint::io(Site::CloneFile, write).map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("could not write file \"{}\": {error}", path.display()))
    })
}

/// The archive's bytes, out of the messages of the copy.
struct Copy<'a> {
    upstream: &'a mut ServerConnection,
    /// What came last, and how much of it was taken.
    piece: Vec<u8>,
    taken: usize,
    archives: u32,
    /// Why there is no more, unless it is the end.
    error: Option<ClientError>,
    progress: &'a mut Progress,
}

impl Copy<'_> {
    /// Waits for more of the archive; false at its end.
    fn fetch(&mut self) -> Result<bool, ClientError> {
        let wrong = |what: &str| ClientError::Protocol(format!("the upstream sent {what} in a base backup"));
        while let Some(payload) = self.upstream.receive_copy()? {
            match BackupMessage::decode(payload).map_err(|report| ClientError::Protocol(report.message))? {
                BackupMessage::Archive { .. } if self.archives > 0 => return Err(wrong("a second archive")),
                BackupMessage::Archive { .. } => self.archives += 1,
                BackupMessage::Data(bytes) => {
                    self.piece.clear();
                    self.piece.extend_from_slice(bytes);
                    self.taken = 0;
                    return Ok(true);
                }
                BackupMessage::Progress(bytes) => self.progress.show(bytes),
                BackupMessage::Manifest => return Err(wrong("a manifest nobody asked for")),
            }
        }
        Ok(false)
    }
}

impl Read for Copy<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            if self.error.is_some() {
                return Ok(0);
            }
            match self.fetch() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    let text = error.to_string();
                    self.error = Some(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        let len = into.len().min(self.piece.len() - self.taken);
        into[..len].copy_from_slice(&self.piece[self.taken..][..len]);
        self.taken += len;
        Ok(len)
    }
}

/// Tells a user at a terminal how far the backup is, on one line of stderr.
#[derive(Debug)]
pub(super) struct Progress {
    /// Kilobytes in all, if the upstream has said so.
    total: Option<u64>,
    shows: bool,
    shown: bool,
}

impl Progress {
    pub(super) fn new(total: Option<u64>) -> Progress {
        Progress { total, shows: io::stderr().is_terminal(), shown: false }
    }

    fn show(&mut self, bytes: u64) {
        if self.shows {
            self.shown = true;
            self.write(&format!("\r{}", line(bytes / 1024, self.total)));
        }
    }

    fn end(&mut self) {
        if self.shown {
            self.write("\n");
        }
    }

    /// A terminal that is gone needs no progress.
    fn write(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

/// The log, which comes at the end, is not in the total.
fn line(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => {
            let total = total.max(done);
            let percent = (done * 100).checked_div(total).unwrap_or(100);
            format!("{done}/{total} kB ({percent}%)")
        }
        None => format!("{done} kB"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tar::{Builder, Header};

    use super::*;

    fn archive(members: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in members {
            let mut header = Header::new_ustar();
            // As a hostile upstream would: without the crate's own checks.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack(members: &[(&str, EntryType, &[u8])]) -> (tempfile::TempDir, io::Result<Kept>) {
        let root = tempfile::tempdir().unwrap();
        let bytes = archive(members);
        let kept = unpack_archive(&mut Archive::new(bytes.as_slice()), root.path());
        (root, kept)
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn files_are_written_and_what_completes_them_is_kept() {
        let (root, kept) = unpack(&[
            ("backup_label", FILE, b"START"),
            ("pg_wal/", EntryType::Directory, b""),
            ("./pg_wal/archive_status/", EntryType::Directory, b""),
            ("pg_wal/1", FILE, &[7; 1000]),
            ("walship.conf", FILE, b"port = 1\n"),
            ("control", FILE, b"x"),
        ]);
        let kept = kept.unwrap();
        assert_eq!(fs::read(root.path().join("backup_label")).unwrap(), b"START");
        assert_eq!(fs::read(root.path().join("pg_wal/1")).unwrap(), [7; 1000]);
        assert!(root.path().join("pg_wal/archive_status").is_dir());
        assert!(!root.path().join("control").exists() && !root.path().join("walship.conf").exists());
        assert_eq!(kept.conf.as_deref(), Some(b"port = 1\n".as_slice()));
        assert!(kept.check().unwrap_err().0.contains("control file is of no use"));
        assert!(Kept::default().check().unwrap_err().0.contains("no control file"));
    }

    #[test]
    fn hostile_archives_write_nothing_elsewhere() {
        for (path, kind) in [
            ("../outside", FILE),
            ("/tmp/outside", FILE),
            ("a/../../outside", FILE),
            ("link", EntryType::Symlink),
            ("device", EntryType::Char),
            ("link", EntryType::Link),
        ] {
            let (root, kept) = unpack(&[(path, kind, b"")]);
            let error = kept.unwrap_err().to_string();
            assert!(error.contains(path), "{path}: {error}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "{path}");
        }
        let long = vec![0; usize::try_from(SMALL_FILE_MAX).unwrap() + 1];
        let (_root, kept) = unpack(&[("control", FILE, &long)]);
        assert!(kept.unwrap_err().to_string().contains("too long"));
        // A file that comes twice.
        let (_root, kept) = unpack(&[("a", FILE, b"1"), ("a", FILE, b"2")]);
        assert!(kept.unwrap_err().to_string().contains("could not write file"));
    }

    #[test]
    fn progress_is_told_as_pg_basebackup_tells_it() {
        assert_eq!(line(5, Some(10)), "5/10 kB (50%)");
        assert_eq!(line(12, Some(10)), "12/12 kB (100%)");
        assert_eq!(line(0, Some(0)), "0/0 kB (100%)");
        assert_eq!(line(7, None), "7 kB");
    }
}
