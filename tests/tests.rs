//! The one test binary: modules by kind.

mod http;
mod http_limits;
mod http_support;
#[cfg(feature = "lab")]
mod lab;
