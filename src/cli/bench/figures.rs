//! What every measurement reports.

/// Times in milliseconds.
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) p10: f64,
    pub(super) p90: f64,
}

/// Median and tenths of at least one time.
pub(super) fn summary(mut times: Vec<f64>) -> Summary {
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
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The process's largest resident memory so far, in MB; `None` where the system does not say.
pub(super) fn peak_rss_mb() -> Option<f64> {
    status_mb("VmHWM:")
}

/// The process's resident memory now, in MB; `None` where the system does not say.
pub(super) fn rss_mb() -> Option<f64> {
    status_mb("VmRSS:")
}

fn status_mb(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_by_hand() {
        let Summary { median, p10, p90 } = summary((1..=10).rev().map(f64::from).collect());
        assert_eq!(
            (median, p10, p90).partial_cmp(&(5.5, 2.0, 10.0)),
            Some(std::cmp::Ordering::Equal)
        );
        assert!((summary(vec![3.0, 1.0, 2.0]).median - 2.0).abs() < 1e-12);
        assert!((summary(vec![7.0]).median - 7.0).abs() < 1e-12);
    }
}
