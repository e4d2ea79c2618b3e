//! What changes need.
