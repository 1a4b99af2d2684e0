//! The one test binary: modules by kind.

#[cfg(feature = "lab")]
mod lab;
mod http;
mod http_golden;
mod http_limits;
mod http_support;
