//! The end of a cell: what it still has to show, its reply, and what becomes of the cells behind it.

use std::collections::VecDeque;

use jupyter_protocol::messaging::{ExecuteReply, ReplyError, ReplyStatus};

use super::execution::{Execution, Request};
use super::{Kernel, report, show};

impl Kernel {
    /// Delivers what was written, then the result or the error, then the reply.
    pub(super) fn finish(&mut self) {
        self.show_orders();
        if let Some(cell) = self.running_cell() {
            self.deliver_last(cell);
            self.show_record();
        }
        let Some(running) = self.running.take() else { return };
        let full = self.full_output(running.cell, &running.limits);
        let Execution { request, results, error, refused, writers, refused_forks, limits, .. } = running;
        // From here on, only processes of the cell hold its sockets open.
        drop(writers);
        let mut error = error.or(full).or_else(|| refused.map(report::input_refused));
        if let Some(error) = &mut error
            && refused_forks > 0
            // Whose own words say it.
            && error.ename != report::LIMIT_REACHED
        {
            error.traceback.push(self.refused_forks(refused_forks, &limits));
        }
        if error.is_none() && !request.content.silent {
            show::results(&self.front, &request.origin, self.count, results);
        }
        self.conclude(&request, error.map_or(Ok(()), Err));
    }

    /// Publishes the error, replies, and says that the kernel is idle.
    pub(super) fn conclude(&mut self, request: &Request, end: Result<(), ReplyError>) {
        let mut reply = ExecuteReply { execution_count: count(self.count), ..ExecuteReply::default() };
        reply.user_expressions = Some(show::user_expressions(&request.content));
        // What has been sent by now is queued behind the error. Taken before the reply goes out: a front
        // end that has the reply may send its next cell at once, and that one is not queued.
        let aborted =
            if end.is_err() && request.content.stop_on_error { self.take_queue() } else { Default::default() };
        if let Err(error) = end {
            self.front.iopub(Some(&request.origin), show::error_output(&error));
            reply.status = ReplyStatus::Error;
            reply.error = Some(Box::new(error));
        }
        self.front.reply(&request.origin, reply);
        self.front.idle(&request.origin);
        self.abort(aborted);
    }

    /// Answers every queued cell with `aborted`.
    pub(super) fn abort_queued(&mut self) {
        let queued = self.take_queue();
        self.abort(queued);
    }

    /// Empties the queue. What the front end has sent by now counts as queued: it is still in our
    /// inbox when the cells were sent all at once ("run all").
    fn take_queue(&mut self) -> VecDeque<Request> {
        self.take_incoming_executes();
        std::mem::take(&mut self.queue)
    }

    fn abort(&mut self, requests: VecDeque<Request>) {
        for request in requests {
            self.front.busy(&request.origin);
            let status = ReplyStatus::Aborted;
            let user_expressions = Some(Default::default());
            let execution_count = count(self.count);
            let reply = ExecuteReply { status, execution_count, user_expressions, ..ExecuteReply::default() };
            self.front.reply(&request.origin, reply);
            self.front.idle(&request.origin);
        }
    }
}

/// As the protocol wants it.
pub(super) fn count(execution: u32) -> jupyter_protocol::ExecutionCount {
    jupyter_protocol::ExecutionCount::new(execution as usize)
}
