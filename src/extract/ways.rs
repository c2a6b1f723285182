//! The sets of statistics from which the criteria can be computed.

use super::output::Output;
use crate::criterion::needs;
use crate::recipe::{Extract, Keep};
use crate::statistic::Statistic;

/// No compression makes a statistic with this many times the numbers of the features the smaller.
const HOPELESS: usize = 4;

/// The sets of statistics any one of which suffices for a map, together with those that are
/// `there`. None at all: nothing is kept of it, or nothing more.
pub(super) fn ways(
    recipe: &Extract,
    tap: &Output,
    is_named: bool,
    there: &[Statistic],
) -> Vec<Vec<Statistic>> {
    let features = vec![Statistic::Features];
    let methods = || recipe.criteria.iter().map(|criterion| &criterion.method);
    let all = match &recipe.keep {
        Keep::These(these) => vec![these.clone()],
        Keep::Auto if recipe.criteria.is_empty() => {
            if there.is_empty() {
                vec![features]
            } else {
                Vec::new()
            }
        }
        Keep::Auto => match needs::common(methods()) {
            // no criterion reads the map, but the user names it
            none if none.is_empty() && is_named && there.is_empty() => vec![features],
            _ if needs::served(methods(), there) => Vec::new(),
            ways => ways.into_iter().filter(|way| !is_hopeless(way, tap)).collect(),
        },
    };
    let missing = |way: Vec<Statistic>| way.into_iter().filter(|s| !there.contains(s)).collect();
    all.into_iter().map(missing).filter(|way: &Vec<Statistic>| !way.is_empty()).collect()
}

fn is_hopeless(way: &[Statistic], tap: &Output) -> bool {
    let features: usize = tap.shape.iter().product();
    way.iter().any(|&s| {
        s != Statistic::Features
            && tap.elements(s).is_none_or(|n| n > features.saturating_mul(HOPELESS))
    })
}
