//! Arguments of each role.
