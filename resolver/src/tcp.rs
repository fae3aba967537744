//! Questions that come by TCP: each with its length in front, answered in order (RFC 7766).
//!
//! Clients, the length of what they say and their silence are bounded: nobody keeps others out by keeping connections open.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    Lookup,
    answer::{Answers, Transport},
};

/// Clients at once. One more takes the place of the one that came first.
const CLIENTS: usize = 128;
/// A client has so long for a whole question, and for taking its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No honest question is longer.
const LONGEST: usize = 4_096;

/// Answers until the future is dropped.
pub(crate) async fn serve<L: Lookup>(listener: TcpListener, answers: Arc<Answers<L>>) -> io::Error {
    let mut clients = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Mostly no more file descriptors: without a pause this would spin until one is free.
                    tracing::debug!("cannot accept DNS clients: {error}");
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
            Some(_) = clients.join_next() => {
                by_age.retain(|client| !client.is_finished());
                continue;
            }
        };
        if by_age.len() >= CLIENTS
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        let answers = answers.clone();
        by_age.push_back(clients.spawn(async move {
            // Whoever breaks off, or says too little or too much, is left alone.
            let _ended = serve_client(stream, &answers).await;
        }));
    }
}

async fn serve_client<L: Lookup>(stream: TcpStream, answers: &Answers<L>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut question = Vec::new();
    loop {
        timeout(PATIENCE, read_question(&mut stream, &mut question)).await??;
        let response = answers.respond(&question, Transport::Tcp).ok_or(io::ErrorKind::InvalidData)?;
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &response].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}

async fn read_question(stream: &mut BufReader<TcpStream>, question: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    question.resize(length, 0);
    stream.read_exact(question).await?;
    Ok(())
}
