//! What can be wrong with a frame, said so that the other side's author can find it.

use std::fmt;

use super::{HEADER, MAX_FIELDS, MAX_FRAME, PROTOCOLS};

/// Why bytes are not a message, or a message does not become bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Shorter than a header.
    Short {
        /// The bytes that came.
        has: usize,
    },
    /// Longer than any frame may be.
    Long {
        /// The bytes that came.
        has: usize,
    },
    /// Not one of our frames at all.
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The header's length is not what came.
    Length {
        /// What the header says follows it.
        says: u32,
        /// What follows it.
        has: usize,
    },
    /// A protocol this version does not speak.
    Protocol {
        /// What the header names.
        found: u16,
    },
    /// A flag this version does not know.
    Flags {
        /// The flags of the header.
        found: u16,
    },
    /// A kind this version does not know and may not skip.
    Kind {
        /// What the header names.
        found: u16,
    },
    /// Other descriptors came than were announced, or than such a message needs.
    Descriptors {
        /// The message.
        message: &'static str,
        /// As many as its content needs.
        needs: usize,
        /// As many as the header announces.
        says: usize,
        /// As many as came.
        came: usize,
    },
    /// More fields than any message has.
    Fields {
        /// The message.
        message: &'static str,
    },
    /// One field is wrong.
    Field {
        /// The message.
        message: &'static str,
        /// The field.
        field: FieldName,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// A field, by name if this version knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldName {
    /// A field of ours.
    Known(&'static str),
    /// Somebody else's.
    Tag(u16),
    /// One whose tag and length are not there in full.
    Begun,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It ends before it should.
    CutShort {
        /// Bytes it says it has.
        says: u64,
        /// Bytes that are there.
        has: usize,
    },
    /// It is there more than once.
    Twice,
    /// It is not there.
    Missing,
    /// It is unknown, and its sender does not allow skipping it.
    Unknown,
    /// Its size is wrong.
    Size {
        /// Bytes it has.
        has: usize,
        /// Bytes it must have.
        must: usize,
    },
    /// It is too long.
    TooLong {
        /// Its bytes.
        has: usize,
        /// Its limit.
        most: usize,
    },
    /// Its number is too large.
    TooLarge {
        /// The number.
        has: u64,
        /// Its limit.
        most: u64,
    },
    /// There are too many of it.
    TooMany {
        /// How many.
        has: usize,
        /// Their limit.
        most: usize,
    },
    /// It is not UTF-8.
    NotText,
    /// It is empty, or has control characters, where a name is asked for.
    NotAName,
    /// Its value means nothing here.
    Value {
        /// The value.
        found: u64,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Short { has } => {
                write!(f, "a frame of {has} bytes, shorter than its header of {HEADER}")
            }
            Error::Long { has } => {
                write!(f, "a frame of {has} bytes, {MAX_FRAME} are the most")
            }
            Error::Magic { found } => {
                write!(
                    f,
                    "a frame that begins with \"{}\" instead of \"LAME\"",
                    found.escape_ascii()
                )
            }
            Error::Length { says, has } => {
                write!(f, "a frame whose header announces {says} bytes, followed by {has}")
            }
            Error::Protocol { found } => {
                write!(f, "a frame of protocol {found}, where {PROTOCOLS} are spoken")
            }
            Error::Flags { found } => write!(f, "a frame with unknown flags {found:#06x}"),
            Error::Kind { found } => {
                write!(f, "a frame of unknown kind {found} that must not be skipped")
            }
            Error::Descriptors { message, needs, says, came } => write!(
                f,
                "{message} with {came} descriptors, which announces {says} and needs {needs}"
            ),
            Error::Fields { message } => {
                write!(f, "{message} with more than {MAX_FIELDS} fields")
            }
            Error::Field { message, field, problem } => write!(f, "{message}: {field} {problem}"),
        }
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldName::Known(name) => write!(f, "field `{name}`"),
            FieldName::Tag(tag) => write!(f, "field {tag:#06x}"),
            FieldName::Begun => f.write_str("the last field"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::CutShort { says, has } => {
                write!(f, "is cut short: {says} bytes announced, {has} there")
            }
            Problem::Twice => f.write_str("is there more than once"),
            Problem::Missing => f.write_str("is missing"),
            Problem::Unknown => f.write_str("is unknown and must not be skipped"),
            Problem::Size { has, must } => write!(f, "has {has} bytes instead of {must}"),
            Problem::TooLong { has, most } => write!(f, "has {has} bytes, {most} are the most"),
            Problem::TooLarge { has, most } => write!(f, "says {has}, {most} is the most"),
            Problem::TooMany { has, most } => {
                write!(f, "is there {has} times, {most} are the most")
            }
            Problem::NotText => f.write_str("is not UTF-8"),
            Problem::NotAName => f.write_str("is empty or has control characters"),
            Problem::Value { found } => write!(f, "has the meaningless value {found}"),
        }
    }
}
