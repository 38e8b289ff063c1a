//! Scenarios with real processes, and benchmarks.
