//! What predecessor and successor, and the command line and a service, say to each other: messages to bytes and
//! back, and nothing else.
//!
//! The channel keeps message boundaries (a Unix socket of type `SOCK_SEQPACKET`): one frame is one message.
//! Descriptors travel beside a frame, never inside; the frame says how many, and both ends compare.
//!
//! ```text
//! frame   magic "LAME" · protocol u16 · kind u16 · flags u16 · descriptors u16 · length u32 · fields
//! field   tag u16 · length u32 · value
//! ```
//!
//! All numbers are little-endian. A record inside a field (a listener, a state) is a value that is fields again.
//!
//! # What may change, and what may not
//!
//! - A field whose tag has [`OPTIONAL_FIELD`] set, and a frame whose flags have [`OPTIONAL_FRAME`] set, may be unknown
//!   to the receiver, who skips it. Any other unknown field or frame is refused by name.
//! - [`Hello`] and [`Message::Refuse`] are read whatever protocol their frame names, so that two versions that share no
//!   protocol can still tell each other so. Their required fields are those of protocol 1 for ever.
//! - Every other frame is written in the protocol both agreed on ([`Protocols::agree`]).
//!
//! # Invariants
//!
//! 1. What was encoded decodes to the same message, and encodes to the same bytes again.
//! 2. Decoding reads each byte a bounded number of times, allocates no more than a small multiple of the frame, and
//!    panics on nothing.
//! 3. No frame is longer than [`MAX_FRAME`]; each list, name and text has its own named limit; a message within those
//!    limits fits a frame.
//! 4. An error names the message, the field and the size.

mod codec;
mod error;
mod fields;
mod message;

pub use error::{Error, FieldName, Problem};
pub(crate) use fields::is_name;
pub use message::{
    Command, Commit, Connection, Hello, Kind, Listener, Message, Offer, Protocols, Readable, Ready,
    Reason, Reply, Session, Socket, State, Status, Why,
};

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"LAME";

/// The protocols this version speaks.
pub const PROTOCOLS: Protocols = Protocols { oldest: 1, newest: 1 };

/// Bytes before the fields.
pub const HEADER: usize = 16;

/// Bytes before the value of a field.
pub const FIELD_HEADER: usize = 6;

/// The longest frame, header included.
pub const MAX_FRAME: usize = 64 * 1024;

/// In a frame's flags: a receiver that does not know the kind may skip the frame.
pub const OPTIONAL_FRAME: u16 = 1;

/// In a field's tag: a receiver that does not know the tag may skip the field.
pub const OPTIONAL_FIELD: u16 = 0x8000;

/// Descriptors beside one frame. The kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 250;

/// Fields in one frame or record, known or not.
pub const MAX_FIELDS: usize = 2_048;

/// Listeners in one takeover, over all its offers; also the names a [`Ready`] uses and drops together.
pub const MAX_LISTENERS: usize = 500;

/// States in one takeover.
pub const MAX_STATES: usize = 64;

/// Addresses a successor may bind in addition.
pub const MAX_ADDED: usize = 100;

/// Bytes in the name of a server or the key of a state.
pub const MAX_NAME: usize = 64;

/// Bytes in an address. A Unix socket's path has 108 at most.
pub const MAX_ADDRESS: usize = 128;

/// Bytes in the name that a service manager passes a socket under.
pub const MAX_INHERITED: usize = 255;

/// Listeners in one offer when some have such a name.
pub const MAX_INHERITED_LISTENERS: usize = 120;

/// Bytes in the name and version of a program.
pub const MAX_PROGRAM: usize = 256;

/// Bytes in a reason or a status.
pub const MAX_TEXT: usize = 4 * 1024;

/// Bytes in one chunk of a reply.
pub const MAX_REPLY: usize = 32 * 1024;

/// Bytes in the verb of a command.
pub const MAX_VERB: usize = 32;

/// Arguments of a command.
pub const MAX_ARGUMENTS: usize = 32;

/// Bytes in one argument of a command.
pub const MAX_ARGUMENT: usize = 1024;

/// Unread bytes that travel in the frame; more go into a memory file beside it.
pub const MAX_UNREAD: usize = 32 * 1024;

/// Bytes in the path that a successor is probed at.
pub const MAX_PROBE: usize = 1024;

/// Kinds of sessions a successor goes on with.
pub const MAX_KINDS: usize = 32;

/// Bytes of state that move with one connection.
pub const MAX_SESSION: usize = 16 * 1024;

/// Servers that go on with a predecessor's connections; a successor with more names none.
pub const MAX_SERVERS: usize = 128;

/// The largest state, in its memory file.
pub const MAX_STATE_SIZE: u64 = 64 * 1024 * 1024;

/// The most unread bytes of one connection, in a memory file.
pub const MAX_SPILLED: u64 = 16 * 1024 * 1024;

// A message within the limits fits a frame: the largest of each kind, counted.
const _: () = {
    let name = FIELD_HEADER + MAX_NAME;
    let address = FIELD_HEADER + MAX_ADDRESS;
    let byte = FIELD_HEADER + 1;
    let listener = FIELD_HEADER + name + byte + address + byte;
    let inherited = listener + FIELD_HEADER + MAX_INHERITED;
    let state = FIELD_HEADER + name + (FIELD_HEADER + 4) + (FIELD_HEADER + 8);
    let offer = HEADER + (FIELD_HEADER + 4) + byte;
    assert!(offer + MAX_DESCRIPTORS * listener <= MAX_FRAME);
    assert!(offer + MAX_INHERITED_LISTENERS * inherited <= MAX_FRAME);
    assert!(listener >= state && MAX_STATES <= MAX_DESCRIPTORS);
    let kind = FIELD_HEADER + name + 2 * (FIELD_HEADER + 4);
    let ready = HEADER + MAX_LISTENERS * name + MAX_ADDED * address + FIELD_HEADER + MAX_PROBE;
    assert!(ready + MAX_KINDS * kind + byte + MAX_SERVERS * name <= MAX_FRAME);
    let session = FIELD_HEADER + name + (FIELD_HEADER + 4) + address + FIELD_HEADER + MAX_SESSION;
    let unread = (FIELD_HEADER + MAX_UNREAD) + (FIELD_HEADER + 8);
    assert!(HEADER + name + address + unread + session <= MAX_FRAME);
    assert!(HEADER + MAX_ARGUMENTS * (FIELD_HEADER + MAX_ARGUMENT) + MAX_VERB <= MAX_FRAME);
    assert!(HEADER + (FIELD_HEADER + MAX_REPLY) + 2 * byte + (FIELD_HEADER + 2) <= MAX_FRAME);
    assert!(2 * MAX_LISTENERS + MAX_ADDED + MAX_KINDS + MAX_SERVERS + 2 < MAX_FIELDS);
};

/// What came in one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message this version knows.
    Message(Message),
    /// A frame this version does not know and need not; close the descriptors that came with it.
    Skipped {
        /// The kind its header names.
        kind: u16,
    },
}

/// The frame that says `message` in `protocol`.
///
/// # Errors
///
/// When a name, text or list is longer than its limit.
pub fn encode(message: &Message, protocol: u16) -> Result<Vec<u8>, Error> {
    codec::encode(message, protocol)
}

/// What `frame` says, which came with `descriptors` beside it.
///
/// # Errors
///
/// When the bytes are not exactly one frame of a protocol this version speaks, or the descriptors are not those it
/// announces. The error names the field.
pub fn decode(frame: &[u8], descriptors: usize) -> Result<Received, Error> {
    codec::decode(frame, descriptors)
}
