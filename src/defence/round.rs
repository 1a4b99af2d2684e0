//! R6: rounding to decimal digits so that a row still sums to exactly 1.

use super::softmax::Entry;

/// Rounds the kept entries of a row to `digits` digits by largest remainder and writes the row to `out`.
///
/// In integer units of `10^-digits`: each entry gets its whole units; of the spare units the first goes to `label`,
/// the others to the largest remainders (ties: lowest index). Where an earlier index then has as many units as the
/// label, it gives one up to the label (R1). Everything that is not kept is 0 (R5).
///
/// Reorders `entries`.
pub(super) fn round(entries: &mut [Entry], label: usize, digits: u8, out: &mut [f32]) {
    let scale = 10_f64.powi(i32::from(digits));
    // `out` holds whole units until the last line: below 2^24, so exact in f32.
    out.fill(0.0);
    let mut spare = scale;
    for (j, p) in entries.iter_mut() {
        let whole = (*p * scale).floor();
        out[*j as usize] = whole as f32;
        spare -= whole;
        *p = if *j as usize == label { -1.0 } else { *p * scale - whole };
    }
    if spare >= 1.0 {
        out[label] += 1.0;
        spare -= 1.0;
    }
    let count = (spare.max(0.0) as usize).min(entries.len().saturating_sub(1));
    if count > 0 {
        let by_remainder = |a: &Entry, b: &Entry| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        entries.select_nth_unstable_by(count - 1, by_remainder);
        for (j, _) in &entries[..count] {
            out[*j as usize] += 1.0;
            spare -= 1.0;
        }
    }
    // What rounding errors of the sum may leave over is the label's.
    out[label] += spare as f32;
    if let Some(rival) = (0..label).find(|&j| out[j] >= out[label]) {
        out[rival] -= 1.0;
        out[label] += 1.0;
    }
    for value in out {
        if *value != 0.0 {
            *value = (f64::from(*value) / scale) as f32;
        }
    }
}
