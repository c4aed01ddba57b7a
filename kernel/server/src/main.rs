//! The binary of forklab. Every process of ours but those of the far side (`cells.rs`) is this program
//! in another role.

use std::process::ExitCode;

fn main() -> ExitCode {
    // evcxr calls us by the names of its tools.
    if forklab_engine::tools::is_called() {
        forklab_engine::tools::main();
    }
    // cargo calls the wrapper with rustc's arguments, so the role cannot be a subcommand there.
    if std::env::var_os("FORKLAB_RUSTC_WRAPPER").is_some() {
        forklab_engine::wrapper::main();
    }
    forklab_server::cli::main()
}
