//! The only room that dials out: the load generator, audits and checks of a running endpoint, the health check, other servers.
//!
//! Responsible for one keep-alive connection ([`http`]), where it may lead ([`endpoint`]), the requests
//! that a load is made of ([`payload`]), the load itself ([`load`]) with its figures ([`report`]), and what TLS needs
//! ([`tls`]). It does not
//! know the command line, draws nothing on a terminal and knows no model: what it sends is made from the metadata
//! that the endpoint itself gives.

pub mod check;
pub mod endpoint;
pub mod http;
pub mod infer;
#[allow(unreachable_pub, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "made by a generator")]
pub(crate) mod inference_client;
pub mod load;
pub mod payload;
pub mod report;
mod stream;
pub mod tls;
pub mod upstream;

use std::time::Duration;

use thiserror::Error;

/// Why an endpoint could not be reached, asked or understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not one that this client can dial.
    #[error("cannot use the URL {url:?}: {reason}")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address leads off this machine, and nobody allowed that.
    #[error(
        "{}{address} is not a loopback address: load for another machine needs its owner's consent, and --allow-remote",
        if *host == address.to_string() { String::new() } else { format!("{host} is {address}, and ") }
    )]
    NotLoopback {
        /// Host of the URL.
        host: String,
        /// Address that it resolved to.
        address: std::net::IpAddr,
    },
    /// No connection came about.
    #[error("cannot connect to {address}")]
    Connect {
        /// Address that was dialled.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS cannot be spoken as the settings say: that will not change by itself.
    #[error("TLS cannot be spoken as it is set up: {0}")]
    TlsSettings(String),
    /// TLS did not come about, or was ended by the other side.
    #[error("TLS with {host} failed: {reason}")]
    Tls {
        /// Host and port of the URL.
        host: String,
        /// Why, in words of ours.
        reason: String,
    },
    /// The connection broke, or what came over it was not HTTP.
    #[error("the exchange broke off: {0}")]
    Exchange(String),
    /// No whole answer came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The answer is longer than this client is willing to hold.
    #[error("the answer is longer than {max_bytes} bytes")]
    TooLong {
        /// The limit.
        max_bytes: usize,
    },
    /// The endpoint answered, with another status than the one needed.
    #[error("{path} answered {status}, expected 200: {text}")]
    Status {
        /// Path that was asked.
        path: String,
        /// HTTP status.
        status: u16,
        /// The first line of the error that the endpoint gave.
        text: String,
    },
    /// The endpoint answered a gRPC call, with another code than 0.
    #[error("the call was answered with gRPC code {0}, expected 0")]
    Grpc(u32),
    /// The metadata of the model is not what the protocol says, or asks for inputs that cannot be made up.
    #[error("model metadata: {0}")]
    Metadata(String),
}

impl ClientError {
    /// A short word for tables and counters: bounded in number, free of addresses.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadUrl { .. } => "bad_url",
            Self::NotLoopback { .. } => "not_loopback",
            Self::Connect { .. } => "connect",
            Self::TlsSettings(_) => "tls_settings",
            Self::Tls { .. } => "tls",
            Self::Exchange(_) => "exchange",
            Self::Timeout(_) => "timeout",
            Self::TooLong { .. } => "too_long",
            Self::Status { .. } => "status",
            Self::Grpc(_) => "grpc",
            Self::Metadata(_) => "metadata",
        }
    }
}
