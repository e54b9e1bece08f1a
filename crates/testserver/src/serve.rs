//! The server: one thread for each port and each connection.

use std::env;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Options;
use crate::http::{self, Request};
use crate::memory;
use crate::state::State;
use crate::term;

/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// What `/crash` ends with unless asked otherwise.
const CRASH_CODE: i32 = 1;

/// Serves until told to stop; returns only when it cannot start.
pub fn run(options: Options) -> ExitCode {
    let started = Instant::now();
    for name in &options.required {
        if env::var_os(name).is_none_or(|value| value.is_empty()) {
            eprintln!("testserver: the variable {name} is not set");
            return ExitCode::FAILURE;
        }
    }
    if let Err(error) = term::watch(&options) {
        eprintln!("testserver: cannot wait for signals: {error}");
        return ExitCode::FAILURE;
    }
    let state = Arc::new(State::new(started, options.ready_after));
    thread::sleep(options.listen_after);
    if let Err(error) = listen(&options, &state) {
        eprintln!("testserver: {error}");
        return ExitCode::FAILURE;
    }
    println!("serving on {:?} as {}", options.http, hostname());
    match options.exit_after {
        Some(life) => {
            thread::sleep(life.saturating_sub(started.elapsed()));
            println!("ending with {}", options.exit_code);
            ExitCode::from(options.exit_code)
        }
        None => loop {
            thread::park();
        },
    }
}

fn listen(options: &Options, state: &Arc<State>) -> io::Result<()> {
    for port in &options.http {
        let state = Arc::clone(state);
        accept(*port, move |stream| http_connection(stream, &state))?;
    }
    for port in &options.tcp {
        accept(*port, tcp_echo)?;
    }
    for port in &options.greeting {
        accept(*port, greet)?;
    }
    for port in &options.udp {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port))
            .or_else(|_| UdpSocket::bind(("0.0.0.0", *port)))?;
        thread::spawn(move || udp_echo(&socket));
    }
    Ok(())
}

/// Both address families where there is IPv6, else IPv4.
fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|error| io::Error::other(format!("cannot listen on port {port}: {error}")))
}

fn accept(port: u16, serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
    let listener = bind(port)?;
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(IDLE));
                serve(&stream)
            });
        }
    });
    Ok(())
}

fn tcp_echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

fn udp_echo(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        let (count, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..count], from)?;
    }
}

/// A database speaks first. This is only the shape of it: length, sequence number, protocol 10, a version.
fn greet(mut stream: &TcpStream) -> io::Result<()> {
    let version = b"5.6.0-standin\0";
    stream.write_all(&[version.len() as u8 + 1, 0, 0, 0, 10])?;
    stream.write_all(version)
}

fn http_connection(stream: &TcpStream, state: &State) -> io::Result<()> {
    let request = Request::read(stream)?;
    println!("{} {} {}", state.count(), request.method, request.path);
    if request.path == "/crash" {
        http::answer(stream, 200, b"crashing\n")?;
        process::exit(request.parameter("code").and_then(|code| code.parse().ok()).unwrap_or(CRASH_CODE));
    }
    let (status, body) = reply(&request, stream, state);
    http::answer(stream, status, &body)
}

fn reply(request: &Request, stream: &TcpStream, state: &State) -> (u16, Vec<u8>) {
    let ok = |text: String| (200, text.into_bytes());
    match request.path.as_str() {
        "/" | "/hostname" => ok(hostname() + "\n"),
        "/echo" => (200, echo(request)),
        "/env" => environment(request.parameter("name")),
        "/headers" => ok(request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()),
        "/client" => ok(stream.peer_addr().map(|from| format!("{}\n", from.ip())).unwrap_or_default()),
        "/read" => read(request.parameter("path").unwrap_or_default()),
        "/log" => {
            println!("{}", request.parameter("line").unwrap_or_default());
            ok("logged\n".to_owned())
        }
        "/eat" => {
            let held = memory::eat(request.parameter("mb").and_then(|mb| mb.parse().ok()).unwrap_or(1));
            let megabytes = held.len();
            std::mem::forget(held);
            ok(format!("holding {megabytes} MB more\n"))
        }
        "/healthz" | "/readyz" if state.healthy(Instant::now()) => ok("ok\n".to_owned()),
        "/healthz" | "/readyz" => (503, b"not ok\n".to_vec()),
        "/fail" | "/recover" => {
            state.fail(request.path == "/fail");
            ok("done\n".to_owned())
        }
        _ => (404, b"no such page\n".to_vec()),
    }
}

/// The body, or the query where there is none.
fn echo(request: &Request) -> Vec<u8> {
    if !request.body.is_empty() {
        return request.body.clone();
    }
    request.query.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>().into_bytes()
}

fn environment(name: Option<&str>) -> (u16, Vec<u8>) {
    if let Some(name) = name {
        return match env::var(name) {
            Ok(value) => (200, format!("{value}\n").into_bytes()),
            Err(_) => (404, format!("{name} is not set\n").into_bytes()),
        };
    }
    let mut lines: Vec<_> = env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
    lines.sort();
    (200, lines.concat().into_bytes())
}

fn read(path: &str) -> (u16, Vec<u8>) {
    match std::fs::read(path) {
        Ok(bytes) => (200, bytes),
        Err(error) => (404, format!("{path}: {error}\n").into_bytes()),
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
