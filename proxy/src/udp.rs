//! UDP ASSOCIATE: datagrams between a client's socket and the far side (RFC 1928 §7).
//!
//! The socket is on the address by which the client came, and hears only the client: its address, and the port that it
//! announced or else used first. Fragments are dropped, as is what finds a queue full. Everything ends with the client's
//! TCP connection.

use std::{io, net::SocketAddr};

use tokio::{net::UdpSocket, sync::mpsc::error::TrySendError};

use crate::{
    Datagram, Datagrams, Host,
    handshake::Stream,
    socks5::{read_place, write_place},
};

/// No datagram is larger.
const LARGEST: usize = 64 * 1024;
const RESERVED_AND_FRAGMENT: [u8; 3] = [0, 0, 0];

/// The client's side of an association.
pub(crate) struct Association {
    socket: UdpSocket,
    client: SocketAddr,
    /// Whether the port of `client` is known; before, only its address is.
    is_known: bool,
}

impl Association {
    /// Opens a socket for the client. `announced` is where it says that it will send from, if it says so.
    pub(crate) async fn open(stream: &Stream, announced: (&Host, u16)) -> io::Result<Association> {
        let (here, mut client) = (stream.get_ref().local_addr()?, stream.get_ref().peer_addr()?);
        let socket = UdpSocket::bind((here.ip(), 0)).await?;
        // Behind a translator of addresses a client cannot know its own, so one that differs says nothing.
        let is_own = |host: &Host| matches!(host, Host::Ip(ip) if ip.is_unspecified() || *ip == client.ip());
        let is_known = announced.1 != 0 && is_own(announced.0);
        client.set_port(announced.1);
        Ok(Association { socket, client, is_known })
    }

    /// Where the client is to send to.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Carries datagrams until the client's connection ends or the far side does.
    pub(crate) async fn carry(mut self, stream: &mut Stream, mut far: Datagrams) {
        let mut buffer = vec![0; LARGEST];
        let mut nowhere = tokio::io::sink();
        let ended = tokio::io::copy_buf(stream, &mut nowhere);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                _ = &mut ended => return,
                received = self.socket.recv_from(&mut buffer) => {
                    let Ok((length, from)) = received else { return };
                    let datagram = self.heard(buffer.get(..length).unwrap_or_default(), from).await;
                    let Some(datagram) = datagram else { continue };
                    if let Err(TrySendError::Closed(_)) = far.outgoing.try_send(datagram) {
                        return;
                    }
                }
                datagram = far.incoming.recv() => {
                    let Some(datagram) = datagram else { return };
                    self.tell(&datagram).await;
                }
            }
        }
    }

    /// What a datagram carries, if it is the client's and in order.
    async fn heard(&mut self, bytes: &[u8], from: SocketAddr) -> Option<Datagram> {
        let is_client = if self.is_known { from == self.client } else { from.ip() == self.client.ip() };
        if !is_client {
            return None;
        }
        let (kind, mut rest) = bytes.strip_prefix(&RESERVED_AND_FRAGMENT)?.split_first()?;
        // Reading from memory never waits.
        let (host, port) = read_place(&mut rest, *kind).await.ok()?;
        (self.client, self.is_known) = (from, true);
        Some(Datagram { host, port, data: rest.to_vec() })
    }

    async fn tell(&self, datagram: &Datagram) {
        if !self.is_known {
            return;
        }
        let mut bytes = RESERVED_AND_FRAGMENT.to_vec();
        write_place(&mut bytes, &datagram.host, datagram.port);
        bytes.extend_from_slice(&datagram.data);
        // One that is too large, or that the client no longer waits for, is lost.
        let _ = self.socket.send_to(&bytes, self.client).await;
    }
}
