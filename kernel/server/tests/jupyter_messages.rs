//! Messages between a front end and the kernel's sockets: what is taken, what is dropped, what comes back.
#![allow(missing_docs)]

mod client;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use client::{Channel, Client, Message, Options};
use forklab_server::jupyter::{self, Connection, FrontEnd, Incoming, kernel_info};
use jupyter_protocol::messaging::{
    ExecuteReply, ExecuteResult, JupyterMessageContent, Status, Stdio, StreamContent, UnknownMessage,
};
use serde_json::{Value, json};

struct Pair {
    front: FrontEnd,
    client: Client,
    _directory: tempfile::TempDir,
}

fn pair() -> Pair {
    pair_with(|_| {})
}

fn pair_with(change: impl FnOnce(&mut Value)) -> Pair {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = client::connection_file(directory.path());
    let mut content: Value = serde_json::from_slice(&std::fs::read(&path).expect("it was just written")).expect("JSON");
    change(&mut content);
    std::fs::write(&path, content.to_string()).expect("the test's directory can be written to");
    let front = FrontEnd::bind(&Connection::read(&path).expect("a good file")).expect("free sockets");
    let mut client = Client::connect(&path);
    client.deadline = Duration::from_secs(20);
    Pair { front, client, _directory: directory }
}

/// Sleeps on the front end's descriptor, as the main loop does.
fn next(front: &FrontEnd) -> Incoming {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(incoming) = front.try_next() {
            return incoming;
        }
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no message has come in");
        sleep_on(front, left);
    }
}

fn sleep_on(front: &FrontEnd, limit: Duration) {
    let fd = std::os::fd::AsFd::as_fd(front).as_raw_fd();
    let mut items = [zmq::PollItem::from_fd(fd, zmq::POLLIN)];
    zmq::poll(&mut items, i64::try_from(limit.as_millis()).expect("short") + 1).expect("a descriptor can be polled");
}

#[test]
fn a_request_arrives_whole_and_its_reply_names_it() {
    let Pair { front, mut client, _directory } = pair();
    let mut header = client.header("execute_request");
    header["subshell_id"] = Value::Null;
    header["of_the_future"] = json!({ "kept": [1, 2.5, "ñ"] });
    let text = header.to_string();
    let content = json!({ "code": "let ñ = 1;", "silent": true, "store_history": false, "user_expressions": { "a": "b" },
        "allow_stdin": true, "stop_on_error": false });
    let parts =
        [text.clone(), "{}".into(), json!({ "cellId": "c1" }).to_string(), content.to_string()].map(String::into_bytes);
    let mut frames = client.signed(&parts);
    frames.push(vec![0, 255]);
    client.send_frames(Channel::Shell, &frames);

    let incoming = next(&front);
    assert_eq!(incoming.channel, jupyter::Channel::Shell);
    assert_eq!(incoming.origin.header(), text.as_bytes());
    assert_eq!(incoming.metadata["cellId"], "c1");
    assert_eq!(incoming.buffers, [vec![0, 255]]);
    assert_eq!(incoming.origin.identities(), [client.session.as_bytes()]);
    let JupyterMessageContent::ExecuteRequest(request) = &incoming.content else { panic!("its type") };
    assert_eq!(request.code, "let ñ = 1;");
    assert!(request.silent && !request.store_history && request.allow_stdin && !request.stop_on_error);

    front.busy(&incoming.origin);
    front.reply(&incoming.origin, ExecuteReply::default());
    let reply = client.wait_for("the reply", |message| message.channel == Channel::Shell);
    assert_eq!((reply.msg_type(), &reply.parent), ("execute_reply", &header));
    assert_eq!(reply.content["user_expressions"], json!({}));
    let busy = client.wait_for("busy", |message| message.is_status("busy"));
    assert_eq!(busy.parent, header);
    assert_eq!(busy.routing, [format!("kernel.{}.status", front.session()).into_bytes()]);
    for message in [&reply, &busy] {
        assert_header(message, &front);
    }
    assert_ne!(reply.header["msg_id"], busy.header["msg_id"]);
}

fn assert_header(message: &Message, front: &FrontEnd) {
    let header = &message.header;
    assert_eq!(header["version"], "5.5");
    assert_eq!(header["session"], front.session());
    assert!(header["username"].is_string());
    // jupyter_client takes at most six decimals for a date.
    let date = header["date"].as_str().expect("a text");
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999999Z");
}

#[test]
fn what_is_not_a_signed_message_is_dropped_and_the_next_one_is_answered() {
    let Pair { front, client, _directory } = pair();
    let header = client.header("kernel_info_request").to_string();
    let good = [header.as_str(), "{}", "{}", "{}"].map(|part| part.as_bytes().to_vec());
    let frames = client.signed(&good);
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut frames = frames.clone();
        change(&mut frames);
        frames
    };
    let part = |index: usize, text: &str| {
        let mut parts = good.clone();
        parts[index] = text.as_bytes().to_vec();
        client.signed(&parts)
    };
    let bad: Vec<Vec<Vec<u8>>> = vec![
        vec![vec![]],
        vec![b"noise".to_vec()],
        vec![b"<IDS|MSG>".to_vec()],
        frames[1..].to_vec(),
        with(&|frames| frames.truncate(5)),
        with(&|frames| frames[1] = b"0".repeat(64)),
        with(&|frames| frames[1] = Vec::new()),
        with(&|frames| frames[1] = b"not hex".to_vec()),
        with(&|frames| frames[1].truncate(32)),
        with(&|frames| frames[5] = b"{\"changed\":true}".to_vec()),
        with(&|frames| frames[1] = client::signature(b"another key", &good)),
        part(0, "{"),
        part(0, "[]"),
        part(0, "{\"msg_id\": \"a\"}"),
        part(0, "{\"msg_type\": \"execute_request\"}"),
        part(0, "{\"msg_id\": 1, \"msg_type\": \"execute_request\"}"),
        part(1, "null"),
        part(2, "\u{7f}"),
        part(3, "\"text\""),
        part(3, &"[".repeat(100_000)),
        vec![vec![b'x'; 8 << 20]],
        vec![vec![b'y'; 10]; 5000],
    ];
    for channel in [Channel::Shell, Channel::Control, Channel::Stdin] {
        for frames in &bad {
            client.send_frames(channel, frames);
        }
        let id = client.send(channel, "kernel_info_request", json!({}));
        assert_eq!(next(&front).header.msg_id, id, "nothing before it got through on {channel:?}");
    }
    assert!(front.try_next().is_none());
}

#[test]
fn without_a_key_nothing_is_signed() {
    let Pair { front, mut client, _directory } = pair_with(|file| file["key"] = json!(""));
    client.send(Channel::Shell, "kernel_info_request", json!({}));
    front.reply(&next(&front).origin, kernel_info("1.95.0"));
    let reply = client.wait_for("the reply", |message| message.channel == Channel::Shell);
    assert_eq!(reply.msg_type(), "kernel_info_reply");
}

#[test]
fn tcp_works_too() {
    // Ports that nobody has now; if somebody takes one meanwhile, other ones are tried.
    for _ in 0..20 {
        let listeners = [0; 5].map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = listeners.map(|listener| listener.local_addr().expect("it is bound").port());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("connection.json");
        let [shell, iopub, stdin, control, hb] = ports;
        let content = json!({ "transport": "tcp", "ip": "127.0.0.1", "key": "k", "shell_port": shell, "iopub_port": iopub,
            "stdin_port": stdin, "control_port": control, "hb_port": hb, "signature_scheme": "hmac-sha256" });
        std::fs::write(&path, content.to_string()).expect("the directory can be written to");
        let connection = Connection::read(&path).expect("a good file");
        let Ok(front) = FrontEnd::bind(&connection) else { continue };
        let error = FrontEnd::bind(&connection).err().expect("the ports are taken").to_string();
        assert!(error.contains(&format!("tcp://127.0.0.1:{shell}")) && error.contains("shell"), "{error}");
        let mut client = Client::connect(&path);
        assert!(client.heart_beats());
        client.send(Channel::Control, "interrupt_request", json!({}));
        front.reply(&next(&front).origin, kernel_info("1.95.0"));
        client.wait_for("the reply", |message| message.channel == Channel::Control);
        return;
    }
    panic!("no free ports in twenty attempts");
}

#[test]
fn sockets_are_encrypted_when_the_file_has_keys() {
    if zmq::has("curve") != Some(true) {
        return;
    }
    let (kernel, own) = (curve_keys(), curve_keys());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = client::connection_file(directory.path());
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).expect("it was just written")).expect("JSON");
    file["curve_publickey"] = json!(zmq::z85_encode(&kernel.public_key).expect("32 bytes"));
    file["curve_secretkey"] = json!(zmq::z85_encode(&kernel.secret_key).expect("32 bytes"));
    std::fs::write(&path, file.to_string()).expect("the directory can be written to");
    let connection = Connection::read(&path).expect("a good file");
    let front = FrontEnd::bind(&connection).expect("free sockets");
    let context = zmq::Context::new();
    let socket = context.socket(zmq::REQ).expect("a socket");
    socket.set_linger(0).expect("the option is known");
    socket.set_rcvtimeo(20_000).expect("the option is known");
    socket.set_curve_serverkey(&kernel.public_key).expect("a key");
    socket.set_curve_publickey(&own.public_key).expect("a key");
    socket.set_curve_secretkey(&own.secret_key).expect("a key");
    socket.connect(&connection.endpoint(connection.hb_port)).expect("a good endpoint");
    socket.send("ping", 0).expect("a REQ sends");
    assert_eq!(socket.recv_bytes(0).expect("an echo"), b"ping");
    assert_eq!(socket.get_mechanism(), Ok(zmq::Mechanism::ZMQ_CURVE));
    drop(front);
}

fn curve_keys() -> zmq::CurveKeyPair {
    zmq::CurveKeyPair::new().expect("this ZeroMQ has CURVE")
}

#[test]
fn the_heart_beats_though_nobody_reads_messages() {
    let Pair { front, client, _directory } = pair();
    for _ in 0..100 {
        client.send(Channel::Shell, "kernel_info_request", json!({}));
        assert!(client.heart_beats());
    }
    drop(front);
}

#[test]
fn each_subscription_is_welcomed_on_its_topic() {
    let Pair { front, mut client, _directory } = pair();
    let endpoint = format!("ipc://{}-2", _directory.path().join("s").display());
    for topic in ["", "", "kernel.", "etwas"] {
        let socket = client.context.socket(zmq::SUB).expect("a socket");
        socket.set_rcvtimeo(20_000).expect("the option is known");
        socket.set_subscribe(topic.as_bytes()).expect("a SUB subscribes");
        socket.connect(&endpoint).expect("a good endpoint");
        let frames = socket.recv_multipart(0).expect("a welcome");
        let welcome = client::message(&client.key, Channel::Iopub, frames);
        assert_eq!(welcome.routing, [topic.as_bytes()]);
        assert_eq!((welcome.msg_type(), &welcome.content), ("iopub_welcome", &json!({ "subscription": topic })));
        assert_eq!(welcome.parent, json!({}));
        assert_header(&welcome, &front);
    }
    assert!(client.take_waiting().is_empty());
}

#[test]
fn messages_are_published_in_order_and_long_text_in_pieces() {
    let Pair { front, mut client, _directory } = pair();
    for number in 0..5000 {
        match number % 50 {
            0 => front.iopub(None, Status::idle()),
            _ => front.iopub(None, StreamContent::stdout(&format!("{number}\n"))),
        }
    }
    for number in 0..5000 {
        let message = client.wait_for("the next message", |message| message.channel == Channel::Iopub);
        match number % 50 {
            0 => assert!(message.is_status("idle")),
            _ => assert_eq!(message.content, json!({ "name": "stdout", "text": format!("{number}\n") })),
        }
    }
    let long = "añ€😀".repeat(200_000);
    front.stream(None, Stdio::Stderr, &long);
    front.stream(None, Stdio::Stderr, "");
    front.iopub(None, Status::idle());
    let mut text = String::new();
    loop {
        let message = client.wait_for("the pieces", |message| message.channel == Channel::Iopub);
        if message.is_status("idle") {
            break;
        }
        assert_eq!(message.content["name"], "stderr");
        let piece = message.content["text"].as_str().expect("a text");
        assert!(!piece.is_empty() && piece.len() <= 256 << 10);
        text.push_str(piece);
    }
    assert!(text == long, "the pieces are the text");
}

#[test]
fn questions_reach_who_asked_and_answers_find_their_question() {
    let Pair { front, mut client, _directory } = pair();
    client.send(Channel::Shell, "execute_request", json!({ "code": "input()", "allow_stdin": true }));
    let cell = next(&front);
    let mut ask = |prompt: &str| {
        front.request_input(&cell.origin, prompt, false);
        client.wait_for("the question", |message| message.channel == Channel::Stdin)
    };
    let (first, second) = (ask("¿quién? "), ask("¿y quién más? "));
    assert_eq!(first.content, json!({ "prompt": "¿quién? ", "password": false }));
    assert_eq!(first.parent_id(), cell.header.msg_id);
    let answered = |parent: Value| {
        client.send_with_parent(Channel::Stdin, "input_reply", parent, json!({ "value": "yo" }));
        let answer = next(&front);
        assert!(matches!(&answer.content, JupyterMessageContent::InputReply(reply) if reply.value == "yo"));
        answer.answers(&cell.origin)
    };
    assert!(!answered(first.header), "the first question is no longer open");
    assert!(answered(second.header), "as JupyterLab answers");
    assert!(answered(second.parent), "as others answer");
    assert!(answered(json!({})), "as jupyter_client answers");
    assert!(!answered(json!({ "msg_id": "an-earlier-cells" })));
}

#[test]
fn requests_that_leave_out_what_has_a_default_are_understood() {
    let Pair { front, client, _directory } = pair();
    for (msg_type, content) in [
        ("execute_request", json!({ "code": "1" })),
        ("execute_request", json!({ "code": "1", "user_expressions": null, "silent": true })),
        // As jupyter_client's history() without arguments.
        (
            "history_request",
            json!({ "raw": true, "output": false, "hist_access_type": "range", "session": 0, "start": 0 }),
        ),
        ("history_request", json!({ "raw": true, "output": false, "hist_access_type": "tail", "n": 5 })),
        ("history_request", json!({})),
        ("inspect_request", json!({ "code": "a", "cursor_pos": 1 })),
        ("shutdown_request", json!({})),
        ("comm_info_request", json!({})),
        ("comm_open", json!({ "comm_id": "c", "target_name": "t" })),
        ("kernel_info_request", json!({ "unexpected": 1 })),
    ] {
        client.send(Channel::Shell, msg_type, content.clone());
        let incoming = next(&front);
        assert_eq!(incoming.misfit, None, "{msg_type} {content}");
        assert_eq!(incoming.content.message_type(), msg_type);
        if let JupyterMessageContent::ExecuteRequest(request) = &incoming.content {
            assert_eq!((request.store_history, request.stop_on_error), (!request.silent, true));
        }
    }
    for (msg_type, content, fits) in [
        ("execute_request", json!({ "code": 7 }), false),
        ("complete_request", json!({}), false),
        ("unheard_of_request", json!({ "a": 1 }), true),
    ] {
        client.send(Channel::Shell, msg_type, content.clone());
        let incoming = next(&front);
        assert_eq!((incoming.header.msg_type.as_str(), incoming.misfit.is_none()), (msg_type, fits));
        let JupyterMessageContent::UnknownMessage(unknown) = &incoming.content else {
            panic!("{:?}", incoming.content)
        };
        for (key, value) in content.as_object().expect("an object") {
            assert_eq!(&unknown.content[key], value);
        }
    }
}

#[test]
fn contents_are_as_the_specification_wants_them() {
    let Pair { front, mut client, _directory } = pair();
    client.send(Channel::Shell, "kernel_info_request", json!({}));
    let request = next(&front);
    front.reply(&request.origin, kernel_info("1.95.0"));
    let info = client.wait_for("the reply", |message| message.channel == Channel::Shell).content;
    assert_eq!(info["status"], "ok");
    assert_eq!(info["protocol_version"], "5.5");
    assert_eq!(info["implementation"], "forklab");
    assert_eq!((&info["language_info"]["name"], &info["language_info"]["version"]), (&json!("rust"), &json!("1.95.0")));
    assert_eq!(info["language_info"]["file_extension"], ".rs");
    assert_eq!(info["supported_features"], json!([]));
    assert!(info["banner"].is_string() && info["help_links"].is_array());
    front.iopub(None, ExecuteResult::default());
    let result = client.wait_for("the result", |message| message.msg_type() == "execute_result");
    assert_eq!(result.content, json!({ "execution_count": 0, "data": {}, "metadata": {} }));
    front.iopub(None, UnknownMessage { msg_type: "raw".to_owned(), content: json!({ "as": "it is" }) });
    assert_eq!(client.wait_for("raw", |message| message.msg_type() == "raw").content, json!({ "as": "it is" }));
    front.iopub(None, UnknownMessage { msg_type: "empty".to_owned(), content: Value::Null });
    assert_eq!(client.wait_for("empty", |message| message.msg_type() == "empty").content, json!({}));
}

#[test]
fn closing_delivers_what_was_sent_before() {
    let Pair { front, mut client, _directory } = pair();
    client.send(Channel::Control, "shutdown_request", json!({ "restart": false }));
    let request = next(&front);
    for _ in 0..200 {
        front.stream(Some(&request.origin), Stdio::Stdout, "last words\n");
    }
    front.reply(&request.origin, ExecuteReply::default());
    front.idle(&request.origin);
    let begun = Instant::now();
    front.close();
    assert!(begun.elapsed() < Duration::from_secs(5));
    client.wait_for("the reply", |message| message.channel == Channel::Control);
    client.wait_for("idle", |message| message.is_status("idle"));
    let streams = client.take_waiting().iter().filter(|message| message.msg_type() == "stream").count();
    assert_eq!(streams, 200);
}

/// Of a process, what its memory has been at most, in bytes: `VmHWM` of proc_pid_status(5).
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has one");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn a_hundred_megabytes_of_code_cost_an_error_and_nothing_else() {
    const SIZE: usize = 100 << 20;
    let mut kernel = client::start();
    assert_eq!(kernel.client.execute("let kept = 5; kept").result(), Some("5"));
    let engines = client::children(kernel.process.id(), "engine");
    let before: Vec<u64> = engines.iter().map(|pid| most_memory(*pid)).collect();
    let begun = Instant::now();
    for code in ["é".repeat(SIZE / 2), format!("kept // {}", "x".repeat(SIZE))] {
        let run = kernel.client.execute(&code);
        assert_eq!(run.error()["ename"], "CellTooLong");
        assert!(kernel.client.heart_beats());
        let content = json!({ "code": code, "cursor_pos": 3 });
        let reply = kernel.client.request(Channel::Shell, "complete_request", content.clone()).content;
        assert_eq!((&reply["status"], &reply["matches"]), (&json!("ok"), &json!([])));
        let reply = kernel.client.request(Channel::Shell, "is_complete_request", content).content;
        assert!(reply["status"].is_string());
    }
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
    assert_eq!(kernel.client.execute("kept + 1").result(), Some("6"));
    // Of the longest message: its frame, what is read from it, and copies.
    assert!(most_memory(kernel.process.id()) < 10 * SIZE as u64, "{}", most_memory(kernel.process.id()));
    for (engine, before) in engines.iter().zip(before) {
        assert!(most_memory(*engine) < before + SIZE as u64, "the compiler has not had them");
    }
    assert!(kernel.shut_down().success());
}

#[test]
fn a_long_cell_that_is_no_rust_has_a_short_error() {
    let mut kernel = client::start();
    let run = kernel.client.execute(&"x".repeat(500_000));
    let error = run.error();
    assert_eq!(error["ename"], "CompileError");
    assert!(error.to_string().len() < 200_000, "{}", error.to_string().len());
    assert_eq!(kernel.client.execute("1 + 1").result(), Some("2"));
    assert!(kernel.shut_down().success());
}

#[test]
fn a_kernel_does_not_mind_what_is_no_message() {
    let mut kernel = client::start();
    let client = &mut kernel.client;
    assert_eq!(client.execute("let mut count = 0;").status(), "ok");
    let header = |client: &Client, kind: &str| client.header(kind).to_string().into_bytes();
    let part = |text: &str| text.as_bytes().to_vec();
    let code = part("{\"code\":\"count += 1;\"}");
    let header_of_cell = header(client, "execute_request");
    let id: Value = serde_json::from_slice(&header_of_cell).expect("we made it");
    let id = id["msg_id"].as_str().expect("we made it").to_owned();
    let cell = client.signed(&[header_of_cell, part("{}"), part("{}"), code.clone()]);
    client.send_frames(Channel::Shell, &cell);
    client.finish(&id, &Options::default());
    let no_text = [header(client, "execute_request"), part("{}"), part("{}"), b"{\"code\":\"\xff\xc3\"}".to_vec()];
    // The cell once more, to the byte; and others.
    let mut bad: Vec<Vec<Vec<u8>>> = vec![cell, client.signed(&no_text)];
    let deep = format!("{{\"code\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    bad.push(client.signed(&[header(client, "execute_request"), part("{}"), part("{}"), deep.into_bytes()]));
    let fresh = client.signed(&[header(client, "execute_request"), part("{}"), part("{}"), code.clone()]);
    // Cut off behind each of its frames, and behind the half of each.
    bad.extend((1..fresh.len()).map(|count| fresh[..count].to_vec()));
    bad.extend((0..fresh.len()).map(|at| {
        let mut frames = fresh.clone();
        frames[at].truncate(fresh[at].len() / 2);
        frames
    }));
    bad.push(vec![b"part".to_vec(); 1000]);
    bad.push(vec![b"<IDS|MSG>".to_vec(); 1000]);
    for channel in [Channel::Shell, Channel::Control, Channel::Stdin] {
        for frames in &bad {
            client.send_frames(channel, frames);
        }
    }
    for kind in ["execute_reply", "stream", "", "\u{0}", "shutdown_reply", "kernel_info_request_request"] {
        client.send(Channel::Shell, kind, json!({ "code": "count += 1;", "restart": false }));
    }
    // A message with a thousand buffers is one.
    let header_of_many = header(client, "kernel_info_request");
    let mut many = client.signed(&[header_of_many, part("{}"), part("{}"), part("{}")]);
    many.extend(vec![b"buffer".to_vec(); 1000]);
    client.send_frames(Channel::Control, &many);
    client.wait_for("the reply", |message| message.msg_type() == "kernel_info_reply");
    assert!(client.heart_beats());
    assert_eq!(client.execute("count").result(), Some("1"), "the cell has run once");
    assert!(kernel.shut_down().success());
}
