//! Runs the scripts of `state.txt` against the state machine.
//!
//! Goal: the order in which a node starts, stops and crashes, line by line. Method: each script is a list of inputs, each
//! followed by the outputs that it must cause; the test keeps the census that the shell would keep. On a difference the
//! script's name, the line and what came instead are shown.
#![forbid(unsafe_code)]

use std::time::Duration;

use ipc::pm_signal::PmSignal;
use postmaster::child_kind::{Census, ChildEnd, ChildKind, KindSet};
use postmaster::state::{Archiving, Input, Output, ShutdownMode, StateMachine};
use sys::clock::MonoTime;
use sys::process::{ExitStatus, Pid};

const NAMES: [&str; ChildKind::COUNT] =
    ["startup", "walwriter", "checkpointer", "walreceiver", "backend", "walsender", "dead-end", "archiver"];

#[test]
fn scripts_cause_exactly_the_outputs_that_they_list() {
    let mut failures = Vec::new();
    let mut scripts = 0;
    for script in include_str!("state.txt").split("\n== ").skip(1) {
        let (name, body) = script.split_once('\n').expect("a script has a name and lines");
        scripts += 1;
        if let Err(difference) = run_script(body) {
            failures.push(format!("== {name}\n{difference}"));
        }
    }
    assert!(scripts > 30, "the scripts were not found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn run_script(body: &str) -> Result<(), String> {
    let mut node = Node::new();
    let mut lines = body.lines().filter(|line| !line.is_empty()).peekable();
    while let Some(line) = lines.next() {
        if let Some(question) = line.strip_prefix("? ") {
            let answer = node.answer(question);
            if question != answer {
                return Err(format!("expected: {question}\n     got: {answer}"));
            }
            continue;
        }
        let input = line.strip_prefix("> ").ok_or_else(|| format!("not an input: {line}"))?;
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with(['>', '?'])) {
            expected.push(line.to_owned());
        }
        let got = node.input(input);
        if got != expected {
            return Err(format!(
                "> {input}\nexpected:\n  {}\ngot:\n  {}",
                expected.join("\n  "),
                got.join("\n  ")
            ));
        }
    }
    Ok(())
}

/// The machine and the children that it believes in.
struct Node {
    machine: StateMachine,
    now: MonoTime,
    living: [u32; ChildKind::COUNT],
}

impl Node {
    fn new() -> Node {
        Node::archiving(Archiving::Off)
    }

    fn archiving(archiving: Archiving) -> Node {
        let machine = StateMachine::new(archiving);
        Node { machine, now: MonoTime::from_nanos(1), living: [0; ChildKind::COUNT] }
    }

    fn answer(&self, question: &str) -> String {
        let subject = question.split(' ').next().expect("a word");
        match subject {
            "state" => format!("state {:?}", self.machine.state()),
            "admit" => match self.machine.admit() {
                Ok(()) => "admit ok".to_owned(),
                Err(refusal) => format!("admit {refusal:?}"),
            },
            "timer" => match self.machine.deadline() {
                None => "timer none".to_owned(),
                Some(at) => format!("timer {}", at.saturating_since(self.now).as_secs()),
            },
            _ => format!("unknown question {question}"),
        }
    }

    fn input(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let input = match words[..] {
            ["primary"] => return self.quietly(&["start", "pmsignal RECOVERY_DONE"]),
            ["standby"] => {
                return self.quietly(&[
                    "start",
                    "pmsignal RECOVERY_STARTED",
                    "pmsignal START_WALRECEIVER",
                    "pmsignal BEGIN_HOT_STANDBY",
                ]);
            }
            ["archiving", when] => {
                *self = Node::archiving(match when {
                    "on" => Archiving::Primary,
                    "always" => Archiving::Always,
                    _ => panic!("unknown input {line}"),
                });
                return Vec::new();
            }
            ["start"] => Input::Start,
            ["promote"] => Input::Promote,
            ["connect"] => self.born(ChildKind::Backend),
            ["dead-end"] => self.born(ChildKind::DeadEnd),
            ["replicate"] => {
                self.living[ChildKind::Backend as usize] -= 1;
                self.born(ChildKind::WalSender)
            }
            ["exit", kind, status, ref attached @ ..] => self.exit(kind, status, attached == ["attached"]),
            ["fork-failed", name] => {
                let kind = kind(name);
                self.living[kind as usize] -= 1;
                Input::ForkFailed(kind)
            }
            ["pmsignal", ref names @ ..] => Input::PmSignal(pm_signals(names)),
            ["smart"] => Input::Shutdown(ShutdownMode::Smart),
            ["fast"] => Input::Shutdown(ShutdownMode::Fast),
            ["immediate"] => Input::Shutdown(ShutdownMode::Immediate),
            ["reload"] => Input::Reload,
            ["reinitialized", ref why @ ..] => {
                Input::Reinitialized(if why.is_empty() { Ok(()) } else { Err(why.join(" ")) })
            }
            ["restart-after-crash", word] => {
                self.machine.set_restart_after_crash(word == "on");
                return Vec::new();
            }
            ["read", ref note @ ..] => Input::ReloadRead(Ok(note.join(" "))),
            ["unreadable", ref why @ ..] => Input::ReloadRead(Err(why.join(" "))),
            ["absorbed"] => Input::ReloadAbsorbed,
            ["laggards?"] => Input::LaggardsWanted,
            ["laggards", ref late @ ..] => Input::Laggards(late.join(" ")),
            ["pid-file-lost"] => Input::PidFileLost,
            ["after", seconds] => {
                let seconds = Duration::from_secs(seconds.parse().expect("a number"));
                self.now = self.now.saturating_add(seconds);
                Input::Tick
            }
            _ => panic!("unknown input {line}"),
        };
        self.step(input)
    }

    fn quietly(&mut self, lines: &[&str]) -> Vec<String> {
        for line in lines {
            self.input(line);
        }
        Vec::new()
    }

    fn born(&mut self, kind: ChildKind) -> Input {
        self.living[kind as usize] += 1;
        Input::Tick
    }

    fn exit(&mut self, name: &str, status: &str, attached: bool) -> Input {
        let kind = kind(name);
        self.living[kind as usize] = self.living[kind as usize].checked_sub(1).expect("it lived");
        let status = match status.strip_prefix("sig") {
            Some(signal) => ExitStatus::Signaled(signal.parse().expect("a number")),
            None => ExitStatus::Exited(status.parse().expect("a number")),
        };
        Input::ChildExited(ChildEnd {
            kind,
            pid: Pid(100 + kind as i32),
            status,
            detached: !attached,
            activity: None,
        })
    }

    fn step(&mut self, input: Input) -> Vec<String> {
        let mut census = Census::default();
        for kind in ChildKind::all() {
            for _ in 0..self.living[kind as usize] {
                census.add(kind);
            }
        }
        let outputs = self.machine.step(self.now, input, &census);
        outputs.iter().map(|output| self.carry_out(output)).collect()
    }

    fn carry_out(&mut self, output: &Output) -> String {
        match output {
            Output::Launch(kind) => {
                self.living[*kind as usize] += 1;
                format!("launch {}", NAMES[*kind as usize])
            }
            Output::Signal(kinds, signal) => format!("signal {signal:?} {}", self.receivers(*kinds)),
            Output::Log(text) => format!("log {text}"),
            Output::Status(status) => format!("status {status}"),
            Output::Reload => "reload".to_owned(),
            Output::Reinitialize => "reinitialize".to_owned(),
            Output::PauseAccepting => "pause accepting".to_owned(),
            Output::ResumeAccepting => "resume accepting".to_owned(),
            Output::NameLaggards => "name laggards".to_owned(),
            Output::ReloadLine(line) => format!("line {line}"),
            Output::StopListening => "stop listening".to_owned(),
            Output::Exit(status) => format!("exit {status}"),
        }
    }

    fn receivers(&self, kinds: KindSet) -> String {
        let living = ChildKind::all().filter(|kind| kinds.contains(*kind) && self.living[*kind as usize] > 0);
        living.map(|kind| NAMES[kind as usize]).collect::<Vec<_>>().join(",")
    }
}

fn kind(name: &str) -> ChildKind {
    ChildKind::all().find(|kind| NAMES[*kind as usize] == name).expect("a kind")
}

fn pm_signals(names: &[&str]) -> PmSignal {
    names.iter().fold(PmSignal::NONE, |signals, name| {
        signals
            | match *name {
                "RECOVERY_STARTED" => PmSignal::RECOVERY_STARTED,
                "BEGIN_HOT_STANDBY" => PmSignal::BEGIN_HOT_STANDBY,
                "RECOVERY_DONE" => PmSignal::RECOVERY_DONE,
                "START_WALRECEIVER" => PmSignal::START_WALRECEIVER,
                _ => panic!("unknown signal {name}"),
            }
    })
}
