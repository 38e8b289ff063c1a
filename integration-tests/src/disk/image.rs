//! One of the disks that a power loss could have left: what must be there, and a choice of what may be.
//!
//! How it is made: [`Survival`] says how to choose; the same seed makes the same choice. The content of a sector is always
//! one that the page cache has held: what was durable, with the writes up to the one chosen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::model::{Change, Disk, Inode, NameChange, Node, ROOT};
use super::trace::is_rebuilt;
use crate::random::Random;

/// What a disk writes at once.
pub const SECTOR: usize = 512;

/// What a file shows where its size has come before its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Zeros.
    Zeros,
    /// Bytes of something else.
    Garbage,
}

/// How to choose among what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// All of it is lost.
    Nothing,
    /// None of it is lost.
    Everything,
    /// Each change by chance.
    Some {
        /// Of the choice.
        seed: u64,
        /// Of 100 changes of content.
        bytes_percent: u64,
        /// Of 100 changes of names.
        names_percent: u64,
        /// Sectors of one write fare differently.
        torn: bool,
        /// A size may come before the bytes, which then read so.
        beyond: Option<Beyond>,
        /// A bit of a sector under way may be wrong.
        flips: bool,
    },
}

impl Survival {
    /// A choice of how to choose.
    pub fn random(random: &mut Random) -> Survival {
        match random.below(8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            _ => Survival::Some {
                seed: random.bits(),
                bytes_percent: *random.pick(&[0, 10, 50, 90, 100]),
                names_percent: *random.pick(&[0, 50, 100]),
                torn: random.below(2) == 0,
                beyond: *random.pick(&[None, Some(Beyond::Zeros), Some(Beyond::Garbage)]),
                flips: random.below(4) == 0,
            },
        }
    }
}

/// Files and directories as they are after the power loss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Bytes of files, None for directories, by path.
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// A line for each change that was not durable, saying what became of it.
    pub fates: String,
}

impl Image {
    /// Makes the image.
    pub fn of(disk: &Disk, survival: Survival) -> Image {
        let mut chooser = Chooser::new(survival);
        let mut image = Image::default();
        let names = chooser.names(disk, &mut image.fates);
        let mut left = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = left.pop() {
            let mut entries = disk.node(inode).durable.clone();
            for (directory, name, target) in names.iter().flat_map(|change| &change.edits) {
                if *directory == inode {
                    match target {
                        Some(target) => entries.insert(name.clone(), *target),
                        None => entries.remove(name),
                    };
                }
            }
            for (name, inode) in entries {
                let path = path.join(name);
                let node = disk.node(inode);
                if node.is_directory {
                    image.files.insert(path.clone(), None);
                    left.push((path, inode));
                } else if !is_rebuilt(&path) {
                    let content = chooser.content(&path, node, &mut image.fates);
                    image.files.insert(path, Some(content));
                }
            }
        }
        image
    }

    /// A number that tells images apart.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.hash(&mut hasher);
        hasher.finish()
    }

    /// Bytes of a file; None if it is not there.
    pub fn file(&self, path: &Path) -> Option<&[u8]> {
        self.files.get(path)?.as_deref()
    }

    /// Writes the files into a directory, which is made.
    pub fn write_to(&self, root: &Path) -> io::Result<()> {
        let mut directory = fs::DirBuilder::new();
        directory.recursive(true).mode(0o700).create(root)?;
        for (path, content) in &self.files {
            match content {
                None => directory.create(root.join(path))?,
                Some(content) => {
                    fs::write(root.join(path), content)?;
                    fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o600))?;
                }
            }
        }
        Ok(())
    }
}

struct Chooser {
    survival: Survival,
    random: Random,
}

impl Chooser {
    fn new(survival: Survival) -> Chooser {
        let seed = if let Survival::Some { seed, .. } = survival { seed } else { 0 };
        Chooser { survival, random: Random::new(seed) }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    /// The changes of names that are there: with each all that its names went through before.
    fn names<'a>(&mut self, disk: &'a Disk, fates: &mut String) -> Vec<&'a NameChange> {
        let mut kept = vec![false; disk.names.len()];
        for (at, change) in disk.names.iter().enumerate() {
            let wanted = match self.survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Some { names_percent, .. } => self.chance(names_percent),
            };
            let blocked = (0..at).any(|earlier| !kept[earlier] && disk.names[earlier].conflicts(change));
            kept[at] = wanted && !blocked;
            let names: Vec<String> = change.edits.iter().map(|(_, name, to)| edit_text(name, *to)).collect();
            let fate = if kept[at] { "there" } else { "lost " };
            let _infallible = writeln!(fates, "{fate} {}", names.join(", "));
        }
        disk.names.iter().zip(kept).filter(|(_, kept)| *kept).map(|(change, _)| change).collect()
    }

    fn content(&mut self, path: &Path, node: &Node, fates: &mut String) -> Vec<u8> {
        if node.pending.is_empty() {
            return node.base.to_vec();
        }
        let mut now = node.base.to_vec();
        let mut image = node.base.to_vec();
        for pending in &node.pending {
            pending.change.apply(&mut now);
            let (kept, of) = match &pending.change {
                Change::Write { offset, bytes } => {
                    self.keep_sectors(&mut image, &now, usize::try_from(*offset).unwrap(), bytes.len())
                }
                Change::Truncate { length } => {
                    let kept = self.keep_change();
                    if kept {
                        image.resize(usize::try_from(*length).unwrap(), 0);
                    }
                    (usize::from(kept), 1)
                }
            };
            let what = match &pending.change {
                Change::Write { offset, bytes } => format!("write at {offset}, {} bytes", bytes.len()),
                Change::Truncate { length } => format!("size {length}"),
            };
            let state = if pending.ended { "" } else { " (under way)" };
            let _infallible = writeln!(fates, "{kept}/{of} sectors of {}: {what}{state}", path.display());
        }
        self.grow(&mut image, now.len());
        self.flip(&mut image, &node.base, path, fates);
        image
    }

    fn keep_change(&mut self) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some { bytes_percent, .. } => self.chance(bytes_percent),
        }
    }

    /// Takes sectors of a write over into the image; how many, of how many.
    fn keep_sectors(&mut self, image: &mut Vec<u8>, now: &[u8], offset: usize, len: usize) -> (usize, usize) {
        let sectors = offset / SECTOR..(offset + len).div_ceil(SECTOR);
        let torn = matches!(self.survival, Survival::Some { torn: true, .. });
        let whole = self.keep_change();
        let mut kept = 0;
        for sector in sectors.clone() {
            // Torn: of a write that is kept some sectors are not, and the other way round.
            let keep = if torn { self.chance(if whole { 75 } else { 10 }) } else { whole };
            if !keep {
                continue;
            }
            kept += 1;
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(now.len());
            if image.len() < range.end {
                let from = image.len();
                image.resize(range.end, 0);
                self.fill(&mut image[from..range.start.max(from)]);
            }
            image[range.clone()].copy_from_slice(&now[range]);
        }
        (kept, sectors.len())
    }

    /// What is read where a size came before the bytes.
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Survival::Some { beyond: Some(Beyond::Garbage), .. } = self.survival {
            bytes.fill_with(|| self.random.bits().to_le_bytes()[0]);
        }
    }

    /// The size may be there although bytes are not.
    fn grow(&mut self, image: &mut Vec<u8>, size: usize) {
        if let Survival::Some { beyond: Some(_), .. } = self.survival
            && image.len() < size
        {
            let from = image.len();
            image.resize(size, 0);
            self.fill(&mut image[from..]);
        }
    }

    /// Flips a bit of what the pending writes have changed.
    fn flip(&mut self, image: &mut [u8], base: &[u8], path: &Path, fates: &mut String) {
        if !matches!(self.survival, Survival::Some { flips: true, .. }) {
            return;
        }
        let changed: Vec<usize> = (0..image.len()).filter(|at| base.get(*at) != Some(&image[*at])).collect();
        if !changed.is_empty() {
            let at = *self.random.pick(&changed);
            image[at] ^= 1 << self.random.below(8);
            let _infallible = writeln!(fates, "a flipped bit in byte {at} of {}", path.display());
        }
    }
}

fn edit_text(name: &str, to: Option<Inode>) -> String {
    match to {
        Some(_) => format!("{name} appears"),
        None => format!("{name} vanishes"),
    }
}

#[cfg(test)]
mod tests;
