//! What is kept of the teacher: its logits and taps, chosen by the user or suggested by the graph.

use super::output::{KeptLogits, KeptMap, KeptTap, Output, OutputKind, Outputs, TapForm};
use super::{resolve, ways};
use crate::array::Array;
use crate::cache::Manifest;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::logits::{self, Conversion, Logits};
use crate::onnx::tap::{self, Role, Tap, TapChoice};
use crate::onnx::{Model, Value};
use crate::recipe::{Extract, Keep, LogitsChoice, LogitsKeep};
use crate::runtime::Probe;
use crate::statistic::{Statistic, TopPart};

/// The arrays that are kept, and the taps of which a form is still to be chosen: for those, the
/// arrays of all forms are among the outputs.
pub(super) struct Choice {
    pub(super) outputs: Vec<Output>,
    pub(super) undecided: Vec<Undecided>,
}

/// A tap whose form is still to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undecided {
    pub(super) alias: String,
    /// Sets of statistics any one of which suffices, together with those in the cache.
    pub(super) ways: Vec<Vec<Statistic>>,
}

/// Decides what is kept: first what an existing cache has; then the recipe's taps (without any, a
/// new cache's are the suggested maps and the penultimate vector, an existing cache's are its own
/// where statistics or criteria are named); then the logits (last, so that a value that is not
/// finite is reported where it arises).
///
/// # Errors
/// When a tap is unknown, its shape varies between samples, it cannot be pooled as asked, or the
/// cache has another tap of its name. `classes`: how many the data has, 0 if unknown.
pub(super) fn choose(
    recipe: &Extract,
    model: &Model,
    probe: &Probe,
    classes: usize,
    existing: Option<&Manifest>,
    monitor: &dyn Monitor,
) -> Result<Choice> {
    let keep = logits_keep(recipe, existing)?;
    let is_asked = existing.is_none()
        || recipe.logits != LogitsChoice::Auto
        || (recipe.logits_keep.is_some() && existing.is_none_or(|m| m.logits_array().is_none()));
    let logits = if is_asked {
        choose_logits(recipe, keep, model, probe, classes, monitor)?
    } else {
        Vec::new()
    };
    let kept = existing.and_then(Manifest::logits_array);
    let tensor = match logits.first() {
        Some(output) => Some(output.tensor.as_str()),
        None => kept.and_then(|spec| spec.tensor.as_deref()),
    };
    let candidates = tap::candidates(model, &probe.shapes, tensor);
    let mut outputs = Vec::new();
    if let Some(manifest) = existing {
        for spec in manifest.view_arrays.iter().filter(|spec| resolve::is_output(spec)) {
            outputs.push(resolve::recorded(spec, manifest, probe, &candidates)?);
        }
    }
    let mut undecided = Vec::new();
    let mut unread = Vec::new();
    for tap in taps(recipe, probe, &candidates, existing.map(|_| outputs.as_slice()), monitor)? {
        refuse_another(recipe, &outputs, &tap)?;
        let Some(KeptTap { alias, form, .. }) = tap.tap() else { continue };
        let there: Vec<Statistic> =
            outputs.iter().filter(|o| o.alias() == Some(alias)).map(Output::statistic).collect();
        refuse_statistics_of_whole(recipe, &tap)?;
        let ways = match form {
            TapForm::Map(_) => ways::ways(recipe, &tap, !recipe.taps.is_empty(), &there),
            _ if there.is_empty() => vec![vec![Statistic::Features]],
            _ => Vec::new(),
        };
        if ways.is_empty() && there.is_empty() {
            unread.push(alias.clone());
        }
        let mut new = ways.concat();
        new.sort_unstable();
        new.dedup();
        if ways.len() > 1 {
            undecided.push(Undecided { alias: alias.clone(), ways });
        }
        outputs.extend(new.into_iter().map(|statistic| tap.with_statistic(statistic)));
    }
    if !unread.is_empty() {
        monitor.note(&format!(
            "no criterion reads maps, none is kept of {} (--keep features keeps them)",
            unread.join(", ")
        ));
    }
    if let Some(first) = logits.first() {
        refuse_another(recipe, &outputs, first)?;
        if outputs.iter().all(|there| there.tap().is_some()) {
            outputs.extend(logits);
        }
    }
    if existing.is_none() && recipe.taps.is_empty() {
        tell_of_unkept(model, classes, &outputs, probe, monitor);
    }
    if outputs.is_empty() {
        return Err(Error::input("teacher: no tap is suggested and there are no logits")
            .hint("name what to keep: --tap TENSOR (see `nst-cache inspect`)"));
    }
    Ok(Choice { outputs, undecided })
}

/// Notes the teacher's outputs that are not kept, with the reason.
fn tell_of_unkept(
    model: &Model,
    classes: usize,
    outputs: &[Output],
    probe: &Probe,
    monitor: &dyn Monitor,
) {
    let is_classifier = outputs.iter().any(|output| output.tap().is_none());
    // what a softmax makes of the class logits
    let behind = logits::of_output(model, classes).filter(|_| is_classifier);
    let reason = |output: &Value| match output.dtype {
        Some(dtype) if !dtype.is_float() => format!("{} values", output.kind),
        _ if is_classifier && probe.shapes.contains_key(&output.name) => {
            format!("beside the class logits; --tap {} keeps it", output.name)
        }
        _ => "its shape is not that of one row per sample".to_owned(),
    };
    let is_kept = |name: &str| outputs.iter().any(|output| output.tensor == name);
    let is_behind = |name: &str| behind.as_ref().is_some_and(|found| found.tensor() == name);
    let unkept: Vec<String> = model
        .outputs()
        .iter()
        .filter(|output| !is_kept(&output.name) && !is_behind(&output.name))
        .map(|output| format!("`{}` ({})", output.name, reason(output)))
        .collect();
    if !unkept.is_empty() {
        monitor.note(&format!("outputs that are not kept: {}", unkept.join(", ")));
    }
}

/// Refuses statistics of what is kept whole.
fn refuse_statistics_of_whole(recipe: &Extract, tap: &Output) -> Result<()> {
    let Some(KeptTap { alias, form: TapForm::Whole(_), .. }) = tap.tap() else { return Ok(()) };
    let Keep::These(these) = &recipe.keep else { return Ok(()) };
    let Some(statistic) = these.iter().find(|s| **s != Statistic::Features) else { return Ok(()) };
    Err(Error::input(format!(
        "tap {alias}: expected a map to keep {} of, found rows of {:?}",
        statistic.name(),
        tap.shape
    ))
    .hint("--keep features keeps it whole"))
}

/// Notes the maps whose axis order is a guess.
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

/// Refuses a tap under a name that the cache uses for another one.
fn refuse_another(recipe: &Extract, outputs: &[Output], new: &Output) -> Result<()> {
    let same = outputs.iter().find(|there| there.alias() == new.alias());
    let Some(there) = same else { return Ok(()) };
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

/// The features of the recipe's taps: those that it names, else the cache's, else the suggested
/// ones.
fn taps(
    recipe: &Extract,
    probe: &Probe,
    candidates: &[Tap],
    cached: Option<&[Output]>,
    monitor: &dyn Monitor,
) -> Result<Vec<Output>> {
    match cached {
        Some(cached) if recipe.taps.is_empty() => cached_taps(recipe, probe, candidates, cached),
        _ => {
            let choices = choose_taps(recipe, probe, candidates)?;
            tell_of_guesses(&choices, probe, candidates, monitor);
            named_taps(recipe, probe, candidates, &choices)
        }
    }
}

/// These taps; maps whose size is left open fit the sizes that the recipe has.
fn named_taps(
    recipe: &Extract,
    probe: &Probe,
    candidates: &[Tap],
    choices: &[TapChoice],
) -> Result<Vec<Output>> {
    let mut taps = choices
        .iter()
        .map(|choice| resolve::features(choice, probe, candidates))
        .collect::<Result<Vec<_>>>()?;
    let open: Vec<(&mut Output, [usize; 2])> = choices
        .iter()
        .zip(&mut taps)
        .filter(|(choice, _)| choice.size.is_none())
        .filter_map(|(_, tap)| tap.size().map(|size| (tap, size)))
        .collect();
    let sizes: Vec<[usize; 2]> = open.iter().map(|(_, size)| *size).collect();
    for ((tap, _), size) in open.into_iter().zip(fit(&sizes, &recipe.sizes)) {
        *tap = tap.pooled_to(size);
    }
    Ok(taps)
}

/// The cache's maps, where the recipe asks for more of them: where it has sizes, each tensor once,
/// in the size that fits; else each map as it is.
fn cached_taps(
    recipe: &Extract,
    probe: &Probe,
    candidates: &[Tap],
    cached: &[Output],
) -> Result<Vec<Output>> {
    if recipe.keep == Keep::Auto && recipe.criteria.is_empty() {
        return Ok(Vec::new());
    }
    let mut taps: Vec<(Output, &KeptMap)> = Vec::new();
    for (tap, map) in cached.iter().filter_map(|o| Some((o, o.kept_map()?))) {
        let is_known = |(other, _): &(Output, _)| {
            if recipe.sizes.is_empty() {
                other.alias() == tap.alias()
            } else {
                other.tensor == tap.tensor
            }
        };
        if !taps.iter().any(is_known) {
            taps.push((tap.with_statistic(Statistic::Features), map));
        }
    }
    if recipe.sizes.is_empty() {
        return Ok(taps.into_iter().map(|(tap, _)| tap).collect());
    }
    let whole: Vec<[usize; 2]> = taps.iter().map(|(_, map)| map.whole).collect();
    let fitted = |((tap, map), size): (&(Output, &KeptMap), [usize; 2])| {
        let same = cached.iter().find(|o| o.tensor == tap.tensor && o.size() == Some(size));
        if let Some(same) = same {
            return Ok(same.with_statistic(Statistic::Features));
        }
        let alias = tap.alias().unwrap_or_default();
        let choice = TapChoice {
            tensor: tap.tensor.clone(),
            alias: format!("{alias}-{}x{}", size[0], size[1]),
            layout: Some(map.layout),
            size: Some(size),
        };
        resolve::features(&choice, probe, candidates)
    };
    taps.iter().zip(fit(&whole, &recipe.sizes)).map(fitted).collect()
}

/// The sizes at which a teacher's maps are kept, to be compared with maps of `sizes`; both are
/// shallowest first. Where they share a size, maps stay as they are. Otherwise they are paired from
/// the deepest up, and the larger ones are pooled.
fn fit(maps: &[[usize; 2]], sizes: &[[usize; 2]]) -> Vec<[usize; 2]> {
    let mut fitted = maps.to_vec();
    if !maps.iter().any(|map| sizes.contains(map)) {
        for (map, size) in fitted.iter_mut().rev().zip(sizes.iter().rev()) {
            *map = [map[0].min(size[0]), map[1].min(size[1])];
        }
    }
    fitted
}

/// What is kept of the logits: as the recipe says, else as the cache has them.
///
/// # Errors
/// When the cache has them in another form.
fn logits_keep(recipe: &Extract, existing: Option<&Manifest>) -> Result<LogitsKeep> {
    let there = existing
        .filter(|manifest| manifest.logits_array().is_some())
        .map(|manifest| manifest.top().map_or(LogitsKeep::All, |top| LogitsKeep::Top(top.k)));
    match (recipe.logits_keep, there) {
        (Some(asked), Some(there)) if asked != there => Err(Error::input(format!(
            "cache {}: made with another --logits-keep: expected {asked}, found {there}",
            recipe.output.display()
        ))
        .hint("choose another folder with -o: a cache holds its logits in one form")),
        (asked, there) => Ok(asked.or(there).unwrap_or_default()),
    }
}

/// The arrays of the logits; none if there are no logits to keep.
fn choose_logits(
    recipe: &Extract,
    keep: LogitsKeep,
    model: &Model,
    probe: &Probe,
    classes: usize,
    monitor: &dyn Monitor,
) -> Result<Vec<Output>> {
    let row = |tensor: &str| logits::row(&probe.shapes, tensor);
    let found = match &recipe.logits {
        LogitsChoice::None if recipe.logits_keep.is_some() => {
            return Err(Error::input(format!(
                "--logits-keep {keep}: expected logits to keep, found --logits none"
            )));
        }
        LogitsChoice::None => return Ok(Vec::new()),
        LogitsChoice::Tensor(name) => {
            resolve::row_shape(name, probe)?;
            logits::of_tensor(model, name)
                .of_positions()
                .choose(row)
                .map_err(|reason| Error::input(format!("--logits {name}: {reason}")))?
        }
        LogitsChoice::Auto => {
            // a file of the teacher's classes says that it has some
            let found = match (recipe.classes.is_some(), logits::of_output(model, classes)) {
                (true, Some(found)) => found.choose(row),
                _ => logits::find(model, &probe.shapes, classes),
            };
            match found {
                Ok(found) => found,
                Err(reason) if recipe.logits_keep.is_some() => {
                    return Err(Error::input(format!(
                        "--logits-keep {keep}: expected class logits, found none: {reason}"
                    ))
                    .hint("name them: --logits TENSOR"));
                }
                Err(reason) => {
                    monitor.note(&format!(
                        "{reason}: no class logits are kept (--logits TENSOR names them)"
                    ));
                    return Ok(Vec::new());
                }
            }
        }
    };
    if let LogitsKeep::Top(k) = keep {
        refuse_no_distribution(model, &found, k)?;
    }
    if let Some(note) = &found.note {
        monitor.note(&format!("logits: {note}"));
    }
    let shape: Vec<usize> = found.positions.into_iter().chain([found.classes]).collect();
    Ok(logits_arrays(&found.tensor, &shape, found.conversion, keep))
}

/// The one array of dense logits, or those of sparse ones.
pub(super) fn logits_arrays(
    tensor: &str,
    shape: &[usize],
    conversion: Option<Conversion>,
    keep: LogitsKeep,
) -> Vec<Output> {
    let array = |top| resolve::logits(tensor, shape.to_vec(), KeptLogits { conversion, top });
    match keep {
        LogitsKeep::All => vec![array(None)],
        LogitsKeep::Top(k) => TopPart::ALL.map(|part| array(Some((part, k)))).to_vec(),
    }
}

/// Whether logits are those of a sigmoid each, so that they are no distribution over classes.
pub(super) fn are_independent(model: &Model, tensor: &str, conversion: Option<Conversion>) -> bool {
    conversion == Some(Conversion::Sigmoid) || logits::are_independent(model, tensor)
}

/// Refuses the K largest of what is no distribution over at least K classes.
fn refuse_no_distribution(model: &Model, found: &Logits, k: usize) -> Result<()> {
    let Logits { tensor, classes, .. } = found;
    if k > *classes {
        return Err(Error::input(format!(
            "--logits-keep topk:{k}: expected at most {classes}, the classes of `{tensor}`, found \
             {k}"
        )));
    }
    if are_independent(model, tensor, found.conversion) {
        return Err(Error::input(format!(
            "--logits-keep topk:{k}: expected a distribution over classes, found independent \
             sigmoids in `{tensor}`"
        ))
        .hint("--logits-keep all keeps the logits of all classes"));
    }
    Ok(())
}

/// Converts logits where each of the first rows holds probabilities although nothing in the graph
/// shows that (a mean of several softmaxes, a tree). `values`: the teacher's output for these rows.
///
/// # Errors
/// When the logits are missing among the values.
pub(super) fn convert_probabilities(
    outputs: Outputs,
    existing: Option<&Manifest>,
    values: &[Array],
    rows: usize,
    monitor: &dyn Monitor,
) -> Result<Outputs> {
    let unconverted =
        |o: &&Output| o.kept_logits().is_some_and(|logits| logits.conversion.is_none());
    let Some(found) = outputs.all.iter().find(unconverted) else { return Ok(outputs) };
    let classes = found.shape.last().copied().unwrap_or(0);
    let count = rows * found.shape.iter().product::<usize>();
    let values = outputs.values(found, values)?.to_f32();
    if !logits::are_probabilities(values.get(..count).unwrap_or_default(), classes) {
        return Ok(outputs);
    }
    if existing.is_some_and(|manifest| manifest.logits_array().is_some()) {
        monitor.warn(
            "the cache's logits are probabilities: extract into another folder (-o), where they \
             are converted",
        );
        return Ok(outputs);
    }
    monitor.note(&format!("logits: {}", Conversion::Probabilities.describe(&found.tensor)));
    let mut all = outputs.all;
    for output in &mut all {
        if let OutputKind::Logits(logits) = &mut output.kind {
            logits.conversion = Some(Conversion::Probabilities);
        }
    }
    Ok(Outputs::new(all))
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
}
