//! What the bytes of an HTTP/1.1 answer say of themselves: status, where the body ends, whether another answer may follow.
//!
//! Where an answer says two things about its end it is not read, and whatever is not plain costs its connection: the other side
//! is another server, and nobody else's bytes are to be taken for an answer of ours.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use crate::engine::upstream::Fault;

/// The longest head, and the longest trailers.
const MAX_HEAD: usize = 32 << 10;
/// The most fields of a head.
const MAX_FIELDS: usize = 100;
/// The longest line before a chunk.
const MAX_CHUNK_LINE: usize = 1 << 10;

/// What is read of a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Whether another answer may follow on the connection.
    pub(super) keeps: bool,
    /// The length of the JSON part, as it says.
    pub(super) header_length: Option<String>,
    pub(super) is_compressed: bool,
}

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

/// The head at the begin of `buffer` and its length, once all of it is there; no head for one of status 1xx, which says
/// nothing.
pub(super) fn head(buffer: &[u8]) -> Result<Option<(Option<Head>, usize)>, Fault> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if buffer.len() <= MAX_HEAD => return Ok(None),
        Ok(Status::Partial) => return Err(Fault::TooLong { max_bytes: MAX_HEAD }),
        Err(_) => return Err(Fault::BrokenOff),
    };
    match (response.code, response.version) {
        (Some(101), _) | (None, _) | (_, None) => Err(Fault::BrokenOff),
        (Some(100..=199), _) => Ok(Some((None, length))),
        (Some(status), Some(version)) => Ok(Some((Some(Head::of(status, version, response.headers)?), length))),
    }
}

impl Head {
    fn of(status: u16, minor_version: u8, fields: &[Header<'_>]) -> Result<Self, Fault> {
        let mut head = Self {
            status,
            framing: Framing::UntilClosed,
            keeps: minor_version == 1,
            header_length: None,
            is_compressed: false,
        };
        let (mut length, mut is_chunked) = (None, false);
        for field in fields {
            let (name, value) = (field.name, field.value.trim_ascii());
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            // The length of a name rules most of them out.
            match name.len() {
                14 if is("content-length") => {
                    let said = number(value)?;
                    if length.replace(said).is_some_and(|before| before != said) {
                        return Err(Fault::BrokenOff);
                    }
                }
                17 if is("transfer-encoding") => {
                    if is_chunked || minor_version != 1 || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Fault::BrokenOff);
                    }
                    is_chunked = true;
                }
                10 if is("connection") => {
                    let mut words = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
                    head.keeps &= !words.any(|word| word.eq_ignore_ascii_case(b"close"));
                }
                16 if is("content-encoding") => head.is_compressed |= !value.eq_ignore_ascii_case(b"identity"),
                31 if is(crate::protocol::oip::HEADER_LENGTH) && head.header_length.is_none() => {
                    head.header_length = Some(String::from_utf8_lossy(value).into_owned());
                }
                _ => {}
            }
        }
        head.framing = match (status, is_chunked, length) {
            (204 | 304, ..) => Framing::Length(0),
            (_, true, Some(_)) => return Err(Fault::BrokenOff),
            (_, true, None) => Framing::Chunked,
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => Framing::UntilClosed,
        };
        head.keeps &= head.framing != Framing::UntilClosed;
        Ok(head)
    }
}

fn number(digits: &[u8]) -> Result<usize, Fault> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or(Fault::BrokenOff)
}

/// Where a chunk begins and how long it is, once the line before it is there.
pub(super) fn chunk(buffer: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    match httparse::parse_chunk_size(buffer) {
        Ok(Status::Complete((start, size))) => Ok(Some((start, usize::try_from(size).unwrap_or(usize::MAX)))),
        Ok(Status::Partial) if buffer.len() <= MAX_CHUNK_LINE => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(Fault::BrokenOff),
    }
}

/// The length of what follows the last chunk, once all of it is there: fields that nobody reads, and an empty line.
pub(super) fn trailers(buffer: &[u8]) -> Result<Option<usize>, Fault> {
    if buffer.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(end) => Ok(Some(end + 4)),
        None if buffer.len() <= MAX_HEAD => Ok(None),
        None => Err(Fault::TooLong { max_bytes: MAX_HEAD }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<Head, Fault> {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        head(text.as_bytes()).map(|found| found.and_then(|(head, _)| head).expect("the head is whole"))
    }

    #[test]
    fn the_end_of_an_answer_is_told_once_or_it_is_not_read() {
        let framing = |fields: &str| read(fields).map(|head| (head.framing, head.keeps));
        assert_eq!(framing("Content-Length: 7\r\n"), Ok((Framing::Length(7), true)));
        assert_eq!(framing("content-length: 7\r\nCONTENT-LENGTH: 7\r\n"), Ok((Framing::Length(7), true)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok((Framing::Chunked, true)));
        assert_eq!(framing("content-length: 7\r\nConnection: keep-alive, Close\r\n"), Ok((Framing::Length(7), false)));
        assert_eq!(framing(""), Ok((Framing::UntilClosed, false)));
        for bad in [
            "content-length: 7\r\ncontent-length: 8\r\n",
            "content-length: 7, 7\r\n",
            "content-length: +7\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999999\r\n",
            "content-length: 7\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "content-length : 7\r\n",
        ] {
            assert_eq!(framing(bad), Err(Fault::BrokenOff), "{bad}");
        }
        let old = head(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap().and_then(|(head, _)| head).unwrap();
        assert!(!old.keeps && old.framing == Framing::Length(1));
        let without = head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().and_then(|(head, _)| head).unwrap();
        assert_eq!(without.framing, Framing::Length(0));
    }

    #[test]
    fn what_is_needed_of_a_head_is_read_whatever_its_letters() {
        let head =
            read("INFERENCE-HEADER-CONTENT-LENGTH: 12 \r\nContent-Encoding: gzip\r\ncontent-length: 20\r\n").unwrap();
        assert_eq!((head.header_length.as_deref(), head.is_compressed, head.status), (Some("12"), true, 200));
        assert!(!read("content-encoding: Identity\r\n").unwrap().is_compressed);
    }

    #[test]
    fn a_head_in_pieces_is_waited_for_within_bounds() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        for end in 0..25 {
            assert_eq!(head(&text[..end]), Ok(None), "{end}");
        }
        let (nothing, length) = head(text).unwrap().unwrap();
        assert!(nothing.is_none() && head(&text[length..]).unwrap().unwrap().0.is_some());
        assert_eq!(head(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Err(Fault::BrokenOff));
        assert_eq!(head(b"no answer at all"), Err(Fault::BrokenOff));
        let endless = [&b"HTTP/1.1 200 OK\r\nx: "[..], &[b'y'; MAX_HEAD]].concat();
        assert_eq!(head(&endless), Err(Fault::TooLong { max_bytes: MAX_HEAD }));
        assert_eq!(
            head(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)).as_bytes()),
            Err(Fault::BrokenOff)
        );
    }

    #[test]
    fn chunks_and_what_follows_them_have_bounds() {
        assert_eq!(chunk(b"1"), Ok(None));
        assert_eq!(chunk(b"a;x=y\r\n"), Ok(Some((7, 10))));
        assert_eq!(chunk(b"x\r\n"), Err(Fault::BrokenOff));
        assert_eq!(chunk(&[&b"1;"[..], &[b'x'; MAX_CHUNK_LINE]].concat()), Err(Fault::BrokenOff));
        assert_eq!((trailers(b"\r\nHTTP"), trailers(b"a: b\r\n\r\n")), (Ok(Some(2)), Ok(Some(8))));
        assert_eq!((trailers(b"\r"), trailers(b"a: b\r\n")), (Ok(None), Ok(None)));
        assert_eq!(trailers(&[b'x'; MAX_HEAD + 1]), Err(Fault::TooLong { max_bytes: MAX_HEAD }));
    }
}
