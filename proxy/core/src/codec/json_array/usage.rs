//! Shares a counter out in proportion to weights.

/// Shares of `total`, by largest remainder: they sum to `total`, and none is off its exact
/// proportion by one or more.
pub(super) fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let exact = |&weight: &u64| u128::from(total) * u128::from(weight);
    let mut shares: Vec<u64> = weights
        .iter()
        .map(|weight| u64::try_from(exact(weight) / sum).unwrap_or(u64::MAX))
        .collect();
    let left = total.saturating_sub(shares.iter().sum());
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(exact(&weights[n]) % sum));
    for (&n, _) in order.iter().zip(0..left) {
        shares[n] += 1;
    }
    shares
}
