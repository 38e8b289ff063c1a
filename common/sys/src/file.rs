//! Files made durable. An error of a sync means that the data may be lost even if a later call succeeds:
//! callers treat it as fatal and never retry.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
};

use nix::{errno::Errno, unistd};

/// Bytes written at a time by [`preallocate`].
const ZEROES: usize = 256 * 1024;

/// Makes the contents of `file` durable, and its size as far as needed to read them.
pub fn fdatasync(file: &File) -> io::Result<()> {
    loop {
        match unistd::fdatasync(file) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Makes the entries of directory `path` durable: needed after creating, renaming or removing a file in it.
pub fn fsync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes all of `bytes` at `offset`.
pub fn pwrite_all(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Writes `len` bytes of memory that other processes may be changing, which no slice may stand for.
///
/// # Safety
///
/// `start` must be readable for `len` bytes.
pub unsafe fn pwrite_raw(file: &File, start: *const u8, len: usize, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let position = i64::try_from(offset + done as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
        let from = start.wrapping_add(done).cast();
        // SAFETY: `from` is readable for the rest (the caller's duty and done < len); the kernel copies it
        // like a device would.
        let written = unsafe { libc::pwrite(file.as_raw_fd(), from, len - done, position) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Fills the first `len` bytes of `file` with zeroes, really written, so that later writes and their
/// fdatasync change neither size nor block map. Doesn't sync.
pub fn preallocate(file: &File, len: u64) -> io::Result<()> {
    let zeroes = vec![0; ZEROES];
    let mut offset = 0;
    while offset < len {
        let count = usize::try_from(len - offset).map_or(ZEROES, |rest| rest.min(ZEROES));
        file.write_all_at(&zeroes[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// Replaces file `path` by one with `contents` so that after a crash it is wholly the old or wholly the new
/// one: written under a temporary name (`path` with `.tmp` added), synced, renamed, directory synced. Mode
/// 0600.
pub fn replace_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fsync_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_holds_the_new_contents_and_no_temporary_is_left() {
        let dir = std::env::temp_dir().join(format!("sys-file-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("control");
        replace_durably(&path, b"one, and longer").unwrap();
        replace_durably(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        let segment =
            File::options().create(true).truncate(true).write(true).open(dir.join("segment")).unwrap();
        preallocate(&segment, ZEROES as u64 * 2 + 5).unwrap();
        pwrite_all(&segment, b"x", 1).unwrap();
        fdatasync(&segment).unwrap();
        let contents = fs::read(dir.join("segment")).unwrap();
        assert_eq!(contents.len(), ZEROES * 2 + 5);
        assert!(contents.iter().enumerate().all(|(index, byte)| *byte == if index == 1 { b'x' } else { 0 }));
        fs::remove_dir_all(&dir).unwrap();
    }
}
