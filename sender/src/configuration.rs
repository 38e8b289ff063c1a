//! The settings of a node and the rules of pg_hba.conf: what each process holds of them, and how new files reach all of them.
//! What is said of settings here goes for the rules too: both are read, found good, published and taken over together.
//!
//! Every process has a snapshot of its own ([`Configuration::settings`]): whoever works with it keeps it, and is never
//! met by a setting that changes in the middle. A child inherits the postmaster's by fork. After a reload the postmaster
//! *publishes* the text of the file in shared memory and emits a barrier ([`ipc::barrier`]); each process takes the
//! text over where it absorbs the barrier, and computes its next snapshot from it.
//!
//! Why the text, and not the file: every process of PostgreSQL reads postgresql.conf by itself. Who edits it meanwhile,
//! or replaces it by a copy that isn't complete yet, gives the processes different settings, and each finds out
//! about errors for itself. Here one process reads the file, once, and refuses what is wrong with it; all others take the
//! very bytes that were found good, and computing settings from text is a pure function ([`settings::reload`]). So
//! when all have absorbed the barrier, all have the same settings, and the answer to `reload` is true. The price is a bound on
//! the file ([`settings::file::BYTES_MAX`]), which the node's start holds it to as well.
//!
//! # The two texts
//!
//! Version `v` lies in place `v % 2`. The postmaster doesn't wait for readers, so it may overwrite a text that is just
//! being copied; then the reader finds out and takes the newer one:
//!
//! ```text
//! postmaster: claimed := v ; release fence ; write place v % 2 ; published := v (release)
//! reader:     v := published (acquire) ; copy place v % 2 ; acquire fence ; claimed <= v + 1 ? good : again
//! ```
//!
//! These are the steps of the ring of WAL buffers, for a ring of two ([`crate::ordering`]): if the copy holds one byte of
//! version v + 2, the fences make the reader see that it was claimed. By then v + 1 is published, so the next try
//! makes progress; and no reader ever waits for the postmaster.
//!
//! Invariant: the postmaster alone writes here. A process's version only grows, also when a crash makes shared memory anew:
//! then the words begin with zero, and the children to come inherit version and settings.
//!
//! Follows PostgreSQL 15 ProcessConfigFile() in src/backend/utils/misc/guc.c; differs in: one reader of the file.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipc::shmem::{SharedBytes, Shmem};
use settings::file::BYTES_MAX;
use settings::{Settings, auto_conf};
use wal::timestamp::Timestamp;
use wire::hba::Rules;

use crate::datadir::DataDir;
use crate::log::panic_severity;
use crate::ordering;

ipc::shared_struct! {
    /// What says which text is which; see the module's header. Written by the postmaster, read by all.
    pub struct ConfigurationCtl {
        /// The version whose place may be changing.
        claimed: AtomicU64,
        /// The newest version that is complete; 0: the children have what they inherited.
        published: AtomicU64,
        /// Bytes of each text.
        lengths: [AtomicU32; PLACES],
        /// Bytes of each text of rules, which lies behind the other.
        hba_lengths: [AtomicU32; PLACES],
        /// When each was read, µs since 2000-01-01.
        times: [AtomicI64; PLACES],
    }
}

const PLACES: usize = 2;
/// Room for both files.
const PLACE_BYTES: usize = 2 * BYTES_MAX;

/// A process's settings, and where the next come from.
#[derive(Debug)]
pub struct Configuration {
    ctl: &'static ConfigurationCtl,
    texts: [SharedBytes; PLACES],
    /// The command line's, which go over every file.
    flags: Vec<(String, String)>,
    own: RefCell<Rc<Settings>>,
    hba: RefCell<Rc<Rules>>,
    version: Cell<u64>,
    load_time: Cell<Timestamp>,
}

/// A copy of the newest text.
struct Text {
    version: u64,
    time: Timestamp,
    conf: Vec<u8>,
    hba: Vec<u8>,
}

/// The two files.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The text of walship.conf.
    pub conf: &'a str,
    /// The text of pg_hba.conf.
    pub hba: &'a str,
}

impl Configuration {
    /// Bytes of shared memory.
    pub const SHMEM_SIZE: usize = size_of::<ConfigurationCtl>() + PLACES * PLACE_BYTES + 256;

    /// For a node that starts with these settings, read at `now`, under these flags; before the first fork.
    pub fn create(
        shmem: &Shmem,
        settings: Settings,
        rules: Rules,
        flags: Vec<(String, String)>,
        now: Timestamp,
    ) -> Configuration {
        Configuration {
            ctl: shmem.alloc(),
            texts: [shmem.alloc_bytes(PLACE_BYTES), shmem.alloc_bytes(PLACE_BYTES)],
            flags,
            own: RefCell::new(Rc::new(settings)),
            hba: RefCell::new(Rc::new(rules)),
            version: Cell::new(0),
            load_time: Cell::new(now),
        }
    }

    /// This process's settings as they are now. They are replaced, never changed.
    pub fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.own.borrow())
    }

    /// The rules of pg_hba.conf as they are now, replaced likewise.
    pub fn hba(&self) -> Rc<Rules> {
        Rc::clone(&self.hba.borrow())
    }

    /// The flags of the command line.
    pub fn flags(&self) -> &[(String, String)] {
        &self.flags
    }

    /// Which settings those are: grows with every reload that this process has taken note of.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// When they were read: pg_conf_load_time().
    pub fn load_time(&self) -> Timestamp {
        self.load_time.get()
    }

    /// For the postmaster: takes over what the files' texts, read at `now`, have brought ([`Settings::reload`],
    /// [`Rules::parse`]), and publishes the texts to the children. Emit the barrier afterwards.
    pub fn publish(&self, settings: Settings, rules: Rules, files: Files<'_>, now: Timestamp) {
        let version = self.version.get() + 1;
        let place = place(version);
        ordering::claim_page(&self.ctl.claimed, version);
        self.texts[place].write(0, files.conf.as_bytes());
        self.texts[place].write(files.conf.len(), files.hba.as_bytes());
        let length = |text: &str| u32::try_from(text.len()).expect("checked when it was read");
        self.ctl.lengths[place].store(length(files.conf), Ordering::Relaxed);
        self.ctl.hba_lengths[place].store(length(files.hba), Ordering::Relaxed);
        self.ctl.times[place].store(now.0, Ordering::Relaxed);
        ordering::publish_position(&self.ctl.published, version);
        self.take_over(settings, rules, version, now);
    }

    /// For a child, where it absorbs the barrier: takes over the newest text. Does nothing if it has that already.
    pub fn refresh(&self) {
        let Some(text) = self.newest_text() else { return };
        let present = self.settings();
        let conf = std::str::from_utf8(&text.conf).ok();
        let reloaded = conf.and_then(|conf| present.reload(conf, &self.flags).ok());
        let rules = std::str::from_utf8(&text.hba).ok().and_then(|hba| Rules::parse(hba).ok());
        match reloaded.zip(rules) {
            Some((reloaded, rules)) => self.take_over(reloaded.settings, rules, text.version, text.time),
            // The postmaster has found it good, so these are not the bytes that it wrote.
            None => panic_severity("the configuration in shared memory is damaged"),
        }
    }

    fn newest_text(&self) -> Option<Text> {
        loop {
            let version = ordering::published_position(&self.ctl.published);
            if version <= self.version.get() {
                return None;
            }
            let place = place(version);
            let length = self.ctl.lengths[place].load(Ordering::Relaxed) as usize;
            let time = Timestamp(self.ctl.times[place].load(Ordering::Relaxed));
            let hba_length = self.ctl.hba_lengths[place].load(Ordering::Relaxed) as usize;
            let (mut conf, mut hba) = (vec![0; length.min(BYTES_MAX)], vec![0; hba_length.min(BYTES_MAX)]);
            self.texts[place].read(0, &mut conf);
            self.texts[place].read(conf.len(), &mut hba);
            if ordering::copy_is_good(&self.ctl.claimed, version, PLACES as u64 - 1) {
                return Some(Text { version, time, conf, hba });
            }
        }
    }

    fn take_over(&self, settings: Settings, rules: Rules, version: u64, time: Timestamp) {
        crate::log::set_level(settings.log_min_messages);
        *self.hba.borrow_mut() = Rc::new(rules);
        *self.own.borrow_mut() = Rc::new(settings);
        self.version.set(version);
        self.load_time.set(time);
    }
}

fn place(version: u64) -> usize {
    usize::from(version % 2 == 1)
}

/// The text of the settings in a data directory: walship.conf, and over it what postgresql.auto.conf says, if there is one.
///
/// # Errors
/// In PostgreSQL's words; a line for each thing that is wrong with postgresql.auto.conf.
pub fn read_conf(data: &DataDir) -> Result<String, String> {
    let conf = read_text(&data.conf())?;
    let auto = data.root().join(auto_conf::FILE_NAME);
    if !auto.exists() {
        return Ok(conf);
    }
    auto_conf::append(&conf, &read_text(&auto)?).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(|error| error.located(auto.display())).collect();
        lines.join("\n")
    })
}

/// The text of a file of settings; not much more of it than one may have.
pub(crate) fn read_text(conf: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let limit = BYTES_MAX as u64 + 1;
    // What is no plain file might keep the reader waiting for ever.
    let read = match fs::metadata(conf) {
        Ok(meta) if !meta.is_file() => Err(io::Error::other("it is no regular file")),
        _ => fs::File::open(conf).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map_err(|error| error.to_string())
        .and_then(|_| String::from_utf8(bytes).map_err(|error| error.to_string()))
        .map_err(|error| format!("could not read configuration file \"{}\": {error}", conf.display()))
}

/// Reads a pg_hba.conf: its rules and its text.
///
/// # Errors
/// All that is wrong with it, as the log has it.
pub fn read_rules(path: &Path) -> Result<(Rules, String), Vec<String>> {
    let text = read_text(path).map_err(|error| vec![error])?;
    if text.len() > BYTES_MAX {
        return Err(vec![format!(
            "configuration file \"{}\" is larger than {BYTES_MAX} bytes",
            path.display()
        )]);
    }
    match Rules::parse(&text) {
        Ok(rules) => Ok((rules, text)),
        Err(errors) => Err(errors.iter().map(|error| error.located(path.display())).collect()),
    }
}
