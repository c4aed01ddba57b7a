//! Writes the timeline of invented records into a folder, to look at: `pictures FOLDER`.
//!
//! For each record NAME.svg, NAME.html (picture and table), NAME.txt and NAME.trace.json.

use std::io::{Error, Result};
use std::path::PathBuf;

use forklab_record::{export, timeline, trace};

#[path = "../tests/invented/mod.rs"]
mod invented;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or_else(|| Error::other("name a folder"))?;
    std::fs::create_dir_all(&folder)?;
    for (name, record) in invented::all() {
        let options = timeline::Options::default();
        std::fs::write(folder.join(format!("{name}.svg")), timeline::svg(&record, &options))?;
        std::fs::write(folder.join(format!("{name}.html")), timeline::html(&record, &options))?;
        let text = timeline::text(&record, 100) + "\n" + &timeline::table_text(&record);
        std::fs::write(folder.join(format!("{name}.txt")), text)?;
        std::fs::write(folder.join(format!("{name}.json")), serde_json::to_vec(&export::json(&record))?)?;
        std::fs::write(folder.join(format!("{name}.trace.json")), serde_json::to_vec(&trace::chrome(&record))?)?;
    }
    Ok(())
}
