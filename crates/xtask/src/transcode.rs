//! `cargo xtask transcode IN OUT`: an API object from one format into another, told apart by the file names' endings. Shows
//! what a client sent or the store holds, and makes bodies for trying things out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use corten_api::schema::{self, Mode};
use corten_api::{Value, cbor, json, protobuf, yaml};

/// The subcommand's arguments. Formats: `.json`, `.yaml`/`.yml`, `.pb` (Kubernetes protobuf), `.cbor`.
#[derive(Debug, clap::Args)]
pub struct Transcode {
    /// The object to read.
    input: PathBuf,
    /// Where to write it.
    output: PathBuf,
}

impl Transcode {
    /// Reads the one file and writes the other.
    pub fn run(&self) -> Result<()> {
        let body = fs::read(&self.input).with_context(|| format!("cannot read {}", self.input.display()))?;
        let value = read(ending(&self.input), body)?;
        let written = write(ending(&self.output), &value)?;
        fs::write(&self.output, written).with_context(|| format!("cannot write {}", self.output.display()))
    }
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

fn read(ending: &str, body: Vec<u8>) -> Result<Value> {
    Ok(match ending {
        "json" => json::parse(&body.into())?,
        "yaml" | "yml" => yaml::parse(&body)?.value,
        "pb" => protobuf::decode(&body.into())?,
        "cbor" => cbor::decode(&body.into())?,
        other => bail!("no format goes by the ending {other:?}; there are json, yaml, yml, pb and cbor"),
    })
}

fn write(ending: &str, value: &Value) -> Result<Vec<u8>> {
    Ok(match ending {
        "json" => json::to_vec(value),
        "yaml" | "yml" => yaml::to_string(value).into_bytes(),
        "pb" => protobuf::encode(&fitting(value)?)?,
        "cbor" => cbor::encode(value),
        other => bail!("no format goes by the ending {other:?}; there are json, yaml, yml, pb and cbor"),
    })
}

/// Protobuf has no place for what a kind does not have, and numbers only where it has numbers: what people write is brought into
/// the form that the API server would give it. Objects of unknown kinds stay as they are.
fn fitting(value: &Value) -> Result<Value> {
    let (api_version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let mut value = value.clone();
    if let Some(schema) = schema::for_kind(group, version, kind) {
        schema::conform(&mut value, schema, Mode::READ).map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_lead_to_each_other() {
        let folder = std::env::temp_dir().join(format!("corten-transcode-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let first = folder.join("a.json");
        let text = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"v"}}"#;
        fs::write(&first, text).unwrap();
        let mut input = first;
        for ending in ["yaml", "pb", "cbor", "json"] {
            let output = folder.join(format!("b.{ending}"));
            Transcode { input, output: output.clone() }.run().unwrap();
            input = output;
        }
        let last = json::parse(&fs::read(&input).unwrap().into()).unwrap();
        assert_eq!(last, json::parse(&text.into()).unwrap());
        assert!(Transcode { input, output: folder.join("c.txt") }.run().is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
