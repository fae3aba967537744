//! Routing paths: choosing the nodes, the two rounds around the circle, and what a node does when asked to help
//! (PROTOCOL §4).
//!
//! An owner's way to a path, in the order of calls: [`builds::Builds::start`] draws a [`plan::Plan`] with the help of
//! its [`guards::Guards`] and if its [`pacer::Pacer`] lets it; a [`builder::Builder`] asks for three links, sends setup
//! packages around the circle, then goodie boxes, hands out an [`builder::EstablishedPath`], and is ready when an echo
//! has come back through it. Every other node runs [`hop::HopSetups`] with its [`keys::PathKeys`].

pub mod array;
pub mod builder;
pub mod builds;
mod circle;
mod diversity;
mod doubts;
pub mod guards;
pub mod hop;
pub mod keys;
mod layout;
pub mod pacer;
pub mod plan;
mod turns;

pub use circle::own_terminal;

#[cfg(test)]
mod tests;
