//! From which statistics of a teacher's map a criterion can be computed, exactly.

use super::catalogue::{Stored, catalogue};
use crate::recipe::{At, CriterionRecipe, Kernel, Method, Normalization};
use crate::statistic::Statistic;

/// The sets of statistics any one of which suffices, the features last; empty: the criterion reads
/// no map.
///
/// Sources: MMD² of the linear kernel is `‖m_t − m_s‖²`, that of the polynomial kernel of
/// degree 2 `‖G_t − G_s‖² + 2c ‖m_t − m_s‖²` (docs/statistics.md), both of maps that
/// are normalised by their clamped norm.
#[must_use]
pub fn ways(criterion: &CriterionRecipe) -> Vec<Vec<Statistic>> {
    let features = vec![Statistic::Features];
    let by_itself = |statistics: &[Statistic]| vec![statistics.to_vec(), features.clone()];
    match (&criterion.method, criterion.method.nst()) {
        (_, Some((Kernel::Linear, Normalization::Clamped))) => by_itself(&[Statistic::Mean]),
        (_, Some((Kernel::Poly { degree: 2, constant: 0.0 }, Normalization::Clamped))) => {
            by_itself(&[Statistic::Gram])
        }
        (_, Some((Kernel::Poly { degree: 2, .. }, Normalization::Clamped))) => {
            by_itself(&[Statistic::Gram, Statistic::Mean])
        }
        (Method::At(At { p: 2 }), _) => by_itself(&[Statistic::Attention]),
        _ => {
            let stored = catalogue()
                .iter()
                .find(|entry| entry.name == criterion.name())
                .map_or(&[][..], |entry| entry.stored);
            if stored.contains(&Stored::Features) { vec![features] } else { Vec::new() }
        }
    }
}

/// The sets of statistics from any one of which all of these criteria can be computed; empty: none
/// of them reads a map.
#[must_use]
pub fn common(criteria: &[CriterionRecipe]) -> Vec<Vec<Statistic>> {
    let mut union = Vec::new();
    for ways in criteria.iter().map(ways).filter(|ways| !ways.is_empty()) {
        union.extend(ways.into_iter().next().unwrap_or_default());
    }
    union.sort_unstable();
    union.dedup();
    let features = vec![Statistic::Features];
    match union.first() {
        None => Vec::new(),
        // what needs the features has them first
        Some(Statistic::Features) => vec![features],
        Some(_) => vec![union, features],
    }
}

/// Whether all of these criteria can be computed from these statistics.
#[must_use]
pub fn served(criteria: &[CriterionRecipe], stored: &[Statistic]) -> bool {
    let suffices = |way: &Vec<Statistic>| way.iter().all(|s| stored.contains(s));
    criteria.iter().map(ways).all(|ways| ways.is_empty() || ways.iter().any(suffices))
}

/// The set that a criterion is computed from: of those that are stored, and that serve a student's
/// map of this size, the one of fewest bytes a row. Statistics are of maps that were normalised
/// after pooling, so they serve maps of their own size and larger ones, which are pooled. `None`:
/// nothing that is stored serves.
///
/// `stored`: each statistic and its bytes; `teacher`, `student`: height and width.
#[must_use]
pub fn choose(
    criterion: &CriterionRecipe,
    stored: &[(Statistic, usize)],
    teacher: [usize; 2],
    student: [usize; 2],
) -> Option<Vec<Statistic>> {
    let covers = student[0] >= teacher[0] && student[1] >= teacher[1];
    let bytes = |way: &Vec<Statistic>| {
        let of = |statistic| stored.iter().find(|(s, _)| s == statistic).map(|(_, bytes)| *bytes);
        let fits = covers || way.as_slice() == [Statistic::Features];
        way.iter().map(of).sum::<Option<usize>>().filter(|_| fits)
    };
    let serving = ways(criterion).into_iter().filter_map(|way| Some((bytes(&way)?, way)));
    serving.min_by_key(|(bytes, _)| *bytes).map(|(_, way)| way)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Statistic::{Attention, Features, Gram, Mean};

    fn criterion(text: &str) -> CriterionRecipe {
        text.parse().unwrap()
    }

    #[test]
    fn each_form_has_its_statistics() {
        for (text, expected) in [
            ("ce", vec![]),
            ("kd", vec![]),
            ("nst-linear", vec![vec![Mean], vec![Features]]),
            ("nst", vec![vec![Gram], vec![Features]]),
            ("nst:constant=0.5", vec![vec![Gram, Mean], vec![Features]]),
            ("nst:degree=3", vec![vec![Features]]),
            ("nst:normalization=rsqrt", vec![vec![Features]]),
            ("nst-linear:normalization=rsqrt", vec![vec![Features]]),
            ("nst-gauss", vec![vec![Features]]),
            ("at", vec![vec![Attention], vec![Features]]),
            ("at:p=3", vec![vec![Features]]),
            ("fitnet", vec![vec![Features]]),
            ("rkd", vec![]),
        ] {
            assert_eq!(ways(&criterion(text)), expected, "{text}");
        }
    }

    #[test]
    fn several_criteria_share_a_cache() {
        let of = |texts: &[&str]| texts.iter().map(|text| criterion(text)).collect::<Vec<_>>();
        assert_eq!(common(&of(&["ce", "kd"])), Vec::<Vec<Statistic>>::new());
        assert_eq!(common(&of(&["ce", "nst", "nst-linear"])), [vec![Gram, Mean], vec![Features]]);
        assert_eq!(common(&of(&["nst", "nst-gauss"])), [[Features]]);
        assert!(
            served(&of(&["kd", "nst"]), &[Gram])
                && served(&of(&["kd"]), &[])
                && served(&of(&["nst"]), &[Features, Mean])
        );
        assert!(
            !served(&of(&["nst", "nst-linear"]), &[Gram])
                && !served(&of(&["nst:constant=1"]), &[Gram])
        );
    }

    #[test]
    fn the_fewest_bytes_that_serve_the_students_size_are_read() {
        let stored = [(Features, 1000), (Gram, 400), (Mean, 50)];
        let nst = criterion("nst:constant=1");
        assert_eq!(choose(&nst, &stored, [4, 4], [4, 4]), Some(vec![Gram, Mean]));
        assert_eq!(choose(&nst, &stored, [4, 4], [8, 4]), Some(vec![Gram, Mean]));
        assert_eq!(choose(&nst, &stored, [4, 4], [8, 2]), Some(vec![Features]));
        assert_eq!(choose(&nst, &stored[1..], [4, 4], [8, 2]), None);
        assert_eq!(choose(&nst, &stored[..2], [4, 4], [4, 4]), Some(vec![Features]));
        assert_eq!(
            choose(&criterion("nst"), &[(Features, 300), (Gram, 400)], [4, 4], [4, 4]),
            Some(vec![Features])
        );
        assert_eq!(choose(&criterion("kd"), &stored, [4, 4], [4, 4]), None);
    }
}
