//! The data directory: its paths, its creation and the checks made before it is used.
//!
//! ```text
//! DIR/  walship.conf  postmaster.pid  control  boot_id  standby.signal  pg_hba.conf  first_role
//!       pg_wal/{segments, *.history, archive_status/}  pg_replslot/NAME/state  state/{state.db, reserve}
//!       reserve
//! ```
//!
//! A directory is made complete or not at all: `control` is written last, so a directory whose making was
//! interrupted has no control file and no node starts from it.
//!
//! Follows PostgreSQL 15 src/bin/initdb/initdb.c and checkDataDir() in src/backend/utils/init/miscinit.c; differs in:
//! group access is never allowed, and the tables are one SQLite file.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use failpoint::Site;

use settings::auto_conf;
use sys::file::{remove_if_there, sync_directory};

use crate::control::ControlFile;

/// Paths inside one data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// What a new data directory is made with.
#[derive(Clone, Copy, Debug)]
pub struct NewFiles<'a> {
    /// walship.conf.
    pub conf: &'a str,
    /// pg_hba.conf; none: it is there already.
    pub hba: Option<&'a str>,
    /// The statement that makes the first role; none: a standby's, whose roles come with the log.
    pub first_role: Option<&'a str>,
}

/// Why a data directory can't be used or made. The text names the path and what to do.
#[derive(Debug)]
pub struct DataDirError(pub String);

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    /// `pg_hba.conf`, who may connect.
    pub fn hba(&self) -> PathBuf {
        self.root.join("pg_hba.conf")
    }

    /// `first_role`, the statement that makes it: from `init` until the log has it.
    pub fn first_role(&self) -> PathBuf {
        self.root.join("first_role")
    }

    /// `control`, see [`ControlFile`].
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// `boot_id`, see [`crate::sync_rep::boot`].
    pub fn boot_id(&self) -> PathBuf {
        self.root.join("boot_id")
    }

    /// `standby.signal`: this node follows an upstream as long as the file is there.
    pub fn standby_signal(&self) -> PathBuf {
        self.root.join("standby.signal")
    }

    /// `hand_over`, while a primary shuts down to become a standby: the connection string of the node that takes over.
    pub fn hand_over(&self) -> PathBuf {
        self.root.join("hand_over")
    }

    /// `promote`, until the startup process has seen that it is to promote: the interrupt alone doesn't say whether that, or
    /// a switchover, or nothing any more.
    pub fn promote(&self) -> PathBuf {
        self.root.join("promote")
    }

    /// `switchover`, while a standby waits for its upstream's end to become a primary.
    pub fn switchover(&self) -> PathBuf {
        self.root.join("switchover")
    }

    /// `pg_wal`, the log.
    pub fn pg_wal(&self) -> PathBuf {
        self.root.join("pg_wal")
    }

    /// `pg_wal/archive_status`, what of the log is in the archive.
    pub fn archive_status(&self) -> PathBuf {
        self.pg_wal().join("archive_status")
    }

    /// `pg_replslot`, the replication slots.
    pub fn pg_replslot(&self) -> PathBuf {
        self.root.join("pg_replslot")
    }

    /// `state/state.db`, the tables.
    pub fn state_db(&self) -> PathBuf {
        self.root.join("state").join("state.db")
    }

    /// `state/state.db-wal`, SQLite's own log in front of the tables.
    pub fn state_db_wal(&self) -> PathBuf {
        self.root.join("state").join("state.db-wal")
    }

    /// Makes the node follow `upstream` (a connection string) from its next start on, durably: its settings name it, and
    /// it is a standby.
    ///
    /// # Errors
    /// What is there of a walship.conf can't be read or replaced, or doesn't take the value.
    pub fn make_standby(&self, upstream: &str) -> Result<(), DataDirError> {
        let path = self.conf();
        let failed = |what: &str, error: &dyn fmt::Display| {
            DataDirError(format!("could not {what} file \"{}\": {error}", path.display()))
        };
        let text = fs::read_to_string(&path).map_err(|error| failed("read", &error))?;
        let changed = settings::edit::with(&text, &[("primary_conninfo", upstream)])
            .map_err(|error| DataDirError(error.to_string()))?;
        self.forget_auto_upstream()?;
        replace_file(&path, changed.as_bytes()).map_err(|error| failed("write", &error))?;
        replace_file(&self.standby_signal(), b"").map_err(|error| {
            DataDirError(format!("could not create file \"{}\": {error}", self.standby_signal().display()))
        })
    }

    /// What a base backup has left in postgresql.auto.conf would go over walship.conf.
    fn forget_auto_upstream(&self) -> Result<(), DataDirError> {
        let path = self.root.join(auto_conf::FILE_NAME);
        let change = || match fs::read_to_string(&path) {
            Ok(text) => {
                let changed =
                    auto_conf::comment_out(&text, |name| name.eq_ignore_ascii_case("primary_conninfo"));
                replace_file(&path, changed.as_bytes())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        change()
            .map_err(|error| DataDirError(format!("could not change file \"{}\": {error}", path.display())))
    }

    /// Whether the node is to follow an upstream.
    pub fn is_standby(&self) -> bool {
        self.standby_signal().exists()
    }

    /// Makes the directory with its folders, the settings file and, last, the control file; everything is fsynced.
    ///
    /// # Errors
    /// The directory exists and isn't empty, or can't be written. What was made by then is removed again.
    pub fn create(&self, files: &NewFiles<'_>, control: &ControlFile) -> Result<(), DataDirError> {
        let existed = self.check_empty()?;
        self.make_root().and_then(|()| self.complete(files, control)).map_err(|error| {
            self.remove_content(existed);
            DataDirError(format!("could not create data directory \"{}\": {error}", self.root.display()))
        })
    }

    /// Makes the directory itself, for nobody but its owner, and durably those that it is in.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make_root(&self) -> io::Result<()> {
        let missing: Vec<&Path> = self.root.ancestors().take_while(|directory| !directory.exists()).collect();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        for new in missing {
            let parent = new.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_directory(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    /// True when the (empty) directory is there already.
    ///
    /// # Errors
    /// It is not empty, or can't be read.
    pub fn check_empty(&self) -> Result<bool, DataDirError> {
        match fs::read_dir(&self.root) {
            Ok(mut entries) => match entries.next() {
                None => Ok(true),
                Some(_) if self.is_interrupted_backup() => Err(DataDirError(format!(
                    "directory \"{}\" holds a base backup that was interrupted\nHINT:  Remove the directory and begin again.",
                    self.root.display()
                ))),
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

    /// A base backup brings its label first and its control file last.
    fn is_interrupted_backup(&self) -> bool {
        self.root.join("backup_label").exists() && !self.control().exists()
    }

    /// Makes what is missing in the directory, and, last, the control file: from then on a node can start from it. What is
    /// there already is durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn complete(&self, files: &NewFiles<'_>, control: &ControlFile) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for folder in ["pg_wal", "pg_wal/archive_status", "pg_replslot", "state"] {
            builder.create(self.root.join(folder))?;
        }
        replace_file(&self.conf(), files.conf.as_bytes())?;
        if let Some(hba) = files.hba {
            replace_file(&self.hba(), hba.as_bytes())?;
        }
        match files.first_role {
            Some(statement) => replace_file(&self.first_role(), statement.as_bytes())?,
            None => replace_file(&self.standby_signal(), b"")?,
        }
        sync_directory(&self.pg_wal())?;
        control.write(&self.control())?;
        if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        Ok(())
    }

    /// Removes what was made, and the directory too unless it `existed`.
    pub fn remove_content(&self, existed: bool) {
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
        if self.is_interrupted_backup() {
            return Err(DataDirError(format!(
                "\"{root}\" holds a base backup that was interrupted: it has no file \"control\"\nHINT:  Remove the directory and make the backup again."
            )));
        }
        if !self.control().exists() {
            return Err(DataDirError(format!(
                "\"{root}\" is not a Walship data directory: it has no file \"control\"\nHINT:  Make one with \"primary init -D {root}\" or \"standby clone -D {root} --from CONNINFO\"."
            )));
        }
        for folder in [self.pg_wal(), self.archive_status(), self.pg_replslot(), self.root.join("state")] {
            if !folder.is_dir() {
                return Err(DataDirError(format!(
                    "required directory \"{}\" does not exist",
                    folder.display()
                )));
            }
        }
        Ok(())
    }

    /// Removes what replacing a small file has left when it was killed. While nobody else uses the directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove_temporary(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// How the names of [`replace_file`]'s temporary files begin.
const TEMPORARY: &str = ".tmp";

/// Replaces a small file so that after a crash either the old or the new content is there: temporary file, fsync,
/// rename, fsync of the directory.
///
/// # Errors
/// Those of the file system; the old content is then still there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().expect("a file in a data directory has a parent");
    // The system's own error, without the temporary name that tempfile adds: callers name the file.
    let plain = |error: io::Error| error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(parent).map_err(plain)?;
    failpoint::write(Site::SmallFileWrite, content.len(), |part| file.write_all(&content[part]))?;
    failpoint::io(Site::SmallFileSync, || file.as_file().sync_all())?;
    failpoint::io(Site::SmallFileRename, || file.persist(path).map_err(|error| error.error))?;
    let directory = fs::File::open(parent)?;
    failpoint::io(Site::SmallFileDirectory, || directory.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> ControlFile {
        ControlFile::new(7, 16 << 20, 1)
    }

    const PRIMARY: NewFiles<'_> = NewFiles { conf: "", hba: Some(""), first_role: Some("CREATE ROLE x") };
    const STANDBY: NewFiles<'_> = NewFiles { first_role: None, ..PRIMARY };

    #[test]
    fn create_makes_a_private_complete_directory_once() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::new(parent.path().join("data"));
        data.create(&STANDBY, &control()).unwrap();
        data.check().unwrap();
        assert!(data.is_standby());
        let error = data.create(&PRIMARY, &control()).unwrap_err();
        assert!(error.0.contains("exists but is not empty"), "{error}");
    }

    #[test]
    fn what_a_killed_replacement_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::new(parent.path().join("data"));
        data.create(&PRIMARY, &control()).unwrap();
        let left = data.root().join(".tmpa1b2c3");
        fs::write(&left, "half").unwrap();
        data.remove_temporary().unwrap();
        assert!(!left.exists());
        data.check().unwrap();
    }

    #[test]
    fn check_names_what_is_wrong() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::new(parent.path().join("data"));
        assert!(data.check().unwrap_err().0.ends_with("does not exist"));
        data.create(&PRIMARY, &control()).unwrap();
        fs::set_permissions(data.root(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(data.check().unwrap_err().0.contains("has invalid permissions"));
        fs::set_permissions(data.root(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(data.control()).unwrap();
        assert!(data.check().unwrap_err().0.contains("not a Walship data directory"));
    }
}
