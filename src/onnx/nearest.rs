//! Suggestions for mistyped names.

use crate::error::Error;

/// Most names that are listed.
const LISTED: usize = 5;

/// The known names most like `name`, best first: those that contain it or end like it, then by edit
/// distance.
#[must_use]
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let mut ranked: Vec<(f64, &str)> = known
        .iter()
        .filter(|candidate| !candidate.is_empty())
        .map(|&candidate| {
            let lower = candidate.to_lowercase();
            let contained = !wanted.is_empty() && lower.contains(&wanted);
            (
                strsim::normalized_damerau_levenshtein(&wanted, &lower)
                    + f64::from(u8::from(contained)),
                candidate,
            )
        })
        .collect();
    // callers collect names from hash maps: equally near ones are listed alphabetically
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    ranked.into_iter().take(LISTED).map(|(_, candidate)| candidate).collect()
}

/// The error for an unknown name.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    let error = Error::input(format!("{what} `{name}`: no node of the model computes it"));
    match nearest(name, known).as_slice() {
        [] => error,
        names => error.hint(format!(
            "the nearest names are {}",
            names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_and_a_part_finds_the_whole() {
        let known = ["/layer1/Relu_output_0", "/layer2/Relu_output_0", "/fc/Gemm_output_0", ""];
        assert_eq!(nearest("/layer2/Rleu_output_0", &known)[0], "/layer2/Relu_output_0");
        assert_eq!(nearest("gemm", &known)[0], "/fc/Gemm_output_0");
        assert_eq!(nearest("x", &[]), Vec::<&str>::new());
    }

    #[test]
    fn equally_near_names_have_an_order_of_their_own() {
        let names = ["bb", "aa", "cc"];
        assert_eq!(nearest("x", &names), ["aa", "bb", "cc"]);
    }
}
