//! Which statistics of each map are kept: as asked for, or the smallest form of which the criteria
//! can be computed.

use super::Job;
use super::estimate::human_bytes;
use super::measure;
use super::output::Output;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::runtime::Session;
use crate::statistic::Statistic;
use serde::Serialize;

/// A tap whose form is still to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undecided {
    pub(super) alias: String,
    /// Sets of statistics any one of which would do, beside those that are in the cache.
    pub(super) ways: Vec<Vec<Statistic>>,
}

/// What was decided for a tap.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    /// The tap's name in the cache.
    pub tap: String,
    /// What is kept of it.
    pub statistics: Vec<Statistic>,
    /// Everything that would have done.
    pub alternatives: Vec<Alternative>,
}

/// A form that would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// What would be kept.
    pub statistics: Vec<Statistic>,
    /// Bytes a sample, as stored, measured on 256 rows.
    pub bytes: f64,
}

/// Warns where a Gram matrix is asked for that is larger than what it is of.
pub(super) fn warn_of_large_gram(tap: &Output, monitor: &dyn Monitor) {
    let (Some(map), Some(gram)) = (tap.map(), tap.elements(Statistic::Gram)) else { return };
    let features: usize = tap.shape.iter().product();
    if gram > features {
        monitor.warn(&format!(
            "tap {}: a Gram matrix over {} positions takes {} a sample, its features as f16 {} \
             (--tap TENSOR@HxW pools them)",
            tap.alias,
            map.height * map.width,
            human_bytes(4 * gram as u64),
            human_bytes(2 * features as u64)
        ));
    }
}

/// Decides by what each form takes as it would be stored, and drops the others from the job's
/// outputs. The first of equals wins.
///
/// # Errors
/// When the first rows cannot be read or computed.
pub(super) fn decide(
    job: &mut Job<'_>,
    undecided: &[Undecided],
    session: &mut Session,
    monitor: &dyn Monitor,
) -> Result<Vec<Kept>> {
    if undecided.is_empty() {
        return Ok(Vec::new());
    }
    let contested = |o: &Output| {
        undecided.iter().any(|u| u.alias == o.alias && u.ways.concat().contains(&o.statistic))
    };
    let measured: Vec<Output> =
        job.outputs.iter().filter(|o| !o.is_logits && contested(o)).cloned().collect();
    let bytes = measure::bytes_per_row(job, session, &measured)?;
    let mut all = Vec::new();
    for Undecided { alias, ways } in undecided {
        let of = |statistic: &Statistic| {
            let at = measured.iter().position(|o| o.alias == *alias && o.statistic == *statistic);
            at.and_then(|at| bytes.get(at)).copied().unwrap_or(f64::INFINITY)
        };
        let alternatives: Vec<Alternative> = ways
            .iter()
            .map(|way| Alternative { statistics: way.clone(), bytes: way.iter().map(of).sum() })
            .collect();
        let Some(best) = alternatives.iter().min_by(|a, b| a.bytes.total_cmp(&b.bytes)).cloned()
        else {
            continue;
        };
        monitor.note(&format!("tap {alias}: {}", describe(&best, &alternatives)));
        all.push(Kept { tap: alias.clone(), statistics: best.statistics, alternatives });
    }
    let is_dropped = |o: &Output| {
        contested(o)
            && !all.iter().any(|kept| kept.tap == o.alias && kept.statistics.contains(&o.statistic))
    };
    let outputs = job.outputs.iter().filter(|o| o.is_logits || !is_dropped(o)).cloned().collect();
    job.set_outputs(outputs);
    Ok(all)
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
    format!("{} kept, {} a sample{rest}", names(best), human_bytes(rounded(best.bytes)))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number for people"
)]
fn rounded(bytes: f64) -> u64 {
    bytes.round() as u64
}
