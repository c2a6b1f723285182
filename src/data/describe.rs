//! A one-line summary of a data set's classes.

use super::Dataset;
use std::collections::BTreeMap;

/// Most classes that are counted one by one.
const COUNTED: usize = 10;
/// Longest class name shown, in characters.
const LONGEST: usize = 32;

/// How many samples each class has: `12 samples of 2 classes: a 6, b 6`. With many classes, only
/// the first few, and the smallest and largest count of the rest.
#[must_use]
pub fn describe(dataset: &dyn Dataset) -> String {
    describe_labels(dataset.classes(), (0..dataset.len()).map(|index| dataset.label(index)))
}

/// Like [`describe`], for labels; −1 means none, and labels beyond `classes` show as numbers.
#[must_use]
pub fn describe_labels(classes: &[String], labels: impl IntoIterator<Item = i64>) -> String {
    let mut counts: BTreeMap<i64, usize> =
        (0i64..).zip(classes).map(|(label, _)| (label, 0)).collect();
    let (mut total, mut unlabeled) = (0usize, 0usize);
    for label in labels {
        total += 1;
        if label < 0 { unlabeled += 1 } else { *counts.entry(label).or_default() += 1 }
    }
    let samples = if total == 1 { "1 sample".to_owned() } else { format!("{total} samples") };
    if unlabeled == total {
        return format!("{samples}, unlabeled");
    }
    let name = |label: i64| match usize::try_from(label).ok().and_then(|label| classes.get(label)) {
        Some(name) if name.chars().count() > LONGEST => {
            name.chars().take(LONGEST).chain(['…']).collect()
        }
        Some(name) => name.clone(),
        None => label.to_string(),
    };
    let mut parts: Vec<String> = counts
        .iter()
        .take(COUNTED)
        .map(|(&label, count)| format!("{} {count}", name(label)))
        .collect();
    if counts.len() > COUNTED {
        let (least, most) = (
            counts.values().min().copied().unwrap_or(0),
            counts.values().max().copied().unwrap_or(0),
        );
        parts.push(if least == most {
            format!("… ({most} of each)")
        } else {
            format!("… ({least} to {most} of each)")
        });
    }
    let rest = if unlabeled > 0 { format!("; {unlabeled} unlabeled") } else { String::new() };
    let what =
        if counts.len() == 1 { "1 class".to_owned() } else { format!("{} classes", counts.len()) };
    format!("{samples} of {what}: {}{rest}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_counted_in_a_line() {
        let names = ["a", "b", "c"].map(String::from);
        assert_eq!(describe_labels(&names, [0, 0, 1]), "3 samples of 3 classes: a 2, b 1, c 0");
        assert_eq!(describe_labels(&[], [7, -1]), "2 samples of 1 class: 7 1; 1 unlabeled");
        assert_eq!(describe_labels(&names, [-1]), "1 sample, unlabeled");
        let many: Vec<String> = (0..12).map(|i| format!("c{i}")).collect();
        let text = describe_labels(&many, (0..12).chain(0..1));
        assert!(
            text.starts_with("13 samples of 12 classes: c0 2, c1 1,")
                && text.ends_with("c9 1, … (1 to 2 of each)"),
            "{text}"
        );
        assert!(describe_labels(&["x".repeat(100)], [0]).len() < 70);
    }
}
