//! Recreates the inputs of a cache that does not store them, from the data set and the stored view
//! parameters: exactly the bytes that the teacher was fed.

use super::{Cache, Stamps, ViewTable, stamps};
use crate::data::augment::{self, Parameter, View};
use crate::data::{Augment, Augmentation, Dataset, Preprocess, Sample, hashed_names};
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;

/// A cache and the data set that it was made from.
#[derive(Clone, Copy)]
pub struct Originals<'a> {
    cache: &'a Cache,
    dataset: &'a dyn Dataset,
    preprocess: &'a Preprocess,
}

impl std::fmt::Debug for Originals<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Originals")
            .field("fingerprint", self.dataset.fingerprint())
            .finish_non_exhaustive()
    }
}

impl<'a> Originals<'a> {
    /// Pairs a cache with its data set.
    ///
    /// # Errors
    /// If the cache was made from another data set, or the data set does not hold images.
    pub fn new(cache: &'a Cache, dataset: &'a dyn Dataset) -> Result<Self> {
        let data = &cache.manifest().data;
        let (expected, found) = (&data.fingerprint, dataset.fingerprint());
        if expected != found {
            return Err(Error::input(format!(
                "data: expected the set that the cache was made of ({} samples, listing {}…), \
                 found {} samples, listing {}…",
                expected.samples,
                short(&expected.listing_sha256),
                found.samples,
                short(&found.listing_sha256)
            ))
            .hint(format!("the cache records it as {}, split {}", data.spec, data.split)));
        }
        let preprocess = data
            .preprocess
            .as_ref()
            .ok_or_else(|| Error::input("cache without inputs: expected images, found arrays"))?;
        Ok(Self { cache, dataset, preprocess })
    }

    /// Compares the samples with those that the cache was made from: the metadata of all files, and
    /// the contents of those whose metadata differs and of a few others.
    ///
    /// # Errors
    /// If samples have changed (names them), or the user asks to stop.
    pub fn refuse_changed(&self, monitor: &dyn Monitor) -> Result<()> {
        if hashed_names(self.dataset)?.is_empty() {
            return Ok(());
        }
        let stamps = Stamps::load(self.cache.folder()).unwrap_or_else(|error| {
            monitor.warn(&format!("{}: treated as missing", error.chain()));
            None
        });
        let samples: Vec<usize> =
            self.cache.sample_ids().iter().filter_map(|&id| usize::try_from(id).ok()).collect();
        let found = stamps.unwrap_or_default().compare(self.dataset, &samples, false, monitor)?;
        if !found.changed.is_empty() {
            return Err(stamps::changed(self.cache.folder(), self.dataset, &found.changed));
        }
        if !found.unknown.is_empty() {
            let (count, all) = (found.unknown.len(), samples.len());
            monitor.note(&format!(
                "it is not recorded what {count} of {all} samples were read from: changes to them \
                 cannot be detected"
            ));
        }
        if !found.restamped.is_empty() {
            let count = found.restamped.len();
            monitor.note(&format!(
                "{count} files were copied or touched since they were read; their content is \
                 unchanged"
            ));
        }
        Ok(())
    }

    /// The view parameters that [`Originals::input`] needs.
    ///
    /// # Errors
    /// As [`ViewTable::read`].
    pub fn table(&self, view: usize) -> Result<ViewTable> {
        let augment = self.cache.manifest().augment.as_ref();
        ViewTable::read(self.cache, view, &augment.map_or_else(Vec::new, Parameter::of))
    }

    /// One row's input exactly as the teacher was fed it, in the layout of the cache's
    /// preprocessing.
    ///
    /// # Errors
    /// If a sample cannot be read (names it).
    pub fn input(&self, table: &ViewTable, row: usize) -> Result<Vec<u8>> {
        let view = table.view(row)?;
        let mut own = self.unmixed(row, &view)?;
        if let Some(mix) = &view.mix {
            let other = self.unmixed(mix.partner, &table.view(mix.partner)?)?;
            augment::mix(self.preprocess, &mut own, &other, mix)?;
        }
        Ok(own)
    }

    /// A row's sample in its view, before mixing.
    fn unmixed(&self, row: usize, view: &View) -> Result<Vec<u8>> {
        let sample = self
            .cache
            .sample_ids()
            .get(row)
            .and_then(|&id| usize::try_from(id).ok())
            .filter(|&id| id < self.dataset.len());
        let sample = sample.ok_or_else(|| {
            Error::input(format!("cache array `sample_id`: row {row}: no sample of the data set"))
        })?;
        let name = || self.dataset.name(sample);
        let Sample::Image(image) = self.dataset.sample(sample)? else {
            return Err(Error::input(format!("{}: expected an image, found arrays", name())));
        };
        let geometry = self
            .cache
            .manifest()
            .augment
            .as_ref()
            .map_or(Augment::None, |Augmentation { geometry, .. }| *geometry);
        augment::render(geometry, self.preprocess, &image, view).context(name)
    }
}

/// The first digits of a hash, for messages.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
