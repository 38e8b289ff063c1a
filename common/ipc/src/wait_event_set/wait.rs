//! The wait of a set: from the look at the latch to what occurred.

use std::{io, sync::atomic::Ordering, time::Duration};

use sys::{
    clock::{self, MonoTime},
    process,
};

use super::{Events, Kind, Occurred, OnPostmasterDeath, Ready, SocketEvents, Token, WaitEventSet};
use crate::{latch::Latch, latch_stats, wait_event::WaitEvent, waiter::Waiter};

impl WaitEventSet {
    /// Waits until something occurs or `timeout` (None: for ever) is over, and replaces the contents of
    /// `occurred` by what did; empty means that the time is over. An error means that the descriptors are
    /// broken. Panics when it would sleep for ever because nothing is waited for.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        event: WaitEvent,
        occurred: &mut Vec<Occurred>,
    ) -> io::Result<()> {
        self.assert_owner();
        assert!(
            timeout.is_some() || self.waits_for_something(),
            "cannot wait for nothing without a time-out"
        );
        occurred.clear();
        if let Some(waiter) = self.waiter {
            waiter.wait_event().store(event.code(), Ordering::Relaxed);
        }
        let result = self.wait_until_something(timeout, occurred);
        if let Some(waiter) = self.waiter {
            waiter.wait_event().store(0, Ordering::Relaxed);
        }
        result
    }

    fn wait_until_something(
        &mut self,
        timeout: Option<Duration>,
        occurred: &mut Vec<Occurred>,
    ) -> io::Result<()> {
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            self.wait_once(None, timeout, occurred)?;
            return Ok(());
        }
        let mut now = timeout.map(|_| clock::now());
        let deadline = timeout.zip(now).map(|(timeout, start)| start.saturating_add(timeout));
        let mut remaining = timeout;
        loop {
            now = self.wait_once(now, remaining, occurred)?;
            if !occurred.is_empty() {
                return Ok(());
            }
            if let Some(deadline) = deadline {
                let now = *now.get_or_insert_with(clock::now);
                let rest = deadline.saturating_since(now);
                if rest.is_zero() {
                    return Ok(());
                }
                remaining = Some(rest);
            }
        }
    }

    /// One kernel wait, and what came of it: possibly nothing (a signal, a false alarm, the end of the time).
    /// `now` is the time if it is known already; returns the time afterwards if it slept.
    fn wait_once(
        &mut self,
        now: Option<MonoTime>,
        timeout: Option<Duration>,
        occurred: &mut Vec<Occurred>,
    ) -> io::Result<Option<MonoTime>> {
        let (woken_at, interrupted) = self.sleep(now, timeout)?;
        if interrupted && let Some(waiter) = self.waiter {
            // By a handler, which has left the signal for us: now it needn't end the next kernel wait too.
            waiter.poll_signals()?;
        }
        for index in 0..self.ready.len() {
            let ready = self.ready[index];
            if let Some(found) = self.translate(ready)? {
                occurred.push(found);
            }
        }
        // Also after another event ended the wait, and after a signal that was just read.
        if let Some((position, latch)) = self.latch
            && latch.is_set()
        {
            occurred.push(Occurred { position, events: Events::LATCH_SET });
        }
        if woken_at.is_some() && occurred.is_empty() && (interrupted || !self.ready.is_empty()) {
            latch_stats::own().count_spurious();
        }
        Ok(woken_at)
    }

    /// The kernel wait, or look if the latch is set: leaves in `ready` what it found. Returns when it was over,
    /// if it was a wait, and whether a signal interrupted it.
    fn sleep(
        &mut self,
        now: Option<MonoTime>,
        timeout: Option<Duration>,
    ) -> io::Result<(Option<MonoTime>, bool)> {
        let stats = latch_stats::own();
        let latch = self.follow_latch()?;
        let mut slept = false;
        self.ready.clear();
        let mut sleep = |may_sleep| {
            let timeout = if may_sleep { timeout } else { Some(Duration::ZERO) };
            slept = timeout.is_none_or(|timeout| !timeout.is_zero());
            if slept {
                stats.fall_asleep(now.unwrap_or_else(clock::now));
            }
            self.kernel.wait(timeout, &mut self.ready)
        };
        let result = match latch {
            Some(latch) => latch.around_sleep(sleep),
            None => sleep(true),
        };
        let woken_at = slept.then(clock::now);
        if let Some(now) = woken_at {
            stats.wake_up(now);
        }
        match result {
            Ok(()) => Ok((woken_at, false)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok((woken_at, true)),
            Err(error) => Err(error),
        }
    }

    /// What a ready descriptor means to the waiting process, if anything.
    fn translate(&self, ready: Ready) -> io::Result<Option<Occurred>> {
        let position = match ready.token {
            Token::Signals => {
                self.waiter.map_or(Ok(()), Waiter::poll_signals)?;
                return Ok(None);
            }
            // The latch itself is looked at afterwards, however the wait ended.
            Token::Wakeup => {
                latch_stats::own().count_wakeup_received();
                return Ok(None);
            }
            Token::Event(position) => position,
        };
        let place = &self.places[position.index as usize];
        let events = match place.event {
            // Removed between the kernel's look and now.
            _ if place.generation != position.generation => Events::NONE,
            None | Some(Kind::Latch) => Events::NONE,
            Some(Kind::Socket(_, wanted)) => socket_events(wanted, ready),
            Some(Kind::ChildExit(_)) => Events::CHILD_EXIT,
            Some(Kind::PostmasterDeath(action)) => self.postmaster_death(action),
        };
        Ok((!events.is_empty()).then_some(Occurred { position, events }))
    }

    /// The pipe looks readable: believed only after a read, as kernels have been seen to be wrong.
    fn postmaster_death(&self, action: OnPostmasterDeath) -> Events {
        let alive =
            self.waiter.and_then(|waiter| waiter.postmaster_death).is_none_or(|death| death.is_alive());
        match action {
            _ if alive => Events::NONE,
            OnPostmasterDeath::Report => Events::POSTMASTER_DEATH,
            OnPostmasterDeath::Exit => process::exit_immediately(1),
        }
    }

    /// The latch of this wait, if one is in the set. Tells the kernel when it is no longer the same.
    fn follow_latch(&mut self) -> io::Result<Option<&'static Latch>> {
        let (Some((position, old)), Some(waiter)) = (self.latch, self.waiter) else {
            return Ok(None);
        };
        let latch = waiter.latch();
        if !std::ptr::eq(old, latch) {
            self.kernel.remove_latch(old)?;
            self.kernel.add_latch(latch)?;
            self.latch = Some((position, latch));
        }
        Ok(Some(latch))
    }
}

/// What of `wanted` is true, under its name as an event.
fn socket_events(wanted: SocketEvents, ready: Ready) -> Events {
    let mut events = Events::NONE;
    for (asked, event, found) in [
        (SocketEvents::READABLE, Events::SOCKET_READABLE, ready.readable),
        (SocketEvents::ACCEPT, Events::SOCKET_ACCEPT, ready.readable),
        (SocketEvents::WRITEABLE, Events::SOCKET_WRITEABLE, ready.writeable),
        (SocketEvents::CONNECTED, Events::SOCKET_CONNECTED, ready.writeable),
        (SocketEvents::CLOSED, Events::SOCKET_CLOSED, ready.closed),
    ] {
        if found && wanted.intersects(asked) {
            events |= event;
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, os::fd::RawFd, rc::Rc};

    use super::*;
    use crate::wait_event_set::KernelSet;

    /// A kernel whose waits end early with nothing: every other one because a signal came.
    struct Restless {
        waits: Rc<RefCell<Vec<KernelWait>>>,
    }

    #[derive(Debug)]
    struct KernelWait {
        start: MonoTime,
        end: MonoTime,
        timeout: Duration,
    }

    impl KernelSet for Restless {
        fn add(&mut self, _: RawFd, _: SocketEvents, _: Token) -> io::Result<()> {
            Ok(())
        }

        fn modify(&mut self, _: RawFd, _: SocketEvents, _: Token) -> io::Result<()> {
            Ok(())
        }

        fn remove(&mut self, _: RawFd) -> io::Result<()> {
            Ok(())
        }

        fn wait(&mut self, timeout: Option<Duration>, _: &mut Vec<Ready>) -> io::Result<()> {
            let start = clock::now();
            let mut end = start;
            while end.saturating_since(start) < Duration::from_millis(1) {
                end = clock::now();
            }
            let mut waits = self.waits.borrow_mut();
            waits.push(KernelWait { start, end, timeout: timeout.expect("there is one") });
            if waits.len().is_multiple_of(2) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn repeated_kernel_waits_share_one_timeout() {
        const TIMEOUT: Duration = Duration::from_millis(10);
        let waits = Rc::default();
        let mut set = WaitEventSet::without_process(1).unwrap();
        set.kernel = Box::new(Restless { waits: Rc::clone(&waits) });
        let start = clock::now();
        let mut occurred = Vec::new();
        set.wait(Some(TIMEOUT), WaitEvent::PgSleep, &mut occurred).unwrap();
        let (end, waits) = (clock::now(), waits.borrow());
        assert!(occurred.is_empty() && end >= start.saturating_add(TIMEOUT));
        assert_eq!(waits[0].timeout, TIMEOUT);
        assert!(waits.len() > 1, "{waits:?}");
        for pair in waits.windows(2) {
            // The rest is computed between the end of a wait and the start of the next.
            let most = TIMEOUT.saturating_sub(pair[0].end.saturating_since(waits[0].start));
            let least = TIMEOUT.saturating_sub(pair[1].start.saturating_since(start));
            assert!((least..=most).contains(&pair[1].timeout), "{least:?} to {most:?}: {waits:?}");
        }
    }
}
