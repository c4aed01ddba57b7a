//! The real binary as a process of the test's, with a connection file of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Client;

/// Writes a connection file for sockets below a directory, and returns its path.
///
/// UNIX sockets: a free TCP port that a test finds may be somebody else's by the time it is used.
pub fn connection_file(directory: &Path) -> PathBuf {
    let path = directory.join("connection.json");
    let content = json!({
        "transport": "ipc", "ip": directory.join("s"), "key": uuid::Uuid::new_v4().to_string(),
        "shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5,
        "signature_scheme": "hmac-sha256", "kernel_name": "forklab",
    });
    std::fs::write(&path, content.to_string()).expect("the test's directory can be written to");
    path
}

/// A running kernel. Dropping it shuts it down, and kills it when it does not go.
pub struct Kernel {
    /// Connected to it.
    pub client: Client,
    /// Its process.
    pub process: Child,
    /// Its connection file, for further clients.
    pub connection_file: PathBuf,
    /// Holds the connection file and the sockets; for the test to put things into as well.
    pub directory: tempfile::TempDir,
}

impl Kernel {
    /// Starts `forklab kernel` and connects to it.
    pub fn start() -> Kernel {
        Kernel::start_with(|_| {})
    }

    /// As [`Kernel::start`], with a command that the caller has changed: environment, directory.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Kernel {
        let Some(program) = option_env!("CARGO_BIN_EXE_forklab") else {
            panic!("cargo builds the binary for these tests");
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let connection_file = connection_file(directory.path());
        let mut command = Command::new(program);
        command.arg("kernel").arg("--connection-file").arg(&connection_file).stdin(Stdio::null());
        // A zygote would outlive the test; those that are about it switch it on.
        command.env("FORKLAB_ZYGOTE", "off");
        change(&mut command);
        let process = command.spawn().expect("the binary starts");
        // Connected while the kernel starts, as Jupyter does.
        let client = Client::connect_without_waiting(&connection_file);
        let mut kernel = Kernel { client, process, connection_file, directory };
        let begun = Instant::now();
        while !kernel.client.is_welcome() {
            if let Some(status) = kernel.wait(Duration::ZERO) {
                panic!("the kernel has left with {status} instead of listening");
            }
            assert!(begun.elapsed() < super::DEADLINE, "the kernel does not listen");
            kernel.client.receive(Duration::from_millis(100));
        }
        kernel
    }

    /// Asks the kernel to shut down and waits for its process to end.
    pub fn shut_down(mut self) -> ExitStatus {
        self.client.shutdown(false);
        self.wait(super::DEADLINE).expect("a kernel that was told to shut down ends")
    }

    /// Waits for the kernel's process to end; `None` when it has not by the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.process.try_wait().expect("our own child can be waited for") {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            // Nothing depends on the length: the end is looked for, and the deadline is the limit.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.wait(Duration::ZERO).is_none() {
            self.client.send(super::Channel::Control, "shutdown_request", json!({ "restart": false }));
            if self.wait(Duration::from_secs(10)).is_none() {
                let _gone_meanwhile = self.process.kill();
                let _reaped = self.process.wait();
            }
        }
    }
}
