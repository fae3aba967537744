//! The QUIC configuration of sessions: the same for everybody (PROTOCOL §6), so that no parameter tells a program, a
//! machine or a user.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use phantom_protocol::limits::DATAGRAM;
use quinn::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig,
    VarInt,
};
use rand::{
    rand_core::{Rng, UnwrapErr},
    rngs::SysRng,
};

use super::{bindings::CID, congestion::CongestionConfig, memory::LEAST};

/// A session that carried nothing for this long has ended, at both ends.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// A client with open streams that heard nothing for this long asks whether its tunnel still lives.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A side that ends waits no longer until the other one knows.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// Streams that a client may have open in one session.
const STREAMS: u32 = 1_024;
/// Bytes of one stream, and of a session, that a slow reader makes its own node hold.
const STREAM_WINDOW: u32 = 4 << 20;
pub(super) const SESSION_WINDOW: u32 = 24 << 20;
/// Bytes that local programs may have written and the peer not yet acknowledged. Several times a stream's window: a
/// bulk stream stops at its own window and never takes the room of an echo beside it. Well below the session's window:
/// when many bulk streams have taken all, each ACK makes room here, but the peer widens its window in large steps only.
pub(super) const SEND_WINDOW: u64 = 12 << 20;
/// Bytes of UDP flows that wait in a session, in each direction: the oldest are lost first. More would only make them late.
const DATAGRAMS: usize = 256 << 10;
/// Packets that one ACK answers. An ACK costs the chain as much as a full packet.
pub(super) const ACK_EVERY: u32 = 20;
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Before the first sample.
const INITIAL_RTT: Duration = Duration::from_millis(200);

/// How QUIC behaves. `route` counts the tunnels that a client's session has moved to.
pub(super) fn transport(congestion: &CongestionConfig, route: Arc<AtomicU64>) -> TransportConfig {
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY))
        .max_ack_delay(Some(ACK_DELAY))
        .reordering_threshold(VarInt::from_u32(1)); // honest relays never reorder
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(DATAGRAM as u16)
        .min_mtu(DATAGRAM as u16)
        .mtu_discovery_config(None)
        .allow_spin(false)
        .keep_alive_interval(None) // the session's watch does it, while streams are open
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE.as_millis() as u32))))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        // A promise that cannot be taken back: who comes gets more from the memory that is free (`memory`).
        .receive_window(VarInt::from_u32(LEAST as u32))
        .send_window(SEND_WINDOW)
        .datagram_send_buffer_size(DATAGRAMS)
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion.clone().on_route(route)));
    transport
}

/// How an endpoint behaves: one per session of a client, one per identity of a service, each with a reset key of its
/// own.
pub(super) fn endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(RandomIds));
    let _never_below_1200 = config.max_udp_payload_size(DATAGRAM as u16);
    config
}

/// Connection ids without any structure. quinn's own carry a short hash, not a cryptographic one, under a key of the
/// endpoint: from a few ids of two tunnels a relay could compute that they belong to one session.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CID];
        UnwrapErr(SysRng).fill_bytes(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
