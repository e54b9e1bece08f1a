//! A pretended API server: just enough of create, read, replace, delete, list and watch, over TLS with client
//! certificates, to see that the generator measures what it says. Pods without a gate run at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;

use crate::pki::Pki;

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

/// The one object that is there from the start.
const NODE: &str = "/api/v1/nodes/fake";

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    requests: BTreeMap<String, usize>,
}

/// The server's handle; it lives as long as the test's runtime.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Objects>>);

impl Fake {
    /// Starts the server and writes a kubeconfig for it.
    pub async fn start(dir: &Path) -> (Self, PathBuf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pki = Pki::new().unwrap();
        let kubeconfig = dir.join("kubeconfig");
        let port = listener.local_addr().unwrap().port();
        std::fs::write(&kubeconfig, pki.kubeconfig(&format!("https://127.0.0.1:{port}"))).unwrap();
        let acceptor = acceptor(&pki);
        let fake = Self::default();
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        fake.0.lock().unwrap().put("ADDED", NODE, node);
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(acceptor.clone(), tcp));
            }
        });
        (fake, kubeconfig)
    }

    /// Paths of all objects that are left beside the node.
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().by_path.keys().filter(|path| *path != NODE).cloned().collect()
    }

    /// How many requests with this method and resource were made.
    pub fn requests(&self, what: &str) -> usize {
        self.0.lock().unwrap().requests.get(what).copied().unwrap_or(0)
    }

    async fn serve(self, acceptor: TlsAcceptor, tcp: tokio::net::TcpStream) {
        let Ok(tls) = acceptor.accept(tcp).await else { return };
        let service = service_fn(move |request| {
            let fake = self.clone();
            async move { Ok::<_, std::convert::Infallible>(fake.answer(request).await) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or("").to_owned());
        let words: Vec<&str> = path.split('/').skip(3).collect();
        let in_namespace = words.len() > 2;
        let collection = words.len() % 2 == 1;
        let plural = if in_namespace { words[2] } else { words.first().copied().unwrap_or("") };
        let mut objects = self.0.lock().unwrap();
        *objects.requests.entry(format!("{} {plural}", head.method)).or_default() += 1;
        match (&head.method, collection) {
            (&Method::GET, _) if path == "/readyz" || plural == "serviceaccounts" => reply(200, &json!({})),
            (&Method::GET, true) if query.contains("watch=1") => objects.watch(&path),
            (&Method::GET, true) => reply(200, &objects.list(&path)),
            (&Method::GET, false) => {
                objects.by_path.get(&path).map_or_else(|| reply(404, &json!({})), |o| reply(200, o))
            }
            (&Method::POST, _) => objects.create(&path, serde_json::from_slice(&body).unwrap()),
            (&Method::PUT, _) => objects.replace(&path, serde_json::from_slice(&body).unwrap()),
            (&Method::DELETE, _) => objects.delete(&path),
            _ => reply(405, &json!({})),
        }
    }
}

impl Objects {
    fn put(&mut self, kind: &str, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.by_path.insert(path.to_owned(), object.clone());
        self.tell(kind, path, &object);
        object
    }

    fn tell(&mut self, kind: &str, path: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        // In two pieces, so that lines are put together again.
        let (head, tail) = line.split_at(line.len() / 2);
        let send = |to: &mpsc::UnboundedSender<Bytes>| {
            to.send(Bytes::from(head.to_owned())).and_then(|()| to.send(Bytes::from(tail.to_owned()))).is_ok()
        };
        self.watchers.retain(|(collection, to)| !path.starts_with(collection) || send(to));
    }

    fn create(&mut self, collection: &str, object: Value) -> Answer {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.by_path.contains_key(&path) {
            return reply(409, &json!({"message": "exists"}));
        }
        let runs = object["kind"] == "Pod" && object["spec"]["schedulingGates"].is_null();
        let mut made = self.put("ADDED", &path, object);
        if runs {
            made["status"] = json!({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]});
            made = self.put("MODIFIED", &path, made);
        }
        reply(201, &made)
    }

    fn replace(&mut self, path: &str, object: Value) -> Answer {
        match self.by_path.get(path) {
            None => reply(404, &json!({})),
            Some(old) if old["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] => {
                reply(409, &json!({"message": "changed"}))
            }
            Some(_) => reply(200, &self.put("MODIFIED", path, object)),
        }
    }

    fn delete(&mut self, path: &str) -> Answer {
        let below = format!("{path}/");
        let gone: Vec<String> =
            self.by_path.keys().filter(|key| *key == path || key.starts_with(&below)).cloned().collect();
        for key in gone {
            self.version += 1;
            let object = self.by_path.remove(&key).unwrap();
            self.tell("DELETED", &key, &object);
        }
        reply(200, &json!({}))
    }

    fn list(&self, path: &str) -> Value {
        let below = format!("{path}/");
        let items: Vec<&Value> =
            self.by_path.iter().filter(|(key, _)| key.starts_with(&below)).map(|(_, o)| o).collect();
        json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn watch(&mut self, path: &str) -> Answer {
        let (to, lines) = mpsc::unbounded_channel();
        self.watchers.push((format!("{path}/"), to));
        Response::new(BoxBody::new(Stream(lines)))
    }
}

fn reply(status: u16, body: &Value) -> Answer {
    let mut answer = Response::new(BoxBody::new(Full::new(Bytes::from(body.to_string()))));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

struct Stream(mpsc::UnboundedReceiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn acceptor(pki: &Pki) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.der().clone()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pki.server.1.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![pki.server.0.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
