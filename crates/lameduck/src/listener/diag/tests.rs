//! What the kernel wrote (Linux 6.18), and what nobody should write.

use super::*;

/// A handshake of 198.18.0.2 with a socket on `[::]:8080`, which the kernel tells as one of IPv6.
const MAPPED: &str = "600000001400020001000000d1260000\
    0a030100\
    1f909c40\
    00000000000000000000ffffc6120001\
    00000000000000000000ffffc6120002\
    0000000068a5000000000000\
    380100000000000000000000000000000000000008000f0000000000";

/// One of `fd00::2` with `[fd00::1]:8080`, whose SYN-ACK was sent again once.
const V6: &str = "600000001400020001000000e3290000\
    0a030101\
    1f909c40\
    fd000000000000000000000000000001\
    fd000000000000000000000000000002\
    000000007fb3000000000000\
    ac0000000000000000000000000000000000000008000f0000000000";

/// One of 198.18.0.2 with `198.18.0.1:8080`.
const V4: &str = "600000001400020001000000244f0000\
    02030100\
    1f909c40\
    c6120001000000000000000000000000\
    c6120002000000000000000000000000\
    000000005da7000000000000\
    100200000000000000000000000000000000000008000f0000000000";

/// The end of a list.
const DONE: &str = "140000000300020001000000d126000000000000";

fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn a_handshake_is_found_by_port_and_address() {
    for (list, here, elsewhere) in [
        (V4, ["198.18.0.1:8080", "0.0.0.0:8080"], ["198.18.0.3:8080", "198.18.0.1:8081"]),
        (MAPPED, ["[::]:8080", "[::ffff:198.18.0.1]:8080"], ["[::1]:8080", "[::]:8081"]),
        (V6, ["[fd00::1]:8080", "[::]:8080"], ["[fd00::3]:8080", "[fd00::1]:8081"]),
    ] {
        for address in here {
            assert_eq!(read(&bytes(list), at(address)).unwrap(), Found::UnderWay, "{address}");
        }
        for address in elsewhere {
            assert_eq!(read(&bytes(list), at(address)).unwrap(), Found::More, "{address}");
        }
    }
}

#[test]
fn a_list_ends_where_the_kernel_says_so() {
    let here = at("[fd00::1]:8080");
    assert_eq!(read(&bytes(DONE), here).unwrap(), Found::End);
    assert_eq!(read(&bytes(&[MAPPED, DONE].concat()), here).unwrap(), Found::End);
    assert_eq!(read(&bytes(&[MAPPED, V6, DONE].concat()), here).unwrap(), Found::UnderWay);
    assert_eq!(read(&[], here).unwrap(), Found::More);
}

/// Nobody is behind it any more, or ever was.
#[test]
fn a_handshake_without_a_word_for_long_is_none() {
    let mut list = bytes(V6);
    let sent_again = NLMSG_HEADER + 3;
    for (times, found) in [(SENT_AGAIN, Found::UnderWay), (SENT_AGAIN + 1, Found::More)] {
        list[sent_again] = times;
        assert_eq!(read(&list, at("[fd00::1]:8080")).unwrap(), found, "{times}");
    }
}

#[test]
fn what_is_no_handshake_is_none() {
    let mut list = bytes(V6);
    list[NLMSG_HEADER + 1] = 1;
    assert_eq!(read(&list, at("[fd00::1]:8080")).unwrap(), Found::More);
}

#[test]
fn a_refusal_is_told_as_the_error_it_is() {
    let here = at("127.0.0.1:80");
    // -2, of a kernel without the module.
    let refused =
        bytes("24000000020000000100000000000000 feffffff 48000000140001030100000000000000");
    assert_eq!(read(&refused, here).unwrap_err().kind(), io::ErrorKind::NotFound);
    let broken_off = bytes("14000000030002000100000000000000 f4ffffff");
    assert_eq!(read(&broken_off, here).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}

#[test]
fn the_question_names_state_and_port() {
    let asked = question(at("0.0.0.0:8080"));
    let expected = "480000001400010300000000 00000000 02060000 08100000 1f900000";
    assert_eq!(asked[..28], bytes(expected)[..]);
    assert_eq!(asked[28..64], [0; 36]);
    assert_eq!(question(at("[::1]:8080"))[16], AF_INET6);
}

/// Whatever comes is understood or refused, and the end of each message is another message or nothing.
#[test]
fn no_bytes_make_it_panic() {
    let here = at("[fd00::1]:8080");
    let list = bytes(&[MAPPED, V4, DONE].concat());
    for end in 0..list.len() {
        let _ = read(&list[..end], here);
        for value in [0, 1, 15, 16, 17, 0x7f, 0x80, 0xff] {
            let mut hostile = list.clone();
            hostile[end] = value;
            let _ = read(&hostile, here);
        }
    }
    // A length of zero would go round for ever, and one beyond the end would read past it.
    for length in [0, 4, 15, 0x61, u32::MAX] {
        let mut hostile = bytes(V6);
        hostile[..4].copy_from_slice(&length.to_ne_bytes());
        assert!(read(&hostile, here).is_err(), "{length}");
    }
}
