//! Logs, traces and metric families.
