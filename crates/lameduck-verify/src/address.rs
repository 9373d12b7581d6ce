//! Where a server listens, and which path to ask for.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// What is spoken at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP on the bare connection.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As a URL begins with it.
    pub fn word(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// An address and what to ask for there: `http://127.0.0.1:8080/b`, `https://localhost:8443/b` or `unix:/run/x.sock:/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Where to connect to.
    pub address: Address,
    /// The value of the `Host` field.
    pub host: String,
    /// The path and query of the request.
    pub path: String,
}

impl Place {
    /// The name in the server's certificate: the host without its port.
    pub fn server_name(&self) -> &str {
        let host = match self.host.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            Some(_) | None => &self.host,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// `GET /path HTTP/1.1` with the given extra header lines (each ended by CRLF), whole.
    pub fn get(&self, more_fields: &str) -> Vec<u8> {
        format!("GET {} HTTP/1.1\r\nhost: {}\r\n{more_fields}\r\n", self.path, self.host)
            .into_bytes()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(_) => {
                write!(f, "{}://{}{}", self.scheme.word(), self.host, self.path)
            }
            Address::Unix(path) => write!(f, "unix:{}:{}", path.display(), self.path),
        }
    }
}

impl FromStr for Place {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Place> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(text, rest);
        }
        let (scheme, rest, port) =
            match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
                (Some(rest), _) => (Scheme::Http, rest, 80),
                (None, Some(rest)) => (Scheme::Https, rest, 443),
                (None, None) => {
                    let why = "it begins with none of http://, https:// and unix:";
                    return Err(unusable(text, why));
                }
            };
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) if rest.as_bytes()[at] == b'?' => (&rest[..at], format!("/{}", &rest[at..])),
            Some(at) => (&rest[..at], rest[at..].to_owned()),
            None => (rest, "/".to_owned()),
        };
        check_path(text, &path)?;
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let mut found =
            with_port.to_socket_addrs().map_err(|error| unusable(text, &error.to_string()))?;
        let address = found.next().ok_or_else(|| unusable(text, "the host has no address"))?;
        Ok(Place { scheme, address: Address::Tcp(address), host: host.to_owned(), path })
    }
}

fn unix(text: &str, rest: &str) -> io::Result<Place> {
    let (socket, path) = match rest.split_once(':') {
        Some((socket, path)) => (socket, path.to_owned()),
        None => (rest, "/".to_owned()),
    };
    if socket.is_empty() {
        return Err(unusable(text, "the path of the socket is empty"));
    }
    if !path.starts_with('/') {
        return Err(unusable(text, "the path of the request does not begin with /"));
    }
    check_path(text, &path)?;
    let (address, host) = (Address::Unix(socket.into()), "localhost".to_owned());
    Ok(Place { scheme: Scheme::Http, address, host, path })
}

/// The path is written into requests as it is, so nothing in it may end a line or a word.
fn check_path(text: &str, path: &str) -> io::Result<()> {
    if path.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
        return Err(unusable(text, "the path of the request contains white space"));
    }
    Ok(())
}

fn unusable(text: &str, why: &str) -> io::Error {
    let hint = "expected http://HOST:PORT/PATH, https://HOST:PORT/PATH or unix:/SOCKET:/PATH";
    io::Error::new(io::ErrorKind::InvalidInput, format!("target {text:?}: {why} ({hint})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, address: &str, path: &str) {
        let place: Place = text.parse().unwrap();
        assert_eq!((place.address.to_string().as_str(), place.path.as_str()), (address, path));
    }

    #[test]
    fn a_target_names_an_address_and_a_path() {
        check("http://127.0.0.1:8080/b?x=1", "127.0.0.1:8080", "/b?x=1");
        check("http://127.0.0.1:8080", "127.0.0.1:8080", "/");
        check("http://127.0.0.1:8080?x", "127.0.0.1:8080", "/?x");
        check("http://[::1]:8080/b", "[::1]:8080", "/b");
        check("http://127.0.0.1/b", "127.0.0.1:80", "/b");
        check("https://127.0.0.1/b", "127.0.0.1:443", "/b");
        check("unix:/run/x.sock:/b", "unix:/run/x.sock", "/b");
        check("unix:/run/x.sock", "unix:/run/x.sock", "/");
    }

    #[test]
    fn an_unusable_target_is_named() {
        for text in ["ftp://x/", "127.0.0.1:80", "unix:", "unix:/x:b", "http://127.0.0.1:1/a b"] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
