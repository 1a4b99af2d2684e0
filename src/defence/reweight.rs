//! R4: the paper's reweighting of a row's logits towards the centroid of its predicted class (§6.2).

/// Lanes of the sums below: enough independent accumulators that the compiler can use vector registers.
const LANES: usize = 8;

/// `(z·c, z·z)` in f64.
#[inline(always)]
fn dot_and_square(z: &[f32], c: &[f32]) -> (f64, f64) {
    let mut dots = [0.0_f64; LANES];
    let mut squares = [0.0_f64; LANES];
    let (z_chunks, z_rest) = z.as_chunks::<LANES>();
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for (z, c) in z_chunks.iter().zip(c_chunks) {
        for lane in 0..LANES {
            let (zl, cl) = (f64::from(z[lane]), f64::from(c[lane]));
            dots[lane] += zl * cl;
            squares[lane] += zl * zl;
        }
    }
    let (mut dot, mut square) = (sum(dots), sum(squares));
    for (&z, &c) in z_rest.iter().zip(c_rest) {
        dot += f64::from(z) * f64::from(c);
        square += f64::from(z) * f64::from(z);
    }
    (dot, square)
}

/// Sum of the lanes, pairwise: a short chain of additions.
#[inline(always)]
fn sum(l: [f64; LANES]) -> f64 {
    ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]))
}

/// Euclidean norm in f64.
pub(super) fn norm(z: &[f32]) -> f64 {
    dot_and_square(z, z).1.sqrt()
}

/// `cos(z, c)` in f64; a zero norm gives 0 (R4).
#[inline(always)]
pub(super) fn cosine(z: &[f32], c: &[f32], c_norm: f64) -> f64 {
    let (dot, square) = dot_and_square(z, c);
    let norms = square.sqrt() * c_norm;
    if norms > 0.0 { (dot / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

/// R4's share of the row's own logits: `clamp(weight · cos, 0, 1)`.
pub(super) fn share(weight: f64, cosine: f64) -> f64 {
    (weight * cosine).clamp(0.0, 1.0)
}

/// `out = s·z + (1−s)·target` in f64. Where both `z` and `target` are largest at one index, so is `out`: every
/// step is monotone, rounding included.
#[inline(always)]
pub(super) fn blend(z: &[f32], target: &[f32], s: f64, out: &mut [f64]) {
    let rest = 1.0 - s;
    for ((out, &z), &target) in out.iter_mut().zip(z).zip(target) {
        *out = s * f64::from(z) + rest * f64::from(target);
    }
}
