//! What the defence costs a row: reweight + top-3 + softmax, by number of classes and batch.
//!
//! `cargo bench --features lab --bench defence`. Data is made outside of the clock, from a fixed seed. The scores
//! are moved into the defence and turned into answers in place, so each iteration gets its own copy.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use rand::{Rng, SeedableRng};
use sordino::defence::{
    Bank, Centroids, Defence, DefenceConfig, DistanceQuantiles, Fitted, Gate, Method, N_QUANTILES, RawScores, ScoreKind,
};

const SEED: u64 = 7;

fn fitted(k: usize, rng: &mut impl Rng) -> Arc<Fitted> {
    let labels: Vec<String> = (0..k).map(|class| class.to_string()).collect();
    let centroids =
        Array2::from_shape_fn((k, k), |(row, column)| if row == column { 9.0 } else { rng.random_range(-4.0..4.0) });
    let quantiles = Array2::from_shape_fn((k, N_QUANTILES), |(_, step)| step as f32 / 100.0);
    let fitted = Fitted::new(
        ScoreKind::Logits,
        labels.clone(),
        Centroids::new(centroids, &labels).expect("dominant by construction"),
        DistanceQuantiles::new(quantiles, k).expect("rising by construction"),
        Bank::empty(k),
    );
    Arc::new(fitted.expect("consistent by construction"))
}

fn reweight_top_3(c: &mut Criterion) {
    let mut group = c.benchmark_group("reweight+top3+softmax");
    for k in [2_usize, 10, 100, 1_000] {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(SEED);
        let fitted = fitted(k, &mut rng);
        let config = DefenceConfig {
            method: Method::Reweight { weight: 0.1, when: Gate::Always },
            top_k: Some(3),
            digits: None,
        };
        let defence = Defence::new(&config, Some(fitted), ScoreKind::Logits, k).expect("settings are right");
        for batch in [1_usize, 64] {
            let scores = Array2::from_shape_fn((batch, k), |_| rng.random_range(-8.0_f32..8.0));
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(format!("K={k}"), format!("batch={batch}")), |bencher| {
                bencher.iter_batched(
                    || RawScores::new(scores.clone(), ScoreKind::Logits).expect("finite"),
                    |raw| defence.apply(black_box(raw)).expect("same shape"),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, reweight_top_3);
criterion_main!(benches);
