//! The server as a client sees it, over real sockets on loopback, with small upstream servers of the test's own.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corten_client::Informer;
use corten_dns::{Config, Inputs, Server, StubDomain, Upstreams};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(of: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name(of), kind));
    message.metadata.recursion_desired = true;
    message
}

/// A DNS server that answers with what `make` makes of the question, over UDP and TCP.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _stop: tokio_util::sync::DropGuard,
}

impl Upstream {
    async fn start(make: impl Fn(&Message, &mut Message, bool) + Send + Sync + 'static) -> Upstream {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, asked, stop) =
            (udp.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (count, make) = (asked.clone(), Arc::new(make));
        let answer = move |bytes: &[u8], over_tcp: bool| {
            let query = Message::from_vec(bytes).unwrap();
            let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
            reply.add_query(query.queries[0].clone());
            reply.metadata.recursion_available = true;
            // Not the question that looks for loops.
            if query.queries[0].query_type() != RecordType::HINFO {
                count.fetch_add(1, Ordering::SeqCst);
            }
            make(&query, &mut reply, over_tcp);
            reply.to_vec().unwrap()
        };
        let ended = stop.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    Ok((length, client)) = udp.recv_from(&mut buffer) => {
                        udp.send_to(&answer(&buffer[..length], false), client).await.unwrap();
                    }
                    Ok((mut stream, _)) = tcp.accept() => {
                        let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                        stream.read_exact(&mut query).await.unwrap();
                        let reply = answer(&query, true);
                        stream.write_u16(reply.len() as u16).await.unwrap();
                        stream.write_all(&reply).await.unwrap();
                    }
                }
            }
        });
        Upstream { address, asked, _stop: stop.drop_guard() }
    }

    /// Answers every question for addresses with this one.
    async fn with_address(address: [u8; 4], ttl: u32) -> Upstream {
        Upstream::start(move |query, reply, _| {
            let asked = &query.queries[0];
            if asked.query_type() == RecordType::A {
                reply.add_answer(Record::from_rdata(asked.name().clone(), ttl, RData::A(A(address.into()))));
            }
        })
        .await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Dns {
    address: SocketAddr,
    inputs: Inputs,
    http: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), corten_dns::Error>>,
}

impl Dns {
    fn start(upstreams: &[SocketAddr], stubs: Vec<StubDomain>) -> Dns {
        let inputs = Inputs {
            services: Informer::detached(),
            slices: Informer::detached(),
            namespaces: Informer::detached(),
        };
        inputs.services.mark_synced();
        inputs.slices.mark_synced();
        inputs.namespaces.mark_synced();
        Self::over(inputs, upstreams, stubs)
    }

    fn over(inputs: Inputs, upstreams: &[SocketAddr], stubs: Vec<StubDomain>) -> Dns {
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            upstreams: Upstreams::Fixed(upstreams.to_vec()),
            stub_domains: stubs,
            http: Some(http),
            udp_threads: 2,
            ..Config::default()
        };
        let stop = CancellationToken::new();
        let server = Server::bind(inputs.clone(), &config, stop.clone()).unwrap();
        let address = server.addresses()[0];
        Dns { address, inputs, http, stop, running: tokio::spawn(server.run()) }
    }

    fn put_service(&self, name: &str, spec: Value) {
        let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        self.inputs.services.apply(serde_json::from_value(object).unwrap());
    }

    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(bytes).await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn ask(&self, message: &Message) -> Message {
        let reply = Message::from_vec(&self.send(&message.to_vec().unwrap()).await).unwrap();
        assert_eq!(reply.metadata.id, message.metadata.id);
        assert_eq!(reply.queries, message.queries);
        reply
    }

    /// Response code and data of the answers.
    async fn look_up(&self, of: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let reply = self.ask(&question(of, kind)).await;
        (reply.metadata.response_code, reply.answers.iter().map(|record| record.data.to_string()).collect())
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
    }
}

fn ok(data: &[&str]) -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, data.iter().map(|text| (*text).to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_object_is_answered_from_at_once() {
    let dns = Dns::start(&[], vec![]);
    let web = "web.ns.svc.cluster.local.";
    assert_eq!(dns.look_up(web, RecordType::A).await.0, ResponseCode::NXDomain);
    dns.put_service("web", json!({"clusterIP": "None"}));
    let slice = |service: &str, addresses: &[&str]| {
        let endpoints: Vec<Value> = addresses.iter().map(|a| json!({"addresses": [a]})).collect();
        serde_json::from_value(json!({"metadata": {"name": "web-1", "namespace": "ns",
            "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "endpoints": endpoints}))
        .unwrap()
    };
    for turn in 0..20u8 {
        let address = format!("10.0.0.{turn}");
        dns.inputs.slices.apply(slice("web", &[&address]));
        assert_eq!(dns.look_up(web, RecordType::A).await, ok(&[&address]));
        let back = format!("{turn}.0.0.10.in-addr.arpa.");
        let pointer = format!("10-0-0-{turn}.{web}");
        assert_eq!(dns.look_up(&back, RecordType::PTR).await, ok(&[&pointer]));
    }
    assert_eq!(dns.look_up("0.0.0.10.in-addr.arpa.", RecordType::PTR).await.0, ResponseCode::Refused);
    // The slice is given to another service.
    dns.inputs.slices.apply(slice("other", &["10.0.0.1"]));
    assert_eq!(dns.look_up(web, RecordType::A).await.0, ResponseCode::NXDomain);
    dns.put_service("other", json!({"clusterIP": "None"}));
    assert_eq!(dns.look_up("other.ns.svc.cluster.local.", RecordType::A).await, ok(&["10.0.0.1"]));
    dns.inputs.slices.delete(&corten_client::Key::new("ns", "web-1"));
    assert_eq!(dns.look_up("other.ns.svc.cluster.local.", RecordType::A).await.0, ResponseCode::NXDomain);
    dns.put_service("web", json!({"clusterIP": "10.9.0.1", "ports": [{"port": 80}]}));
    assert_eq!(dns.look_up(web, RecordType::A).await, ok(&["10.9.0.1"]));
    dns.put_service("web", json!({"clusterIP": "10.9.0.2", "ports": [{"port": 80}]}));
    assert_eq!(dns.look_up("2.0.9.10.in-addr.arpa.", RecordType::PTR).await, ok(&[web]));
    assert_eq!(dns.look_up("1.0.9.10.in-addr.arpa.", RecordType::PTR).await.0, ResponseCode::Refused);
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_lists_nothing_is_denied() {
    let inputs = Inputs {
        services: Informer::detached(),
        slices: Informer::detached(),
        namespaces: Informer::detached(),
    };
    let dns = Dns::over(inputs, &[], vec![]);
    assert_eq!(dns.look_up("web.ns.svc.cluster.local.", RecordType::A).await.0, ResponseCode::ServFail);
    dns.put_service("web", json!({"clusterIP": "10.9.0.1", "ports": [{"port": 80}]}));
    assert_eq!(dns.look_up("web.ns.svc.cluster.local.", RecordType::A).await, ok(&["10.9.0.1"]));
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_and_several_questions_go_over_tcp() {
    let dns = Dns::start(&[], vec![]);
    dns.put_service("web", json!({"clusterIP": "None"}));
    let endpoints: Vec<Value> = (0..200).map(|i| json!({"addresses": [format!("10.0.0.{i}")]})).collect();
    let slice = json!({"metadata": {"name": "web-1", "namespace": "ns",
        "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4", "endpoints": endpoints});
    dns.inputs.slices.apply(serde_json::from_value(slice).unwrap());
    let message = question("web.ns.svc.cluster.local.", RecordType::A);
    let cut = dns.ask(&message).await;
    assert!(cut.metadata.truncation && !cut.answers.is_empty() && cut.answers.len() < 200);
    let mut stream = TcpStream::connect(dns.address).await.unwrap();
    for _ in 0..3 {
        let bytes = message.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        let whole = Message::from_vec(&reply).unwrap();
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
    // A client that says nothing sensible loses its connection, and nobody else does.
    let mut other = TcpStream::connect(dns.address).await.unwrap();
    other.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    assert_eq!(other.read(&mut [0; 16]).await.unwrap_or(0), 0);
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_strange_messages() {
    let dns = Dns::start(&[], vec![]);
    let good = question("svc.cluster.local.", RecordType::A);
    let bytes = good.to_vec().unwrap();
    let code = |reply: Vec<u8>| Message::from_vec(&reply).unwrap().metadata.response_code;
    assert_eq!(code(dns.send(&bytes[..20]).await), ResponseCode::FormErr);
    let mut notify = bytes.clone();
    notify[2] |= 4 << 3;
    assert_eq!(code(dns.send(&notify).await), ResponseCode::NotImp);
    let mut chaos = bytes.clone();
    let last = chaos.len() - 1;
    chaos[last] = 3;
    assert_eq!(code(dns.send(&chaos).await), ResponseCode::Refused);
    let mut later = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    later.set_edns(edns);
    let reply = dns.ask(&later).await;
    assert_eq!(u16::from(reply.metadata.response_code), 16, "BADVERS");
    assert_eq!(reply.edns.unwrap().version(), 0);
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_asked_once_and_kept() {
    let upstream = Upstream::with_address([192, 0, 2, 1], 3600).await;
    let dns = Dns::start(&[upstream.address], vec![]);
    for (asked, of) in [(1, "a.example."), (1, "A.Example."), (2, "b.example."), (2, "a.example.")] {
        let reply = dns.ask(&question(of, RecordType::A)).await;
        assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
        assert_eq!(reply.answers[0].data.to_string(), "192.0.2.1");
        assert!(reply.answers[0].ttl <= 30, "kept no longer than kubeadm's CoreDNS does");
        assert_eq!(upstream.asked(), asked, "{of}");
    }
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_answers_are_kept_as_long_as_their_soa_says() {
    let upstream = Upstream::start(|query, reply, _| {
        reply.metadata.response_code = ResponseCode::NXDomain;
        let minimum = if query.queries[0].name().to_string().starts_with("kept") { 60 } else { 0 };
        let soa = SOA::new(name("ns.example."), name("h.example."), 1, 1, 1, 1, minimum);
        reply.authorities.push(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
    })
    .await;
    let dns = Dns::start(&[upstream.address], vec![]);
    for (asked, of) in [(1, "kept.example."), (1, "kept.example."), (2, "not.example."), (3, "not.example.")]
    {
        assert_eq!(dns.look_up(of, RecordType::A).await.0, ResponseCode::NXDomain);
        assert_eq!(upstream.asked(), asked, "{of}");
    }
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_cut_are_asked_for_over_tcp() {
    let upstream = Upstream::start(|query, reply, over_tcp| {
        let of = query.queries[0].name();
        if !over_tcp {
            reply.metadata.truncation = true;
            return;
        }
        for i in 0..60 {
            reply.add_answer(Record::from_rdata(of.clone(), 60, RData::A(A([192, 0, 2, i].into()))));
        }
    })
    .await;
    let dns = Dns::start(&[upstream.address], vec![]);
    let mut message = question("many.example.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    assert_eq!(dns.ask(&message).await.answers.len(), 60);
    // The same from memory, for a client that takes less.
    let cut = dns.ask(&question("many.example.", RecordType::A)).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 60);
    assert_eq!(upstream.asked(), 2);
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_passed_over() {
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failing = Upstream::start(|_, reply, _| reply.metadata.response_code = ResponseCode::ServFail).await;
    let good = Upstream::with_address([192, 0, 2, 2], 60).await;
    let dns = Dns::start(&[gone, failing.address, good.address], vec![]);
    for i in 0..5 {
        assert_eq!(dns.look_up(&format!("n{i}.example."), RecordType::A).await, ok(&["192.0.2.2"]));
    }
    assert_eq!(good.asked(), 5);
    dns.end().await;
    let alone = Dns::start(&[gone], vec![]);
    assert_eq!(alone.look_up("a.example.", RecordType::A).await.0, ResponseCode::ServFail);
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stub_domains_have_their_own_servers() {
    let (everyone, stub, deeper) = (
        Upstream::with_address([192, 0, 2, 1], 60).await,
        Upstream::with_address([192, 0, 2, 2], 60).await,
        Upstream::with_address([192, 0, 2, 3], 60).await,
    );
    let domain = |domain: &str, upstream: &Upstream| StubDomain {
        domain: domain.to_owned(),
        servers: vec![upstream.address],
    };
    let stubs = vec![domain("corp.example", &stub), domain("deep.corp.example.", &deeper)];
    let dns = Dns::start(&[everyone.address], stubs);
    for (of, address) in [
        ("a.example.", "192.0.2.1"),
        ("corp.example.", "192.0.2.2"),
        ("a.CORP.example.", "192.0.2.2"),
        ("notcorp.example.", "192.0.2.1"),
        ("a.deep.corp.example.", "192.0.2.3"),
    ] {
        assert_eq!(dns.look_up(of, RecordType::A).await, ok(&[address]), "{of}");
    }
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn external_names_are_followed() {
    let upstream = Upstream::start(|query, reply, _| {
        let asked = &query.queries[0];
        match asked.name().to_string().as_str() {
            "www.example." if asked.query_type() == RecordType::A => {
                let target = name("host.example.");
                reply.add_answer(Record::from_rdata(
                    asked.name().clone(),
                    60,
                    RData::CNAME(CNAME(target.clone())),
                ));
                reply.add_answer(Record::from_rdata(target, 60, RData::A(A([192, 0, 2, 7].into()))));
            }
            "www.example." => {}
            "broken.example." => reply.metadata.response_code = ResponseCode::ServFail,
            _ => reply.metadata.response_code = ResponseCode::NXDomain,
        }
    })
    .await;
    let dns = Dns::start(&[upstream.address], vec![]);
    for (service, target) in
        [("ext", "www.example"), ("nowhere", "none.example."), ("broken", "broken.example")]
    {
        dns.put_service(service, json!({"type": "ExternalName", "externalName": target}));
    }
    dns.put_service("over", json!({"type": "ExternalName", "externalName": "ext.ns.svc.cluster.local"}));
    let full = |service: &str| format!("{service}.ns.svc.cluster.local.");
    for _ in 0..2 {
        let chain = ok(&["www.example.", "host.example.", "192.0.2.7"]);
        assert_eq!(dns.look_up(&full("ext"), RecordType::A).await, chain);
        assert_eq!(dns.look_up(&full("ext"), RecordType::AAAA).await, ok(&["www.example."]));
        let longer = ok(&["ext.ns.svc.cluster.local.", "www.example.", "host.example.", "192.0.2.7"]);
        assert_eq!(dns.look_up(&full("over"), RecordType::A).await, longer);
        assert_eq!(dns.look_up(&full("nowhere"), RecordType::A).await, ok(&["none.example."]));
        assert_eq!(dns.look_up(&full("broken"), RecordType::A).await.0, ResponseCode::ServFail);
    }
    assert_eq!(dns.look_up(&full("ext"), RecordType::CNAME).await, ok(&["www.example."]));
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forwards_to_us_is_found_out() {
    // The "other" server is a second one of ours, which asks the first.
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = Dns::start(&[relay.local_addr().unwrap()], vec![]);
    let target = dns.address;
    let relaying = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, client) = relay.recv_from(&mut buffer).await.unwrap();
            let onwards = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            onwards.send_to(&buffer[..length], target).await.unwrap();
            if let Ok(Ok(length)) =
                tokio::time::timeout(Duration::from_millis(200), onwards.recv(&mut buffer)).await
            {
                relay.send_to(&buffer[..length], client).await.unwrap();
            }
        }
    });
    let first = dns.look_up("a.example.", RecordType::A).await.0;
    assert_ne!(first, ResponseCode::NoError);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while dns.look_up("b.example.", RecordType::A).await.0 != ResponseCode::Refused {
        assert!(tokio::time::Instant::now() < deadline, "the loop is not found");
    }
    relaying.abort();
    dns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_readiness() {
    let dns = Dns::start(&[], vec![]);
    dns.put_service("web", json!({"clusterIP": "10.9.0.1", "ports": [{"port": 80}]}));
    dns.look_up("web.ns.svc.cluster.local.", RecordType::A).await;
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(dns.http).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let metrics = get("/metrics").await;
    for line in ["requests_total{proto=\"udp\"} 1", "responses_total{rcode=\"NOERROR\"} 1", "services 1"] {
        assert!(metrics.contains(&format!("\ncorten_dns_{line}\n")), "{line}\n{metrics}");
    }
    assert!(get("/ready").await.starts_with("HTTP/1.1 200 "));
    assert!(get("/other").await.starts_with("HTTP/1.1 404 "));
    dns.end().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = Config { listen: vec![taken.local_addr().unwrap()], ..Config::default() };
    let inputs = Inputs {
        services: Informer::detached(),
        slices: Informer::detached(),
        namespaces: Informer::detached(),
    };
    let error = corten_dns::run(inputs, config, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:"), "{error}");
}
