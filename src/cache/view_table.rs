//! The parameters of one view of a cache, held for all rows, because a mixed sample needs those of
//! its partner's row.

use super::{Cache, Decoder};
use crate::data::augment::{Parameter, View};
use crate::error::{Error, Result};

/// The parameters of one view: up to 61 bytes per row.
#[derive(Debug)]
pub struct ViewTable {
    rows: usize,
    columns: Vec<(Parameter, Vec<u8>)>,
}

impl ViewTable {
    /// Reads these parameters of a view, in the order of [`Parameter::of`].
    ///
    /// # Errors
    /// If the cache lacks one of them, or a chunk is damaged.
    pub fn read(cache: &Cache, view: usize, parameters: &[Parameter]) -> Result<Self> {
        let rows = cache.manifest().rows;
        let mut decoder = Decoder::default();
        let column = |&parameter: &Parameter| {
            let mut bytes = Vec::new();
            cache.array(parameter.path())?.read(&mut decoder, view, 0, rows, &mut bytes)?;
            Ok((parameter, bytes))
        };
        Ok(Self { rows, columns: parameters.iter().map(column).collect::<Result<_>>()? })
    }

    /// The transformation of a row's sample.
    ///
    /// # Errors
    /// If there is no such row, or a parameter is out of range.
    pub fn view(&self, row: usize) -> Result<View> {
        let mut view = View::default();
        for (parameter, bytes) in &self.columns {
            let length = parameter.row_bytes();
            let found = row
                .checked_mul(length)
                .and_then(|start| bytes.get(start..start + length))
                .unwrap_or_default();
            let read = parameter.read(found, self.rows, &mut view);
            read.map_err(|problem| {
                Error::input(format!("cache array `{}`: row {row}: {problem}", parameter.path()))
            })?;
        }
        Ok(view)
    }
}
