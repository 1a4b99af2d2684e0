//! Samples, noise and keys as distributions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::super::noise::normals;
use crate::lab::dp::{NoiseKey, poisson};

#[test]
fn sample_sizes_have_the_mean_and_the_variance_of_a_binomial() {
    let (n_rows, rate, n_draws) = (200, 0.1, 20_000u32);
    let key = NoiseKey::of_seed(1);
    let sizes: Vec<f64> =
        (0..n_draws).map(|step| poisson(n_rows, rate, &mut key.sampling(u64::from(step))).len() as f64).collect();
    let n = f64::from(n_draws);
    let mean = sizes.iter().sum::<f64>() / n;
    let variance = sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let (expected_mean, expected_variance) = (20.0, 18.0);
    // Five standard errors.
    assert!((mean - expected_mean).abs() < 5.0 * (expected_variance / n).sqrt(), "{mean}");
    assert!((variance / expected_variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{variance}");
}

#[test]
fn each_row_is_in_with_the_rate_and_independently_of_its_neighbour() {
    let (n_rows, rate, n_draws) = (50, 0.3, 20_000u32);
    let key = NoiseKey::of_seed(2);
    let (mut alone, mut together) = (vec![0f64; n_rows], vec![0f64; n_rows - 1]);
    for step in 0..n_draws {
        let sample = poisson(n_rows, rate, &mut key.sampling(u64::from(step)));
        assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
        sample.iter().for_each(|&row| alone[row] += 1.0);
        sample.windows(2).filter(|pair| pair[0] + 1 == pair[1]).for_each(|pair| together[pair[0]] += 1.0);
    }
    let within = |count: f64, probability: f64| {
        let n = f64::from(n_draws);
        (count / n - probability).abs() < 5.0 * (probability * (1.0 - probability) / n).sqrt()
    };
    assert!(alone.iter().all(|&count| within(count, rate)));
    assert!(together.iter().all(|&count| within(count, rate * rate)));
}

#[test]
fn a_rate_of_one_takes_all_and_of_zero_none() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    assert_eq!(poisson(5, 1.0, &mut rng), [0, 1, 2, 3, 4]);
    assert!(poisson(5, 0.0, &mut rng).is_empty());
    assert!(poisson(0, 0.5, &mut rng).is_empty());
}

#[test]
fn normals_have_their_deviation_and_tails() {
    let n = 400_000;
    let values = normals(&mut NoiseKey::of_seed(4).noise(0), n, 2.5);
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / n as f64;
    let variance = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / n as f64;
    assert!(mean.abs() < 5.0 * 2.5 / (n as f64).sqrt(), "{mean}");
    assert!((variance / 6.25 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{variance}");
    // P(|x| > 2σ) = .0455.
    let beyond = values.iter().filter(|value| value.abs() > 5.0).count() as f64 / n as f64;
    assert!((beyond - 0.0455).abs() < 5.0 * (0.0455f64 * 0.9545 / n as f64).sqrt(), "{beyond}");
}

#[test]
fn steps_and_keys_and_purposes_share_no_numbers() {
    let key = NoiseKey::of_seed(1);
    let draw = |mut rng: ChaCha8Rng| normals(&mut rng, 4, 1.0);
    let draws = [draw(key.noise(0)), draw(key.noise(1)), draw(key.sampling(0)), draw(NoiseKey::of_seed(2).noise(0))];
    for (at, one) in draws.iter().enumerate() {
        assert!(draws[at + 1..].iter().all(|other| other != one));
    }
    assert_eq!(draw(key.noise(0)), draws[0]);
}

#[test]
fn a_secret_is_long_and_shown_by_digest_alone() {
    assert!(NoiseKey::of_secret(&[7; 31]).unwrap_err().to_string().contains("32 bytes"));
    let key = NoiseKey::of_secret(&[7; 32]).unwrap();
    assert_eq!(format!("{key:?}"), "NoiseKey(..)");
    assert_eq!(key.digest().len(), 64);
    assert_ne!(key.digest(), NoiseKey::of_secret(&[8; 32]).unwrap().digest());
}
