//! Roles, databases and grants: observe, plan (pure), apply.
