//! Frames between agent and shim: a kind, a length, a body. The same in both directions.

use std::io;

/// Longest body either side accepts.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// Bytes before the body.
pub(crate) const HEADER: usize = 5;

/// What a frame means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Agent: tell me of the end (`Done`). Shim: the answer's first frame, JSON `Started`.
    Watch = b'W',
    /// Agent: connect me to the output.
    Attach = b'A',
    /// Agent: bytes for stdin.
    Stdin = b'I',
    /// Agent: stdin is at its end.
    StdinEnd = b'E',
    /// Agent: terminal size, two big-endian u16 (columns, rows).
    Resize = b'R',
    /// Agent: open the log file anew. Answered.
    Reopen = b'L',
    /// Agent: send the signal (big-endian i32) to the main process. Answered.
    Signal = b'S',
    /// Shim: output.
    Stdout = b'O',
    /// Shim: error output.
    Stderr = b'e',
    /// Shim: done as asked.
    Fine = b'K',
    /// Shim: not done, and why.
    Error = b'X',
    /// Shim: the end, JSON `Exited`.
    Done = b'D',
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 12] = [
            Kind::Watch,
            Kind::Attach,
            Kind::Stdin,
            Kind::StdinEnd,
            Kind::Resize,
            Kind::Reopen,
            Kind::Signal,
            Kind::Stdout,
            Kind::Stderr,
            Kind::Fine,
            Kind::Error,
            Kind::Done,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A whole frame. Bodies longer than [`MAX_BODY`] are the caller's mistake and are cut.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(MAX_BODY)];
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.push(kind as u8);
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(body);
    out
}

/// Reads a header: kind and length of the body.
pub(crate) fn header(bytes: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let kind = Kind::from_byte(bytes[0]).ok_or_else(|| bad("unknown frame"))?;
    let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if length > MAX_BODY { Err(bad("frame too long")) } else { Ok((kind, length)) }
}

/// Takes the first whole frame off `buffer`, if one is there.
pub(crate) fn take(buffer: &mut Vec<u8>) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let Some(head) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let (kind, length) = header(*head)?;
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let body = buffer[HEADER..HEADER + length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some((kind, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let bytes =
            [frame(Kind::Stdout, b"hello"), frame(Kind::StdinEnd, b""), frame(Kind::Done, b"{}")].concat();
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            let mut got = Vec::new();
            while let Some(one) = take(&mut buffer).unwrap() {
                got.push(one);
            }
            buffer.extend(&bytes[cut..]);
            while let Some(one) = take(&mut buffer).unwrap() {
                got.push(one);
            }
            let kinds: Vec<Kind> = got.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds, [Kind::Stdout, Kind::StdinEnd, Kind::Done], "cut at {cut}");
            assert_eq!(got[0].1, b"hello");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [[b'?', 0, 0, 0, 0], [b'O', 1, 0, 0, 0]] {
            assert!(take(&mut bytes.to_vec()).is_err(), "{bytes:?}");
        }
    }
}
