//! Strided views: transposition, slicing, broadcasting and reduction are the same loop with
//! different strides.

use super::Float;
use rayon::prelude::*;

/// A view of a slice: element `i` (a multi-index within `shape`) is at `offset + Σ i·strides`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strided {
    /// The size of each axis.
    pub shape: Vec<usize>,
    /// Elements from one index to the next along each axis; 0 repeats, negative runs backwards.
    pub strides: Vec<isize>,
    /// The place of the view's first element.
    pub offset: usize,
}

/// The strides of a dense row-major array.
#[must_use]
pub fn dense_strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].cast_signed();
    }
    strides
}

impl Strided {
    /// A dense array.
    #[must_use]
    pub fn dense(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), strides: dense_strides(shape), offset: 0 }
    }

    /// An array of `from` repeated to the shape `to` by the rules of broadcasting (sizes of 1 and
    /// missing leading axes repeat).
    ///
    /// # Panics
    /// When `from` does not broadcast to `to`.
    #[must_use]
    pub fn broadcast(from: &[usize], to: &[usize]) -> Self {
        assert!(from.len() <= to.len(), "{from:?} broadcasts to {to:?}");
        let lead = to.len() - from.len();
        let dense = dense_strides(from);
        let strides = (0..to.len())
            .map(|i| {
                if i < lead || (from[i - lead] == 1 && to[i] != 1) {
                    0
                } else {
                    assert_eq!(from[i - lead], to[i], "{from:?} broadcasts to {to:?}");
                    dense[i - lead]
                }
            })
            .collect();
        Self { shape: to.to_vec(), strides, offset: 0 }
    }

    /// How many elements the view has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the view has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same view without axes of size 1 and with axes joined where they are dense; at least
    /// one axis.
    fn simplified(&self) -> Self {
        let (mut shape, mut strides): (Vec<usize>, Vec<isize>) = (Vec::new(), Vec::new());
        for (&n, &s) in self.shape.iter().zip(&self.strides) {
            if n == 1 {
                continue;
            }
            match (shape.last_mut(), strides.last_mut()) {
                (Some(last), Some(stride)) if *stride == s * n.cast_signed() => {
                    *last *= n;
                    *stride = s;
                }
                _ => {
                    shape.push(n);
                    strides.push(s);
                }
            }
        }
        if shape.is_empty() {
            shape.push(1);
            strides.push(1);
        }
        Self { shape, strides, offset: self.offset }
    }

    /// Calls `f(first, stride)` with the place of the first element of each row of the last axis,
    /// rows `range` in row-major order.
    fn rows(&self, range: std::ops::Range<usize>, mut f: impl FnMut(usize, isize)) {
        let outer = self.shape.len() - 1;
        let stride = self.strides[outer];
        let mut index = vec![0usize; outer];
        let mut rest = range.start;
        let mut place = self.offset.cast_signed();
        for axis in (0..outer).rev() {
            index[axis] = rest % self.shape[axis];
            rest /= self.shape[axis];
            place += index[axis].cast_signed() * self.strides[axis];
        }
        for _ in range {
            f(place.cast_unsigned(), stride);
            for axis in (0..outer).rev() {
                index[axis] += 1;
                place += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                place -= self.strides[axis] * self.shape[axis].cast_signed();
                index[axis] = 0;
            }
        }
    }
}

fn at(first: usize, stride: isize, i: usize) -> usize {
    (first.cast_signed() + stride * i.cast_signed()).cast_unsigned()
}

/// Elements per task.
const CHUNK: usize = 1 << 15;

/// The view's elements as a dense array.
#[must_use]
pub fn gather<T: Float>(data: &[T], view: &Strided) -> Vec<T> {
    let mut out = vec![T::zero(); view.len()];
    if out.is_empty() {
        return out;
    }
    let view = view.simplified();
    let width = view.shape[view.shape.len() - 1];
    let rows = (CHUNK / width).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, out)| {
        let first_row = chunk * rows;
        let mut out = out.chunks_exact_mut(width);
        view.rows(first_row..first_row + out.len(), |first, stride| {
            let Some(out) = out.next() else { return };
            match stride {
                1 => out.copy_from_slice(&data[first..first + width]),
                0 => out.fill(data[first]),
                _ => {
                    for (i, o) in out.iter_mut().enumerate() {
                        *o = data[at(first, stride, i)];
                    }
                }
            }
        });
    });
    out
}

/// Writes dense `values` to the places of the view.
pub fn scatter<T: Float>(values: &[T], view: &Strided, out: &mut [T]) {
    if values.is_empty() {
        return;
    }
    let view = view.simplified();
    let width = view.shape[view.shape.len() - 1];
    let mut values = values.chunks_exact(width);
    view.rows(0..values.len(), |first, stride| {
        let Some(values) = values.next() else { return };
        if stride == 1 {
            out[first..first + width].copy_from_slice(values);
        } else {
            for (i, &v) in values.iter().enumerate() {
                out[at(first, stride, i)] = v;
            }
        }
    });
}

/// Sums a dense array over the axes that `to` broadcasts along (the adjoint of broadcasting `to` to
/// `from`), in double precision.
#[must_use]
pub fn reduce_sum<T: Float>(data: &[T], from: &[usize], to: &[usize]) -> Vec<T> {
    let size: usize = to.iter().product();
    if data.is_empty() || size == 0 {
        return vec![T::zero(); size];
    }
    let view = Strided::broadcast(to, from).simplified();
    let width = view.shape[view.shape.len() - 1];
    if view.shape.len() == 1 && view.strides[0] == 1 && size == data.len() {
        return data.to_vec();
    }
    if view.shape.len() == 2 && view.strides[1] == 0 && view.strides[0] == 1 {
        return data.par_chunks(width).map(|row| T::of(super::elementwise::sum(row))).collect();
    }
    let mut out = vec![0f64; size];
    let mut rows = data.chunks_exact(width);
    view.rows(0..rows.len(), |first, stride| {
        let Some(row) = rows.next() else { return };
        match stride {
            0 => out[first] += super::elementwise::sum(row),
            1 => out[first..first + width].iter_mut().zip(row).for_each(|(o, r)| *o += r.wide()),
            _ => row.iter().enumerate().for_each(|(i, r)| out[at(first, stride, i)] += r.wide()),
        }
    });
    out.into_iter().map(T::of).collect()
}

/// Folds a dense array by `f` over the axes that `to` broadcasts along, in row-major order from
/// `init` on.
#[must_use]
pub fn reduce_fold<T: Float>(
    data: &[T],
    from: &[usize],
    to: &[usize],
    init: T,
    f: impl Fn(T, T) -> T,
) -> Vec<T> {
    let mut out = vec![init; to.iter().product()];
    if data.is_empty() || out.is_empty() {
        return out;
    }
    let view = Strided::broadcast(to, from).simplified();
    let width = view.shape[view.shape.len() - 1];
    let mut rows = data.chunks_exact(width);
    view.rows(0..rows.len(), |first, stride| {
        let Some(row) = rows.next() else { return };
        for (i, &r) in row.iter().enumerate() {
            let o = &mut out[at(first, stride, i)];
            *o = f(*o, r);
        }
    });
    out
}

/// `f(a, b)` with both repeated to `shape` by broadcasting.
///
/// # Shapes
/// `a`: `a_shape`, `b`: `b_shape`, both broadcast to `shape`; result: `shape`.
pub fn broadcast_zip<T: Float>(
    (a, a_shape): (&[T], &[usize]),
    (b, b_shape): (&[T], &[usize]),
    shape: &[usize],
    f: impl Fn(T, T) -> T + Sync,
) -> Vec<T> {
    if a_shape == b_shape {
        return super::elementwise::zip(a, b, f);
    }
    if b.len() == 1 && a_shape == shape {
        return super::elementwise::map(a, |x| f(x, b[0]));
    }
    if a.len() == 1 && b_shape == shape {
        return super::elementwise::map(b, |y| f(a[0], y));
    }
    // one loop for both: axes are joined only where both allow it, which keeps the rows of the
    // common shape aligned
    let (va, vb) = (Strided::broadcast(a_shape, shape), Strided::broadcast(b_shape, shape));
    let mut out = vec![T::zero(); va.len()];
    if out.is_empty() {
        return out;
    }
    let (va, vb) = join(&va, &vb);
    let width = va.shape[va.shape.len() - 1];
    let rows = (CHUNK / width).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, out)| {
        let count = out.len() / width;
        let range = chunk * rows..chunk * rows + count;
        let mut places = Vec::with_capacity(count);
        va.rows(range.clone(), |first, stride| places.push((first, stride)));
        let mut lines = places.into_iter().zip(out.chunks_exact_mut(width));
        vb.rows(range, |first_b, stride_b| {
            let Some(((first_a, stride_a), out)) = lines.next() else { return };
            for (i, o) in out.iter_mut().enumerate() {
                *o = f(a[at(first_a, stride_a, i)], b[at(first_b, stride_b, i)]);
            }
        });
    });
    out
}

/// Joins axes of two views of one shape where both are dense.
fn join(a: &Strided, b: &Strided) -> (Strided, Strided) {
    let (mut shape, mut sa, mut sb): (Vec<usize>, Vec<isize>, Vec<isize>) =
        (Vec::new(), Vec::new(), Vec::new());
    for ((&n, &x), &y) in a.shape.iter().zip(&a.strides).zip(&b.strides) {
        if n == 1 {
            continue;
        }
        let signed = n.cast_signed();
        match (shape.last_mut(), sa.last_mut(), sb.last_mut()) {
            (Some(last), Some(last_a), Some(last_b))
                if *last_a == x * signed && *last_b == y * signed =>
            {
                *last *= n;
                (*last_a, *last_b) = (x, y);
            }
            _ => {
                shape.push(n);
                sa.push(x);
                sb.push(y);
            }
        }
    }
    if shape.is_empty() {
        shape.push(1);
        sa.push(0);
        sb.push(0);
    }
    (
        Strided { shape: shape.clone(), strides: sa, offset: a.offset },
        Strided { shape, strides: sb, offset: b.offset },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_walks_backwards_and_transposed() {
        let data: Vec<f64> = (0..12).map(f64::from).collect();
        let transposed = Strided { shape: vec![4, 3], strides: vec![1, 4], offset: 0 };
        assert_eq!(gather(&data, &transposed)[..6], [0., 4., 8., 1., 5., 9.]);
        let reversed = Strided { shape: vec![2, 4], strides: vec![4, -1], offset: 7 };
        assert_eq!(gather(&data, &reversed), [7., 6., 5., 4., 11., 10., 9., 8.]);
        let mut back = vec![0.0; 12];
        scatter(&gather(&data, &transposed), &transposed, &mut back);
        assert_eq!(back, data);
    }

    #[test]
    fn broadcasting_and_its_adjoint() {
        let a: Vec<f64> = (0..6).map(f64::from).collect();
        let b = [10.0, 20.0];
        assert_eq!(
            broadcast_zip((&a, &[3, 2]), (&b, &[2]), &[3, 2], |x, y| x + y),
            [10., 21., 12., 23., 14., 25.]
        );
        assert_eq!(
            broadcast_zip((&b, &[2, 1, 1]), (&a, &[1, 3, 2]), &[2, 3, 2], |x, y| x - y)[5..7],
            [5., 20.]
        );
        assert_eq!(reduce_sum(&a, &[3, 2], &[2]), [6., 9.]);
        assert_eq!(reduce_sum(&a, &[3, 2], &[3, 1]), [1., 5., 9.]);
        assert_eq!(reduce_sum(&a, &[3, 2], &[1, 1]), [15.]);
        assert_eq!(reduce_sum(&a, &[1, 3, 2], &[3, 2]), a);
        assert_eq!(reduce_sum(&a, &[1, 3, 2], &[1, 3, 1]), [1., 5., 9.]);
        assert_eq!(reduce_fold(&a, &[3, 2], &[1, 2], f64::NEG_INFINITY, f64::max), [4., 5.]);
        assert_eq!(reduce_fold(&a, &[3, 2], &[3, 1], f64::INFINITY, f64::min), [0., 2., 4.]);
    }
}
