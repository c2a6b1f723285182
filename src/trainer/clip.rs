//! The global norm of a gradient.

use crate::error::Result;
use crate::kernel::Float;
use crate::tensor::{data, typed};
use candle_core::{DType, Tensor};

/// √(Σ g²) over all gradients, in f64, summed in order: the same bits for any number of
/// threads. Gradients on a device are squared and summed there.
///
/// # Errors
/// When a gradient is neither f32 nor f64.
pub fn global_norm(gradients: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0.0;
    let (host, device): (Vec<&Tensor>, Vec<&Tensor>) =
        gradients.iter().flatten().partition(|g| g.device().is_cpu());
    if !device.is_empty() {
        sum += squares(&device)?;
    }
    for gradient in host {
        let gradient = gradient.contiguous()?;
        let held = data(&gradient)?;
        sum += typed!(gradient.dtype(), |T| Ok(sum_of_squares(held.of::<T>()?)))?;
    }
    Ok(sum.sqrt())
}

/// Σ g² by tensor operations, so that only one number is copied to the host.
fn squares(gradients: &[&Tensor]) -> Result<f64> {
    let sums = gradients
        .iter()
        .map(|g| Ok(g.sqr()?.sum_all()?.to_dtype(DType::F64)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&sums, 0)?.sum_all()?.to_scalar()?)
}

/// The factor that scales a gradient of norm `norm` down to at most `limit`.
#[must_use]
pub fn factor(norm: f64, limit: Option<f64>) -> f64 {
    match limit {
        Some(limit) if norm > limit => limit / norm,
        _ => 1.0,
    }
}

fn sum_of_squares<T: Float>(values: &[T]) -> f64 {
    // eight parallel sums vectorize; a single sum would wait for each addition
    let mut sums = [0.0; 8];
    for chunk in values.chunks(8) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            let value = value.wide();
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
        assert!((squares(&[&a, &b]).unwrap() - 169.0).abs() < 1e-12);
        let norm = global_norm(&[Some(a), None, Some(b)]).unwrap();
        assert!((norm - 13.0).abs() < 1e-12);
        assert!((factor(norm, Some(6.5)) - 0.5).abs() < 1e-12);
        assert!((factor(norm, Some(13.5)) - 1.0).abs() < 1e-12);
        assert!((factor(norm, None) - 1.0).abs() < 1e-12);
    }
}
