//! Requests other than cells: each gets its answer at once, also while a cell runs or the engine
//! starts. Only completion and inspection need the engine; when it is busy, they are answered with
//! nothing rather than late.

use std::collections::BTreeMap;

use forklab_engine::messages::ToEngine;
use forklab_worker::messages::FromSupervisor;
use jupyter_protocol::messaging::{
    CommClose, CommInfoReply, CompleteReply, HistoryReply, InspectReply, InterruptReply, IsCompleteReply, JupyterMessageContent,
    ShutdownReply, Status,
};

use super::compiler::State;
use super::{Flow, Kernel, magics, show};
use crate::jupyter::{Channel, Incoming, kernel_info};

/// A request that waits for the engine.
#[derive(Debug)]
pub enum Analysis {
    /// A completion, with the text that its offsets refer to.
    Complete(Incoming, String),
    /// An inspection.
    Inspect(Incoming),
}

impl Kernel {
    /// Takes what the front end has sent.
    pub(super) fn on_front_end(&mut self) -> Flow {
        while let Some(incoming) = self.front.try_next() {
            if self.on_message(incoming) == Flow::Leave {
                return Flow::Leave;
            }
        }
        Flow::Continue
    }

    /// Queues the cells among what has arrived, and answers the rest.
    pub(super) fn take_incoming_executes(&mut self) {
        let mut later = Vec::new();
        while let Some(incoming) = self.front.try_next() {
            match incoming.execute_request() {
                Some(_) => self.queue.push_back(std::rc::Rc::new(incoming)),
                None => later.push(incoming),
            }
        }
        self.front.put_back(later);
    }

    fn on_message(&mut self, incoming: Incoming) -> Flow {
        let content = incoming.content().clone();
        match content {
            JupyterMessageContent::ExecuteRequest(_) if incoming.channel() == Channel::Shell => {
                self.enqueue(incoming);
                return Flow::Continue;
            }
            JupyterMessageContent::InputReply(reply) => {
                self.on_input_reply(&incoming, &reply);
                return Flow::Continue;
            }
            _ => {}
        }
        self.front.iopub(Some(&incoming), Status::busy());
        match content {
            JupyterMessageContent::CompleteRequest(request) => self.complete(incoming, request.code, request.cursor_pos),
            JupyterMessageContent::InspectRequest(request) => self.inspect(incoming, &request.code, request.cursor_pos),
            JupyterMessageContent::ShutdownRequest(request) => {
                let reply = ShutdownReply { restart: request.restart, ..ShutdownReply::default() };
                self.front.reply(&incoming, reply.clone());
                self.front.iopub(Some(&incoming), reply);
                self.front.iopub(Some(&incoming), Status::idle());
                return Flow::Leave;
            }
            other => {
                self.answer(&incoming, other);
                self.front.iopub(Some(&incoming), Status::idle());
            }
        }
        Flow::Continue
    }

    fn answer(&mut self, incoming: &Incoming, content: JupyterMessageContent) {
        match content {
            JupyterMessageContent::KernelInfoRequest(_) => self.front.reply(incoming, kernel_info()),
            JupyterMessageContent::InterruptRequest(_) => {
                self.interrupt();
                self.front.reply(incoming, InterruptReply::new());
            }
            JupyterMessageContent::IsCompleteRequest(request) => {
                let reply = match magics::indent_of_incomplete(&request.code) {
                    Some(indent) => IsCompleteReply::incomplete(" ".repeat(indent)),
                    None => IsCompleteReply::complete(),
                };
                self.front.reply(incoming, reply);
            }
            JupyterMessageContent::HistoryRequest(request) => {
                self.front.reply(incoming, HistoryReply::new(self.history.answer(&request)));
            }
            JupyterMessageContent::CommInfoRequest(_) => self.front.reply(incoming, CommInfoReply::default()),
            // The specification: a comm whose target is not known is closed at once.
            JupyterMessageContent::CommOpen(open) => {
                self.front.iopub(Some(incoming), CommClose { comm_id: open.comm_id, ..CommClose::default() });
            }
            JupyterMessageContent::CommMsg(_) | JupyterMessageContent::CommClose(_) => {}
            _ => self.front.reply_unknown(incoming),
        }
    }

    fn complete(&mut self, incoming: Incoming, code: String, cursor: usize) {
        let code = blank_magics(&code);
        let position = byte_offset(&code, cursor);
        if *self.compiler.state() != State::Idle {
            return self.completed(&incoming, &code, None, cursor);
        }
        let text = code.clone();
        match self.compiler.request(|id| ToEngine::Complete { id, code: text, position }) {
            Ok(id) => {
                self.analyses.insert(id, Analysis::Complete(incoming, code));
            }
            Err(_) => self.completed(&incoming, &code, None, cursor),
        }
    }

    /// The engine's answer to a completion; `None` when it will not come.
    pub(super) fn on_completed(&mut self, id: u64, found: Option<(usize, usize, Vec<(String, String)>)>) {
        if let Some(Analysis::Complete(incoming, code)) = self.analyses.remove(&id) {
            let cursor = match incoming.content() {
                JupyterMessageContent::CompleteRequest(request) => request.cursor_pos,
                _ => 0,
            };
            self.completed(&incoming, &code, found, cursor);
        }
    }

    fn completed(
        &mut self, incoming: &Incoming, code: &str, found: Option<(usize, usize, Vec<(String, String)>)>, cursor: usize,
    ) {
        let mut reply = CompleteReply { cursor_start: cursor, cursor_end: cursor, ..CompleteReply::default() };
        if let Some((start, end, matches)) = found {
            reply.cursor_start = codepoint_offset(code, start);
            reply.cursor_end = codepoint_offset(code, end);
            let (start, end) = (reply.cursor_start, reply.cursor_end);
            let typed = |(text, kind): &(String, String)| serde_json::json!({"text": text, "type": kind, "start": start, "end": end});
            let types: Vec<serde_json::Value> = matches.iter().map(typed).collect();
            // What JupyterLab and IPython agreed on for the kinds of completions.
            reply.metadata.insert("_jupyter_types_experimental".into(), types.into());
            reply.matches = matches.into_iter().map(|(text, _)| text).collect();
        }
        self.front.reply(incoming, reply);
        self.front.iopub(Some(incoming), Status::idle());
    }

    fn inspect(&mut self, incoming: Incoming, code: &str, cursor: usize) {
        let code = blank_magics(code);
        let position = byte_offset(&code, cursor);
        let request = |id| ToEngine::Inspect { id, code, position };
        let sent = match self.compiler.state() {
            State::Idle => self.compiler.request(request).ok(),
            _ => None,
        };
        match sent {
            Some(id) => {
                self.analyses.insert(id, Analysis::Inspect(incoming));
            }
            None => self.inspected(&incoming, BTreeMap::new()),
        }
    }

    /// The engine's answer to an inspection.
    pub(super) fn on_inspected(&mut self, id: u64, found: BTreeMap<String, String>) {
        if let Some(Analysis::Inspect(incoming)) = self.analyses.remove(&id) {
            self.inspected(&incoming, found);
        }
    }

    fn inspected(&mut self, incoming: &Incoming, found: BTreeMap<String, String>) {
        let reply = InspectReply { found: !found.is_empty(), data: show::media(found), ..InspectReply::default() };
        self.front.reply(incoming, reply);
        self.front.iopub(Some(incoming), Status::idle());
    }

    /// The engine is gone: what it was asked is answered with nothing.
    pub(super) fn drop_analyses(&mut self) {
        for (_, analysis) in std::mem::take(&mut self.analyses) {
            match analysis {
                Analysis::Complete(incoming, code) => self.completed(&incoming, &code, None, 0),
                Analysis::Inspect(incoming) => self.inspected(&incoming, BTreeMap::new()),
            }
        }
    }

    /// The far side reports trouble that is not a cell's.
    pub(super) fn on_far_trouble(&mut self, message: &FromSupervisor) {
        tracing::error!(?message, "trouble on the far side");
    }
}

/// Magics and `!` lines as blanks of the same length, so that offsets stay.
fn blank_magics(code: &str) -> String {
    let blank = |line: &str| if line.starts_with(['%', '!']) { " ".repeat(line.len()) } else { line.to_owned() };
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
