//! Which `parameters` are known, and what becomes of each: deny by default.
//!
//! | key | where | what happens |
//! | --- | --- | --- |
//! | `binary_data_output` | request | default form of the outputs |
//! | `binary_data` | output | form of this output |
//! | `binary_data_size` | input | bytes of this tensor after the JSON part; over gRPC without effect |
//! | `timeout` | request | microseconds after which nobody waits for the answer; 0 is none |
//! | `priority` | request | accepted and ignored: there is one queue |
//! | `content_type` | everywhere | accepted and ignored: a hint of MLServer's clients, data are read by `datatype` |
//! | `shared_memory_*` | everywhere | refused: scores would leave by another door |
//! | `classification` | output | the best so many classes as strings, written after the defence |
//! | `sequence_*` | everywhere | refused: no state is kept between requests |
//! | `triton_*` | everywhere | refused: reserved |
//! | anything else | everywhere | refused: a parameter that does nothing would be a promise |

#[cfg(feature = "serve")]
use std::time::Duration;

#[cfg(feature = "serve")]
use crate::protocol::Refusal;
use crate::protocol::quoted;

/// Where a `parameters` object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Request,
    Input,
    Output,
}

/// What becomes of one parameter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A boolean: `binary_data_output` of a request, `binary_data` of an output.
    Binary,
    /// A number of bytes: `binary_data_size` of an input.
    BinarySize,
    /// A number of classes: `classification` of an output.
    Classes,
    /// Microseconds: `timeout` of a request.
    Timeout,
    /// Accepted, without effect.
    Ignored,
    /// Refused, with the reason.
    Refused(String),
}

/// The rule for `key` in `scope`.
pub(super) fn rule(scope: Scope, key: &str) -> Rule {
    match (scope, key) {
        (Scope::Request, "binary_data_output") | (Scope::Output, "binary_data") => Rule::Binary,
        (Scope::Input, "binary_data_size") => Rule::BinarySize,
        (Scope::Request, "timeout") => Rule::Timeout,
        (Scope::Request, "priority") | (_, "content_type") => Rule::Ignored,
        // perf_analyzer sends it with each gRPC request. There is one answer to a message, so no empty one behind it.
        (Scope::Request, "triton_enable_empty_final_response") => Rule::Ignored,
        (Scope::Output, "classification") => Rule::Classes,
        (_, key) if key.starts_with("shared_memory_") => refused(key, "shared memory is not served"),
        (_, key) if key.starts_with("sequence_") => refused(key, "no state is kept between requests"),
        (_, key) if key.starts_with("triton_") => refused(key, "keys starting with 'triton_' are reserved"),
        (Scope::Request, key) => refused(key, "known here: binary_data_output, timeout, priority, content_type"),
        (Scope::Input, key) => refused(key, "known here: binary_data_size, content_type"),
        (Scope::Output, key) => refused(key, "known here: binary_data, classification, content_type"),
    }
}

/// The parameter `timeout`, in microseconds as Triton has it: none for 0.
#[cfg(feature = "serve")]
pub(super) fn timeout(wanted: Option<u64>) -> Result<Option<Duration>, Refusal> {
    let micros = wanted.ok_or_else(|| {
        Refusal::bad_request("parameter 'timeout' must be a whole number of microseconds of at least 0")
    })?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

fn refused(key: &str, reason: &str) -> Rule {
    Rule::Refused(format!("parameter {} is refused: {reason}", quoted(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_elsewhere_is_refused_everywhere() {
        for scope in [Scope::Request, Scope::Input, Scope::Output] {
            for key in [
                "shared_memory_region",
                "shared_memory_offset",
                "shared_memory_byte_size",
                "sequence_id",
                "triton_final_response",
                "headers",
                "raw_scores",
                "",
            ] {
                assert!(matches!(rule(scope, key), Rule::Refused(_)), "{scope:?} {key}");
            }
        }
        assert!(matches!(rule(Scope::Request, "classification"), Rule::Refused(_)));
        assert!(matches!(rule(Scope::Output, "binary_data_output"), Rule::Refused(_)));
        assert!(matches!(rule(Scope::Request, "binary_data"), Rule::Refused(_)));
    }
}
