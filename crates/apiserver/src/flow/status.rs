//! The condition `Dangling` of flow schemas: does the level that a schema names exist?

use corten_api::{Result, Value, time};
use serde_json::json;

use super::GROUP;
use crate::ApiServer;

impl ApiServer {
    /// Writes the condition where it is not what it should be.
    ///
    /// Errors: the store cannot be read.
    pub(crate) async fn judge_flow(&self) -> Result<()> {
        let levels = self.list_group(GROUP, "prioritylevelconfigurations", "").await?;
        let mut names = Vec::new();
        for level in levels {
            names.push(self.tree(&level)?.str_at(&["metadata", "name"]).to_owned());
        }
        let mut changes = Vec::new();
        for schema in self.list_group(GROUP, "flowschemas", "").await? {
            let schema = self.tree(&schema)?;
            let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
            let dangles = !names.iter().any(|name| name == level);
            if dangling(&schema) != Some(dangles) {
                let condition = condition(level, dangles, &time::rfc3339(self.now_ms()));
                let body = json!({"status": {"conditions": [condition]}});
                changes.push(self.write_condition(schema.str_at(&["metadata", "name"]).to_owned(), body));
            }
        }
        futures::future::join_all(changes).await;
        Ok(())
    }

    async fn write_condition(&self, name: String, body: serde_json::Value) {
        let path = format!("/apis/{GROUP}/v1/flowschemas/{name}/status");
        let (code, text) = self.ask("PATCH", &path, "application/merge-patch+json", &body).await;
        if code >= 300 && code != 404 && code != 409 {
            tracing::warn!(name, code, text, "the condition of a flow schema could not be written");
        }
    }
}

fn dangling(schema: &Value) -> Option<bool> {
    let conditions = schema.items_at(&["status", "conditions"]);
    let found = conditions.iter().find(|condition| condition.str_at(&["type"]) == "Dangling")?;
    Some(found.str_at(&["status"]) == "True")
}

fn condition(level: &str, dangles: bool, now: &str) -> serde_json::Value {
    let (status, reason, message) = match dangles {
        true => ("True", "NotFound", format!("there is no priority level \"{level}\"")),
        false => ("False", "Found", format!("the priority level \"{level}\" is there")),
    };
    json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
}
