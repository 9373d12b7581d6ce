//! Certificates: taken when they change, refused with a clear line, asked of clients.

use std::time::Instant;

use lameduck_verify::load::Trust;

use super::{Authority, FLAGS, Secure};
use crate::bad_input::{FAILED, USAGE, refused};
use crate::command::Place;
use crate::service::LIMIT;

/// Whether a new client that trusts like this is answered.
fn answers(secure: &Secure, trust: &Trust) -> bool {
    let config = trust.clone().client(&[b"http/1.1"]).unwrap();
    let answer = secure.dial(&config).get_and_end("/b");
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

/// Whether the service shows a certificate of this authority to a new client.
fn shows(secure: &Secure, authority: &Authority) -> bool {
    answers(secure, &authority.trust())
}

#[track_caller]
fn wait_until(secure: &Secure, what: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !what() {
        assert!(Instant::now() < deadline, "{}", secure.service.target.stderr());
        std::thread::yield_now();
    }
}

#[test]
fn certificates_are_reloaded_while_connections_go_on() {
    let mut secure = Secure::start(&[]);
    let mut kept = secure.dial(&secure.client(b"http/1.1"));
    kept.get("/b").unwrap();
    let next = Authority::new();
    next.install(&secure.service.path(""));
    wait_until(&secure, || shows(&secure, &next));
    assert!(!shows(&secure, &secure.authority), "the old certificate is still shown");
    assert!(kept.get("/b").unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(secure.service.stop().code, Some(0));
    let words = secure.service.last_words();
    assert!(words.contains("Certificates reloaded from cert.pem"), "{words}");
}

#[test]
fn a_certificate_that_cannot_be_used_changes_nothing() {
    let mut secure = Secure::start(&[]);
    for (file, text, why) in [
        ("cert.pem", "no certificate".to_owned(), "no certificates in it"),
        ("cert.pem", secure.authority.issue("localhost").0, "its key is not the one in key.pem"),
    ] {
        std::fs::write(secure.service.path(file), text).unwrap();
        secure.service.target.wait_stderr(why, LIMIT).unwrap();
        assert!(shows(&secure, &secure.authority), "{}", secure.service.target.stderr());
    }
    let noise: Vec<u8> =
        (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let no_base64 = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    let no_der = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for garbage in [&noise[..], &[], no_base64, no_der] {
        let told = secure.service.target.stderr().matches("Certificates kept as they were").count();
        std::fs::write(secure.service.path("cert.pem"), garbage).unwrap();
        wait_until(&secure, || {
            secure.service.target.stderr().matches("Certificates kept as they were").count() > told
        });
        assert!(shows(&secure, &secure.authority), "{}", secure.service.target.stderr());
    }
    std::fs::remove_file(secure.service.path("key.pem")).unwrap();
    secure.service.target.wait_stderr("cannot read --tls-key key.pem", LIMIT).unwrap();
    assert!(shows(&secure, &secure.authority));
    assert_eq!(secure.service.stop().code, Some(0));
}

#[test]
fn only_clients_of_the_authority_are_let_in() {
    let authority = Authority::new();
    let directory = crate::service::new_directory();
    authority.install(directory.path());
    let mut secure = Secure::start_in(directory, authority, &["--tls-client-ca", "ca.pem"]);
    let trust = secure.authority.trust();
    let with = |(cert, key): &(String, String)| {
        trust.clone().identity(cert.as_bytes(), key.as_bytes()).unwrap()
    };
    let known = secure.authority.issue("client");
    assert!(answers(&secure, &with(&known)));
    assert!(!answers(&secure, &trust), "without a certificate");
    assert!(!answers(&secure, &with(&Authority::new().issue("client"))), "a stranger's");

    std::fs::write(secure.service.path("client.pem"), known.0.clone() + &known.1).unwrap();
    let client = secure.service.path("client.pem");
    let text = secure.curl_text(&["--cert", client.to_str().unwrap()], "/b");
    assert_eq!(text, r#"{"num":2}"#);
    assert!(!secure.curl(&[], "/b").status.success());

    // Its ticket was good for the old authority only.
    let known = with(&known).client(&[b"http/1.1"]).unwrap();
    secure.dial(&known).get_and_end("/b").unwrap();
    let mut resumed = secure.dial(&known);
    resumed.get_and_end("/b").unwrap();
    assert!(resumed.is_resumed());
    std::fs::write(secure.service.path("ca.pem"), Authority::new().pem()).unwrap();
    secure.service.target.wait_stderr("Certificates reloaded", LIMIT).unwrap();
    secure.dial(&known).get_and_end("/b").unwrap_err();
    assert_eq!(secure.service.stop().code, Some(0));
}

/// The flags for these files.
fn files<'a>(cert: &'a str, key: &'a str) -> Vec<&'a str> {
    vec!["--tls-cert", cert, "--tls-key", key]
}

#[test]
fn flags_that_need_each_other_are_named() {
    let place = Place::new();
    let hint = "--tls-cert and --tls-key";
    is_refused(&place, &FLAGS[..2], USAGE, "--tls-key is missing", hint);
    is_refused(&place, &FLAGS[2..], USAGE, "--tls-cert is missing", hint);
    is_refused(&place, &["--tls-client-ca", "ca.pem"], USAGE, "is missing", hint);
}

#[track_caller]
fn is_refused(place: &Place, flags: &[&str], code: i32, error: &str, hint: &str) {
    let arguments = [&["serve", "--listen", "unix:x.sock"], flags].concat();
    refused(place, (&arguments, &[]), code, error, hint);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let place = Place::new();
    authority.install(&place.path(""));
    place.write("empty.pem", b"", 0o644);
    place.write("secret.pem", b"", 0o200);
    place.write("other.pem", authority.issue("localhost").1.as_bytes(), 0o644);
    let with_ca = [&FLAGS[..], &["--tls-client-ca", "empty.pem"]].concat();
    for (flags, error, hint) in [
        (files("none.pem", "key.pem"), "read --tls-cert none.pem: no such file", "a PEM file"),
        (
            files("cert.pem", "secret.pem"),
            "read --tls-key secret.pem: permission denied",
            "that this user can read",
        ),
        (
            files("empty.pem", "key.pem"),
            "use --tls-cert empty.pem: no certificates in it",
            "-----BEGIN",
        ),
        (
            files("cert.pem", "cert.pem"),
            "use --tls-key cert.pem: no private key in it",
            "-----BEGIN",
        ),
        (
            files("cert.pem", "other.pem"),
            "use --tls-cert cert.pem: its key is not the one in other.pem",
            "issued for",
        ),
        (with_ca, "use --tls-client-ca empty.pem: no certificates in it", "-----BEGIN"),
    ] {
        is_refused(&place, &flags, FAILED, &format!("cannot {error}"), hint);
    }
}
