//! How the values of one of the teacher's tensors become stored bytes.

use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::tap::Role;
use crate::recipe::Layout;
use crate::statistic::{F16_MAX, adaptive_average_pool, finite_range, to_f16};

/// One tensor of the teacher and its array in the cache.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    /// The ONNX tensor.
    pub(super) tensor: String,
    /// Its name in the cache; empty for the logits.
    pub(super) alias: String,
    pub(super) role: Role,
    pub(super) stage: Option<usize>,
    /// The axis order of a map.
    pub(super) layout: Layout,
    /// Height and width of the image that tokens cover: what stands before those is dropped, the rest is stored as a map.
    pub(super) grid: Option<[usize; 2]>,
    /// Size to which maps are pooled before they are stored.
    pub(super) pool: Option<[usize; 2]>,
    /// Shape of one stored row.
    pub(super) shape: Vec<usize>,
    /// Name of each axis of a row.
    pub(super) axes: Vec<String>,
    /// Whether it is the logits' own array.
    pub(super) is_logits: bool,
}

impl Output {
    /// The path of its array.
    pub(super) fn path(&self) -> String {
        if self.is_logits { "logits".to_owned() } else { format!("taps/{}/features", self.alias) }
    }

    /// How messages call it.
    fn name(&self) -> String {
        if self.is_logits { format!("logits (tensor `{}`)", self.tensor) } else { format!("tap {} (tensor `{}`)", self.alias, self.tensor) }
    }

    /// The stored bytes of the first `rows` rows of a batch of values; `sample_name` names a row.
    ///
    /// # Errors
    /// When the values have another shape than the probe found, are not finite, or are beyond f16 where that is stored.
    pub(super) fn encode(&self, values: Array, dtype: Dtype, rows: usize, sample_name: impl Fn(usize) -> String) -> Result<Vec<u8>> {
        let values = self.first_rows(values, rows)?;
        let floats = values.as_f32().unwrap_or_default();
        let row_len = self.shape.iter().product::<usize>().max(1);
        let place = |index: usize| format!("{}: sample {}", self.name(), sample_name(index / row_len));
        let largest = finite_range(floats).map_err(|index| {
            let value = floats.get(index).copied().unwrap_or(f32::NAN);
            Error::input(format!("{}: expected finite values, found {value}", place(index)))
                .hint("check the preprocessing, or tap another tensor")
        })?;
        match dtype {
            Dtype::F16 if largest > F16_MAX => {
                let index = floats.iter().position(|v| v.abs() > F16_MAX).unwrap_or_default();
                Err(Error::input(format!("{}: value {} is beyond the range of f16 (±{F16_MAX})", place(index), floats[index]))
                    .hint("extract with --store f32, into another folder (-o) or after removing this one"))
            }
            Dtype::F16 => Ok(bytes_of(to_f16(floats)?)),
            _ => Ok(bytes_of(values.into_values())),
        }
    }

    /// f32 values of the first rows: tokens as maps, maps pooled.
    fn first_rows(&self, values: Array, rows: usize) -> Result<Array> {
        let mut shape = values.shape().to_vec();
        let batch = shape.first().copied().unwrap_or_default();
        let row_len = values.len().checked_div(batch).unwrap_or_default();
        if batch < rows {
            return Err(Error::input(format!("{}: expected {rows} rows, found {batch}", self.name())));
        }
        let mut floats = match values.dtype() {
            Dtype::F32 => match values.into_values() {
                Values::F32(floats) => floats,
                _ => Vec::new(),
            },
            _ => values.to_f32(),
        };
        floats.truncate(rows * row_len);
        shape[0] = rows;
        let mut array = Array::new(shape, Values::F32(floats))?;
        if let Some(grid) = self.grid {
            array = fold_tokens(array, grid)?;
        }
        if let Some(size) = self.pool {
            array = adaptive_average_pool(&array, self.layout, size)?;
        }
        if array.shape().get(1..) != Some(self.shape.as_slice()) {
            return Err(Error::input(format!(
                "{}: its shape varies: expected rows of {:?}, found {:?}",
                self.name(),
                self.shape,
                array.shape()
            )));
        }
        Ok(array)
    }
}

/// Tokens as maps, without what stands before those of the image.
///
/// # Shapes
/// `[N, prefix + H·W, C]` → `[N, H, W, C]`.
fn fold_tokens(tokens: Array, [height, width]: [usize; 2]) -> Result<Array> {
    let &[n, count, channels] = tokens.shape() else {
        return Err(Error::input(format!("tokens: expected 3 axes, found {:?}", tokens.shape())));
    };
    let prefix = count.checked_sub(height * width);
    let prefix = prefix.ok_or_else(|| Error::input(format!("tokens: expected at least {height}x{width}, found {count}")))?;
    let shape = vec![n, height, width, channels];
    let Values::F32(mut values) = tokens.into_values() else {
        return Err(Error::input("tokens: expected f32"));
    };
    if prefix > 0 {
        let image = |row: &[f32]| row.get(prefix * channels..).unwrap_or_default().to_vec();
        values = values.chunks_exact((count * channels).max(1)).flat_map(image).collect();
    }
    Array::new(shape, Values::F32(values))
}

fn bytes_of(values: Values) -> Vec<u8> {
    match values {
        Values::F16(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::F32(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::U8(v) => v,
        Values::I32(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::I64(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::F64(v) => bytemuck::cast_slice(&v).to_vec(),
    }
}

/// How many classes the logits have.
pub(super) fn classes(outputs: &[Output]) -> Option<usize> {
    outputs.iter().find(|o| o.is_logits).and_then(|o| o.shape.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_become_a_map_without_what_stands_before_them() {
        let tokens =
            |count: usize| Array::new(vec![2, count, 3], Values::F32((0u8..).take(2 * count * 3).map(f32::from).collect())).unwrap();
        let folded = fold_tokens(tokens(7), [3, 2]).unwrap();
        assert_eq!(folded.shape(), [2, 3, 2, 3]);
        let expected: Vec<f32> = (3u8..21).chain(24..42).map(f32::from).collect();
        assert_eq!(folded.as_f32().unwrap(), expected);
        assert_eq!(fold_tokens(tokens(6), [3, 2]).unwrap().as_f32(), tokens(6).as_f32());
        assert!(fold_tokens(tokens(5), [3, 2]).is_err());
    }
}
