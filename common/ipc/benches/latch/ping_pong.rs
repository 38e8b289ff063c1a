//! Round trips between two processes.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    process::Me,
    shared_struct,
    shmem::Shmem,
    wait_event::WaitEvent,
};
use sys::{
    clock,
    epoll::{EDGE, Epoll, IN, Ready},
    eventfd::EventFd,
    futex,
    poll::{self, PollFd},
    process::{self, Pid, PidFd},
    signal::{self, Signal, SignalFd, SignalSet, self_pipe::SelfPipe},
};

use crate::{
    node::{attach, fork_killed_with_parent, run_process, slot, start_node, wait_for_good_end},
    table::{Form, Table},
};

shared_struct! {
    /// What the two sides share.
    struct Board {
        /// The process of each side, once it is ready to be woken.
        pids: [AtomicU32; 2],
        /// How often each side has been sent the ball.
        balls: [AtomicU32; 2],
        /// How long the trips took, in nanoseconds, as the first side measured it.
        nanos: AtomicU64,
        /// Processor time of all trips, of both sides.
        cpu_nanos: AtomicU64,
    }
}

/// A side of a game after the fork.
trait Player {
    /// Gives the ball to the other side for the `trip`th time.
    fn pass(&mut self, trip: u32);
    /// Sleeps until it is here for the `trip`th time.
    fn catch(&mut self, trip: u32);
}

/// Makes a game before the fork; what it returns makes a side of it after the fork.
type Game = fn(&'static Board) -> Box<dyn Fn(usize) -> Box<dyn Player>>;

/// Every contender. The best that can be waited for together with sockets comes first.
const GAMES: [(&str, Game); 8] = [
    ("eventfd, edge-triggered, unread", |_| eventfd_game(true)),
    ("eventfd + epoll", |_| eventfd_game(false)),
    ("signalfd + epoll", |board| Box::new(move |side| Box::new(SignalFdPlayer::new(board, side)))),
    ("self-pipe + poll", |board| Box::new(move |side| Box::new(SelfPipePlayer::new(board, side)))),
    ("futex (no sockets)", |board| Box::new(move |side| Box::new(FutexPlayer { board, side }))),
    ("latch on eventfd", |board| latch_game(board, Backend::Eventfd)),
    ("latch on epoll", |board| latch_game(board, Backend::Epoll)),
    ("latch on poll", |board| latch_game(board, Backend::Poll)),
];

/// On one CPU the processor time of both sides is also what a trip takes when nobody else wants that CPU: a figure
/// that others on the machine disturb much less.
pub(crate) fn run(rounds: usize, trips: u64, form: Form) {
    for (placement, cpus) in [("one CPU", [0, 0]), ("two CPUs", [0, 1])] {
        let names = GAMES.map(|(name, _)| name);
        let mut table = Table::new(&format!("round trip, {placement}"), "us", names);
        let mut cpu_table = Table::new(&format!("processor time of a round trip, {placement}"), "us", names);
        for round in 0..rounds {
            for turn in 0..GAMES.len() {
                let index = (round + turn) % GAMES.len();
                let (took, cpu) = play(GAMES[index].1, cpus, trips);
                table.add(index, took);
                cpu_table.add(index, cpu);
            }
        }
        table.print(form, true);
        cpu_table.print(form, true);
    }
}

/// Plays in two processes, and returns the time of one trip there and back in microseconds, and the processor time
/// that both spent on it.
fn play(game: Game, cpus: [usize; 2], trips: u64) -> (f64, f64) {
    // In a process of its own: what a game leaks or installs is gone with it.
    let shmem = Shmem::create(4096).unwrap();
    let board: &'static Board = shmem.alloc();
    run_process(|| {
        let make_player = game(board);
        let sides: Vec<PidFd> = [1, 0]
            .map(|side| {
                let child = || {
                    process::run_on_cpu(cpus[side]).unwrap();
                    play_side(&mut *make_player(side), board, side, u32::try_from(trips).unwrap());
                };
                PidFd::open(fork_killed_with_parent(child)).unwrap()
            })
            .into();
        sides.iter().for_each(wait_for_good_end);
    });
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of some seconds")]
    let micros = |nanos: &AtomicU64| nanos.load(Ordering::Relaxed) as f64 / 1e3 / trips as f64;
    (micros(&board.nanos), micros(&board.cpu_nanos))
}

fn play_side(player: &mut dyn Player, board: &Board, side: usize, trips: u32) {
    board.pids[side].store(process::current_pid().0.unsigned_abs(), Ordering::Release);
    while board.pids[1 - side].load(Ordering::Acquire) == 0 {
        wait_a_little();
    }
    let warm_up = trips / 10;
    let (mut start, mut cpu_start) = (clock::now(), clock::process_cpu());
    for trip in 1..=warm_up + trips {
        if trip == warm_up + 1 {
            (start, cpu_start) = (clock::now(), clock::process_cpu());
        }
        if side == 0 {
            player.pass(trip);
            player.catch(trip);
        } else {
            player.catch(trip);
            player.pass(trip);
        }
    }
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
    board.cpu_nanos.fetch_add(nanos(clock::process_cpu() - cpu_start), Ordering::Relaxed);
    if side == 0 {
        board.nanos.store(nanos(clock::now().saturating_since(start)), Ordering::Relaxed);
    }
}

fn wait_a_little() {
    // Interrupted, perhaps, by the first ball.
    let _interrupted = poll::poll(&mut [], Some(Duration::from_micros(50)));
}

struct FutexPlayer {
    board: &'static Board,
    side: usize,
}

impl Player for FutexPlayer {
    fn pass(&mut self, trip: u32) {
        let ball = &self.board.balls[1 - self.side];
        ball.store(trip, Ordering::Release);
        futex::wake(ball, 1);
    }

    fn catch(&mut self, trip: u32) {
        let ball = &self.board.balls[self.side];
        while ball.load(Ordering::Acquire) != trip {
            futex::wait(ball, trip - 1);
        }
    }
}

struct EventFdPlayer {
    own: &'static EventFd,
    other: &'static EventFd,
    epoll: Epoll,
    edge: bool,
}

fn eventfd_game(edge: bool) -> Box<dyn Fn(usize) -> Box<dyn Player>> {
    let eventfds: &'static [EventFd; 2] = Box::leak(Box::new([(); 2].map(|()| EventFd::new().unwrap())));
    Box::new(move |side| {
        let epoll = Epoll::new().unwrap();
        let own = &eventfds[side];
        epoll.add(own.raw(), if edge { IN | EDGE } else { IN }, 0).unwrap();
        Box::new(EventFdPlayer { own, other: &eventfds[1 - side], epoll, edge })
    })
}

impl Player for EventFdPlayer {
    fn pass(&mut self, _trip: u32) {
        self.other.wake();
    }

    fn catch(&mut self, _trip: u32) {
        self.epoll.wait(&mut [Ready::EMPTY], None).unwrap();
        if !self.edge {
            self.own.take().unwrap();
        }
    }
}

const SIGURG: SignalSet = SignalSet::of(&[Signal::Urg]);

fn signal_other(board: &Board, side: usize) {
    let pid = board.pids[1 - side].load(Ordering::Relaxed);
    process::kill(Pid(i32::try_from(pid).unwrap()), Signal::Urg).unwrap();
}

struct SignalFdPlayer {
    board: &'static Board,
    side: usize,
    signal_fd: SignalFd,
    epoll: Epoll,
}

impl SignalFdPlayer {
    fn new(board: &'static Board, side: usize) -> SignalFdPlayer {
        signal::block_all();
        let signal_fd = SignalFd::new(SIGURG).unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(signal_fd.raw(), IN, 0).unwrap();
        SignalFdPlayer { board, side, signal_fd, epoll }
    }
}

impl Player for SignalFdPlayer {
    fn pass(&mut self, _trip: u32) {
        signal_other(self.board, self.side);
    }

    fn catch(&mut self, _trip: u32) {
        self.epoll.wait(&mut [Ready::EMPTY], None).unwrap();
        assert!(!self.signal_fd.drain().unwrap().is_empty());
    }
}

struct SelfPipePlayer {
    board: &'static Board,
    side: usize,
    self_pipe: SelfPipe,
}

impl SelfPipePlayer {
    fn new(board: &'static Board, side: usize) -> SelfPipePlayer {
        signal::block_all();
        SelfPipePlayer { board, side, self_pipe: SelfPipe::new(SIGURG).unwrap() }
    }
}

impl Player for SelfPipePlayer {
    fn pass(&mut self, _trip: u32) {
        signal_other(self.board, self.side);
    }

    fn catch(&mut self, _trip: u32) {
        let mut fds = [PollFd::new(self.self_pipe.raw(), poll::IN)];
        // Interrupted by the very signal, as a rule: the pipe is readable then.
        while poll::poll(&mut fds, None).is_err() {}
        assert!(!self.self_pipe.drain().unwrap().is_empty());
    }
}

struct LatchPlayer {
    board: &'static Board,
    side: usize,
    me: Me,
}

fn latch_game(board: &'static Board, backend: Backend) -> Box<dyn Fn(usize) -> Box<dyn Player>> {
    backend::choose(backend);
    let (procs, death) = start_node(2);
    Box::new(move |side| Box::new(LatchPlayer { board, side, me: attach(procs, death, slot(side)) }))
}

impl Player for LatchPlayer {
    fn pass(&mut self, trip: u32) {
        self.board.balls[1 - self.side].store(trip, Ordering::Relaxed);
        self.me.procs().set_latch(slot(1 - self.side));
    }

    fn catch(&mut self, trip: u32) {
        loop {
            self.me.latch().reset();
            if self.board.balls[self.side].load(Ordering::Relaxed) == trip {
                return;
            }
            ipc::wait_latch(&self.me, None, WaitEvent::PgSleep).unwrap();
        }
    }
}
