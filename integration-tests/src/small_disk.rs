//! A disk of a few megabytes: a tmpfs, which can be filled and made larger, or an ext4 in a file, which the kernel can be told
//! to give up as it does when the device fails: from then on nobody can write to it, whatever he has open. Mounting needs
//! root; where it isn't possible a test says so and passes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scenario::skip;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    /// Holds an ext4.
    image: Option<PathBuf>,
}

impl SmallDisk {
    /// Mounts a tmpfs on `path`, which is made if it isn't there; None, after a note of why, where that is impossible.
    pub fn mount(path: &Path, megabytes: u32) -> Option<SmallDisk> {
        let size = format!("size={megabytes}m,mode=0700");
        SmallDisk::mount_with(&["-t", "tmpfs", "-o", &size, "tmpfs"], path, None)
    }

    /// Makes an ext4 in a file beside `path` and mounts it there; likewise.
    pub fn mount_ext4(path: &Path, megabytes: u32) -> Option<SmallDisk> {
        let image = path.with_extension("ext4");
        File::create(&image).unwrap().set_len(u64::from(megabytes) << 20).unwrap();
        let mut mkfs = Command::new("/sbin/mkfs.ext4");
        if !mkfs.args(["-q", "-F"]).arg(&image).status().is_ok_and(|status| status.success()) {
            skip("there is no mkfs.ext4");
            return None;
        }
        let words = ["-o", "loop", image.to_str().unwrap()];
        SmallDisk::mount_with(&words, path, Some(image.clone()))
    }

    fn mount_with(words: &[&str], path: &Path, image: Option<PathBuf>) -> Option<SmallDisk> {
        fs::create_dir_all(path).unwrap();
        let output = Command::new("mount").args(words).arg(path).output().unwrap();
        if output.status.success() {
            return Some(SmallDisk { path: path.to_owned(), image });
        }
        skip(&format!("nothing can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim()));
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another size, at least what is used.
    pub fn resize(&self, megabytes: u32) {
        self.remount(&format!("size={megabytes}m"));
    }

    /// Has the kernel give an ext4 up.
    pub fn abort(&mut self) {
        assert!(self.image.is_some(), "only an ext4 can be given up");
        self.remount("abort");
    }

    /// Mounts that ext4 anew; nobody may have a file of it open.
    pub fn mount_again(&mut self) {
        let image = self.image.as_ref().expect("only an ext4 was given up");
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("umount").arg(&self.path));
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.path));
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.path).status().unwrap();
        assert!(status.success());
    }

    /// Fills it to the last byte with a file of somebody else's; removing that makes room again.
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("foreign");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
