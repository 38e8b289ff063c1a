use super::*;

/// As strace prints a string or a path.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// Lines in which `'text'` stands for a string and `<text>` for a path, both written out.
fn trace(lines: &str) -> Result<Trace, TraceError> {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut parts = line.split('\'');
        while let Some(plain) = parts.next() {
            for (number, piece) in plain.split('<').enumerate() {
                match piece.split_once('>') {
                    Some((path, rest)) if number > 0 => text.push_str(&format!("<{}>{rest}", hex(path))),
                    _ if number > 0 => text.push_str(&format!("<{piece}")),
                    _ => text.push_str(piece),
                }
            }
            if let Some(quoted) = parts.next() {
                text.push_str(&format!("\"{}\"", hex(quoted)));
            }
        }
        text.push('\n');
    }
    // What strace itself puts between these brackets is no path.
    for word in ["unfinished ...", "... write resumed", "... fsync resumed", "... pwrite64 resumed"] {
        text = text.replace(&format!("<{}>", hex(word)), &format!("<{word}>"));
    }
    parse(&text, Path::new("/s"))
}

fn calls(lines: &str) -> Vec<Call> {
    trace(lines).unwrap().operations.into_iter().map(|operation| operation.call).collect()
}

fn write(path: &str, offset: u64, bytes: &str) -> Call {
    Call::Write { path: path.into(), offset, bytes: Rc::from(bytes.as_bytes()) }
}

#[test]
fn each_call_that_changes_something_is_read() {
    let found = calls(
        "7 openat(AT_FDCWD</w>, '/s/d/f', O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 4</s/d/f>
         7 write(4</s/d/f>, 'ab', 2) = 2
         7 write(4</s/d/f>, 'cde', 3) = 3
         7 pwrite64(4</s/d/f>, 'x', 1, 9) = 1
         7 ftruncate(4</s/d/f>, 5) = 0
         7 fsync(4</s/d/f>) = 0
         7 renameat2(AT_FDCWD</s>, 'd/f', AT_FDCWD</s>, 'd/g', RENAME_NOREPLACE) = 0
         7 fdatasync(5</s/d>) = 0
         7 unlinkat(5</s/d>, 'g', 0) = 0
         7 mkdir('/s/e', 0700) = 0
         7 rmdir('/s/e') = 0
         7 link('/s/a', '/s/b') = 0
         7 open('/s/a', O_WRONLY|O_TRUNC) = 4</s/a>
         7 sendto(9<socket:[3]>, 'hi', 2, MSG_NOSIGNAL, NULL, 0) = 2
         7 sendfile(9<socket:[3]>, 4</s/a>, [0] => [3], 5) = 3
         7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4</s/x-shm>, 0) = 0x7f00
         7 +++ exited with 0 +++",
    );
    let path = PathBuf::from;
    assert_eq!(
        found,
        [
            Call::Open { path: path("d/f"), create: true, truncate: false },
            write("d/f", 0, "ab"),
            write("d/f", 2, "cde"),
            write("d/f", 9, "x"),
            Call::Truncate { path: path("d/f"), length: 5 },
            Call::Sync { path: path("d/f") },
            Call::Rename { from: path("d/f"), to: path("d/g") },
            Call::Sync { path: path("d") },
            Call::Remove { path: path("d/g") },
            Call::MakeDirectory { path: path("e") },
            Call::Remove { path: path("e") },
            Call::Link { from: path("a"), to: path("b") },
            Call::Open { path: path("a"), create: false, truncate: true },
            Call::Send { bytes: Rc::from(b"hi".as_slice()) },
            Call::Send { bytes: Rc::from([0; 3]) },
        ]
    );
}

#[test]
fn what_is_outside_or_has_no_name_is_passed_over() {
    let found = calls(
        "7 openat(AT_FDCWD</w>, '/tmp/f', O_RDWR|O_CREAT, 0600) = 4</tmp/f>
         7 write(4</tmp/f>, 'ab', 2) = 2
         7 write(1<anon_inode:[eventfd]>, 'ab', 2) = 2
         7 pwrite64(4</s/f (deleted)>, 'ab', 2, 0) = 2
         7 openat(AT_FDCWD</s>, 'f', O_RDONLY) = 4</s/f>
         7 pwrite64(4</sother/f>, 'ab', 2, 0) = 2
         7 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 4</s/f>, 0) = 0x7f00
         7 --- SIGURG {si_signo=SIGURG} ---",
    );
    assert_eq!(found, []);
}

#[test]
fn begin_and_end_of_calls_under_way_stand_in_the_order_of_lines() {
    let trace = trace(
        "7 pwrite64(4</s/f>, 'ab', 2, 0 <unfinished ...>
         8 fsync(5</s/f> <unfinished ...>
         7 <... pwrite64 resumed>) = 2
         8 <... fsync resumed>)  = 0 (DELAYED)
         9 pwrite64(4</s/f>, 'c', 1, 0 <unfinished ...>
         9 +++ killed by SIGKILL +++",
    )
    .unwrap();
    let [write, sync, last] = trace.operations.as_slice() else { panic!("{trace:?}") };
    assert!(write.begin < sync.begin);
    assert!(sync.begin < write.success().unwrap() && write.success().unwrap() < sync.success().unwrap());
    assert_eq!(last.end, None);
    assert!(trace.end > last.begin);
}

#[test]
fn a_result_that_is_not_the_calls_own_is_none() {
    for (ending, ended) in [
        ("7 <... pwrite64 resumed>) = 141\n7 +++ killed by SIGKILL +++", false),
        ("7 <... pwrite64 resumed>) = ?\n7 +++ killed by SIGKILL +++", false),
        ("7 <... pwrite64 resumed>) = 2\n7 +++ killed by SIGKILL +++", true),
        ("7 <... pwrite64 resumed>) = 1\n7 fsync(4</s/f>) = 0\n7 +++ killed by SIGKILL +++", true),
        ("7 <... pwrite64 resumed>) = 1\n7 +++ exited with 0 +++", true),
    ] {
        let trace = trace(&format!("7 pwrite64(4</s/f>, 'ab', 2, 0 <unfinished ...>\n{ending}")).unwrap();
        assert_eq!(trace.operations[0].end.is_some(), ended, "{ending}");
    }
}

#[test]
fn an_error_is_kept_as_one() {
    let trace = trace("7 unlink('/s/f') = -1 ENOENT (No such file or directory)").unwrap();
    assert_eq!(trace.operations[0].success(), None);
    assert_eq!(trace.operations[0].end.unwrap().1, -1);
}

#[test]
fn what_the_model_does_not_know_is_refused() {
    for line in [
        "7 write(4</s/f>, 'ab', 2) = 2",
        "7 pwritev(4</s/f>, [{iov_base='a', iov_len=1}], 1, 0) = 1",
        "7 copy_file_range(4</s/f>, [0], 5</s/g>, [0], 9, 0) = 9",
        "7 fallocate(4</s/f>, 0, 0, 10) = 0",
        "7 openat(AT_FDCWD</w>, '/s/f', O_WRONLY|O_APPEND|O_CREAT, 0600) = 4</s/f>",
        "7 renameat2(AT_FDCWD</w>, '/s/a', AT_FDCWD</w>, '/s/b', RENAME_EXCHANGE) = 0",
        "7 rename('/s/a', '/tmp/b') = 0",
        "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4</s/f>, 0) = 0x7f00",
        "7 pwrite64(4</s/f>, 'ab'..., 2, 0) = 2",
        "7 <... write resumed>) = 2",
        "what is this",
    ] {
        let error = trace(line).map(|trace| trace.operations).unwrap_err();
        assert!(error.0.starts_with("line 1: "), "{line}: {error}");
    }
}

#[test]
fn a_trace_is_complete_when_every_process_has_ended() {
    for (text, complete) in [
        ("", false),
        ("7 fsync(4) = 0\n", false),
        ("7 fsync(4) = 0\n7 +++ exited with 0 +++\n", true),
        ("7 fsync(4) = 0\n8 fsync(4) = 0\n7 +++ exited with 0 +++\n", false),
        ("7 fsync(4) = 0\n7 +++ exited with 0 +++", false),
        ("7 fsync(4) = 0\n8 +++ killed by SIGKILL +++\n7 +++ exited with 0 +++\n", true),
    ] {
        assert_eq!(is_complete(text), complete, "{text:?}");
    }
}
