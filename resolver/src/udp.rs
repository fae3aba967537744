//! Questions that come in datagrams: answered in turn, where they come in.

use std::{io, sync::Arc};

use tokio::{net::UdpSocket, task::yield_now};

use crate::{
    Lookup,
    answer::{Answers, Transport},
};

/// No honest question is longer; the rest of a longer one is cut off.
const LONGEST: usize = 4_096;
/// Questions until others get their turn.
const TURN: usize = 64;

/// Answers until the socket fails.
pub(crate) async fn serve<L: Lookup>(socket: UdpSocket, answers: Arc<Answers<L>>) -> io::Error {
    let mut buffer = [0; LONGEST];
    let mut responses = Vec::with_capacity(TURN);
    loop {
        if let Err(error) = socket.readable().await {
            return error;
        }
        for _ in 0..TURN {
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What another client's machine said about an answer that it did not want.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return error,
            };
            let question = buffer.get(..length).unwrap_or_default();
            if let Some(response) = answers.respond(question, Transport::Udp) {
                responses.push((response, from));
            }
        }
        // One after the other they would wake a client for each, which costs more than the answers.
        for (response, from) in responses.drain(..) {
            // A client that does not take its answer asks again.
            let _lost = socket.try_send_to(&response, from);
        }
        yield_now().await;
    }
}
