//! All that a standby adds to a serving node.
