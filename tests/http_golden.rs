//! Request and answer pairs, byte for byte, in `tests/golden`: `NAME.request` is a line `METHOD PATH`, header
//! lines, an empty line and the body; `NAME.response` is the status, the headers that mean something, an empty
//! line and the body. The server is the stub of `http_support`.
//!
//! `SORDINO_BLESS=1` writes the answers anew; the difference is then read by a person.

use std::fs;
use std::path::{Path, PathBuf};

use crate::http_support::Server;

/// Headers that stand in an answer's file.
const HEADERS: [&str; 5] = ["allow", "content-type", "inference-header-content-length", "retry-after", "connection"];

fn split(file: &[u8]) -> (Vec<String>, &[u8]) {
    let end = file.windows(2).position(|window| window == b"\n\n").expect("an empty line ends the head");
    let head = std::str::from_utf8(&file[..end]).expect("a head is text");
    (head.lines().map(str::to_owned).collect(), &file[end + 2..])
}

fn answer(server: &Server, request: &[u8]) -> Vec<u8> {
    let (lines, body) = split(request);
    let (method, path) = lines[0].split_once(' ').expect("METHOD PATH");
    let headers: Vec<(&str, &str)> = lines[1..].iter().filter_map(|line| line.split_once(": ")).collect();
    let reply = server.connect().send(method, path, &headers, body);
    let mut file = format!("{}\n", reply.status);
    for name in HEADERS {
        if let Some(value) = reply.header(name) {
            file += &format!("{name}: {value}\n");
        }
    }
    file.push('\n');
    [file.as_bytes(), &reply.body].concat()
}

#[test]
fn answers_are_those_on_disk() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut requests: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "request")).collect();
    requests.sort();
    assert!(requests.len() >= 20, "{} requests in {}", requests.len(), folder.display());
    let server = Server::plain();
    for request in requests {
        let got = answer(&server, &fs::read(&request).unwrap());
        let response = request.with_extension("response");
        if std::env::var_os("SORDINO_BLESS").is_some() {
            fs::write(&response, &got).unwrap();
        }
        let expected = fs::read(&response).unwrap_or_default();
        assert!(
            got == expected,
            "{}\n got {}\n not {}",
            request.display(),
            got.escape_ascii(),
            expected.escape_ascii()
        );
    }
}
