//! Limits that the tar reader does not have: it reads long names and PAX headers whole into memory, however
//! long the archive says they are. This reader walks along and refuses such an archive before that.

use std::io::{Error, ErrorKind, Read, Result};

use tar::{EntryType, Header};

/// Longest long name, long link or PAX header.
const MAX_EXTENSION: u64 = 1 << 20;
/// Tar is made of blocks.
const BLOCK: usize = 512;
/// Where a sparse header says that more of the map follows.
const SPARSE_MORE: usize = 482;
/// The same in the blocks that follow.
const SPARSE_STILL_MORE: usize = 504;

/// Passes an archive on and checks its headers.
pub(super) struct Guarded<R> {
    inner: R,
    walk: Walk,
}

impl<R: Read> Guarded<R> {
    /// Checks what is read from `inner`, an uncompressed archive.
    pub fn new(inner: R) -> Self {
        Self { inner, walk: Walk { state: State::Header, block: Vec::with_capacity(BLOCK), size: None } }
    }

    /// The reader within.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = self.inner.read(buffer)?;
        self.walk.feed(&buffer[..length])?;
        Ok(length)
    }
}

/// What the next bytes are.
enum State {
    /// A header.
    Header,
    /// More of a sparse file's map, before so many bytes of content.
    SparseMap { content: u64 },
    /// So many bytes of a PAX header, the padding included.
    Pax { rest: u64 },
    /// So many bytes of no interest.
    Content { rest: u64 },
    /// The end, or no archive at all: the reader behind will say so.
    Done,
}

struct Walk {
    state: State,
    /// What is collected: a header, or a PAX header.
    block: Vec<u8>,
    /// The next entry's size, as a PAX header says.
    size: Option<u64>,
}

impl Walk {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Done => return Ok(()),
                State::Content { rest } | State::Pax { rest } => (*rest).min(bytes.len() as u64) as usize,
                State::Header | State::SparseMap { .. } => (BLOCK - self.block.len()).min(bytes.len()),
            };
            let (now, later) = bytes.split_at(used);
            bytes = later;
            self.take(now)?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.state {
            State::Done => {}
            State::Content { rest } => {
                *rest -= bytes.len() as u64;
                if *rest == 0 {
                    self.state = State::Header;
                }
            }
            State::Pax { rest } => {
                self.block.extend_from_slice(bytes);
                *rest -= bytes.len() as u64;
                if *rest == 0 {
                    self.size = pax_size(&self.block).or(self.size);
                    self.expect_header();
                }
            }
            State::Header | State::SparseMap { .. } => {
                self.block.extend_from_slice(bytes);
                if self.block.len() == BLOCK {
                    self.whole_block()?;
                }
            }
        }
        Ok(())
    }

    fn whole_block(&mut self) -> Result<()> {
        if let State::SparseMap { content } = self.state {
            if self.block[SPARSE_STILL_MORE] == 1 {
                self.block.clear();
            } else {
                self.skip(content);
            }
            return Ok(());
        }
        let header = Header::from_byte_slice(&self.block);
        let Some(size) = header.entry_size().ok().filter(|_| has_checksum(&self.block)) else {
            self.state = State::Done;
            return Ok(());
        };
        let kind = header.entry_type();
        if matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        ) {
            return self.extension(kind, size);
        }
        let more = kind == EntryType::GNUSparse && self.block[SPARSE_MORE] == 1;
        let content = self.size.take().unwrap_or(size);
        if more {
            self.block.clear();
            self.state = State::SparseMap { content };
        } else {
            self.skip(content);
        }
        Ok(())
    }

    fn extension(&mut self, kind: EntryType, size: u64) -> Result<()> {
        if size > MAX_EXTENSION {
            let message = format!("a name or extended header has {size} bytes, more than {MAX_EXTENSION}");
            return Err(Error::new(ErrorKind::InvalidData, message));
        }
        if kind == EntryType::XHeader && size > 0 {
            self.block.clear();
            self.state = State::Pax { rest: padded(size) };
        } else {
            self.skip(size);
        }
        Ok(())
    }

    fn skip(&mut self, content: u64) {
        self.expect_header();
        if content > 0 {
            self.state = State::Content { rest: padded(content) };
        }
    }

    fn expect_header(&mut self) {
        self.block.clear();
        self.state = State::Header;
    }
}

fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX)
}

/// Adds up the header's bytes, its own checksum counted as spaces.
fn has_checksum(block: &[u8]) -> bool {
    let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    Header::from_byte_slice(block).cksum().is_ok_and(|cksum| cksum == sum + 8 * u32::from(b' '))
}

/// The `size` of `length key=value\n` records.
fn pax_size(records: &[u8]) -> Option<u64> {
    let fields = records.split(|byte| *byte == b'\n').filter_map(|record| std::str::from_utf8(record).ok());
    let values = fields.filter_map(|record| record.split_once(' ')?.1.strip_prefix("size="));
    values.filter_map(|value| value.parse().ok()).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn guarded(archive: &[u8], piece: usize) -> Result<Vec<u8>> {
        let mut guarded = Guarded::new(archive);
        let mut all = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            match guarded.read(&mut buffer)? {
                0 => return Ok(all),
                length => all.extend_from_slice(&buffer[..length]),
            }
        }
    }

    fn archive(long: u64, before: &[(EntryType, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, content) in before {
            builder.append(&header(*kind, content.len() as u64), &content[..]).unwrap();
        }
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 2 * BLOCK);
        bytes.extend_from_slice(header(EntryType::XHeader, long).as_bytes());
        bytes
    }

    #[test]
    fn extensions_are_bounded_wherever_they_come() {
        let pax = b"14 size=70000\n".to_vec();
        let cases: &[&[(EntryType, Vec<u8>)]] = &[
            &[],
            &[
                (EntryType::Regular, vec![7; 1000]),
                (EntryType::Directory, vec![]),
                (EntryType::Regular, vec![1; 512]),
            ],
            &[(EntryType::GNULongName, vec![b'n'; 300]), (EntryType::Regular, vec![])],
            &[(EntryType::XHeader, pax), (EntryType::Regular, vec![0; 70_000])],
        ];
        for before in cases {
            for piece in [1, 100, 512, 100_000] {
                let fine = archive(MAX_EXTENSION, before);
                assert_eq!(guarded(&fine, piece).unwrap(), fine);
                assert!(
                    guarded(&archive(MAX_EXTENSION + 1, before), piece).is_err(),
                    "{} before",
                    before.len()
                );
            }
        }
    }

    #[test]
    fn a_size_in_a_pax_header_counts() {
        // The header of the file says 0, the PAX header before it 1024: what looks like a header is content.
        let mut bytes = archive(0, &[(EntryType::XHeader, b"13 size=1024\n".to_vec())]);
        bytes.truncate(bytes.len() - BLOCK);
        bytes.extend_from_slice(header(EntryType::Regular, 0).as_bytes());
        let inner = header(EntryType::XHeader, MAX_EXTENSION + 1);
        bytes.extend_from_slice(inner.as_bytes());
        bytes.extend_from_slice(inner.as_bytes());
        guarded(&bytes, 512).unwrap();
        bytes.extend_from_slice(inner.as_bytes());
        guarded(&bytes, 512).unwrap_err();
    }

    #[test]
    fn what_is_no_archive_passes() {
        let noise: Vec<u8> = (0..5000u32).map(|n| (n * 31 % 251) as u8).collect();
        assert_eq!(guarded(&noise, 333).unwrap(), noise);
    }
}
