//! From the values of one of the teacher's tensors to stored bytes.

use super::output::{KeptMap, Output};
use crate::array::{Array, Dtype, Layout, Values};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Store;
use crate::statistic::{
    self, F16_MAX, Loss, MapShape, Maps, Statistic, adaptive_average_pool, f16_loss, finite_range,
    to_f16,
};
use std::borrow::Cow;

/// The stored bytes of some rows.
pub(super) enum Encoded {
    /// The bytes, and what f16 loses of the values.
    Bytes(Vec<u8>, Lost),
    /// A value is beyond the range of f16, as the error says.
    BeyondF16(Error),
}

/// Rows of which f16 loses values that are near 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lost {
    pub(super) rows: usize,
    /// The smallest of the values.
    smallest: f32,
}

impl Lost {
    pub(super) const NOTHING: Self = Self { rows: 0, smallest: f32::INFINITY };

    /// The loss of these rows of `row` values each.
    fn of(floats: &[f32], row: usize) -> Self {
        let underflow = |row| match f16_loss(row)? {
            Loss::Underflow(value) => Some(Self { rows: 1, smallest: value }),
            Loss::Overflow(_) => None,
        };
        floats.chunks(row.max(1)).filter_map(underflow).fold(Self::NOTHING, Self::and)
    }

    /// Of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, smallest: self.smallest.min(other.smallest) }
    }
}

impl Output {
    /// The stored element type. Where features may be f16 or f32, the first `rows` rows of `values`
    /// decide.
    ///
    /// # Errors
    /// When the values do not have the shape that the probe found.
    pub(super) fn dtype(
        &self,
        store: Store,
        values: &Array,
        rows: usize,
        monitor: &dyn Monitor,
    ) -> Result<Dtype> {
        let Some(alias) = self.alias() else {
            let top = self.kept_logits().and_then(|logits| logits.top);
            let classes = self.shape.last().copied().unwrap_or(0);
            return Ok(top.map_or(Dtype::F32, |(part, _)| part.dtype(classes)));
        };
        if let Some(dtype) = self.statistic().dtype() {
            return Ok(dtype);
        }
        let rows = self.first_rows(values, rows)?;
        let features = self.pooled(&rows)?;
        let row = self.shape.iter().product::<usize>().max(1);
        let (dtype, reason) =
            stored_type(store, worst_loss(features.as_f32().unwrap_or_default(), row));
        if let Some(reason) = reason {
            let line = format!("tap {alias}: {reason}");
            if dtype == Dtype::F32 { monitor.note(&line) } else { monitor.warn(&line) }
        }
        Ok(dtype)
    }

    /// Maps in the stored size.
    fn pooled<'a>(&self, rows: &'a Array) -> Result<Cow<'a, Array>> {
        Ok(match self.kept_map() {
            Some(&KeptMap { pool: Some(size), layout, .. }) => {
                Cow::Owned(adaptive_average_pool(rows, layout, size)?)
            }
            _ => Cow::Borrowed(rows),
        })
    }

    /// One line for the user about the rows that lose values.
    pub(super) fn describe(&self, Lost { rows, smallest }: Lost) -> Option<String> {
        let rows = match rows {
            0 => return None,
            1 => "1 row holds".to_owned(),
            n => format!("{n} rows hold"),
        };
        Some(format!(
            "tap {}: {rows} values down to {smallest:e} that are lost in f16: --store f32 in \
             another folder (-o) keeps them",
            self.alias()?
        ))
    }

    /// The stored bytes of the first `rows` rows of a batch of values; `sample_name` names a row.
    ///
    /// # Errors
    /// When the values do not have the shape that the probe found, are not finite, or are stored as
    /// f16 and beyond its range.
    pub(super) fn encode(
        &self,
        values: &Array,
        dtype: Dtype,
        rows: usize,
        sample_name: impl Fn(usize) -> String,
    ) -> Result<Vec<u8>> {
        match self.try_encode(values, dtype, rows, sample_name)? {
            Encoded::Bytes(bytes, _) => Ok(bytes),
            Encoded::BeyondF16(error) => Err(error),
        }
    }

    /// As [`Output::encode`], with values beyond the range of f16 as a result of its own.
    ///
    /// # Errors
    /// When the values do not have the shape that the probe found, or are not finite.
    pub(super) fn try_encode(
        &self,
        values: &Array,
        dtype: Dtype,
        rows: usize,
        sample_name: impl Fn(usize) -> String,
    ) -> Result<Encoded> {
        let rows = self.first_rows(values, rows)?;
        let place = |what: &str, index: usize, count: usize| {
            format!(
                "{}{what}: sample {}",
                self.name(),
                sample_name(index / (count / rows.shape()[0].max(1)).max(1))
            )
        };
        let not_finite = |what: &str, floats: &[f32], index: usize| {
            let value = floats.get(index).copied().unwrap_or(f32::NAN);
            Error::input(format!(
                "{}: expected finite values, found {value}",
                place(what, index, floats.len())
            ))
            .hint("check the preprocessing, or tap another tensor")
        };
        let whole = |bytes| Ok(Encoded::Bytes(bytes, Lost::NOTHING));
        let floats = rows.as_f32().unwrap_or_default();
        finite_range(floats).map_err(|index| not_finite("", floats, index))?;
        let map = self.kept_map();
        if map.is_some_and(|map| map.computed.is_some()) {
            return whole(bytemuck::cast_slice(floats).to_vec());
        }
        if let Some(map) = map.filter(|map| map.statistic != Statistic::Features) {
            let values = statistic::compute(map.statistic, floats, &self.maps(map, &rows)?)?;
            if let Values::F32(values) = &values {
                // a mean of squares may overflow f32
                finite_range(values).map_err(|index| {
                    not_finite(&format!(", {}", map.statistic.name()), values, index)
                })?;
            }
            return whole(bytes_of(values));
        }
        let pooled = self.pooled(&rows)?;
        let mut floats = Cow::Borrowed(pooled.as_f32().unwrap_or_default());
        let logits = self.kept_logits();
        if let Some(conversion) = logits.and_then(|logits| logits.conversion) {
            conversion.apply(floats.to_mut(), values.dtype()).map_err(|index| {
                let value = floats.get(index).copied().unwrap_or(f32::NAN);
                Error::input(format!(
                    "{}: expected a probability, found {value}",
                    place("", index, floats.len())
                ))
                .hint("name the tensor that holds the logits: --logits TENSOR")
            })?;
        }
        if let Some((part, k)) = logits.and_then(|logits| logits.top) {
            let classes = self.shape.last().copied().unwrap_or(0);
            let stored = part.compute(&floats, classes, k).map_err(|(row, value)| {
                Error::input(format!(
                    "{}: log-probability {value} is beyond the range of f16 (±{F16_MAX})",
                    place("", row * classes, floats.len())
                ))
                .hint("--logits-keep all, with another -o, stores the logits as f32")
            })?;
            return whole(bytes_of(stored));
        }
        let floats = floats.as_ref();
        match dtype {
            Dtype::F16 => {
                if let Some(index) = floats.iter().position(|v| v.abs() > F16_MAX) {
                    let place = place("", index, floats.len());
                    let error = Error::input(format!(
                        "{place}: value {} is beyond the range of f16 (±{F16_MAX})",
                        floats[index]
                    ));
                    let hint = "without --store f16 the same folder is resumed with this tap alone \
                                as f32; --store f32 with another -o stores all of them so";
                    return Ok(Encoded::BeyondF16(error.hint(hint)));
                }
                let row = floats.len() / rows.shape()[0].max(1);
                Ok(Encoded::Bytes(bytes_of(to_f16(floats)?), Lost::of(floats, row)))
            }
            _ => whole(bytemuck::cast_slice(floats).to_vec()),
        }
    }

    /// The first rows as f32, tokens as maps, before pooling.
    fn first_rows<'a>(&self, values: &'a Array, rows: usize) -> Result<Cow<'a, Array>> {
        let batch = values.shape().first().copied().unwrap_or_default();
        if batch < rows {
            return Err(Error::input(format!(
                "{}: expected {rows} rows, found {batch}",
                self.name()
            )));
        }
        let mut array = Cow::Borrowed(values);
        if batch != rows || values.dtype() != Dtype::F32 {
            let row_len = values.len().checked_div(batch).unwrap_or_default();
            let shape = [&[rows], values.shape().get(1..).unwrap_or_default()].concat();
            let floats = match values.as_f32() {
                Some(floats) => floats[..rows * row_len].to_vec(),
                None => values.to_f32()[..rows * row_len].to_vec(),
            };
            array = Cow::Owned(Array::new(shape, Values::F32(floats))?);
        }
        let map = self.kept_map();
        if let Some(&KeptMap { grid: Some(grid), layout, .. }) = map {
            array = Cow::Owned(fold(array.into_owned(), layout, grid)?);
        }
        // logits of a convolution have spatial axes of size one; `[batch]` is a value a row
        let rank = array.shape().len();
        if (rank == 1 || (self.tap().is_none() && rank > 2))
            && array.len() == rows * self.shape.iter().product::<usize>()
        {
            array = Cow::Owned(Array::new(
                [&[rows], self.shape.as_slice()].concat(),
                array.into_owned().into_values(),
            )?);
        }
        let found = array.shape().get(1..).unwrap_or_default();
        // the probe has seen that the size before pooling is the same for all samples
        let fits = match map {
            Some(KeptMap { computed: Some(_), .. }) => self.row()?.0 == found,
            Some(KeptMap { pool: Some(_), .. }) => found.len() == self.shape.len(),
            _ => found == self.shape,
        };
        if !fits {
            return Err(Error::input(format!(
                "{}: its shape varies: expected rows of {:?}, found {:?}",
                self.name(),
                self.shape,
                array.shape()
            )));
        }
        Ok(array)
    }

    /// The axes of rows of maps, and the size at which statistics are taken of them.
    fn maps(&self, map: &KeptMap, rows: &Array) -> Result<Maps> {
        let (Some(stored), &[_, a, b, c]) = (self.map(), rows.shape()) else {
            return Err(Error::input(format!(
                "{}: expected a map, found rows of {:?}",
                self.name(),
                rows.shape()
            )));
        };
        let given = MapShape::of_features(map.layout, [a, b, c]);
        let (from, size) = ([given.height, given.width], [stored.height, stored.width]);
        if given.channels != stored.channels || size[0] > from[0] || size[1] > from[1] {
            return Err(Error::input(format!(
                "{}: its shape varies: expected {:?} at least, found {:?}",
                self.name(),
                stored,
                given
            )));
        }
        Ok(Maps { layout: map.layout, channels: stored.channels, from, size })
    }
}

/// The worst loss of storing rows in f16. Values near its limit count as beyond it, since more rows
/// follow.
fn worst_loss(features: &[f32], row: usize) -> Option<Loss> {
    let largest = features
        .iter()
        .copied()
        .fold(0.0f32, |largest, v| if v.abs() > largest.abs() { v } else { largest });
    if largest.is_infinite() {
        // an error when the value is stored
        return None;
    }
    if largest.abs() > F16_MAX / 2.0 {
        return Some(Loss::Overflow(largest));
    }
    let smallest = features.chunks(row).filter_map(f16_loss).fold(
        f32::INFINITY,
        |smallest, loss| match loss {
            Loss::Underflow(value) => smallest.min(value),
            Loss::Overflow(_) => smallest,
        },
    );
    smallest.is_finite().then_some(Loss::Underflow(smallest))
}

/// The element type of features with this loss in f16, and what to tell the user.
fn stored_type(store: Store, loss: Option<Loss>) -> (Dtype, Option<String>) {
    match (store, loss) {
        (Store::F32, _) => (Dtype::F32, None),
        (Store::Auto, Some(Loss::Overflow(value))) => (
            Dtype::F32,
            Some(format!(
                "values up to {value:e} come near the end of f16 or go beyond: stored as f32"
            )),
        ),
        (Store::Auto, Some(Loss::Underflow(value))) => (
            Dtype::F32,
            Some(format!("values down to {value:e} would be lost in f16: stored as f32")),
        ),
        // overflow is an error when the value is stored
        (Store::F16, Some(Loss::Underflow(value))) => (
            Dtype::F16,
            Some(format!("values down to {value:e} are lost in f16 (--store f32 keeps them)")),
        ),
        (Store::F16 | Store::Auto, _) => (Dtype::F16, None),
    }
}

/// Tokens as maps, without the tokens before those of the image; or flat maps as maps.
///
/// # Shapes
/// Tokens: `[N, prefix + H·W, C]` → `[N, H, W, C]`; flat maps:
/// `[N, C, H·W]` → `[N, C, H, W]`.
fn fold(tokens: Array, layout: Layout, [height, width]: [usize; 2]) -> Result<Array> {
    let &[n, count, channels] = tokens.shape() else {
        return Err(Error::input(format!("tokens: expected 3 axes, found {:?}", tokens.shape())));
    };
    if layout == Layout::Nchw {
        return Array::new(vec![n, count, height, width], tokens.into_values());
    }
    let prefix = count.checked_sub(height * width);
    let prefix = prefix.ok_or_else(|| {
        Error::input(format!("tokens: expected at least {height}x{width}, found {count}"))
    })?;
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
        Values::U8(v) => v,
        values => values.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f16_cannot_hold_is_stored_as_f32_and_said() {
        let of = |store, features: &[f32]| {
            let (dtype, reason) = stored_type(store, worst_loss(features, 2));
            (dtype, reason.unwrap_or_default())
        };
        assert_eq!(of(Store::Auto, &[1.0, -18_718.0]), (Dtype::F16, String::new()));
        let (dtype, reason) = of(Store::Auto, &[1.0, -40_000.0]);
        assert!(dtype == Dtype::F32 && reason.contains("up to -4e4"), "{reason}");
        // one row of two loses
        let (dtype, reason) = of(Store::Auto, &[1.0, 2.0, 1e-9, 2e-9]);
        assert!(dtype == Dtype::F32 && reason.contains("down to 1e-9"), "{reason}");
        let (dtype, reason) = of(Store::F16, &[1e-9, 2e-9]);
        assert!(dtype == Dtype::F16 && reason.contains("--store f32"), "{reason}");
        assert_eq!(of(Store::F16, &[40_000.0, 1.0]), (Dtype::F16, String::new()));
        assert_eq!(of(Store::F32, &[1e-9, 1.0]), (Dtype::F32, String::new()));
    }

    #[test]
    fn tokens_become_a_map_without_what_stands_before_them() {
        let tokens = |count: usize| {
            Array::new(
                vec![2, count, 3],
                Values::F32((0u8..).take(2 * count * 3).map(f32::from).collect()),
            )
            .unwrap()
        };
        let folded = fold(tokens(7), Layout::Nhwc, [3, 2]).unwrap();
        assert_eq!(folded.shape(), [2, 3, 2, 3]);
        let expected: Vec<f32> = (3u8..21).chain(24..42).map(f32::from).collect();
        assert_eq!(folded.as_f32().unwrap(), expected);
        assert_eq!(fold(tokens(6), Layout::Nhwc, [3, 2]).unwrap().as_f32(), tokens(6).as_f32());
        assert!(fold(tokens(5), Layout::Nhwc, [3, 2]).is_err());
        let flat = fold(tokens(4), Layout::Nchw, [1, 3]).unwrap();
        assert_eq!((flat.shape(), flat.as_f32()), (&[2, 4, 1, 3][..], tokens(4).as_f32()));
        assert!(fold(tokens(4), Layout::Nchw, [2, 3]).is_err());
    }
}
