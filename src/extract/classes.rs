//! Whether a model distinguishes the same classes as the data, and in which order. The data's
//! labels hold whether or not a model agrees.

use crate::data::{Dataset, are_names, places};
use crate::error::{Context as _, Error, Result};
use std::path::Path;

/// Whether a model's classes are those of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// They are the same.
    Same {
        /// The names in the model's order; empty where none are known.
        names: Vec<String>,
        /// The index among them of each of the data's classes; `None`: the data's own order.
        places: Option<Vec<i64>>,
    },
    /// They differ, with the reason.
    Others(String),
}

/// What is known of a model's classes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// What messages call the model.
    pub(crate) who: &'a str,
    /// How many values its logits have.
    pub(crate) count: Option<usize>,
    /// The names that its metadata records.
    pub(crate) recorded: Option<&'a [String]>,
    /// The file of names that the user gives.
    pub(crate) file: Option<&'a Path>,
}

/// Compares the classes of a model and of a data set: by name where the model's are known, else by
/// their number.
///
/// # Errors
/// When the file of names cannot be read, does not have a name for each of the logits' values, or
/// lacks a class of the data.
pub(crate) fn agreement(known: Known<'_>, data: &dyn Dataset) -> Result<Agreement> {
    let is_named = are_names(data.classes());
    let labels = || labels(data);
    let own = |names: Vec<String>| Agreement::Same { names, places: None };
    if let Some(file) = known.file {
        let names = read_classes(file, known.count)?;
        if is_named {
            let places = places(&names, data.classes())
                .context(|| format!("--classes {}", file.display()))?;
            return Ok(Agreement::Same { names, places: Some(places) });
        }
        // a file of names means that labels index into it
        return match labels().find(|&label| label >= names.len()) {
            Some(label) => Err(Error::input(format!(
                "--classes {}: label {label} of the data has no name among {}",
                file.display(),
                names.len()
            ))),
            None => Ok(own(names)),
        };
    }
    let Some(told) = known.count else { return Ok(own(data.classes().to_vec())) };
    let recorded =
        known.recorded.filter(|names| is_named && are_names(names) && names.len() == told);
    if let Some(names) = recorded {
        return Ok(match places(names, data.classes()) {
            Ok(places) => Agreement::Same { names: names.to_vec(), places: Some(places) },
            Err(missing) => Agreement::Others(format!(
                "{}'s recorded classes are others than the data's: {missing}",
                known.who
            )),
        });
    }
    let found = count(data);
    // unlabeled data agrees with any model
    if found == 0 || found == told {
        return Ok(own(data.classes().to_vec()));
    }
    Ok(Agreement::Others(format!("{} tells {told} classes, the data has {found}", known.who)))
}

fn labels(data: &dyn Dataset) -> impl Iterator<Item = usize> {
    (0..data.len()).filter_map(|sample| usize::try_from(data.label(sample)).ok())
}

/// How many classes a data set has, by their names or else by its labels; 0 if it has none.
pub(crate) fn count(data: &dyn Dataset) -> usize {
    match data.classes() {
        [] => labels(data).max().map_or(0, |top| top + 1),
        names => names.len(),
    }
}

/// A model's class names in the order of its logits, one a line.
///
/// # Errors
/// When the file cannot be read, or does not hold the `expected` number of names.
fn read_classes(file: &Path, expected: Option<usize>) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .context(|| format!("--classes {}: cannot be read", file.display()))?;
    let names: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    match expected {
        Some(expected) if expected != names.len() => Err(Error::input(format!(
            "--classes {}: expected {expected} names, one per line, found {}",
            file.display(),
            names.len()
        ))),
        _ => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataFormat;
    use crate::data::{Fingerprint, Sample};

    /// Labels and class names alone.
    struct Labels(Vec<i64>, Vec<String>, Fingerprint);

    impl Dataset for Labels {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn sample(&self, _: usize) -> Result<Sample> {
            Err(Error::input("no samples"))
        }
        fn label(&self, index: usize) -> i64 {
            self.0[index]
        }
        fn name(&self, index: usize) -> String {
            format!("row {index}")
        }
        fn classes(&self) -> &[String] {
            &self.1
        }
        fn fingerprint(&self) -> &Fingerprint {
            &self.2
        }
        fn image_size(&self, _: usize) -> Option<[usize; 2]> {
            None
        }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&n| n.to_owned()).collect()
    }

    fn data(labels: &[i64], classes: &[&str]) -> Labels {
        let fingerprint = Fingerprint {
            format: DataFormat::Npz,
            samples: labels.len(),
            listing_sha256: String::new(),
        };
        Labels(labels.to_vec(), names(classes), fingerprint)
    }

    fn others(known: Known<'_>, data: &Labels) -> String {
        match agreement(known, data).unwrap() {
            Agreement::Others(reason) => reason,
            same @ Agreement::Same { .. } => panic!("{same:?}"),
        }
    }

    #[test]
    fn names_map_and_numbers_count() {
        let recorded = names(&["dog", "cat", "bird"]);
        let of_names =
            Known { who: "the teacher", count: Some(3), recorded: Some(&recorded), file: None };
        let of_number = Known { recorded: None, ..of_names };
        let same = |places: Option<&[i64]>, list: &[&str]| Agreement::Same {
            names: names(list),
            places: places.map(<[i64]>::to_vec),
        };
        assert_eq!(
            agreement(of_names, &data(&[0, 1], &["bird", "cat"])).unwrap(),
            same(Some(&[2, 1]), &["dog", "cat", "bird"])
        );
        // some of the names, none of them, fewer classes
        assert!(others(of_names, &data(&[0, 1], &["bird", "fish"])).contains("`fish`"));
        assert!(others(of_names, &data(&[0, 1, 2], &["a", "b", "c"])).contains("`a`"));
        assert_eq!(
            others(of_number, &data(&[0, 1], &["bird", "cat"])),
            "the teacher tells 3 classes, the data has 2"
        );
        assert_eq!(
            agreement(of_number, &data(&[0], &["a", "b", "c"])).unwrap(),
            same(None, &["a", "b", "c"])
        );
        // labels that are numbers: in both of their forms
        assert_eq!(
            agreement(of_names, &data(&[0, 2], &["0", "1", "2"])).unwrap(),
            same(None, &["0", "1", "2"])
        );
        assert_eq!(agreement(of_number, &data(&[0, 2], &[])).unwrap(), same(None, &[]));
        let numbers = names(&["0", "1", "2"]);
        let of_numbers = Known { recorded: Some(&numbers), ..of_names };
        assert_eq!(
            agreement(of_numbers, &data(&[0, 2], &["a", "b", "c"])).unwrap(),
            same(None, &["a", "b", "c"])
        );
        assert!(others(of_number, &data(&[0, 9], &[])).contains("the data has 10"));
        assert!(others(of_number, &data(&[0, 1], &[])).contains("the data has 2"));
        // no labels, no logits
        assert_eq!(agreement(of_number, &data(&[-1, -1], &[])).unwrap(), same(None, &[]));
        assert_eq!(
            agreement(Known::default(), &data(&[0, 1], &["a", "b"])).unwrap(),
            same(None, &["a", "b"])
        );
    }

    #[test]
    fn a_file_of_names_decides() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "dog\ncat\n\nbird\n").unwrap();
        let known =
            Known { who: "the teacher", count: Some(3), recorded: None, file: Some(file.path()) };
        let of = |labels: &[i64], classes: &[&str]| agreement(known, &data(labels, classes));
        let all = names(&["dog", "cat", "bird"]);
        assert_eq!(
            of(&[0, 1], &["bird", "cat"]).unwrap(),
            Agreement::Same { names: all.clone(), places: Some(vec![2, 1]) }
        );
        assert_eq!(of(&[0, 1], &[]).unwrap(), Agreement::Same { names: all, places: None });
        assert!(of(&[0, 3], &[]).unwrap_err().to_string().contains("label 3"));
        assert!(of(&[0], &["fish"]).unwrap_err().chain().contains("`fish`"));
        let ten = Known { count: Some(10), ..known };
        let error = agreement(ten, &data(&[0], &["dog"])).unwrap_err();
        assert!(error.to_string().contains("expected 10 names, one per line, found 3"), "{error}");
    }
}
