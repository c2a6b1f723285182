//! Tables of indices on a device: what overlaps is one gather, its adjoint another.

use super::sum::middle_sum;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};

/// The index that candle's `index_select` answers with zero, on every device.
const ABSENT: u32 = u32::MAX;

/// Most elements that one gather makes: the CUDA kernels count in 32 bits, and memory is not
/// endless.
pub(super) const LARGEST: usize = 1 << 28;

/// Where each element of a result is read; `None` reads zero.
#[derive(Debug)]
pub(super) struct IndexTable(Tensor);

fn index(i: usize) -> Result<u32> {
    u32::try_from(i)
        .ok()
        .filter(|&i| i != ABSENT)
        .ok_or_else(|| Error::input(format!("index {i}: too large for a device's table")))
}

impl IndexTable {
    pub(super) fn new(
        places: impl IntoIterator<Item = Option<usize>>,
        device: &Device,
    ) -> Result<Self> {
        let indices =
            places.into_iter().map(|i| i.map_or(Ok(ABSENT), index)).collect::<Result<Vec<_>>>()?;
        let count = indices.len();
        Ok(Self(Tensor::from_vec(indices, count, &Device::Cpu)?.to_device(device)?))
    }

    /// The number of places.
    pub(super) fn places(&self) -> usize {
        self.0.elem_count()
    }

    /// `[planes, size, …]` → `[planes, places, …]`.
    pub(super) fn gather(&self, planes: &Tensor) -> Result<Tensor> {
        Ok(planes.contiguous()?.index_select(&self.0, 1)?)
    }

    /// `[planes, places, …]` added to where each was read of `[planes, size, …]`; none may be
    /// absent. One thread of a device adds one column in order: right for any number of readers of
    /// one place, and slow for many places.
    pub(super) fn scatter(&self, rows: &Tensor, size: usize) -> Result<Tensor> {
        let mut shape = rows.dims().to_vec();
        shape[1] = size;
        Ok(Tensor::zeros(shape, rows.dtype(), rows.device())?.index_add(
            &self.0,
            &rows.contiguous()?,
            1,
        )?)
    }
}

/// The adjoint of a table: for each element read, up to `count` elements of the result that read
/// it.
#[derive(Debug)]
pub(super) struct Adjoint {
    table: IndexTable,
    pub(super) count: usize,
    size: usize,
}

impl Adjoint {
    /// `places` as those of the table, over `size` elements.
    pub(super) fn new(places: &[Option<usize>], size: usize, device: &Device) -> Result<Self> {
        Ok(Self::with_readers(places, size, |reader| reader, device)?.0)
    }

    /// The same where `of` says at which place a reader's gradient lies; and the reader of each
    /// place of the table `[count, size]`.
    pub(super) fn with_readers(
        places: &[Option<usize>],
        size: usize,
        of: impl Fn(usize) -> usize,
        device: &Device,
    ) -> Result<(Self, Vec<Option<usize>>)> {
        let mut lists: Vec<Vec<usize>> = vec![Vec::new(); size];
        for (reader, place) in places.iter().enumerate() {
            let Some(place) = place else { continue };
            lists
                .get_mut(*place)
                .ok_or_else(|| {
                    Error::internal(format!("index {place}: expected less than {size}"))
                })?
                .push(reader);
        }
        let count = lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let readers: Vec<Option<usize>> = (0..count)
            .flat_map(|row| lists.iter().map(move |list| list.get(row).copied()))
            .collect();
        let table = IndexTable::new(readers.iter().map(|r| r.map(&of)), device)?;
        Ok((Self { table, count, size }, readers))
    }

    /// `[planes, readers]` → `[planes, count, size]`: the gradients that each element gets, zero
    /// where there are fewer.
    pub(super) fn spread(&self, gradients: &Tensor) -> Result<Tensor> {
        let planes = gradients.dims()[0];
        Ok(self.table.gather(gradients)?.reshape((planes, self.count, self.size))?)
    }

    /// `[planes, readers]` → `[planes, size]`: their sum.
    pub(super) fn apply(&self, gradients: &Tensor) -> Result<Tensor> {
        middle_sum(&self.spread(gradients)?)
    }
}

/// Runs `f(first, count)` over stretches of `items`, each so short that `size` elements an item
/// stay below [`LARGEST`].
pub(super) fn in_parts(
    items: usize,
    size: usize,
    mut f: impl FnMut(usize, usize) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let part = (LARGEST / size.max(1)).clamp(1, items.max(1));
    (0..items.max(1)).step_by(part).map(|first| f(first, part.min(items - first))).collect()
}

/// The same, joined along the first axis.
pub(super) fn joined_parts(
    items: usize,
    size: usize,
    f: impl FnMut(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut parts = in_parts(items, size, f)?;
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => Ok(only),
        (_, Some(last)) => {
            parts.push(last);
            Ok(Tensor::cat(&parts, 0)?)
        }
        (_, None) => Err(Error::internal("nothing to compute")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_place_reads_zero_and_the_adjoint_sums_what_was_read() {
        let x = Tensor::new(&[[1f64, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let places = [Some(2), None, Some(0), Some(2)];
        let y = IndexTable::new(places, &Device::Cpu).unwrap().gather(&x).unwrap();
        assert_eq!(y.to_vec2::<f64>().unwrap(), [[3.0, 0.0, 1.0, 3.0], [6.0, 0.0, 4.0, 6.0]]);
        let back = Adjoint::new(&places, 3, &Device::Cpu).unwrap();
        let dy = Tensor::new(&[[1f64, 10.0, 100.0, 1000.0]], &Device::Cpu).unwrap();
        assert_eq!(back.apply(&dy).unwrap().to_vec2::<f64>().unwrap(), [[100.0, 0.0, 1001.0]]);
    }

    #[test]
    fn parts_cover_all_items() {
        let all = Tensor::new(&[0u32, 1, 2, 3, 4], &Device::Cpu).unwrap();
        let of =
            |size: usize| joined_parts(5, size, |first, count| Ok(all.narrow(0, first, count)?));
        for size in [1, LARGEST / 2, 4 * LARGEST] {
            assert_eq!(of(size).unwrap().to_vec1::<u32>().unwrap(), [0, 1, 2, 3, 4]);
        }
    }
}
