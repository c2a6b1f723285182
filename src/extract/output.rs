//! What is kept of the teacher: arrays of the cache, and the tensors that they are made of.

use crate::array::{Array, Layout};
use crate::cache::Manifest;
use crate::error::{Error, Result};
use crate::onnx::logits::Conversion;
use crate::onnx::tap::Role;
use crate::statistic::{LOGITS, MapShape, Statistic, TopPart};

/// An array of the cache and the tensor of the teacher that it is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    /// The ONNX tensor.
    pub(super) tensor: String,
    /// Shape of one row of its features.
    pub(super) shape: Vec<usize>,
    /// Name of each axis of such a row.
    pub(super) axes: Vec<String>,
    pub(super) kind: OutputKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum OutputKind {
    Logits(KeptLogits),
    Tap(KeptTap),
}

/// The logits, or one array of them where they are sparse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptLogits {
    /// How they are computed where no tensor of the teacher holds them.
    pub(super) conversion: Option<Conversion>,
    /// Of sparse logits the part, and how many classes are kept.
    pub(super) top: Option<(TopPart, usize)>,
}

/// A tap by its name in the cache.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeptTap {
    pub(super) alias: String,
    pub(super) stage: Option<usize>,
    /// Whether it is an output of the teacher.
    pub(super) output: bool,
    pub(super) form: TapForm,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TapForm {
    /// One vector a sample, `[batch, c]`.
    Vector,
    /// A volume, or values of any other shape; kept whole.
    Whole(Role),
    Map(KeptMap),
}

impl TapForm {
    /// What a manifest calls it.
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Vector => Role::Vector,
            Self::Whole(role) => *role,
            Self::Map(_) => Role::Map,
        }
    }
}

/// A map, or a statistic of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeptMap {
    pub(super) layout: Layout,
    /// Height and width of the image that tokens cover (tokens before those are dropped, the rest
    /// is stored as a map), or of a flat map.
    pub(super) grid: Option<[usize; 2]>,
    /// Height and width before pooling.
    pub(super) whole: [usize; 2],
    /// Height and width after pooling, which comes before any statistic.
    pub(super) pool: Option<[usize; 2]>,
    pub(super) statistic: Statistic,
    /// The tensor that holds the statistic itself, where the teacher's graph computes it.
    pub(super) computed: Option<String>,
}

impl Output {
    /// The path of its array.
    pub(super) fn path(&self) -> String {
        match &self.kind {
            OutputKind::Logits(KeptLogits { top: Some((part, _)), .. }) => part.path().to_owned(),
            OutputKind::Logits(_) => LOGITS.to_owned(),
            OutputKind::Tap(tap) => self.statistic().path(&tap.alias),
        }
    }

    /// The tap's name in the cache; `None` for the logits.
    pub(super) fn alias(&self) -> Option<&str> {
        self.tap().map(|tap| tap.alias.as_str())
    }

    pub(super) fn tap(&self) -> Option<&KeptTap> {
        match &self.kind {
            OutputKind::Logits(_) => None,
            OutputKind::Tap(tap) => Some(tap),
        }
    }

    pub(super) fn kept_logits(&self) -> Option<&KeptLogits> {
        match &self.kind {
            OutputKind::Logits(logits) => Some(logits),
            OutputKind::Tap(_) => None,
        }
    }

    pub(super) fn kept_map(&self) -> Option<&KeptMap> {
        match &self.tap()?.form {
            TapForm::Map(map) => Some(map),
            TapForm::Vector | TapForm::Whole(_) => None,
        }
    }

    pub(super) fn kept_map_mut(&mut self) -> Option<&mut KeptMap> {
        match &mut self.kind {
            OutputKind::Tap(KeptTap { form: TapForm::Map(map), .. }) => Some(map),
            _ => None,
        }
    }

    /// What is stored; all but maps are stored as they are.
    pub(super) fn statistic(&self) -> Statistic {
        self.kept_map().map_or(Statistic::Features, |map| map.statistic)
    }

    /// The same tap in another form. Only maps have other forms.
    pub(super) fn with_statistic(&self, statistic: Statistic) -> Self {
        let mut output = self.clone();
        if let Some(map) = output.kept_map_mut() {
            map.statistic = statistic;
        }
        output
    }

    /// The map pooled to a size no larger than its own.
    pub(super) fn pooled_to(&self, size: [usize; 2]) -> Self {
        let mut output = self.clone();
        if let Some(map) = output.kept_map_mut()
            && size != map.whole
        {
            map.pool = Some(size);
            let height = height_axis(map.layout);
            output.shape[height..height + 2].copy_from_slice(&size);
        }
        output
    }

    /// The tensor to read.
    pub(super) fn fetched(&self) -> &str {
        let computed = self.kept_map().and_then(|map| map.computed.as_deref());
        computed.unwrap_or(&self.tensor)
    }

    /// The map that it is, or is a statistic of, as pooled.
    pub(super) fn map(&self) -> Option<MapShape> {
        match (self.kept_map(), self.shape.as_slice()) {
            (Some(map), &[a, b, c]) => Some(MapShape::of_features(map.layout, [a, b, c])),
            _ => None,
        }
    }

    /// Height and width of a map, as pooled.
    pub(super) fn size(&self) -> Option<[usize; 2]> {
        self.map().map(|map| [map.height, map.width])
    }

    /// How many numbers a row of a statistic of it has.
    pub(super) fn elements(&self, statistic: Statistic) -> Option<usize> {
        self.map()?.row(statistic).map(|(shape, _)| shape.iter().product())
    }

    /// Shape and axis names of one stored row.
    ///
    /// # Errors
    /// When the statistic's size is beyond computing.
    pub(super) fn row(&self) -> Result<(Vec<usize>, Vec<String>)> {
        if let Some((part, k)) = self.kept_logits().and_then(|logits| logits.top) {
            let (mut shape, mut axes) = (self.shape.clone(), self.axes.clone());
            shape.pop();
            axes.pop();
            if part.has_top_axis() {
                shape.push(k);
                axes.push("top".to_owned());
            }
            return Ok((shape, axes));
        }
        if self.statistic() == Statistic::Features {
            return Ok((self.shape.clone(), self.axes.clone()));
        }
        let row = self.map().and_then(|map| map.row(self.statistic()));
        let (shape, axes) = row.ok_or_else(|| {
            Error::input(format!("{}: expected a map, found rows of {:?}", self.name(), self.shape))
        })?;
        Ok((shape, axes.iter().map(|&axis| axis.to_owned()).collect()))
    }

    /// How messages call it.
    pub(super) fn name(&self) -> String {
        match self.alias() {
            None => format!("logits (tensor `{}`)", self.tensor),
            Some(alias) => format!("tap {alias} (tensor `{}`)", self.tensor),
        }
    }
}

/// The axis of a map's row that is its height; its width is the next one.
pub(super) fn height_axis(layout: Layout) -> usize {
    match layout {
        Layout::Nchw => 1,
        Layout::Nhwc => 0,
    }
}

/// Outputs of one run of the teacher.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    pub(super) all: Vec<Output>,
    /// The tensors that they are made of, each once.
    pub(super) tensors: Vec<String>,
}

impl Outputs {
    pub(super) fn new(all: Vec<Output>) -> Self {
        let mut tensors: Vec<String> = Vec::new();
        for output in &all {
            if !tensors.iter().any(|tensor| tensor == output.fetched()) {
                tensors.push(output.fetched().to_owned());
            }
        }
        Self { all, tensors }
    }

    /// The values that an output is made of, among those of [`Outputs::tensors`].
    ///
    /// # Errors
    /// When they are missing.
    pub(super) fn values<'v>(&self, output: &Output, values: &'v [Array]) -> Result<&'v Array> {
        let at = self.tensors.iter().position(|tensor| tensor == output.fetched());
        at.and_then(|at| values.get(at)).ok_or_else(|| {
            Error::internal(format!("tensor `{}`: the run gave no value", output.fetched()))
        })
    }

    /// The outputs in the order in which their arrays stand in a cache, each with its place here.
    pub(super) fn in_order_of(&self, manifest: &Manifest) -> Vec<(usize, &Output)> {
        let of_path = |path: &str| self.all.iter().enumerate().find(|(_, o)| o.path() == path);
        manifest.view_arrays.iter().filter_map(|spec| of_path(&spec.path)).collect()
    }

    pub(super) fn logits(&self) -> Option<&Output> {
        self.all.iter().find(|output| output.tap().is_none())
    }

    /// How many classes a sample's logits tell apart; `None` where each position has logits.
    pub(super) fn classes(&self) -> Option<usize> {
        match *self.logits()?.shape.as_slice() {
            [classes] => Some(classes),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Codec, testing};

    /// A widened tap moves to the end of the cache, and the losses of the others stay theirs.
    #[test]
    fn outputs_keep_their_places_when_a_cache_has_another_order() {
        let output =
            |kind| Output { tensor: "t".into(), shape: vec![3], axes: vec!["c".into()], kind };
        let tap =
            KeptTap { alias: "conv".into(), stage: None, output: false, form: TapForm::Vector };
        let logits = KeptLogits { conversion: None, top: None };
        let kinds = [OutputKind::Tap(tap), OutputKind::Logits(logits)];
        let outputs = Outputs::new(kinds.map(output).to_vec());
        assert_eq!(outputs.tensors, ["t"]);
        let manifest = testing::manifest(8, 1, Codec::Raw);
        let order: Vec<(usize, String)> =
            outputs.in_order_of(&manifest).into_iter().map(|(at, o)| (at, o.path())).collect();
        assert_eq!(order, [(1, LOGITS.to_owned()), (0, "taps/conv/features".to_owned())]);
    }
}
