//! The one test binary: modules by kind.

mod audit;
#[cfg(feature = "lab")]
mod lab;
