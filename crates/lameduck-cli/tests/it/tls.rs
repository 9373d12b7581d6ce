//! TLS: everything a stop and an upgrade promise holds behind it (losses 2, 3, 5, 9), and what TLS adds to it.

mod certificates;
mod handshakes;
mod load;
mod upgrades;
mod websockets;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use lameduck_verify::address::Place as Aim;
use lameduck_verify::load::{Load, Mode, Trust};
use lameduck_verify::target::Ready;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::play;
use crate::service::{LIMIT, Service, User, as_user, new_directory};

/// As many clients as the promises are measured with.
const CLIENTS: usize = 32;

const FLAGS: [&str; 4] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];

/// An authority, and what it issues.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Not the name of what it issues: that would be taken for self-signed.
        params.distinguished_name.push(DnType::CommonName, "the authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this name, and its key.
    pub fn issue(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new([name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a server's certificate and key where [`FLAGS`] look for them, the key first.
    pub fn install(&self, directory: &Path) {
        let (cert, key) = self.issue("localhost");
        std::fs::write(directory.join("key.pem"), key).unwrap();
        std::fs::write(directory.join("cert.pem"), cert).unwrap();
        std::fs::write(directory.join("ca.pem"), self.pem()).unwrap();
    }

    pub fn trust(&self) -> Trust {
        Trust::authorities(self.pem().as_bytes()).unwrap()
    }
}

/// A service behind TLS, and who vouches for it.
pub struct Secure {
    pub service: Service,
    pub authority: Authority,
}

impl Secure {
    #[track_caller]
    pub fn start(flags: &[&str]) -> Secure {
        let authority = Authority::new();
        let directory = new_directory();
        authority.install(directory.path());
        Secure::start_in(directory, authority, flags)
    }

    /// With the files that are there already.
    #[track_caller]
    pub fn start_in(directory: TempDir, authority: Authority, flags: &[&str]) -> Secure {
        let flags = [&FLAGS[..], &["--listen", "127.0.0.1:0"], flags].concat();
        let command = as_user(User::Same).arg("serve").args(flags);
        let ready = Ready::Stderr("istening on ".into());
        Secure { service: Service::run_unasked(directory, command, ready), authority }
    }

    pub fn place(&self, path: &str) -> Aim {
        format!("https://{}{path}", self.service.addresses[0]).parse().unwrap()
    }

    /// Certificates, keys and answers that a client of this service may want.
    pub fn client(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        self.authority.trust().client(&[protocol]).unwrap()
    }

    /// A connection to the service on which nothing has been sent.
    pub fn dial(&self, config: &Arc<ClientConfig>) -> Client {
        Client::dial(&self.service.addresses[0], config)
    }

    /// A WebSocket behind TLS.
    pub async fn websocket(&self, path: &str) -> play::Client {
        let address = &self.service.addresses[0];
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(self.client(b"http/1.1"));
        let stream = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
        play::open(Box::new(stream), "localhost", path).await
    }

    pub fn load(&self, path: &str, mode: Mode) -> Load {
        Load::new(self.place(path), mode).connections(CLIENTS).trust(self.authority.trust())
    }

    /// What `curl` gets.
    #[track_caller]
    pub fn curl(&self, arguments: &[&str], path: &str) -> Output {
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(self.service.path("ca.pem"))
            .args(arguments)
            .arg(format!("https://{}{path}", self.service.addresses[0]))
            .output()
            .unwrap()
    }

    #[track_caller]
    pub fn curl_text(&self, arguments: &[&str], path: &str) -> String {
        let output = self.curl(arguments, path);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// One TLS connection, step by step.
pub struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    #[track_caller]
    pub fn dial(address: &str, config: &Arc<ClientConfig>) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let name = "localhost".try_into().unwrap();
        Client(StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), socket))
    }

    /// The first message, unsent.
    pub fn hello(&mut self) -> Vec<u8> {
        let mut hello = Vec::new();
        self.0.conn.write_tls(&mut hello).unwrap();
        hello
    }

    /// Writes below TLS.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.0.sock.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Reads until the server has ended the connection: an error unless it said so first (close_notify).
    pub fn rest(&mut self) -> io::Result<String> {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).map(|_| rest)
    }

    /// Reads one answer in JSON, or what there is before the end.
    pub fn answer(&mut self) -> io::Result<String> {
        let (mut answer, mut buffer) = (String::new(), [0; 4096]);
        loop {
            let count = self.0.read(&mut buffer)?;
            answer += &String::from_utf8_lossy(&buffer[..count]);
            if count == 0 || answer.ends_with('}') {
                return Ok(answer);
            }
        }
    }

    /// One request and its answer, and another can follow.
    pub fn get(&mut self, path: &str) -> io::Result<String> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
        self.answer()
    }

    /// One request, the last one: everything until the server's end.
    pub fn get_and_end(&mut self, path: &str) -> io::Result<String> {
        let fields = "host: localhost\r\nconnection: close\r\n";
        self.send(format!("GET {path} HTTP/1.1\r\n{fields}\r\n").as_bytes())?;
        self.rest()
    }

    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}
