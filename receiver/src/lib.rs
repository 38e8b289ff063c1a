//! All that a standby adds to a serving node.
#![forbid(unsafe_code)]

pub mod cli;
pub mod clone;
pub mod demo;
pub mod demo_client;
pub mod demote;
pub mod promote;
mod switchover;
pub mod walreceiver;
