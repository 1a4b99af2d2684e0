//! The one test binary: modules by kind.

mod audit;
mod http;
mod http_golden;
mod http_limits;
mod http_support;
#[cfg(feature = "lab")]
mod lab;
mod layering;
