//! The health of the servers, asked in the background.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::replica::Replica;
use super::{MAX_ABOUT_BYTES, RestCall, Upstream};
use crate::engine::upstream::{Dialect, metadata};

/// Asks every server in turn for as long as the upstream is in use.
pub(super) fn start(upstream: &Arc<Upstream>) {
    let interval = upstream.config.health_interval;
    if interval.is_zero() {
        return;
    }
    let upstream = Arc::downgrade(upstream);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            let Some(upstream) = Weak::upgrade(&upstream) else { return };
            for replica in &upstream.replicas {
                let is_ready = ask(&upstream, replica).await;
                if replica.is_ready.swap(is_ready, Ordering::Relaxed) != is_ready {
                    tracing::warn!(upstream = replica.target.shown(), is_ready, "its health has changed");
                }
            }
        }
    });
}

async fn ask(upstream: &Upstream, replica: &Replica) -> bool {
    if let Some(line) = &replica.line {
        let asked = line.is_ready(&upstream.config.declared.model, upstream.plan.version());
        return tokio::time::timeout(upstream.config.timeout, asked).await.unwrap_or(false);
    }
    let path = ready_path(upstream);
    let Ok(request) = RestCall::get(&path).request(&replica.target) else { return false };
    let exchange = replica.exchange(&upstream.config, &upstream.counters, MAX_ABOUT_BYTES, request);
    // A server that takes longer than a request may take is none.
    let Ok(Ok(reply)) = tokio::time::timeout(upstream.config.timeout, exchange).await else { return false };
    match upstream.plan.dialect() {
        Dialect::OipHttp | Dialect::OipGrpc => reply.status == 200,
        Dialect::TfServing | Dialect::KserveV1 => reply.status == 200 && metadata::v1_is_ready(&reply.body),
    }
}

fn ready_path(upstream: &Upstream) -> String {
    let declared = &upstream.config.declared;
    let version = upstream.plan.version().map(|version| format!("/versions/{version}")).unwrap_or_default();
    match upstream.plan.dialect() {
        Dialect::OipHttp | Dialect::OipGrpc => format!("/v2/models/{}{version}/ready", declared.model),
        Dialect::TfServing => format!("/v1/models/{}{version}", declared.model),
        Dialect::KserveV1 => format!("/v1/models/{}", declared.model),
    }
}
