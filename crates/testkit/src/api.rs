//! Requests that kubectl would not make: plain HTTP through `kubectl proxy`, which adds TLS and the admin's certificate.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::kubectl::{Namespace, Running};
use crate::wait::PATIENCE;

/// A `kubectl proxy`, ended with the value.
pub struct Api {
    address: String,
    _proxy: Running,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    /// What was asked.
    pub question: String,
    /// The HTTP status.
    pub code: u16,
    /// Status line and headers as sent.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Api {
    /// Starts a proxy to the cluster of this namespace.
    pub fn of(ns: &Namespace<'_>) -> Self {
        let mut proxy = ns.spawn(&["proxy", "--port=0"]);
        let line = proxy.lines().recv_timeout(PATIENCE).expect("kubectl proxy says where it listens");
        let address = line.rsplit(' ').next().expect("the last word").to_owned();
        Self { address, _proxy: proxy }
    }

    /// Asks; `headers` are lines like `Accept: text/html`.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        // HTTP/1.0 answers end with the connection and come unchunked.
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n", self.address);
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        // One write: a proxy that answers from the head alone closes its socket, and what arrives
        // after that resets the connection before the answer is read.
        let question = [head.as_bytes(), body].concat();
        let mut stream = TcpStream::connect(&self.address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(&question).expect("the proxy reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the proxy answers");
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("headers end with an empty line");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        Answer { question: format!("{method} {path}"), code, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Answer {
    /// Panics unless this is a `Status` with this code and reason whose message contains `message`.
    #[track_caller]
    pub fn fails(&self, code: u16, reason: &str, message: &str) -> &Self {
        let status: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(self.code, code, "{self:?}");
        let told = ["kind", "apiVersion", "status", "reason"]
            .map(|field| status[field].as_str().unwrap_or_default());
        assert_eq!(told, ["Status", "v1", "Failure", reason], "{self:?}");
        assert_eq!(status["code"], code, "{self:?}");
        assert!(
            status["message"].as_str().is_some_and(|text| text.contains(message)),
            "no {message:?} in {self:?}"
        );
        self
    }

    /// Panics unless the code is this one.
    #[track_caller]
    pub fn is(&self, code: u16) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}
