//! What goes along to a model in another server: the request's id, where it stands in a trace, and its deadline. Nothing
//! else of a client's head does.

use std::time::Instant;

use hyper::header::{HeaderMap, HeaderName};

use crate::engine::CallContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The context of a request with this head and id of ours, which began to arrive at `started`.
pub(super) fn context(headers: &HeaderMap, id: &str, started: Instant, deadline: Option<Instant>) -> CallContext {
    let word = |name: HeaderName, max: usize| {
        let text = headers.get(name)?.to_str().ok()?;
        (1..=max).contains(&text.len()).then(|| text.to_owned())
    };
    // The first stands for the second: a state without a parent says nothing.
    let is_hex = |text: &String| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let traceparent = word(TRACEPARENT, 128).filter(is_hex);
    let tracestate = traceparent.as_ref().and_then(|_| word(TRACESTATE, 512));
    CallContext { request_id: id.into(), traceparent, tracestate, started: Some(started), deadline }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn only_a_trace_that_looks_like_one_goes_along() {
        let of = |parent: &'static str| {
            let headers = [(TRACEPARENT, parent), (TRACESTATE, "a=b")];
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
            let context = context(&headers.into_iter().collect(), "id", Instant::now(), None);
            (context.traceparent, context.tracestate)
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(good), (Some(good.to_owned()), Some("a=b".to_owned())));
        for bad in ["", "x", "00-4bf9 2f35"] {
            assert_eq!(of(bad), (None, None), "{bad:?}");
        }
    }
}
