//! What std::fs lacks: durable names, a removal that may be the second one, writing memory that no slice may stand for, and
//! the room on a disk.

use std::{fs, fs::File, io, os::fd::AsRawFd, path::Path};

use nix::{errno::Errno, fcntl, sys::statvfs};

/// Makes the names in `directory` durable: those that appeared, changed or vanished before the call.
///
/// # Errors
/// Those of the file system. After one of them nothing is known of the names.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file; false when there was none. Durable with [`sync_directory`].
///
/// # Errors
/// Those of the file system, but that there is no such file.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a directory with all that is in it, if there is one.
///
/// # Errors
/// Those of the file system, but that there is no such directory. Part of it may be gone by then.
pub fn remove_tree_if_there(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The error of a disk that is full.
pub fn no_space_left() -> io::Error {
    Errno::ENOSPC.into()
}

/// Bytes that this process may still fill of the file system that holds `path`. Quotas are not seen.
///
/// # Errors
/// Those of statvfs.
pub fn available_bytes(path: &Path) -> io::Result<u64> {
    let found = statvfs::statvfs(path)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// Gives a file the room for its first `bytes` bytes, and at least that size. On an error it may have part of it.
///
/// # Errors
/// Those of posix_fallocate: no room.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(fcntl::posix_fallocate(file, 0, bytes)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocated_file_has_its_size_and_its_room() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("sys-file-room-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        allocate(&file, 100_000).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 100_000);
        assert!(meta.blocks() * 512 >= 100_000, "{}", meta.blocks());
        assert!(available_bytes(&path).unwrap() > 0);
        assert!(allocate(&file, 1 << 60).is_err());
        fs::remove_file(&path).unwrap();
        assert!(available_bytes(&path).is_err());
    }

    #[test]
    fn bytes_land_at_their_offset() {
        let path = std::env::temp_dir().join(format!("sys-file-{}", std::process::id()));
        let file = File::options().create(true).truncate(true).write(true).open(&path).unwrap();
        // SAFETY: a string is readable for its length.
        unsafe { pwrite_raw(&file, b"abc".as_ptr(), 3, 2) }.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\0\0abc");
        fs::remove_file(&path).unwrap();
    }
}
