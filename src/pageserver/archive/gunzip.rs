//! Inflates one gzip member, checks its trailer, and refuses anything behind it.

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::Defect;

/// Largest window of the format (32 KiB, as a power of two).
const WINDOW_BITS: u8 = 15;
/// What a gzip member starts with.
const MAGIC: u8 = 0x1F;

/// The decoder.
pub struct Gunzip {
    inflate: Decompress,
    ended: bool,
}

/// What one call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflated {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Bytes of the output that were filled.
    pub produced: usize,
}

impl Gunzip {
    /// At the beginning of a member.
    #[expect(clippy::new_without_default, reason = "a beginning is said in words")]
    pub fn new() -> Self {
        Self {
            inflate: Decompress::new_gzip(WINDOW_BITS),
            ended: false,
        }
    }

    /// Inflates as much of `input` as fits into `output`. Either the input is used
    /// up or the output is full afterwards.
    pub fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> Result<Inflated, Defect> {
        let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
        let mut done = Inflated {
            consumed: 0,
            produced: 0,
        };
        while done.consumed < input.len() && done.produced < output.len() {
            if self.ended {
                return Err(behind_the_end(input[done.consumed]));
            }
            let status = self.inflate.decompress(
                &input[done.consumed..],
                &mut output[done.produced..],
                FlushDecompress::None,
            );
            let status = status.map_err(|error| self.damaged(&error))?;
            done.consumed = (self.inflate.total_in() - in_before) as usize;
            done.produced = (self.inflate.total_out() - out_before) as usize;
            match status {
                Status::StreamEnd => self.ended = true,
                Status::Ok => {}
                Status::BufError => break,
            }
        }
        Ok(done)
    }

    /// Takes out what may be left inside although all input was taken, as `output`
    /// was filled to its last byte. Returns how much; 0 when nothing is left.
    pub fn drain(&mut self, output: &mut [u8]) -> Result<usize, Defect> {
        if self.ended {
            return Ok(0);
        }
        let before = self.inflate.total_out();
        let status = self
            .inflate
            .decompress(&[], output, FlushDecompress::None)
            .map_err(|error| self.damaged(&error))?;
        self.ended = status == Status::StreamEnd;
        Ok((self.inflate.total_out() - before) as usize)
    }

    fn damaged(&self, error: &DecompressError) -> Defect {
        Defect::Gzip {
            offset: self.inflate.total_in(),
            problem: error.message().unwrap_or("invalid data").to_owned(),
        }
    }

    /// To be called at the end of the input.
    pub fn finish(self) -> Result<(), Defect> {
        if self.ended {
            Ok(())
        } else {
            Err(Defect::GzipCut)
        }
    }
}

fn behind_the_end(first: u8) -> Defect {
    if first == MAGIC {
        Defect::SecondGzipMember
    } else {
        Defect::GarbageBehindGzip
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn gunzip(input: &[u8], step: usize, room: usize) -> Result<Vec<u8>, Defect> {
        let mut gunzip = Gunzip::new();
        let (mut all, mut output) = (Vec::new(), vec![0; room]);
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                let done = gunzip.inflate(piece, &mut output)?;
                all.extend_from_slice(&output[..done.produced]);
                piece = &piece[done.consumed..];
            }
        }
        loop {
            let produced = gunzip.drain(&mut output)?;
            if produced == 0 {
                break;
            }
            all.extend_from_slice(&output[..produced]);
        }
        gunzip.finish()?;
        Ok(all)
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_gives_the_same_output(
            data in proptest::collection::vec(0_u8..4, 0..5000),
            step in 1_usize..64,
            room in 1_usize..512,
        ) {
            prop_assert_eq!(gunzip(&gzip(&data), step, room), Ok(data));
        }

        #[test]
        fn every_cut_is_noticed(data in proptest::collection::vec(any::<u8>(), 0..300), at: u16) {
            let whole = gzip(&data);
            let kept = at as usize % whole.len();
            prop_assert_eq!(gunzip(&whole[..kept], 7, 100), Err(Defect::GzipCut));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = gunzip(&bytes, 13, 50);
        }
    }

    #[test]
    fn nothing_may_follow_the_trailer() {
        let mut twice = gzip(b"first");
        twice.extend(gzip(b"second"));
        assert_eq!(gunzip(&twice, 1000, 1000), Err(Defect::SecondGzipMember));
        let mut garbage = gzip(b"first");
        garbage.push(0);
        assert_eq!(gunzip(&garbage, 1000, 1000), Err(Defect::GarbageBehindGzip));
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut damaged = gzip(&[7; 4000]);
        let crc = damaged.len() - 8;
        damaged[crc] ^= 1;
        assert!(matches!(
            gunzip(&damaged, 100, 100),
            Err(Defect::Gzip { .. })
        ));
    }

    #[test]
    fn plain_data_is_not_taken_for_gzip() {
        assert!(matches!(
            gunzip(b"global\0\0\0", 100, 100),
            Err(Defect::Gzip { .. })
        ));
    }
}
