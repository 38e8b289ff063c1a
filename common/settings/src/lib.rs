//! One table of settings.
