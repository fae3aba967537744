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
/// Members of circles that failed, and hops of paths that were left, are avoided this long.
pub const DOUBT: Duration = Duration::from_secs(600);
/// Nodes that are avoided at once.
pub const DOUBTED: usize = 256;
/// A tunnel that has stood this long has lived; one that is closed before has died early.
pub const TUNNEL_LIVES: Duration = Duration::from_secs(30);
/// Early deaths in a row after which a client's path is left.
pub const EARLY_DEATHS: u32 = 3;
/// Early deaths in a row after which a service's path is left: those who come in can cause them.
pub const EARLY_DEATHS_ACCEPTING: u32 = 8;
/// Paths behind one guard that are left for early deaths within an hour.
pub const PATHS_LEFT: usize = 3;
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
/// An AP entry is nothing any more after this; it is renewed every half hour.
pub const AP_ENTRY_LIFE_SECS: u64 = 3 * 3600;
/// A service that lives renews its entry sooner than this.
pub const AP_ENTRY_RENEWED_SECS: u64 = 45 * 60;
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
/// A node that has no partner at all asks another one this often.
pub const PARTNER_PAUSE_ALONE: Duration = Duration::from_secs(3);
/// News about one record go to partners at most this often.
pub const FORWARD_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of records that a partner is sent: at once, and per second.
pub const RECORD_BYTES: (u32, u32) = (1 << 20, 256 << 10);
/// Signatures that are checked for one partner: at once, and per second.
pub const CHECKS_PER_PARTNER: (u32, u32) = (30_000, 200);
/// AP entries that are taken from terminals' paths: at once, and per second.
pub const PUBLISHED_AT_TERMINALS: (u32, u32) = (400, 100);
/// Of them, those of the paths that come over one link.
pub const PUBLISHED_BY_LINK: (u32, u32) = (20, 2);

/// Largest datagram that a tunnel carries for a session.
pub const DATAGRAM: usize = 1_312;

/// Setup arrays that a link may bring at once, after a rest.
pub const ARRAYS_BURST: u32 = 30;
/// Setup arrays that a node opens, whoever brings them: at once, and per second. Each takes a fraction of a millisecond.
pub const ARRAYS_OF_ALL: (u32, u32) = (400, 200);
/// Setup arrays that wait until they may be opened.
pub const ARRAYS_WAITING: usize = 512;
/// Setups that a node remembers for one link, in any state.
pub const SETUPS_PER_LINK: usize = 320;
/// Setup arrays that a node holds while it waits for links.
pub const ARRAYS_HELD: usize = 512;
/// Route keys in the box of a terminal.
pub const ROUTE_KEYS_PER_PATH: usize = 16;
/// The owner rounds its paths' expiries up to this.
pub const EXPIRY_ROUNDING_SECS: u64 = 600;
/// Then adds a random time up to this, for each slot by itself.
pub const EXPIRY_JITTER_SECS: u64 = 3_600;
/// A hop refuses paths that want to live longer than this.
pub const PATH_LIFE_SECS: u64 = 24 * 3_600 + EXPIRY_ROUNDING_SECS + EXPIRY_JITTER_SECS;
/// The first pause after too many failed builds; each further one is twice as long.
pub const FIRST_BUILD_PAUSE: Duration = Duration::from_secs(20);

/// Path keys change this often.
pub const PATH_KEY_LIFE_SECS: u64 = 3 * 3_600;
/// Living path keys: a record names at most this many.
pub const PATH_KEYS_LIVING: usize = 3;
/// Round 1 slots that a path key opens before it is changed early.
pub const REPLAYS_PER_KEY: usize = 1 << 18;

/// Nodes known for longer than this are preferred for building.
pub const SEASONED_SECS: u64 = 3 * 3_600;
/// Guards that see the owner's address in one circle.
pub const GUARDS_PER_CIRCLE: usize = 3;
/// A guard is used for this long at least, and for twice as long at most.
pub const GUARD_LIFE_SECS: u64 = 60 * 86_400;
/// A guard whose record was not seen for this long leaves the sampled list.
pub const GUARD_ABSENCE_SECS: u64 = 20 * 86_400;
/// A guard that could not be reached is tried again after this.
pub const GUARD_RETRY: Duration = Duration::from_secs(300);
/// A guard is judged after this many circles with it.
pub const GUARD_CIRCLES: u32 = 30;
/// The square of the standard deviations that a guard must be worse by than chance explains.
pub const GUARD_DOUBT: i128 = 11;
/// A guard that denies selectively is set aside for this long.
pub const GUARD_ASIDE_SECS: u64 = 30 * 86_400;
/// Guards set aside within that time; at the next one building stops.
pub const GUARDS_ASIDE: usize = 2;
/// Nodes of the second set, which stand next to guards in the circles of kept identities.
pub const SECOND_SET: usize = 8;
/// A node stays in the second set for a random time between this and [`SECOND_SET_MOST_SECS`].
pub const SECOND_SET_LEAST_SECS: u64 = 86_400;
/// See [`SECOND_SET_LEAST_SECS`].
pub const SECOND_SET_MOST_SECS: u64 = 14 * 86_400;

/// Cells that all exits of a node keep together while they dial.
pub const CELLS_WHILE_DIALLING_ALL: usize = 16_384;
/// Of the tunnels in an accepting path, what one exit's link may hold.
pub const TUNNELS_PER_EXIT: usize = TUNNELS_PER_PATH / 4;
/// The driver sweeps the switch this often.
pub const SWITCH_SWEEP: Duration = Duration::from_secs(1);
/// CoDel: a tunnel's cells may wait this long in a link's queue.
pub const QUEUE_TARGET: Duration = Duration::from_millis(40);
/// CoDel: a tunnel's cells must have waited longer than the target for this long before one is dropped.
pub const QUEUE_INTERVAL: Duration = Duration::from_millis(300);
/// CoDel never drops more than one in this many cells of a tunnel.
pub const QUEUE_CELLS_PER_DROP: u32 = 32;
/// Cells in turn of one tunnel.
pub const QUEUE_QUANTUM: u32 = 4;
/// Cells of one tunnel in a link's queue.
pub const QUEUE_CELLS_PER_TUNNEL: usize = 6_144;
/// Cells in a link's queue.
pub const QUEUE_CELLS: usize = 16_384;

/// Tunnels that the paths at a node share.
pub const TUNNELS: usize = 65_536;
/// A path may hold one in this many of the places for tunnels that are free at its node.
pub const TUNNEL_SHARES: usize = 32;
/// But always so many, however full the others are.
pub const TUNNELS_OF_EVERY_PATH: usize = 4;
/// Paths that the links of a node share.
pub const PATHS: usize = 32_768;
/// A link may bring one in this many of the places for paths that are free at its node.
pub const PATH_SHARES: usize = 8;
/// But always so many, however many others bring.
pub const PATHS_OF_EVERY_LINK: usize = 16;
/// Route keys of all accepting paths of an entry: each join is tried against all of them.
pub const ACCEPTED_KEYS: usize = 1_000;
/// Joins that one exit may try at an entry: at once, and per second.
pub const JOINS_PER_LINK: (u32, u32) = (1_000, 100);

/// A link that has carried no path and no join for so long is closed, if nothing else needs it.
pub const LINK_IDLE: Duration = Duration::from_secs(600);
/// Idle links are looked for this often.
pub const LINK_IDLE_SWEEP: Duration = Duration::from_secs(30);
/// Dials under way at once because strangers asked for them.
pub const STRANGERS_DIALS: usize = 32;
/// Dials that strangers ask for to nodes that nobody has announced: at once, and per second.
pub const UNKNOWN_DIALS: (u32, u32) = (32, 2);
/// With this many links, none is opened for strangers.
pub const LINKS_FOR_STRANGERS: usize = 1_536;

/// A node whose monthly quota is spent ends the paths of others after this.
pub const QUOTA_GRACE: Duration = Duration::from_secs(60);
/// What was carried is written down this often.
pub const QUOTA_KEPT: Duration = Duration::from_secs(60);
/// A node that nobody has reached for this long, and [`PROOF_VAIN`] neighbours have tried in vain since, announces
/// itself no longer.
pub const PROOF_LIFE: Duration = Duration::from_secs(3 * 3_600);
/// See [`PROOF_LIFE`].
pub const PROOF_VAIN: u32 = 3;
/// A node that was reached asks a neighbour to reach it again after this.
pub const PROOF_RENEW: Duration = Duration::from_secs(3_600);
/// Who was asked to reach a node has failed after this.
pub const KNOCK_TIMEOUT: Duration = Duration::from_secs(20);
/// After a vain knock the next neighbour is asked in so long.
pub const KNOCK_PAUSE: Duration = Duration::from_secs(5);
/// After so many the pause doubles each time,
pub const KNOCKS_QUICK: u32 = 8;
/// up to this.
pub const KNOCK_PAUSE_MOST: Duration = Duration::from_secs(300);
/// The same neighbour is not asked again before this.
pub const KNOCK_AGAIN: Duration = Duration::from_secs(600);
/// A node knocks at the door of one neighbour at most this often.
pub const KNOCKS_OF_A_LINK: Duration = Duration::from_secs(300);
