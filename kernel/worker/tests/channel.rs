//! Frames of the channel between our processes, from a peer that says anything.
#![allow(missing_docs)]

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use forklab_sys::channel::{Channel, Heard, Unhurried};
use forklab_worker::messages::{FromSupervisor, ToSupervisor};
use proptest::collection::vec;
use proptest::prelude::*;

const MOST: usize = 1 << 16;

fn pair() -> (UnixStream, Unhurried<(), ToSupervisor>) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    (ours, Unhurried::new(theirs, MOST))
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes(), body].concat()
}

/// Everything that is heard until nothing is left.
fn all(channel: &mut Unhurried<(), ToSupervisor>) -> (Vec<ToSupervisor>, io::Result<()>) {
    let mut heard = Vec::new();
    loop {
        match channel.receive() {
            Ok(Heard::Value(received)) => heard.push(received.value),
            Ok(Heard::NotYet | Heard::Closed) => return (heard, Ok(())),
            Err(error) => return (heard, Err(error)),
        }
    }
}

/// What a value looks like, roughly.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..100),
        "[\\[\\]{}\":,a-zA-Z0-9 ]{0,60}".prop_map(String::into_bytes),
        prop_oneof![Just("\"Interrupt\""), Just("\"Shutdown\""), Just("{\"Input\":{\"text\":\"é\"}}")]
            .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_an_error_or_not_enough(bytes in vec(any::<u8>(), 0..300)) {
        let (mut writer, mut channel) = pair();
        writer.write_all(&bytes)?;
        let (_, end) = all(&mut channel);
        drop(writer);
        if end.is_ok() {
            let _ = all(&mut channel);
        }
    }

    #[test]
    fn any_frames_are_read_to_the_first_bad_one(bodies in vec(body(), 1..10)) {
        let (mut writer, mut channel) = pair();
        for body in &bodies {
            writer.write_all(&frame(body))?;
        }
        let good: Vec<ToSupervisor> = bodies.iter().map_while(|body| serde_json::from_slice(body).ok()).collect();
        let (heard, end) = all(&mut channel);
        prop_assert_eq!(end.is_ok(), good.len() == bodies.len());
        prop_assert_eq!(heard, good);
    }

    #[test]
    fn values_arrive_in_whatever_pieces_they_come(
        texts in vec(".{0,40}", 1..6), cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let values: Vec<ToSupervisor> = texts.into_iter().map(|text| ToSupervisor::Input { text }).collect();
        let bytes: Vec<u8> =
            values.iter().flat_map(|value| frame(&serde_json::to_vec(value).expect("it is plain"))).collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let (mut writer, mut channel) = pair();
        let (mut heard, mut begin) = (Vec::new(), 0);
        for end in ends {
            writer.write_all(&bytes[begin..end])?;
            begin = end;
            let (some, result) = all(&mut channel);
            result?;
            heard.extend(some);
        }
        prop_assert_eq!(heard, values);
        drop(writer);
        prop_assert!(matches!(channel.receive()?, Heard::Closed));
    }

    #[test]
    fn a_channel_that_waits_has_an_end_too(bytes in vec(any::<u8>(), 0..300)) {
        let (mut writer, theirs) = UnixStream::pair()?;
        let channel = Channel::<(), FromSupervisor>::new(theirs);
        writer.write_all(&bytes)?;
        drop(writer);
        while let Ok(Some(_)) = channel.receive() {}
    }
}

#[test]
fn a_frame_that_is_cut_off_is_an_error() -> io::Result<()> {
    for cut in 1..12 {
        let (mut writer, mut channel) = pair();
        writer.write_all(&frame(b"\"Interrupt\"")[..cut])?;
        assert!(matches!(channel.receive()?, Heard::NotYet), "{cut} bytes");
        drop(writer);
        let end = channel.receive().map(drop).map_err(|error| error.kind());
        assert_eq!(end, Err(io::ErrorKind::UnexpectedEof), "{cut} bytes");
    }
    Ok(())
}

#[test]
fn a_frame_that_is_announced_too_long_is_not_waited_for() -> io::Result<()> {
    let (mut writer, mut channel) = pair();
    writer.write_all(&(MOST as u32 + 1).to_le_bytes())?;
    let end = channel.receive().map(drop).map_err(|error| error.kind());
    assert_eq!(end, Err(io::ErrorKind::InvalidData));
    Ok(())
}
