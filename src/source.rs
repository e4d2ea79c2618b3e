//! Where a spec comes from; each source is a stream of events.
