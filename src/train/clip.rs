//! The global norm of a gradient.

use super::optimizer::with_slice;
use crate::error::Result;
use candle_core::Tensor;

/// √(Σ g²) over all gradients, in f64, summed in their order: the same bits whatever the number of threads.
///
/// # Errors
/// When a gradient is neither f32 nor f64, or not on the CPU.
pub fn global_norm(gradients: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0.0;
    for gradient in gradients.iter().flatten() {
        sum += with_slice(gradient, |values| sum_of_squares(values, |v| f64::from(*v)), |values| sum_of_squares(values, |v| *v))?;
    }
    Ok(sum.sqrt())
}

/// The factor that brings a gradient of norm `norm` to at most `limit`.
#[must_use]
pub fn factor(norm: f64, limit: Option<f64>) -> f64 {
    match limit {
        Some(limit) if norm > limit => limit / norm,
        _ => 1.0,
    }
}

fn sum_of_squares<T>(values: &[T], wide: impl Fn(&T) -> f64) -> f64 {
    // eight sums side by side vectorise; one after the other would wait for each addition
    let mut sums = [0.0; 8];
    for chunk in values.chunks(8) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            let value = wide(value);
            *sum += value * value;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_norm_spans_all_gradients() {
        let a = Tensor::new(&[3.0f32, 0.0], &Device::Cpu).unwrap();
        let b = Tensor::new(&[[4.0f64], [12.0]], &Device::Cpu).unwrap();
        let norm = global_norm(&[Some(a), None, Some(b)]).unwrap();
        assert!((norm - 13.0).abs() < 1e-12);
        assert!((factor(norm, Some(6.5)) - 0.5).abs() < 1e-12);
        assert!((factor(norm, Some(13.5)) - 1.0).abs() < 1e-12);
        assert!((factor(norm, None) - 1.0).abs() < 1e-12);
    }
}
