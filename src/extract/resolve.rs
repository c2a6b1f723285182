//! From a tap, or an array of a cache, to the output that is read from the teacher.

use super::output::{KeptLogits, KeptMap, KeptTap, Output, OutputKind, TapForm, height_axis};
use crate::array::Layout;
use crate::cache::{ArraySpec, Manifest};
use crate::error::{Error, Result};
use crate::onnx::tap::{self, PREFIX_TOKENS_MAX, Role, Tap, TapChoice};
use crate::runtime::Probe;
use crate::statistic::{LOGITS, Statistic, TopPart};

/// Whether an array of a cache holds values of the teacher.
pub(super) fn is_output(spec: &ArraySpec) -> bool {
    is_logits(spec) || spec.path.starts_with("taps/")
}

/// Whether an array of a cache holds the logits, or a part of them.
pub(super) fn is_logits(spec: &ArraySpec) -> bool {
    spec.path == LOGITS || TopPart::of_path(&spec.path).is_some()
}

/// How an array of a cache is computed from its tensor.
///
/// # Errors
/// When the teacher has no such tensor, or the array is not one that could be made of it.
pub(super) fn recorded(
    spec: &ArraySpec,
    manifest: &Manifest,
    probe: &Probe,
    candidates: &[Tap],
) -> Result<Output> {
    let unknown = || {
        Error::input(format!(
            "cache array {}: expected logits or a statistic of a tap of the teacher",
            spec.path
        ))
    };
    let tensor = spec.tensor.clone().ok_or_else(unknown)?;
    if is_logits(spec) {
        row_shape(&tensor, probe)?;
        let conversion = manifest.logits.as_ref().and_then(|logits| logits.made_of);
        let top = TopPart::of_path(&spec.path).zip(manifest.top().map(|top| top.k));
        let shape = manifest.logits_row().ok_or_else(unknown)?;
        return Ok(logits(&tensor, shape, KeptLogits { conversion, top }));
    }
    let (alias, statistic) = Statistic::of_path(&spec.path).ok_or_else(unknown)?;
    let map = manifest.map(alias);
    let choice = TapChoice {
        tensor,
        alias: alias.to_owned(),
        layout: map.map(|map| map.layout),
        size: map.map(|map| [map.height, map.width]),
    };
    let output = features(&choice, probe, candidates)?.with_statistic(statistic);
    if output.statistic() == statistic { Ok(output) } else { Err(unknown()) }
}

/// An array of the logits; a row of them is `[classes]` or `[positions, classes]`.
pub(super) fn logits(tensor: &str, shape: Vec<usize>, kept: KeptLogits) -> Output {
    let axes = if shape.len() == 1 { &["class"][..] } else { &["t", "class"] };
    Output {
        tensor: tensor.to_owned(),
        shape,
        axes: axes.iter().map(|&axis| axis.to_owned()).collect(),
        kind: OutputKind::Logits(kept),
    }
}

/// The array of a tap's features.
///
/// # Errors
/// When the teacher has no such tensor, its shape varies between samples, or it is no map where the
/// choice asks for one.
pub(super) fn features(choice: &TapChoice, probe: &Probe, candidates: &[Tap]) -> Result<Output> {
    let found = row_shape(&choice.tensor, probe)?;
    let candidate = candidates.iter().find(|t| t.tensor == choice.tensor);
    let refuse = |expected: &str| {
        Err(Error::input(format!(
            "tap `{}`: expected {expected}, found rows of {found:?}",
            choice.tensor
        )))
    };
    if choice.layout.is_some() && !matches!(found.len(), 2 | 3) {
        return refuse("a map, which alone has an axis order");
    }
    let output = |form, shape: &[usize], axes: Vec<String>| {
        let (alias, stage) = (choice.alias.clone(), candidate.and_then(|t| t.stage));
        let is_output = candidate.is_some_and(|t| t.output);
        Output {
            tensor: choice.tensor.clone(),
            shape: shape.to_vec(),
            axes,
            kind: OutputKind::Tap(KeptTap { alias, stage, output: is_output, form }),
        }
    };
    let (layout, grid, shape) = match (found.as_slice(), choice.size) {
        (&[_], None) => return Ok(output(TapForm::Vector, &found, vec!["c".to_owned()])),
        (&[], None) => return Ok(output(TapForm::Vector, &[1], vec!["c".to_owned()])),
        (&[channels, positions], _) if is_flat_map(choice, candidate) => {
            let grid = candidate
                .and_then(|t| t.grid)
                .filter(|[h, w]| h.checked_mul(*w) == Some(positions))
                .unwrap_or([1, positions]);
            (Layout::Nchw, Some(grid), [channels, grid[0], grid[1]])
        }
        (&[_, _], None) if candidate.is_some_and(is_of_no_image) => {
            let axes = match candidate.map(|t| t.role) {
                Some(Role::Tokens) => ["t", "c"],
                _ => ["axis0", "axis1"],
            };
            let axes = axes.map(str::to_owned).to_vec();
            return Ok(output(TapForm::Whole(Role::Values), &found, axes));
        }
        (&[tokens, channels], _) => {
            let grid = grid_of_tokens(choice, tokens, candidate)?;
            (Layout::Nhwc, Some(grid), [grid[0], grid[1], channels])
        }
        (&[_, _, _], None) if candidate.is_some_and(|t| t.role == Role::Values) => {
            let axes = ["axis0", "axis1", "axis2"].map(str::to_owned).to_vec();
            return Ok(output(TapForm::Whole(Role::Values), &found, axes));
        }
        (&[a, b, c], _) => {
            let layout = choice.layout.or(candidate.and_then(|t| t.layout));
            (layout.unwrap_or(Layout::Nchw), None, [a, b, c])
        }
        (&[_] | &[_, _, _, _, ..], Some([h, w])) => {
            return refuse(&format!("a map to pool to {h}x{w}"));
        }
        (&[_, _, _, _, ..], None) => {
            let is_volume = candidate.is_some_and(|t| t.role == Role::Volume);
            let axes = match found.len() {
                4 if is_volume => ["c", "d", "h", "w"].map(str::to_owned).to_vec(),
                rank => (0..rank).map(|axis| format!("axis{axis}")).collect(),
            };
            let role = if is_volume { Role::Volume } else { Role::Values };
            return Ok(output(TapForm::Whole(role), &found, axes));
        }
        _ => return refuse("2 axes or more with the batch"),
    };
    let axes = match layout {
        Layout::Nchw => ["c", "h", "w"],
        Layout::Nhwc => ["h", "w", "c"],
    };
    let height = height_axis(layout);
    let whole = [shape[height], shape[height + 1]];
    if let Some([h, w]) = choice.size
        && (h > whole[0] || w > whole[1])
    {
        return refuse(&format!("a map of {h}x{w} or more to pool"));
    }
    let map =
        KeptMap { layout, grid, whole, pool: None, statistic: Statistic::Features, computed: None };
    let axes = axes.map(str::to_owned).to_vec();
    Ok(output(TapForm::Map(map), &shape, axes).pooled_to(choice.size.unwrap_or(whole)))
}

/// Whether rows of rank 2 are kept whole: tokens of a text, or an output, of which the tokens
/// before those of an image are a part.
fn is_of_no_image(tap: &Tap) -> bool {
    tap.role == Role::Values || (tap.role == Role::Tokens && (tap.grid.is_none() || tap.output))
}

/// Whether rows of rank 2 are the channels of a flat map rather than tokens: as the user says, else
/// as the graph shows.
fn is_flat_map(choice: &TapChoice, candidate: Option<&Tap>) -> bool {
    choice.layout.or(candidate.and_then(|t| t.layout)) == Some(Layout::Nchw)
}

/// Height and width of the image that tokens cover: as the graph shows, else as `@HxW` says.
fn grid_of_tokens(
    choice: &TapChoice,
    tokens: usize,
    candidate: Option<&Tap>,
) -> Result<[usize; 2]> {
    let covers = |[h, w]: &[usize; 2]| {
        h.checked_mul(*w)
            .and_then(|n| tokens.checked_sub(n))
            .is_some_and(|prefix| prefix <= PREFIX_TOKENS_MAX)
    };
    candidate.and_then(|t| t.grid).filter(covers).or(choice.size.filter(covers)).ok_or_else(|| {
        Error::input(format!(
            "tap `{}`: expected tokens of an image, H·W with at most {PREFIX_TOKENS_MAX} before \
             them, found {tokens} of unknown height and width",
            choice.tensor
        ))
        .hint(format!("name their height and width: --tap {}@HxW", choice.tensor))
    })
}

/// The probed shape of one row of a tensor.
pub(super) fn row_shape(tensor: &str, probe: &Probe) -> Result<Vec<usize>> {
    if let Some((_, reason)) = probe.refused.iter().find(|(name, _)| name == tensor) {
        return Err(Error::input(format!("tap `{tensor}`: {reason}"))
            .hint("nst-cache inspect lists the taps that can be kept"));
    }
    let Some(shape) = probe.shapes.get(tensor) else {
        let names: Vec<&str> = probe.shapes.keys().map(String::as_str).collect();
        // the error for an unknown name lists the nearest ones
        tap::resolve(&[tensor.to_owned()], &names)?;
        return Err(Error::input(format!("tensor `{tensor}`: not in the model")));
    };
    let row: Option<Vec<usize>> = shape.get(1..).unwrap_or_default().iter().copied().collect();
    row.filter(|row| !row.contains(&0)).ok_or_else(|| {
        Error::input(format!("tap `{tensor}`: its shape varies between samples, found {shape:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cover_the_image_that_the_graph_shows_or_the_user_names() {
        let choice = |size| TapChoice { tensor: "h".into(), alias: "h".into(), layout: None, size };
        let of_graph = |grid| Tap {
            tensor: "h".into(),
            op: "Add".into(),
            shape: vec![None, Some(17), Some(8)],
            role: Role::Tokens,
            layout: None,
            grid,
            stage: None,
            suggested: false,
            output: false,
        };
        assert_eq!(
            grid_of_tokens(&choice(Some([2, 2])), 17, Some(&of_graph(Some([4, 4])))).unwrap(),
            [4, 4]
        );
        assert_eq!(
            grid_of_tokens(&choice(Some([4, 4])), 17, Some(&of_graph(None))).unwrap(),
            [4, 4]
        );
        // the graph and the user disagree
        assert!(grid_of_tokens(&choice(None), 8, Some(&of_graph(Some([4, 4])))).is_err());
        for size in [None, Some([5, 4]), Some([usize::MAX, 2])] {
            let error = grid_of_tokens(&choice(size), 17, None).unwrap_err();
            assert!(
                error.to_string().contains("found 17")
                    && error.find_hint().is_some_and(|h| h.contains("--tap h@HxW")),
                "{error}"
            );
        }
    }
}
