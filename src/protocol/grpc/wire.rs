//! A message's fields one after another, before any is made: for counting what it would take to make them.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Calls `seen` with every field of a message: its number, and its bytes where it has a length.
///
/// # Errors
/// [`Malformed`], and whatever `seen` ends it with.
pub(crate) fn fields<'a, E: From<Malformed>>(
    mut message: &'a [u8],
    seen: &mut dyn FnMut(u32, Option<&'a [u8]>) -> Result<(), E>,
) -> Result<(), E> {
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).map_err(|_| Malformed)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut message).map_err(|_| Malformed)?;
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            let (value, rest) = message.split_at_checked(length).ok_or(Malformed)?;
            message = rest;
            seen(tag, Some(value))?;
        } else {
            skip_field(wire_type, tag, &mut message, DecodeContext::default()).map_err(|_| Malformed)?;
            seen(tag, None)?;
        }
    }
    Ok(())
}
