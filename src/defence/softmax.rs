//! Stable softmax over the kept set, and the kept set itself (R5).

/// Up to this many kept entries are found by insertion, in one pass.
const SMALL: usize = 8;

/// Which entries of a row stay (R5).
pub(super) enum Kept<'a> {
    /// All of them.
    All,
    /// These indices, the label first; the rest is zero.
    Only(&'a [u32]),
}

/// The kept set: `label` first, then by `z` falling, then by index; `min(k, z.len())` indices into `kept`.
pub(super) fn keep_top(z: &[f64], label: usize, k: usize, kept: &mut Vec<u32>) {
    kept.clear();
    kept.push(label as u32);
    let others = k.min(z.len()).saturating_sub(1);
    if others == 0 {
        return;
    }
    if others <= SMALL {
        insert_largest(z, label, others, kept);
    } else {
        kept.extend((0..z.len() as u32).filter(|&j| j as usize != label));
        let order = |&a: &u32, &b: &u32| z[b as usize].total_cmp(&z[a as usize]).then(a.cmp(&b));
        if others < kept.len() - 1 {
            kept[1..].select_nth_unstable_by(others - 1, order);
            kept.truncate(others + 1);
        }
    }
}

/// One pass that holds the `n` largest so far, largest first; a later equal does not displace an earlier one.
fn insert_largest(z: &[f64], label: usize, n: usize, kept: &mut Vec<u32>) {
    const BLOCK: usize = 16;
    let mut largest = [f64::NEG_INFINITY; SMALL];
    let mut indices = [u32::MAX; SMALL];
    let mut insert = |j: usize, value: f64| {
        let mut place = n - 1;
        while place > 0 && largest[place - 1] < value {
            largest[place] = largest[place - 1];
            indices[place] = indices[place - 1];
            place -= 1;
        }
        largest[place] = value;
        indices[place] = j as u32;
        largest[n - 1]
    };
    let mut least = f64::NEG_INFINITY;
    for (block, values) in z.chunks(BLOCK).enumerate() {
        // Most blocks of a long row hold nothing that is kept: one vectorised comparison skips them.
        if values.len() == BLOCK && !values.iter().fold(false, |any, &value| any | (value > least)) {
            continue;
        }
        for (offset, &value) in values.iter().enumerate() {
            let j = block * BLOCK + offset;
            if value > least && j != label {
                least = insert(j, value);
            }
        }
    }
    kept.extend(indices[..n].iter().filter(|&&j| j != u32::MAX));
}

/// Softmax over the kept entries into `p` (f64, zero elsewhere); `z[label]` is the largest entry.
///
/// Masking and renormalising a full softmax gives the same values: the sum over the rest cancels.
pub(super) fn softmax(z: &[f64], label: usize, kept: &Kept<'_>, p: &mut [f64]) {
    let max = z[label];
    let mut sum = 0.0;
    match kept {
        Kept::All => {
            for (p, &z) in p.iter_mut().zip(z) {
                *p = (z - max).exp();
                sum += *p;
            }
        }
        Kept::Only(indices) => {
            p.fill(0.0);
            for &j in *indices {
                let value = (z[j as usize] - max).exp();
                p[j as usize] = value;
                sum += value;
            }
        }
    }
    let scale = 1.0 / sum;
    match kept {
        Kept::All => p.iter_mut().for_each(|p| *p *= scale),
        Kept::Only(indices) => indices.iter().for_each(|&j| p[j as usize] *= scale),
    }
}
