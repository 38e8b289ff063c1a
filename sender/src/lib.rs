//! All that a serving node does.
