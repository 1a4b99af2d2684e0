//! R1: the label of a row, and keeping it in what is emitted.

/// Argmax of a row, ties to the lowest index (R1). A NaN is never the maximum. `0` for an empty row.
pub(super) fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    for (index, &value) in row.iter().enumerate() {
        if value > max {
            max = value;
            best = index;
        }
    }
    best
}

/// Keeps the label in emitted values (R1): where rounding to f32 made an earlier index tie with `label`, the
/// label's value is raised by one unit in the last place.
///
/// The caller guarantees that before rounding no value was larger than the label's; rounding is monotone, so a
/// tie is all that can have happened.
pub(super) fn keep(row: &mut [f32], label: usize) {
    let top = row[label];
    if row[..label].iter().any(|&value| value >= top) {
        row[label] = top.next_up();
    }
}
