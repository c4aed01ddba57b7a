//! Small delays by which a run's processes are disturbed, so that rare orders of events show. They are
//! made of a seed: which process, by order of fork, comes to which point how often decides about each, and
//! nothing else does. What follows from them is the machine's to decide, as ever. Who holds the processes is the
//! tracer.

use std::time::Duration;

use forklab_sys::process::Pid;

use super::log::State;
use crate::messages::CellId;

/// The longest.
const LONGEST: Duration = Duration::from_millis(2);

/// Where a process is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// It has forked, for the so many-th time, and its call has not returned yet.
    Fork(u64),
    /// It was forked, and has not done anything yet.
    Begin,
    /// It has become another program, for the so many-th time, which has not begun yet.
    Exec(u64),
    /// It is about to end.
    End,
    /// It is told that this child, by order of fork, has ended, or its wait for it is about to return.
    Wait(u64),
}

/// The delays of one run.
#[derive(Debug)]
pub struct Delays {
    /// Whose processes are delayed.
    pub cell: CellId,
    seed: u64,
    forked: u64,
}

impl Delays {
    /// For a run of this cell's that begins.
    pub fn new(cell: CellId, seed: u64) -> Delays {
        Delays { cell, seed, forked: 0 }
    }

    /// A process was forked: its number by order of fork. The worker's is 0.
    pub fn number(&mut self) -> u64 {
        self.forked += 1;
        self.forked
    }

    /// For how long the process of this number is held at this point.
    pub fn of(&self, number: u64, point: Point) -> Duration {
        // How many of four pass undelayed. A parent that is held at each fork would keep its children apart,
        // and they would come in the order of their forks more often than without any delay.
        let (kind, count, pass) = match point {
            Point::Fork(count) => (1, count, 3),
            Point::Begin => (2, 0, 1),
            Point::Exec(count) => (3, count, 1),
            Point::End => (4, 0, 1),
            Point::Wait(child) => (5, child, 2),
        };
        let mixed = [number, kind, count].into_iter().fold(mix(self.seed), |state, part| mix(state ^ part));
        if mixed % 4 < pass { Duration::ZERO } else { Duration::from_nanos((mixed >> 2) % LONGEST.as_nanos() as u64) }
    }
}

impl State {
    /// For how long a process is held that has forked.
    pub fn delay_of_fork(&mut self, process: Pid) -> Duration {
        let Some(known) = self.processes.get_mut(&process) else { return Duration::ZERO };
        known.forks += 1;
        let count = known.forks;
        self.delay(process, Point::Fork(count))
    }

    /// For how long a process is held that is another program now.
    pub fn delay_of_exec(&mut self, process: Pid) -> Duration {
        let Some(known) = self.processes.get_mut(&process) else { return Duration::ZERO };
        known.execs += 1;
        let count = known.execs;
        self.delay(process, Point::Exec(count))
    }

    /// For how long a process is held that stops for us: if it has not begun yet.
    pub fn delay_of_beginning(&mut self, thread: Pid) -> Duration {
        let begun = self.processes.get_mut(&thread).is_none_or(|known| std::mem::replace(&mut known.begun, true));
        if begun { Duration::ZERO } else { self.delay(thread, Point::Begin) }
    }

    /// For how long a process is held whose first thread is about to end.
    pub fn delay_of_end(&self, thread: Pid) -> Duration {
        self.delay(thread, Point::End)
    }

    /// For how long a process is held that hears of this child's end.
    pub fn delay_of_wait(&self, process: Pid, child: Pid) -> Duration {
        let Some(delays) = &self.delays else { return Duration::ZERO };
        let number = self.zombies.iter().rev().find(|zombie| zombie.pid == child && zombie.cell == delays.cell);
        number.map_or(Duration::ZERO, |zombie| self.delay(process, Point::Wait(zombie.number)))
    }

    fn delay(&self, process: Pid, point: Point) -> Duration {
        let known = self.processes.get(&process);
        let delays = self.delays.as_ref().zip(known).filter(|(delays, known)| delays.cell == known.cell);
        delays.map_or(Duration::ZERO, |(delays, known)| delays.of(known.number, point))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each bit of the result depends on all of them.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_own_delays_and_always_the_same() {
        let points = [Point::Fork(1), Point::Fork(2), Point::Begin, Point::Exec(1), Point::End, Point::Wait(1)];
        let of = |seed| -> Vec<Duration> {
            let delays = Delays::new(CellId(seed), seed);
            (0..50).flat_map(|number| points.map(|point| delays.of(number, point))).collect()
        };
        assert_eq!(of(7), of(7));
        let (one, other) = (of(7), of(8));
        let held = |delays: &[Duration]| delays.iter().filter(|delay| !delay.is_zero()).count();
        assert!((120..230).contains(&held(&one)), "of 300: {}", held(&one));
        assert!(one.iter().zip(&other).all(|(one, other)| one != other || one.is_zero()));
        assert!(one.iter().all(|delay| *delay < LONGEST));
        let mean = one.iter().sum::<Duration>() / held(&one) as u32;
        assert!((800..1200).contains(&mean.as_micros()), "{mean:?}");
    }
}
