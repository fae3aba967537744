//! Frames of the local socket: a length and JSON.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest request.
pub(super) const REQUEST: usize = 64 * 1024;
/// The longest reply: the status of a node with many links.
pub(super) const REPLY: usize = 16 * 1024 * 1024;

/// Writes one frame.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    stream.write_all(&encode(message)?).await
}

/// One frame.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    frame.splice(..4, length.to_be_bytes());
    Ok(frame)
}

/// Reads one frame; nothing at an orderly end. Memory is taken as bytes come, not as the length promises.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than any may be"));
    }
    let mut frame = Vec::new();
    stream.take(length as u64).read_to_end(&mut frame).await?;
    if frame.len() == length { Ok(Some(frame)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
