//! `phantom demo`: a whole network in one process.

pub mod site;
