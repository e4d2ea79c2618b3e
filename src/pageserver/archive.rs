//! Takes a basebackup's bytes apart, and refuses whatever is not one whole archive.
//!
//! Pure: bytes come in as they arrive, pieces go out. A pageserver writes the tar
//! end marker, and then the gzip trailer, only after everything else succeeded
//! (`pageserver/src/basebackup.rs` of Neon), so both are insisted on, and that
//! nothing follows them: a second gzip member would otherwise be lost in silence.

mod entry_name;
mod gunzip;
mod untar;

pub use gunzip::{Gunzip, Inflated};
pub(super) use untar::is_zero;
pub use untar::{Event, Untar};

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The gzip stream breaks off.
    #[error("the gzip stream ends without its trailer")]
    GzipCut,
    /// The bytes are not gzip, or a checksum does not fit.
    #[error("no gzip stream, or a damaged one, at its byte {offset}: {problem}")]
    Gzip {
        /// How far it could be read.
        offset: u64,
        /// What the decoder says.
        problem: String,
    },
    /// Another gzip member begins behind the first.
    #[error("a second gzip member follows the first")]
    SecondGzipMember,
    /// Bytes that mean nothing stand behind the gzip trailer.
    #[error("garbage follows the gzip trailer")]
    GarbageBehindGzip,
    /// The archive breaks off inside an entry.
    #[error("the tar archive ends inside {entry}")]
    TarCut {
        /// The entry's path, or what it breaks off in.
        entry: String,
    },
    /// The archive breaks off between two entries.
    #[error("the tar archive ends without its end marker")]
    NoTarEnd,
    /// A header is not a tar header.
    #[error("no tar header at byte {offset} of the archive: {problem}")]
    TarHeader {
        /// Where it should be.
        offset: u64,
        /// Why it is none.
        problem: &'static str,
    },
    /// Bytes that mean nothing stand behind the end marker.
    #[error("garbage follows the end marker of the tar archive")]
    GarbageBehindTar,
    /// An entry that no basebackup has, or one that would land elsewhere.
    #[error("the archive has an entry '{entry}', which {problem}")]
    Entry {
        /// Its path, cut if it is long.
        entry: String,
        /// Why it is refused.
        problem: &'static str,
    },
}

impl Defect {
    /// Whether the archive is only too short, rather than wrong.
    pub const fn is_truncation(&self) -> bool {
        matches!(self, Self::GzipCut | Self::TarCut { .. } | Self::NoTarEnd)
    }
}
