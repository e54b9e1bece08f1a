//! Frames as bytes, and header blocks with their compression.
//!
//! A frame starts with eight bytes. Control: `1 version:15 | type:16 | flags:8 length:24`. Data:
//! `0 stream:31 | flags:8 length:24`. The blocks of names and values in SYN_STREAM, SYN_REPLY and HEADERS
//! share one zlib stream per direction, primed with the dictionary of SPDY/3.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Version in control frames; 3.1 differs from 3 only in flow control.
const VERSION: u16 = 3;
/// Longest control frame that is read.
pub(crate) const MAX_CONTROL: usize = 64 << 10;
/// Longest header block after decompression.
const MAX_BLOCK: usize = 256 << 10;
/// Most headers of one block.
const MAX_HEADERS: usize = 256;

/// Flags of frames.
pub mod flags {
    /// The sender writes nothing more on the stream.
    pub const FIN: u8 = 1;
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameHeader {
    /// Bytes of a stream follow.
    Data {
        /// The stream.
        stream: u32,
        /// See [`flags`].
        flags: u8,
        /// Bytes that follow.
        length: usize,
    },
    /// A control frame's body follows.
    Control {
        /// Type of the frame.
        kind: u16,
        /// See [`flags`].
        flags: u8,
        /// Bytes that follow.
        length: usize,
    },
}

impl FrameHeader {
    /// Reads eight bytes.
    pub fn parse(mut bytes: [u8; 8]) -> Result<Self, FrameError> {
        let control = bytes[0] & 0x80 != 0;
        bytes[0] &= 0x7f;
        let mut cursor = &bytes[..];
        let first = cursor.get_u32();
        let second = cursor.get_u32();
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if !control {
            return Ok(Self::Data { stream: first, flags, length });
        }
        let (version, kind) = ((first >> 16) as u16, first as u16);
        if version != VERSION {
            return Err(FrameError(format!("SPDY version {version} is not supported")));
        }
        if length > MAX_CONTROL {
            return Err(FrameError(format!("control frame of {length} bytes is too long")));
        }
        Ok(Self::Control { kind, flags, length })
    }

    /// Appends the header of a data frame. `length` must fit 24 bits.
    pub fn put_data(out: &mut BytesMut, stream: u32, flags: u8, length: usize) {
        out.put_u32(stream & 0x7fff_ffff);
        out.put_u32(u32::from(flags) << 24 | (length as u32 & 0x00ff_ffff));
    }
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlFrame {
    /// Opens a stream.
    SynStream {
        /// The new stream; odd from clients.
        stream: u32,
        /// Headers, names in lower case.
        headers: Vec<(String, String)>,
        /// The sender will write nothing.
        fin: bool,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// Headers.
        headers: Vec<(String, String)>,
        /// The sender will write nothing.
        fin: bool,
    },
    /// Ends a stream both ways.
    RstStream {
        /// The stream.
        stream: u32,
        /// Why, in SPDY's numbers.
        status: u32,
    },
    /// Echoed by the receiver.
    Ping(u32),
    /// No more streams.
    GoAway {
        /// The last stream that was accepted.
        last_stream: u32,
    },
    /// More headers.
    Headers {
        /// The stream.
        stream: u32,
        /// Headers.
        headers: Vec<(String, String)>,
        /// The sender will write nothing more.
        fin: bool,
    },
    /// The receiver has room again.
    WindowUpdate {
        /// The stream; 0 is the connection.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
    /// SETTINGS and whatever else: nothing that matters here.
    Other(u16),
}

/// The peer breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FrameError(String);

fn short() -> FrameError {
    FrameError("frame is cut short".into())
}

/// One direction's compression of header blocks; frames must pass in the order of the connection.
pub struct HeaderBlocks {
    deflate: Compress,
    inflate: Decompress,
    primed: bool,
}

impl Default for HeaderBlocks {
    fn default() -> Self {
        Self::new()
    }
}

impl HeaderBlocks {
    /// A fresh connection's state, good for one direction each of writing and reading.
    pub fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // Fails only for a stream that is in use already.
        let _ = deflate.set_dictionary(dictionary().as_bytes());
        Self { deflate, inflate: Decompress::new(true), primed: false }
    }

    /// Reads the body of a control frame.
    pub fn parse(&mut self, kind: u16, flag_bits: u8, mut body: &[u8]) -> Result<ControlFrame, FrameError> {
        let fin = flag_bits & flags::FIN != 0;
        let mut word = || -> Result<u32, FrameError> { body.try_get_u32().map_err(|_| short()) };
        match kind {
            1 => {
                let stream = word()? & 0x7fff_ffff;
                word()?;
                body.try_get_u16().map_err(|_| short())?;
                Ok(ControlFrame::SynStream { stream, headers: self.decompress(body)?, fin })
            }
            2 => {
                let stream = word()? & 0x7fff_ffff;
                Ok(ControlFrame::SynReply { stream, headers: self.decompress(body)?, fin })
            }
            3 => Ok(ControlFrame::RstStream { stream: word()? & 0x7fff_ffff, status: word()? }),
            6 => Ok(ControlFrame::Ping(word()?)),
            7 => Ok(ControlFrame::GoAway { last_stream: word()? & 0x7fff_ffff }),
            8 => {
                let stream = word()? & 0x7fff_ffff;
                Ok(ControlFrame::Headers { stream, headers: self.decompress(body)?, fin })
            }
            9 => {
                Ok(ControlFrame::WindowUpdate { stream: word()? & 0x7fff_ffff, delta: word()? & 0x7fff_ffff })
            }
            other => Ok(ControlFrame::Other(other)),
        }
    }

    /// Appends a whole control frame.
    pub fn put(&mut self, out: &mut BytesMut, frame: &ControlFrame) -> Result<(), FrameError> {
        let mut body = BytesMut::new();
        let (kind, fin) = match frame {
            ControlFrame::SynStream { stream, headers, fin } => {
                body.put_u32(*stream);
                body.put_u32(0);
                body.put_u16(0);
                self.compress(&mut body, headers)?;
                (1, *fin)
            }
            ControlFrame::SynReply { stream, headers, fin } => {
                body.put_u32(*stream);
                self.compress(&mut body, headers)?;
                (2, *fin)
            }
            ControlFrame::RstStream { stream, status } => {
                body.put_u32(*stream);
                body.put_u32(*status);
                (3, false)
            }
            ControlFrame::Ping(id) => {
                body.put_u32(*id);
                (6, false)
            }
            ControlFrame::GoAway { last_stream } => {
                body.put_u32(*last_stream);
                body.put_u32(0);
                (7, false)
            }
            ControlFrame::Headers { stream, headers, fin } => {
                body.put_u32(*stream);
                self.compress(&mut body, headers)?;
                (8, *fin)
            }
            ControlFrame::WindowUpdate { stream, delta } => {
                body.put_u32(*stream);
                body.put_u32(*delta);
                (9, false)
            }
            ControlFrame::Other(kind) => return Err(FrameError(format!("frame type {kind} cannot be sent"))),
        };
        if body.len() > MAX_CONTROL {
            return Err(FrameError("headers are too long".into()));
        }
        out.put_u32(1 << 31 | u32::from(VERSION) << 16 | kind);
        out.put_u32(u32::from(fin) << 24 | body.len() as u32);
        out.put(body);
        Ok(())
    }

    fn compress(&mut self, out: &mut BytesMut, headers: &[(String, String)]) -> Result<(), FrameError> {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put(text.as_bytes());
        }
        let mut input = &block[..];
        let mut piece = [0; 4096];
        loop {
            let (read, written) = (self.deflate.total_in(), self.deflate.total_out());
            let failed = |error| FrameError(format!("cannot compress headers: {error}"));
            self.deflate.compress(input, &mut piece, FlushCompress::Sync).map_err(failed)?;
            input.advance((self.deflate.total_in() - read) as usize);
            let written = (self.deflate.total_out() - written) as usize;
            out.put(&piece[..written]);
            // Room left over means that everything was flushed.
            if input.is_empty() && written < piece.len() {
                return Ok(());
            }
        }
    }

    fn decompress(&mut self, mut input: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
        let mut block = BytesMut::new();
        let mut piece = [0; 4096];
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress(input, &mut piece, FlushDecompress::Sync);
            input.advance((self.inflate.total_in() - read) as usize);
            let written = (self.inflate.total_out() - written) as usize;
            block.put(&piece[..written]);
            if block.len() > MAX_BLOCK {
                return Err(FrameError(format!("headers are longer than {MAX_BLOCK} bytes")));
            }
            match result {
                Err(error) if error.needs_dictionary().is_some() && !self.primed => {
                    self.primed = true;
                    let refused = |error| FrameError(format!("headers want another dictionary: {error}"));
                    self.inflate.set_dictionary(dictionary().as_bytes()).map_err(refused)?;
                }
                Err(error) => return Err(FrameError(format!("headers are not valid zlib: {error}"))),
                Ok(Status::StreamEnd) => return parse_block(block.freeze()),
                Ok(_) if written < piece.len() && (input.is_empty() || written == 0) => {
                    return parse_block(block.freeze());
                }
                Ok(_) => {}
            }
        }
    }
}

fn parse_block(mut block: Bytes) -> Result<Vec<(String, String)>, FrameError> {
    let count = block.try_get_u32().map_err(|_| short())? as usize;
    if count > MAX_HEADERS {
        return Err(FrameError(format!("{count} headers are too many")));
    }
    let mut text = || -> Result<String, FrameError> {
        let length = block.try_get_u32().map_err(|_| short())? as usize;
        if block.len() < length {
            return Err(short());
        }
        String::from_utf8(block.split_to(length).to_vec())
            .map_err(|_| FrameError("headers are not UTF-8".into()))
    };
    (0..count).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

/// Words with their length in four bytes in front, in the order that SPDY/3 fixes.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding \
content-language content-length content-location content-md5 content-range content-type date etag expect \
expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location \
max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 \
url public set-cookie keep-alive origin";

/// Text without lengths at the end of the dictionary.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun \
Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary that both sides prime zlib with.
fn dictionary() -> &'static str {
    static BUILT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let mut text = String::new();
        for word in DICTIONARY_WORDS.split(' ') {
            let word = word.replace('_', " ");
            // Lengths are below 128, so that they are also characters.
            text.push_str("\0\0\0");
            text.push(word.len() as u8 as char);
            text.push_str(&word);
        }
        text + DICTIONARY_TAIL
    });
    &BUILT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn round_trip(frames: &[ControlFrame]) {
        let (mut writer, mut reader) = (HeaderBlocks::new(), HeaderBlocks::new());
        for frame in frames {
            let mut bytes = BytesMut::new();
            writer.put(&mut bytes, frame).unwrap();
            let FrameHeader::Control { kind, flags, length } =
                FrameHeader::parse(bytes[..8].try_into().unwrap()).unwrap()
            else {
                panic!("control frame expected")
            };
            assert_eq!(length, bytes.len() - 8);
            assert_eq!(reader.parse(kind, flags, &bytes[8..]).unwrap(), *frame);
        }
    }

    #[test]
    fn the_dictionary_is_spdys() {
        assert_eq!(dictionary().len(), 1423);
        let mut bytes = BytesMut::new();
        HeaderBlocks::new().compress(&mut bytes, &[]).unwrap();
        // zlib header with a preset dictionary, whose checksum identifies SPDY/3's.
        assert_eq!(bytes[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn frames_survive_the_wire_and_share_compression() {
        let names = headers(&[("streamtype", "stdin"), ("port", "80"), ("requestid", "")]);
        round_trip(&[
            ControlFrame::SynStream { stream: 1, headers: names.clone(), fin: false },
            ControlFrame::SynStream { stream: 3, headers: names.clone(), fin: true },
            ControlFrame::SynReply { stream: 1, headers: vec![], fin: false },
            ControlFrame::Headers { stream: 3, headers: names, fin: false },
            ControlFrame::RstStream { stream: 3, status: 5 },
            ControlFrame::Ping(7),
            ControlFrame::GoAway { last_stream: 3 },
            ControlFrame::WindowUpdate { stream: 1, delta: 65_536 },
            ControlFrame::SynStream {
                stream: 5,
                headers: headers(&[("long", &"x".repeat(50_000))]),
                fin: false,
            },
        ]);
    }

    #[test]
    fn known_bytes() {
        let mut bytes = BytesMut::new();
        HeaderBlocks::new().put(&mut bytes, &ControlFrame::Ping(1)).unwrap();
        assert_eq!(bytes[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        bytes.clear();
        FrameHeader::put_data(&mut bytes, 5, flags::FIN, 0x010203);
        assert_eq!(bytes[..], [0, 0, 0, 5, 1, 1, 2, 3]);
        let parsed = FrameHeader::parse(bytes[..].try_into().unwrap()).unwrap();
        assert_eq!(parsed, FrameHeader::Data { stream: 5, flags: 1, length: 0x010203 });
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(FrameHeader::parse([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err(), "version");
        assert!(FrameHeader::parse([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).is_err(), "length");
        assert!(HeaderBlocks::new().parse(1, 0, &[0; 4]).is_err(), "short");
        assert!(HeaderBlocks::new().parse(2, 0, &[0, 0, 0, 1, 1, 2, 3]).is_err(), "not zlib");
        assert_eq!(HeaderBlocks::new().parse(4, 0, &[]), Ok(ControlFrame::Other(4)));
        let bomb = ControlFrame::SynReply {
            stream: 1,
            headers: headers(&[("a", &"x".repeat(MAX_BLOCK))]),
            fin: false,
        };
        let mut bytes = BytesMut::new();
        HeaderBlocks::new().put(&mut bytes, &bomb).unwrap();
        assert!(HeaderBlocks::new().parse(2, 0, &bytes[8..]).is_err(), "bomb");
    }

    proptest! {
        #[test]
        fn any_headers_survive(list in proptest::collection::vec(("[a-z]{0,9}", ".{0,40}"), 0..12)) {
            round_trip(&[ControlFrame::SynStream { stream: 1, headers: list.clone(), fin: false },
                ControlFrame::SynReply { stream: 1, headers: list, fin: false }]);
        }

        #[test]
        fn any_bytes_are_only_an_error(kind in 1u16..10, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = HeaderBlocks::new().parse(kind, 0, &body);
        }
    }
}
