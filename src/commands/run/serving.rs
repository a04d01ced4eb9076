//! The HTTP server of `run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::desk::Clerk;
use super::fleet::Working;
use crate::config::PanelConfig;
use crate::error::Error;
use crate::web::{Bound, Panel, Server, Watched};

/// Answers until it is dropped.
pub struct Serving {
    server: Server,
    config_file: Option<PathBuf>,
    /// Whoever holds it may verify or drill.
    turn: Arc<Semaphore>,
}

impl Serving {
    /// Takes the address before anything else is done, so that one that is not free is told at once.
    pub fn start(
        address: SocketAddr,
        panel: &PanelConfig,
        config_file: Option<PathBuf>,
        turn: Arc<Semaphore>,
    ) -> Result<Serving, Error> {
        let credentials = panel.credentials()?;
        let failed = |error: std::io::Error| {
            let next = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another process listens there: stop it, or give `listen` another port"
                }
                std::io::ErrorKind::PermissionDenied => "ports below 1024 are for root: give `listen` a higher one",
                _ => "give `listen` an address of this machine",
            };
            Error::failed(format!("cannot listen on {address}")).because(error).next_step(next)
        };
        let bound = Bound::new(address).map_err(failed)?;
        let own = bound.address().map_err(failed)?;
        let server = bound.serve(Panel::new(panel, &credentials, own)).map_err(failed)?;
        tracing::info!("serving http://{own}/metrics, /healthz, /readyz and /status, and the panel at /");
        Ok(Serving { server, config_file, turn })
    }

    /// These databases are at work: from now on they are told about.
    pub fn show(&self, all: &[Working]) {
        self.server.show(all.iter().map(|working| self.watched(working)).collect());
    }

    fn watched(&self, working: &Working) -> Watched {
        let handle = working.replicator.handle().clone();
        let desk = Clerk {
            database: working.config.clone(),
            status: handle.status().clone(),
            config_file: self.config_file.clone(),
            turn: self.turn.clone(),
        };
        let (path, requests) = (working.path.clone(), working.requests.clone());
        Watched { path, handle, requests, desk: Arc::new(desk) }
    }

    /// Gives up what was asked for on the panel and is not done.
    pub async fn stop_jobs(&self) {
        self.server.stop_jobs().await;
    }
}
