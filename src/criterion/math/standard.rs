//! Values with their mean subtracted, divided by their unbiased standard deviation plus ε.

use super::elements::count;

/// `z = (x − mean)/(sd + ε)`, in place, with `sd = √(Σ (x − mean)²/(n − 1))`; returns sd. Equal
/// values, and a lone one, are exactly 0, with sd 0.
pub(crate) fn standardize(x: &mut [f64], eps: f64) -> f64 {
    let Some(&origin) = x.first() else { return 0.0 };
    // about the first value, so that equal values lose nothing
    let mean = origin + x.iter().map(|x| x - origin).sum::<f64>() / count(x.len());
    for x in x.iter_mut() {
        *x -= mean;
    }
    let squares: f64 = x.iter().map(|x| x * x).sum();
    let sd = deviation(squares, x.len());
    for x in x {
        *x /= sd + eps;
    }
    sd
}

/// The unbiased standard deviation of `n` values, from the sum of their squared distances from
/// their mean.
pub(crate) fn deviation(squares: f64, n: usize) -> f64 {
    if n > 1 { (squares / count(n - 1)).sqrt() } else { 0.0 }
}

/// The gradient with respect to x, in place, from that with respect to its [`standardize`]d z:
/// `(g − mean g)/(sd + ε) − z Σ g z/((n − 1) sd)`; of equal values only the first part.
pub(crate) fn standardize_gradient(z: &[f64], sd: f64, eps: f64, g: &mut [f64]) {
    let mean = g.iter().sum::<f64>() / count(g.len());
    let along = if sd > 0.0 {
        g.iter().zip(z).map(|(g, z)| g * z).sum::<f64>() / (count(g.len() - 1) * sd)
    } else {
        0.0
    };
    for (g, z) in g.iter_mut().zip(z) {
        *g = (*g - mean) / (sd + eps) - z * along;
    }
}
