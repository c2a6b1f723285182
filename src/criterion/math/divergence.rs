//! The Kullback-Leibler divergence of two softmaxes, in log space.

/// `T² KL(softmax(t/T) ‖ softmax(s/T))`; its gradient takes the place of s, the terms of a sum that
/// of t. Finite for finite values of any size: no probability's logarithm is taken. Equal values
/// give 0.
pub(crate) fn divergence(student: &mut [f64], teacher: &mut [f64], temperature: f64) -> f64 {
    let largest = |x: &[f64]| x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (largest_s, largest_t) = (largest(student), largest(teacher));
    // with x' = (x − max)/T: KL = Σ_k p_k (t'_k − s'_k) + ln (Σ e^s' / Σ e^t')
    let (mut own, mut other, mut product) = (0.0, 0.0, 0.0);
    for (s, t) in student.iter_mut().zip(teacher.iter_mut()) {
        let (x, y) = ((*s - largest_s) / temperature, (*t - largest_t) / temperature);
        (*s, *t) = (x.exp(), y.exp());
        own += *s;
        other += *t;
        product += *t * (y - x);
    }
    // d(T² KL)/ds = T (q − p)
    let (q, p) = (temperature / own, temperature / other);
    for (s, t) in student.iter_mut().zip(teacher.iter()) {
        *s = *s * q - t * p;
    }
    temperature * temperature * (product / other + (own / other).ln())
}
