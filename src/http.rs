//! The HTTP servers of a compute.
