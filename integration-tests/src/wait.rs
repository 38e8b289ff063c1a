//! Waiting for a condition, with a deadline. The only pause in the tests is in here.

use std::time::Duration;

use sys::clock;

/// Long enough for a loaded machine with two cores; reached only when something hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long to leave a condition alone between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `condition` until it gives something; `None` when `deadline` has passed.
pub fn within<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = clock::now().saturating_add(deadline);
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if clock::now() >= end {
            return None;
        }
        pause(PAUSE);
    }
}

/// Calls `condition` until it gives something; panics after [`DEADLINE`], naming `what` it waited for.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, condition)
        .unwrap_or_else(|| panic!("waited {} s in vain for {what}", DEADLINE.as_secs()))
}

/// Lets `duration` pass while a node is watched for what it does *not* do, which no condition can tell.
pub fn watch_for(duration: Duration) {
    let end = clock::now().saturating_add(duration);
    loop {
        match end.saturating_since(clock::now()) {
            Duration::ZERO => return,
            left => pause(left.min(PAUSE)),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a process of another program has no latch to wait on")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
