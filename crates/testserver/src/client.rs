//! `testserver get`: a client for images that have no curl.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;

use crate::args::Request;
use crate::http;

/// Asks as often as wanted; fails when any answer was not a success.
pub fn run(request: &Request) -> ExitCode {
    let mut failed = 0;
    for number in 0..request.count {
        if number > 0 {
            thread::sleep(request.interval);
        }
        match ask(request) {
            Ok((status, body)) => {
                print!("{body}");
                failed += u32::from(!(200..400).contains(&status));
            }
            Err(error) => {
                eprintln!("{}: {error}", request.url);
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ask(request: &Request) -> io::Result<(u16, String)> {
    let (authority, path) = split(&request.url);
    let with_port = if has_port(authority) { authority.to_owned() } else { format!("{authority}:80") };
    let address = with_port.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, request.timeout)?;
    stream.set_read_timeout(Some(request.timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let first = http::line(&mut reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an HTTP answer: {first:?}")))?;
    http::read_headers(&mut reader)?;
    let mut body = String::new();
    reader.read_to_string(&mut body)?;
    Ok((status, body))
}

fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    }
}

/// An IPv6 address in brackets has colons of its own.
fn has_port(authority: &str) -> bool {
    authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        assert_eq!(split("http://a:81/x?y"), ("a:81", "/x?y"));
        assert_eq!(split("http://a"), ("a", "/"));
        for (authority, port) in [("a", false), ("a:80", true), ("[::1]", false), ("[::1]:80", true)] {
            assert_eq!(has_port(authority), port, "{authority}");
        }
    }
}
