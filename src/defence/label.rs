//! R1: the label of a row, and keeping it in what is emitted.

/// Argmax of a row, ties to the lowest index (R1). A NaN is never the maximum. `0` for an empty row.
#[inline(always)]
pub(super) fn argmax(row: &[f32]) -> usize {
    let max = if row.len() < 64 { largest::<4>(row) } else { largest::<32>(row) };
    row.iter().position(|&value| value == max).unwrap_or(0)
}

/// The largest value, minus infinity for none; so many are compared side by side, in vector registers.
#[inline(always)]
fn largest<const LANES: usize>(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, value);
        }
    }
    rest.iter().copied().fold(lanes.into_iter().fold(f32::NEG_INFINITY, larger), larger)
}

/// Keeps the label in emitted values (R1): where rounding to f32 made an earlier index tie with `label`, the
/// label's value is raised by one unit in the last place.
///
/// The caller guarantees that before rounding no value was larger than the label's; rounding is monotone, so a
/// tie is all that can have happened.
pub(super) fn keep(row: &mut [f32], label: usize) {
    let top = row[label];
    if row[..label].iter().fold(false, |any, &value| any | (value >= top)) {
        row[label] = top.next_up();
    }
}

/// Whether a row is strictly largest at `label`; false when there is no such index.
pub(super) fn is_strictly_largest(row: &[f32], label: usize) -> bool {
    row.get(label).is_some_and(|&top| row.iter().enumerate().all(|(j, &value)| j == label || value < top))
}
