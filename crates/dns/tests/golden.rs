//! Each rule of the specification as a case: `testdata/CASE/objects.yaml` and `answers.txt`, in which every line `? NAME TYPE`
//! is followed by the answer. `UPDATE_EXPECT=1` writes the answers anew. They are read back with hickory-proto.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use corten_dns::answer::Settings;
use corten_dns::forward::Forwarder;
use corten_dns::responder::{Counters, Outcome, Responder, Transport};
use corten_dns::wire::Name;
use corten_dns::zone::Zone;
use corten_dns::{DEFAULT_TTL, Upstreams};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name as HickoryName, Record, RecordType};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

fn responder(objects: &str) -> Responder {
    let zone = Zone::new(Name::from_text("cluster.local").unwrap());
    let objects: Vec<Value> = serde_saphyr::from_str(objects).unwrap();
    for object in objects {
        match object["kind"].as_str().unwrap() {
            "Namespace" => zone.put_namespace(object["metadata"]["name"].as_str().unwrap()),
            "Service" => zone.put_service(&serde_json::from_value(object).unwrap()),
            "EndpointSlice" => zone.put_slice(&serde_json::from_value(object).unwrap()),
            other => panic!("{other}"),
        }
    }
    zone.mark_synced();
    let stop = CancellationToken::new();
    Responder {
        zone: Arc::new(zone),
        forwarder: Forwarder::new(Upstreams::Fixed(Vec::new()), &[], &[], stop).unwrap(),
        settings: Settings { ttl: DEFAULT_TTL, servers: vec!["10.96.0.10".parse().unwrap()] },
        counters: Counters::default(),
    }
}

/// The answer to `NAME TYPE [edns] [tcp] [id=N]` as text.
fn ask(responder: &Responder, question: &str) -> String {
    let words: Vec<&str> = question.split_whitespace().collect();
    let mut message = Message::query();
    let id = words.iter().find_map(|word| word.strip_prefix("id=")).map_or(0, |id| id.parse().unwrap());
    message.metadata.id = id;
    let kind = RecordType::from_str(words[1]).unwrap();
    message.add_query(Query::query(HickoryName::from_ascii(words[0]).unwrap(), kind));
    if words.contains(&"edns") {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    let transport = if words.contains(&"tcp") { Transport::Tcp } else { Transport::Udp };
    let (bytes, mut out) = (message.to_vec().unwrap(), Vec::new());
    let outcome = responder.respond(&bytes, transport, &mut out);
    assert!(matches!(outcome, Outcome::Reply), "{question}");
    let most = if transport == Transport::Tcp {
        65535
    } else if words.contains(&"edns") {
        1232
    } else {
        512
    };
    assert!(out.len() <= most, "{question}: {} bytes", out.len());
    let reply = Message::from_vec(&out).unwrap_or_else(|e| panic!("{question}: {e}"));
    assert_eq!(reply.metadata.id, id);
    let asked = reply.queries[0].name().to_ascii();
    assert_eq!(asked, words[0], "the question comes back as it was written");
    describe(&reply)
}

fn describe(reply: &Message) -> String {
    let mut text = format!("{:?}", reply.metadata.response_code);
    for (name, set) in [
        (" aa", reply.metadata.authoritative),
        (" tc", reply.metadata.truncation),
        (" ra", reply.metadata.recursion_available),
        (" edns", reply.edns.is_some()),
    ] {
        text.push_str(if set { name } else { "" });
    }
    text.push('\n');
    let sections =
        [("", &reply.answers), ("authority ", &reply.authorities), ("additional ", &reply.additionals)];
    for (section, records) in sections {
        for record in records {
            writeln!(text, "  {section}{}", line(record)).unwrap();
        }
    }
    text
}

/// The serial is the time of the last change.
fn line(record: &Record) -> String {
    let mut words: Vec<String> = record.to_string().split_whitespace().map(str::to_owned).collect();
    if record.record_type() == RecordType::SOA {
        words[6] = "SERIAL".to_owned();
    }
    words.join(" ")
}

fn run(case: &Path) {
    let objects = std::fs::read_to_string(case.join("objects.yaml")).unwrap();
    let responder = responder(&objects);
    let file = case.join("answers.txt");
    let expected = std::fs::read_to_string(&file).unwrap();
    let mut found = String::new();
    for line in expected.lines().filter(|line| line.starts_with(['?', '#'])) {
        writeln!(found, "{line}").unwrap();
        if let Some(question) = line.strip_prefix("? ") {
            found.push_str(&ask(&responder, question));
        }
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&file, found).unwrap();
    } else {
        assert!(found == expected, "{}:\n{found}\nexpected:\n{expected}", file.display());
    }
}

#[test]
fn answers_are_as_the_specification_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata");
    let mut cases: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 8);
    cases.iter().for_each(|case| run(case));
}
