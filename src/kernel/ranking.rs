//! The largest or smallest elements along an axis.

use super::Float;
use rayon::prelude::*;
use std::cmp::Ordering;

/// The places of the `count` largest elements along the middle axis, or of the smallest, in
/// order. Of equal elements the one at the lower index comes first; NaN is larger than any number.
///
/// # Shapes
/// `x`: `[outer, size, inner]`; result: `[outer, count, inner]`.
///
/// # Panics
/// When `count` is larger than `size`.
#[must_use]
pub fn top<T: Float>(
    x: &[T],
    size: usize,
    inner: usize,
    count: usize,
    largest: bool,
) -> Vec<usize> {
    let block = (size * inner).max(1);
    let mut places = vec![0; x.len() / block * count * inner];
    places.par_chunks_mut((count * inner).max(1)).zip(x.par_chunks(block)).for_each(
        |(places, x)| {
            let mut order = Vec::with_capacity(size);
            for lane in 0..inner {
                let compare = |&a: &usize, &b: &usize| {
                    let (x, y) = (x[a * inner + lane], x[b * inner + lane]);
                    let up = ascending(x, y);
                    (if largest { up.reverse() } else { up }).then(a.cmp(&b))
                };
                order.clear();
                order.extend(0..size);
                if count < size {
                    order.select_nth_unstable_by(count, compare);
                }
                order[..count].sort_unstable_by(compare);
                for (place, &from) in places[lane..].iter_mut().step_by(inner).zip(&order[..count])
                {
                    *place = from;
                }
            }
        },
    );
    places
}

fn ascending<T: Float>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_elements_keep_their_order_and_nan_is_the_largest() {
        let x = [1.0, 3.0, 3.0, f64::NAN, 1.0, -0.0, 0.0];
        assert_eq!(top(&x, 7, 1, 4, true), [3, 1, 2, 0]);
        assert_eq!(top(&x, 7, 1, 7, false), [5, 6, 0, 4, 1, 2, 3]);
        assert!(top(&x, 7, 1, 0, true).is_empty());
        // lanes that are not contiguous
        assert_eq!(top(&[1.0, 5.0, 2.0, 4.0], 2, 2, 1, true), [1, 0]);
    }
}
