//! Which files of the data directory belong to a base backup.
//!
//! All of them, whatever they are for, but: what is made for the backup (the label, the control file, the copy of the
//! tables, `pg_tblspc`), what this one run of the node has made (its pid file, sockets, temporary files), and what is
//! the node's own: its reserve, its slots, and the log, of which the backup's share is sent apart.
//!
//! Follows PostgreSQL 15 sendDir() and the lists before it in src/backend/backup/basebackup.c.

use std::fs;
use std::io;
use std::path::Path;

/// Where processes put temporary files; emptied when the node starts.
pub const TEMPORARY_DIRECTORY: &str = "pgsql_tmp";

/// How names begin that mean nothing to another node: temporary files, locks of sockets.
const OF_THIS_RUN: [&str; 3] = [TEMPORARY_DIRECTORY, ".tmp", ".s.PGSQL."];

/// A file or directory to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the data directory on, with slashes.
    pub path: String,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// What becomes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// Nothing is sent.
    Nothing,
    /// The directory, empty.
    Itself,
    /// All of it.
    All,
}

fn share(path: &str) -> Share {
    let name = path.rsplit('/').next().unwrap_or(path);
    match path {
        "backup_label" | "backup_label.old" | "backup_manifest" | "control" | "postmaster.opts"
        | "postmaster.pid" | "reserve" | "tablespace_map" | "tablespace_map.old" => Share::Nothing,
        "pg_tblspc" => Share::Nothing,
        "pg_replslot" | "pg_wal/archive_status" | "state" => Share::Itself,
        "pg_wal" => Share::All,
        _ if path.starts_with("pg_wal/") => Share::Nothing,
        _ if OF_THIS_RUN.iter().any(|prefix| name.starts_with(prefix)) => Share::Nothing,
        _ => Share::All,
    }
}

/// The members, each directory before what is in it, in the order of their names.
///
/// # Errors
/// A directory can't be read, or a name is no UTF-8.
pub fn members(root: &Path) -> io::Result<Vec<Member>> {
    let mut members = Vec::new();
    add(root, "", &mut members)?;
    Ok(members)
}

fn add(root: &Path, directory: &str, members: &mut Vec<Member>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(directory))? {
        let name = entry?.file_name().into_string();
        names.push(name.map_err(|name| {
            io::Error::other(format!("\"{}\" is no name that a backup can hold", name.display()))
        })?);
    }
    names.sort_unstable();
    for name in names {
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        let share = share(&path);
        if share == Share::Nothing {
            continue;
        }
        // What a link points to is what the node uses.
        let meta = match fs::metadata(root.join(&path)) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if meta.is_dir() {
            members.push(Member { path: path.clone(), is_directory: true });
            if share == Share::All {
                add(root, &path, members)?;
            }
        } else if meta.is_file() {
            members.push(Member { path, is_directory: false });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn members_are_what_a_new_node_needs_and_no_more() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        };
        for path in [
            "walship.conf",
            "control",
            "postmaster.pid",
            "standby.signal",
            "backup_label.old",
            "reserve",
            "pg_wal/000000010000000000000001",
            "pg_wal/00000002.history",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_replslot/one/state",
            "state/state.db",
            "state/state.db-wal",
            "pgsql_tmp/backup.1/state.db",
            "pgsql_tmp.7",
            ".tmpABCDEF",
            ".s.PGSQL.5440.lock",
            "of_somebody/else",
        ] {
            make(path);
        }
        std::os::unix::fs::symlink("/nonexistent", root.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("walship.conf", root.path().join("linked.conf")).unwrap();
        let _listener = UnixListener::bind(root.path().join(".s.PGSQL.5440")).unwrap();
        let found: Vec<String> = members(root.path())
            .unwrap()
            .into_iter()
            .map(|member| member.path + if member.is_directory { "/" } else { "" })
            .collect();
        assert_eq!(
            found,
            [
                "linked.conf",
                "of_somebody/",
                "of_somebody/else",
                "pg_replslot/",
                "pg_wal/",
                "pg_wal/archive_status/",
                "standby.signal",
                "state/",
                "walship.conf"
            ]
        );
    }
}
