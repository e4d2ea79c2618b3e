//! The `glowplug` program: picks a role, and maps errors to exit codes.

fn main() {}
