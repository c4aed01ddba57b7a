//! Results and errors as Jupyter's messages.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jupyter_protocol::media::Media;
use jupyter_protocol::messaging::{
    DisplayData, ErrorOutput, ExecuteRequest, ExecuteResult, ExpressionResult, ReplyError,
};

use super::compiler::Bundle;
use crate::jupyter::{FrontEnd, Origin};

/// Publishes a cell's results: the last one as the cell's value, those before it as displays.
pub fn results(front: &FrontEnd, request: &Origin, execution: u32, results: Vec<Bundle>) {
    let mut results: Vec<Media> = results.into_iter().map(media).collect();
    let last = results.pop();
    for data in results {
        front.iopub(Some(request), DisplayData::new(data));
    }
    if let Some(data) = last {
        let count = jupyter_protocol::ExecutionCount::new(execution as usize);
        front.iopub(Some(request), ExecuteResult::new(count, data));
    }
}

/// Text by MIME type as the protocol's media. JSON types carry their value, all others text.
pub fn media(bundle: Bundle) -> Media {
    let value = |(mime, text): (String, String)| {
        let json = mime == "application/json" || mime.ends_with("+json");
        let value = if json { serde_json::from_str(&text).ok() } else { None };
        (mime, value.unwrap_or(serde_json::Value::String(text)))
    };
    let object: serde_json::Map<String, serde_json::Value> = bundle.into_iter().map(value).collect();
    serde_json::from_value(serde_json::Value::Object(object)).unwrap_or_default()
}

/// A file's name as a person writes it: `~/` is the home directory.
pub fn home_expanded(file: &Path) -> PathBuf {
    match (file.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => file.to_owned(),
    }
}

/// An error as it is published.
pub fn error_output(error: &ReplyError) -> ErrorOutput {
    ErrorOutput { ename: error.ename.clone(), evalue: error.evalue.clone(), traceback: error.traceback.clone() }
}

/// The answers to a request's user expressions: this kernel does not evaluate them, and says so.
pub fn user_expressions(request: &ExecuteRequest) -> HashMap<String, ExpressionResult> {
    let Some(expressions) = request.user_expressions.clone() else {
        return HashMap::new();
    };
    let refusal = || ExpressionResult::Error {
        ename: "NotSupported".into(),
        evalue: "forklab does not evaluate user expressions; put the expression into a cell".into(),
        traceback: Vec::new(),
    };
    expressions.into_keys().map(|name| (name, refusal())).collect()
}
