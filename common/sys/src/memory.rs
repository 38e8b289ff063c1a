//! How much memory this process has, as the kernel counts it, and giving back what it doesn't use.

use std::{fs, io};

/// Sizes in kB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident_kb: u64,
    /// Resident at most so far.
    pub resident_peak_kb: u64,
    /// Of the resident part, what is no file's and not shared: the heap and the stack.
    pub anonymous_kb: u64,
}

/// Asks the kernel. Errors: /proc can't be read.
pub fn memory_of_this_process() -> io::Result<Memory> {
    parse(&fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::other("/proc/self/status has no sizes"))
}

/// Gives the kernel back what was freed, as far as whole pages are free: for who has used much once and will sleep for long.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn parse(status: &str) -> Option<Memory> {
    let size = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory {
        resident_kb: size("VmRSS")?,
        resident_peak_kb: size("VmHWM")?,
        anonymous_kb: size("RssAnon")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found_by_their_whole_names() {
        let status =
            "Name:\tx\nVmHWM:\t    2048 kB\nVmRSSX:\t 1 kB\nVmRSS:\t    1024 kB\nRssAnon:\t     512 kB\n";
        let expected = Memory { resident_kb: 1024, resident_peak_kb: 2048, anonymous_kb: 512 };
        assert_eq!(parse(status), Some(expected));
        assert_eq!(parse("VmRSS:\t1024 kB\n"), None);
    }

    #[test]
    fn a_process_has_memory_and_more_when_it_uses_more() {
        let before = memory_of_this_process().unwrap();
        assert!(before.resident_kb <= before.resident_peak_kb);
        let block = vec![1_u8; 32 << 20];
        assert!(memory_of_this_process().unwrap().anonymous_kb >= before.anonymous_kb + (16 << 10));
        drop(block);
    }

    #[test]
    fn what_was_freed_in_small_pieces_is_given_back() {
        let mut pieces: Vec<Box<[u8; 1024]>> = (0..32 << 10).map(|_| Box::new([1; 1024])).collect();
        // It stands at the end of the heap, where freeing alone would be enough.
        let last = pieces.pop();
        drop(pieces);
        let before = memory_of_this_process().unwrap();
        give_back();
        let after = memory_of_this_process().unwrap();
        assert!(after.anonymous_kb + (16 << 10) <= before.anonymous_kb, "{before:?} {after:?}");
        drop(last);
    }
}
