//! Reads and patches `global/pg_control`, the file that tells postgres where to
//! begin, of PostgreSQL 13 to 18.
//!
//! Layout: `src/include/catalog/pg_control.h` of PostgreSQL, in the byte order of a
//! little-endian machine. Only the fields that the versions have in the same place
//! are looked at; the checksum moved once, in 18.

use crate::lsn::Lsn;

/// Size of the file (`PG_CONTROL_FILE_SIZE`), in bytes.
pub const FILE_SIZE: usize = 8192;
/// Size of `CheckPoint`, the body of a checkpoint record, in bytes.
pub const CHECKPOINT_SIZE: usize = 88;

const SYSTEM_IDENTIFIER: usize = 0;
const CONTROL_VERSION: usize = 8;
const STATE: usize = 16;
const CHECKPOINT: usize = 32;
const CHECKPOINT_COPY: usize = 40;
const REDO: usize = CHECKPOINT_COPY;
const TLI: usize = CHECKPOINT_COPY + 8;
const XLOG_BLOCK_SIZE: usize = 224;
const XLOG_SEGMENT_SIZE: usize = 228;

/// What a control file says about its cluster (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Never started.
    StartingUp,
    /// Shut down cleanly: there is nothing to replay.
    ShutDown,
    /// Shut down cleanly while it was a standby.
    ShutDownInRecovery,
    /// Was shutting down.
    ShuttingDown,
    /// Was replaying WAL after a crash.
    InCrashRecovery,
    /// Was replaying WAL as a standby.
    InArchiveRecovery,
    /// Was running: a start replays WAL from the last checkpoint's redo position.
    InProduction,
}

impl State {
    const ALL: [Self; 7] = [
        Self::StartingUp,
        Self::ShutDown,
        Self::ShutDownInRecovery,
        Self::ShuttingDown,
        Self::InCrashRecovery,
        Self::InArchiveRecovery,
        Self::InProduction,
    ];
}

/// Why bytes are not a control file that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few bytes.
    #[error("pg_control is {0} bytes long, {FILE_SIZE} are needed")]
    Size(usize),
    /// Not one of the versions known here.
    #[error("pg_control has version {0}: PostgreSQL 13 to 18 are known")]
    Version(u32),
    /// The checksum does not fit the bytes.
    #[error("the checksum of pg_control does not fit")]
    Checksum,
    /// The state is none.
    #[error("pg_control says that the cluster is in state {0}")]
    State(u32),
    /// The cluster was made with other sizes than storage uses.
    #[error(
        "the cluster has WAL segments of {segment} bytes and WAL pages of {page}: storage \
         needs 16777216 and 8192"
    )]
    WalSizes {
        /// Size of a segment.
        segment: u32,
        /// Size of a page.
        page: u32,
    },
}

/// A control file whose checksum was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    bytes: Box<[u8; FILE_SIZE]>,
    state: State,
}

impl ControlFile {
    /// Checks the file and keeps it.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let bytes: Box<[u8; FILE_SIZE]> = file
            .to_vec()
            .into_boxed_slice()
            .try_into()
            .map_err(|_| Error::Size(file.len()))?;
        let crc_offset = crc_offset(u32_at(&bytes, CONTROL_VERSION))?;
        if crc32c::crc32c(&bytes[..crc_offset]) != u32_at(&bytes, crc_offset) {
            return Err(Error::Checksum);
        }
        let (segment, page) = (
            u32_at(&bytes, XLOG_SEGMENT_SIZE),
            u32_at(&bytes, XLOG_BLOCK_SIZE),
        );
        let (wanted_segment, wanted_page) =
            (crate::lsn::WAL_SEGMENT_SIZE, crate::lsn::WAL_PAGE_SIZE);
        if u64::from(segment) != wanted_segment || u64::from(page) != wanted_page {
            return Err(Error::WalSizes { segment, page });
        }
        let number = u32_at(&bytes, STATE);
        let state = State::ALL.get(number as usize).copied();
        Ok(Self {
            bytes,
            state: state.ok_or(Error::State(number))?,
        })
    }

    /// Identifies the cluster, also in the WAL it writes.
    pub fn system_identifier(&self) -> u64 {
        u64_at(&self.bytes, SYSTEM_IDENTIFIER)
    }

    /// Whether the cluster was shut down.
    pub fn state(&self) -> State {
        self.state
    }

    /// Start of the last checkpoint's record; 0/0 in a pageserver's basebackup.
    pub fn checkpoint(&self) -> Lsn {
        Lsn(u64_at(&self.bytes, CHECKPOINT))
    }

    /// Where replaying starts.
    pub fn redo(&self) -> Lsn {
        Lsn(u64_at(&self.bytes, REDO))
    }

    /// PostgreSQL's timeline number.
    pub fn tli(&self) -> u32 {
        u32_at(&self.bytes, TLI)
    }

    /// The body of the last checkpoint's record.
    pub fn checkpoint_copy(&self) -> &[u8] {
        &self.bytes[CHECKPOINT_COPY..CHECKPOINT_COPY + CHECKPOINT_SIZE]
    }

    /// Says that the cluster is in another state.
    pub fn set_state(&mut self, state: State) {
        self.state = state;
        let number = State::ALL.iter().position(|s| *s == state).unwrap_or(0) as u32;
        self.bytes[STATE..STATE + 4].copy_from_slice(&number.to_le_bytes());
        self.update_checksum();
    }

    /// Says where the last checkpoint's record starts.
    pub fn set_checkpoint(&mut self, start: Lsn) {
        self.bytes[CHECKPOINT..CHECKPOINT + 8].copy_from_slice(&start.0.to_le_bytes());
        self.update_checksum();
    }

    /// Says where replaying starts.
    pub fn set_redo(&mut self, redo: Lsn) {
        self.bytes[REDO..REDO + 8].copy_from_slice(&redo.0.to_le_bytes());
        self.update_checksum();
    }

    /// The file.
    pub fn as_bytes(&self) -> &[u8] {
        &*self.bytes
    }

    fn update_checksum(&mut self) {
        let Ok(offset) = crc_offset(u32_at(&self.bytes, CONTROL_VERSION)) else {
            return; // `parse` has seen to it that it is known
        };
        let crc = crc32c::crc32c(&self.bytes[..offset]);
        self.bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Where the checksum stands: it covers everything before.
const fn crc_offset(control_version: u32) -> Result<usize, Error> {
    match control_version {
        1300 | 1700 => Ok(288), // PostgreSQL 13 to 16, and 17
        1800 => Ok(292),
        other => Err(Error::Version(other)),
    }
}

fn u32_at(bytes: &[u8; FILE_SIZE], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8; FILE_SIZE], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORDED: &str = include_str!("../../tests/fixtures/pageserver/pg_control.txt");

    fn recorded() -> Vec<(u32, Vec<u8>)> {
        let lines = RECORDED.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (major, text) = line.split_once(' ').unwrap();
                let mut file = hex::decode(text).unwrap();
                file.resize(FILE_SIZE, 0);
                (major.parse().unwrap(), file)
            })
            .collect()
    }

    fn of_15() -> Vec<u8> {
        recorded()[0].1.clone()
    }

    #[test]
    fn files_of_real_backups_are_read() {
        assert_eq!(recorded().len(), 3);
        for (major, file) in recorded() {
            let control = ControlFile::parse(&file).unwrap();
            assert_eq!(control.state(), State::ShutDown, "{major}");
            assert_eq!(control.checkpoint(), Lsn::INVALID);
            assert_eq!(control.tli(), 1);
        }
        let control = ControlFile::parse(&of_15()).unwrap();
        assert_eq!(control.redo(), Lsn(0x151_1B00));
        assert_eq!(control.system_identifier(), 7_711_301_574_972_130_328);
    }

    #[test]
    fn a_patched_file_is_still_one() {
        let mut control = ControlFile::parse(&of_15()).unwrap();
        control.set_state(State::InProduction);
        control.set_checkpoint(Lsn(0x151_1B00));
        control.set_redo(Lsn(0x151_1B00));
        assert_eq!(control.as_bytes()[16], 6);
        let again = ControlFile::parse(control.as_bytes()).unwrap();
        assert_eq!(again, control);
        assert_eq!(again.checkpoint(), Lsn(0x151_1B00));
    }

    #[test]
    fn the_checksum_of_18_stands_four_bytes_later() {
        let mut file = of_15();
        file[8..12].copy_from_slice(&1800_u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&file), Err(Error::Checksum));
        let crc = crc32c::crc32c(&file[..292]);
        file[292..296].copy_from_slice(&crc.to_le_bytes());
        let mut control = ControlFile::parse(&file).unwrap();
        control.set_state(State::InProduction);
        assert!(ControlFile::parse(control.as_bytes()).is_ok());
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let mut file = of_15();
        file[8..12].copy_from_slice(&1201_u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&file), Err(Error::Version(1201)));
        assert_eq!(ControlFile::parse(&file[1..]), Err(Error::Size(8191)));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(at in 0_usize..292, bit in 0_u32..8) {
            let mut file = of_15();
            file[at] ^= 1 << bit;
            prop_assert!(ControlFile::parse(&file).is_err());
        }
    }
}
