//! Adaptive average pooling, which brings maps of two sizes together.

use crate::array::{Array, Values};
use crate::error::{Error, Result};

/// Adaptive average pooling: output bin o of n over L inputs averages the inputs floor(o·L/n) … ceil((o+1)·L/n)−1, so bins may overlap
/// (`PyTorch`'s `adaptive_avg_pool2d`). Sums in f64.
///
/// # Shapes
/// `maps`: `[N, C, H, W]` f32. Result: `[N, C, size[0], size[1]]` f32.
///
/// # Errors
/// When the array is not four-dimensional f32, or a size is 0 or larger than the map.
pub fn adaptive_average_pool(maps: &Array, size: [usize; 2]) -> Result<Array> {
    let (&[n, c, h, w], Some(values)) = (maps.shape(), maps.as_f32()) else {
        return Err(Error::input(format!("pooling: expected f32 maps [N, C, H, W], found {} {:?}", maps.dtype().name(), maps.shape())));
    };
    let [rows, columns] = size;
    if rows == 0 || columns == 0 || rows > h || columns > w {
        return Err(Error::input(format!("pooling: expected a size of 1x1 to {h}x{w}, found {rows}x{columns}")));
    }
    let (row_bins, column_bins) = (bins(h, rows), bins(w, columns));
    let mut pooled = Vec::with_capacity(n * c * rows * columns);
    for map in values.chunks_exact(h * w) {
        for &(top, bottom) in &row_bins {
            for &(left, right) in &column_bins {
                let lines = map.chunks_exact(w).take(bottom).skip(top);
                let sum: f64 = lines.flat_map(|line| &line[left..right]).map(|&value| f64::from(value)).sum();
                let count = (bottom - top) * (right - left);
                #[allow(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    reason = "pixel counts are small; the mean is stored as f32"
                )]
                pooled.push((sum / count as f64) as f32);
            }
        }
    }
    Array::new(vec![n, c, rows, columns], Values::F32(pooled))
}

/// First and end input of each of `outputs` bins over `inputs`.
fn bins(inputs: usize, outputs: usize) -> Vec<(usize, usize)> {
    (0..outputs).map(|o| (o * inputs / outputs, ((o + 1) * inputs).div_ceil(outputs))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(shape: [usize; 4], size: [usize; 2]) -> Vec<f32> {
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        let pooled = adaptive_average_pool(&Array::new(shape.into(), Values::F32(values)).unwrap(), size).unwrap();
        assert_eq!(pooled.shape(), [shape[0], shape[1], size[0], size[1]]);
        pooled.as_f32().unwrap().to_vec()
    }

    #[test]
    fn bins_divide_overlap_and_keep() {
        // [2, 1, 4, 4] → 2×2: means of quarters
        assert_eq!(pool([2, 1, 4, 4], [2, 2]), [2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]);
        // 3 → 2: bins 0..2 and 1..3; 5 → 3: 0..2, 1..4, 3..5 (torch.nn.functional.adaptive_avg_pool2d gives the same)
        assert_eq!(pool([1, 1, 3, 5], [2, 3]), [3.0, 4.5, 6.0, 8.0, 9.5, 11.0]);
        assert_eq!(pool([1, 2, 2, 3], [2, 3]), (0u8..12).map(f32::from).collect::<Vec<_>>());
        assert_eq!(pool([1, 2, 2, 3], [1, 1]), [2.5, 8.5]);
    }

    #[test]
    fn sums_do_not_lose_small_values() {
        let mut values = vec![1.0f32; 1 << 12];
        values[0] = 1e9;
        let maps = Array::new(vec![1, 1, 64, 64], Values::F32(values)).unwrap();
        #[allow(clippy::cast_possible_truncation, reason = "the nearest f32 is expected")]
        let expected = ((1e9 + 4095.0) / 4096.0) as f32;
        assert_eq!(adaptive_average_pool(&maps, [1, 1]).unwrap().as_f32(), Some([expected].as_slice()));
    }

    #[test]
    fn other_arrays_and_sizes_are_refused() {
        let maps = Array::new(vec![1, 1, 2, 2], Values::F32(vec![0.0; 4])).unwrap();
        for size in [[0, 1], [1, 0], [3, 1], [1, 3]] {
            assert!(adaptive_average_pool(&maps, size).is_err());
        }
        assert!(adaptive_average_pool(&Array::new(vec![2, 2], Values::F32(vec![0.0; 4])).unwrap(), [1, 1]).is_err());
        assert!(adaptive_average_pool(&Array::new(vec![1, 1, 2, 2], Values::I32(vec![0; 4])).unwrap(), [1, 1]).is_err());
    }
}
