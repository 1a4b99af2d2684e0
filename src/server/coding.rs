//! Content codings: gzip and deflate (the zlib form, as HTTP means it), both ways, on the compute thread.
//!
//! What a body unpacks to is bounded by the same limit and charged to the same budget as a body that came plain, before
//! it is kept. Answers are packed here, after the encoder: nothing packed ever comes from elsewhere.

use std::io::{Read, Write as _};

use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::body::ReadBody;
use crate::protocol::{Refusal, RefusalKind};

/// Answers shorter than this are not worth packing.
const LEAST_BYTES: usize = 1024;
/// So much is unpacked between two charges to the budget.
const STEP: usize = 64 << 10;

/// The codings that are served.
pub(super) const SERVED: &str = "gzip, deflate, identity";

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    /// The coding of that name.
    fn named(name: &str) -> Option<Self> {
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => Some(Self::Gzip),
            name if name.eq_ignore_ascii_case("deflate") => Some(Self::Deflate),
            _ => None,
        }
    }

    /// Its name in a header.
    pub(super) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        })
    }

    /// The coding of a message as its head says; `None`: it is plain.
    ///
    /// # Errors
    /// Another coding than those served, or one upon another.
    pub(super) fn of_message(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Refusal> {
        let mut coding = None;
        for value in headers.get_all(name) {
            let known = value.to_str().ok().filter(|_| coding.is_none());
            match known.map(str::trim) {
                Some(plain) if plain.is_empty() || plain.eq_ignore_ascii_case("identity") => {}
                Some(name) if Self::named(name).is_some() => coding = Self::named(name),
                _ => {
                    let message = format!("of content codings one of {SERVED} is served");
                    return Err(Refusal::new(RefusalKind::UnsupportedEncoding, message));
                }
            }
        }
        Ok(coding)
    }

    /// The coding to answer in, of those that a client accepts; `None`: plain. Weights other than 0 do not matter.
    pub(super) fn accepted(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let offered =
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let wanted = offered.filter_map(|offer| {
            let (name, weight) = offer.split_once(';').unwrap_or((offer, ""));
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
            Self::named(name).filter(|_| weight != Some(0.0))
        });
        let wanted: Vec<Self> = wanted.collect();
        [Self::Gzip, Self::Deflate].into_iter().find(|coding| wanted.contains(coding))
    }

    /// A body as it was before it was packed, at most `max_bytes`.
    pub(super) fn unpack(self, body: ReadBody, max_bytes: usize) -> Result<ReadBody, Refusal> {
        let ReadBody { bytes, mut charge } = body;
        let packed = bytes.len();
        let mut reader: Box<dyn Read> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(&bytes[..])),
            Self::Deflate => Box::new(ZlibDecoder::new(&bytes[..])),
        };
        let mut plain = Vec::new();
        loop {
            let before = plain.len();
            let step = STEP.min(max_bytes + 1 - before);
            let read = reader.by_ref().take(step as u64).read_to_end(&mut plain);
            if read.is_err() {
                return Err(Refusal::bad_request("the compressed request body cannot be unpacked"));
            }
            if plain.len() > max_bytes {
                let message = format!("the request body may hold at most {max_bytes} bytes once unpacked, more came");
                return Err(Refusal::new(RefusalKind::TooLarge, message));
            }
            if plain.len() == before {
                drop(reader);
                return Ok(ReadBody { bytes: plain.into(), charge });
            }
            charge.grow(packed + plain.len())?;
        }
    }

    /// A body packed, if that is worth it.
    pub(super) fn pack(self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() < LEAST_BYTES {
            return None;
        }
        let out = Vec::with_capacity(body.len() / 2);
        let packed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(out, Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
        };
        packed.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::{Budget, Charge};
    use super::*;

    fn body(bytes: Vec<u8>) -> ReadBody {
        ReadBody { bytes: bytes.into(), charge: Charge::new(&Budget::new(1 << 20, 1 << 20)) }
    }

    #[test]
    fn what_is_packed_unpacks_to_itself_within_the_limit() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let packed = coding.pack(&plain).unwrap();
            assert_eq!(coding.unpack(body(packed.clone()), plain.len()).unwrap().bytes, plain);
            let refused = |max| coding.unpack(body(packed.clone()), max).err().map(|refusal| refusal.kind);
            assert_eq!(refused(plain.len() - 1), Some(RefusalKind::TooLarge));
            let cut = packed[..packed.len() / 2].to_vec();
            assert_eq!(coding.unpack(body(cut), plain.len()).err().map(|r| r.kind), Some(RefusalKind::BadRequest));
            assert!(coding.unpack(body(b"plain".to_vec()), 100).is_err());
            assert!(coding.pack(&plain[..1000]).is_none());
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit_and_at_the_budget() {
        let bomb = Coding::Gzip.pack(&vec![0; 64 << 20]).unwrap();
        assert!(bomb.len() < 1 << 20);
        let limited = Coding::Gzip.unpack(body(bomb.clone()), 4 << 20).err().map(|refusal| refusal.kind);
        assert_eq!(limited, Some(RefusalKind::Overloaded), "the budget of one mebibyte comes before the limit of four");
        let limited = Coding::Gzip.unpack(body(bomb), 1 << 19).err().map(|refusal| refusal.kind);
        assert_eq!(limited, Some(RefusalKind::TooLarge));
    }

    #[test]
    fn codings_are_read_from_heads() {
        let name = hyper::header::ACCEPT_ENCODING;
        let accepted = |text: &'static str| {
            let headers = [(name.clone(), HeaderValue::from_static(text))].into_iter().collect();
            Coding::accepted(&headers, &name)
        };
        assert_eq!(accepted("gzip, deflate"), Some(Coding::Gzip));
        assert_eq!(accepted("br, gzip;q=0, deflate;q=0.5"), Some(Coding::Deflate));
        assert_eq!(accepted("identity"), None);
        let of = |text: &'static str| {
            let headers = [(name.clone(), HeaderValue::from_static(text))].into_iter().collect();
            Coding::of_message(&headers, &name)
        };
        assert_eq!(of("x-gzip"), Ok(Some(Coding::Gzip)));
        assert_eq!(of("identity"), Ok(None));
        assert!(of("br").is_err() && of("gzip, gzip").is_err());
    }
}
