//! What holds for any bytes at all. The fuzz target runs this same function.

use lameduck::takeover::wire::{self, Message, Received};

/// Decodes `bytes` as a frame with the descriptors it announces, with one more and with none, and checks what comes
/// out.
pub fn holds_for(bytes: &[u8]) {
    let announced = match bytes {
        [_, _, _, _, _, _, _, _, _, _, low, high, ..] => u16::from_le_bytes([*low, *high]).into(),
        _ => 0,
    };
    for descriptors in [announced, announced + 1, 0] {
        match wire::decode(bytes, descriptors) {
            Ok(received) => {
                assert_eq!(descriptors, announced, "descriptors nobody announced were taken");
                match received {
                    Received::Message(message) => comes_back(&message),
                    Received::Skipped { .. } => {}
                }
            }
            // The error is made for people: it says something, on one line.
            Err(error) => {
                let text = error.to_string();
                assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            }
        }
    }
}

/// A message that came from bytes goes to bytes and comes back the same.
fn comes_back(message: &Message) {
    let frame = wire::encode(message, wire::PROTOCOLS.newest).expect("what came in can go out");
    assert!(frame.len() <= wire::MAX_FRAME);
    let again = wire::decode(&frame, message.descriptors()).expect("what we write we can read");
    assert_eq!(again, Received::Message(message.clone()));
    let same = wire::encode(message, wire::PROTOCOLS.newest).expect("what went out can go out");
    assert_eq!(frame, same, "one message, two frames");
}
