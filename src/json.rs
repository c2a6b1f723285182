//! Where two JSON documents differ.

use serde_json::Value;
use std::collections::BTreeSet;

/// The first place where two documents differ.
#[derive(Debug, PartialEq)]
pub(crate) struct Difference<'a> {
    /// As `recipe.criterion[0].weight`.
    pub path: String,
    pub before: &'a Value,
    pub now: &'a Value,
}

/// What a key stands for that one of two objects lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// Null.
    Null,
    /// Anything: the other's value is not compared.
    Anything,
}

/// The first place where `now` differs from `before`, by key and then by index; `path` is where
/// both are.
pub(crate) fn difference<'a>(
    path: &str,
    before: &'a Value,
    now: &'a Value,
    lacking: Lacking,
) -> Option<Difference<'a>> {
    if before == now {
        return None;
    }
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            // sorted, so that the answer doesn't depend on how serde_json was built
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let of_key = |key: &String| {
                let values = match (a.get(key), b.get(key), lacking) {
                    (Some(a), Some(b), _) => Some((a, b)),
                    (_, _, Lacking::Anything) => None,
                    (a, b, Lacking::Null) => {
                        Some((a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null)))
                    }
                };
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                values.and_then(|(a, b)| difference(&below, a, b, lacking))
            };
            keys.into_iter().find_map(of_key)
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            let mut found =
                pairs.filter_map(|(i, (a, b))| difference(&format!("{path}[{i}]"), a, b, lacking));
            found.next()
        }
        _ => Some(Difference { path: path.to_owned(), before, now }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named() {
        let before =
            json!({"recipe": {"batch": 64, "criterion": [{"weight": 1.0}]}, "cache": null});
        let first =
            |now: &Value, lacking| difference("", &before, now, lacking).map(|found| found.path);
        let mut now = before.clone();
        assert_eq!(first(&now, Lacking::Null), None);
        now["recipe"]["criterion"][0]["weight"] = json!(2.0);
        assert_eq!(first(&now, Lacking::Null).unwrap(), "recipe.criterion[0].weight");
        let other = json!({"recipe": before["recipe"], "cache": "x"});
        assert_eq!(first(&other, Lacking::Null).unwrap(), "cache");
        let more = json!({"recipe": before["recipe"], "cache": null, "extra": 1});
        assert_eq!(first(&more, Lacking::Null).unwrap(), "extra");
        assert_eq!(first(&more, Lacking::Anything), None);
    }
}
