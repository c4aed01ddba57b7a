//! What comes in from outside is arbitrary: the decoder neither panics nor takes what is not signed.

use jupyter_protocol::messaging::StreamContent;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Number;

use super::*;

const KEY: &[u8] = b"the key";

/// The types of every request that a front end may send, and of some that it may not.
const TYPES: [&str; 18] = [
    "execute_request",
    "complete_request",
    "inspect_request",
    "history_request",
    "is_complete_request",
    "kernel_info_request",
    "connect_request",
    "comm_info_request",
    "comm_open",
    "comm_msg",
    "comm_close",
    "shutdown_request",
    "interrupt_request",
    "debug_request",
    "input_reply",
    "execute_reply",
    "stream",
    "unheard_of_request",
];

/// The names that the contents of those messages have.
const NAMES: [&str; 24] = [
    "code",
    "silent",
    "store_history",
    "user_expressions",
    "allow_stdin",
    "stop_on_error",
    "cursor_pos",
    "detail_level",
    "hist_access_type",
    "output",
    "raw",
    "session",
    "start",
    "stop",
    "n",
    "pattern",
    "unique",
    "restart",
    "comm_id",
    "target_name",
    "data",
    "value",
    "name",
    "text",
];

fn wire() -> Wire {
    Wire::new(KEY)
}

fn frames(parts: [Vec<u8>; 4]) -> Vec<Vec<u8>> {
    let mut frames = vec![b"identity".to_vec(), DELIMITER.to_vec(), wire().sign(&parts)];
    frames.extend(parts);
    frames
}

fn good(msg_type: &str, content: &Value) -> Vec<Vec<u8>> {
    let header = json!({ "msg_id": uuid::Uuid::new_v4().to_string(), "msg_type": msg_type });
    frames([header.to_string(), "{}".to_owned(), "{}".to_owned(), content.to_string()].map(String::into_bytes))
}

fn channel() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Shell), Just(Channel::Control), Just(Channel::Stdin)]
}

/// A frame: anything, with what a message is made of among it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..200),
        Just(DELIMITER.to_vec()),
        Just(b"{}".to_vec()),
        json().prop_map(|value| value.to_string().into_bytes()),
        any::<[u8; 32]>().prop_map(|bytes| hex::encode(bytes).into_bytes()),
    ]
}

/// Any JSON value, numbers of every size among it, and names that mean something.
fn json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        // Fractions that no parser rounds.
        any::<i32>().prop_filter_map("JSON has no such number", |eighths| Number::from_f64(f64::from(eighths) / 8.0)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number.prop_map(Value::Number),
        ".{0,20}".prop_map(Value::String),
    ];
    let name = prop_oneof![proptest::sample::select(&NAMES[..]).prop_map(str::to_owned), ".{0,8}"];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::Array),
            vec((name.clone(), inner), 0..8).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    let name = prop_oneof![proptest::sample::select(&NAMES[..]).prop_map(str::to_owned), ".{0,8}"];
    vec((name, json()), 0..10).prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

proptest! {
    // What fails is to be found in the test's output and not in the tree.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_without_a_signature_are_refused(frames in vec(frame(), 0..12), channel in channel()) {
        prop_assert!(wire().unpack(channel, frames).is_err());
    }

    #[test]
    fn frames_are_refused_or_taken_without_a_key(frames in vec(frame(), 0..12), channel in channel()) {
        let Ok(incoming) = Wire::new(b"").unpack(channel, frames) else { return Ok(()) };
        let header: Result<Value, _> = serde_json::from_slice(incoming.origin.header());
        prop_assert!(header.is_ok_and(|header| header["msg_id"] == incoming.origin.msg_id()));
    }

    #[test]
    fn signed_parts_of_any_bytes_are_refused_or_taken(parts in [frame(), frame(), frame(), frame()]) {
        let objects = parts.iter().all(|part| matches!(serde_json::from_slice(part), Ok(Value::Object(_))));
        let taken = wire().unpack(Channel::Shell, frames(parts));
        prop_assert!(objects || taken.is_err());
    }

    #[test]
    fn a_signed_message_is_taken_whatever_its_content(
        msg_type in prop_oneof![proptest::sample::select(&TYPES[..]).prop_map(str::to_owned), ".{0,12}"],
        content in object(),
    ) {
        let incoming = wire().unpack(Channel::Shell, good(&msg_type, &content)).expect("it is signed");
        prop_assert_eq!(&incoming.header.msg_type, &msg_type);
        prop_assert_eq!(incoming.origin.identities(), [b"identity".to_vec()]);
        // What does not fit its type comes as it is, with the reason.
        if incoming.misfit.is_some() {
            let JupyterMessageContent::UnknownMessage(unknown) = incoming.content else {
                panic!("{:?}", incoming.content)
            };
            for (key, value) in content.as_object().expect("it is one").iter().filter(|(_, value)| !value.is_null()) {
                prop_assert_eq!(&unknown.content[key], value);
            }
        }
    }

    #[test]
    fn a_changed_message_is_refused(
        content in object(), part in 2..7usize, at in any::<prop::sample::Index>(), bit in 0..8u32,
    ) {
        let mut frames = good("execute_request", &content);
        let at = at.index(frames[part].len());
        frames[part][at] ^= 1 << bit;
        // A letter of the signature may change between lower and upper case, which is the same number.
        let same = part == 2 && bit == 5 && frames[part][at].is_ascii_alphabetic();
        prop_assert_eq!(wire().unpack(Channel::Shell, frames).is_ok(), same);
    }

    #[test]
    fn a_message_that_is_cut_is_refused(content in object(), part in 2..7usize, at in any::<prop::sample::Index>()) {
        let frames = good("execute_request", &content);
        let mut shorter = frames.clone();
        let end = at.index(shorter[part].len());
        shorter[part].truncate(end);
        prop_assert!(wire().unpack(Channel::Shell, shorter).is_err());
        prop_assert!(wire().unpack(Channel::Shell, frames[..part].to_vec()).is_err());
    }

    #[test]
    fn another_key_is_refused(content in object(), key in vec(any::<u8>(), 1..40)) {
        prop_assume!(key != KEY);
        prop_assert!(Wire::new(&key).unpack(Channel::Shell, good("execute_request", &content)).is_err());
    }

    #[test]
    fn a_message_comes_once(content in object(), first in channel(), second in channel()) {
        let (wire, frames) = (wire(), good("execute_request", &content));
        prop_assert!(wire.unpack(first, frames.clone()).is_ok());
        prop_assert!(matches!(wire.unpack(second, frames.clone()), Err(Malformed::Replayed)));
        let mut louder = frames;
        louder[2].make_ascii_uppercase();
        prop_assert!(matches!(wire.unpack(second, louder), Err(Malformed::Replayed)));
    }

    #[test]
    fn text_arrives_as_it_was_sent(text in any::<String>()) {
        let (frames, msg_id) = wire().pack(&[b"topic".to_vec()], None, StreamContent::stdout(&text).into());
        let incoming = wire().unpack(Channel::Stdin, frames).expect("we have signed it");
        prop_assert_eq!(incoming.header.msg_id, msg_id);
        let JupyterMessageContent::StreamContent(stream) = incoming.content else { panic!("{:?}", incoming.content) };
        prop_assert_eq!(stream.text, text);
    }
}

/// A signed message with this text as its content.
fn with_content(content: &[u8]) -> Result<Incoming, Malformed> {
    let header = br#"{"msg_id":"a","msg_type":"execute_request"}"#.to_vec();
    wire().unpack(Channel::Shell, frames([header, b"{}".to_vec(), b"{}".to_vec(), content.to_vec()]))
}

#[test]
fn nesting_and_numbers_have_no_end_and_do_no_harm() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [100, 1_000, 1_000_000] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let taken = with_content(format!("{{\"code\":\"\",\"user_expressions\":{value}}}").as_bytes());
            assert_eq!(taken.is_ok(), depth == 100, "{depth} times {open}");
            assert!(with_content(open.repeat(depth).as_bytes()).is_err());
        }
    }
    let digits = "9".repeat(100_000);
    for number in ["1e400", "-1e400", "1e-400", "18446744073709551616", "-9223372036854775809", &digits] {
        if let Ok(incoming) = with_content(format!("{{\"code\":\"\",\"silent\":{number}}}").as_bytes()) {
            assert!(incoming.misfit.is_some(), "{number}");
        }
    }
}

#[test]
fn text_that_is_no_utf8_is_refused() {
    for content in [&b"{\"code\":\"\xff\"}"[..], b"{\"code\":\"\xc3\"}", b"\xef\xbb\xbf{}", b"{\"code\":\"\\ud800\"}"] {
        assert!(with_content(content).is_err(), "{content:?}");
    }
}

#[test]
fn the_memory_of_messages_has_an_end() {
    let mut seen = Seen::default();
    let signature = |number: usize| number.to_le_bytes().to_vec();
    assert!((0..3 * REMEMBERED).all(|number| seen.is_new(signature(number))));
    assert_eq!((seen.all.len(), seen.in_order.len()), (REMEMBERED, REMEMBERED));
    assert!(!seen.is_new(signature(2 * REMEMBERED)), "the oldest that is remembered");
    assert!(seen.is_new(signature(0)), "forgotten long ago");
}
