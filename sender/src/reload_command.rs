//! `reload`: asks a node to read its configuration again, and waits until every process of it has absorbed it.
//!
//! SIGHUP to the postmaster asks; the answer comes in line 9 of postmaster.pid ([`postmaster::reload_line`] tells why the
//! right one is recognised), and inotify tells when that changes. So the command sleeps until there is news, the postmaster
//! ends, or its time is over. In the latter case it asks by SIGUSR1 who is late, and names them.
//!
//! Follows PostgreSQL 15 src/bin/pg_ctl/pg_ctl.c (do_reload); differs in: waiting, and telling what came of it.

use std::time::Duration;

use clap::Args;
use ipc::wait_event::WaitEvent;
use postmaster::reload_line::{ReloadLine, ReloadProgress};
use sys::clock::{self, MonoTime};
use sys::signal::Signal;

use crate::cli::{DataDirArg, running};
use crate::node_watch::{News, NodeWatch};

/// How long the postmaster may take to say who is late.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Reading the configuration again.
#[derive(Args, Debug)]
pub struct Reload {
    /// Where
    #[command(flatten)]
    pub data: DataDirArg,
    /// Seconds to wait until every process has absorbed it
    #[arg(short, long, value_name = "SECS", default_value_t = 60)]
    pub timeout: u64,
}

/// Reloads the configuration of the node of a data directory; what to tell its user.
///
/// # Errors
/// Nothing runs there, the file is bad, the node ended meanwhile, or a process has not absorbed it in time: the text says
/// which.
pub fn reload(reload: &Reload) -> Result<String, String> {
    let dir = &reload.data.data_dir;
    let Some(lines) = running(dir)? else {
        return Err(format!("no node runs in \"{}\"", dir.display()));
    };
    Asked { node: NodeWatch::new(dir, lines.pid)? }.wait(Duration::from_secs(reload.timeout))
}

struct Asked {
    node: NodeWatch,
}

impl Asked {
    fn wait(mut self, timeout: Duration) -> Result<String, String> {
        let deadline = clock::now().saturating_add(timeout);
        let before = loop {
            match self.line() {
                Some(line) => break line.number,
                // In the middle of a write.
                None => self.news_of_node(deadline, timeout)?,
            }
        };
        self.node.signal(Signal::Hup, "reload")?;
        loop {
            if let Some(outcome) = self.outcome(before) {
                return outcome;
            }
            match self.news(deadline)? {
                News::File => {}
                News::Ended => return Err(self.ended()),
                News::TimedOut => return self.who_is_late(before, timeout),
            }
        }
    }

    /// The line as it is now; none in the middle of a write, or when the file is gone.
    fn line(&self) -> Option<ReloadLine> {
        self.node.lines()?.reload
    }

    /// What came of a reload after number `before`; none: there is no answer yet.
    fn outcome(&self, before: u64) -> Option<Result<String, String>> {
        let line = self.line().filter(|line| line.number > before)?;
        match line.progress {
            ReloadProgress::Reading | ReloadProgress::Absorbing(_) => None,
            ReloadProgress::Done(note) => {
                let warnings = note.lines().map(|line| format!("\nWARNING:  {line}"));
                Some(Ok(format!("configuration reloaded{}", warnings.collect::<String>())))
            }
            ReloadProgress::Refused(why) => Some(Err(why)),
        }
    }

    fn who_is_late(&mut self, before: u64, timeout: Duration) -> Result<String, String> {
        self.node.signal(Signal::Usr1, "reload")?;
        let deadline = clock::now().saturating_add(ANSWER_WITHIN);
        loop {
            if let Some(outcome) = self.outcome(before) {
                return outcome;
            }
            if let Some(ReloadLine { number, progress: ReloadProgress::Absorbing(late) }) = self.line()
                && number > before
                && !late.is_empty()
            {
                return Err(format!(
                    "{late} did not absorb the new configuration within {} s\nHINT:  It is in force in all other processes, and will be in this one when it goes on.",
                    timeout.as_secs()
                ));
            }
            self.news_of_node(deadline, timeout)?;
        }
    }

    /// Waits until the line may have changed; anything else is an error.
    fn news_of_node(&mut self, deadline: MonoTime, timeout: Duration) -> Result<(), String> {
        match self.news(deadline)? {
            News::File => Ok(()),
            News::Ended => Err(self.ended()),
            News::TimedOut => Err(format!(
                "the postmaster (PID {}) did not reload its configuration within {} s",
                self.node.pid,
                timeout.as_secs()
            )),
        }
    }

    fn news(&mut self, deadline: MonoTime) -> Result<News, String> {
        self.node.news(deadline, WaitEvent::ProcSignalBarrier)
    }

    fn ended(&self) -> String {
        format!(
            "the node (PID {}) ended before all of its processes had the new configuration",
            self.node.pid
        )
    }
}
