//! What lands in PGDATA.
