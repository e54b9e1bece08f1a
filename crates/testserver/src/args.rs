//! The command line.

use std::time::Duration;

/// What to type.
pub const USAGE: &str = "\
testserver [serve] [OPTIONS]     serve until told to stop
testserver get [OPTIONS] URL     ask an http:// URL and print the answer
testserver eat MEGABYTES         take memory and hold it
testserver exit CODE             end at once

Options of serve:
  --port N               HTTP port, may be repeated [default: 8080]
  --tcp-port N           answer every connection with what it sends
  --udp-port N           answer every datagram with itself
  --greeting-port N      greet every connection as a database does, then close it
  --listen-after SECS    open ports only after this time (slow start)
  --ready-after SECS     /readyz and /healthz fail until then
  --exit-after SECS      end by itself
  --exit-code N          with this code [default: 0]
  --ignore-sigterm       SIGTERM does nothing
  --term-delay SECS      live on for so long after SIGTERM
  --require-env NAME     end with code 1 unless this variable is set and not empty

Options of get:
  -n COUNT               ask so many times [default: 1]
  --timeout SECS         of each question [default: 5]
  --interval SECS        between two questions [default: 0]

HTTP: / /echo /env[?name=] /hostname /headers /client /read?path= /log?line= /eat?mb= /crash[?code=]
      /healthz /readyz /fail /recover";

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Exit(u8),
    Eat(usize),
    Get(Request),
    Serve(Options),
}

/// What `get` asks.
#[derive(Debug, PartialEq)]
pub struct Request {
    pub url: String,
    pub count: u32,
    pub timeout: Duration,
    pub interval: Duration,
}

/// How to serve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub http: Vec<u16>,
    pub tcp: Vec<u16>,
    pub udp: Vec<u16>,
    pub greeting: Vec<u16>,
    pub listen_after: Duration,
    pub ready_after: Duration,
    pub exit_after: Option<Duration>,
    pub exit_code: u8,
    pub ignore_sigterm: bool,
    pub term_delay: Duration,
    pub required: Vec<String>,
}

/// Reads the words after the program's name.
pub fn parse(words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut words = words.peekable();
    match words.peek().map(String::as_str) {
        Some("-h" | "--help" | "help") => Ok(Command::Help),
        Some("exit") => Ok(Command::Exit(number("exit", words.nth(1))?)),
        Some("eat") => Ok(Command::Eat(number("eat", words.nth(1))?)),
        Some("get") => get(words.skip(1)),
        Some("serve") => serve(words.skip(1)),
        _ => serve(words),
    }
}

fn get(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut request =
        Request { url: String::new(), count: 1, timeout: Duration::from_secs(5), interval: Duration::ZERO };
    while let Some(word) = words.next() {
        match word.as_str() {
            "-n" => request.count = number(&word, words.next())?,
            "--timeout" => request.timeout = seconds(&word, words.next())?,
            "--interval" => request.interval = seconds(&word, words.next())?,
            _ if word.starts_with("http://") => request.url = word,
            _ => return Err(format!("get does not know {word:?}")),
        }
    }
    if request.url.is_empty() {
        return Err("get needs an http:// URL".to_owned());
    }
    Ok(Command::Get(request))
}

fn serve(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let name = word.as_str();
        match name {
            "--port" => options.http.push(number(name, words.next())?),
            "--tcp-port" => options.tcp.push(number(name, words.next())?),
            "--udp-port" => options.udp.push(number(name, words.next())?),
            "--greeting-port" => options.greeting.push(number(name, words.next())?),
            "--listen-after" => options.listen_after = seconds(name, words.next())?,
            "--ready-after" => options.ready_after = seconds(name, words.next())?,
            "--exit-after" => options.exit_after = Some(seconds(name, words.next())?),
            "--exit-code" => options.exit_code = number(name, words.next())?,
            "--ignore-sigterm" => options.ignore_sigterm = true,
            "--term-delay" => options.term_delay = seconds(name, words.next())?,
            "--require-env" => options.required.push(value(name, words.next())?),
            _ => return Err(format!("serve does not know {name:?}")),
        }
    }
    if options.http.is_empty() && options.greeting.is_empty() {
        options.http.push(8080);
    }
    Ok(Command::Serve(options))
}

fn value(option: &str, word: Option<String>) -> Result<String, String> {
    word.ok_or_else(|| format!("{option} needs a value"))
}

fn number<T: std::str::FromStr>(option: &str, word: Option<String>) -> Result<T, String> {
    let word = value(option, word)?;
    word.parse().map_err(|_| format!("{option} does not take {word:?}"))
}

fn seconds(option: &str, word: Option<String>) -> Result<Duration, String> {
    Duration::try_from_secs_f64(number(option, word)?).map_err(|error| format!("{option}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_become_commands() {
        let Ok(Command::Serve(options)) = parsed("--port 80 --port 81 --exit-after 0.5 --exit-code 3") else {
            panic!("serve is what is done when nothing else is named");
        };
        assert_eq!(options.http, [80, 81]);
        assert_eq!(options.exit_after, Some(Duration::from_millis(500)));
        assert_eq!(options.exit_code, 3);
        assert_eq!(parsed("exit 7"), Ok(Command::Exit(7)));
        assert_eq!(parsed("eat 64"), Ok(Command::Eat(64)));
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for line in ["exit", "exit 300", "eat x", "get", "get ftp://x", "--port", "--port x", "--nonsense"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert!(parsed("--ready-after -1").is_err());
    }
}
