//! The network database: who is a member, and how anonymous parties are reached (PROTOCOL §7).
//!
//! A [`View`] is what this node knows; an [`Exchange`] fills it by passing every record on to every partner, until a
//! distributed table takes its place. Look-ups are local, so nobody learns what was looked up.

pub mod ap_entry;
mod entries;
pub mod exchange;
mod pace;
mod partner;
pub mod view;

pub use ap_entry::{ApEntry, EntryNode};
pub use entries::Source;
pub use exchange::{Exchange, ExchangeFault, ExchangeOutput};
pub use view::{KnownNode, View};
