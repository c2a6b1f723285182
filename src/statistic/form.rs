//! The forms in which a tap can be stored, and their shapes.

use crate::array::{Dtype, Layout};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The path of the logits' array in a cache; those of taps: [`Statistic::path`].
pub const LOGITS: &str = "logits";

/// What is stored of a map. docs/statistics.md lists which loss needs which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// The activations themselves.
    Features,
    /// The Gram matrix over positions of the unit-norm channel maps, divided by their number: its
    /// lower triangle, row by row.
    Gram,
    /// The mean of the unit-norm channel maps.
    Mean,
    /// The mean over channels of the squared activations.
    Attention,
    /// The mean over positions of each channel.
    Vector,
    /// Whether each activation is above 0, one bit each.
    Sign,
}

impl Statistic {
    /// All forms.
    pub const ALL: [Self; 6] =
        [Self::Features, Self::Gram, Self::Mean, Self::Attention, Self::Vector, Self::Sign];

    /// The name on the command line and in caches.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Gram => "gram",
            Self::Mean => "mean",
            Self::Attention => "attention",
            Self::Vector => "vector",
            Self::Sign => "sign",
        }
    }

    /// The stored element type; `None` for features, where the recipe chooses f16 or f32.
    #[must_use]
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Features => None,
            Self::Sign => Some(Dtype::U8),
            _ => Some(Dtype::F32),
        }
    }

    /// The path of its array in a cache.
    #[must_use]
    pub fn path(self, alias: &str) -> String {
        format!("taps/{alias}/{}", self.name())
    }

    /// The alias and the statistic in an array's path, if it is a tap's.
    #[must_use]
    pub fn of_path(path: &str) -> Option<(&str, Self)> {
        let (alias, name) = path.strip_prefix("taps/")?.split_once('/')?;
        Self::ALL.into_iter().find(|s| s.name() == name).map(|statistic| (alias, statistic))
    }
}

impl FromStr for Statistic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|s| s.name() == text);
        found.ok_or_else(|| {
            Error::input(format!("expected auto or some of {}, found `{text}`", names.join(", ")))
        })
    }
}

/// The map that statistics are computed from, and its tap's axis order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapShape {
    /// The axis order of its features.
    pub layout: Layout,
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl MapShape {
    /// The map whose features have these axis lengths, in `layout`'s order.
    #[must_use]
    pub fn of_features(layout: Layout, shape: [usize; 3]) -> Self {
        let [channels, height, width] = match layout {
            Layout::Nchw => shape,
            Layout::Nhwc => [shape[2], shape[0], shape[1]],
        };
        Self { layout, channels, height, width }
    }

    /// `[channels, height, width]`.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Activations per sample; `None` on overflow.
    #[must_use]
    pub fn activations(&self) -> Option<usize> {
        self.channels.checked_mul(self.height)?.checked_mul(self.width)
    }

    /// Shape and axis names of one stored row; `None` on overflow.
    #[must_use]
    pub fn row(&self, statistic: Statistic) -> Option<(Vec<usize>, &'static [&'static str])> {
        let &Self { layout, channels, height, width } = self;
        let positions = height.checked_mul(width)?;
        Some(match (statistic, layout) {
            (Statistic::Features, Layout::Nchw) => {
                (vec![channels, height, width], &["c", "h", "w"])
            }
            (Statistic::Features, Layout::Nhwc) => {
                (vec![height, width, channels], &["h", "w", "c"])
            }
            (Statistic::Gram, _) => {
                (vec![positions.checked_mul(positions.checked_add(1)?)? / 2], &["pair"])
            }
            (Statistic::Mean | Statistic::Attention, _) => (vec![height, width], &["h", "w"]),
            (Statistic::Vector, _) => (vec![channels], &["c"]),
            (Statistic::Sign, _) => (vec![self.activations()?.div_ceil(8)], &["byte"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_there_and_back() {
        for statistic in Statistic::ALL {
            assert_eq!(Statistic::of_path(&statistic.path("a.b")), Some(("a.b", statistic)));
        }
        for other in ["logits", "taps/a", "taps/a/grams", "taps/a/gram/x", "gram"] {
            assert_eq!(Statistic::of_path(other), None, "{other}");
        }
    }

    #[test]
    fn rows_have_the_shapes_of_the_format() {
        let map = MapShape { layout: Layout::Nhwc, channels: 5, height: 2, width: 3 };
        let shape = |s| map.row(s).unwrap().0;
        assert_eq!(
            Statistic::ALL.map(shape),
            [vec![2, 3, 5], vec![21], vec![2, 3], vec![2, 3], vec![5], vec![4]]
        );
        let hostile = MapShape { height: usize::MAX / 2, width: 3, ..map };
        assert!(
            Statistic::ALL
                .into_iter()
                .filter(|s| !matches!(s, Statistic::Vector))
                .all(|s| hostile.row(s).is_none())
        );
        assert_eq!(MapShape::of_features(Layout::Nhwc, [2, 3, 5]), map);
    }
}
