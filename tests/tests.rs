//! The one test binary: modules by kind.

mod audit;
