//! The demo's own website behind any other network: both sides of a comparison serve with the same code.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use phantom_node::demo::site::{self, Facts};
use tokio::net::TcpListener;

/// Serves until it is killed. The address is printed first, for whoever asked for port 0.
#[tokio::main]
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("{}", listener.local_addr()?);
    site::serve(listener, Facts { hops: 0, nodes: 0 }).await?;
    Ok(())
}
