//! What is sent through the chain. The hosted port answers a number with as many bytes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use phantom_node::session::SessionStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::network::Chain;

const CHUNK: usize = 64 << 10;
/// An echo beside a download begins at most this often: at any rate they can, most would fall into the fast phases.
const EVERY: Duration = Duration::from_millis(25);
/// A download that brings nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The hosted port.
pub async fn serve(listener: TcpListener) {
    while let Ok((connection, _)) = listener.accept().await {
        tokio::spawn(answer(connection));
    }
}

async fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let chunk = vec![7; CHUNK];
    loop {
        let mut left = connection.read_u64().await?;
        while left > 0 {
            let piece = left.min(CHUNK as u64);
            connection.write_all(chunk.get(..piece as usize).unwrap_or_default()).await?;
            left -= piece;
        }
    }
}

pub async fn download(stream: &mut SessionStream, bytes: u64) -> Result<()> {
    stream.write_u64(bytes).await?;
    let (mut buffer, mut left) = (vec![0; CHUNK], bytes);
    while left > 0 {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.context("a download has stalled")??;
        ensure!(read > 0, "a download has ended {left} bytes too early");
        left = left.checked_sub(read as u64).context("a download has brought too much")?;
    }
    Ok(())
}

pub async fn ten_downloads(chain: &Chain, bytes: u64) -> Result<()> {
    let mut downloads = JoinSet::new();
    for _ in 0..10 {
        let mut stream = chain.connect("a").await?;
        downloads.spawn(async move { download(&mut stream, bytes).await });
    }
    while let Some(done) = downloads.join_next().await {
        done??;
    }
    Ok(())
}

/// How long round trips took.
pub struct Times(Vec<Duration>);

impl Times {
    /// In milliseconds, at this share of the sorted times.
    pub fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

pub async fn echoes(stream: &mut SessionStream, count: usize) -> Result<Times> {
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        let start = Instant::now();
        echo(stream).await?;
        times.push(start.elapsed());
    }
    Ok(Times(times))
}

async fn echo(stream: &mut SessionStream) -> Result<()> {
    stream.write_u64(1).await?;
    stream.read_u8().await?;
    Ok(())
}

/// Echoes for as long as a download runs; also the download's MB/s.
pub async fn echoes_beside(
    mut bulk: SessionStream,
    bytes: u64,
    stream: &mut SessionStream,
) -> Result<(Times, f64)> {
    let start = Instant::now();
    let times = echoes_during(stream, async move { download(&mut bulk, bytes).await }).await?;
    Ok((times, bytes as f64 / 1e6 / start.elapsed().as_secs_f64()))
}

pub async fn echoes_beside_ten(chain: &Arc<Chain>, bytes: u64) -> Result<Times> {
    let mut stream = chain.connect("a").await?;
    let chain = Arc::clone(chain);
    echoes_during(&mut stream, async move { ten_downloads(&chain, bytes).await }).await
}

async fn echoes_during(
    stream: &mut SessionStream,
    bulk: impl Future<Output = Result<()>> + Send + 'static,
) -> Result<Times> {
    let (bulk, mut times) = (tokio::spawn(bulk), Vec::new());
    while !bulk.is_finished() {
        let start = Instant::now();
        echo(stream).await?;
        times.push(start.elapsed());
        tokio::time::sleep(EVERY.saturating_sub(start.elapsed())).await;
    }
    bulk.await??;
    Ok(Times(times))
}
