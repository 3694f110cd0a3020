//! The wire format of protobuf: tags, varints, lengths.
//!
//! Called by the table-driven decoder. Invariant: no input makes it panic or read beyond its end.
//! Limits: the slice that is given. Stateless.

/// One field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'b> {
    pub(super) number: u32,
    pub(super) wire: Wire<'b>,
}

/// Its value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'b> {
    Varint(u64),
    Bytes(&'b [u8]),
    /// 32 or 64 bits: no message of Kubernetes that is decoded here has them.
    Fixed,
}

/// Iterates over the fields of a message; ends after the first error.
#[derive(Debug)]
pub(super) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], &'static str> {
        let length = usize::try_from(length).map_err(|_| "a length is too large")?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("the message is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let (number, rest) = varint(self.rest)?;
        self.rest = rest;
        Ok(number)
    }

    fn field(&mut self) -> Result<Field<'b>, &'static str> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field number is too large")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed)?,
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed)?,
            _ => return Err("a field has an unknown wire type"),
        };
        Ok(Field { number, wire })
    }
}

impl<'b> Iterator for Reader<'b> {
    type Item = Result<Field<'b>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// A varint and what follows it.
pub(super) fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index).min(63);
        if byte & 0x80 == 0 {
            return Ok((value, bytes.get(index + 1..).unwrap_or_default()));
        }
    }
    Err("a number is cut off")
}
