//! Pure codecs shared by both ends of each storage protocol: bytes in, values
//! out, and back. No sockets, no clock.

pub mod control_file;
pub mod page_api;
pub mod pagestream;
pub mod replication;
pub mod safekeeper;
pub mod sharding;
pub mod wal_page;
pub mod wal_record;

mod reader;

pub use reader::DecodeError;
