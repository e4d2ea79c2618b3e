//! Neon's JSON, as recorded and as made up.
