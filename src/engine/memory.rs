//! How the C library's allocator treats memory that is given back.
//!
//! Knows no model: said once, at the start of what runs a model over many rows.

/// Has it keep blocks of some MiB that are given back, for the next tensor of that size, instead of giving each to the
/// kernel and being given fresh pages again: a seventh of a training step of the small CNN, and as much of the pass of
/// `centroids build`. glibc takes the size of the largest block that was ever given back, up to 32 MiB, for what is not
/// worth keeping; other C libraries are not moved by it.
pub fn keep_freed() {
    const JUST_BELOW_THE_LARGEST: usize = (32 << 20) - (64 << 10);
    drop(std::hint::black_box(vec![0u8; JUST_BELOW_THE_LARGEST]));
}
