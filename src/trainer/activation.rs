//! Criteria that compare maps before their activation: finds the student's tensors in its graph and
//! checks that the cache holds the teacher's.

use super::pairing::Pair;
use crate::cache::{Cache, Decoder};
use crate::criterion::{Method, Side};
use crate::error::{Error, Result};
use crate::statistic::Statistic;
use crate::student::Student;

/// Rows that are examined.
const ROWS: usize = 64;

/// The pairs with the student's tensors replaced by those before their activations, if `method`
/// compares such maps and the cache holds them. A tensor that is not the output of an activation
/// stays as it is.
///
/// # Errors
/// When the cache holds a map after its activation and the method needs the sign.
pub fn before(
    method: &Method,
    mut pairs: Vec<Pair>,
    student: &Student,
    cache: &Cache,
) -> Result<Vec<Pair>> {
    let spec = method.spec();
    if spec.side == Side::After {
        return Ok(pairs);
    }
    // without stored features there is nothing to examine: the criterion is rejected elsewhere for
    // lacking them
    let has_features = |pair: &Pair| {
        pair.teacher_stored.iter().any(|(statistic, _)| *statistic == Statistic::Features)
    };
    for pair in pairs.iter_mut().filter(|pair| pair.teacher_shape.len() == 3 && has_features(pair))
    {
        if has_negatives(cache, &pair.teacher)? {
            if let Some(before) = student.before_activation(&pair.student) {
                before.clone_into(&mut pair.student);
            }
        } else if spec.side == Side::Before {
            let tensor = cache
                .manifest()
                .taps
                .iter()
                .find(|t| t.alias == pair.teacher)
                .map_or("", |t| t.tensor.as_str());
            let (who, alias) = (spec.name, &pair.teacher);
            return Err(Error::input(format!(
                "criterion {who}: tap {alias} ({tensor}): expected a map before its activation, \
                 found no value below 0"
            ))
            .hint(format!(
                "extract again with --tap TENSOR, the input of the activation that makes {tensor}"
            )));
        }
    }
    Ok(pairs)
}

/// Whether a tap's first rows hold a value below 0.
fn has_negatives(cache: &Cache, alias: &str) -> Result<bool> {
    let reader = cache.array(&format!("taps/{alias}/features"))?;
    let mut bytes = Vec::new();
    reader.read(&mut Decoder::default(), 0, 0, ROWS.min(cache.manifest().rows), &mut bytes)?;
    // the sign of a little-endian float is in its last byte; -0 is not below 0
    let negative = |value: &[u8]| match value.split_last() {
        Some((&last, rest)) => last & 0x80 != 0 && (last != 0x80 || rest.iter().any(|&b| b != 0)),
        None => false,
    };
    Ok(bytes.chunks_exact(reader.spec().dtype.size()).any(negative))
}
