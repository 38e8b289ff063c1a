//! Failpoints in what SQLite itself writes, in programs that have failpoints; in all others nothing of this is ever called.
//!
//! SQLite writes through a table of functions that its VFS gives each file. The VFS here is the usual one of Unix but for its
//! `xOpen`: a file opened by that gets a copy of its table in which writing, syncing and cutting pass a failpoint first. So
//! the file stays what the usual VFS made of it, and nothing has to be wrapped. (SQLite's own way to replace system calls
//! does not know fsync.)
//!
//! | file | sites |
//! |---|---|
//! | `state/state.db-wal` | `TablesLogWrite`, `TablesLogSync` |
//! | `state/state.db` | `TablesFileWrite`, `TablesFileSync` |
//! | a base backup's copy | `BackupCopyWrite` |
//!
//! An error is told as the usual VFS tells it: no room for a write is `SQLITE_FULL`, all else an `SQLITE_IOERR` with errno.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use failpoint::Site;
use rusqlite::ffi;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

type Open = unsafe extern "C" fn(
    *mut ffi::sqlite3_vfs,
    *const c_char,
    *mut ffi::sqlite3_file,
    c_int,
    *mut c_int,
) -> c_int;

/// The usual VFS's.
static OPEN: OnceLock<Open> = OnceLock::new();

/// The functions of a kind of file. (They differ: a log is not locked, and closed in another way than what is.)
struct Methods {
    /// As the usual VFS has them.
    usual: ffi::sqlite3_io_methods,
    /// With failpoints.
    own: ffi::sqlite3_io_methods,
}

static LOG: OnceLock<Methods> = OnceLock::new();
static TABLES: OnceLock<Methods> = OnceLock::new();
static COPY: OnceLock<Methods> = OnceLock::new();

/// From the next open on files have failpoints.
pub(super) fn install() {
    if !failpoint::COMPILED_IN || OPEN.get().is_some() {
        return;
    }
    // SAFETY: finds the default VFS, and makes SQLite ready to if it isn't.
    let usual = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    // SAFETY: SQLite has a VFS, which lives as long as the process.
    let mut own = unsafe { *usual };
    let open = own.xOpen.expect("a VFS opens files");
    let _first = OPEN.set(open);
    own.zName = c"walship-failpoints".as_ptr();
    own.pNext = ptr::null_mut();
    own.xOpen = Some(open_with_failpoints);
    // SAFETY: the structure is never freed, and is one that SQLite has not seen.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(own)), 1) };
    assert_eq!(code, ffi::SQLITE_OK, "a VFS can be registered");
}

/// `xOpen`.
unsafe extern "C" fn open_with_failpoints(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let open = OPEN.get().expect("kept before the VFS was registered");
    // SAFETY: SQLite's own arguments. The usual VFS takes from the structure only what was copied from its own.
    let code = unsafe { open(vfs, name, file, flags, out_flags) };
    if code == ffi::SQLITE_OK && !name.is_null() {
        // SAFETY: SQLite's name of a file is a C string that lives as long as the file is open.
        let name = unsafe { CStr::from_ptr(name) };
        let path = Path::new(OsStr::from_bytes(name.to_bytes()));
        let in_state = path.parent().is_some_and(|directory| directory.ends_with("state"));
        let is = |flag: c_int| flags & flag != 0;
        let kind = match (is(ffi::SQLITE_OPEN_WAL), is(ffi::SQLITE_OPEN_MAIN_DB)) {
            (true, _) if in_state => Some((&LOG, Own { write: write_log, sync: Some(sync_log) })),
            (_, true) if in_state => Some((&TABLES, Own { write: write_tables, sync: Some(sync_tables) })),
            (_, true) => Some((&COPY, Own { write: write_copy, sync: None })),
            _ => None,
        };
        if let Some((methods, own)) = kind {
            // SAFETY: the file was opened, so it has its functions.
            let of_file = unsafe { &mut (*file).pMethods };
            // SAFETY: as above; they live as long as the process.
            let usual = unsafe { **of_file };
            *of_file = &raw const methods.get_or_init(|| own.over(usual)).own;
        }
    }
    code
}

type Write = unsafe extern "C" fn(*mut ffi::sqlite3_file, *const c_void, c_int, i64) -> c_int;
type Sync = unsafe extern "C" fn(*mut ffi::sqlite3_file, c_int) -> c_int;

/// What passes failpoints.
struct Own {
    write: Write,
    sync: Option<Sync>,
}

impl Own {
    fn over(self, usual: ffi::sqlite3_io_methods) -> Methods {
        let sync = self.sync.or(usual.xSync);
        Methods { usual, own: ffi::sqlite3_io_methods { xWrite: Some(self.write), xSync: sync, ..usual } }
    }
}

/// Defines `xWrite` and `xSync` of a kind of file.
macro_rules! methods {
    ($(write $name:ident $kind:ident $site:ident;)* $(sync $sync:ident $of:ident $sync_site:ident;)*) => {
        $(unsafe extern "C" fn $name(
            file: *mut ffi::sqlite3_file, bytes: *const c_void, count: c_int, offset: i64,
        ) -> c_int {
            // SAFETY: SQLite's own arguments, handed on.
            unsafe { write_at(&$kind, Site::$site, file, bytes, count, offset) }
        })*
        $(unsafe extern "C" fn $sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
            // SAFETY: SQLite's own arguments, handed on.
            unsafe { sync(&$of, Site::$sync_site, file, flags) }
        })*
    };
}

methods! {
    write write_log LOG TablesLogWrite;
    write write_tables TABLES TablesFileWrite;
    write write_copy COPY BackupCopyWrite;
    sync sync_log LOG TablesLogSync;
    sync sync_tables TABLES TablesFileSync;
}

/// # Safety
/// The arguments of an `xWrite`.
unsafe fn write_at(
    methods: &OnceLock<Methods>,
    site: Site,
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    offset: i64,
) -> c_int {
    let write = usual(methods).xWrite.expect("files can be written to");
    let mut code = ffi::SQLITE_OK;
    let written = failpoint::write(site, count as usize, |part| {
        // SAFETY: a part of the bytes that SQLite gave.
        let start = unsafe { bytes.byte_add(part.start) };
        // SAFETY: as above, at the place of the part.
        code = unsafe { write(file, start, part.len() as c_int, offset + part.start as i64) };
        result(code)
    });
    told(code, written, ffi::SQLITE_IOERR_WRITE)
}

/// # Safety
/// The arguments of an `xSync`.
unsafe fn sync(methods: &OnceLock<Methods>, site: Site, file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let sync = usual(methods).xSync.expect("files can be synced");
    let mut code = ffi::SQLITE_OK;
    let synced = failpoint::io(site, || {
        // SAFETY: SQLite's own arguments.
        code = unsafe { sync(file, flags) };
        result(code)
    });
    told(code, synced, ffi::SQLITE_IOERR_FSYNC)
}

fn usual(methods: &OnceLock<Methods>) -> &ffi::sqlite3_io_methods {
    &methods.get().expect("a file was opened before it is used").usual
}

fn result(code: c_int) -> io::Result<()> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(io::Error::other("told by its code")) }
}

/// SQLite's code for what has come of a call.
fn told(code: c_int, done: io::Result<()>, failed: c_int) -> c_int {
    let Err(error) = done else { return ffi::SQLITE_OK };
    if code != ffi::SQLITE_OK {
        return code;
    }
    if error.kind() == io::ErrorKind::StorageFull && failed == ffi::SQLITE_IOERR_WRITE {
        return ffi::SQLITE_FULL;
    }
    // SAFETY: always gives the address of this thread's errno.
    let errno = unsafe { __errno_location() };
    // SAFETY: as above.
    unsafe { *errno = error.raw_os_error().unwrap_or(0) };
    failed
}
