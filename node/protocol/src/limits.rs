//! Every limit and time-out of the protocol, in one place (PROTOCOL, "Constants").

use std::time::Duration;

/// Longest routing path, in X-nodes.
pub const MAX_HOPS: usize = 8;
/// X-nodes of a path when nobody says otherwise.
pub const DEFAULT_HOPS: usize = 3;
/// Slots of a setup array.
pub const SLOTS: usize = 23;
/// Bytes of one slot.
pub const SLOT: usize = 2560;
/// Bytes of a setup array.
pub const ARRAY: usize = SLOTS * SLOT;

/// The owner waits this long for each round of a path's setup.
pub const ROUND_TIMEOUT: Duration = Duration::from_secs(15);
/// A node remembers round 1 this long.
pub const BETWEEN_ROUNDS: Duration = Duration::from_secs(30);
/// Setup arrays that a link may bring per second.
pub const ARRAYS_PER_SECOND: u32 = 10;
/// Builds under way at once.
pub const BUILDS_AT_ONCE: usize = 3;
/// Failed builds a minute after which building pauses.
pub const FAILED_BUILDS_PER_MINUTE: usize = 12;
/// The longest pause between builds.
pub const BUILD_BACKOFF: Duration = Duration::from_secs(300);
/// Ready paths that are kept ahead of need.
pub const POOL: usize = 12;

/// Guards in use, of which each path takes three.
pub const GUARDS: usize = 4;
/// The sampled list that stand-ins for guards come from.
pub const GUARD_SAMPLE: usize = 20;
/// A record older than this is not used for building.
pub const FRESH_RECORD_SECS: u64 = 600;

/// A receiver accepts steps from 1 to this.
pub const MAX_STEP: u32 = 257;
/// The window of the gap rule, in cells.
pub const GAP_WINDOW: u32 = 4096;
/// A tunnel with more cells missing in the window is closed.
pub const GAP_MISSING: u32 = 256;
/// A tunnel is closed after this many cells in one direction.
pub const TUNNEL_CELLS: u32 = 1 << 31;
/// Openers after which a hop ends its path.
pub const OPENERS_PER_PATH: usize = 65_536;
/// Cells that an exit keeps while it dials.
pub const CELLS_WHILE_DIALLING: usize = 64;
/// Accepting paths that an entry tries a token against.
pub const ACCEPTING_PATHS: usize = 1_000;
/// Tokens remembered per accepting path.
pub const TOKENS_REMEMBERED: usize = 4_096;
/// Tunnels inside one path at a hop.
pub const TUNNELS_PER_PATH: usize = 1_024;
/// An unconfirmed incoming tunnel dies after this.
pub const UNCONFIRMED: Duration = Duration::from_secs(10);
/// A tunnel that carried nothing for this long is closed.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(300);

/// Longest control message on a link, in bytes.
pub const CONTROL_MESSAGE: usize = 65_536;
/// A node's record lives at most this long.
pub const NODE_RECORD_LIFE_SECS: u64 = 3 * 3600;
/// A node's record is renewed this often.
pub const NODE_RECORD_RENEW: Duration = Duration::from_secs(300);
/// Records of nodes that the exchange keeps.
pub const NODES_KNOWN: usize = 10_000;
/// AP entries that the exchange keeps.
pub const AP_ENTRIES_KNOWN: usize = 20_000;
/// Nodes known of one /16 (IPv4) or /32 (IPv6).
pub const NODES_PER_SUBNET: usize = 64;
/// Longest record of the network database, in bytes.
pub const RECORD: usize = 4_608;
/// Longest message with records, in bytes.
pub const RECORDS_MESSAGE: usize = 32_768;
/// How far the clock of an honest node may be ahead.
pub const CLOCK_SKEW_SECS: u64 = 300;
/// An AP entry belongs to one epoch of this length, counted from 1970, UTC.
pub const AP_EPOCH_SECS: u64 = 24 * 3600;
/// Entry nodes of an AP entry.
pub const ENTRIES_PER_AP: usize = 6;
/// What is too old is swept out this often.
pub const SWEEP: Duration = Duration::from_secs(10);
/// Partners that a node asks to exchange records.
pub const PARTNERS_ASKED: usize = 3;
/// Partners that a node has at most, of its own asking and of others'.
pub const PARTNERS: usize = 1_024;
/// A node that lacks partners asks another one this often.
pub const PARTNER_PAUSE: Duration = Duration::from_secs(30);
/// News about one record go to partners at most this often.
pub const FORWARD_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of records that a partner is sent: at once, and per second.
pub const RECORD_BYTES: (u32, u32) = (1 << 20, 256 << 10);
/// Signatures that are checked for one partner: at once, and per second.
pub const CHECKS_PER_PARTNER: (u32, u32) = (30_000, 200);
/// AP entries that are taken from terminals' paths: at once, and per second.
pub const PUBLISHED_AT_TERMINALS: (u32, u32) = (200, 20);

/// Largest datagram that a tunnel carries for a session.
pub const DATAGRAM: usize = 1_312;
