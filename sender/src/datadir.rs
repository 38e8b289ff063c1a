//! The data directory: its paths, its creation and the checks made before it is used.
//!
//! ```text
//! DIR/  walship.conf  postmaster.pid  control  standby.signal
//!       pg_wal/{segments, *.history, archive_status/}  pg_replslot/NAME/state  state/state.db
//! ```
//!
//! A directory is made complete or not at all: `control` is written last, so a directory whose making was
//! interrupted has no control file and no node starts from it.
//!
//! Follows PostgreSQL 15 src/bin/initdb/initdb.c and checkDataDir() in src/backend/utils/init/miscinit.c; differs in:
//! group access is never allowed, and the tables are one SQLite file.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::control::ControlFile;

/// Paths inside one data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// Why a data directory can't be used or made. The text names the path and what to do.
#[derive(Debug)]
pub struct DataDirError(pub String);

impl std::fmt::Display for DataDirError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DataDirError {}

impl DataDir {
    /// Names the directory; touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> DataDir {
        DataDir { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `walship.conf`, the settings.
    pub fn conf(&self) -> PathBuf {
        self.root.join("walship.conf")
    }

    /// `control`, see [`ControlFile`].
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// `standby.signal`: this node follows an upstream as long as the file is there.
    pub fn standby_signal(&self) -> PathBuf {
        self.root.join("standby.signal")
    }

    /// `pg_wal`, the log.
    pub fn pg_wal(&self) -> PathBuf {
        self.root.join("pg_wal")
    }

    /// `pg_wal/archive_status`, what of the log is in the archive.
    pub fn archive_status(&self) -> PathBuf {
        self.pg_wal().join("archive_status")
    }

    /// `state/state.db`, the tables.
    pub fn state_db(&self) -> PathBuf {
        self.root.join("state").join("state.db")
    }

    /// `state/state.db-wal`, SQLite's own log in front of the tables.
    pub fn state_db_wal(&self) -> PathBuf {
        self.root.join("state").join("state.db-wal")
    }

    /// Whether the node is to follow an upstream.
    pub fn is_standby(&self) -> bool {
        self.standby_signal().exists()
    }

    /// Makes the directory with its folders, the settings file and, last, the control file; everything is fsynced.
    ///
    /// # Errors
    /// The directory exists and isn't empty, or can't be written. What was made by then is removed again.
    pub fn create(&self, conf: &str, standby: bool, control: &ControlFile) -> Result<(), DataDirError> {
        let existed = self.check_empty()?;
        self.create_content(conf, standby, control).map_err(|error| {
            self.remove_content(existed);
            DataDirError(format!("could not create data directory \"{}\": {error}", self.root.display()))
        })
    }

    /// True when the (empty) directory is there already.
    ///
    /// # Errors
    /// It is not empty, or can't be read.
    pub fn check_empty(&self) -> Result<bool, DataDirError> {
        match fs::read_dir(&self.root) {
            Ok(mut entries) => match entries.next() {
                None => Ok(true),
                Some(_) => Err(DataDirError(format!(
                    "directory \"{}\" exists but is not empty\nHINT:  Remove or empty the directory, or give another one with -D.",
                    self.root.display()
                ))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                Err(DataDirError(format!("could not access directory \"{}\": {error}", self.root.display())))
            }
        }
    }

    fn create_content(&self, conf: &str, standby: bool, control: &ControlFile) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.root)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        for folder in ["pg_wal", "pg_wal/archive_status", "pg_replslot", "state"] {
            builder.create(self.root.join(folder))?;
        }
        replace_file(&self.conf(), conf.as_bytes())?;
        if standby {
            replace_file(&self.standby_signal(), b"")?;
        }
        fs::File::open(self.pg_wal())?.sync_all()?;
        control.write(&self.control())?;
        if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn remove_content(&self, existed: bool) {
        // Best effort: the error that led here is what the user must see.
        if existed {
            for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        } else {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    /// Checks that the directory is there, ours, private and complete.
    ///
    /// # Errors
    /// As PostgreSQL words them.
    pub fn check(&self) -> Result<(), DataDirError> {
        let root = self.root.display();
        let meta = fs::metadata(&self.root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DataDirError(format!("data directory \"{root}\" does not exist")),
            _ => DataDirError(format!("could not read permissions of directory \"{root}\": {error}")),
        })?;
        if !meta.is_dir() {
            return Err(DataDirError(format!("specified data directory \"{root}\" is not a directory")));
        }
        if meta.uid() != sys::process::effective_uid() {
            return Err(DataDirError(format!(
                "data directory \"{root}\" has wrong ownership\nHINT:  The server must be started by the user that owns the data directory."
            )));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(DataDirError(format!(
                "data directory \"{root}\" has invalid permissions\nDETAIL:  Permissions should be u=rwx (0700)."
            )));
        }
        if !self.control().exists() {
            return Err(DataDirError(format!(
                "\"{root}\" is not a Walship data directory: it has no file \"control\"\nHINT:  Make one with \"primary init -D {root}\" or \"standby clone -D {root} --from CONNINFO\"."
            )));
        }
        for folder in [self.pg_wal(), self.archive_status(), self.root.join("state")] {
            if !folder.is_dir() {
                return Err(DataDirError(format!(
                    "required directory \"{}\" does not exist",
                    folder.display()
                )));
            }
        }
        Ok(())
    }
}

/// Replaces a small file so that after a crash either the old or the new content is there: temporary file, fsync,
/// rename, fsync of the directory.
///
/// # Errors
/// Those of the file system; the old content is then still there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().expect("a file in a data directory has a parent");
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> ControlFile {
        ControlFile::new(7, 16 << 20, 1)
    }

    #[test]
    fn create_makes_a_private_complete_directory_once() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::new(parent.path().join("data"));
        data.create("port = 5440\n", true, &control()).unwrap();
        data.check().unwrap();
        assert!(data.is_standby());
        let error = data.create("", false, &control()).unwrap_err();
        assert!(error.0.contains("exists but is not empty"), "{error}");
    }

    #[test]
    fn check_names_what_is_wrong() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::new(parent.path().join("data"));
        assert!(data.check().unwrap_err().0.ends_with("does not exist"));
        data.create("", false, &control()).unwrap();
        fs::set_permissions(data.root(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(data.check().unwrap_err().0.contains("has invalid permissions"));
        fs::set_permissions(data.root(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(data.control()).unwrap();
        assert!(data.check().unwrap_err().0.contains("not a Walship data directory"));
    }
}
