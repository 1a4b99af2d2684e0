//! The one test binary: modules by kind.

#[cfg(feature = "lab")]
mod lab;
