//! Writing memory to files that no slice may stand for. (What slices can do, std::fs does.)

use std::{fs::File, io, os::fd::AsRawFd};

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
    fn bytes_land_at_their_offset() {
        let path = std::env::temp_dir().join(format!("sys-file-{}", std::process::id()));
        let file = File::options().create(true).truncate(true).write(true).open(&path).unwrap();
        // SAFETY: a string is readable for its length.
        unsafe { pwrite_raw(&file, b"abc".as_ptr(), 3, 2) }.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0abc");
        std::fs::remove_file(&path).unwrap();
    }
}
