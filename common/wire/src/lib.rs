//! PostgreSQL's v3 protocol as bytes, both directions.
