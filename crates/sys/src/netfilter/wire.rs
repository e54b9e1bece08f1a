//! The bytes of netlink: messages with nested attributes, written in place and read without copying.

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_CREATE`, `NLM_F_APPEND`.
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
/// Length of `nlmsghdr`, and with `nfgenmsg` behind it.
pub(super) const HEADER: usize = 16;
pub(super) const FULL_HEADER: usize = HEADER + 4;
/// Attribute types carry two flags in their highest bits.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Messages in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writer {
    pub bytes: Vec<u8>,
}

/// Where an attribute or a message began; needed to write its length at its end.
#[derive(Clone, Copy)]
pub(super) struct Open(usize);

impl Writer {
    /// Begins a message with `nlmsghdr` and `nfgenmsg`.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        open
    }

    pub fn end_message(&mut self, open: Open) {
        let length = u32::try_from(self.bytes.len() - open.0).unwrap_or(u32::MAX);
        self.bytes[open.0..open.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sets a flag of the message that begins at `at`.
    pub fn set_flag(&mut self, at: usize, flag: u16) {
        if let Some(flags) = u16_at(&self.bytes, at + 6) {
            self.bytes[at + 6..at + 8].copy_from_slice(&(flags | flag).to_ne_bytes());
        }
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    /// A name with the zero at its end.
    pub fn name(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(value.len() + 5).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub fn nest(&mut self, kind: u16) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend(0u16.to_ne_bytes());
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        open
    }

    pub fn end_nest(&mut self, open: Open) {
        let length = u16::try_from(self.bytes.len() - open.0).unwrap_or(u16::MAX);
        self.bytes[open.0..open.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes what `inner` writes as a nested attribute.
    pub fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let open = self.nest(kind);
        inner(self);
        self.end_nest(open);
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message of a reply.
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The port of who caused it.
    pub sender: u32,
    /// Everything after `nlmsghdr`.
    pub body: &'a [u8],
}

/// Splits a buffer into messages; ends at the first that is cut off.
pub(super) fn messages(mut buffer: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(buffer, 0)? as usize;
        let whole = buffer.get(..length).filter(|m| m.len() >= HEADER)?;
        let message = Message {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            sequence: u32_at(whole, 8)?,
            sender: u32_at(whole, 12)?,
            body: &whole[HEADER..],
        };
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Type and value of each attribute; ends at the first that is cut off.
pub(super) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(buffer, 0)?);
        let value = buffer.get(4..length)?;
        let kind = u16_at(buffer, 2)? & TYPE_MASK;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that type.
pub(super) fn find(buffer: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(buffer).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        for sequence in [1, 2] {
            let open = writer.message(7, REQUEST, sequence, 2, 0);
            writer.name(1, "ab");
            writer.nested(2, |w| w.number(3, 0x0102_0304));
            writer.end_message(open);
        }
        let read: Vec<_> = messages(&writer.bytes).map(|m| (m.kind, m.flags, m.sequence, m.body)).collect();
        assert_eq!((read.len(), read[1].2), (2, 2));
        let body = &read[0].3[4..];
        assert_eq!(find(body, 1), Some(b"ab\0".as_slice()));
        assert_eq!(find(find(body, 2).unwrap(), 3), Some([1, 2, 3, 4].as_slice()));
    }

    #[test]
    fn nothing_panics_on_short_or_false_lengths() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[255, 255, 1, 0, 5], &[16, 0, 0, 0, 1, 2, 3, 4, 5]] {
            assert_eq!(messages(bytes).count(), 0);
            assert_eq!(attributes(bytes).count(), 0);
        }
    }
}
