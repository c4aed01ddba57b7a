//! Cells: sending one, answering its questions, and what came of it.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Channel, Client, Message};

/// How a cell is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    pub silent: bool,
    pub store_history: bool,
    pub stop_on_error: bool,
    /// The answers to its questions, in order; `None`: no questions are allowed.
    pub answers: Option<Vec<String>>,
    pub user_expressions: Value,
}

impl Default for Options {
    fn default() -> Options {
        Options { silent: false, store_history: true, stop_on_error: true, answers: None, user_expressions: json!({}) }
    }
}

impl Options {
    /// Questions are allowed and answered with these.
    pub fn answering(answers: &[&str]) -> Options {
        let answers = answers.iter().map(|answer| (*answer).to_owned()).collect();
        Options { answers: Some(answers), ..Options::default() }
    }
}

/// What came of a cell: everything up to its reply and its idle.
#[derive(Debug, Clone)]
pub struct Run {
    /// The request's identifier.
    pub id: String,
    /// The `execute_reply`.
    pub reply: Message,
    /// What was published for it, in order, from busy to idle, both included.
    pub published: Vec<Message>,
    /// The prompts of its questions.
    pub prompts: Vec<String>,
}

impl Run {
    /// `ok`, `error` or `aborted`.
    pub fn status(&self) -> &str {
        self.reply.content["status"].as_str().unwrap_or_default()
    }

    /// Everything written to stdout.
    pub fn stdout(&self) -> String {
        self.stream("stdout")
    }

    /// Everything written to stderr.
    pub fn stderr(&self) -> String {
        self.stream("stderr")
    }

    fn stream(&self, name: &str) -> String {
        let streams = self.of_type("stream");
        let texts = streams.iter().filter(|message| message.content["name"] == name);
        texts.map(|message| message.content["text"].as_str().expect("a stream has a text")).collect()
    }

    /// The published messages of one type.
    pub fn of_type(&self, msg_type: &str) -> Vec<&Message> {
        self.published.iter().filter(|message| message.msg_type() == msg_type).collect()
    }

    /// `text/plain` of the result, if there was one.
    pub fn result(&self) -> Option<&str> {
        let results = self.of_type("execute_result");
        assert!(results.len() <= 1, "a cell has at most one result: {results:#?}");
        results.first().and_then(|message| message.content["data"]["text/plain"].as_str())
    }

    /// The content of the one `error`; also checks that the reply says the same.
    pub fn error(&self) -> &Value {
        let errors = self.of_type("error");
        assert_eq!(errors.len(), 1, "one error: {:#?}", self.published);
        for field in ["ename", "evalue", "traceback"] {
            assert_eq!(errors[0].content[field], self.reply.content[field], "reply and error agree on {field}");
        }
        assert_eq!(self.status(), "error");
        &errors[0].content
    }

    /// The types of what was published, in order.
    pub fn types(&self) -> Vec<&str> {
        self.published.iter().map(Message::msg_type).collect()
    }
}

impl Client {
    /// Runs a cell that may ask nothing, to its end.
    pub fn execute(&mut self, code: &str) -> Run {
        self.execute_with(code, &Options::default())
    }

    /// Runs a cell to its end, answering its questions.
    pub fn execute_with(&mut self, code: &str, options: &Options) -> Run {
        let id = self.send_execute(code, options);
        self.finish(&id, options)
    }

    /// Sends a cell; [`Client::finish`] waits for its end. Returns the request's identifier.
    pub fn send_execute(&self, code: &str, options: &Options) -> String {
        let content = json!({
            "code": code,
            "silent": options.silent,
            "store_history": options.store_history,
            "user_expressions": options.user_expressions,
            "allow_stdin": options.answers.is_some(),
            "stop_on_error": options.stop_on_error,
        });
        self.send(Channel::Shell, "execute_request", content)
    }

    /// Waits for a cell's reply and its idle, answering its questions from the options.
    pub fn finish(&mut self, id: &str, options: &Options) -> Run {
        let mut answers = options.answers.clone().unwrap_or_default().into_iter();
        let (mut reply, mut published, mut prompts) = (None, Vec::new(), Vec::new());
        let begun = Instant::now();
        let mut idle = false;
        while reply.is_none() || !idle {
            let what = format!("end of a cell that began {:?} ago, after {published:#?}", begun.elapsed());
            let message = self.wait_for(&what, |message| message.parent_id() == id);
            match message.channel {
                Channel::Iopub => {
                    assert!(!idle, "published after the cell's idle and before its reply: {message:#?}");
                    idle = message.is_status("idle");
                    published.push(message);
                }
                Channel::Shell => reply = Some(message),
                Channel::Stdin => {
                    assert!(options.answers.is_some(), "a question where none is allowed: {message:#?}");
                    prompts.push(message.content["prompt"].as_str().expect("a prompt is a text").to_owned());
                    let value = answers.next().unwrap_or_else(|| panic!("one question too many: {prompts:?}"));
                    // As JupyterLab does: with the question as the parent.
                    let content = json!({ "value": value, "status": "ok" });
                    self.send_with_parent(Channel::Stdin, "input_reply", message.header, content);
                }
                Channel::Control => panic!("an answer to a cell on control: {message:#?}"),
            }
        }
        let reply = reply.expect("the loop ends with a reply");
        Run { id: id.to_owned(), reply, published, prompts }
    }

    /// What else is published for a cell after its idle, until `enough` of it is there.
    pub fn late_output(&mut self, id: &str, mut enough: impl FnMut(&[Message]) -> bool) -> Vec<Message> {
        let mut late = Vec::new();
        while !enough(&late) {
            late.push(
                self.wait_for("late output", |message| message.channel == Channel::Iopub && message.parent_id() == id),
            );
        }
        late
    }
}
