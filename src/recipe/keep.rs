//! Which forms of a map an extraction keeps.

use crate::error::{Error, Result};
use crate::statistic::Statistic;
use std::str::FromStr;

/// The statistics to keep of each map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Keep {
    /// The smallest form from which the criteria can be computed; the features if no criteria are
    /// given.
    #[default]
    Auto,
    /// These, in [`Statistic::ALL`]'s order, each once.
    These(Vec<Statistic>),
}

impl FromStr for Keep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let mut these = text.split(',').map(str::parse).collect::<Result<Vec<Statistic>>>()?;
        these.sort_unstable();
        these.dedup();
        Ok(Self::These(these))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_statistics_are_sets() {
        assert_eq!("auto".parse::<Keep>().unwrap(), Keep::Auto);
        assert_eq!(
            "mean,gram,mean".parse::<Keep>().unwrap(),
            Keep::These(vec![Statistic::Gram, Statistic::Mean])
        );
        for wrong in ["", "grams", "gram,", "auto,gram", "Gram"] {
            let error = wrong.parse::<Keep>().unwrap_err().to_string();
            assert!(
                error.contains("features, gram, mean, attention, vector, sign"),
                "{wrong}: {error}"
            );
        }
    }
}
