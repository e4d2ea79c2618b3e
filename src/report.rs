//! The snapshot of what is true now, and who tells it.
