//! rust-analyzer's file loader, without threads.
//!
//! The original reads files on a thread of its own and on rayon's pool. evcxr owns such a loader and
//! asks it again whenever a dependency is added. A process that has forked has none of its parent's
//! threads: a standby engine would wait for ever for files that nobody reads. This one does the work
//! in the call that asks for it, and its messages are in the channel when the call returns.
//!
//! It watches nothing; evcxr does not ask for it.

use std::path::{Component, Path, PathBuf};

use ra_ap_paths::{AbsPath, AbsPathBuf, Utf8PathBuf};
use ra_ap_vfs::loader::{Config, Directories, Entry, Handle, LoadingProgress, Message, Sender};
use walkdir::WalkDir;

/// A loader; takes the place of the original of this name.
#[derive(Debug)]
pub struct NotifyHandle {
    sender: Sender,
}

impl Handle for NotifyHandle {
    fn spawn(sender: Sender) -> NotifyHandle {
        NotifyHandle { sender }
    }

    fn set_config(&mut self, config: Config) {
        let total = config.load.len();
        self.progress(&config, total, LoadingProgress::Started);
        for (done, entry) in config.load.iter().enumerate() {
            self.send(Message::Loaded { files: load(entry) });
            self.progress(&config, total, LoadingProgress::Progress(done + 1));
        }
        self.progress(&config, total, LoadingProgress::Finished);
    }

    fn invalidate(&mut self, path: AbsPathBuf) {
        let contents = read(&path);
        self.send(Message::Changed { files: vec![(path, contents)] });
    }

    fn load_sync(&mut self, path: &AbsPath) -> Option<Vec<u8>> {
        read(path)
    }
}

impl NotifyHandle {
    fn progress(&self, config: &Config, n_total: usize, n_done: LoadingProgress) {
        self.send(Message::Progress { n_total, n_done, dir: None, config_version: config.version });
    }

    fn send(&self, message: Message) {
        // A receiver that is gone is not interested in files any more.
        let _ = self.sender.send(message);
    }
}

fn load(entry: &Entry) -> Vec<(AbsPathBuf, Option<Vec<u8>>)> {
    let files = match entry {
        Entry::Files(files) => files.clone(),
        Entry::Directories(directories) => {
            directories.include.iter().flat_map(|root| files_below(root, directories)).collect()
        }
    };
    files
        .into_iter()
        .map(|file| {
            let contents = read(&file);
            (file, contents)
        })
        .collect()
}

/// The files of the wanted extensions below `root`. Roots within it are walked on their own.
fn files_below(root: &AbsPathBuf, directories: &Directories) -> Vec<AbsPathBuf> {
    let enter = |path: &Path| {
        let is = |other: &AbsPathBuf| AsRef::<Path>::as_ref(other) == path;
        !leads_back(path) && !directories.exclude.iter().any(is) && (is(root) || !directories.include.iter().any(is))
    };
    WalkDir::new(root)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| !entry.file_type().is_dir() || enter(entry.path()))
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| absolute(entry.into_path()))
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            directories.extensions.iter().any(|wanted| wanted == extension)
        })
        .collect()
}

/// Whether `path` is a link to a directory above it, which would be walked for ever.
fn leads_back(path: &Path) -> bool {
    let Ok(target) = std::fs::read_link(path) else { return false };
    let upwards = |part: Component<'_>| matches!(part, Component::CurDir | Component::ParentDir);
    target.components().all(upwards) || path.starts_with(&target)
}

fn absolute(path: PathBuf) -> Option<AbsPathBuf> {
    AbsPathBuf::try_from(Utf8PathBuf::from_path_buf(path).ok()?).ok()
}

fn read(path: &AbsPath) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}
