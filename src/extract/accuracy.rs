//! The teacher's own top-1, from the logits in the cache.

use crate::array::Dtype;
use crate::cache::{ArrayReader, Cache, Decoder, ViewTable};
use crate::data::Augmentation;
use crate::data::augment::Parameter;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::statistic::{LOGITS, TopPart, top_classes};

/// Rows decoded at a time.
const BLOCK_ROWS: usize = 1024;

/// How often the teacher is right on labeled rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accuracy {
    correct: usize,
    labeled: usize,
    classes: usize,
}

/// Reads labels and logits of the first view of a complete cache with labeled rows. A mixed row
/// counts by the label of its larger share.
///
/// # Errors
/// When the cache cannot be read.
pub(super) fn of_cache(cache: &Cache, classes: usize) -> Result<Accuracy> {
    let is_sparse = cache.manifest().top().is_some();
    let logits = cache.array(if is_sparse { TopPart::Class.path() } else { LOGITS })?;
    let labels = labels(cache)?;
    let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
    let mut accuracy = Accuracy { correct: 0, labeled: 0, classes };
    for (block, labels) in labels.chunks(BLOCK_ROWS).enumerate() {
        logits.read(&mut decoder, 0, block * BLOCK_ROWS, labels.len(), &mut bytes)?;
        let rows = bytes.chunks(logits.spec().row_bytes().max(1));
        for (row, &label) in rows.zip(labels) {
            if let Ok(label) = usize::try_from(label) {
                accuracy.labeled += 1;
                accuracy.correct += usize::from(predicted(&logits, row) == label);
            }
        }
    }
    Ok(accuracy)
}

/// The class of the largest logit in a stored row, which is the first of sparse ones.
fn predicted(logits: &ArrayReader<'_>, row: &[u8]) -> usize {
    match logits.spec().dtype {
        dtype @ (Dtype::U16 | Dtype::U32) => {
            top_classes(row, dtype).first().copied().unwrap_or(usize::MAX)
        }
        _ => argmax(&bytemuck::pod_collect_to_vec::<_, f32>(row)),
    }
}

/// The label of each row's larger share.
fn labels(cache: &Cache) -> Result<Vec<i64>> {
    let labels = cache.labels();
    if !cache.manifest().augment.as_ref().is_some_and(Augmentation::mixes) {
        return Ok(labels.to_vec());
    }
    let table = ViewTable::read(cache, 0, &[Parameter::Partner, Parameter::Mix])?;
    let of_row = |row: usize| {
        let other =
            table.view(row)?.mix.filter(|mix| mix.weight < 0.5).map_or(row, |mix| mix.partner);
        Ok(labels.get(other).copied().unwrap_or(-1))
    };
    (0..labels.len()).map(of_row).collect()
}

/// The first of the largest values.
fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best })
        .0
}

impl Accuracy {
    /// Percent times 100, rounded.
    pub(super) fn basis_points(self) -> u32 {
        u32::try_from((self.correct * 10_000 + self.labeled / 2) / self.labeled.max(1))
            .unwrap_or(10_000)
    }

    /// Warns of an accuracy that no trained teacher has.
    pub(super) fn warn_near_chance(self, monitor: &dyn Monitor) {
        if self.is_near_chance() {
            let percent = f64::from(self.basis_points()) / 100.0;
            monitor.warn(&format!(
                "teacher's top-1 of {percent:.2} % is near chance: check the preprocessing \
                 (--preprocess, --mean, --std, --channels) and the order of classes (--classes \
                 FILE)"
            ));
        }
    }

    /// Less than a tenth of the way from chance to perfect.
    #[allow(clippy::cast_precision_loss, reason = "shares of row counts")]
    fn is_near_chance(self) -> bool {
        let chance = 1.0 / self.classes.max(1) as f64;
        self.classes > 1
            && (self.correct as f64 / self.labeled as f64) < chance + 0.1 * (1.0 - chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_chance_follows_the_number_of_classes() {
        let of = |correct, classes| Accuracy { correct, labeled: 1000, classes };
        assert!(of(102, 10).is_near_chance());
        assert!(!of(300, 10).is_near_chance());
        assert!(of(500, 2).is_near_chance());
        assert!(!of(800, 2).is_near_chance());
        assert_eq!(of(933, 10).basis_points(), 9330);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
