//! The one test binary: modules by kind.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its purpose")]
#![allow(unreachable_pub, reason = "a test binary has one crate and nobody outside")]

mod attacks;
mod audit;
#[cfg(feature = "lab")]
mod audit_command;
#[cfg(feature = "lab")]
mod audit_early;
mod audit_report;
mod audit_rows;
mod audit_sources;
mod audit_support;
#[cfg(feature = "lab")]
mod audit_workshop;
#[cfg(feature = "lab")]
mod banks;
mod batching;
#[cfg(feature = "lab")]
mod canaries;
#[cfg(feature = "tls")]
mod client_tls;
#[cfg(any(feature = "lab", feature = "tls"))]
mod command_support;
mod data;
mod grpc;
mod grpc_support;
mod http;
mod http_abuse;
mod http_golden;
mod http_limits;
mod http_support;
#[cfg(feature = "lab")]
mod lab;
#[cfg(feature = "lab")]
mod lab_devices;
#[cfg(feature = "lab")]
mod lab_features;
#[cfg(feature = "lab")]
mod lab_golden;
#[cfg(feature = "lab")]
mod lab_robust;
#[cfg(feature = "lab")]
mod lab_told;
mod layering;
mod leaks;
#[cfg(feature = "lab")]
mod offline_banks;
mod openapi;
#[cfg(feature = "tls")]
mod own_tls;
#[cfg(feature = "lab")]
mod privacy;
mod team;
#[cfg(feature = "tls")]
mod tls_support;
mod upstream;
mod upstream_check;
mod upstream_faults;
mod upstream_grpc_leaks;
mod upstream_leaks;
mod upstream_support;
#[cfg(feature = "tls")]
mod upstream_tls;
