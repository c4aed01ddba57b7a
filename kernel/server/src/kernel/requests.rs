//! Requests other than cells: each gets its answer at once, also while a cell runs or the engine
//! starts. Only completion and inspection need the engine; while it works on a cell they are answered
//! with nothing rather than late.

use std::collections::BTreeMap;

use forklab_engine::messages::ToEngine;
use jupyter_protocol::messaging::{
    CommClose, CommInfoReply, CompleteReply, HistoryReply, InspectReply, InterruptReply, IsCompleteReply,
    JupyterMessageContent, ShutdownReply, UnknownMessage,
};

use super::compiler::State;
use super::execution::{LONGEST_CELL, Request};
use super::{Flow, Kernel, magics, show};
use crate::jupyter::{Channel, Incoming, Origin, kernel_info};

/// The compiler's version for `kernel_info`. The engine's toolchain may be newer; the answer must
/// not wait for asking it.
const RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// A request that waits for the engine.
#[derive(Debug, Clone)]
pub struct Analysis {
    origin: Origin,
    kind: AnalysisKind,
    /// The text, with magics blanked.
    code: String,
    /// Where the cursor is, in codepoints.
    cursor: usize,
}

/// What is wanted of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnalysisKind {
    Complete,
    Inspect,
}

impl Kernel {
    /// Takes what the front end has sent.
    pub(super) fn on_front_end(&mut self) -> Flow {
        while let Some(incoming) = self.deferred.pop_front().or_else(|| self.front.try_next()) {
            if self.on_message(incoming) == Flow::Leave {
                return Flow::Leave;
            }
        }
        Flow::Continue
    }

    /// Queues the cells among what has arrived; the rest is answered after what is being done now.
    pub(super) fn take_incoming_executes(&mut self) {
        while let Some(incoming) = self.front.try_next() {
            match execute_request(incoming) {
                Ok(request) => self.queue.push_back(request),
                Err(other) => self.deferred.push_back(*other),
            }
        }
    }

    fn on_message(&mut self, incoming: Incoming) -> Flow {
        let incoming = match execute_request(incoming) {
            Ok(request) => {
                self.queue.push_back(request);
                return Flow::Continue;
            }
            Err(other) => *other,
        };
        let Incoming { origin, content, .. } = &incoming;
        if let JupyterMessageContent::InputReply(reply) = content {
            self.on_input_reply(&incoming, reply);
            return Flow::Continue;
        }
        self.front.busy(origin);
        match content {
            JupyterMessageContent::CompleteRequest(request) => {
                self.analyse(AnalysisKind::Complete, origin, &request.code, request.cursor_pos);
            }
            JupyterMessageContent::InspectRequest(request) => {
                self.analyse(AnalysisKind::Inspect, origin, &request.code, request.cursor_pos);
            }
            JupyterMessageContent::ShutdownRequest(request) => {
                let reply = ShutdownReply { restart: request.restart, ..ShutdownReply::default() };
                self.front.reply(origin, reply.clone());
                self.front.iopub(Some(origin), reply);
                self.front.idle(origin);
                return Flow::Leave;
            }
            _ => {
                self.answer(&incoming);
                self.front.idle(origin);
            }
        }
        Flow::Continue
    }

    fn answer(&mut self, incoming: &Incoming) {
        let origin = &incoming.origin;
        match &incoming.content {
            JupyterMessageContent::KernelInfoRequest(_) => self.front.reply(origin, kernel_info(RUSTC)),
            JupyterMessageContent::InterruptRequest(_) => {
                self.interrupt();
                self.front.reply(origin, InterruptReply::new());
            }
            JupyterMessageContent::IsCompleteRequest(request) => {
                let reply = match magics::indent_of_incomplete(&request.code) {
                    Some(indent) => IsCompleteReply::incomplete(" ".repeat(indent)),
                    None => IsCompleteReply::complete(),
                };
                self.front.reply(origin, reply);
            }
            JupyterMessageContent::HistoryRequest(request) => {
                self.front.reply(origin, HistoryReply::new(self.history.answer(request)));
            }
            JupyterMessageContent::CommInfoRequest(_) => self.front.reply(origin, CommInfoReply::default()),
            // The specification: a comm whose target is not known is closed at once.
            JupyterMessageContent::CommOpen(open) => {
                let close = CommClose { comm_id: open.comm_id.clone(), ..CommClose::default() };
                self.front.iopub(Some(origin), close);
            }
            JupyterMessageContent::CommMsg(_) | JupyterMessageContent::CommClose(_) => {}
            _ => self.refuse(incoming),
        }
    }

    /// A request that this kernel does not know, or whose content cannot be read: its reply says so.
    fn refuse(&self, incoming: &Incoming) {
        let kind = &incoming.header.msg_type;
        let Some(stem) = kind.strip_suffix("_request") else {
            tracing::warn!(%kind, "a message that nobody here knows");
            return;
        };
        let evalue = match &incoming.misfit {
            Some(misfit) => format!("this {kind} cannot be read: {misfit}"),
            None => format!("forklab does not answer {kind}"),
        };
        let content = serde_json::json!({
            "status": "error", "ename": "BadRequest", "evalue": evalue, "traceback": [evalue],
        });
        let msg_type = format!("{stem}_reply");
        self.front.reply(&incoming.origin, JupyterMessageContent::UnknownMessage(UnknownMessage { msg_type, content }));
    }

    /// Asks the engine, now or when it is free. While it compiles or runs a cell that may be long,
    /// and the answer is nothing; what else keeps it (its start, another analysis) is short.
    fn analyse(&mut self, kind: AnalysisKind, origin: &Origin, code: &str, cursor: usize) {
        if code.len() > LONGEST_CELL {
            return self.unanswered(&Analysis { origin: origin.clone(), kind, code: String::new(), cursor });
        }
        if self.answer_in_magic(kind, origin, code, cursor) {
            return;
        }
        let analysis = Analysis { origin: origin.clone(), kind, code: blank_magics(code), cursor };
        let line = analysis.code.get(..byte_offset(code, cursor)).and_then(|before| before.rsplit('\n').next());
        if line.is_some_and(|line| is_blanked(code, byte_offset(code, cursor) - line.len())) {
            return self.unanswered(&analysis);
        }
        if self.running.is_some() || matches!(self.compiler.state(), State::Failed(_)) {
            return self.unanswered(&analysis);
        }
        self.waiting_analyses.push_back(analysis);
        self.send_next_analysis();
    }

    /// Answers what is asked about a magic, for which nobody else is needed. Returns whether it was that.
    fn answer_in_magic(&self, kind: AnalysisKind, origin: &Origin, code: &str, cursor: usize) -> bool {
        let position = byte_offset(code, cursor);
        match kind {
            AnalysisKind::Complete => {
                let Some(found) = magics::complete::complete(code, position) else { return false };
                let matches: Vec<(String, String)> =
                    found.matches.into_iter().map(|(text, _)| (text, "magic".to_owned())).collect();
                let start = codepoint_offset(code, found.start);
                self.front.reply(origin, complete_reply(start, cursor.max(start), &matches));
            }
            AnalysisKind::Inspect => {
                let Some(text) = magics::complete::inspect(code, position) else { return false };
                let data = show::media(BTreeMap::from([("text/plain".to_owned(), text)]));
                self.front.reply(origin, InspectReply { found: true, data, ..InspectReply::default() });
            }
        }
        self.front.idle(origin);
        true
    }

    /// Sends the engine the next analysis that waits, if it is free.
    pub(super) fn send_next_analysis(&mut self) {
        if *self.compiler.state() != State::Idle {
            return;
        }
        let Some(analysis) = self.waiting_analyses.pop_front() else { return };
        let Analysis { kind, code, cursor, .. } = analysis.clone();
        let position = byte_offset(&code, cursor);
        let sent = self.compiler.request(|id| match kind {
            AnalysisKind::Complete => ToEngine::Complete { id, code, position },
            AnalysisKind::Inspect => ToEngine::Inspect { id, code, position },
        });
        match sent {
            Ok(id) => {
                self.analyses.insert(id, analysis);
            }
            Err(_) => self.unanswered(&analysis),
        }
    }

    /// The engine's answer to a completion.
    pub(super) fn on_completed(&mut self, id: u64, start: usize, end: usize, matches: &[(String, String)]) {
        let Some(Analysis { origin, code, .. }) = self.analyses.remove(&id) else { return };
        let (start, end) = (codepoint_offset(&code, start), codepoint_offset(&code, end));
        let reply = complete_reply(start, end, matches);
        self.front.reply(&origin, reply);
        self.front.idle(&origin);
    }

    /// The engine's answer to an inspection.
    pub(super) fn on_inspected(&mut self, id: u64, found: BTreeMap<String, String>) {
        let Some(Analysis { origin, .. }) = self.analyses.remove(&id) else { return };
        let reply = InspectReply { found: !found.is_empty(), data: show::media(found), ..InspectReply::default() };
        self.front.reply(&origin, reply);
        self.front.idle(&origin);
    }

    /// The engine is busy with a cell, or gone: what it cannot answer is answered with nothing.
    fn unanswered(&self, analysis: &Analysis) {
        let Analysis { origin, kind, cursor, .. } = analysis;
        match kind {
            AnalysisKind::Complete => {
                let reply = CompleteReply { cursor_start: *cursor, cursor_end: *cursor, ..CompleteReply::default() };
                self.front.reply(origin, reply);
            }
            AnalysisKind::Inspect => self.front.reply(origin, InspectReply::default()),
        }
        self.front.idle(origin);
    }

    /// Gives up what waits for the engine, because a cell needs it.
    pub(super) fn drop_waiting_analyses(&mut self) {
        for analysis in std::mem::take(&mut self.waiting_analyses) {
            self.unanswered(&analysis);
        }
    }

    /// Gives up what a dead engine was asked as well.
    pub(super) fn drop_analyses(&mut self) {
        for analysis in std::mem::take(&mut self.analyses).into_values() {
            self.unanswered(&analysis);
        }
        self.drop_waiting_analyses();
    }
}

/// What may stand between two codepoints, each with its kind.
fn complete_reply(start: usize, end: usize, matches: &[(String, String)]) -> CompleteReply {
    let typed =
        |(text, kind): &(String, String)| serde_json::json!({"text": text, "type": kind, "start": start, "end": end});
    let types: Vec<serde_json::Value> = matches.iter().map(typed).collect();
    let mut reply = CompleteReply { cursor_start: start, cursor_end: end, ..CompleteReply::default() };
    // What JupyterLab and IPython agreed on for the kinds of completions.
    reply.metadata.insert("_jupyter_types_experimental".into(), types.into());
    reply.matches = matches.iter().map(|(text, _)| text.clone()).collect();
    reply
}

/// The request to run a cell that a message is, or the message.
fn execute_request(incoming: Incoming) -> Result<Request, Box<Incoming>> {
    match (incoming.channel, incoming.content) {
        (Channel::Shell, JupyterMessageContent::ExecuteRequest(content)) => {
            Ok(Request { origin: incoming.origin, content })
        }
        (_, content) => Err(Box::new(Incoming { content, ..incoming })),
    }
}

/// Whether the line that begins at this byte is no Rust.
fn is_blanked(code: &str, start: usize) -> bool {
    code[start..].starts_with(['%', '!'])
}

/// Magics and `!` lines as blanks of the same length, so that offsets stay.
fn blank_magics(code: &str) -> String {
    let blank = |line: &str| if is_blanked(line, 0) { " ".repeat(line.len()) } else { line.to_owned() };
    code.split('\n').map(blank).collect::<Vec<_>>().join("\n")
}

/// Jupyter counts Unicode codepoints; the engine counts bytes.
fn byte_offset(text: &str, codepoints: usize) -> usize {
    text.char_indices().nth(codepoints).map_or(text.len(), |(offset, _)| offset)
}

fn codepoint_offset(text: &str, bytes: usize) -> usize {
    text.char_indices().take_while(|(offset, _)| *offset < bytes).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_codepoints_outside_and_bytes_inside() {
        let text = "é🦀x";
        assert_eq!([0, 1, 2, 3, 9].map(|n| byte_offset(text, n)), [0, 2, 6, 7, 7]);
        assert_eq!([0, 2, 6, 7].map(|n| codepoint_offset(text, n)), [0, 1, 2, 3]);
        assert_eq!(blank_magics("%%stdin é\n!ls\nx").len(), "%%stdin é\n!ls\nx".len());
    }
}
