//! The one test binary: modules by kind.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails by panicking, as the test itself does")]
#![allow(unreachable_pub, reason = "a test binary has one crate and nobody outside")]

mod audit;
mod http;
mod http_golden;
mod http_limits;
mod http_support;
#[cfg(feature = "lab")]
mod lab;
mod layering;
