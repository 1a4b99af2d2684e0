//! One backward pass at a time.
//!
//! burn 0.21 keeps the graphs of all threads in one place, and a backward pass on one thread may throw away steps that
//! another thread is still adding to its own: a gradient is then silently wrong (seen here with concatenations; burn's
//! issue 5573). So whoever asks for gradients holds this lock from the first operation of the forward pass to the
//! end of the backward pass. Trainings that shall run beside each other are processes of their own.

use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE: Mutex<()> = Mutex::new(());

/// Held while a graph is built and walked back. A thread that panicked while it held the lock left nothing behind that
/// another one would read.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
