//! A profile of the processor's time in pprof's protobuf: stacks as program counters, the mappings they lie in, and names where the
//! program has them. A stripped program's profile is named by pprof with the unstripped one.

use std::collections::HashMap;
use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::ProfilerGuardBuilder;

/// Samples a second, as Go.
const FREQUENCY: i32 = 100;
const NANOS_PER_SAMPLE: u64 = 1_000_000_000 / FREQUENCY as u64;
/// Where a stack is not to be walked: these may hold the locks that the walk needs.
const NOT_WALKED: &[&str] = &["libc", "libgcc", "pthread", "vdso"];
/// Most program counters that are named at once.
pub(super) const MOST_ADDRESSES: usize = 100_000;

/// Looks for so long. Whoever drops the future ends it.
///
/// Errors: why there is none; another one runs, for example.
pub(super) async fn take(time: Duration) -> Result<Vec<u8>, String> {
    let (alive, ended) = mpsc::channel::<()>();
    let looking = tokio::task::spawn_blocking(move || look(time, &ended));
    let outcome = looking.await.map_err(|e| e.to_string())?;
    drop(alive);
    outcome
}

fn look(time: Duration, ended: &mpsc::Receiver<()>) -> Result<Vec<u8>, String> {
    let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(NOT_WALKED);
    let guard = builder.build().map_err(|e| e.to_string())?;
    // The other side sends nothing; it may go.
    let _ = ended.recv_timeout(time);
    let report = guard.report().build_unresolved().map_err(|e| e.to_string())?;
    drop(guard);
    let started = report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut profile = Profile::new(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default());
    for (stack, count) in &report.data {
        let stack: Vec<u64> = stack.frames.iter().map(|frame| frame.ip() as u64).collect();
        profile.sample(&stack, u64::try_from(*count).unwrap_or(0), name);
    }
    profile.finish(started, report.timing.duration).map_err(|e| e.to_string())
}

/// The name of what is at a program counter.
pub(super) fn name(address: u64) -> Option<String> {
    let mut name = None;
    backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
        name = name.take().or_else(|| symbol.name().map(|name| name.to_string()));
    });
    name
}

/// A program file in memory.
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    file: String,
}

/// `START-END r-xp OFFSET DEV INODE FILE`
fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let executable = words.next()?.contains('x');
    let offset = words.next()?;
    let file = words.nth(2).filter(|file| executable && file.starts_with('/'))?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Mapping { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, file: file.to_owned() })
}

/// The message as it grows.
struct Profile {
    out: Vec<u8>,
    mappings: Vec<Mapping>,
    strings: HashMap<String, u64>,
    locations: HashMap<u64, u64>,
    functions: HashMap<String, u64>,
}

impl Profile {
    fn new(maps: &str) -> Self {
        let mut profile = Profile {
            out: Vec::new(),
            mappings: maps.lines().filter_map(mapping).collect(),
            strings: HashMap::new(),
            locations: HashMap::new(),
            functions: HashMap::new(),
        };
        profile.string("");
        for (kind, unit) in [("samples", "count"), ("cpu", "nanoseconds")] {
            let pair = profile.pair(kind, unit);
            message(&mut profile.out, 1, &pair);
        }
        for at in 0..profile.mappings.len() {
            let file = profile.mappings[at].file.clone();
            let file = profile.string(&file);
            let mapping = &profile.mappings[at];
            let numbers =
                [(1, at as u64 + 1), (2, mapping.start), (3, mapping.end), (4, mapping.offset), (5, file)];
            message(&mut profile.out, 3, &numbers_of(&numbers));
        }
        profile
    }

    /// A type and its unit.
    fn pair(&mut self, kind: &str, unit: &str) -> Vec<u8> {
        let (kind, unit) = (self.string(kind), self.string(unit));
        numbers_of(&[(1, kind), (2, unit)])
    }

    /// The place of a text in the table, which the message holds in the order of its fields.
    fn string(&mut self, text: &str) -> u64 {
        if let Some(at) = self.strings.get(text) {
            return *at;
        }
        let at = self.strings.len() as u64;
        self.strings.insert(text.to_owned(), at);
        message(&mut self.out, 6, text.as_bytes());
        at
    }

    fn sample(&mut self, stack: &[u64], count: u64, name: impl Fn(u64) -> Option<String>) {
        let mut locations = Vec::new();
        for (depth, address) in stack.iter().enumerate() {
            // Callers stand at the address after their call.
            let at = if depth == 0 { *address } else { address.saturating_sub(1) };
            varint(&mut locations, self.location(at, &name));
        }
        let mut values = Vec::new();
        varint(&mut values, count);
        varint(&mut values, count * NANOS_PER_SAMPLE);
        let mut sample = Vec::new();
        message(&mut sample, 1, &locations);
        message(&mut sample, 2, &values);
        message(&mut self.out, 2, &sample);
    }

    fn location(&mut self, address: u64, name: impl Fn(u64) -> Option<String>) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(address, id);
        let inside = |mapping: &Mapping| (mapping.start..mapping.end).contains(&address);
        let mapping = self.mappings.iter().position(inside).map_or(0, |at| at as u64 + 1);
        let mut location = numbers_of(&[(1, id), (2, mapping), (3, address)]);
        if let Some(name) = name(address) {
            let function = self.function(name);
            message(&mut location, 4, &numbers_of(&[(1, function)]));
        }
        message(&mut self.out, 4, &location);
        id
    }

    fn function(&mut self, name: String) -> u64 {
        if let Some(id) = self.functions.get(&name) {
            return *id;
        }
        let (id, text) = (self.functions.len() as u64 + 1, self.string(&name));
        self.functions.insert(name, id);
        message(&mut self.out, 5, &numbers_of(&[(1, id), (2, text), (3, text)]));
        id
    }

    /// The whole, compressed as pprof writes it.
    fn finish(mut self, started: Duration, took: Duration) -> std::io::Result<Vec<u8>> {
        let period = self.pair("cpu", "nanoseconds");
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.out.extend(numbers_of(&[(9, nanos(started)), (10, nanos(took)), (12, NANOS_PER_SAMPLE)]));
        message(&mut self.out, 11, &period);
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        zip.write_all(&self.out)?;
        zip.finish()
    }
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Fields that are numbers; zero is left out.
fn numbers_of(fields: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, value) in fields.iter().filter(|(_, value)| *value != 0) {
        varint(&mut out, field << 3);
        varint(&mut out, *value);
    }
    out
}

/// A field of bytes: a text, a list of numbers, a message.
fn message(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn only_programs_are_mapped() {
        let found = mapping("7f00-7fff r-xp 00001000 08:01 42   /usr/lib/libc.so").unwrap();
        assert_eq!(
            (found.start, found.end, found.offset, found.file.as_str()),
            (0x7f00, 0x7fff, 0x1000, "/usr/lib/libc.so")
        );
        assert!(mapping("7f00-7fff rw-p 00001000 08:01 42   /usr/lib/libc.so").is_none());
        assert!(mapping("7f00-7fff r-xp 00000000 00:00 0    [vdso]").is_none());
        assert!(mapping("").is_none());
    }

    #[test]
    fn a_small_profile() {
        let mut profile = Profile::new("10-20 r-xp 0 08:01 42 /p");
        profile.sample(&[0x11, 0x13], 3, |address| (address == 0x12).then(|| "main".to_owned()));
        let zipped = profile.finish(Duration::from_nanos(5), Duration::from_nanos(7)).unwrap();
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&*zipped).read_to_end(&mut out).unwrap();
        let has = |part: &[u8]| out.windows(part.len()).any(|window| window == part);
        assert!(has(b"\x22\x06\x08\x01\x10\x01\x18\x11"), "a location without a name");
        assert!(has(b"\x22\x0a\x08\x02\x10\x01\x18\x12\x22\x02\x08\x01"), "and one with");
        // Two locations; three samples are 30 ms.
        assert!(has(b"\x12\x0b\x0a\x02\x01\x02\x12\x05\x03\x80\x87\xa7\x0e"), "{out:x?}");
        assert!(has(b"\x48\x05\x50\x07"));
    }
}
