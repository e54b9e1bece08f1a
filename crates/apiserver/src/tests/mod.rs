//! The server as its clients see it, over a real store.

mod access;
mod apply;
mod kinds;
mod reads;
mod writes;

use crate::testing::TestServer;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"x"}},
    "spec":{"containers":[{"name":"c","image":"busybox"}]}}"#;
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"l":"{value}"}}}},"data":{{"k":"{value}"}}}}"#
    )
}

async fn server_with_account() -> TestServer {
    let server = TestServer::start().await;
    let account = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    let made = server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    assert_eq!(made.code, 201, "{}", made.text);
    server
}
