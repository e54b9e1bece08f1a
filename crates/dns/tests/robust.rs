//! Whatever comes in: no panic, no answer longer than allowed, and what goes out is a message that others can read.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;

use corten_dns::Upstreams;
use corten_dns::answer::Settings;
use corten_dns::forward::Forwarder;
use corten_dns::responder::{Counters, Outcome, Responder, Transport};
use corten_dns::wire::message::Answer;
use corten_dns::wire::{Name, query, rtype};
use corten_dns::zone::Zone;
use hickory_proto::op::Message;
use proptest::prelude::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn responder() -> Responder {
    let zone = Zone::new(Name::from_text("cluster.local").unwrap());
    zone.put_namespace("ns");
    let service = json!({"metadata": {"name": "svc", "namespace": "ns"}, "spec": {"clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1", "fd00::1"], "ports": [{"name": "http", "port": 80}]}});
    zone.put_service(&serde_json::from_value(service).unwrap());
    let headless = json!({"metadata": {"name": "hl", "namespace": "ns"}, "spec": {"clusterIP": "None"}});
    zone.put_service(&serde_json::from_value(headless).unwrap());
    let endpoints: Vec<_> = (0..200)
        .map(|i| json!({"addresses": [format!("10.0.1.{i}")], "hostname": format!("h-{i}")}))
        .collect();
    let slice = json!({"metadata": {"name": "hl-1", "namespace": "ns", "labels":
        {"kubernetes.io/service-name": "hl"}}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
    zone.put_slice(&serde_json::from_value(slice).unwrap());
    for (name, target) in
        [("ext", "a.b.c"), ("in", "hl.ns.svc.cluster.local"), ("me", "me.ns.svc.cluster.local")]
    {
        let service = json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"type": "ExternalName", "externalName": target}});
        zone.put_service(&serde_json::from_value(service).unwrap());
    }
    zone.mark_synced();
    Responder {
        zone: Arc::new(zone),
        forwarder: Forwarder::new(Upstreams::Fixed(vec![]), &[], &[], CancellationToken::new()).unwrap(),
        settings: Settings { ttl: 30, servers: vec!["10.0.0.10".parse().unwrap()] },
        counters: Counters::default(),
    }
}

fn check(responder: &Responder, message: &[u8]) {
    let mut out = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        match responder.respond(message, transport, &mut out) {
            Outcome::Ignore => assert!(message.len() < 12 || message[2] & 0x80 != 0),
            Outcome::Forward(_) => panic!("there is nobody to ask"),
            Outcome::Reply => {
                let most = if transport == Transport::Udp { 1232 } else { 65535 };
                assert!((12..=most).contains(&out.len()), "{} bytes", out.len());
                assert_eq!(out[..2], message[..2]);
                assert_ne!(out[2] & 0x80, 0);
                // Labels that are no text are beyond what the other side reads.
                if message.iter().skip(12).all(u8::is_ascii) {
                    let read = Message::from_vec(&out);
                    assert!(read.is_ok(), "{message:02x?}\n{out:02x?}\n{read:?}");
                }
            }
        }
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("svc".to_owned()),
        Just("ns".to_owned()),
        Just("hl".to_owned()),
        Just("pod".to_owned()),
        Just("ext".to_owned()),
        Just("in".to_owned()),
        Just("me".to_owned()),
        Just("_http".to_owned()),
        Just("_tcp".to_owned()),
        Just("dns-version".to_owned()),
        Just("in-addr".to_owned()),
        "[a-z0-9_*-]{1,20}",
        "[0-9]{1,3}(-[0-9]{1,3}){3}",
    ]
}

fn question() -> impl Strategy<Value = Vec<u8>> {
    let zones = prop_oneof![Just("cluster.local"), Just("svc.cluster.local"), Just("arpa"), Just("com")];
    let kinds = prop_oneof![Just(1u16), Just(28), Just(33), Just(255), Just(5), Just(252), any::<u16>()];
    (proptest::collection::vec(label(), 0..6), zones, kinds, any::<bool>()).prop_filter_map(
        "a name",
        |(labels, zone, kind, dnssec)| {
            let text = labels.iter().map(String::as_str).chain([zone]).collect::<Vec<_>>().join(".");
            Some(query::build(77, &Name::from_text(&text)?, kind, dnssec, false))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(message in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&responder(), &message);
    }

    #[test]
    fn questions(message in question()) {
        check(&responder(), &message);
    }

    #[test]
    fn questions_with_errors(mut message in question(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let index = at.index(message.len());
        message[index] = byte;
        message.truncate(cut.index(message.len()) + 1);
        check(&responder(), &message);
    }

    #[test]
    fn answers_of_others(bytes in proptest::collection::vec(any::<u8>(), 0..300), records in 0u8..4) {
        let name = Name::from_text("a.b").unwrap();
        // Behind a right header and question, anything.
        let mut message = query::build(7, &name, rtype::A, false, false);
        message.truncate(21);
        (message[2], message[7], message[11]) = (0x80, records, records);
        message.extend(bytes);
        let _ = Answer::read(message, 7, &name, rtype::A);
    }
}
