//! Processes that read their input: asked of the person, taken from the cell's script, or refused.

use forklab_worker::messages::{CellId, ProcessId, ToSupervisor};
use jupyter_protocol::messaging::{InputReply, Stdio};

use super::Kernel;
use super::delivery::READ_AT_ONCE;
use crate::jupyter::Incoming;

/// What a process that reads gets.
enum Answer {
    /// A line of the cell's script.
    Scripted(String),
    /// Whatever the person types.
    Ask,
    /// End of file.
    End,
}

impl Kernel {
    /// A process is blocked in a read of the terminal.
    pub(super) fn on_wants_input(&mut self, pid: ProcessId, cell: Option<CellId>) {
        let Some(running) = &mut self.running else {
            // A process of an earlier cell: there is no cell under which a front end would ask.
            return self.send_input(&ToSupervisor::EndOfInput);
        };
        let of_this_cell = cell == Some(running.cell);
        let asks = running.request.content.allow_stdin;
        let answer = match &mut running.script {
            Some(script) if of_this_cell && (script.always || !asks) => {
                script.answers.pop_front().map_or(Answer::End, Answer::Scripted)
            }
            _ if asks => Answer::Ask,
            // A left-over process of an earlier cell: not this cell's fault.
            _ if !of_this_cell => Answer::End,
            _ => {
                running.refused.get_or_insert(pid.0);
                Answer::End
            }
        };
        match answer {
            Answer::Scripted(line) => self.type_line(&line),
            Answer::Ask => self.ask(pid),
            Answer::End => self.send_input(&ToSupervisor::EndOfInput),
        }
    }

    /// Types a line for the process and shows it where a terminal would echo it.
    fn type_line(&mut self, line: &str) {
        let Some(cell) = self.running_cell() else { return };
        // What was written before the read (the prompt) stands before the answer.
        self.deliver_all(cell);
        if let Some(live) = self.outputs.get_mut(&cell) {
            live.output.insert(&format!("{line}\n"));
        }
        self.send_input(&ToSupervisor::Input { text: format!("{line}\n") });
    }

    fn ask(&mut self, pid: ProcessId) {
        let Some(running) = &mut self.running else { return };
        let Some(live) = self.outputs.get_mut(&running.cell) else { return };
        live.output.read(&mut self.buffer, READ_AT_ONCE);
        let prompt = live.output.take_prompt();
        let pieces = live.output.take_all();
        live.publish(&self.front, &self.recording, pieces);
        running.asking = Some(pid.0);
        self.front.request_input(&running.request.origin, &prompt, false);
    }

    /// The person has answered.
    pub(super) fn on_input_reply(&mut self, message: &Incoming, reply: &InputReply) {
        let Some(running) = &mut self.running else { return };
        // An answer to a question of an earlier cell, or of a process that has died, is for nobody.
        if !message.answers(&running.request.origin) || running.asking.take().is_none() {
            return;
        }
        self.send_input(&ToSupervisor::Input { text: format!("{}\n", reply.value) });
    }

    /// The process that was asked for does not wait any more.
    pub(super) fn on_input_cancelled(&mut self, pid: ProcessId) {
        if let Some(running) = &mut self.running
            && running.asking == Some(pid.0)
        {
            running.asking = None;
            if running.interrupted {
                return;
            }
            // Front ends have no way to take a question back; the person is told instead.
            let text = format!("\n[process {} does not wait for input any more]\n", pid.0);
            self.front.stream(Some(&running.request.origin), Stdio::Stdout, &text);
        }
    }

    fn send_input(&mut self, message: &ToSupervisor) {
        if let Err(error) = self.far.send(message) {
            tracing::warn!(%error, "the supervisor ended before an answer");
        }
    }
}
