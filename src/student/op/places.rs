//! The places in a tensor that indices name, as the operators of `scatter` and `pick` read them.

use super::Site;
use super::gather::place;
use crate::error::{Error, Result};
use crate::kernel::strided::dense_strides;
use crate::student::op::site::axis;
use crate::tensor::wide;
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
enum Indexing {
    /// Each index is a coordinate along one axis; the others are those of the index itself.
    Elements(usize),
    /// The last axis holds the coordinates of a run of elements, behind axes in common.
    Rows { batch: usize, depth: usize },
}

/// Runs of elements that indices name.
#[derive(Debug)]
pub(super) struct Places {
    indexing: Indexing,
    /// Shapes of what is indexed, and of the indices.
    data: Vec<usize>,
    indices: Vec<usize>,
    /// The places where the indices are known.
    known: Option<Vec<u32>>,
}

impl Places {
    /// As `ScatterElements` and `GatherElements` say: `indices` has the rank of `data`.
    pub(super) fn elements(site: &Site<'_>) -> Result<Self> {
        let (data, indices) = (site.shape(0)?, site.shape(1)?);
        let at = axis(site.int("axis", 0), data.len())?;
        let fits = data.len() == indices.len()
            && (0..data.len()).all(|i| i == at || indices[i] <= data[i]);
        Self::new(site, Indexing::Elements(at), fits)
    }

    /// As `ScatterND` and `GatherND` say: `indices` has the shape `[batch …, …, depth]`, `data`
    /// `[batch …, indexed axes …, run …]`.
    pub(super) fn rows(site: &Site<'_>) -> Result<Self> {
        let (data, indices) = (site.shape(0)?, site.shape(1)?);
        let batch = usize::try_from(site.int("batch_dims", 0)).unwrap_or(usize::MAX);
        let depth = indices.last().copied().unwrap_or(usize::MAX);
        let fits = batch < indices.len()
            && batch.checked_add(depth).is_some_and(|end| end <= data.len())
            && data[..batch] == indices[..batch];
        Self::new(site, Indexing::Rows { batch, depth }, fits)
    }

    fn new(site: &Site<'_>, indexing: Indexing, fits: bool) -> Result<Self> {
        let (data, indices) = (site.shape(0)?.to_vec(), site.shape(1)?.to_vec());
        if !fits {
            return Err(Error::input(format!(
                "indices: shape {indices:?} does not fit data of shape {data:?}"
            )));
        }
        let count = data.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if count.is_none_or(|n| u32::try_from(n).is_err()) {
            return Err(Error::input(format!(
                "data: expected fewer than 2^32 elements, found shape {data:?}"
            )));
        }
        let mut places = Self { indexing, data, indices, known: None };
        if let Some(host) = site.constant(1) {
            places.known = Some(places.of(host.ints()?)?);
        }
        Ok(places)
    }

    /// Whether the indices come with each pass.
    pub(super) fn vary(&self) -> bool {
        self.known.is_none()
    }

    /// The shape that is indexed.
    pub(super) fn data(&self) -> &[usize] {
        &self.data
    }

    /// The shape of all runs together.
    pub(super) fn runs(&self) -> Vec<usize> {
        match self.indexing {
            Indexing::Elements(_) => self.indices.clone(),
            Indexing::Rows { batch, depth } => {
                let rows = self.indices.len() - 1;
                [&self.indices[..rows], &self.data[batch + depth..]].concat()
            }
        }
    }

    /// The number of elements of a run.
    pub(super) fn run(&self) -> usize {
        match self.indexing {
            Indexing::Elements(_) => 1,
            Indexing::Rows { batch, depth } => self.data[batch + depth..].iter().product(),
        }
    }

    /// Where each run begins: by the known indices, or by those of a tensor on the host.
    #[allow(clippy::cast_possible_truncation, reason = "indices are whole numbers")]
    pub(super) fn starts(&self, indices: Option<&Tensor>) -> Result<Vec<u32>> {
        match (&self.known, indices) {
            (Some(known), _) => Ok(known.clone()),
            (None, Some(indices)) => {
                self.of(&wide(indices)?.into_iter().map(|i| i as i64).collect::<Vec<_>>())
            }
            (None, None) => Err(Error::internal("indices are missing")),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "data has fewer than 2³² elements")]
    fn of(&self, indices: &[i64]) -> Result<Vec<u32>> {
        let strides: Vec<usize> =
            dense_strides(&self.data).into_iter().map(isize::cast_unsigned).collect();
        match self.indexing {
            Indexing::Elements(at) => {
                let mut own = vec![0usize; self.indices.len()];
                let mut starts = Vec::with_capacity(indices.len());
                for &index in indices {
                    let moved = place(index, self.data[at])? as usize;
                    let coordinate = |(i, &own)| if i == at { moved } else { own };
                    let all = own.iter().enumerate().map(coordinate);
                    starts.push(all.zip(&strides).map(|(c, s)| c * s).sum::<usize>() as u32);
                    for (own, &size) in own.iter_mut().zip(&self.indices).rev() {
                        *own += 1;
                        if *own < size {
                            break;
                        }
                        *own = 0;
                    }
                }
                Ok(starts)
            }
            Indexing::Rows { batch, depth } => {
                let rows: usize = self.indices[batch..self.indices.len() - 1].iter().product();
                let block: usize = self.data[batch..].iter().product();
                // of indices without coordinates each row names the whole block
                let count = self.indices[..batch].iter().product::<usize>() * rows;
                (0..count)
                    .map(|row| {
                        let row_indices = &indices[row * depth..(row + 1) * depth];
                        let mut start = row / rows * block;
                        for (i, &index) in row_indices.iter().enumerate() {
                            start +=
                                place(index, self.data[batch + i])? as usize * strides[batch + i];
                        }
                        Ok(start as u32)
                    })
                    .collect()
            }
        }
    }
}
