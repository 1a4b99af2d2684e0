//! An inclusion matrix, as the lab and as the audit read it: what the lab takes the audit takes too.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let lab = sordino::lab::bank::matrix_file::read(bytes);
    let audit = sordino::artifact::inclusion::InclusionMatrix::read(bytes);
    assert!(lab.is_err() || audit.is_ok(), "the audit refuses what the lab wrote");
});
