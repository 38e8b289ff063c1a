//! What strace wrote, as operations on the disk and sends, each with its begin and its end.
//!
//! strace prints a call when the process has stopped before it, and its result when the process has stopped behind it;
//! when something else happens between, the line ends in `<unfinished ...>` and another one, `<... resumed>`, tells
//! the end. So the order of lines is the order of stops. A process goes on only after its stop was printed: if one call
//! caused another, in whatever process, its end stands before the other's begin.
//!
//! A result that is printed for a process while it is being killed may be that of another call. If it can't be the call's
//! own, and nothing of the process follows but its end, the call counts as one that never ended.
//!
//! Only what lies under one directory (the scope) counts, and what is sent on sockets. A call that changes a file in
//! the scope in a way that the model doesn't know is an error, never passed over.
//!
//! Expected options: `-f -y -xx`, strings long enough to be whole; see [`super::recorder`].

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// A place in the order of a trace. Later is larger; begin and end of one call are never the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u32);

/// A call. Paths are relative to the scope; the scope itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// An open that makes the file if it is not there, or empties it.
    Open {
        /// The file.
        path: PathBuf,
        /// O_CREAT
        create: bool,
        /// O_TRUNC
        truncate: bool,
    },
    /// Bytes written to a file.
    Write {
        /// The file, by the name that it had then.
        path: PathBuf,
        /// Where, bytes from its start.
        offset: u64,
        /// What.
        bytes: Rc<[u8]>,
    },
    /// A new size.
    Truncate {
        /// The file.
        path: PathBuf,
        /// Bytes.
        length: u64,
    },
    /// fsync or fdatasync, of a file or a directory.
    Sync {
        /// The file or directory.
        path: PathBuf,
    },
    /// A rename.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// A second name.
    Link {
        /// The name that is there.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// The end of a name, of a file or a directory.
    Remove {
        /// The name.
        path: PathBuf,
    },
    /// A new directory.
    MakeDirectory {
        /// Its name.
        path: PathBuf,
    },
    /// Bytes sent on a socket.
    Send {
        /// What; nothing of it if it was too long for strace.
        bytes: Rc<[u8]>,
    },
}

/// A call by a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The process.
    pub pid: u32,
    /// When it began.
    pub begin: Moment,
    /// When it ended and what it returned (an error is negative); None: the process died within.
    pub end: Option<(Moment, i64)>,
    /// The call.
    pub call: Call,
}

impl Operation {
    /// When it ended, if it ended well.
    pub fn success(&self) -> Option<Moment> {
        self.end.filter(|(_, result)| *result >= 0).map(|(moment, _)| moment)
    }

    /// Whether the result is one that the call gives when all goes well.
    fn is_plausible(&self) -> bool {
        let Some((_, result)) = self.end else { return false };
        match &self.call {
            Call::Open { .. } => result > 2,
            Call::Write { bytes, .. } | Call::Send { bytes } => usize::try_from(result) == Ok(bytes.len()),
            _ => result == 0,
        }
    }
}

/// All operations of a trace, by begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The operations.
    pub operations: Vec<Operation>,
    /// After everything.
    pub end: Moment,
}

impl Trace {
    /// Begins and ends in their order.
    pub fn events(&self) -> Vec<(Moment, &Operation)> {
        let begins = self.operations.iter().map(|operation| (operation.begin, operation));
        let ends = self.operations.iter().filter_map(|operation| Some((operation.end?.0, operation)));
        let mut events: Vec<_> = begins.chain(ends).collect();
        events.sort_unstable_by_key(|(moment, _)| *moment);
        events
    }
}

/// A line that could not be understood.
#[derive(Debug)]
pub struct TraceError(pub String);

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether every process that appears in the text has ended in it: strace has nothing more to say.
pub fn is_complete(text: &str) -> bool {
    let mut alive: HashMap<&str, bool> = HashMap::new();
    for line in text.split_inclusive('\n') {
        let Some((pid, rest)) = line.split_once(' ') else { return false };
        let gone = rest.trim_start().starts_with("+++ ");
        if !line.ends_with('\n') {
            return false;
        }
        alive.insert(pid, !gone);
    }
    !alive.is_empty() && alive.values().all(|alive| !alive)
}

/// Reads a trace; only what is under `scope` (an absolute path without symbolic links) counts.
pub fn parse(text: &str, scope: &Path) -> Result<Trace, TraceError> {
    let mut reader = Reader {
        scope,
        trace: Trace::default(),
        open: HashMap::new(),
        last_ended: HashMap::new(),
        positions: HashMap::new(),
        of_file: Rc::from([0]),
    };
    for (number, line) in (0..).zip(text.lines()) {
        let at = |error: String| {
            let shown: String = line.chars().take(300).collect();
            TraceError(format!("line {}: {error}: {shown}", number + 1))
        };
        // 0 is left to what was before.
        reader.line(Moment(2 * number + 2), line).map_err(at)?;
        reader.trace.end = Moment(2 * number + 4);
    }
    Ok(reader.trace)
}

/// A call whose end has not been read yet.
enum Unfinished {
    /// One of the trace's operations.
    Operation(usize),
    /// An open that changes nothing: its descriptor's position is 0.
    Open,
    /// Of no interest.
    Other,
}

struct Reader<'a> {
    scope: &'a Path,
    trace: Trace,
    /// By process.
    open: HashMap<u32, Unfinished>,
    /// By process: the operation that ended last, if no other call has begun.
    last_ended: HashMap<u32, usize>,
    /// Positions of descriptors of files in the scope, by process and descriptor.
    positions: HashMap<(u32, i64), u64>,
    /// Stands for what a sendfile sends, until its end tells how much that was. Which bytes of the file nobody asks: they are the
    /// log in a message whose header was sent before.
    of_file: Rc<[u8]>,
}

impl Reader<'_> {
    fn line(&mut self, moment: Moment, line: &str) -> Result<(), String> {
        let (pid, rest) = line.split_once(' ').ok_or("no process id")?;
        let pid: u32 = pid.parse().map_err(|_| "no process id".to_owned())?;
        let rest = rest.trim_start();
        if rest.starts_with("+++ ") {
            self.open.remove(&pid);
            let last = self.last_ended.remove(&pid).map(|index| &mut self.trace.operations[index]);
            if rest.starts_with("+++ killed")
                && let Some(last) = last.filter(|last| !last.is_plausible())
            {
                last.end = None;
            }
            self.positions.retain(|(owner, _), _| *owner != pid);
            return Ok(());
        }
        if rest.starts_with("--- ") {
            return Ok(());
        }
        let end = Moment(moment.0 + 1);
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let unfinished = self.open.remove(&pid).ok_or("the end of a call without its begin")?;
            let result = resumed.rsplit_once(" = ").map(|(_, result)| result).unwrap_or("?");
            return self.finish(pid, unfinished, end, result);
        }
        let (name, arguments) = rest.split_once('(').ok_or("no call")?;
        if let Some(arguments) = arguments.strip_suffix(" <unfinished ...>") {
            let unfinished = self.begin(pid, moment, name, arguments)?;
            self.open.insert(pid, unfinished);
            return Ok(());
        }
        let (arguments, result) = arguments.rsplit_once(" = ").ok_or("no result")?;
        let arguments = arguments.trim_end();
        let arguments = arguments.strip_suffix(')').ok_or("no end of the arguments")?;
        let arguments = arguments.strip_suffix(" <unfinished ...>").unwrap_or(arguments);
        let unfinished = self.begin(pid, moment, name, arguments)?;
        self.finish(pid, unfinished, end, result)
    }

    fn begin(&mut self, pid: u32, begin: Moment, name: &str, arguments: &str) -> Result<Unfinished, String> {
        self.last_ended.remove(&pid);
        let arguments = Arguments::parse(arguments)?;
        let Some(call) = self.call(pid, name, &arguments)? else {
            let is_open = matches!(name, "open" | "openat" | "creat");
            return Ok(if is_open { Unfinished::Open } else { Unfinished::Other });
        };
        self.trace.operations.push(Operation { pid, begin, end: None, call });
        Ok(Unfinished::Operation(self.trace.operations.len() - 1))
    }

    /// The call, if it is of interest.
    fn call(&mut self, pid: u32, name: &str, arguments: &Arguments<'_>) -> Result<Option<Call>, String> {
        let call = match name {
            "open" | "creat" | "openat" => return self.open_call(name, arguments),
            "write" | "pwrite64" => return self.write_call(pid, name, arguments),
            "sendto" => {
                let socket = arguments.descriptor(0)?.1.starts_with("socket:");
                return if socket { arguments.sent(1).map(Some) } else { Ok(None) };
            }
            "sendfile" => {
                let socket = arguments.descriptor(0)?.1.starts_with("socket:");
                let why = "a copy of a file to a file, which the model doesn't know";
                return if socket {
                    Ok(Some(Call::Send { bytes: Rc::clone(&self.of_file) }))
                } else {
                    Err(why.to_owned())
                };
            }
            "ftruncate" => self
                .scoped(&arguments.descriptor(0)?.1)
                .map(|path| Ok(Call::Truncate { path, length: arguments.number(1)? })),
            "fsync" | "fdatasync" => {
                self.scoped(&arguments.descriptor(0)?.1).map(|path| Ok(Call::Sync { path }))
            }
            "rename" => self.pair(arguments.path(None, 0)?, arguments.path(None, 1)?, false)?,
            "renameat" | "renameat2" => {
                if arguments.items.get(4).is_some_and(|flags| *flags != "RENAME_NOREPLACE" && *flags != "0") {
                    return Err("a rename of a kind that the model doesn't know".to_owned());
                }
                self.pair(arguments.path(Some(0), 1)?, arguments.path(Some(2), 3)?, false)?
            }
            "link" => self.pair(arguments.path(None, 0)?, arguments.path(None, 1)?, true)?,
            "linkat" => self.pair(arguments.path(Some(0), 1)?, arguments.path(Some(2), 3)?, true)?,
            "unlink" | "rmdir" => {
                self.scoped(&arguments.path(None, 0)?).map(|path| Ok(Call::Remove { path }))
            }
            "unlinkat" => self.scoped(&arguments.path(Some(0), 1)?).map(|path| Ok(Call::Remove { path })),
            "mkdir" => self.scoped(&arguments.path(None, 0)?).map(|path| Ok(Call::MakeDirectory { path })),
            "mkdirat" => {
                self.scoped(&arguments.path(Some(0), 1)?).map(|path| Ok(Call::MakeDirectory { path }))
            }
            "mmap" => return self.refuse_shared_mapping(arguments).map(|()| None),
            _ if arguments.items.iter().any(|item| self.mentions_scope(item)) => {
                return Err("a call that the model doesn't know".to_owned());
            }
            _ => None,
        };
        call.transpose()
    }

    fn open_call(&self, name: &str, arguments: &Arguments<'_>) -> Result<Option<Call>, String> {
        let (path, flags) = match name {
            "openat" => (arguments.path(Some(0), 1)?, arguments.items.get(2).copied().unwrap_or("")),
            "open" => (arguments.path(None, 0)?, arguments.items.get(1).copied().unwrap_or("")),
            _ => (arguments.path(None, 0)?, "O_CREAT|O_TRUNC"),
        };
        let Some(path) = self.scoped(&path) else { return Ok(None) };
        let has = |flag: &str| flags.split('|').any(|given| given == flag);
        if has("O_TMPFILE") || has("O_APPEND") {
            return Err("an open of a kind that the model doesn't know".to_owned());
        }
        let (create, truncate) = (has("O_CREAT"), has("O_TRUNC"));
        Ok((create || truncate).then_some(Call::Open { path, create, truncate }))
    }

    fn write_call(
        &mut self,
        pid: u32,
        name: &str,
        arguments: &Arguments<'_>,
    ) -> Result<Option<Call>, String> {
        let (descriptor, file) = arguments.descriptor(0)?;
        if name == "write" && file.starts_with("socket:") {
            return arguments.sent(1).map(Some);
        }
        let Some(path) = self.scoped(&file) else { return Ok(None) };
        let bytes = arguments.bytes(1)?;
        let offset = if name == "pwrite64" {
            arguments.number(3)?
        } else {
            let position = self.positions.get_mut(&(pid, descriptor));
            let position = position.ok_or("a write through a descriptor whose position is unknown")?;
            let offset = *position;
            *position += bytes.len() as u64;
            offset
        };
        Ok(Some(Call::Write { path, offset, bytes }))
    }

    /// A mapping is written to without a call; SQLite's `-shm`, which is in no image, is the only one allowed.
    fn refuse_shared_mapping(&self, arguments: &Arguments<'_>) -> Result<(), String> {
        let item = |number: usize| arguments.items.get(number).copied().unwrap_or("");
        if !item(3).contains("MAP_SHARED") || !item(2).contains("PROT_WRITE") || item(4) == "-1" {
            return Ok(());
        }
        let (_, path) = arguments.descriptor(4)?;
        let known = self.scoped(&path).is_none_or(|path| is_rebuilt(&path));
        if known { Ok(()) } else { Err("a shared mapping of a file".to_owned()) }
    }

    fn pair(&self, from: String, to: String, link: bool) -> Result<Option<Result<Call, String>>, String> {
        match (self.scoped(&from), self.scoped(&to)) {
            (None, None) => Ok(None),
            (Some(from), Some(to)) if link => Ok(Some(Ok(Call::Link { from, to }))),
            (Some(from), Some(to)) => Ok(Some(Ok(Call::Rename { from, to }))),
            _ => Err("a name that comes into the scope or leaves it".to_owned()),
        }
    }

    fn finish(&mut self, pid: u32, unfinished: Unfinished, end: Moment, result: &str) -> Result<(), String> {
        let number = result.split([' ', '<']).next().unwrap_or("");
        if number == "?" {
            return Ok(());
        }
        let returned: i64 = match number.strip_prefix("0x") {
            Some(_address) => 0,
            None => number.parse().map_err(|_| "a result that is no number".to_owned())?,
        };
        let mut opened = matches!(unfinished, Unfinished::Open);
        if let Unfinished::Operation(index) = unfinished {
            let operation = &mut self.trace.operations[index];
            operation.end = Some((end, returned));
            if let Call::Send { bytes } = &mut operation.call
                && Rc::ptr_eq(bytes, &self.of_file)
            {
                *bytes = Rc::from(vec![0; usize::try_from(returned).unwrap_or(0)]);
            }
            self.last_ended.insert(pid, index);
            opened = matches!(operation.call, Call::Open { .. });
        }
        if opened && returned >= 0 {
            self.positions.insert((pid, returned), 0);
        }
        Ok(())
    }

    fn mentions_scope(&self, item: &str) -> bool {
        text_of(item).is_some_and(|path| self.scoped(&path).is_some())
    }

    /// The path relative to the scope; None for what is outside of it or has no name any more.
    fn scoped(&self, path: &str) -> Option<PathBuf> {
        if path.ends_with(" (deleted)") {
            return None;
        }
        let mut relative = PathBuf::new();
        for part in Path::new(path).strip_prefix(self.scope).ok()?.components() {
            match part {
                Component::Normal(name) => relative.push(name),
                Component::CurDir => {}
                _ => return None,
            }
        }
        Some(relative)
    }
}

/// Whether a file is in no image.
pub fn is_rebuilt(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-shm")
}

/// The arguments of a call as printed.
struct Arguments<'a> {
    items: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    /// Strings and paths are all in `\x..`, so that commas and brackets are strace's own.
    fn parse(text: &'a str) -> Result<Arguments<'a>, String> {
        let mut items = Vec::new();
        let (mut depth, mut start) = (0_i32, 0);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b',' if depth == 0 => {
                    items.push(text[start..at].trim());
                    start = at + 1;
                }
                _ => {}
            }
        }
        items.push(text[start..].trim());
        Ok(Arguments { items })
    }

    fn item(&self, number: usize) -> Result<&'a str, String> {
        self.items.get(number).copied().ok_or_else(|| format!("no argument {number}"))
    }

    fn number(&self, number: usize) -> Result<u64, String> {
        self.item(number)?.parse().map_err(|_| format!("argument {number} is no number"))
    }

    /// A descriptor and what it is open on.
    fn descriptor(&self, number: usize) -> Result<(i64, String), String> {
        let item = self.item(number)?;
        let (descriptor, _) = item.split_once('<').unwrap_or((item, ""));
        let descriptor = if descriptor == "AT_FDCWD" { Ok(-100) } else { descriptor.parse() };
        let descriptor = descriptor.map_err(|_| format!("argument {number} is no descriptor"))?;
        Ok((descriptor, text_of(item).unwrap_or_default()))
    }

    /// A path, which may be relative to that of a descriptor.
    fn path(&self, directory: Option<usize>, number: usize) -> Result<String, String> {
        let path = String::from_utf8_lossy(&self.bytes(number)?).into_owned();
        let base = match directory {
            Some(argument) => self.descriptor(argument)?.1,
            None => String::new(),
        };
        Ok(Path::new(&base).join(path).to_string_lossy().into_owned())
    }

    /// A send; what is too long to be printed whole is of no interest.
    fn sent(&self, number: usize) -> Result<Call, String> {
        let whole = self.item(number)?.ends_with('"');
        Ok(Call::Send { bytes: if whole { self.bytes(number)? } else { Rc::from([]) } })
    }

    fn bytes(&self, number: usize) -> Result<Rc<[u8]>, String> {
        let item = self.item(number)?;
        let quoted = item.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let quoted = quoted.ok_or_else(|| format!("argument {number} is no whole string"))?;
        unescape(quoted).map(Rc::from).ok_or_else(|| format!("argument {number} is not in \\x.."))
    }
}

/// What stands between `<` and `>`.
fn text_of(item: &str) -> Option<String> {
    let inner = item.split_once('<')?.1.strip_suffix('>')?;
    // A socket's address may follow in plain text.
    Some(
        unescape(inner)
            .map_or_else(|| inner.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned()),
    )
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len() / 4);
    for group in text.as_bytes().chunks(4) {
        let &[b'\\', b'x', high, low] = group else { return None };
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
