//! The Kullback-Leibler divergence of two softmaxes, in log space.

use super::columns::{COLUMNS, Tile};

/// `Σ T² KL(softmax(t/T) ‖ softmax(s/T))` over the columns of a tile, for [`column_mean`]. Finite
/// for finite values of any size: no probability's logarithm is taken. Equal columns give 0.
///
/// [`column_mean`]: super::columns::column_mean
pub(crate) fn divergence(tile: Tile<'_>, temperature: f64) -> f64 {
    let Tile { student, teacher, columns } = tile;
    let mut largest = [[f64::NEG_INFINITY; COLUMNS]; 2];
    for (largest, values) in largest.iter_mut().zip([&*student, &*teacher]) {
        for row in values.chunks_exact(columns) {
            largest.iter_mut().zip(row).for_each(|(largest, &x)| *largest = largest.max(x));
        }
    }
    // with x' = (x − max)/T: KL = Σ_k p_k (t'_k − s'_k) + ln (Σ e^s' / Σ e^t')
    let (mut own, mut other, mut product) = ([0.0; COLUMNS], [0.0; COLUMNS], [0.0; COLUMNS]);
    let rows = student.chunks_exact_mut(columns).zip(teacher.chunks_exact_mut(columns));
    for (s, t) in rows {
        for (j, (s, t)) in s.iter_mut().zip(t).enumerate() {
            let (x, y) = ((*s - largest[0][j]) / temperature, (*t - largest[1][j]) / temperature);
            (*s, *t) = (x.exp(), y.exp());
            own[j] += *s;
            other[j] += *t;
            product[j] += *t * (y - x);
        }
    }
    let mut sum = 0.0;
    for j in 0..columns {
        sum += product[j] / other[j] + (own[j] / other[j]).ln();
        own[j] = temperature / own[j];
        other[j] = temperature / other[j];
    }
    // d(T² KL)/ds = T (q − p)
    for (s, t) in student.chunks_exact_mut(columns).zip(teacher.chunks_exact(columns)) {
        for (j, (s, t)) in s.iter_mut().zip(t).enumerate() {
            *s = *s * own[j] - t * other[j];
        }
    }
    temperature * temperature * sum
}
