//! Cells through the real binary, asked as a front end asks: what is published, in which order, and
//! what is there afterwards. One kernel a test; they share one prepared build directory.

mod client;

use client::{Channel, Options, start};
use serde_json::json;

#[test]
fn kernel_info_is_answered_while_the_engine_starts() {
    let mut kernel = start();
    for channel in [Channel::Shell, Channel::Control] {
        let info = kernel.client.kernel_info(channel).content;
        assert_eq!(info["language_info"]["name"], "rust");
        assert_eq!(info["protocol_version"], "5.5");
    }
    assert!(kernel.shut_down().success());
}

#[test]
fn messages_come_in_the_specifications_order_and_counts_begin_with_one() {
    let mut kernel = start();
    let run = kernel.client.execute("println!(\"out\"); 6 * 7");
    assert_eq!(run.types(), ["status", "execute_input", "stream", "execute_result", "status"]);
    assert_eq!(run.reply.content["execution_count"], 1);
    assert_eq!(run.of_type("execute_result")[0].content["execution_count"], 1);
    assert_eq!((run.stdout().as_str(), run.result(), run.stderr().as_str()), ("out\n", Some("42"), ""));
    let silent = Options { silent: true, ..Options::default() };
    let run = kernel.client.execute_with("println!(\"said\"); 1", &silent);
    assert_eq!(run.types(), ["status", "stream", "status"], "a silent cell publishes neither input nor result");
    let forgotten = Options { store_history: false, ..Options::default() };
    assert_eq!(kernel.client.execute_with("2", &forgotten).reply.content["execution_count"], 1);
    assert_eq!(kernel.client.execute("()").types(), ["status", "execute_input", "status"], "no result for ()");
    let asked = json!({"hist_access_type": "tail", "n": 10, "output": false, "raw": true});
    let history = kernel.client.request(Channel::Shell, "history_request", asked).content;
    assert_eq!(history["history"], json!([[0, 1, "println!(\"out\"); 6 * 7"], [0, 2, "()"]]));
}

#[test]
fn every_request_is_answered() {
    let mut kernel = start();
    for (request, content) in [
        ("comm_info_request", json!({})),
        ("is_complete_request", json!({"code": "fn f() {"})),
        ("complete_request", json!({"code": "st", "cursor_pos": 2})),
        ("inspect_request", json!({"code": "Vec", "cursor_pos": 3, "detail_level": 0})),
        ("debug_request", json!({"seq": 1, "type": "request", "command": "initialize"})),
        ("nobody_knows_this_request", json!({})),
        ("execute_request", json!({"no": "code"})),
    ] {
        let reply = kernel.client.request(Channel::Shell, request, content);
        assert_eq!(reply.msg_type(), request.replace("_request", "_reply"));
        assert!(reply.content.get("status").is_some(), "{request}: {}", reply.content);
    }
    let complete = kernel.client.request(Channel::Shell, "is_complete_request", json!({"code": "fn f() {"})).content;
    assert_eq!((&complete["status"], &complete["indent"]), (&json!("incomplete"), &json!("    ")));
    assert_eq!(kernel.client.execute("1").result(), Some("1"), "and the kernel goes on");
}

#[test]
fn commands_shell_lines_and_magics() {
    let mut kernel = start();
    let run = kernel.client.execute("!echo first\nlet x = 5;\n!echo second; exit 3\nx");
    assert_eq!((run.stdout().as_str(), run.result()), ("first\nsecond\n", Some("5")));
    let vars = kernel.client.execute(":vars");
    assert!(vars.result().is_some_and(|text| text.contains("x: i32")), "{:?}", vars.published);
    let wrong = kernel.client.execute("%%nothing");
    assert_eq!(wrong.error()["ename"], "MagicError");
    assert!(wrong.error()["evalue"].as_str().is_some_and(|text| text.contains("%%nothing") && text.contains("line 1")));
    let unknown = kernel.client.execute(":nothing");
    assert_eq!(unknown.status(), "error");
    assert_eq!(kernel.client.execute("").status(), "ok");
    assert_eq!(kernel.client.execute("// only a comment").status(), "ok");
}

#[test]
fn a_question_mark_and_a_panic_are_errors_that_name_their_line() {
    let mut kernel = start();
    let run = kernel.client.execute("let n = 1;\n\"no number\".parse::<i32>()?;\nprintln!(\"not reached\");");
    assert_eq!(run.error()["ename"], "Error");
    assert!(run.error()["evalue"].as_str().is_some_and(|text| text.contains("invalid digit")));
    assert_eq!((run.stdout().as_str(), run.stderr().as_str()), ("", ""));
    kernel.client.execute("fn divide(a: i32, b: i32) -> i32 {\n    a / b\n}");
    let run = kernel.client.execute("divide(1, 0)");
    let evalue = run.error()["evalue"].as_str().unwrap_or_default().to_owned();
    assert!(evalue.contains("divide by zero") && evalue.contains("In [2], line 2"), "{evalue}");
    assert_eq!(run.stderr(), "", "the panic is said once, as an error");
}

#[test]
fn a_person_is_asked_with_the_unfinished_line_and_a_script_answers_for_nobody() {
    let mut kernel = start();
    let code = "use std::io::Write;\nlet mut line = String::new();\nprint!(\"Name: \"); std::io::stdout().flush().unwrap();\n\
                std::io::stdin().read_line(&mut line).unwrap();\nprintln!(\"{line:?}\");";
    let run = kernel.client.execute_with(code, &Options::answering(&["Ana María"]));
    assert_eq!(run.prompts, ["Name: "]);
    assert_eq!(run.stdout(), "\"Ana María\\n\"\n", "the prompt is in the question, not in the output too");
    let scripted = format!("%%stdin \"Luis\" \n{code}");
    let run = kernel.client.execute(&scripted);
    assert_eq!(run.stdout(), "Name: Luis\n\"Luis\\n\"\n", "as a terminal would show it");
    let run = kernel.client.execute_with(&scripted, &Options::answering(&["Eva"]));
    assert_eq!(run.prompts, ["Name: "], "a person who is there is asked");
    let always = scripted.replace("%%stdin", "%%stdin --always");
    assert_eq!(kernel.client.execute_with(&always, &Options::answering(&[])).stdout(), "Name: Luis\n\"Luis\\n\"\n");
    let run = kernel.client.execute(code);
    assert_eq!(run.error()["ename"], "InputRefused");
    assert!(run.stdout().contains("\"\""), "the process got end of file: {}", run.stdout());
}

#[test]
fn late_output_keeps_its_cell_and_costs_the_next_nothing() {
    let mut kernel = start();
    let go = kernel.directory.path().join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).expect("the test's directory can be written to");
    let first = kernel.client.execute(&format!(
        "use nix::unistd::{{fork, ForkResult}};\nprintln!(\"one\"); eprintln!(\"two\"); println!(\"three\");\n\
         if let ForkResult::Child = unsafe {{ fork() }}.unwrap() {{\n\
             std::fs::read({go:?}).unwrap(); print!(\"late\");\n}}",
    ));
    assert_eq!((first.stdout().as_str(), first.stderr().as_str()), ("one\nthree\n", "two\n"));
    assert_eq!(kernel.client.execute("2").result(), Some("2"));
    std::fs::write(&go, "x").expect("the child reads the pipe");
    let late = kernel.client.late_output(&first.id, |late| !late.is_empty());
    assert_eq!(late[0].content["text"], "late");
}

#[test]
fn cells_after_a_failed_one_are_aborted_and_only_those() {
    let mut kernel = start();
    let options = Options::default();
    let goes_on = Options { stop_on_error: false, ..Options::default() };
    let ids: Vec<String> = ["panic!(\"no\")", "1", "2"].map(|code| kernel.client.send_execute(code, &options)).into();
    let statuses: Vec<String> = ids.iter().map(|id| kernel.client.finish(id, &options).status().to_owned()).collect();
    assert_eq!(statuses, ["error", "aborted", "aborted"]);
    let ids = [("panic!(\"no\")", &goes_on), ("1", &options)]
        .map(|(code, options)| kernel.client.send_execute(code, options));
    let statuses = ids.map(|id| kernel.client.finish(&id, &options).status().to_owned());
    assert_eq!(statuses, ["error", "ok"]);
}

#[test]
fn a_flood_is_few_messages_and_none_is_lost() {
    let mut kernel = start();
    let run = kernel.client.execute(
        "use std::io::Write; let line = \"0123456789abcde\\n\".repeat(1 << 16);\n\
         for _ in 0..16 { std::io::stdout().write_all(line.as_bytes()).unwrap(); }",
    );
    let length: usize =
        run.of_type("stream").iter().filter_map(|message| message.content["text"].as_str()).map(str::len).sum();
    assert_eq!(length, 16 << 20);
    assert!(run.of_type("stream").len() < 1000, "{} messages", run.of_type("stream").len());
}

#[test]
fn thousands_of_queued_cells_are_answered_one_by_one() {
    let mut kernel = start();
    let ids: Vec<String> = (0..20_000).map(|_| kernel.client.send_execute("", &Options::default())).collect();
    let last = kernel.client.finish(&ids[ids.len() - 1], &Options::default());
    assert_eq!(last.reply.content["execution_count"], 20_000);
}

#[test]
fn cells_that_are_not_counted_take_no_number_and_half_characters_end_with_their_cell() {
    let mut kernel = start();
    kernel.client.execute("fn boom() {\n    panic!(\"here\");\n}");
    let forgotten = Options { store_history: false, ..Options::default() };
    kernel.client.execute_with("let other = 1;", &forgotten);
    let run = kernel.client.execute_with("boom()", &forgotten);
    assert!(run.error()["evalue"].as_str().is_some_and(|text| text.contains("In [1], line 2")), "{}", run.error());
    assert!(run.error()["traceback"].to_string().contains("panic!("), "{}", run.error()["traceback"]);
    assert_eq!(kernel.client.execute("!printf 'abc\\303'").stdout(), "abc\u{FFFD}");
}

#[test]
fn a_variable_may_have_a_type_whose_names_are_not_imported() {
    let mut kernel = start();
    let code = "fn divide(a: i32, b: i32) -> Result<i32, Box<dyn std::error::Error>> {\n    \
                if b == 0 { Err(\"div by zero\")? }\n    Ok(a / b)\n}\nlet q = divide(1, 0);";
    assert_eq!(kernel.client.execute(code).status(), "ok");
    assert_eq!(kernel.client.execute("q.is_err()").result(), Some("true"));
    let forked = "let r = unsafe { nix::unistd::fork() };\n\
                  if let Ok(nix::unistd::ForkResult::Parent { child }) = r { nix::sys::wait::waitpid(child, None)?; }";
    assert_eq!(kernel.client.execute(forked).status(), "ok", "a nix::Result can be kept");
    assert_eq!(kernel.client.execute("r.is_ok()").result(), Some("true"));
    // Two traits of std's have this name, so the person is asked.
    let unsure = "fn w() -> Box<dyn std::io::Write> { Box::new(std::io::stdout()) }\nlet ww = w();";
    let run = kernel.client.execute(unsure);
    assert_eq!(run.error()["ename"], "CompileError");
    assert!(run.error()["traceback"].to_string().contains("use std::io::Write;"), "{}", run.error());
}
