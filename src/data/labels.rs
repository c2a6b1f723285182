//! Labels written as text: numbers of classes, or names of classes.

use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// The label of each sample (−1: none), and the class names if the labels are names.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Labels {
    pub values: Vec<i64>,
    pub classes: Vec<String>,
}

impl Labels {
    /// Names of classes, numbered in the order of their bytes.
    pub(super) fn of_names(names: &[Option<&str>]) -> Self {
        let distinct: BTreeSet<&str> = names.iter().copied().flatten().collect();
        let classes: Vec<&str> = distinct.into_iter().collect();
        let place = |name: Option<&str>| {
            let place = name.and_then(|name| classes.binary_search(&name).ok());
            place.and_then(|place| i64::try_from(place).ok()).unwrap_or(-1)
        };
        let values = names.iter().copied().map(place).collect();
        Self { values, classes: classes.into_iter().map(str::to_owned).collect() }
    }

    /// Numbers of classes if every text is a whole number, else names. An empty text is no label.
    ///
    /// # Errors
    /// If a number is below −1, or all are numbers and one has a fraction; `name` is how messages
    /// call a sample.
    pub(super) fn of_texts(
        texts: &[Option<String>],
        name: impl Fn(usize) -> String,
    ) -> Result<Self> {
        let texts: Vec<Option<&str>> = texts
            .iter()
            .map(|text| text.as_deref().map(str::trim).filter(|text| !text.is_empty()))
            .collect();
        let numbers: Option<Vec<i64>> =
            texts.iter().map(|text| text.map_or(Some(-1), number)).collect();
        let Some(values) = numbers else {
            refuse_fractions(&texts, name)?;
            return Ok(Self::of_names(&texts));
        };
        match values.iter().enumerate().find(|(_, value)| **value < -1) {
            Some((at, value)) => Err(below(&name(at), *value)),
            None => Ok(Self { values, classes: Vec::new() }),
        }
    }

    /// What the labels are, for a message: `labels from .cls, names of 3 classes`.
    pub(super) fn line(&self, source: &str) -> String {
        match self.classes.len() {
            0 => format!("labels from {source}"),
            count => format!("labels from {source}, names of {count} classes"),
        }
    }
}

/// Rejects labels that are all numbers, and not all whole: values of a regression, no classes.
fn refuse_fractions(texts: &[Option<&str>], name: impl Fn(usize) -> String) -> Result<()> {
    let is_number = |text: &&str| text.parse::<f64>().is_ok();
    if !texts.iter().flatten().all(is_number) {
        return Ok(());
    }
    let fraction = texts.iter().position(|text| text.is_some_and(|text| number(text).is_none()));
    let Some((at, Some(text))) = fraction.and_then(|at| Some((at, *texts.get(at)?))) else {
        return Ok(());
    };
    Err(Error::input(format!(
        "{}: expected a label from 0, found {text}: these are not classes",
        name(at)
    ))
    .hint("name another column of labels, or take a name for it that is not read as labels"))
}

/// The error for a label below −1.
pub(super) fn below(place: &str, value: i64) -> Error {
    Error::input(format!("{place}: expected a label from 0, or -1 for none, found {value}"))
}

/// A whole number; also as pandas writes it beside missing values, `3.0`.
fn number(text: &str) -> Option<i64> {
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|b| b == b'0'));
    whole.map_or(text, |(whole, _)| whole).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbers_or_names() {
        let of = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| Some((*text).to_owned())).collect();
            Labels::of_texts(&texts, |at| format!("row {at}")).unwrap()
        };
        assert_eq!(of(&["3", " 0\n", "", "2.0", "-1"]).values, [3, 0, -1, 2, -1]);
        let names = of(&["cat", "7", "", "ant"]);
        assert_eq!(
            (names.values, names.classes.join(" ")),
            (vec![2, 0, -1, 1], "7 ant cat".into())
        );
        assert_eq!(of(&["1.5", "2", "v3"]).classes, ["1.5", "2", "v3"]);
        let fractions = [Some("2".into()), None, Some("1.5".into())];
        let error = Labels::of_texts(&fractions, |at| format!("row {at}")).unwrap_err();
        assert!(error.to_string().contains("row 2: expected a label from 0, found 1.5"));
        let error = Labels::of_texts(&[None, Some("-2".into())], |at| format!("row {at}"));
        assert!(error.unwrap_err().to_string().contains("row 1: expected a label from 0"));
    }
}
