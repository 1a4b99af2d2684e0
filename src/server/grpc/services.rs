//! Reflection, as `tonic` serves it, from the committed descriptors: which services and messages there are.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_reflection::server::Builder;

use super::super::connection::AnswerBody;
use super::super::handler::Reply;
use crate::protocol::grpc::DESCRIPTORS;

/// The longest question about a service.
const MAX_QUESTION: usize = 16 << 10;

/// A service of tonic's whose type has no name.
trait Served: Send + Sync {
    fn serve(&self, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
}

impl<S> Served for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn serve(&self, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        let answer = self.clone().call(request);
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                Err(never) => match never {},
            }
        })
    }
}

/// The services that are none of the models'.
pub(in crate::server) struct Services {
    /// Reflection v1 and v1alpha; none where the descriptors cannot be read, which a test excludes.
    reflection: Option<[Box<dyn Served>; 2]>,
}

impl Services {
    pub(in crate::server) fn new() -> Self {
        let builder = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = builder().build_v1().map(|service| service.max_decoding_message_size(MAX_QUESTION));
        let v1alpha = builder().build_v1alpha().map(|service| service.max_decoding_message_size(MAX_QUESTION));
        let both = v1.ok().zip(v1alpha.ok());
        Self { reflection: both.map(|(v1, v1alpha)| [Box::new(v1) as Box<dyn Served>, Box::new(v1alpha)]) }
    }

    /// Answers a call of reflection.
    pub(super) async fn reflect(&self, head: Parts, body: Incoming) -> Reply {
        let alpha = head.uri.path().contains("v1alpha");
        match &self.reflection {
            Some(both) => {
                let service = if alpha { &both[1] } else { &both[0] };
                service.serve(Request::from_parts(head, Body::new(body))).await.map(AnswerBody::foreign)
            }
            None => tonic::Status::unimplemented("no reflection").into_http::<()>().map(|()| AnswerBody::new("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Services;

    #[test]
    fn the_descriptors_can_be_served() {
        assert!(Services::new().reflection.is_some());
    }
}
