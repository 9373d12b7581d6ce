//! Fields: written one after the other, read in any order.

use super::error::{Error, FieldName, Problem};
use super::{FIELD_HEADER, MAX_FIELDS, OPTIONAL_FIELD};

/// A field of ours: its tag, and its name for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    tag: u16,
    name: &'static str,
}

impl Field {
    /// A field that a receiver must know.
    pub(super) const fn required(tag: u16, name: &'static str) -> Field {
        Field { tag, name }
    }

    /// A field that a receiver may skip.
    pub(super) const fn optional(tag: u16, name: &'static str) -> Field {
        Field { tag: tag | OPTIONAL_FIELD, name }
    }
}

/// Writes the fields of one message or record.
pub(super) struct Writer {
    message: &'static str,
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new(message: &'static str) -> Writer {
        Writer { message, bytes: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// The limits of the values keep every length far below what its four bytes can say.
    fn put(&mut self, field: Field, value: &[u8]) {
        self.bytes.extend(field.tag.to_le_bytes());
        self.bytes.extend((value.len() as u32).to_le_bytes());
        self.bytes.extend(value);
    }

    pub(super) fn u8(&mut self, field: Field, value: u8) {
        self.put(field, &[value]);
    }

    pub(super) fn u16(&mut self, field: Field, value: u16) {
        self.put(field, &value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, field: Field, value: u32) {
        self.put(field, &value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, field: Field, value: u64, most: u64) -> Result<(), Error> {
        check(self.message, field, value <= most, || Problem::TooLarge { has: value, most })?;
        self.put(field, &value.to_le_bytes());
        Ok(())
    }

    pub(super) fn bytes(&mut self, field: Field, value: &[u8], most: usize) -> Result<(), Error> {
        let has = value.len();
        check(self.message, field, has <= most, || Problem::TooLong { has, most })?;
        self.put(field, value);
        Ok(())
    }

    pub(super) fn text(&mut self, field: Field, value: &str, most: usize) -> Result<(), Error> {
        self.bytes(field, value.as_bytes(), most)
    }

    pub(super) fn name(&mut self, field: Field, value: &str, most: usize) -> Result<(), Error> {
        check(self.message, field, is_name(value), || Problem::NotAName)?;
        self.text(field, value, most)
    }

    pub(super) fn names(
        &mut self,
        field: Field,
        values: &[String],
        most: usize,
        bytes: usize,
    ) -> Result<(), Error> {
        self.count(field, values.len(), most)?;
        values.iter().try_for_each(|value| self.name(field, value, bytes))
    }

    /// Writes each record with `write`, as a field of fields.
    pub(super) fn records<T>(
        &mut self,
        field: Field,
        values: &[T],
        most: usize,
        write: impl Fn(&mut Writer, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.count(field, values.len(), most)?;
        for value in values {
            let mut record = Writer::new(self.message);
            write(&mut record, value)?;
            self.put(field, &record.finish());
        }
        Ok(())
    }

    fn count(&self, field: Field, has: usize, most: usize) -> Result<(), Error> {
        check(self.message, field, has <= most, || Problem::TooMany { has, most })
    }
}

/// Hands out the fields of one message or record, each once.
pub(super) struct Reader<'a> {
    message: &'static str,
    fields: Vec<(u16, &'a [u8])>,
}

impl<'a> Reader<'a> {
    /// Takes `bytes` apart.
    pub(super) fn new(message: &'static str, mut bytes: &'a [u8]) -> Result<Reader<'a>, Error> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            if fields.len() == MAX_FIELDS {
                return Err(Error::Fields { message });
            }
            let Some((header, rest)) = bytes.split_first_chunk::<FIELD_HEADER>() else {
                let problem = Problem::CutShort { says: FIELD_HEADER as u64, has: bytes.len() };
                return Err(Error::Field { message, field: FieldName::Begun, problem });
            };
            let tag = u16::from_le_bytes([header[0], header[1]]);
            let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]);
            let Some((value, rest)) = usize::try_from(length)
                .ok()
                .filter(|length| *length <= rest.len())
                .map(|length| rest.split_at(length))
            else {
                let problem = Problem::CutShort { says: u64::from(length), has: rest.len() };
                return Err(Error::Field { message, field: FieldName::Tag(tag), problem });
            };
            fields.push((tag, value));
            bytes = rest;
        }
        Ok(Reader { message, fields })
    }

    /// Ends the reading: what is left over was known to nobody.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.fields.iter().find(|(tag, _)| tag & OPTIONAL_FIELD == 0) {
            Some((tag, _)) => {
                let field = FieldName::Tag(*tag);
                Err(Error::Field { message: self.message, field, problem: Problem::Unknown })
            }
            None => Ok(()),
        }
    }

    /// Every value of `field`, in order.
    fn all(&mut self, field: Field, most: usize) -> Result<Vec<&'a [u8]>, Error> {
        let mut values = Vec::new();
        self.fields.retain(|(tag, value)| {
            let ours = *tag == field.tag;
            if ours {
                values.push(*value);
            }
            !ours
        });
        let has = values.len();
        check(self.message, field, has <= most, || Problem::TooMany { has, most })?;
        Ok(values)
    }

    fn maybe(&mut self, field: Field) -> Result<Option<&'a [u8]>, Error> {
        let values = self.all(field, MAX_FIELDS)?;
        check(self.message, field, values.len() <= 1, || Problem::Twice)?;
        Ok(values.first().copied())
    }

    fn one(&mut self, field: Field) -> Result<&'a [u8], Error> {
        self.maybe(field)?.ok_or_else(|| wrong(self.message, field, Problem::Missing))
    }

    fn sized<const N: usize>(&self, field: Field, value: &[u8]) -> Result<[u8; N], Error> {
        <[u8; N]>::try_from(value).map_err(|_| {
            let problem = Problem::Size { has: value.len(), must: N };
            wrong(self.message, field, problem)
        })
    }

    pub(super) fn u8(&mut self, field: Field) -> Result<u8, Error> {
        let value = self.one(field)?;
        let [value] = self.sized(field, value)?;
        Ok(value)
    }

    pub(super) fn flag(&mut self, field: Field) -> Result<bool, Error> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(self.value(field, found.into())),
        }
    }

    /// Not there is no.
    pub(super) fn maybe_flag(&mut self, field: Field) -> Result<bool, Error> {
        match self.maybe(field)? {
            None | Some([0]) => Ok(false),
            Some([1]) => Ok(true),
            Some([found]) => Err(self.value(field, (*found).into())),
            Some(value) => self.sized::<1>(field, value).map(|_| false),
        }
    }

    pub(super) fn maybe_text(
        &mut self,
        field: Field,
        most: usize,
    ) -> Result<Option<String>, Error> {
        let Some(value) = self.maybe(field)? else { return Ok(None) };
        self.to_text(field, value, most).map(Some)
    }

    pub(super) fn u16(&mut self, field: Field) -> Result<u16, Error> {
        let value = self.one(field)?;
        self.sized(field, value).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: Field) -> Result<u32, Error> {
        let value = self.one(field)?;
        self.sized(field, value).map(u32::from_le_bytes)
    }

    pub(super) fn maybe_u16(&mut self, field: Field) -> Result<Option<u16>, Error> {
        let Some(value) = self.maybe(field)? else { return Ok(None) };
        Ok(Some(u16::from_le_bytes(self.sized(field, value)?)))
    }

    pub(super) fn maybe_u32(&mut self, field: Field) -> Result<Option<u32>, Error> {
        let Some(value) = self.maybe(field)? else { return Ok(None) };
        self.sized(field, value).map(u32::from_le_bytes).map(Some)
    }

    pub(super) fn u64(&mut self, field: Field, most: u64) -> Result<u64, Error> {
        let value = self.one(field)?;
        self.bounded_u64(field, value, most)
    }

    pub(super) fn maybe_u64(&mut self, field: Field, most: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.maybe(field)? else { return Ok(None) };
        self.bounded_u64(field, value, most).map(Some)
    }

    fn bounded_u64(&self, field: Field, value: &[u8], most: u64) -> Result<u64, Error> {
        let has = self.sized(field, value).map(u64::from_le_bytes)?;
        check(self.message, field, has <= most, || Problem::TooLarge { has, most })?;
        Ok(has)
    }

    pub(super) fn bytes(&mut self, field: Field, most: usize) -> Result<&'a [u8], Error> {
        let value = self.one(field)?;
        self.check_length(field, value, most)?;
        Ok(value)
    }

    pub(super) fn text(&mut self, field: Field, most: usize) -> Result<String, Error> {
        let value = self.one(field)?;
        self.to_text(field, value, most)
    }

    pub(super) fn name(&mut self, field: Field, most: usize) -> Result<String, Error> {
        let value = self.one(field)?;
        self.to_name(field, value, most)
    }

    pub(super) fn names(
        &mut self,
        field: Field,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<String>, Error> {
        let values = self.all(field, most)?;
        values.into_iter().map(|value| self.to_name(field, value, bytes)).collect()
    }

    /// Reads each record with `read`.
    pub(super) fn records<T>(
        &mut self,
        field: Field,
        most: usize,
        read: impl Fn(&mut Reader<'a>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let values = self.all(field, most)?;
        let record = |value| {
            let mut record = Reader::new(self.message, value)?;
            let value = read(&mut record)?;
            record.finish()?;
            Ok(value)
        };
        values.into_iter().map(record).collect()
    }

    /// An error about a value that is there and means nothing.
    pub(super) fn value(&self, field: Field, found: u64) -> Error {
        wrong(self.message, field, Problem::Value { found })
    }

    fn to_text(&self, field: Field, value: &[u8], most: usize) -> Result<String, Error> {
        self.check_length(field, value, most)?;
        let text = std::str::from_utf8(value);
        text.map(str::to_owned).map_err(|_| wrong(self.message, field, Problem::NotText))
    }

    fn to_name(&self, field: Field, value: &[u8], most: usize) -> Result<String, Error> {
        let name = self.to_text(field, value, most)?;
        check(self.message, field, is_name(&name), || Problem::NotAName)?;
        Ok(name)
    }

    fn check_length(&self, field: Field, value: &[u8], most: usize) -> Result<(), Error> {
        let has = value.len();
        check(self.message, field, has <= most, || Problem::TooLong { has, most })
    }
}

/// Names end up in logs and on terminals, so they may not contain what moves a cursor or ends a line.
/// Whether it can be a name: nothing that would break a line of a log.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn check(
    message: &'static str,
    field: Field,
    holds: bool,
    problem: impl FnOnce() -> Problem,
) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(wrong(message, field, problem())) }
}

fn wrong(message: &'static str, field: Field, problem: Problem) -> Error {
    Error::Field { message, field: FieldName::Known(field.name), problem }
}
