//! Printing that outlives its reader: the words of `println!` and its kin, where a closed pipe ends no command.
//!
//! The standard library's panic when nobody reads any more (`sordino train … 2>&1 | head -1`), and a training of hours would
//! end for its progress. These macros take their places in every file of this room; what cannot be written is lost.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes to standard output, or does not.
pub(super) fn out(words: Arguments<'_>) {
    let _ = std::io::stdout().lock().write_fmt(words);
}

/// Writes to standard error, or does not.
pub(super) fn err(words: Arguments<'_>) {
    let _ = std::io::stderr().lock().write_fmt(words);
}

macro_rules! print {
    ($($words:tt)*) => { $crate::cli::tell::out(::std::format_args!($($words)*)) };
}

macro_rules! println {
    () => { $crate::cli::tell::out(::std::format_args!("\n")) };
    ($($words:tt)*) => { $crate::cli::tell::out(::std::format_args!("{}\n", ::std::format_args!($($words)*))) };
}

macro_rules! eprintln {
    () => { $crate::cli::tell::err(::std::format_args!("\n")) };
    ($($words:tt)*) => { $crate::cli::tell::err(::std::format_args!("{}\n", ::std::format_args!($($words)*))) };
}
