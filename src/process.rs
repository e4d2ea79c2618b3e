//! Child processes: spawning, reaping as PID 1, signals, and their log lines.
