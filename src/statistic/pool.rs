//! Adaptive average pooling, which makes maps of two sizes comparable.

use crate::array::{Array, Layout, Values};
use crate::error::{Error, Result};

/// Adaptive average pooling: output bin o of n over L inputs averages the inputs floor(o·L/n) to
/// ceil((o+1)·L/n)−1, so bins may overlap (`PyTorch`'s `adaptive_avg_pool2d`). Sums are in f64.
///
/// # Shapes
/// `maps` is `[N, C, H, W]` or `[N, H, W, C]` f32, by `layout`. The result has the same axes, with
/// `size` for H and W.
///
/// # Errors
/// If the array is not four-dimensional f32, or a size is 0 or larger than the map.
pub fn adaptive_average_pool(maps: &Array, layout: Layout, size: [usize; 2]) -> Result<Array> {
    let (&[n, a, b, c], Some(values)) = (maps.shape(), maps.as_f32()) else {
        return Err(Error::input(format!(
            "pooling: expected f32 maps of 4 axes, found {} {:?}",
            maps.dtype().name(),
            maps.shape()
        )));
    };
    let [rows, columns] = size;
    // channels on the last axis are pooled together, others are maps of their own
    let (height, width, together, shape) = match layout {
        Layout::Nchw => (b, c, 1, vec![n, a, rows, columns]),
        Layout::Nhwc => (a, b, c, vec![n, rows, columns, c]),
    };
    if rows == 0 || columns == 0 || rows > height || columns > width {
        return Err(Error::input(format!(
            "pooling: expected a size of 1x1 to {height}x{width}, found {rows}x{columns}"
        )));
    }
    let (row_bins, column_bins) = (bins(height, rows), bins(width, columns));
    let mut pooled = Vec::with_capacity(shape.iter().product());
    let mut sums = vec![0.0; together];
    for map in values.chunks_exact((height * width * together).max(1)) {
        for &(top, bottom) in &row_bins {
            for &(left, right) in &column_bins {
                sums.fill(0.0);
                for line in map.chunks_exact(width * together).take(bottom).skip(top) {
                    for pixel in line[left * together..right * together].chunks_exact(together) {
                        sums.iter_mut()
                            .zip(pixel)
                            .for_each(|(sum, &value)| *sum += f64::from(value));
                    }
                }
                let count = (bottom - top) * (right - left);
                #[allow(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "pixel counts are small; the mean is stored as f32"
                )]
                pooled.extend(sums.iter().map(|sum| (sum / count as f64) as f32));
            }
        }
    }
    Array::new(shape, Values::F32(pooled))
}

/// Pools one plane in f64: appends the averages to `out`.
pub(super) fn average(
    plane: &[f64],
    [height, width]: [usize; 2],
    [rows, columns]: [usize; 2],
    out: &mut Vec<f64>,
) {
    for (top, bottom) in bins(height, rows) {
        for (left, right) in bins(width, columns) {
            let lines = plane.chunks_exact(width).take(bottom).skip(top);
            let sum = lines.flat_map(|line| &line[left..right]).sum::<f64>();
            out.push(sum / super::count((bottom - top) * (right - left)));
        }
    }
}

/// The weight of every position in a map of size `from` in every position of the map pooled to
/// `to`.
///
/// # Shapes
/// `[from[0] · from[1], to[0] · to[1]]`.
#[must_use]
pub fn pooling_weights(from: [usize; 2], to: [usize; 2]) -> Vec<f64> {
    let columns = to[0] * to[1];
    let mut weights = vec![0.0; from[0] * from[1] * columns];
    for (row, (top, bottom)) in bins(from[0], to[0]).into_iter().enumerate() {
        for (column, (left, right)) in bins(from[1], to[1]).into_iter().enumerate() {
            let share = 1.0 / super::count((bottom - top) * (right - left));
            for (y, x) in (top..bottom).flat_map(|y| (left..right).map(move |x| (y, x))) {
                weights[(y * from[1] + x) * columns + row * to[1] + column] = share;
            }
        }
    }
    weights
}

/// First input and end of each of `outputs` bins over `inputs`.
fn bins(inputs: usize, outputs: usize) -> Vec<(usize, usize)> {
    (0..outputs).map(|o| (o * inputs / outputs, ((o + 1) * inputs).div_ceil(outputs))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(shape: [usize; 4], size: [usize; 2]) -> Vec<f32> {
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        let pooled = adaptive_average_pool(
            &Array::new(shape.into(), Values::F32(values)).unwrap(),
            Layout::Nchw,
            size,
        )
        .unwrap();
        assert_eq!(pooled.shape(), [shape[0], shape[1], size[0], size[1]]);
        pooled.as_f32().unwrap().to_vec()
    }

    #[test]
    fn bins_divide_overlap_and_keep() {
        // [2, 1, 4, 4] → 2×2: means of quarters
        assert_eq!(pool([2, 1, 4, 4], [2, 2]), [2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]);
        // 3 → 2: bins 0..2 and 1..3; 5 → 3: 0..2, 1..4, 3..5
        // (torch.nn.functional.adaptive_avg_pool2d gives the same)
        assert_eq!(pool([1, 1, 3, 5], [2, 3]), [3.0, 4.5, 6.0, 8.0, 9.5, 11.0]);
        assert_eq!(pool([1, 2, 2, 3], [2, 3]), (0u8..12).map(f32::from).collect::<Vec<_>>());
        assert_eq!(pool([1, 2, 2, 3], [1, 1]), [2.5, 8.5]);
    }

    #[test]
    fn channels_last_are_pooled_as_channels_first_are() {
        let [n, c, h, w] = [2, 3, 5, 4];
        let first = Array::new(
            vec![n, c, h, w],
            Values::F32((0u16..120).map(|i| f32::from(i * 37 % 101)).collect()),
        )
        .unwrap();
        let last = |values: &[f32], h, w| -> Vec<f32> {
            (0..n * h * w * c)
                .map(|i| values[((i / (h * w * c) * c + i % c) * h * w) + i / c % (h * w)])
                .collect()
        };
        let moved =
            Array::new(vec![n, h, w, c], Values::F32(last(first.as_f32().unwrap(), h, w))).unwrap();
        let expected = adaptive_average_pool(&first, Layout::Nchw, [3, 2]).unwrap();
        let found = adaptive_average_pool(&moved, Layout::Nhwc, [3, 2]).unwrap();
        assert_eq!(found.shape(), [n, 3, 2, c]);
        assert_eq!(found.as_f32().unwrap(), last(expected.as_f32().unwrap(), 3, 2));
    }

    #[test]
    fn sums_do_not_lose_small_values() {
        let mut values = vec![1.0f32; 1 << 12];
        values[0] = 1e9;
        let maps = Array::new(vec![1, 1, 64, 64], Values::F32(values)).unwrap();
        #[allow(clippy::cast_possible_truncation, reason = "the nearest f32 is expected")]
        let expected = ((1e9 + 4095.0) / 4096.0) as f32;
        assert_eq!(
            adaptive_average_pool(&maps, Layout::Nchw, [1, 1]).unwrap().as_f32(),
            Some([expected].as_slice())
        );
    }

    #[test]
    fn other_arrays_and_sizes_are_refused() {
        let maps = Array::new(vec![1, 1, 2, 2], Values::F32(vec![0.0; 4])).unwrap();
        for size in [[0, 1], [1, 0], [3, 1], [1, 3]] {
            assert!(adaptive_average_pool(&maps, Layout::Nchw, size).is_err());
        }
        assert!(
            adaptive_average_pool(
                &Array::new(vec![2, 2], Values::F32(vec![0.0; 4])).unwrap(),
                Layout::Nchw,
                [1, 1]
            )
            .is_err()
        );
        assert!(
            adaptive_average_pool(
                &Array::new(vec![1, 1, 2, 2], Values::I32(vec![0; 4])).unwrap(),
                Layout::Nchw,
                [1, 1]
            )
            .is_err()
        );
    }
}
