//! The HTTP server of `run`.

use std::net::SocketAddr;

use crate::error::Error;
use crate::web::{Bound, Server};

/// Takes the address before anything else is done, so that one that is not free is told at once.
pub fn start(address: SocketAddr) -> Result<Server, Error> {
    let failed = |error: std::io::Error| {
        let next = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another process listens there: stop it, or give `listen` another port",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 are for root: give `listen` a higher one",
            _ => "give `listen` an address of this machine",
        };
        Error::failed(format!("cannot listen on {address}")).because(error).next_step(next)
    };
    let bound = Bound::new(address).map_err(failed)?;
    let own = bound.address().map_err(failed)?;
    let server = bound.serve().map_err(failed)?;
    tracing::info!("serving http://{own}/metrics, /healthz, /readyz and /status");
    Ok(server)
}
