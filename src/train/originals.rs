//! The inputs that a cache does not store, decoded from its data set again.

use super::job::Host;
use crate::cache::{Cache, Originals};
use crate::data::{self, DataSpec, Dataset};
use crate::error::{Error, Result};
use crate::trainer::source::CacheSource;

/// A reader of a cache, with the data set of the inputs that it does not store.
pub(super) fn with_originals<'a>(
    cache: &'a Cache,
    originals: Option<&'a dyn Dataset>,
    source: CacheSource<'a>,
) -> Result<CacheSource<'a>> {
    match originals {
        Some(dataset) => Ok(source.with_originals(Originals::new(cache, dataset)?)),
        None => Ok(source),
    }
}

/// The data set of the inputs that a cache does not store: from `source`, else as the cache names
/// it.
pub(super) fn originals(
    cache: &Cache,
    source: Option<&DataSpec>,
    host: &Host<'_>,
) -> Result<Option<Box<dyn Dataset>>> {
    let data = &cache.manifest().data;
    if cache.manifest().stores_inputs() && source.is_none() {
        return Ok(None);
    }
    let spec = match source {
        Some(spec) => spec.clone(),
        None => data.spec.parse()?,
    };
    let dataset = data::open(&spec, &data.split, host.monitor).map_err(|e| {
        let error = Error::input(format!(
            "data {spec}: expected the images of this cache, which does not store them"
        ))
        .because(e);
        error.hint("--source SPEC says where they are now")
    })?;
    // reject changed samples here, before any work is done
    Originals::new(cache, dataset.as_ref())?.refuse_changed(host.monitor)?;
    Ok(Some(dataset))
}
