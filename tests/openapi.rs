//! `docs/openapi.json` against the running server: every path and method that it lists is there, and none that is there
//! is missing.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::http_support::Server;

fn document() -> Value {
    serde_json::from_str(include_str!("../docs/openapi.json")).unwrap()
}

#[test]
fn it_is_what_the_server_serves() {
    assert_eq!(Server::plain().connect().get("/openapi.json").json(), document());
}

#[test]
fn every_path_is_served_by_its_method_and_by_no_other() {
    let server = Server::plain();
    let document = document();
    let mut client = server.connect();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{model}", "clf").replace("{version}", "1");
        let methods: BTreeSet<String> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        for method in ["GET", "POST", "PUT"] {
            let reply = client.send(method, &path, &[], b"");
            let (there, status) = (methods.contains(method), reply.status);
            assert_eq!(status != 405, there, "{method} {path}: {status}");
            assert_ne!(status, 404, "{method} {path}: {}", reply.text());
            let known = item[method.to_lowercase()]["responses"].as_object();
            if let Some(known) = known {
                assert!(
                    known.contains_key(&status.to_string()),
                    "{method} {path} answers {status}, which is not listed"
                );
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|value| walk(document, value)),
            Value::Array(values) => values.iter().for_each(|value| walk(document, value)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}
