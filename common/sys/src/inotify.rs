//! Being told that a file has changed, instead of reading it again and again.
//!
//! Use: make the [`Inotify`] *before* the first look at the file; then look, wait until it is readable, [`Inotify::take`],
//! look again. What changes between a look and the wait makes it readable. It tells of the file that had the
//! name when it was made, whatever becomes of the name.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify as Descriptor};

/// A watch on one file: non-blocking, close-on-exec; readable once the file has changed since the last
/// [`Inotify::take`].
#[derive(Debug)]
pub struct Inotify(Descriptor);

impl Inotify {
    /// Watches for writes to the file of that name, and for its length to change.
    ///
    /// # Errors
    /// There is no such file, or too many watches.
    pub fn on_changes(path: &Path) -> io::Result<Inotify> {
        let descriptor = Descriptor::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        descriptor.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        Ok(Inotify(descriptor))
    }

    /// Takes the news; whether there was any.
    ///
    /// # Errors
    /// The descriptor is broken.
    pub fn take(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match self.0.read_events() {
                Ok(_) => any = true,
                Err(Errno::EAGAIN) => return Ok(any),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("inotify-{name}-{}", std::process::id()));
        fs::write(&path, "1").unwrap();
        path
    }

    #[test]
    fn changes_since_the_last_look_are_told_once() {
        let path = file("changes");
        let mut news = Inotify::on_changes(&path).unwrap();
        assert!(!news.take().unwrap());
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"2", 0).unwrap();
        file.write_all_at(b"3", 0).unwrap();
        assert!(news.take().unwrap());
        assert!(!news.take().unwrap());
        // Also when another process' or another file's descriptor did it, and when the name is gone.
        fs::remove_file(&path).unwrap();
        (&file).write_all(b"4").unwrap();
        assert!(news.take().unwrap());
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let error = Inotify::on_changes(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
