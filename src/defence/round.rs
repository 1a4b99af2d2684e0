//! R6: rounding to decimal digits so that a row still sums to exactly 1.

use super::softmax::Kept;

/// Rounds a row of probabilities to `digits` digits by largest remainder and writes it to `out`.
///
/// In integer units of `10^-digits`: each kept entry gets its whole units; of the spare units the first goes to
/// `label`, the others to the largest remainders (ties: lowest index). Where an earlier index then has as many
/// units as the label, it gives one up to the label (R1). Entries outside of the kept set stay 0 (R5).
pub(super) fn round(p: &[f64], label: usize, kept: &Kept<'_>, digits: u8, order: &mut Vec<u32>, out: &mut [f32]) {
    let scale = 10_i64.pow(u32::from(digits));
    let units = |p: f64| (p * scale as f64).floor() as i64;
    order.clear();
    match kept {
        Kept::All => order.extend(0..p.len() as u32),
        Kept::Only(indices) => order.extend_from_slice(indices),
    }
    // `out` holds whole units until the last line: they are below 2^24, exact in f32.
    out.fill(0.0);
    let mut spare = scale;
    for &j in order.iter() {
        let whole = units(p[j as usize]);
        out[j as usize] = whole as f32;
        spare -= whole;
    }
    if spare > 0 {
        out[label] += 1.0;
        spare -= 1;
    }
    let remainder = |j: u32| p[j as usize] * scale as f64 - units(p[j as usize]) as f64;
    order.retain(|&j| j as usize != label);
    let count = usize::try_from(spare).unwrap_or(0).min(order.len());
    if count > 0 {
        let by_remainder = |&a: &u32, &b: &u32| remainder(b).total_cmp(&remainder(a)).then(a.cmp(&b));
        order.select_nth_unstable_by(count - 1, by_remainder);
        for &j in &order[..count] {
            out[j as usize] += 1.0;
            spare -= 1;
        }
    }
    // Rounding errors of the sum can leave at most a unit or two over; they are the label's.
    out[label] += spare as f32;
    if let Some(rival) = (0..label).find(|&j| out[j] >= out[label]) {
        out[rival] -= 1.0;
        out[label] += 1.0;
    }
    for value in out {
        *value = (f64::from(*value) / scale as f64) as f32;
    }
}
