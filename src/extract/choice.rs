//! What is kept of the teacher: its logits and taps, chosen by the user or suggested by the graph.

use super::Job;
use super::keep::Undecided;
use super::output::Output;
use super::plan::First;
use super::ways;
use crate::array::Layout;
use crate::cache::{ArraySpec, Manifest};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::onnx::logits::{self, Conversion};
use crate::onnx::tap::{self, PREFIX_TOKENS_MAX, Role, Tap, TapChoice};
use crate::recipe::{Extract, Keep};
use crate::runtime::Probe;
use crate::statistic::Statistic;

/// The arrays that are kept, and the taps of which a form is still to be chosen: for those, the
/// arrays of all forms are among the outputs.
pub(super) struct Choice {
    pub(super) outputs: Vec<Output>,
    pub(super) undecided: Vec<Undecided>,
}

/// Decides what is kept: what the cache has; then the taps asked for (in a new cache the suggested
/// maps and the penultimate vector, if none are; in one that is there its own taps, if statistics
/// or criteria are named), then the logits (last, so that a value that is not finite is reported
/// where it arises).
///
/// # Errors
/// When a tap is unknown, its shape varies between samples, it cannot be pooled as asked, or the
/// cache has another one of its name.
pub(super) fn choose(
    recipe: &Extract,
    model: &Model,
    probe: &Probe,
    existing: Option<&Manifest>,
    monitor: &dyn Monitor,
) -> Result<Choice> {
    let candidates = tap::candidates(model, &probe.shapes);
    let mut outputs = Vec::new();
    if let Some(manifest) = existing {
        for spec in manifest.view_arrays.iter().filter(|spec| is_output(spec)) {
            outputs.push(recorded(spec, manifest, probe, &candidates)?);
        }
    }
    let mut undecided = Vec::new();
    let mut unread = Vec::new();
    for tap in taps(recipe, probe, &candidates, existing.map(|_| outputs.as_slice()), monitor)? {
        refuse_another(recipe, &outputs, &tap)?;
        let there: Vec<Statistic> = outputs
            .iter()
            .filter(|o| !o.is_logits && o.alias == tap.alias)
            .map(|o| o.statistic)
            .collect();
        refuse_statistics_of_volume(recipe, &tap)?;
        let ways = match tap.role {
            Role::Map => ways::ways(recipe, &tap, !recipe.taps.is_empty(), &there),
            _ if there.is_empty() => vec![vec![Statistic::Features]],
            _ => Vec::new(),
        };
        if ways.is_empty() && there.is_empty() {
            unread.push(tap.alias.clone());
        }
        let mut new = ways.concat();
        new.sort_unstable();
        new.dedup();
        if ways.len() > 1 {
            undecided.push(Undecided { alias: tap.alias.clone(), ways });
        }
        outputs.extend(new.into_iter().map(|statistic| Output { statistic, ..tap.clone() }));
    }
    if !unread.is_empty() {
        monitor.note(&format!(
            "no criterion reads maps, none is kept of {} (--keep features keeps them)",
            unread.join(", ")
        ));
    }
    let is_asked = existing.is_none() || recipe.logits.is_some();
    let logits = if is_asked { choose_logits(recipe, model, probe, monitor)? } else { None };
    if let Some(logits) = logits {
        refuse_another(recipe, &outputs, &logits)?;
        if !outputs.iter().any(|there| there.is_logits) {
            outputs.push(logits);
        }
    }
    if outputs.is_empty() {
        return Err(Error::input("teacher: no tap is suggested and there are no logits")
            .hint("name what to keep: --tap TENSOR (see `nst-cache inspect`)"));
    }
    Ok(Choice { outputs, undecided })
}

/// Refuses what cannot be made of a volume.
fn refuse_statistics_of_volume(recipe: &Extract, tap: &Output) -> Result<()> {
    let (Role::Volume, Keep::These(these)) = (tap.role, &recipe.keep) else { return Ok(()) };
    let Some(statistic) = these.iter().find(|s| **s != Statistic::Features) else { return Ok(()) };
    Err(Error::input(format!(
        "tap {}: expected a map to keep {} of, found rows of {:?}",
        tap.alias,
        statistic.name(),
        tap.shape
    ))
    .hint("--keep features keeps it whole"))
}

/// Says of which maps the axis order is a guess.
fn tell_of_guesses(
    choices: &[TapChoice],
    probe: &Probe,
    candidates: &[Tap],
    monitor: &dyn Monitor,
) {
    for choice in choices.iter().filter(|choice| choice.layout.is_none()) {
        let is_shown = candidates.iter().any(|tap| tap.tensor == choice.tensor);
        if !is_shown && probe.shapes.get(&choice.tensor).is_some_and(|shape| shape.len() == 4) {
            let tensor = &choice.tensor;
            monitor.note(&format!(
                "tap {tensor}: the graph does not show its axes, channels are taken to be first \
                 (--tap {tensor}:nhwc: last)"
            ));
        }
    }
}

/// Refuses a tap under a name that the cache has for another one.
fn refuse_another(recipe: &Extract, outputs: &[Output], new: &Output) -> Result<()> {
    let same = |there: &&Output| there.is_logits == new.is_logits && there.alias == new.alias;
    let Some(there) = outputs.iter().find(same) else { return Ok(()) };
    if (&there.tensor, &there.shape, &there.axes) == (&new.tensor, &new.shape, &new.axes) {
        return Ok(());
    }
    let (path, folder) = (there.path(), recipe.output.display());
    let shown = |o: &Output| format!("tensor `{}` {:?}", o.tensor, o.shape);
    Err(Error::input(format!(
        "cache {folder}: made with another tap: {path}: expected {}, found {}",
        shown(new),
        shown(there)
    ))
    .hint("give the new one a name of its own: --tap TENSOR=ALIAS"))
}

/// The taps that are asked for, as their features. `there`: what the cache has, if there is one.
fn taps(
    recipe: &Extract,
    probe: &Probe,
    candidates: &[Tap],
    there: Option<&[Output]>,
    monitor: &dyn Monitor,
) -> Result<Vec<Output>> {
    let Some(there) = there.filter(|_| recipe.taps.is_empty()) else {
        let choices = choose_taps(recipe, probe, candidates)?;
        tell_of_guesses(&choices, probe, candidates, monitor);
        let taps = choices
            .iter()
            .map(|choice| output(choice, probe, candidates))
            .collect::<Result<Vec<_>>>()?;
        let open = choices
            .iter()
            .zip(&taps)
            .filter(|(choice, tap)| choice.size.is_none() && tap.role == Role::Map);
        let (places, whole): (Vec<&TapChoice>, Vec<[usize; 2]>) =
            open.filter_map(|(choice, tap)| Some((choice, size(tap)?))).unzip();
        let sizes = fit(&whole, &recipe.sizes);
        let of = |choice: &TapChoice| {
            places
                .iter()
                .position(|place| place.tensor == choice.tensor)
                .and_then(|at| sizes.get(at))
                .copied()
        };
        let sized = |choice: &TapChoice| {
            output(
                &TapChoice { size: of(choice).or(choice.size), ..choice.clone() },
                probe,
                candidates,
            )
        };
        return choices.iter().map(sized).collect();
    };
    if recipe.keep == Keep::Auto && recipe.criteria.is_empty() {
        return Ok(Vec::new());
    }
    let mut taps: Vec<Output> = Vec::new();
    for tap in there.iter().filter(|o| o.role == Role::Map) {
        // with sizes one of each tensor is wanted, of the size that fits; else each as it is
        let is_known = |other: &Output| {
            if recipe.sizes.is_empty() {
                other.alias == tap.alias
            } else {
                other.tensor == tap.tensor
            }
        };
        if !taps.iter().any(is_known) {
            taps.push(Output { statistic: Statistic::Features, ..tap.clone() });
        }
    }
    if recipe.sizes.is_empty() {
        return Ok(taps);
    }
    let choice = |tap: &Output, size| TapChoice {
        tensor: tap.tensor.clone(),
        alias: tap.alias.clone(),
        layout: Some(tap.layout),
        size,
    };
    let whole: Vec<[usize; 2]> = taps
        .iter()
        .filter_map(|tap| {
            output(&choice(tap, None), probe, candidates)
                .ok()
                .as_ref()
                .and_then(size)
                .or_else(|| size(tap))
        })
        .collect();
    let fitted = |(tap, wanted): (&Output, [usize; 2])| {
        let found = there.iter().find(|o| o.tensor == tap.tensor && size(o) == Some(wanted));
        if let Some(found) = found {
            return Ok(Output { statistic: Statistic::Features, ..found.clone() });
        }
        let new = output(&choice(tap, Some(wanted)), probe, candidates)?;
        Ok(Output { alias: format!("{}-{}x{}", tap.alias, wanted[0], wanted[1]), ..new })
    };
    taps.iter().zip(fit(&whole, &recipe.sizes)).map(fitted).collect()
}

/// Height and width of a map.
fn size(tap: &Output) -> Option<[usize; 2]> {
    tap.map().map(|map| [map.height, map.width])
}

/// The size at which each of a teacher's maps is kept for maps of `sizes` to be compared with, both
/// shallowest first: sizes that both have go together; only if they share none, the maps are paired
/// from the deepest up, and those that are larger are pooled.
fn fit(maps: &[[usize; 2]], sizes: &[[usize; 2]]) -> Vec<[usize; 2]> {
    let mut fitted = maps.to_vec();
    if !maps.iter().any(|map| sizes.contains(map)) {
        for (map, size) in fitted.iter_mut().rev().zip(sizes.iter().rev()) {
            *map = [map[0].min(size[0]), map[1].min(size[1])];
        }
    }
    fitted
}

/// Whether an array of a cache holds values of the teacher.
pub(super) fn is_output(spec: &ArraySpec) -> bool {
    spec.path == "logits" || spec.path.starts_with("taps/")
}

fn choose_logits(
    recipe: &Extract,
    model: &Model,
    probe: &Probe,
    monitor: &dyn Monitor,
) -> Result<Option<Output>> {
    let row = |tensor: &str| logits::row(&probe.shapes, tensor);
    let found = if let Some(name) = &recipe.logits {
        row_shape(name, probe)?;
        logits::of_tensor(model, name)
            .choose(row)
            .map_err(|reason| Error::input(format!("--logits {name}: {reason}")))?
    } else {
        let found = logits::of_output(model)
            .ok_or_else(|| "the teacher's first output is not [batch, classes]".to_owned());
        match found.and_then(|found| found.choose(row)) {
            Ok(found) => found,
            Err(reason) => {
                monitor.note(&format!("{reason}: no logits are kept (--logits TENSOR names them)"));
                return Ok(None);
            }
        }
    };
    if let Some(note) = &found.note {
        monitor.note(&format!("logits: {note}"));
    }
    Ok(Some(logits(&found.tensor, found.classes, found.conversion)))
}

/// The array of the logits.
pub(super) fn logits(tensor: &str, classes: usize, conversion: Option<Conversion>) -> Output {
    Output {
        tensor: tensor.to_owned(),
        alias: String::new(),
        role: Role::Logits,
        stage: None,
        layout: Layout::Nchw,
        grid: None,
        pool: None,
        shape: vec![classes],
        axes: vec!["class".to_owned()],
        is_logits: true,
        conversion,
        statistic: Statistic::Features,
        computed: None,
    }
}

/// Converts logits of which every row of the first batch is probabilities, although nothing in the
/// graph says so: the mean of several softmaxes, a tree.
///
/// # Errors
/// When the batch lacks them.
pub(super) fn convert_probabilities(
    job: &mut Job<'_>,
    first: &First,
    monitor: &dyn Monitor,
) -> Result<()> {
    let Some(at) =
        job.outputs.iter().position(|output| output.is_logits && output.conversion.is_none())
    else {
        return Ok(());
    };
    let Some(output) = job.outputs.get(at) else { return Ok(()) };
    let classes = output.shape.iter().product::<usize>();
    let values = job.values(output, &first.values)?.to_f32();
    if !logits::are_probabilities(values.get(..first.rows * classes).unwrap_or_default(), classes) {
        return Ok(());
    }
    let is_there = job
        .existing
        .is_some_and(|manifest| manifest.view_arrays.iter().any(|spec| spec.path == output.path()));
    if is_there {
        monitor.warn(
            "the cache's logits are probabilities: extract into another folder (-o), where they \
             are converted",
        );
    } else if let Some(output) = job.outputs.get_mut(at) {
        monitor.note(&format!("logits: {}", Conversion::Probabilities.describe(&output.tensor)));
        output.conversion = Some(Conversion::Probabilities);
    }
    Ok(())
}

fn choose_taps(recipe: &Extract, probe: &Probe, candidates: &[Tap]) -> Result<Vec<TapChoice>> {
    let mut names: Vec<&str> = probe
        .shapes
        .keys()
        .map(String::as_str)
        .chain(probe.refused.iter().map(|(name, _)| name.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    if !recipe.taps.is_empty() {
        return tap::resolve(&recipe.taps, &names);
    }
    let suggested: Vec<String> = candidates
        .iter()
        .filter(|t| t.suggested && t.role != Role::Logits)
        .map(|t| t.tensor.clone())
        .collect();
    tap::resolve(&suggested, &names)
}

/// The array of a tap.
pub(super) fn output(choice: &TapChoice, probe: &Probe, candidates: &[Tap]) -> Result<Output> {
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
    let mut output = Output {
        tensor: choice.tensor.clone(),
        alias: choice.alias.clone(),
        role: Role::Vector,
        stage: candidate.and_then(|t| t.stage),
        layout: Layout::Nchw,
        grid: None,
        pool: None,
        shape: found.clone(),
        axes: vec!["c".to_owned()],
        is_logits: false,
        conversion: None,
        statistic: Statistic::Features,
        computed: None,
    };
    match (found.as_slice(), choice.size) {
        (&[_], None) => return Ok(output),
        (&[channels, positions], _) if is_flat_map(choice, candidate) => {
            let grid = candidate
                .and_then(|t| t.grid)
                .filter(|[h, w]| h.checked_mul(*w) == Some(positions))
                .unwrap_or([1, positions]);
            (output.grid, output.shape) = (Some(grid), vec![channels, grid[0], grid[1]]);
        }
        (&[tokens, channels], _) => {
            let grid = grid_of_tokens(choice, tokens, candidate)?;
            (output.layout, output.grid, output.shape) =
                (Layout::Nhwc, Some(grid), vec![grid[0], grid[1], channels]);
        }
        (&[_, _, _], _) => {
            output.layout =
                choice.layout.or(candidate.and_then(|t| t.layout)).unwrap_or(Layout::Nchw);
        }
        (&[_] | &[_, _, _, _, ..], Some([h, w])) => {
            return refuse(&format!("a map to pool to {h}x{w}"));
        }
        (&[_, _, _, _, ..], None) => {
            let is_volume = candidate.is_some_and(|t| t.role == Role::Volume);
            output.axes = match found.len() {
                4 if is_volume => ["c", "d", "h", "w"].map(str::to_owned).to_vec(),
                rank => (0..rank).map(|axis| format!("axis{axis}")).collect(),
            };
            output.role = Role::Volume;
            return Ok(output);
        }
        _ => return refuse("2 axes or more with the batch"),
    }
    output.role = Role::Map;
    // where height stands; width follows
    let (height, axes) = match output.layout {
        Layout::Nchw => (1, ["c", "h", "w"]),
        Layout::Nhwc => (0, ["h", "w", "c"]),
    };
    output.axes = axes.map(str::to_owned).to_vec();
    let whole = [output.shape[height], output.shape[height + 1]];
    if let Some([h, w]) = choice.size.filter(|&size| size != whole) {
        if h > whole[0] || w > whole[1] {
            return refuse(&format!("a map of {h}x{w} or more to pool"));
        }
        output.pool = Some([h, w]);
        output.shape[height..height + 2].copy_from_slice(&[h, w]);
    }
    Ok(output)
}

/// Whether rows of rank 2 are the channels of a flat map, and not tokens: as the user says, else as
/// the graph shows.
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

/// How an array of the cache is computed from its tensor.
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
    if spec.path == "logits" {
        let classes = row_shape(&tensor, probe)?.iter().product();
        return Ok(logits(&tensor, classes, manifest.logits.and_then(|logits| logits.made_of)));
    }
    let (alias, statistic) = Statistic::of_path(&spec.path).ok_or_else(unknown)?;
    let map = manifest.map(alias);
    let choice = TapChoice {
        tensor,
        alias: alias.to_owned(),
        layout: map.map(|map| map.layout),
        size: map.map(|map| [map.height, map.width]),
    };
    Ok(Output { statistic, ..output(&choice, probe, candidates)? })
}

/// The probed shape of one row of a tensor.
fn row_shape(tensor: &str, probe: &Probe) -> Result<Vec<usize>> {
    if let Some((_, reason)) = probe.refused.iter().find(|(name, _)| name == tensor) {
        return Err(Error::input(format!("tap `{tensor}`: {reason}"))
            .hint("nst-cache inspect lists the taps that can be kept"));
    }
    let Some(shape) = probe.shapes.get(tensor) else {
        let names: Vec<&str> = probe.shapes.keys().map(String::as_str).collect();
        // resolving an unknown name gives the error that lists the nearest ones
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
    fn maps_are_pooled_only_where_no_size_is_shared() {
        let teacher = [[56, 56], [28, 28], [14, 14], [7, 7]];
        assert_eq!(fit(&teacher, &[]), teacher);
        assert_eq!(fit(&teacher, &[[28, 28], [14, 14], [4, 4]]), teacher);
        assert_eq!(
            fit(&teacher, &[[20, 20], [10, 10], [5, 5]]),
            [[56, 56], [20, 20], [10, 10], [5, 5]]
        );
        assert_eq!(
            fit(&teacher, &[[40, 40], [20, 20], [10, 3], [8, 9]]),
            [[40, 40], [20, 20], [10, 3], [7, 7]]
        );
    }

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
        };
        assert_eq!(
            grid_of_tokens(&choice(Some([2, 2])), 17, Some(&of_graph(Some([4, 4])))).unwrap(),
            [4, 4]
        );
        assert_eq!(
            grid_of_tokens(&choice(Some([4, 4])), 17, Some(&of_graph(None))).unwrap(),
            [4, 4]
        );
        // the user says otherwise than the graph shows
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
