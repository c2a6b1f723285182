//! The target state of a cache, which a writer creates or resumes.

use super::shard::{Encoder, ShardWriter, Sum};
use super::{Manifest, manifest, zarr};
use crate::error::{Context, Error, Result};
use std::collections::BTreeMap;

/// Files of a cache by path.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// The target state of a cache: a manifest without segments, and the values of the row arrays.
#[derive(Debug, Clone)]
pub struct CachePlan {
    /// Everything but `segments` (empty).
    pub manifest: Manifest,
    /// `sample_id`: index in the data set, in row order.
    pub sample_ids: Vec<i64>,
    /// `label`, −1 if unlabeled, in row order.
    pub labels: Vec<i64>,
    /// The sample ids of the existing cache, if the plan may change them: segments whose rows stay
    /// the same are kept.
    pub before: Option<Vec<i64>>,
    /// A hash of each sample's name ([`crate::data::hashed_names`]); empty if the sources of
    /// samples are not recorded.
    pub names: Vec<u64>,
}

impl CachePlan {
    pub(super) fn validate(&self) -> Result<()> {
        let rows = self.manifest.rows;
        self.manifest.validate().context(|| "plan of the cache".to_owned())?;
        if self.sample_ids.len() != rows
            || self.labels.len() != rows
            || !self.manifest.segments.is_empty()
        {
            return Err(Error::input(format!(
                "plan of the cache: expected {rows} sample ids, {rows} labels and no segment, \
                 found {}, {} and {}",
                self.sample_ids.len(),
                self.labels.len(),
                self.manifest.segments.len()
            )));
        }
        Ok(())
    }

    /// The values of the row array at this path.
    fn row_values(&self, path: &str) -> &[i64] {
        if path == manifest::LABEL { &self.labels } else { &self.sample_ids }
    }

    /// The shards of the row arrays by path, and the length and digest of each.
    pub(super) fn encode_rows(&self) -> Result<(Files, Vec<Sum>)> {
        let mut encoder = Encoder::new().context(|| "zstd: cannot start".to_owned())?;
        let (mut files, mut sums) = (BTreeMap::new(), Vec::new());
        for spec in &self.manifest.row_arrays {
            let values: Vec<u8> =
                self.row_values(&spec.path).iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut shard = ShardWriter::new(self.manifest.row_layout(spec), Vec::new());
            shard
                .append(&mut encoder, &values)
                .context(|| format!("array {}: cannot be encoded", spec.path))?;
            sums.push(shard.sum());
            files.insert(zarr::row_shard(spec), shard.into_inner());
        }
        Ok((files, sums))
    }
}
