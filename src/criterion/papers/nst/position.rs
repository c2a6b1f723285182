//! The polynomial kernel of degree 2 by positions: with unit maps as rows of S and T,
//! `L_b = ‖SᵀS/n_s − TᵀT/n_t‖² + 2c ‖m_s − m_t‖²`. The difference is taken before
//! the square, so the loss keeps its precision as it approaches 0.

use super::scratch::{STUDENT, SamplePair};
use super::{count, linear};
use crate::kernel::{Matrix, mirror_lower, serial_gemm, serial_gram};
use crate::statistic::unpack;
use crate::tensor::Element;

/// What is known of a teacher's sample besides the unit maps of the pair.
pub(super) struct Teacher<'a, T> {
    /// The packed lower triangle of `TᵀT/n_t`; `None` to compute it from the pair's maps.
    pub(super) gram: Option<&'a [T]>,
    /// The mean unit map; not read if the constant is 0.
    pub(super) mean: &'a [f64],
}

/// One sample's loss; `scale` times its gradient is written to `pair.gradient`.
pub(super) fn sample<T: Element>(
    pair: &mut SamplePair<'_, T>,
    of_teacher: &Teacher<'_, T>,
    constant: f64,
    teacher_term: bool,
    scale: f64,
) -> f64 {
    let positions = pair.positions;
    let [m, n] = pair.channels;
    let (student, teacher) = pair.unit.split_at(m * positions);
    let products = &mut *pair.products;
    products.resize(positions * positions, T::zero());
    // sum over the whole matrix from its lower triangle
    let squared = |lower: &[T]| {
        let rows = lower.chunks_exact(positions).enumerate();
        rows.map(|(i, row)| {
            let diagonal = row[i].wide();
            2.0 * row[..i].iter().map(|v| v.wide() * v.wide()).sum::<f64>() + diagonal * diagonal
        })
        .sum::<f64>()
    };
    match of_teacher.gram {
        Some(packed) => unpack(packed, positions, -T::one(), products),
        None => serial_gram(
            positions,
            n,
            T::of(-1.0 / count(n)),
            Matrix::transposed(teacher, 0),
            T::zero(),
            products,
        ),
    }
    let dropped = if teacher_term { 0.0 } else { squared(products) };
    serial_gram(
        positions,
        m,
        T::of(1.0 / count(m)),
        Matrix::transposed(student, 0),
        T::one(),
        products,
    );
    let mut value = squared(products) - dropped;
    mirror_lower(positions, products);
    let factor = T::of(4.0 * scale / count(m));
    serial_gemm(
        [m, positions, positions],
        factor,
        Matrix::plain(student, 0),
        Matrix::plain(products, 0),
        T::zero(),
        pair.gradient,
    );
    if constant != 0.0 {
        let (mean_s, mean_t) = (pair.mean(STUDENT), of_teacher.mean);
        // (p + c)² adds 2c p, a linear kernel, and c², which cancels except for a teacher's term
        // that is left out
        value += 2.0 * constant * linear::distance(&mean_s, mean_t, teacher_term);
        value -= if teacher_term { 0.0 } else { constant * constant };
        let slope: Vec<T> = linear::slope(&mean_s, mean_t, 4.0 * constant * scale / count(m));
        for gradient in pair.gradient.chunks_exact_mut(positions) {
            for (g, &s) in gradient.iter_mut().zip(&slope) {
                *g += s;
            }
        }
    }
    value
}
