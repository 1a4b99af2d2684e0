//! Stable softmax over the kept entries of a row, and which entries those are (R5).

/// Up to this many kept entries are found by insertion, in one pass.
const SMALL: usize = 8;

/// A kept entry: its class index and its probability.
pub(super) type Entry = (u32, f64);

/// All entries of a row of `n` classes, by index, their probabilities still to be found.
pub(super) fn keep_all(n: usize, entries: &mut Vec<Entry>) {
    entries.clear();
    entries.extend((0..n as u32).map(|j| (j, 0.0)));
}

/// R5's kept set: `label` first, then by `z` falling, then by index; `min(k, z.len())` entries, the label's first.
#[inline(always)]
pub(super) fn keep_top(z: &[f64], label: usize, k: usize, entries: &mut Vec<Entry>) {
    entries.clear();
    entries.push((label as u32, 0.0));
    let others = k.min(z.len()).saturating_sub(1);
    if others == 0 {
        return;
    }
    if others <= SMALL {
        insert_largest(z, label, others, entries);
        return;
    }
    entries.extend((0..z.len() as u32).filter(|&j| j as usize != label).map(|j| (j, 0.0)));
    let order = |&(a, _): &Entry, &(b, _): &Entry| z[b as usize].total_cmp(&z[a as usize]).then(a.cmp(&b));
    if others < entries.len() - 1 {
        entries[1..].select_nth_unstable_by(others - 1, order);
        entries.truncate(others + 1);
    }
}

/// One pass that holds the `n` largest so far, largest first; a later equal does not displace an earlier one.
#[inline(always)]
fn insert_largest(z: &[f64], label: usize, n: usize, entries: &mut Vec<Entry>) {
    const BLOCK: usize = 16;
    let mut largest = [f64::NEG_INFINITY; SMALL];
    let mut indices = [u32::MAX; SMALL];
    let mut least = f64::NEG_INFINITY;
    let mut insert = |j: usize, value: f64, least: &mut f64| {
        if value > *least && j != label {
            let mut place = n - 1;
            while place > 0 && largest[place - 1] < value {
                largest[place] = largest[place - 1];
                indices[place] = indices[place - 1];
                place -= 1;
            }
            largest[place] = value;
            indices[place] = j as u32;
            *least = largest[n - 1];
        }
    };
    let (blocks, rest) = z.as_chunks::<BLOCK>();
    for (block, values) in blocks.iter().enumerate() {
        // Most blocks of a long row hold nothing that is kept: one vectorised comparison skips them.
        if values.iter().fold(false, |any, &value| any | (value > least)) {
            for (offset, &value) in values.iter().enumerate() {
                insert(block * BLOCK + offset, value, &mut least);
            }
        }
    }
    for (offset, &value) in rest.iter().enumerate() {
        insert(blocks.len() * BLOCK + offset, value, &mut least);
    }
    entries.extend(indices[..n].iter().filter(|&&j| j != u32::MAX).map(|&j| (j, 0.0)));
}

/// `e^x` for `x ≤ 0`; the label's own entry, `x = 0`, needs no call.
#[inline(always)]
fn exp(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { x.exp() }
}

/// Fills in the probabilities of the kept entries; `z[label]` is the largest of all.
///
/// Masking a full softmax and renormalising gives the same values: the sum over the rest cancels.
pub(super) fn softmax_entries(z: &[f64], label: usize, entries: &mut [Entry]) {
    let max = z[label];
    let mut sum = 0.0;
    for (j, p) in entries.iter_mut() {
        *p = exp(z[*j as usize] - max);
        sum += *p;
    }
    let scale = 1.0 / sum;
    entries.iter_mut().for_each(|(_, p)| *p *= scale);
}

/// Softmax of a whole row in place; `z[label]` is the largest.
pub(super) fn softmax_all(z: &mut [f64], label: usize) {
    let max = z[label];
    let mut sum = 0.0;
    for value in z.iter_mut() {
        *value = exp(*value - max);
        sum += *value;
    }
    let scale = 1.0 / sum;
    z.iter_mut().for_each(|value| *value *= scale);
}
