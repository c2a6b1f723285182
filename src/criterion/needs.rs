//! Which statistics of a teacher's map suffice to compute criteria exactly.

use super::method::Method;
use crate::statistic::Statistic;

/// The sets of statistics, any one of which suffices to compute all of these criteria; empty if
/// none of them reads a map.
#[must_use]
pub fn common<'a>(criteria: impl IntoIterator<Item = &'a Method>) -> Vec<Vec<Statistic>> {
    let mut union = Vec::new();
    for ways in criteria.into_iter().map(Method::ways).filter(|ways| !ways.is_empty()) {
        union.extend(ways.into_iter().next().unwrap_or_default());
    }
    union.sort_unstable();
    union.dedup();
    let features = vec![Statistic::Features];
    match union.first() {
        None => Vec::new(),
        // a criterion that needs the features lists them first
        Some(Statistic::Features) => vec![features],
        Some(_) => vec![union, features],
    }
}

/// Whether all of these criteria can be computed from the stored statistics.
#[must_use]
pub fn served<'a>(criteria: impl IntoIterator<Item = &'a Method>, stored: &[Statistic]) -> bool {
    let suffices = |way: &Vec<Statistic>| way.iter().all(|s| stored.contains(s));
    criteria.into_iter().map(Method::ways).all(|ways| ways.is_empty() || ways.iter().any(suffices))
}

/// The set to compute a criterion from: of the sets that are stored and that work for a student's
/// map of this size, the one with the fewest bytes per row. Statistics come from maps that were
/// normalized after pooling, so they only work for student maps of their own size or larger, which
/// are pooled. `None` if no stored set works.
///
/// `stored`: each statistic and its bytes; `teacher`, `student`: height and width.
#[must_use]
pub fn choose(
    criterion: &Method,
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
    let serving = criterion.ways().into_iter().filter_map(|way| Some((bytes(&way)?, way)));
    serving.min_by_key(|(bytes, _)| *bytes).map(|(_, way)| way)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::papers::entry;
    use Statistic::{Attention, Features, Gram, Mean};

    fn criterion(text: &str) -> Method {
        let (name, settings) = text.split_once(':').unwrap_or((text, "{}"));
        let name = if name == "nst" { "nst-poly" } else { name };
        entry(name).unwrap().read(serde_json::from_str(settings).unwrap()).unwrap()
    }

    #[test]
    fn each_form_has_its_statistics() {
        for (text, expected) in [
            ("ce", vec![]),
            ("kd", vec![]),
            ("nst-linear", vec![vec![Mean], vec![Features]]),
            ("nst", vec![vec![Gram], vec![Features]]),
            (r#"nst:{"constant":0.5}"#, vec![vec![Gram, Mean], vec![Features]]),
            (r#"nst:{"degree":3}"#, vec![vec![Features]]),
            (r#"nst:{"normalization":"rsqrt"}"#, vec![vec![Features]]),
            (r#"nst-linear:{"normalization":"rsqrt"}"#, vec![vec![Features]]),
            ("nst-gauss", vec![vec![Features]]),
            ("at", vec![vec![Attention], vec![Features]]),
            (r#"at:{"p":3}"#, vec![vec![Features]]),
            ("fitnet", vec![vec![Features]]),
            ("rkd", vec![]),
        ] {
            assert_eq!(criterion(text).ways(), expected, "{text}");
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
                && !served(&of(&[r#"nst:{"constant":1}"#]), &[Gram])
        );
    }

    #[test]
    fn the_fewest_bytes_that_serve_the_students_size_are_read() {
        let stored = [(Features, 1000), (Gram, 400), (Mean, 50)];
        let nst = criterion(r#"nst:{"constant":1}"#);
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
