//! Order statistics: no distribution is assumed.

/// The `p`-quantile (0 to 1) of the samples, by the nearest rank.
pub(super) fn quantile(samples: &[f64], p: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank of a small sample"
    )]
    let rank = ((sorted.len() as f64 * p).ceil() as usize).clamp(1, sorted.len());
    sorted[rank - 1]
}

/// The median and its 95 % bounds, by the binomial ranks n/2 ∓ 0.98·√n.
pub(super) fn median_with_bounds(samples: &[f64]) -> (f64, f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a small sample")]
    let n = samples.len() as f64;
    let spread = 0.98 / n.sqrt();
    (quantile(samples, 0.5), quantile(samples, (0.5 - spread).max(0.0)), quantile(samples, (0.5 + spread).min(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.99), 99.0);
        assert_eq!(median_with_bounds(&samples), (50.0, 41.0, 60.0));
    }
}
