//! Connection files, right and wrong.
#![allow(missing_docs)]

use forklab_server::jupyter::{Connection, Transport};
use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "transport": "tcp", "ip": "127.0.0.1", "key": "very secret", "signature_scheme": "hmac-sha256",
        "shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 65535, "kernel_name": "forklab",
    })
}

fn read(text: &str) -> Result<Connection, String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("it can be written to");
    Connection::read(file.path()).map_err(|error| {
        let message = error.to_string();
        assert!(message.contains(file.path().to_str().expect("UTF-8")), "names the file: {message}");
        message
    })
}

#[test]
fn a_good_file_is_read() {
    let connection = read(&good().to_string()).expect("good");
    assert_eq!(connection.transport, Transport::Tcp);
    assert_eq!(connection.endpoint(connection.hb_port), "tcp://127.0.0.1:65535");
    assert_eq!(connection.key, b"very secret");
    assert!(!format!("{connection:?}").contains("secret"), "the key stays out of logs");
}

#[test]
fn what_has_a_default_may_be_missing_and_more_may_be_there() {
    let mut file = good();
    let object = file.as_object_mut().expect("an object");
    for key in ["transport", "ip", "signature_scheme", "kernel_name"] {
        object.remove(key);
    }
    object.insert("of_the_future".to_owned(), json!([1]));
    let connection = read(&file.to_string()).expect("good");
    assert_eq!(connection.endpoint(connection.shell_port), "tcp://127.0.0.1:1");
}

#[test]
fn addresses_are_written_as_zeromq_wants_them() {
    let mut file = good();
    file["ip"] = json!("::1");
    let connection = read(&file.to_string()).expect("good");
    assert_eq!(connection.endpoint(1), "tcp://[::1]:1");
    (file["transport"], file["ip"], file["hb_port"]) = (json!("ipc"), json!("/run/some where/s"), json!(70_000));
    let connection = read(&file.to_string()).expect("good");
    assert_eq!(connection.endpoint(connection.hb_port), "ipc:///run/some where/s-70000");
}

#[test]
fn a_wrong_file_is_refused_with_the_key_and_what_is_expected() {
    let wrong = [
        ("shell_port", json!(0), "from 1 to 65535"),
        ("iopub_port", json!(65536), "from 1 to 65535"),
        ("stdin_port", json!("5"), "from 1 to 65535"),
        ("control_port", json!(-1), "from 1 to 65535"),
        ("hb_port", json!(1.5), "from 1 to 65535"),
        ("hb_port", Value::Null, "from 1 to 65535"),
        ("transport", json!("udp"), "\"tcp\" or \"ipc\""),
        ("ip", json!(""), "an address"),
        ("ip", json!("127.0.0.1\0"), "an address"),
        ("key", json!(5), "a text"),
        ("signature_scheme", json!("hmac-md5"), "hmac-sha256"),
        ("curve_publickey", json!("short"), "curve"),
    ];
    for (key, value, expected) in wrong {
        let mut file = good();
        file[key] = value;
        let message = read(&file.to_string()).expect_err(key);
        let key = if key == "curve_publickey" { "curve_secretkey" } else { key };
        assert!(
            message.contains(&format!("`{key}`")) && (message.contains(expected) || key.starts_with("curve")),
            "{message}"
        );
        assert!(!message.contains("very secret"), "{message}");
    }
    for key in ["shell_port", "iopub_port", "stdin_port", "control_port", "hb_port", "key"] {
        let mut file = good();
        file.as_object_mut().expect("an object").remove(key);
        let message = read(&file.to_string()).expect_err(key);
        assert!(message.contains(&format!("lacks `{key}`")), "{message}");
    }
    for text in ["", "{", "[]", "null", "\u{0}"] {
        assert!(read(text).expect_err("not an object").contains("is not a JSON object"));
    }
    let missing = Connection::read(std::path::Path::new("/nowhere/at all.json")).expect_err("no such file").to_string();
    assert!(missing.contains("/nowhere/at all.json") && missing.contains("No such file"), "{missing}");
}
