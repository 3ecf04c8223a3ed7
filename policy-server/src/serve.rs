//! The server's life: listen, serve, sweep, end.

use crate::app::{App, what_next};
use crate::config::Config;
use crate::routes::routes;
use crate::{Auth, Options};
use axum::serve::ListenerExt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};
use uuid::Uuid;
use weft_store::hosts::HostStore;
use weft_store::policy::PolicyStore;
use weft_store::{EtcdOptions, EtcdStore, StoreError};

/// How often tags are given back, and gauges read.
const SWEEP: Duration = Duration::from_secs(60);
/// How long requests under way may take to end once the server is told to.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// etcd cannot be used as configured.
    #[error("etcd: {0}")]
    Store(#[source] StoreError),
    /// Signals cannot be waited for.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
    /// Its address cannot be listened on.
    #[error("listen {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("serving on {address}: {source}")]
    Serve {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// The whole server on etcd, until SIGTERM or SIGINT. etcd may be away, at the start too.
///
/// # Errors
/// [`ServeError`].
pub async fn run(config: &Config) -> Result<(), ServeError> {
    let stop = asked_to_end().map_err(ServeError::Signals)?;
    let by = format!("weft-policy-server-{}", Uuid::new_v4());
    let mut options = EtcdOptions::new(config.etcd.clone(), by);
    options.prefix.clone_from(&config.etcd_prefix);
    let store = EtcdStore::connect(options).map_err(ServeError::Store)?;
    serve(Arc::new(store), config, stop).await
}

/// Serves until `stop` is ready, then lets requests under way end, for a few seconds at most.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<S: PolicyStore + HostStore>(
    store: Arc<S>,
    config: &Config,
    stop: impl Future<Output = &'static str>,
) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    // Answers are small and written at once: waiting for more would only delay them.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let app = App::new(store, Options { auth: config.auth.clone(), cors_origins: config.cors_origins.clone() });
    info!(%address, etcd = ?config.etcd, auth = ?config.auth, "listening");
    warn_of_risks(config);
    let sweeper = tokio::spawn(sweep(app.clone()));
    let (ending, mut ended) = watch::channel(());
    let graceful = async move { drop(ended.changed().await) };
    let mut server = std::pin::pin!(axum::serve(listener, routes(app)).with_graceful_shutdown(graceful).into_future());
    let served = tokio::select! {
        served = &mut server => served,
        signal = stop => {
            info!(signal, "ending");
            ending.send_replace(());
            timeout(DRAIN, server).await.unwrap_or(Ok(()))
        }
    };
    sweeper.abort();
    served.map_err(|source| ServeError::Serve { address, source })
}

fn warn_of_risks(config: &Config) {
    if config.auth == Auth::Nobody {
        warn!("no authentication: everybody on this host may read and change policies");
    }
    if !config.listen.ip().is_loopback() {
        warn!(listen = %config.listen, "tokens cross the network in the clear: put TLS in front of this address");
    }
}

/// Gives back tags of groups that no policy names any more and finishes what a dead server left.
async fn sweep<S: PolicyStore>(app: App<S>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let swept = app.store.sweep().await;
        let seen = app.store.policies().await.map(|view| app.shared.metrics.seen(&view));
        if let Err(error) = swept.and(seen) {
            app.shared.metrics.store_error("sweep");
            warn!(%error, next = what_next(&error), again_in = ?SWEEP, "sweep failed");
        }
    }
}

/// Ready with the signal's name when the process is asked to end.
fn asked_to_end() -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
