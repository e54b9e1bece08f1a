//! Links in what a proxied target answers: an absolute path means the target's root, which to the client lies below the
//! path of the proxy. Redirects and the attributes of HTML that hold addresses are led there, as upstream does.

use std::io::{self, Write};

/// A tag that is longer passes as it is: nobody writes such, and what is held back must be bounded.
const MAX_TAG_BYTES: usize = 64 * 1024;

/// Attributes that hold an address, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text whatever it looks like.
const RAW: [&str; 8] = ["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// The way through the proxy to one target.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Path of the proxy, without a slash at its end.
    pub prefix: String,
    /// `host:port` of the target.
    pub target: String,
    /// The host that the client asked.
    pub asked: String,
}

impl Way {
    /// Where a link of the target leads when it is followed through the proxy; `None` where it stays as it is: relative,
    /// to another host, or through the proxy already.
    pub fn through(&self, link: &str) -> Option<String> {
        let rest = link.strip_prefix("http://").or_else(|| link.strip_prefix("https://"));
        let rest = rest.or_else(|| link.strip_prefix("//"));
        let (host, path) = match rest {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", link),
        };
        let root = &link[..link.len() - path.len()];
        let path = if path.is_empty() && !host.is_empty() { "/" } else { path };
        let is_ours = host.is_empty() || host == self.target || host == self.asked;
        if !is_ours || !path.starts_with('/') {
            return None;
        }
        // The asked host is where the proxy is, so it may stay; the target's own cannot be reached by the client.
        let root = if host == self.asked { root } else { "" };
        let before = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        let through = format!("{root}{before}{path}");
        (through != link).then_some(through)
    }
}

/// What the text at hand is part of.
enum Within {
    Text,
    Comment,
    Raw(&'static str),
}

/// Passes HTML (in UTF-8) on to `out`, links led through the proxy. Holds back no more than one tag.
pub(super) struct Rewriter<W> {
    out: W,
    way: Way,
    held: Vec<u8>,
    within: Within,
}

impl<W: Write> Rewriter<W> {
    pub fn new(out: W, way: Way) -> Self {
        Rewriter { out, way, held: Vec::new(), within: Within::Text }
    }

    /// What the text goes to.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// The text is over: what was held back was no tag.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&self.held)?;
        Ok(self.out)
    }

    /// Writes the next piece and says how long it was; `None` until more of it is there.
    fn piece(&mut self, rest: &[u8]) -> io::Result<Option<usize>> {
        let known = match self.within {
            Within::Text => return self.text(rest),
            Within::Comment => find(rest, b"-->").map_or(Err(2), |at| Ok(at + 3)),
            Within::Raw(name) => raw_end(rest, name).ok_or(name.len() + 1),
        };
        let length = match known {
            Ok(end) => {
                self.within = Within::Text;
                end
            }
            // Its end may have begun.
            Err(kept) => rest.len().saturating_sub(kept),
        };
        self.out.write_all(&rest[..length])?;
        Ok((length > 0 || known.is_ok()).then_some(length))
    }

    fn text(&mut self, rest: &[u8]) -> io::Result<Option<usize>> {
        const COMMENT: &[u8] = b"<!--";
        let length = match rest.iter().position(|byte| *byte == b'<') {
            None => rest.len(),
            Some(0) if rest.starts_with(COMMENT) => {
                self.within = Within::Comment;
                COMMENT.len()
            }
            Some(0) if COMMENT.starts_with(rest) => return Ok(None),
            Some(0) if !rest[1].is_ascii_alphabetic() => 1,
            Some(0) => match tag_end(rest) {
                Some(end) => {
                    self.tag(&rest[..end])?;
                    return Ok(Some(end));
                }
                None if rest.len() < MAX_TAG_BYTES => return Ok(None),
                None => rest.len(),
            },
            Some(at) => at,
        };
        self.out.write_all(&rest[..length])?;
        Ok(Some(length))
    }

    fn tag(&mut self, tag: &[u8]) -> io::Result<()> {
        let name_end = 1 + word(&tag[1..]);
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        if let Some(raw) = RAW.iter().find(|raw| **raw == name) {
            self.within = Within::Raw(raw);
        }
        let links = LINKS.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, links)| *links);
        let mut done = 0;
        for (attribute, from, to) in attributes(tag, name_end) {
            let is_link = links.iter().any(|link| attribute.eq_ignore_ascii_case(link.as_bytes()));
            let value = std::str::from_utf8(&tag[from..to]).ok().filter(|_| is_link);
            if let Some(value) = value.and_then(|value| self.way.through(value)) {
                self.out.write_all(&tag[done..from])?;
                self.out.write_all(value.as_bytes())?;
                done = to;
            }
        }
        self.out.write_all(&tag[done..])
    }
}

impl<W: Write> Write for Rewriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut done = 0;
        while done < held.len() {
            match self.piece(&held[done..])? {
                Some(length) => done += length,
                None => break,
            }
        }
        held.drain(..done);
        self.held = held;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Index of the end tag of a raw element.
fn raw_end(text: &[u8], name: &str) -> Option<usize> {
    let is_end =
        |window: &[u8]| window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(name.as_bytes());
    text.windows(name.len() + 2).position(is_end)
}

/// Index behind the `>` of the tag at the start; those within quoted values do not count.
fn tag_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut before = b' ';
    for (at, &byte) in text.iter().enumerate() {
        match (quote, byte) {
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return Some(at + 1),
            // A quote opens a value alone; elsewhere it is a part of a name.
            (None, b'"' | b'\'') if before == b'=' => quote = Some(byte),
            (None, _) => {}
        }
        if !byte.is_ascii_whitespace() {
            before = byte;
        }
    }
    None
}

/// Length of the name at the start.
fn word(text: &[u8]) -> usize {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'=');
    text.iter().position(ends).unwrap_or(text.len())
}

/// Name of each attribute that has a value, and where the value stands in the tag.
fn attributes(tag: &[u8], mut at: usize) -> Vec<(&[u8], usize, usize)> {
    let mut found = Vec::new();
    let spaces = |at: usize| tag[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    while at < tag.len() {
        let name = &tag[at..at + word(&tag[at..])];
        if name.is_empty() {
            at += 1;
            continue;
        }
        at += name.len();
        at += spaces(at);
        if tag.get(at) != Some(&b'=') {
            continue;
        }
        at += 1;
        at += spaces(at);
        let (from, length) = match tag.get(at) {
            Some(quote @ (b'"' | b'\'')) => {
                let length = tag[at + 1..].iter().position(|byte| byte == quote);
                (at + 1, length.unwrap_or(tag.len() - at - 1))
            }
            _ => {
                let ends = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'>';
                (at, tag[at..].iter().position(ends).unwrap_or(tag.len() - at))
            }
        };
        found.push((name, from, from + length));
        at = from + length + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        Way {
            prefix: "/api/v1/namespaces/n/services/s/proxy".into(),
            target: "10.0.0.1:80".into(),
            asked: "127.0.0.1:6443".into(),
        }
    }

    #[test]
    fn links_lead_through_the_proxy() {
        let cases = [
            ("/login?x=1", Some("/api/v1/namespaces/n/services/s/proxy/login?x=1")),
            ("http://10.0.0.1:80/a", Some("/api/v1/namespaces/n/services/s/proxy/a")),
            ("//10.0.0.1:80/a", Some("/api/v1/namespaces/n/services/s/proxy/a")),
            (
                "https://127.0.0.1:6443/a",
                Some("https://127.0.0.1:6443/api/v1/namespaces/n/services/s/proxy/a"),
            ),
            ("https://127.0.0.1:6443/api/v1/namespaces/n/services/s/proxy/a", None),
            ("http://10.0.0.1:80", Some("/api/v1/namespaces/n/services/s/proxy/")),
            ("http://10.0.0.1:8080/a", None),
            ("https://example.com/a", None),
            ("//example.com/a", None),
            ("mailto:a@b", None),
            ("relative", None),
            ("#there", None),
            ("", None),
            ("/api/v1/namespaces/n/services/s/proxy/there", None),
        ];
        for (link, wanted) in cases {
            assert_eq!(way().through(link).as_deref(), wanted, "{link}");
        }
    }

    fn rewritten(html: &str, chunk: usize) -> String {
        let way = Way { prefix: "/P".into(), ..way() };
        let mut rewriter = Rewriter::new(Vec::new(), way);
        for part in html.as_bytes().chunks(chunk) {
            rewriter.write_all(part).unwrap();
        }
        String::from_utf8(rewriter.finish().unwrap()).unwrap()
    }

    #[test]
    fn html_is_rewritten_however_it_is_cut() {
        let cases = [
            (r#"<a href="/rewriteme">test</a>"#, r#"<a href="/P/rewriteme">test</a>"#),
            ("<A\n HREF = '/x' id=/x>", "<A\n HREF = '/P/x' id=/x>"),
            ("<img src=/i.png usemap=#m>", "<img src=/P/i.png usemap=#m>"),
            (r#"<img alt="a > b" src="/i"/>"#, r#"<img alt="a > b" src="/P/i"/>"#),
            (r#"<link rel=x href="/a"><link href="b">"#, r#"<link rel=x href="/P/a"><link href="b">"#),
            (r#"<p title="/x">1 < 2 & 3<4</p>"#, r#"<p title="/x">1 < 2 & 3<4</p>"#),
            (r#"<!-- <a href="/x"> --><a href="/y">"#, r#"<!-- <a href="/x"> --><a href="/P/y">"#),
            (
                r#"<script src="/s.js">w('<a href="/x">')</SCRIPT><a href=/y>"#,
                r#"<script src="/P/s.js">w('<a href="/x">')</SCRIPT><a href=/P/y>"#,
            ),
            (
                r#"<!DOCTYPE html><html><body background="/b">"#,
                r#"<!DOCTYPE html><html><body background="/P/b">"#,
            ),
            (r#"<a x"y href="/z">"#, r#"<a x"y href="/P/z">"#),
            (r#"<a href="/open"#, r#"<a href="/open"#),
            ("<", "<"),
            ("é<a href='/é'>é", "é<a href='/P/é'>é"),
        ];
        for (html, wanted) in cases {
            for chunk in [1, 2, 3, 7, 1000] {
                assert_eq!(rewritten(html, chunk), wanted, "{html} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn what_is_held_back_is_bounded() {
        let html = format!("<a href=\"{}", "x".repeat(3 * MAX_TAG_BYTES));
        let mut rewriter = Rewriter::new(Vec::new(), way());
        for part in html.as_bytes().chunks(1000) {
            rewriter.write_all(part).unwrap();
            assert!(rewriter.held.len() < MAX_TAG_BYTES);
        }
        assert_eq!(rewriter.finish().unwrap(), html.into_bytes());
    }
}
