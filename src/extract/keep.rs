//! Which statistics of each map are kept: those asked for, or the smallest form from which the
//! criteria can be computed.

use super::choice::Undecided;
use super::estimate::human_bytes;
use super::measure;
use super::output::{Output, Outputs};
use super::prepare::Prepared;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::runtime::Session;
use crate::statistic::Statistic;
use serde::Serialize;

/// The form that was chosen for a tap.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    /// The tap's name in the cache.
    pub tap: String,
    /// What is stored of it.
    pub statistics: Vec<Statistic>,
    /// Every form that suffices, the chosen one included.
    pub alternatives: Vec<Alternative>,
}

/// A form that suffices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// The statistics that it consists of.
    pub statistics: Vec<Statistic>,
    /// Bytes a sample, as stored, measured on up to 256 rows.
    pub bytes: f64,
}

/// Warns of a Gram matrix that is larger than its map.
pub(super) fn warn_of_large_gram(tap: &Output, monitor: &dyn Monitor) {
    let (Some(map), Some(gram)) = (tap.map(), tap.elements(Statistic::Gram)) else { return };
    let alias = tap.alias().unwrap_or_default();
    let features: usize = tap.shape.iter().product();
    if gram > features {
        monitor.warn(&format!(
            "tap {alias}: a Gram matrix over {} positions takes {} per sample, its features as f16 \
             {} (--tap TENSOR@HxW pools them)",
            map.height * map.width,
            human_bytes(4 * gram as u64),
            human_bytes(2 * features as u64)
        ));
    }
}

/// Of each undecided tap the form that takes the fewest bytes as stored, the first of equals; and
/// the outputs without the other forms.
///
/// # Errors
/// When the first rows cannot be read or computed.
pub(super) fn decide(
    prepared: &Prepared<'_>,
    session: &mut Session,
    monitor: &dyn Monitor,
) -> Result<(Outputs, Vec<Kept>)> {
    let (candidates, undecided) = (&prepared.candidates, prepared.undecided.as_slice());
    if undecided.is_empty() {
        return Ok((candidates.clone(), Vec::new()));
    }
    let contested: Vec<&Output> =
        candidates.all.iter().filter(|o| is_contested(o, undecided)).collect();
    let bytes = measure::bytes_per_row(prepared, session, &contested)?;
    let bytes_of = |alias: &str, statistic: Statistic| {
        contested
            .iter()
            .zip(&bytes)
            .find(|(o, _)| o.alias() == Some(alias) && o.statistic() == statistic)
            .map_or(f64::INFINITY, |(_, bytes)| *bytes)
    };
    let kept: Vec<Kept> =
        undecided.iter().filter_map(|tap| smallest(tap, bytes_of, monitor)).collect();
    let is_kept = |o: &&Output| {
        let is_its_form =
            |k: &Kept| o.alias() == Some(&k.tap) && k.statistics.contains(&o.statistic());
        !is_contested(o, undecided) || kept.iter().any(is_its_form)
    };
    let outputs = candidates.all.iter().filter(is_kept).cloned().collect();
    Ok((Outputs::new(outputs), kept))
}

/// Whether an output is one of the forms that are to be chosen from.
fn is_contested(output: &Output, undecided: &[Undecided]) -> bool {
    let statistic = output.statistic();
    undecided.iter().any(|tap| {
        output.alias() == Some(&tap.alias) && tap.ways.iter().any(|way| way.contains(&statistic))
    })
}

/// Chooses and reports the smallest form of a tap.
fn smallest(
    Undecided { alias, ways }: &Undecided,
    bytes_of: impl Fn(&str, Statistic) -> f64,
    monitor: &dyn Monitor,
) -> Option<Kept> {
    let alternatives: Vec<Alternative> = ways
        .iter()
        .map(|way| Alternative {
            statistics: way.clone(),
            bytes: way.iter().map(|&statistic| bytes_of(alias, statistic)).sum(),
        })
        .collect();
    let best = alternatives.iter().min_by(|a, b| a.bytes.total_cmp(&b.bytes))?.clone();
    monitor.note(&format!("tap {alias}: {}", describe(&best, &alternatives)));
    Some(Kept { tap: alias.clone(), statistics: best.statistics, alternatives })
}

/// `gram, 4.1 kB a sample (features would take 31.2 kB)`.
fn describe(best: &Alternative, alternatives: &[Alternative]) -> String {
    let names =
        |a: &Alternative| a.statistics.iter().map(|s| s.name()).collect::<Vec<_>>().join(" + ");
    let others: Vec<String> = alternatives
        .iter()
        .filter(|a| *a != best)
        .map(|a| format!("{} would take {}", names(a), human_bytes(rounded(a.bytes))))
        .collect();
    let rest = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("{} kept, {} per sample{rest}", names(best), human_bytes(rounded(best.bytes)))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number for people"
)]
fn rounded(bytes: f64) -> u64 {
    bytes.round() as u64
}
