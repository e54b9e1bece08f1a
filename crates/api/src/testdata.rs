//! Reference data that is handed over beside the project and not committed: tests pass over what is not there, and say so.

use std::path::Path;

use crate::{Value, json};

/// The cases of `shared/data/golden/FILE`, looked for beside the workspace and above.
pub(crate) fn golden(file: &str) -> Option<Value> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = above.map(|dir| dir.join("shared/data/golden").join(file)).find(|path| path.exists());
    let Some(path) = found else {
        println!("PASSED OVER: no shared/data/golden/{file} beside the workspace");
        return None;
    };
    Some(parse(&std::fs::read_to_string(path).unwrap()))
}

/// A value from its JSON.
pub(crate) fn parse(text: &str) -> Value {
    json::parse(&bytes::Bytes::copy_from_slice(text.as_bytes())).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// An object from its JSON.
pub(crate) fn object(text: &str) -> crate::Object {
    match parse(text) {
        Value::Object(object) => object,
        other => panic!("not an object: {other:?}"),
    }
}
