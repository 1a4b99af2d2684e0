//! A request over REST, written: every byte of its head is ours, but for the three fields that name it to those who follow it
//! through the servers.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Uri;

use super::connection::Written;
use super::target::Target;
use crate::engine::CallContext;
use crate::engine::upstream::{Fault, WireRequest};
use crate::protocol::oip::HEADER_LENGTH;

/// A request of ours, for whichever server will get it.
pub(super) struct RestCall {
    method: &'static str,
    path: Arc<str>,
    /// The fields of the head that are alike for all servers.
    fields: Vec<u8>,
    body: Bytes,
}

/// A path that may stand in a head.
///
/// # Errors
/// [`Fault::Inputs`] for one that is none.
pub(super) fn checked(path: &str) -> Result<Arc<str>, Fault> {
    let is_path = path.is_empty() || path.parse().is_ok_and(|uri: Uri| uri.path_and_query().is_some_and(|p| p == path));
    if is_path { Ok(Arc::from(path)) } else { Err(Fault::Inputs("the path is none".to_owned())) }
}

impl RestCall {
    /// # Errors
    /// As [`checked`].
    pub(super) fn get(path: &str) -> Result<Self, Fault> {
        let fields = b"accept-encoding: identity\r\n".to_vec();
        Ok(Self { method: "GET", path: checked(path)?, fields, body: Bytes::new() })
    }

    /// A request for scores, to a path that has been checked.
    pub(super) fn infer(path: Arc<str>, request: WireRequest, call: &CallContext) -> Self {
        let WireRequest { header_length, body } = request;
        let mut fields = Vec::with_capacity(256);
        let length = body.len();
        // Writing into a vector does not fail.
        let _ = write!(fields, "accept-encoding: identity\r\ncontent-length: {length}\r\n");
        let _ = match header_length {
            Some(length) => {
                write!(fields, "content-type: application/octet-stream\r\n{HEADER_LENGTH}: {length}\r\n")
            }
            None => fields.write_all(b"content-type: application/json\r\n"),
        };
        let named = [
            ("x-request-id", Some(&*call.request_id)),
            ("traceparent", call.traceparent.as_deref()),
            ("tracestate", call.tracestate.as_deref()),
        ];
        for (name, value) in named {
            if let Some(value) = value.filter(|value| is_field_value(value)) {
                let _ = write!(fields, "{name}: {value}\r\n");
            }
        }
        Self { method: "POST", path, fields, body }
    }

    /// The request to one server.
    pub(super) fn written(&self, target: &Target) -> Written {
        let authority = target.authority.as_bytes();
        let parts: [&[u8]; 9] = [
            self.method.as_bytes(),
            b" ",
            target.prefix.as_bytes(),
            self.path.as_bytes(),
            b" HTTP/1.1\r\nhost: ",
            authority,
            b"\r\n",
            &self.fields,
            b"\r\n",
        ];
        Written { head: parts.concat().into(), body: self.body.clone() }
    }
}

/// Whether something may stand in a head: nothing that ends a line, nothing that is no text.
fn is_field_value(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| matches!(byte, b' ' | b'\t') || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(call: &CallContext, path: &str) -> String {
        let request = WireRequest { header_length: Some(3), body: Bytes::from_static(b"{} 1234") };
        let call = RestCall::infer(Arc::from(path), request, call);
        let written = call.written(&Target::parse("http://clf.default:8080/prefix/").unwrap());
        String::from_utf8(written.head.to_vec()).unwrap()
    }

    #[test]
    fn a_request_is_written_as_a_whole() {
        let call = CallContext { request_id: "id-1".into(), ..CallContext::default() };
        let expected = "POST /prefix/v2/models/m/infer HTTP/1.1\r\nhost: clf.default:8080\r\naccept-encoding: identity\r\n\
                        content-length: 7\r\ncontent-type: application/octet-stream\r\n\
                        inference-header-content-length: 3\r\nx-request-id: id-1\r\n\r\n";
        assert_eq!(head(&call, "/v2/models/m/infer"), expected);
    }

    #[test]
    fn nothing_from_outside_ends_a_line_of_the_head() {
        let call = CallContext {
            request_id: "a\r\nhost: b".into(),
            traceparent: Some("00-1".to_owned()),
            tracestate: Some("a=b\n".to_owned()),
            ..CallContext::default()
        };
        let head = head(&call, "/");
        assert!(!head.contains("x-request-id") && !head.contains("tracestate"), "{head}");
        assert!(head.ends_with("traceparent: 00-1\r\n\r\n"), "{head}");
        for path in ["/a b", "/a\r\nb: c", "a", "http://a/b", "/a#b"] {
            assert!(checked(path).is_err() && RestCall::get(path).is_err(), "{path}");
        }
        assert!(checked("/v2/models/m%20n/infer").is_ok() && checked("").is_ok());
    }
}
