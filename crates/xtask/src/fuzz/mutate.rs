//! Spoiling inputs: a small seeded generator and the changes that it picks from. The same seed makes the same inputs.

/// SplitMix64: enough for picking, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Words that mean something to one of the targets.
const WORDS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1e999",
    "9223372036854775807",
    "-9223372036854775808",
    "0.5",
    "\"1Ki\"",
    "\"$patch\":\"delete\"",
    "\"$patch\":\"replace\"",
    "\"$retainKeys\":[\"a\"]",
    "\"$setElementOrder/containers\":[{\"name\":\"c\"}]",
    "\"$deleteFromPrimitiveList/finalizers\":[\"a\"]",
    "\\u0000",
    "\\ud800",
    "\"op\":\"copy\"",
    "\"path\":\"/-\"",
    "\"path\":\"\"",
    "~1",
    "a in (b)",
    "!a",
    "a!=b",
    "a notin (",
    "x=\\,",
    "*a",
    "&a ",
    "<<: ",
    "!!binary ",
    "---\n",
    "\u{feff}",
    "\u{fffd}",
    "5m",
    "50%",
    "k8s\0",
    "\u{ff}",
];
/// An input grows to at most so many bytes.
const MAX_BYTES: usize = 64 * 1024;

impl Random {
    /// A generator that starts at a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }
}

/// Changes an input in a few places; `other` is another input to take parts of.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        match random.below(9) {
            0 => flip(random, input),
            1 => insert(random, input),
            2 => remove(random, input),
            3 => word(random, input),
            4 => splice(random, input, other),
            5 => repeat(random, input),
            6 => swap_tokens(random, input, input.clone().as_slice()),
            _ => swap_tokens(random, input, other),
        }
    }
    input.truncate(MAX_BYTES);
}

fn flip(random: &mut Random, input: &mut [u8]) {
    let at = random.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn insert(random: &mut Random, input: &mut Vec<u8>) {
    let at = random.below(input.len() + 1);
    input.insert(at, random.next() as u8);
}

fn range(random: &mut Random, len: usize, most: usize) -> std::ops::Range<usize> {
    let start = random.below(len + 1);
    let end = (start + random.below(most)).min(len);
    start..end
}

fn remove(random: &mut Random, input: &mut Vec<u8>) {
    let range = range(random, input.len(), 32);
    input.drain(range);
}

fn word(random: &mut Random, input: &mut Vec<u8>) {
    let word = WORDS[random.below(WORDS.len())];
    let range = match random.below(2) {
        0 => range(random, input.len(), 8),
        _ => token(random, input),
    };
    input.splice(range, word.bytes());
}

fn splice(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    let taken = range(random, other.len(), 256);
    let range = range(random, input.len(), 64);
    input.splice(range, other[taken].iter().copied());
}

fn repeat(random: &mut Random, input: &mut Vec<u8>) {
    let taken = range(random, input.len(), 64);
    let part = input[taken.clone()].to_vec();
    input.splice(taken.end..taken.end, part);
}

/// Puts a scalar of one text in the place of a scalar of the other: documents stay well formed and mean something else.
fn swap_tokens(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    let part = other[token(random, other)].to_vec();
    let place = token(random, input);
    input.splice(place, part);
}

/// What stands between two marks of JSON after a random place.
fn token(random: &mut Random, text: &[u8]) -> std::ops::Range<usize> {
    let is_mark = |b: &u8| matches!(b, b':' | b',' | b'{' | b'}' | b'[' | b']' | b'\n');
    let from = random.below(text.len());
    let start = text[from..].iter().position(is_mark).map_or(from, |at| from + at + 1);
    let end = text[start..].iter().position(is_mark).map_or(text.len(), |at| start + at);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything_and_no_input_is_too_small() {
        for start in [&b""[..], b"x", b"{\"a\":1}"] {
            let run = |seed| {
                let (mut random, mut input) = (Random::new(seed), start.to_vec());
                (0..500).for_each(|_| mutate(&mut random, &mut input, b"[1,2]"));
                input
            };
            assert_eq!(run(1), run(1));
            assert!(run(1).len() <= MAX_BYTES);
        }
    }
}
