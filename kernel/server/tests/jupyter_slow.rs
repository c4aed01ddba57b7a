//! Front ends that read slowly, or not at all: no output is lost to the slow, nobody waits for the
//! stopped, and memory stays bounded.
#![allow(missing_docs)]

mod client;

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::{Channel, Client, Message};
use forklab_server::jupyter::{Connection, FrontEnd};
use jupyter_protocol::messaging::{Status, StreamContent};

const LIMIT: Duration = Duration::from_secs(60);

/// Far more than all queues hold: who has published as much was not told to stop.
const FLOOD: usize = 512 << 20;

/// The length of one message's text.
const LENGTH: usize = 60_000;

struct Slow {
    front: FrontEnd,
    subscriber: Subscriber,
    connection_file: PathBuf,
    _directory: tempfile::TempDir,
}

/// Reads only when it is told to.
struct Subscriber {
    socket: zmq::Socket,
    key: Vec<u8>,
    _context: zmq::Context,
}

impl Subscriber {
    fn connect(connection: &Connection) -> Subscriber {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::SUB).expect("a socket");
        // It holds two messages itself, and the system's buffers some more.
        socket.set_rcvhwm(2).expect("the option is known");
        socket.set_rcvtimeo(60_000).expect("the option is known");
        socket.set_linger(0).expect("the option is known");
        socket.set_subscribe(b"").expect("a SUB subscribes");
        socket.connect(&connection.endpoint(connection.iopub_port)).expect("a good endpoint");
        let subscriber = Subscriber { socket, key: connection.key.clone(), _context: context };
        assert_eq!(subscriber.receive().msg_type(), "iopub_welcome");
        subscriber
    }

    fn receive(&self) -> Message {
        let frames = self.socket.recv_multipart(0).expect("a message before the limit");
        client::message(&self.key, Channel::Iopub, frames)
    }
}

impl Slow {
    fn start() -> Slow {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let connection_file = client::connection_file(directory.path());
        let connection = Connection::read(&connection_file).expect("a good file");
        let front = FrontEnd::bind(&connection).expect("free sockets");
        let subscriber = Subscriber::connect(&connection);
        Slow { front, subscriber, connection_file, _directory: directory }
    }

    /// Publishes numbered output as the main loop does, until there is no room. Returns how many.
    fn flood(&self) -> usize {
        let mut count = 0;
        while self.front.iopub_room() {
            self.publish(count);
            count += 1;
            assert!(count * LENGTH < FLOOD, "nobody said stop");
        }
        count
    }

    fn publish(&self, number: usize) {
        self.front.iopub(None, StreamContent::stdout(&format!("{number:0>LENGTH$}")));
    }

    /// Sleeps on the descriptor until there is room, as the main loop does. Returns how long that took.
    fn wait_for_room(&self) -> Duration {
        let begun = Instant::now();
        while !self.front.iopub_room() {
            let mut items = [zmq::PollItem::from_fd(self.front.as_fd().as_raw_fd(), zmq::POLLIN)];
            let woken = zmq::poll(&mut items, i64::try_from(LIMIT.as_millis()).expect("short"));
            assert_eq!(woken.expect("a descriptor can be polled"), 1, "woken in time");
            assert!(self.front.try_next().is_none());
        }
        begun.elapsed()
    }
}

fn number(message: &Message) -> usize {
    let text = message.content["text"].as_str().unwrap_or_else(|| panic!("not a stream: {}", message.header));
    assert_eq!(text.len(), LENGTH);
    text.parse().expect("it is a number")
}

/// This process's memory in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
    line.split_whitespace().nth(1).and_then(|size| size.parse::<usize>().ok()).expect("a number") << 10
}

#[test]
fn a_slow_front_end_gets_everything_and_the_writers_wait() {
    let slow = Slow::start();
    let before = resident();
    let count = slow.flood();
    assert!(count * LENGTH > 16 << 20, "there is room for some megabytes: {count}");
    assert!(slow.front.iopub_waiting() < 40 << 20);
    let grown = resident().saturating_sub(before);
    // Both tests of this program and both ends of the sockets are in it.
    assert!(grown < 256 << 20, "memory is bounded: {grown}");
    for expected in 0..count {
        assert_eq!(number(&slow.subscriber.receive()), expected, "nothing is lost, nothing overtakes");
    }
    slow.wait_for_room();
    slow.front.iopub(None, Status::idle());
    assert!(slow.subscriber.receive().is_status("idle"));
}

#[test]
fn a_stopped_front_end_holds_nobody_up_and_is_back_when_it_goes_on() {
    let slow = Slow::start();
    let count = slow.flood();
    let waited = slow.wait_for_room();
    assert!(waited > Duration::from_secs(5), "it was given time: {waited:?}");
    // From here on, a front end that reads gets everything although the other one still sleeps.
    let mut client = Client::connect(&slow.connection_file);
    let marker = |state: &str| slow.front.iopub(None, Status::other(state));
    marker("between");
    client.wait_for("the marker", |message| message.is_status("between"));
    for further in 0..50 {
        slow.publish(count + further);
    }
    marker("end");
    let mut expected = count;
    loop {
        let message = client.wait_for("output", |message| message.channel == Channel::Iopub);
        match message.msg_type() {
            "stream" if number(&message) < count => {}
            "stream" => {
                assert_eq!(number(&message), expected);
                expected += 1;
            }
            _ if message.is_status("end") => break,
            _ => {}
        }
    }
    assert_eq!(expected, count + 50, "the one that reads has everything");
    // The one that slept has an unbroken beginning, and when it goes on it is soon told everything again.
    let mut seen = Vec::new();
    let begun = Instant::now();
    let mut back = false;
    while !back {
        assert!(begun.elapsed() < LIMIT, "it is not back");
        marker("again");
        while slow.subscriber.socket.poll(zmq::POLLIN, 10).expect("a socket can be polled") > 0 {
            let message = slow.subscriber.receive();
            match message.msg_type() {
                "stream" => seen.push(number(&message)),
                _ => back |= message.is_status("again"),
            }
        }
    }
    assert!(seen.len() > 50 && seen.len() < count, "{} of {count}", seen.len());
    assert!(seen.iter().copied().eq(0..seen.len()), "nothing overtakes, and nothing is missing before the gap");
    for further in 0..200 {
        slow.publish(further);
        let stream = loop {
            let message = slow.subscriber.receive();
            if !message.is_status("again") {
                break message;
            }
        };
        assert_eq!(number(&stream), further);
    }
}

#[test]
fn a_front_end_that_has_gone_does_not_count() {
    let slow = Slow::start();
    slow.flood();
    let Slow { front, subscriber, .. } = slow;
    drop(subscriber);
    let begun = Instant::now();
    while !front.iopub_room() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the gone are forgotten at once");
        let mut items = [zmq::PollItem::from_fd(front.as_fd().as_raw_fd(), zmq::POLLIN)];
        zmq::poll(&mut items, 5000).expect("a descriptor can be polled");
        assert!(front.try_next().is_none());
    }
}

#[test]
fn closing_does_not_wait_for_the_stopped() {
    let slow = Slow::start();
    slow.flood();
    let begun = Instant::now();
    slow.front.close();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}
