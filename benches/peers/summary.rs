//! Medians and tenths of what was measured.

/// Times in milliseconds.
#[derive(Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
}

/// Median and tenths of at least one time.
pub fn summary(mut times: Vec<f64>) -> Summary {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        times
            .get((percent * times.len() / 100).min(times.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    };
    Summary { median: median(&times), p10: at(10), p90: at(90) }
}

/// The middle value, or the mean of the two; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}
