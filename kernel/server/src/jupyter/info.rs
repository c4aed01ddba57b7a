//! What the kernel says about itself.

use jupyter_protocol::messaging::{CodeMirrorMode, HelpLink, KernelInfoReply, LanguageInfo, ReplyStatus};

use super::wire::PROTOCOL_VERSION;

/// The content of a `kernel_info_reply`. `rustc_version` is the compiler's, such as `1.95.0`;
/// the words in front of and behind the number may stay away.
pub fn kernel_info(rustc_version: &str) -> KernelInfoReply {
    let version = env!("CARGO_PKG_VERSION");
    let link = |text: &str, url: &str| HelpLink { text: text.to_owned(), url: url.to_owned() };
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: PROTOCOL_VERSION.to_owned(),
        implementation: "forklab".to_owned(),
        implementation_version: version.to_owned(),
        language_info: LanguageInfo {
            // Lower case: nbconvert and the editors look lexers and modes up by it.
            name: "rust".to_owned(),
            version: rustc_version.to_owned(),
            mimetype: Some("text/rust".to_owned()),
            file_extension: Some(".rs".to_owned()),
            pygments_lexer: Some("rust".to_owned()),
            codemirror_mode: Some(CodeMirrorMode::Simple("rust".to_owned())),
            nbconvert_exporter: Some("script".to_owned()),
        },
        banner: format!("forklab {version}: Rust {rustc_version}, and cells that fork real processes"),
        help_links: vec![
            link("The Rust Programming Language", "https://doc.rust-lang.org/book/"),
            link("Rust standard library", "https://doc.rust-lang.org/std/"),
            link("nix: the system's calls in Rust", "https://docs.rs/nix/"),
            link("Linux manual pages", "https://man7.org/linux/man-pages/"),
        ],
        debugger: false,
        error: None,
    }
}
